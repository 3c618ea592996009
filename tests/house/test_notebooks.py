"""Every notebook of the course keeps the house rules."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
import yaml
from fastcore.docments import docments

from llmchain.workbench import graph
from llmchain.workbench.contract import Chapter, read_chapters

ROOT = Path(__file__).parents[2]
CHAPTERS = read_chapters(ROOT)
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=list(CHAPTERS))


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_outputs_and_clean_metadata(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) == {"kernelspec"}, notebook["metadata"].keys()
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}, cell["metadata"]
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, source(cell)[:60]


@each_chapter
def test_anatomy(chapter: Chapter) -> None:
    text = chapter.path.read_text(encoding="utf-8")
    assert chapter.title and chapter.summary, "title cell: `# Title` and `> summary`"
    assert "seed" in chapter.parameters, "every chapter has one seed"
    assert chapter.makes, "every chapter makes an artifact"
    assert {"smoke", "cpu"} <= set(chapter.cost), "cost is stated for smoke and cpu"
    assert "ch.close()" in chapter.code[-1], "the last code cell closes the chapter"
    assert text.count("ch.claim(") >= 1 and text.count("ch.figure(") + text.count("ch.watch(") >= 1
    for number in (1, 2, 3):
        assert re.search(rf"ch\.exercise\({number},", text), f"exercise {number} is missing"
    for code in chapter.code:
        assert len(code.splitlines()) <= 40, code.splitlines()[0]


@each_chapter
def test_imports_stand_alone(chapter: Chapter) -> None:
    """The site runs every cell that holds an import, and nothing else: it must not need the rest."""
    for code in chapter.code:
        body = ast.parse(code).body
        top = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
        assert all(top) or not any(top), code[:200]


def measured(prose: str) -> list[str]:
    """Decimals and percentages in prose outside formulas, code and links."""
    bare = re.sub(
        r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`|\]\([^)]*\)|https?://\S+|arXiv:\S+|doi:\S+",
        " ",
        prose,
        flags=re.S,
    )
    bare = re.sub(
        r"(§|sec\.|eq\.|section|chapter|version|Figure|Table)\s*\d+(\.\d+)*", " ", bare, flags=re.I
    )
    bare = re.sub(
        r"\b[A-Za-z][\w-]*[ -]v?\d+(\.\d+){1,}\b", " ", bare
    )  # a name with its version: CC-BY-4.0
    return re.findall(r"\d+\.\d+|\d+\s?%|\d+\s?percent", bare)


@each_chapter
def test_figures_in_prose_are_bound_to_metrics(chapter: Chapter) -> None:
    for cell in cells(chapter.path):
        if cell["cell_type"] == "markdown":
            assert not measured(source(cell)), f"{measured(source(cell))} in: {source(cell)[:200]}"
    for code in chapter.code:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ch.say":
                (template,) = node.args
                assert isinstance(template, ast.Constant), "ch.say takes a literal template"
                literal = re.sub(r"\{[^}]*\}", "", template.value)
                assert not measured(literal), f"typed figure in ch.say: {template.value}"


def test_the_check_sees_a_typed_figure() -> None:
    assert measured("accuracy rises by 2.3 points") == ["2.3"]
    assert measured("about 40 % of them") == ["40 %"]
    assert not measured("a rate of $15\\,\\%$, `lr=0.1`, [x](a-1.5.html), section 3.2, CC-BY-4.0")


def test_sidebar_lists_the_chapters_once_in_order() -> None:
    config = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    found: list[str] = []

    def walk(node: object) -> None:
        if isinstance(node, dict):
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)
        elif isinstance(node, str) and node.endswith(".ipynb"):
            found.append(Path(node).stem)

    walk(config["website"]["sidebar"])
    assert [f for f in found if f != "index"] == list(CHAPTERS)


def test_the_chain_has_an_order() -> None:
    order = graph.order(CHAPTERS)
    place = {c: i for i, c in enumerate(order)}
    for taker, makers in graph.dependencies(CHAPTERS).items():
        assert all(place[m] < place[taker] for m in makers)


@each_chapter
def test_exported_functions_are_documented(chapter: Chapter) -> None:
    if not chapter.module:
        return
    module = importlib.import_module(f"llmchain.{chapter.module}")
    names = getattr(module, "__all__", [])
    assert names, f"llmchain.{chapter.module} exports nothing"
    for name in names:
        thing = getattr(module, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)):
            continue
        assert thing.__doc__, f"{name} has no docstring"
        if inspect.isfunction(thing):
            for part, notes in docments(thing, full=True).items():
                if part == "self":
                    continue
                hint = notes["anno"]
                assert hint is not inspect.Parameter.empty, f"{name}: `{part}` has no type"
                if not (part == "return" and hint is None):
                    assert notes["docment"], f"{name}: `{part}` has no comment"
