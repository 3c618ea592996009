"""The built-in preview of the site: the staged notebooks as pages, without Quarto.

`stage` makes the notebooks that both Quarto and this preview render. Of nbdev's processing it
takes the processors that only read and write cells. The others are left out on purpose: they run
every exported cell (13 chapters with torch, and the optional extras of each, to print
signatures), link names to addresses that this project does not have, and drop the imports. What
they would add, the section on the exported functions, is read from the cells here.
"""

import ast
import base64
import json
import posixpath
import re
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llmchain.workbench import apidoc
from llmchain.workbench.outputs import shown, tidy

OPTION = re.compile(r"#\|\s*([\w-]+)\s*:?\s*(.*)")  # a directive of nbdev or Quarto
QUARTO = set(
    "echo output include warning error label eval fig-alt fig-cap tbl-cap code-fold".split()
)
QUARTO |= {"code-summary", "layout-ncol"}  # the directives that are Quarto's, not nbdev's
MERMAID = re.compile(r"^```\{?mermaid\}?[^\n]*\n(.*?)^```\s*$", re.M | re.S)
NOTEBOOK = re.compile(r"\]\((?![a-z]+:)([^)\s#]*?)(?:\d+_)?(\w+\.ipynb)")
CHINESE = re.compile(r"[\u3400-\u9fff][\u3000-\u303f\u3400-\u9fff\uff00-\uffef]*")


def templates() -> Any:
    "The Jinja environment of site and reports; it escapes everything, the style is `css`."
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    found = Environment(
        loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    found.globals["css"] = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return found


def quarto(root: Path) -> dict[str, Any]:
    "What `_quarto.yml` says; FileNotFoundError if this is no checkout of the project."
    import yaml

    path = Path(root) / "_quarto.yml"
    if not path.is_file():
        raise FileNotFoundError(f"site: no _quarto.yml in {root}; run it from a checkout")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def sidebar(settings: dict[str, Any]) -> list[tuple[str, list[str]]]:
    "(part, its notebooks) in reading order; the front page has the part ``."
    parts: list[tuple[str, list[str]]] = []
    for entry in settings["website"]["sidebar"]["contents"]:
        if isinstance(entry, dict) and "section" in entry:
            inner = [e["href"] if isinstance(e, dict) else e for e in entry["contents"]]
            parts.append((entry["section"], inner))
        else:
            parts.append(("", [entry["href"] if isinstance(entry, dict) else entry]))
    return parts


def address(path: str) -> str:
    "Where a notebook lies in the site: nbs/01_data/03_deduplicate.ipynb -> 01_data/deduplicate.ipynb."
    folder, name = posixpath.split(path.removeprefix("nbs/"))
    return posixpath.join(folder, re.sub(r"^\d+_", "", name))


# ── staging ───────────────────────────────────────────────────────────────────────────────────


def stage(root: Path, executed: dict[str, Path] | None, out: Path) -> Path:
    "Write into `out` what `quarto render` turns into the site: notebooks, settings, pictures."
    import yaml
    from fastcore.nbio import write_nb

    settings, executed = quarto(root), executed or {}
    for part in sidebar(settings):
        for path in part[1]:
            source = executed.get(Path(path).stem, Path(root) / path)
            if source.is_file():
                target = out / address(path)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_nb(prepare(source, Path(root) / path), target)
    copy_pictures(Path(root) / "nbs", out)

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(v) for key, v in value.items()}
        if isinstance(value, list):
            return [moved(v) for v in value]
        return address(value) if isinstance(value, str) and value.startswith("nbs/") else value

    text = yaml.safe_dump(moved(settings), sort_keys=False, allow_unicode=True)
    (out / "_quarto.yml").write_text(text, encoding="utf-8")
    return out


def with_todays_prose(nb: Any, source: Any) -> Any:
    """An executed notebook with the prose of its source: editing prose runs nothing again.

    If the code cells are not the same ones, the executed notebook stays as it is."""
    ran = [c for c in nb.cells if c.cell_type == "code"]
    injected = [c for c in ran if "injected-parameters" in (c.metadata.get("tags") or [])]
    ran = [c for c in ran if not any(c is i for i in injected)]
    if len(ran) != sum(c.cell_type == "code" for c in source.cells):
        return nb
    cells, queue = [], iter(ran)
    for cell in source.cells:
        cells.append(next(queue) if cell.cell_type == "code" else cell)
        if "parameters" in (cell.metadata.get("tags") or []):
            cells += injected
    nb.cells = cells
    for number, cell in enumerate(cells):
        cell["idx_"] = number
    return nb


def prepare(path: Path, origin: Path | None = None) -> Any:
    "A notebook as Quarto wants it: title on top, no directives of nbdev, no metadata, an API section."
    import nbdev.processors as processors
    import yaml
    from fastcore.nbio import mk_cell, read_nb
    from nbdev.process import NBProcessor

    pure = ["populate_language", "hide_line", "filter_stream_", "rm_header_dash"]
    nb = read_nb(path)
    if origin is not None and origin.is_file() and origin != path:
        nb = with_todays_prose(nb, read_nb(origin))
    tags = {cell.id: cell.metadata.get("tags") or [] for cell in nb.cells}
    steps = [getattr(processors, name) for name in [*pure, "hide_"]]
    processed = NBProcessor(nb=nb, procs=steps)
    exported = [c.source for c in nb.cells if {"export", "exports"} & set(c.directives_)]
    module = next(
        (c.directives_["default_exp"] for c in nb.cells if "default_exp" in c.directives_), ""
    )
    processed.process()
    front: dict[str, Any] = {"title": Path(path).stem}
    cells = []
    for cell in nb.cells:
        source = cell.source.strip()
        if cell.cell_type == "markdown":
            if "description" not in front and (
                title := re.match(r"# +(.+)\n*(?:> *(.*))?", source)
            ):
                front = {"title": title[1].strip(), "description": (title[2] or "").strip()}
                source = source[title.end() :].strip()
            source = NOTEBOOK.sub(r"](\1\2", MERMAID.sub(r"```{mermaid}\n\1```", source))
        marked = "papermill-error-cell-tag" in tags.get(cell.id, [])
        if cell.cell_type == "raw" or not source or marked:
            continue
        if cell.cell_type == "code":
            options = {k: v or "true" for k, v in cell.directives_.items() if k in QUARTO}
            if only_imports(source):
                options |= {"code-fold": "true", "code-summary": '"Imports"'}
            elif "exercise" in tags.get(cell.id, []):
                options |= {"code-fold": "true", "code-summary": '"What is checked"'}
            found = (m.get("alt") for o in cell.outputs for m in o.get("metadata", {}).values())
            if alt := next(filter(None, found), ""):
                options.setdefault("fig-alt", json.dumps(alt, ensure_ascii=False))
            source = "".join(f"#| {k}: {v}\n" for k, v in options.items()) + source
            cell.outputs = tidy(cell.outputs)
        cell.source, cell.metadata = source, {}
        cells.append(cell)
    if api := apidoc.section(exported, module):
        cells.append(mk_cell(api, "markdown"))
    front["lang"] = "en"
    cells.insert(
        0, mk_cell(f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---", "raw")
    )
    nb.cells = cells
    nb.metadata = {
        "kernelspec": nb.metadata.get(
            "kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"}
        )
    }
    return nb


def only_imports(source: str) -> bool:
    "True if a cell holds imports and nothing else."
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────


def build(root: Path, out: str | Path = "_site", run: Path | None = None) -> list[str]:
    "Render every notebook of the sidebar into `out`; returns the problems, a line each."
    root, site = Path(root), Path(root) / out
    if site.exists() and any(site.iterdir()) and not (site / "search.js").exists():
        raise FileExistsError(f"site: {out} holds something else; it is not overwritten")
    settings = quarto(root)
    executed = {p.parent.name: p for p in Path(run).glob("*/notebook.ipynb")} if run else {}
    site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".site-") as temporary:
        staging = stage(root, executed, Path(temporary) / "staging")
        fresh = Path(temporary) / "site"
        copy_pictures(staging, fresh)
        pages, problems = [], []
        for part, paths in sidebar(settings):
            for path in paths:
                if (staging / address(path)).is_file():
                    page = read_page(staging / address(path), fresh, address(path))
                    ran = f"run {Path(run).name}" if run and Path(path).stem in executed else ""
                    pages.append({**page, "part": part, "origin": ran})
                    problems += [f"{page['url']}: {problem}" for problem in page["problems"]]
                else:
                    problems.append(f"_quarto.yml: {path} is in the sidebar but does not exist")
        write_pages(pages, settings["website"], fresh)
        problems += check_links(fresh)
        here = str(root.resolve())
        problems += [
            f"{p['url']}: shows a path of this machine" for p in pages if here in p["body"]
        ]
        shutil.rmtree(site, ignore_errors=True)
        fresh.rename(site)  # only a finished site takes the place of the old one
    return problems


def copy_pictures(source: Path, target: Path) -> None:
    "Copy what notebooks show or Quarto reads beside them."
    for file in source.rglob("*"):
        if file.suffix in {".png", ".jpg", ".svg", ".scss", ".css"}:
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def read_page(path: Path, site: Path, at: str) -> dict[str, Any]:
    "A staged notebook as the fields of a page."
    import yaml
    from fastcore.nbio import read_nb

    nb, at = read_nb(path), at.removesuffix(".ipynb")
    front = yaml.safe_load(nb.cells[0].source.strip("-\n"))  # `prepare` wrote it
    body, problems = render(nb, site / at)
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    bare = bool(cells) and not any(cell.outputs for cell in cells)
    return {**front, "url": f"{at}.html", "body": body, "problems": problems, "bare": bare}


def write_pages(pages: list[dict[str, Any]], website: dict[str, Any], site: Path) -> None:
    "Every page in its frame, the style, the scripts and the index of the search."
    from itertools import groupby

    from markupsafe import Markup

    template, index = templates().get_template("page.html"), []
    parts = [(part, list(group)) for part, group in groupby(pages, key=lambda p: p["part"])]
    for i, page in enumerate(pages):
        outline, sections = read_body(page)
        index += sections
        html = template.render(
            page={**page, "body": Markup(page["body"])},
            parts=parts,
            outline=outline,
            before=pages[i - 1] if i else None,
            after=pages[i + 1] if i + 1 < len(pages) else None,
            up="../" * page["url"].count("/"),
            site=website,
        )
        (site / page["url"]).parent.mkdir(parents=True, exist_ok=True)
        (site / page["url"]).write_text(html, encoding="utf-8")
    for name in ("style.css", "site.js"):
        shutil.copyfile(Path(__file__).parent / "templates" / name, site / name)
    data = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (site / "search.js").write_text(f"window.searchIndex={data};\n", encoding="utf-8")


def render(nb: Any, base: Path) -> tuple[str, list[str]]:
    "The body of a page, its pictures written to `<base>_files/`, and what is wrong with it."
    import pypandoc

    text: list[str] = []
    problems: list[str] = []
    pictures = 0
    for cell in nb.cells[1:]:
        if cell.cell_type == "markdown":
            text.append(MERMAID.sub(lambda m: flowchart(m[1], problems), cell.source))
            continue
        lines = cell.source.split("\n")
        n_options = next((i for i, x in enumerate(lines) if not OPTION.match(x)), len(lines))
        found = (OPTION.match(line) for line in lines[:n_options])
        options = {m[1]: m[2].strip().strip("\"'") for m in found if m}
        if options.get("include") == "false":
            continue
        text.append(raw('<div class="cell">'))
        if options.get("echo") != "false" and (source := "\n".join(lines[n_options:]).strip()):
            block = fenced(source, "python")
            if options.get("code-fold") == "true":
                head = f"<details><summary>{escape(options.get('code-summary', 'Code'))}</summary>"
                block = raw(head) + block + raw("</details>")
            text.append(block)
        for output in cell.get("outputs", []) if options.get("output") != "false" else []:
            if output.output_type == "error":
                problems.append(f"a cell failed: {output.ename}")
            for kind, data in shown(output):
                if kind.startswith("image/"):
                    pictures += 1
                    name = f"figure-{pictures}.{'svg' if 'svg' in kind else kind[6:]}"
                    folder = base.with_name(base.name + "_files")
                    folder.mkdir(parents=True, exist_ok=True)
                    binary = data.encode() if "svg" in kind else base64.b64decode(data)
                    (folder / name).write_bytes(binary)
                    alt = escape(options.get("fig-alt", ""), quote=True)
                    if not alt:
                        problems.append(f"picture {pictures} has no alternative text (fig-alt)")
                    data = f'<img src="{folder.name}/{name}" alt="{alt}" loading="lazy">'
                    kind = "html"
                text.append(data if kind == "markdown" else raw(f'<div class="out">{data}</div>'))
        text.append(raw("</div>"))
    command = [pypandoc.get_pandoc_path(), "--from=markdown-yaml_metadata_block", "--to=html5"]
    command += ["--mathml", "--columns=100000", "--email-obfuscation=none"]
    done = subprocess.run(
        command, input="\n\n".join(text).encode(), capture_output=True, timeout=300
    )
    if done.returncode:
        raise RuntimeError(f"site: pandoc failed: {done.stderr.decode(errors='replace').strip()}")
    problems += [
        f"pandoc: {' '.join(w.split())}" for w in done.stderr.decode().split("[WARNING]")[1:]
    ]
    return finish(done.stdout.decode()), problems


def finish(html: str) -> str:
    "Pandoc's HTML made ours: page links, scrollable tables and code, Chinese marked as such."
    html = re.sub(r'href="(?![a-z]+:)([^"#]*)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', html)
    html = html.replace(
        "<table", '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table'
    )
    html = html.replace("</table>", "</table></div>").replace("<pre", '<pre tabindex="0"')
    pieces = re.split(r"(<svg.*?</svg>|<math.*?</math>|<[^>]*>)", html, flags=re.S)
    pieces[::2] = [CHINESE.sub(r'<span lang="zh">\g<0></span>', piece) for piece in pieces[::2]]
    return "".join(pieces)


def flowchart(source: str, problems: list[str]) -> str:
    "A Mermaid block as SVG, or as code with a problem if it cannot be drawn."
    from llmchain.workbench.diagram import mermaid_svg

    try:
        return raw(
            f'<div class="scroll" tabindex="0" role="region" aria-label="Diagram">{mermaid_svg(source)}</div>'
        )
    except ValueError as error:
        problems.append(str(error))
        return fenced(source, "")


def fenced(text: str, language: str) -> str:
    "A block that ends where we say, whatever backticks the text holds."
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"\n\n{fence}{language}\n{text}\n{fence}\n\n"


def raw(html: str) -> str:
    "HTML that pandoc passes on untouched."
    return fenced(html, "{=html}")


def read_body(page: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    "The outline of a page and its sections for the search."
    from lxml.html import fragment_fromstring

    top = fragment_fromstring(page["body"], create_parent="div")
    for gone in top.xpath(".//svg | .//annotation"):
        gone.drop_tree()
    outline: list[dict[str, Any]] = []
    sections = [{"u": page["url"], "t": page["title"], "s": "", "x": page.get("description", "")}]
    for block in top:
        text = " ".join(block.text_content().split())
        if block.tag in ("h2", "h3"):
            anchor = block.get("id", "")
            sections.append(
                {"u": f"{page['url']}#{anchor}", "t": page["title"], "s": text, "x": ""}
            )
            if not anchor.startswith("api-"):  # dozens; the section on them begins with a list
                outline.append({"level": int(block.tag[1]), "id": anchor, "text": text})
        else:
            sections[-1]["x"] = f"{sections[-1]['x']} {text}".strip()
    return outline, sections


# ── checks and serving ────────────────────────────────────────────────────────────────────────


def check_links(folder: Path) -> list[str]:
    "What a reader would stumble over in the pages of `folder`, a line each."
    from lxml import html

    folder = Path(folder)
    pages = {
        p.relative_to(folder).as_posix(): html.parse(
            str(p), html.HTMLParser(encoding="utf-8")
        ).getroot()
        for p in sorted(folder.rglob("*.html"))
    }
    ids = {name: [e.get("id") for e in page.xpath("//*[@id]")] for name, page in pages.items()}
    problems = []
    for name, page in pages.items():
        found = [
            f"two elements have the id {i}"
            for i in sorted({i for i in ids[name] if ids[name].count(i) > 1})
        ]
        found += [
            f"unresolved reference {' '.join(e.text_content().split())}"
            for e in page.find_class("citation")
        ]
        found += [
            f"picture without alternative text: {e.get('src')}"[:120]
            for e in page.iter("img")
            if e.get("alt") is None
        ]
        levels = [
            int(e.tag[1])
            for e in page.xpath(
                "//main//*[self::h1 or self::h2 or self::h3 or self::h4 or self::h5]"
            )
        ]
        found += [
            f"heading level jumps from {a} to {b}"
            for a, b in zip(levels, levels[1:], strict=False)
            if b > a + 1
        ]
        for element, attribute, target, _ in page.iterlinks():
            url = urlsplit(target)
            if url.scheme == "data" or (
                element.tag == "a" and url.scheme in ("http", "https", "mailto")
            ):
                continue
            if url.scheme or url.netloc:
                found.append(f"<{element.tag} {attribute}> points outside: {target[:80]}")
                continue
            there = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(url.path)))
                if url.path
                else name
            )
            if there.startswith("..") or not (folder / there).is_file():
                found.append(f"link to {target}: there is no such page or file")
            elif url.fragment and unquote(url.fragment) not in ids.get(there, []):
                found.append(f"link to {target}: {there} has no such heading")
        problems += [f"{name}: {problem}" for problem in dict.fromkeys(found)]
    for style in folder.rglob("*.css"):
        if re.search(r"url\(\s*[\"']?https?:|@import", style.read_text(encoding="utf-8")):
            problems.append(f"{style.name}: loads something from outside")
    return problems


def serve(folder: Path, port: int = 8000) -> None:
    "Serve a built site on this machine only, until Ctrl-C."
    from functools import partial
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
