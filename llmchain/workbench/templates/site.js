// Menu, colours, scrolling by keyboard, and search. Plain scripts: all of it works from file:// too.
"use strict";
const root = document.documentElement;
const menu = document.querySelector(".menu"), fold = document.getElementById("site-menu");
menu.addEventListener("click", () => {
  menu.setAttribute("aria-expanded", String(fold.classList.toggle("open")));
});

const theme = document.querySelector(".theme"), system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
const name = () => theme.setAttribute("aria-pressed", String(dark()));
theme.addEventListener("click", () => {
  root.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* not kept, then */ }
  name();
});
system.addEventListener("change", name);
name();

// only what is too wide or too long is a stop for the keyboard
const fits = new ResizeObserver(entries => entries.forEach(({ target: e }) => {
  if (e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight) e.tabIndex = 0;
  else e.removeAttribute("tabindex");
}));
document.querySelectorAll("pre, .scroll").forEach(e => fits.observe(e));

const nav = document.querySelector(".side nav"), here = nav.querySelector("[aria-current]");
if (here) nav.scrollTop = here.offsetTop - nav.offsetTop - nav.clientHeight / 2;

// what is asked for: words, and runs of Chinese; a word is found where one begins so
const words = query => (query.match(/[\u3400-\u9fff]+|(?:(?![\u3400-\u9fff])[\p{L}\p{N}_])+/gu) || [])
  .map(word => new RegExp((/^\w/.test(word) ? "(?<![a-z0-9])" : "") + word, "giu"));

const form = document.querySelector(".search"), box = form.querySelector("input");
const hits = form.querySelector(".hits"), list = form.querySelector("ol"), said = form.querySelector("[role=status]");
let loading;
const load = () => loading ||= new Promise((resolve, reject) => {
  const script = document.createElement("script");
  Object.assign(script, { src: form.dataset.up + "search.js", onload: resolve, onerror: reject });
  document.head.append(script);
});

const find = query => {  // sections that hold every word, the heaviest first; a rare word weighs more
  let scores = window.searchIndex.map(section => [section, 0]);
  for (const word of words(query)) {
    const count = text => (text.match(word) || []).length;
    const counts = scores.map(([section, score]) => {
      const [, title, heading, text] = section;
      return [section, score, count(text) + 8 * count(heading) + (heading ? 1 : 12) * count(title)];
    }).filter(([, , n]) => n);
    const rare = Math.log(1 + 2 * window.searchIndex.length / counts.length);
    scores = counts.map(([section, score, n]) => [section, score + rare * n / (n + 2) * (n >= 8 ? 2 : 1)]);
  }
  return words(query).length ? scores.sort((a, b) => b[1] - a[1]).map(([section]) => section) : [];
};

const pattern = query => new RegExp(words(query).map(word => word.source).join("|") || "$^", "giu");
const painted = (text, wanted) => {  // text nodes and <mark>, never innerHTML
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(wanted)) {
    const mark = document.createElement("mark");
    mark.textContent = match[0];
    parts.push(text.slice(at, match.index), mark);
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)];
};
const excerpt = (text, wanted) => {
  const first = Math.max(0, text.search(wanted)), small = document.createElement("small");
  const start = first > 50 ? Math.min(first, text.indexOf(" ", first - 50) + 1 || first - 20) : 0;
  const end = start + 160;
  small.append(start ? "… " : "", ...painted(text.slice(start, end), wanted), end < text.length ? " …" : "");
  return small;
};

const search = async () => {
  const query = box.value.trim();
  if (query) await load().catch(() => { said.textContent = "The index could not be loaded"; });
  if (query !== box.value.trim() || (query && !window.searchIndex)) return;
  const found = query ? find(query) : [], wanted = pattern(query);
  list.replaceChildren(...found.slice(0, 12).map(([url, title, heading, text]) => {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = form.dataset.up + url;
    link.append(...painted(heading ? `${title} › ${heading}` : title, wanted), excerpt(text, wanted));
    item.append(link);
    return item;
  }));
  hits.hidden = !query;
  said.textContent = !query ? "" : !found.length ? "Nothing found" : `${found.length} found`;
};
box.addEventListener("input", search);
box.addEventListener("focus", () => { load().catch(() => {}); if (box.value) search(); });
form.addEventListener("submit", event => { event.preventDefault(); list.querySelector("a")?.click(); });
form.addEventListener("keydown", event => {
  const links = [box, ...list.querySelectorAll("a")], at = links.indexOf(document.activeElement);
  if (event.key === "Escape") { box.value = ""; search(); box.focus(); }
  else if (event.key === "ArrowDown" && at + 1 < links.length) links[at + 1].focus();
  else if (event.key === "ArrowUp" && at > 0) links[at - 1].focus();
  else return;
  event.preventDefault();
});
for (const kind of ["pointerdown", "focusin"])
  document.addEventListener(kind, event => { if (!form.contains(event.target)) hits.hidden = true; });
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target.matches("input, textarea")) return;
  event.preventDefault();
  if (menu.offsetParent && !fold.classList.contains("open")) menu.click();
  box.focus();
});
