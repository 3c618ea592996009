"""What fails the build of the site: figures that are not those of the run, and dead links.

`ch.say` and `ch.claim` write what was measured, and `llmchain show --write-readme` what a run
gave. Here it is read back, so that a figure that was changed in one place is found.
"""

import ast
import json
import re
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from llmchain.workbench.chapter import PAID, claim_text, verdict_line
from llmchain.workbench.report import MARKS, results_table, seal
from llmchain.workbench.store import read_json

HOLE = "\0"  # stands for what an f-string puts into a template
CLAIM = re.compile(r"^[✓✗·] (claim .*)$", re.M)


def unbound(run: Path) -> list[str]:
    "What the notebooks and the summary of a run show otherwise than its chapters recorded it."
    import nbformat

    problems = []
    for chapter in (read_json(run / "summary.json") or {}).get("chapters", []):
        folder = run / chapter["id"]
        if chapter["status"] not in ("ok", "cached"):
            continue
        record = read_json(folder / "record.json") or {}
        found = otherwise(nbformat.read(folder / "notebook.ipynb", 4), record)
        for kind in ("metrics", "claims"):  # as text, in which NaN equals itself
            told, kept = (json.dumps(x.get(kind), sort_keys=True) for x in (chapter, record))
            if told != kept:
                found.append(f"summary.json and record.json do not have the same {kind}")
        problems += [f"{chapter['id']}: {problem}" for problem in found]
    return problems


def otherwise(nb: Any, record: dict[str, Any]) -> list[str]:
    "What an executed notebook shows otherwise than the record of its chapter has it."
    cells = [cell for cell in nb.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    metrics, claims = record.get("metrics", {}), record.get("claims", [])
    found = [
        f"claim {claim['name']} is not its metric"
        for claim in claims
        if repr(claim["value"]) != repr(metrics.get(claim["name"]))
    ]
    printed = CLAIM.findall("".join(o.text for o in outputs if o.get("name") == "stdout"))
    told = [f"claim {claim_text(claim)}" for claim in claims]
    found += [f"not shown as recorded: {claim}" for claim in told if claim not in printed]
    said = re.compile("|".join(p for c in cells for p in sentences(c.source, metrics)) or "(?!)")
    prose = (output.get("data", {}).get("text/markdown", "") for output in outputs)
    return found + [
        f"figures of no recorded metric: {' '.join(text.split())[:80]}"
        for text in prose
        if re.search(r"\d", text) and not said.fullmatch(text)
    ]


def sentences(source: str, metrics: dict[str, Any]) -> list[str]:
    "For each `say` and `verdicts` of a cell, a regular expression of what it writes with these metrics."
    try:
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except SyntaxError:  # a magic
        return []
    found = []
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "say" and call.args:
            parts = getattr(call.args[0], "values", call.args[:1])  # of an f-string, or all of it
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else HOLE for p in parts)
            found.append(pattern(text, metrics))
        elif isinstance(call.func, ast.Attribute) and call.func.attr == "verdicts":
            found.append(verdict_lines(metrics))
    return found


def verdict_lines(metrics: dict[str, Any]) -> str:
    "Lines of `verdicts`, each with the figures and the word of one of these intervals."
    names = [key.removesuffix("_low") for key in metrics if key.endswith("_low")]
    told = [
        pattern(verdict_line(name, HOLE, metrics)[1], metrics)
        for name in names
        if f"{name}_high" in metrics and metrics.keys() & {name, f"{name}_mean"}
    ]
    line = f"(?:{'|'.join(told) or '(?!)'})"
    return rf"(?:{re.escape(PAID)}\n\n)?{line}(?:\n{line})*"


def pattern(template: str, metrics: dict[str, Any]) -> str:
    "A template as a regular expression: each field is a metric in the format asked for."
    found = []
    for literal, field, spec, conversion in string.Formatter().parse(template):
        found.append(".*?".join(map(re.escape, literal.split(HOLE))))
        if field is not None:
            name = r"\w*".join(map(re.escape, field.split(HOLE)))
            form = f"{{0{'!' + conversion if conversion else ''}:{spec}}}"
            values = [value for key, value in metrics.items() if re.fullmatch(name, key)]
            found.append(f"(?:{'|'.join(re.escape(form.format(v)) for v in values) or '(?!)'})")
    return "".join(found)


def readme(path: Path, runs: Path) -> list[str]:
    "What is wrong with the table of results in a README: not sealed, or not that of its run."
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if MARKS[0] not in text:
        return []
    shown = text.partition(MARKS[0])[2].partition(MARKS[1])[0].strip()
    table, _, last = shown.rpartition("\n")
    named = re.fullmatch(r"<!-- run (\S+), seal (\w+) -->", last)
    if not named or named[2] != seal(table):
        return [f"{path.name}: the results were not written by llmchain show --write-readme"]
    summary = read_json(runs / named[1] / "summary.json")
    lang = "zh" if path.stem.endswith("zh") else "en"
    if summary and results_table(summary, lang).strip() != shown:
        return [f"{path.name}: the results are not those of {named[1]}"]
    return []


def check_links(folder: Path) -> list[str]:
    "What a reader would stumble over in the pages of `folder`, a line each."
    from lxml import html

    folder, parser, problems = Path(folder).resolve(), html.HTMLParser(encoding="utf-8"), []
    files = sorted(folder.rglob("*.html"))
    pages = {path: html.parse(str(path), parser).getroot() for path in files}
    ids = {path: Counter(page.xpath("//@id")) for path, page in pages.items()}
    for path, page in pages.items():
        found = [f"two elements have the id {i}" for i, n in ids[path].items() if n > 1]
        found += [f"unresolved reference {e.text_content()}" for e in page.find_class("citation")]
        for n, picture in enumerate(page.iter("img"), 1):
            if not picture.get("alt"):
                found.append(f"picture {n} has no alternative text: {picture.get('src')}"[:120])
        levels = [int(e.tag[1]) for e in page.xpath("//main")[0].iter("h1", "h2", "h3", "h4", "h5")]
        found += [f"heading level jumps from {a} to {b}" for a, b in pairwise(levels) if b > a + 1]
        for element, attribute, target, _ in page.iterlinks():
            url = urlsplit(urljoin(path.as_uri(), target))
            there = Path(unquote(url.path))
            if url.scheme != "file" or url.netloc:
                leaves = element.tag == "a" and url.scheme in ("http", "https", "mailto")
                if url.scheme != "data" and not leaves:
                    found.append(f"<{element.tag} {attribute}> points outside: {target[:80]}")
            elif not (there.is_relative_to(folder) and there.is_file()):
                found.append(f"link to {target}: there is no such page or file")
            elif url.fragment and unquote(url.fragment) not in ids.get(there, {}):
                found.append(f"link to {target}: {there.relative_to(folder)} has no such heading")
        name = path.relative_to(folder).as_posix()
        problems += [f"{name}: {' '.join(problem.split())}" for problem in dict.fromkeys(found)]
    return problems
