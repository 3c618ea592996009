// Menu and search. The index is a plain script, so all of it works from file:// as well.
"use strict";
const menu = document.querySelector(".menu"), fold = document.getElementById("fold");
menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", String(fold.classList.toggle("open")));
});

// English words, and Chinese as overlapping pairs of characters
const terms = text => [...text.toLowerCase().matchAll(/\p{Script=Han}+|[\p{L}\p{N}_]+?(?=\p{Script=Han}|[^\p{L}\p{N}_]|$)/gu)]
  .flatMap(([run]) => /\p{Script=Han}/u.test(run) && run.length > 1
    ? Array.from({ length: run.length - 1 }, (_, i) => run.slice(i, i + 2)) : [run]);

let places;  // term -> Map(section -> weight), made when first needed
const index = () => {
  places = new Map();
  window.searchIndex.forEach((section, i) => {
    const count = (text, weight) => terms(text).forEach(term => {
      if (!places.has(term)) places.set(term, new Map());
      places.get(term).set(i, (places.get(term).get(i) || 0) + weight);
    });
    count(section.t, section.s ? 1 : 12);
    count(section.s, 8);
    count(section.x, 1);
  });
};

const find = query => {
  if (!places) index();
  const wanted = [...new Set(terms(query))], total = window.searchIndex.length;
  let scores = null;
  for (const term of wanted) {
    const here = new Map();
    for (const [known, sections] of places) {
      const exact = known === term;
      if (!exact && !(known.startsWith(term) || (/^\p{Script=Han}$/u.test(term) && known.includes(term)))) continue;
      for (const [i, n] of sections)
        here.set(i, (here.get(i) || 0) + (exact ? 1 : 0.5) * n / (n + 2) * Math.log(1 + total / sections.size) * (n >= 8 ? 2 : 1));
    }
    scores = scores === null ? here
      : new Map([...scores].filter(([i]) => here.has(i)).map(([i, s]) => [i, s + here.get(i)]));
  }
  return [...(scores || [])].sort((a, b) => b[1] - a[1]).map(([i]) => window.searchIndex[i]);
};

const form = document.querySelector(".search"), box = form.querySelector("input");
const list = form.querySelector("ol"), said = form.querySelector("[role=status]");
const marked = (text, query) => {  // text nodes and <mark>, never innerHTML
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const at = Math.max(0, Math.min(...words.map(w => text.toLowerCase().indexOf(w)).filter(i => i >= 0), text.length) - 40);
  const part = (at ? "… " : "") + text.slice(at, at + 110) + (at + 110 < text.length ? " …" : "");
  const small = document.createElement("small");
  let rest = part;
  while (rest) {
    const hits = words.map(w => [rest.toLowerCase().indexOf(w), w.length]).filter(([i]) => i >= 0).sort((a, b) => a[0] - b[0]);
    if (!hits.length) { small.append(rest); break; }
    const [i, n] = hits[0], mark = document.createElement("mark");
    mark.textContent = rest.slice(i, i + n);
    small.append(rest.slice(0, i), mark);
    rest = rest.slice(i + n);
  }
  return small;
};
const search = () => {
  const query = box.value.trim(), found = query ? find(query) : [];
  list.replaceChildren(...found.slice(0, 10).map(section => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = form.dataset.up + section.u;
    link.append(section.s ? `${section.t} › ${section.s}` : section.t, marked(section.x, query));
    item.append(link);
    return item;
  }));
  said.textContent = !query ? "" : !found.length ? "Nothing found" : `${found.length} found`;
};
box.addEventListener("input", search);
form.addEventListener("submit", event => { event.preventDefault(); list.querySelector("a")?.click(); });
form.addEventListener("keydown", event => {
  const links = [box, ...list.querySelectorAll("a")], at = links.indexOf(document.activeElement);
  if (event.key === "Escape") { box.value = ""; search(); box.focus(); }
  else if (event.key === "ArrowDown" && at + 1 < links.length) links[at + 1].focus();
  else if (event.key === "ArrowUp" && at > 0) links[at - 1].focus();
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, textarea")) return;
  event.preventDefault();
  if (menu.offsetParent && !fold.classList.contains("open")) menu.click();
  box.focus();
});
