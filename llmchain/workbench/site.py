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
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from llmchain.workbench import apidoc
from llmchain.workbench.outputs import fenced, raw, seen, shown, tidy
from llmchain.workbench.store import read_json
from llmchain.workbench.style import templates

OPTION = re.compile(r"#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*)\n?")  # a directive of nbdev or Quarto
FOLDED = {"imports": "Imports", "exercise": "What is checked"}
FOLDED |= {"injected-parameters": "Values of this run"}
MERMAID = re.compile(r"^```\{?mermaid\}?[^\n]*\n(.*?)^```\s*$", re.M | re.S)
NOTEBOOK = re.compile(r"\]\((?![a-z]+:)([^)\s#]*?)(?:\d+_)?(\w+\.ipynb)")
CHINESE = re.compile(r"[\u3400-\u9fff][\u3000-\u303f\u3400-\u9fff\uff00-\uffef]*")
HASH = re.compile(r"[0-9A-Za-z]{31,}")  # not worth finding
WRAP = '<{0} class="scroll" tabindex="0" role="group" aria-label="{1}">'  # what may be too wide
FORMULA = re.compile(r'<math display="block".*?</math>', re.S)
PANDOC = "--from=markdown-yaml_metadata_block-implicit_figures --to=html5 --mathml".split()
PANDOC += ["--columns=100000", "--email-obfuscation=none"]


def quarto(root: Path) -> dict[str, Any]:
    "What `_quarto.yml` says; FileNotFoundError if this is no checkout of the project."
    import yaml

    path = root / "_quarto.yml"
    if not path.is_file():
        raise FileNotFoundError(f"site: no _quarto.yml in {root}; run it from a checkout")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def sidebar(settings: dict[str, Any]) -> list[tuple[str, str]]:
    "(part, notebook) in reading order; the front page has the part ``."
    found: list[tuple[str, str]] = []
    for entry in settings["website"]["sidebar"]["contents"]:
        listed = entry if isinstance(entry, dict) else {"section": "", "contents": [entry]}
        found += [(str(listed["section"]), path) for path in listed["contents"]]
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

    executed, settings, api = executed or {}, quarto(root), apidoc.pages(root)
    kept = shutil.ignore_patterns("*.ipynb", ".*")
    shutil.copytree(root / "nbs", out, ignore=kept, dirs_exist_ok=True)
    staged = {}
    for _, path in sidebar(settings):
        source = executed.get(Path(path).stem, root / path)
        if source.is_file():
            staged[address(path)] = prepare(source, root / path, api)
    for name, page in api.items():
        body = nbformat.v4.new_markdown_cell(page["body"])
        staged[api_address(name)] = notebook(name, page["summary"], [body])
    for target, nb in staged.items():
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, out / target)
    moved = re.sub(r'"(nbs/.*?)"', lambda path: f'"{address(path[1])}"', json.dumps(settings))
    settings = json.loads(moved)
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
    summaries = (path.parents[1] / "summary.json" for path in executed.values())
    if not (run := read_json(next(summaries, Path("nowhere")))):
        return "Shown from the sources: no run was made for this build."
    return (
        "Outputs of run {run}, profile {profile}, on {device} with {cores} cores. Certificate "
        "{certificate}: `llmchain verify {run}` makes every artifact again."
    ).format_map(run)


def notebook(title: str, description: str, cells: list[Any]) -> Any:
    "A notebook that begins with its front matter."
    import nbformat.v4 as v4
    import yaml

    front = {"title": title, "description": description, "lang": "en"}
    head = f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(cells=[v4.new_raw_cell(head), *cells], metadata={"kernelspec": kernel})


def tags(cell: Any) -> list[str]:
    "The tags of a cell."
    return list(cell.metadata.get("tags", []))


def with_todays_prose(nb: Any, source: Any) -> Any:
    """An executed notebook with the prose of its source: editing prose runs nothing again.

    If the code cells are not the same ones, the executed notebook stays as it is."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    injected = [cell for cell in code if "injected-parameters" in tags(cell)]
    ran = [cell for cell in code if cell not in injected]
    if len(ran) == sum(cell.cell_type == "code" for cell in source.cells):
        cells = [ran.pop(0) if cell.cell_type == "code" else cell for cell in source.cells]
        at = next((i for i, cell in enumerate(cells, 1) if "parameters" in tags(cell)), 0)
        nb.cells = [*cells[:at], *injected, *cells[at:]]
    return nb


def prepare(path: Path, origin: Path, api: dict[str, dict[str, str]]) -> Any:
    "A notebook as Quarto wants it: title on top, no directives of nbdev, links to its API page."
    import nbformat

    nb = nbformat.read(path, 4)
    if origin.is_file() and origin != path:
        nb = with_todays_prose(nb, nbformat.read(origin, 4))
    front, cells, module = ("", ""), [], ""
    for cell in nb.cells:
        source = cell.source.strip()
        if cell.cell_type == "markdown":
            title = re.match(r"# +(.+)\n*(?:> *(.*))?", source)
            if title and not front[0]:
                front = title[1].strip(), (title[2] or "").strip()
                source = source[title.end() :].strip()
            source = NOTEBOOK.sub(r"](\1\2", MERMAID.sub(r"```{mermaid}\n\1```", source))
        if cell.cell_type == "code":
            given, source = directives(source)
            module = given.get("default_exp", module)
            cell.outputs = tidy(cell.outputs)
            source = source and with_options(source, cell)
        if cell.cell_type != "raw" and source and "papermill-error-cell-tag" not in tags(cell):
            cell.source, cell.metadata = source, {}
            cells.append(cell)
    if module in api:
        to = f"../{api_address(module)}"  # chapters lie in the folder of their part
        names = ", ".join(f"[`{name}`]({to}#{name})" for name in api[module]["names"].split())
        text = f"## Exported functions\n\nDescribed in [llmchain.{module}]({to}): {names}."
        cells.append(nbformat.v4.new_markdown_cell(text))
    return notebook(front[0] or path.stem, front[1], cells)


def directives(source: str) -> tuple[dict[str, str], str]:
    "The `#|` lines that a cell begins with, and the rest of it; nothing is left of a hidden cell."
    found = {}
    while line := OPTION.match(source):
        found[line[1]], source = line[2].strip(), source[line.end() :]
    return found, "" if "hide" in found else source.strip()


def with_options(source: str, cell: Any) -> str:
    "The code of a cell after the lines that tell Quarto about it."
    kinds = {*tags(cell), *(["imports"] if only_imports(source) else [])}
    if fold := next((name for tag, name in FOLDED.items() if tag in kinds), ""):
        source = f'#| code-fold: true\n#| code-summary: "{fold}"\n{source}'
    if alts := [alt for _, _, alt in map(seen, cell.outputs) if alt]:
        source = f"#| fig-alt: {json.dumps('; '.join(alts), ensure_ascii=False)}\n{source}"
    return source


def only_imports(source: str) -> bool:
    "True if a cell holds imports and nothing else."
    with suppress(SyntaxError):
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body)
    return False


# ── pages ─────────────────────────────────────────────────────────────────────────────────────


def build(root: Path, out: str | Path = "_site", run: Path | None = None) -> list[str]:
    "Render every staged notebook into `out`; returns the problems, a line each."
    from llmchain.workbench import checks

    site = root / out
    if site.exists() and any(site.iterdir()) and not (site / "search.js").exists():
        raise FileExistsError(f"site: {out} holds something else; it is not overwritten")
    executed = {p.parent.name: p for p in run.glob("*/notebook.ipynb")} if run else {}
    places = [root, run.parent] if run else [root]
    problems = [
        f"_quarto.yml: {path} is in the sidebar but does not exist"
        for _, path in sidebar(quarto(root))
        if not executed.get(Path(path).stem, root / path).is_file()
    ]
    problems += checks.unbound(run) if run else []
    for name in ("README.md", "README.zh.md"):
        problems += checks.readme(root / name, run.parent if run else root / "runs")
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".site-") as temporary:
        fresh = stage(root, executed, Path(temporary) / "site")
        settings = quarto(fresh)
        entries = [e for e in sidebar(settings) if (fresh / e[1]).is_file()]
        with ThreadPoolExecutor(2) as pool:
            pages = list(pool.map(partial(read_page, fresh), *zip(*entries, strict=True)))
        write_pages(pages, settings["website"], fresh)
        for staged in [*fresh.rglob("*.ipynb"), fresh / "_quarto.yml"]:
            staged.unlink()
        for page in pages:
            if any(str(place.resolve()) in page["body"] for place in places):
                page["problems"].append("shows a path of this machine")
            problems += [f"{page['url']}: {problem}" for problem in page["problems"]]
        problems += checks.check_links(fresh)
        shutil.rmtree(site, ignore_errors=True)
        fresh.rename(site)  # only a finished site takes the place of the old one
    return problems


def read_page(site: Path, part: str, at: str) -> dict[str, Any]:
    "A staged notebook as the fields of a page; its pictures go to `<name>_files/` beside it."
    import nbformat
    import pypandoc
    import yaml

    nb, path = nbformat.read(site / at, 4), (site / at).with_suffix("")
    front = yaml.safe_load(nb.cells[0].source.strip("-\n"))  # `stage` wrote it
    text, problems = markdown(nb.cells[1:])
    command = [pypandoc.get_pandoc_path(), *PANDOC]
    done = subprocess.run(command, input=text, capture_output=True, check=True, encoding="utf-8")
    problems += [f"pandoc: {' '.join(w.split())}" for w in done.stderr.split("[WARNING]")[1:]]
    outputs = [cell.outputs for cell in nb.cells if cell.cell_type == "code"]
    body, bare = finish(picture_files(done.stdout, path)), bool(outputs) and not any(outputs)
    place = {"url": at.replace(".ipynb", ".html"), "part": part}
    return {**front, **place, "body": body, "bare": bare, "problems": problems}


def picture_files(html: str, page: Path) -> str:
    "A page whose pictures lie in `<page>_files/` instead of in its text."
    folder = page.with_name(f"{page.name}_files")

    def moved(found: re.Match[str]) -> str:
        data = base64.b64decode(found[2])
        name = f"{zlib.crc32(data):08x}.{found[1]}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
        return f'src="{folder.name}/{name}"'

    return re.sub(r'src="data:image/(\w+);base64,([^"]+)"', moved, html)


def markdown(cells: list[Any]) -> tuple[str, list[str]]:
    "Cells as one text for pandoc, and what is wrong with them."
    text: list[str] = []
    problems: list[str] = []
    for cell in cells:
        if cell.cell_type == "markdown":
            text.append(MERMAID.sub(partial(flowchart, problems), cell.source))
            continue
        given, source = directives(cell.source)
        block = [fenced(source, ".python")]
        if name := given.get("code-summary", "").strip('"'):
            block = [raw(f"<details><summary>{name}</summary>"), *block, raw("</details>")]
        text += [raw('<div class="cell">'), *block, *map(shown, cell.outputs), raw("</div>")]
        problems += [f"a cell failed: {o.ename}" for o in cell.outputs if "ename" in o]
    return "\n\n".join(text), problems


def finish(html: str) -> str:
    "Pandoc's HTML made ours: page links, what is too wide scrolls, Chinese marked as such."
    html = re.sub(r'href="(?![a-z]+:)([^"#]*)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', html)
    html = html.replace("<table", WRAP.format("div", "Table") + "<table")
    html = html.replace("</table>", "</table></div>").replace("<pre", '<pre tabindex="0"')
    html = FORMULA.sub(rf"{WRAP.format('span', 'Formula')}\g<0></span>", html)
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
        return fenced(block[1], ".mermaid")


def write_pages(pages: list[dict[str, Any]], website: dict[str, Any], site: Path) -> None:
    "Every page in its frame, the style, the scripts and what the search reads."
    template, sections = templates().get_template("page.html"), []
    parts = [(part, list(group)) for part, group in groupby(pages, key=lambda p: p["part"])]
    for i, page in enumerate(pages):
        found = read_sections(page)
        sections += found
        around = {"before": pages[i - 1] if i else None, "after": [*pages, None][i + 1]}
        html = template.render(page=page, parts=parts, outline=found[1:], site=website, **around)
        (site / page["url"]).write_text(html, encoding="utf-8")
    for name in ("style.css", "site.js"):
        shutil.copyfile(Path(__file__).parent / "templates" / name, site / name)
    index = json.dumps(sections, ensure_ascii=False, separators=(",", ":"))
    (site / "search.js").write_text(f"window.searchIndex={index};\n", encoding="utf-8")


def read_sections(page: dict[str, Any]) -> list[list[str]]:
    "The sections of a page, for its outline and the search: address, title, heading, text, level."
    from lxml.html import fragment_fromstring

    top = fragment_fromstring(page["body"], create_parent="div")
    for gone in top.xpath(".//svg | .//annotation"):
        gone.drop_tree()
    sections = [[page["url"], page["title"], "", page["description"], "1"]]
    for block in top:
        text = HASH.sub("…", " ".join(block.text_content().split()))
        if block.tag in ("h2", "h3"):
            to = f"{page['url']}#{block.get('id')}"
            sections.append([to, page["title"], text, "", block.tag[1]])
        else:
            sections[-1][3] = f"{sections[-1][3]} {text}".strip()
    return sections


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
    with server, suppress(KeyboardInterrupt):
        print(f"site: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
