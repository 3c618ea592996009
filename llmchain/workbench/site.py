"""The built-in preview of the site: the staged notebooks as pages, without Quarto.

`stage` makes the notebooks that both Quarto and this preview render: the chapters, and an API page
for each module. nbdev's own processing is left out on purpose: to print signatures it runs every
exported cell, with torch and the optional extras of each chapter. They are read from the source.
"""

import ast
import base64
import json
import posixpath
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from llmchain.workbench import apidoc
from llmchain.workbench.outputs import shown, tidy
from llmchain.workbench.store import read_json
from llmchain.workbench.style import templates

OPTION = re.compile(r"#\|\s*([\w-]+)\s*:?\s*(.*)")  # a directive of nbdev or Quarto
QUARTO = set(  # the directives that are Quarto's, not nbdev's
    "echo output include warning error label eval fig-alt fig-cap tbl-cap code-fold code-summary"
    " layout-ncol".split()
)
FOLDED = {
    "imports": "Imports",
    "exercise": "What is checked",
    "injected-parameters": "Values of this run",
}
MERMAID = re.compile(r"^```\{?mermaid\}?[^\n]*\n(.*?)^```\s*$", re.M | re.S)
NOTEBOOK = re.compile(r"\]\((?![a-z]+:)([^)\s#]*?)(?:\d+_)?(\w+\.ipynb)")
CHINESE = re.compile(r"[\u3400-\u9fff][\u3000-\u303f\u3400-\u9fff\uff00-\uffef]*")
WORD = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")  # as `words` in site.js has it
WRAP = '<{0} class="scroll" tabindex="0" role="group" aria-label="{1}">'  # what may be too wide
FORMULA = re.compile(r'<math display="block".*?</math>', re.S)
# TeX sets a thin space between a function's name and what stands beside it; pandoc leaves it out
AFTER = re.compile(r"<mo>&#8289;</mo></mrow>(?=<m(?:i|n|sub|sup|frac|sqrt|over)\b)")
BEFORE = re.compile(
    r'</(?:mi|mn|msub|msup|msubsup|mfrac)>(?=<mrow><mi mathvariant="normal">\w+</mi><mo>&#8289;)'
)
THIN = '<mspace width="0.17em"/>'
LONGEST = 30  # letters of a word worth finding; what is longer is a hash


def quarto(root: Path) -> dict[str, Any]:
    "What `_quarto.yml` says; FileNotFoundError if this is no checkout of the project."
    import yaml

    path = Path(root) / "_quarto.yml"
    if not path.is_file():
        raise FileNotFoundError(f"site: no _quarto.yml in {root}; run it from a checkout")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def sidebar(settings: dict[str, Any]) -> list[tuple[str, str]]:
    "(part, notebook) in reading order; the front page has the part ``."
    found = []
    for entry in settings["website"]["sidebar"]["contents"]:
        part = entry["section"] if isinstance(entry, dict) and "section" in entry else ""
        inner = entry["contents"] if part else [entry]
        found += [(part, each["href"] if isinstance(each, dict) else each) for each in inner]
    return found


def address(path: str) -> str:
    "Where a notebook lies in the site: nbs/01_data/03_deduplicate.ipynb -> 01_data/deduplicate.ipynb."
    folder, name = posixpath.split(path.removeprefix("nbs/"))
    return posixpath.join(folder, re.sub(r"^\d+_", "", name))


# ── staging ───────────────────────────────────────────────────────────────────────────────────


def stage(root: Path, executed: dict[str, Path] | None, out: Path) -> Path:
    "Write into `out` what `quarto render` turns into the site: notebooks, settings, pictures."
    import nbformat
    import yaml

    root, executed, settings = Path(root), executed or {}, quarto(root)
    api, staged = apidoc.pages(root), {}
    for _, path in sidebar(settings):
        source = executed.get(Path(path).stem, root / path)
        if source.is_file():
            staged[address(path)] = prepare(source, root / path, api)
    for name, page in api.items():
        head = {"title": name, "description": page["summary"], "lang": "en"}
        staged[api_address(name)] = notebook(head, [nbformat.v4.new_markdown_cell(page["body"])])
    for target, nb in staged.items():
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, out / target)
    copy_pictures(root / "nbs", out)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(v) for key, v in value.items()}
        if isinstance(value, list):
            return [moved(v) for v in value]
        return address(value) if isinstance(value, str) and value.startswith("nbs/") else value

    settings = moved(settings)
    settings["website"]["page-footer"] = {"left": certificate(executed)}
    if api:
        settings["project"]["render"].append("api/*/*.ipynb")
        section = {"section": "API", "contents": [api_address(name) for name in api]}
        settings["website"]["sidebar"]["contents"].append(section)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (out / "_quarto.yml").write_text(text, encoding="utf-8")
    return out


def api_address(module: str) -> str:
    "Where the API page of a module lies: data.dedup -> api/data/dedup.ipynb."
    return f"api/{module.replace('.', '/')}.ipynb"


def certificate(executed: dict[str, Path]) -> str:
    "What the footer says of the run that the outputs come from."
    folder = next((path.parents[1] for path in executed.values()), Path("nowhere"))
    run = read_json(folder / "summary.json")
    if not run:
        return "Shown from the sources: no run was made for this build."
    device = f"{run.get('device')} with {run.get('cores')} cores"
    return (
        f"Outputs of run {run['run']}, profile {run.get('profile')}, on {device}. Certificate "
        f"{run.get('certificate')}: `llmchain verify {run['run']}` makes every artifact again."
    )


def notebook(front: dict[str, Any], cells: list[Any]) -> Any:
    "A notebook that begins with its front matter."
    import nbformat.v4 as v4
    import yaml

    head = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=[v4.new_raw_cell(head), *cells], metadata={"kernelspec": kernel})


def with_todays_prose(nb: Any, source: Any) -> Any:
    """An executed notebook with the prose of its source: editing prose runs nothing again.

    If the code cells are not the same ones, the executed notebook stays as it is."""
    ran = [c for c in nb.cells if c.cell_type == "code"]
    injected = [c for c in ran if "injected-parameters" in c.metadata.get("tags", [])]
    ran = [c for c in ran if not any(c is i for i in injected)]
    if len(ran) != sum(c.cell_type == "code" for c in source.cells):
        return nb
    cells, queue = [], iter(ran)
    for cell in source.cells:
        cells.append(next(queue) if cell.cell_type == "code" else cell)
        if "parameters" in cell.metadata.get("tags", []):
            cells += injected
    nb.cells = cells
    return nb


def prepare(path: Path, origin: Path, api: dict[str, dict[str, str]]) -> Any:
    "A notebook as Quarto wants it: title on top, no directives of nbdev, links to its API page."
    import nbformat

    nb = nbformat.read(path, 4)
    if origin.is_file() and origin != path:
        nb = with_todays_prose(nb, nbformat.read(origin, 4))
    front, cells, module = {"title": path.stem}, [], ""
    for cell in nb.cells:
        source, tags = cell.source.strip(), cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            title = re.match(r"# +(.+)\n*(?:> *(.*))?", source)
            if title and "description" not in front:
                front |= {"title": title[1].strip(), "description": (title[2] or "").strip()}
                source = source[title.end() :].strip()
            source = NOTEBOOK.sub(r"](\1\2", MERMAID.sub(r"```{mermaid}\n\1```", source))
        if cell.cell_type == "code":
            given, source = directives(source)
            module = given.get("default_exp", module)
            if "hide" in given or not source:
                continue
            cell.outputs = tidy(cell.outputs)
            source = "".join(f"#| {k}: {v}\n" for k, v in options(given, cell).items()) + source
        if cell.cell_type != "raw" and source and "papermill-error-cell-tag" not in tags:
            cell.source, cell.metadata = source, {}
            cells.append(cell)
    if module in api:
        to = f"../{api_address(module)}"  # chapters lie in the folder of their part
        names = ", ".join(f"[`{name}`]({to}#{name})" for name in api[module]["names"].split())
        text = f"## Exported functions\n\nDescribed in [llmchain.{module}]({to}): {names}."
        cells.append(nbformat.v4.new_markdown_cell(text))
    return notebook(front | {"lang": "en"}, cells)


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines that a cell begins with, and the rest of it."
    lines = source.split("\n")
    n = next((i for i, line in enumerate(lines) if not OPTION.match(line)), len(lines))
    found = {m[1]: m[2].strip() for m in map(OPTION.match, lines[:n]) if m}
    rest = "\n".join(lines[n:])
    return found, re.sub(r"^.*#\|\s*hide_line *$\n?", "", rest, flags=re.M).strip()


def options(given: dict[str, str], cell: Any) -> dict[str, str]:
    "What Quarto is told about a code cell."
    found = {k: v or "true" for k, v in given.items() if k in QUARTO}
    tags = cell.metadata.get("tags", [])
    if only_imports(cell.source):
        tags = [*tags, "imports"]
    for tag in tags:
        if tag in FOLDED:
            found |= {"code-fold": "true", "code-summary": f'"{FOLDED[tag]}"'}
    if alts := [alt for _, _, alt in shown(cell.outputs) if alt]:
        found.setdefault("fig-alt", json.dumps("; ".join(alts), ensure_ascii=False))
    return found


def only_imports(source: str) -> bool:
    "True if a cell holds imports and nothing else."
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def copy_pictures(source: Path, target: Path) -> None:
    "Copy what notebooks show or Quarto reads beside them."
    for file in source.rglob("*"):
        if file.suffix in {".png", ".jpg", ".svg", ".scss", ".css"}:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────


def build(root: Path, out: str | Path = "_site", run: Path | None = None) -> list[str]:
    "Render every staged notebook into `out`; returns the problems, a line each."
    from llmchain.workbench import checks

    root, site = Path(root), Path(root) / out
    if site.exists() and any(site.iterdir()) and not (site / "search.js").exists():
        raise FileExistsError(f"site: {out} holds something else; it is not overwritten")
    executed = {p.parent.name: p for p in Path(run).glob("*/notebook.ipynb")} if run else {}
    problems = [
        f"_quarto.yml: {path} is in the sidebar but does not exist"
        for _, path in sidebar(quarto(root))
        if not executed.get(Path(path).stem, root / path).is_file()
    ]
    problems += checks.unbound(Path(run)) if run else []
    for name in ("README.md", "README.zh.md"):
        problems += checks.readme(root / name, Path(run).parent if run else root / "runs")
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".site-") as temporary:
        staging, fresh = Path(temporary) / "staging", Path(temporary) / "site"
        settings = quarto(stage(root, executed, staging))
        copy_pictures(staging, fresh)
        entries = [e for e in sidebar(settings) if (staging / e[1]).is_file()]
        with ThreadPoolExecutor(2) as pool:
            pages = list(pool.map(partial(read_page, staging, fresh), *zip(*entries, strict=True)))
        write_pages(pages, settings["website"], fresh)
        for page in pages:
            if str(root.resolve()) in page["body"]:
                page["problems"].append("shows a path of this machine")
            problems += [f"{page['url']}: {problem}" for problem in page["problems"]]
        problems += checks.check_links(fresh)
        shutil.rmtree(site, ignore_errors=True)
        fresh.rename(site)  # only a finished site takes the place of the old one
    return problems


def read_page(staging: Path, site: Path, part: str, at: str) -> dict[str, Any]:
    "A staged notebook as the fields of a page."
    import nbformat
    import yaml

    nb, at = nbformat.read(staging / at, 4), at.removesuffix(".ipynb")
    front = yaml.safe_load(nb.cells[0].source.strip("-\n"))  # `stage` wrote it
    body, problems = render(nb, site / at)
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    bare = bool(cells) and not any(cell.outputs for cell in cells)
    page = {**front, "url": f"{at}.html", "part": part, "body": body, "bare": bare}
    return {**page, "problems": problems}


def render(nb: Any, base: Path) -> tuple[str, list[str]]:
    "The body of a page, its pictures written to `<base>_files/`, and what is wrong with it."
    text: list[str] = []
    problems: list[str] = []
    pictures = 0
    for cell in nb.cells[1:]:
        if cell.cell_type == "markdown":
            text.append(MERMAID.sub(partial(flowchart, problems), cell.source))
            continue
        given, source = directives(cell.source)
        given = {key: value.strip("\"'") for key, value in given.items()}
        if given.get("include") == "false":
            continue
        text.append(raw('<div class="cell">'))
        if given.get("echo") != "false" and source:
            block = fenced(source, "python")
            if given.get("code-fold") == "true":
                head = f"<details><summary>{escape(given.get('code-summary', 'Code'))}</summary>"
                block = raw(head) + block + raw("</details>")
            text.append(block)
        outputs = cell.outputs if given.get("output") != "false" else []
        problems += [f"a cell failed: {o.ename}" for o in outputs if o.output_type == "error"]
        for kind, data, alt in shown(outputs):
            if kind.startswith("image/"):
                pictures += 1
                folder = base.with_name(base.name + "_files")
                file = folder / f"figure-{pictures}.{'svg' if 'svg' in kind else kind[6:]}"
                folder.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data.encode() if "svg" in kind else base64.b64decode(data))
                alt = alt or given.get("fig-alt", "")
                if not alt:
                    problems.append(f"picture {pictures} has no alternative text (fig-alt)")
                data = f'<img src="{folder.name}/{file.name}" alt="{escape(alt)}" loading="lazy">'
            markdown = kind in ("text/markdown", "text/latex")
            text.append(data if markdown else raw(f'<div class="out">{data}</div>'))
        text.append(raw("</div>"))
    html, warnings = pandoc("\n\n".join(text))
    return finish(html), problems + warnings


def pandoc(markdown: str) -> tuple[str, list[str]]:
    "Markdown as HTML with formulas in MathML, and pandoc's warnings."
    import pypandoc

    command = [pypandoc.get_pandoc_path(), "--from=markdown-yaml_metadata_block", "--to=html5"]
    command += ["--mathml", "--columns=100000", "--email-obfuscation=none"]
    done = subprocess.run(command, input=markdown.encode(), capture_output=True, timeout=300)
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        raise RuntimeError(f"site: pandoc failed: {said.strip()}")
    return done.stdout.decode(), [
        f"pandoc: {' '.join(w.split())}" for w in said.split("[WARNING]")[1:]
    ]


def finish(html: str) -> str:
    "Pandoc's HTML made ours: page links, what is too wide scrolls, Chinese marked as such."
    html = re.sub(r'href="(?![a-z]+:)([^"#]*)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', html)
    html = html.replace("<table", WRAP.format("div", "Table") + "<table")
    html = html.replace("</table>", "</table></div>").replace("<pre", '<pre tabindex="0"')
    html = FORMULA.sub(rf"{WRAP.format('span', 'Formula')}\g<0></span>", html)
    html = BEFORE.sub(r"\g<0>" + THIN, AFTER.sub(r"\g<0>" + THIN, html))
    pieces = re.split(r"(<svg.*?</svg>|<math.*?</math>|<[^>]*>)", html, flags=re.S)
    pieces[::2] = [CHINESE.sub(r'<span lang="zh">\g<0></span>', piece) for piece in pieces[::2]]
    return "".join(pieces)


def flowchart(problems: list[str], block: re.Match[str]) -> str:
    "A Mermaid block as SVG, or as code with a problem if it cannot be drawn."
    from llmchain.workbench.diagram import mermaid_svg

    try:
        return raw(f"{WRAP.format('div', 'Diagram')}{mermaid_svg(block[1])}</div>")
    except ValueError as error:
        problems.append(str(error))
        return fenced(block[1], "")


def fenced(text: str, language: str) -> str:
    "A block that ends where we say, whatever backticks the text holds."
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"\n\n{fence}{language}\n{text}\n{fence}\n\n"


def raw(html: str) -> str:
    "HTML that pandoc passes on untouched."
    return fenced(html, "{=html}")


def write_pages(pages: list[dict[str, Any]], website: dict[str, Any], site: Path) -> None:
    "Every page in its frame, the style, the scripts and the index of the search."
    from markupsafe import Markup

    template, sections = templates().get_template("page.html"), []
    parts = [(part, list(group)) for part, group in groupby(pages, key=lambda p: p["part"])]
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        outline, found = read_body(page)
        sections += found
        html = template.render(
            page={**page, "body": Markup(page["body"])},
            parts=parts, outline=outline, before=before, after=after,
            up="../" * page["url"].count("/"), site=website, footer=website["page-footer"]["left"],
        )  # fmt: skip
        (site / page["url"]).parent.mkdir(parents=True, exist_ok=True)
        (site / page["url"]).write_text(html, encoding="utf-8")
    for name in ("style.css", "site.js"):
        shutil.copyfile(Path(__file__).parent / "templates" / name, site / name)
    (site / "search.js").write_text(search_index(sections), encoding="utf-8")


def read_body(page: dict[str, Any]) -> tuple[list[dict[str, Any]], list[list[str]]]:
    "The outline of a page, and for the search its sections: address, title, heading, text."
    from lxml.html import fragment_fromstring

    top = fragment_fromstring(page["body"], create_parent="div")
    for gone in top.xpath(".//svg | .//annotation"):
        gone.drop_tree()
    outline: list[dict[str, Any]] = []
    sections = [[page["url"], page["title"], "", page.get("description", "")]]
    for block in top:
        text = " ".join(block.text_content().split())
        if block.tag in ("h2", "h3"):
            outline.append({"level": int(block.tag[1]), "id": block.get("id", ""), "text": text})
            sections.append([f"{page['url']}#{outline[-1]['id']}", page["title"], text, ""])
        else:
            sections[-1][3] = f"{sections[-1][3]} {text}".strip()
    return outline, sections


# ── search ────────────────────────────────────────────────────────────────────────────────────


def words(text: str) -> list[str]:
    "Words in small letters, identifiers also by their parts, Chinese as overlapping pairs."
    found: list[str] = []
    for run in WORD.findall(text.lower()):
        if CHINESE.match(run):
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
        elif len(run) <= LONGEST:
            found += [run, *(part for part in run.split("_") if part != run and part)]
    return found


def search_index(sections: list[list[str]]) -> str:
    "The script that search reads: sections, and for each word where it stands and its weight there."
    places: dict[str, list[int]] = {}
    for i, (_, title, heading, text) in enumerate(sections):
        weights = Counter(words(text))
        for word in words(heading):
            weights[word] += 8
        for word in words(title):
            weights[word] += 1 if heading else 12
        for word, weight in weights.items():
            places.setdefault(word, []).extend((i, weight))
    index = {"sections": sections, "words": dict(sorted(places.items()))}
    return f"window.searchIndex={json.dumps(index, ensure_ascii=False, separators=(',', ':'))};\n"


def serve(folder: Path, port: int = 8000) -> None:
    "Serve a built site on this machine only, until Ctrl-C."
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (Path(folder) / "index.html").is_file():
        raise FileNotFoundError(f"site: no index.html in {folder}; run: llmchain site build")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise OSError(f"site: port {port} is taken ({error.strerror}); choose another") from None
    with server:
        print(f"site: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("site: stopped")
