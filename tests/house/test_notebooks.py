"""Every notebook of the course keeps the house rules."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest
import yaml

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
        assert len(code.splitlines()) <= 40, f"a cell of over 40 lines: {code[:80]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_directives_are_those_that_site_and_package_know(path: Path) -> None:
    """Quarto's own (`#| echo`) would show in its pages and not in the built-in preview."""
    code = "\n".join(source(c) for c in cells(path) if c["cell_type"] == "code")
    used = set(re.findall(r"^#\|\s*([\w-]+)", code, re.M))
    assert used <= {"default_exp", "export", "exports", "hide"}, used


@each_chapter
def test_imports_stand_alone(chapter: Chapter) -> None:
    """The site runs every cell that holds an import, and nothing else: it must not need the rest."""
    for code in chapter.code:
        body = ast.parse(code).body
        top = [isinstance(n, (ast.Import, ast.ImportFrom)) for n in body]
        assert all(top) or not any(top), code[:200]


def measured(prose: str) -> list[str]:
    """Decimals and percentages in prose outside formulas, code and links."""
    code_and_math = r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`"
    links = r"\]\([^)]*\)|https?://\S+|arXiv:\S+|doi:\S+"
    places = r"(?i:§|sec\.|eq\.|section|chapter|figure|table)\s*\d+(?:\.\d+)*"
    names = "torch|PyTorch|transformers|Python|nbdev|ONNX Runtime|Quarto|opset|version"
    versions = rf"\b(?:(?:{names}) |[A-Za-z][\w-]*-)v?\d+(?:\.\d+)+\b"
    for pattern in (code_and_math, links, places, versions):
        prose = re.sub(pattern, " ", prose, flags=re.S)
    return re.findall(r"\d+\.\d+|\d+\s?%|\d+\s?percent", prose)


@each_chapter
def test_figures_in_prose_are_bound_to_metrics(chapter: Chapter) -> None:
    for cell in cells(chapter.path):
        if cell["cell_type"] == "markdown":
            # the one exception: what the front matter declares as cost, which must be said alike
            costs = {f"{v:g}" for c in chapter.cost.values() for v in c.values()}
            typed = [
                n
                for n in measured(source(cell))
                if not ("**Takes**" in source(cell) and n in costs)
            ]
            assert not typed, f"{typed} in: {source(cell)[:200]}"
    for code in chapter.code:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "ch.say":
                (template,) = node.args
                parts = template.values if isinstance(template, ast.JoinedStr) else [template]
                text = "".join(p.value for p in parts if isinstance(p, ast.Constant))
                literal = re.sub(r"\{[^}]*\}", "", text)
                assert not measured(literal), f"typed figure in ch.say: {text}"


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


def undocumented(source: str) -> list[str]:
    """What a module's public functions and methods leave without type, comment or docstring."""
    notes = {
        t.start[0]
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    }

    def noted(node: ast.AST) -> bool:
        return any(line in notes for line in range(node.lineno, node.end_lineno + 1))

    found = []
    tree = ast.parse(source)
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef)]
    methods = [m for c in classes for m in c.body if isinstance(m, ast.FunctionDef)]
    for node in [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))] + methods:
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            found.append(f"{node.name}: no docstring")
        if isinstance(node, ast.ClassDef):
            continue
        a = node.args
        for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]:
            if arg.arg not in ("self", "cls") and not (arg.annotation and noted(arg)):
                found.append(f"{node.name}: `{arg.arg}` has no type or no comment")
        if node.returns is None:
            found.append(f"{node.name}: no return type")
        elif ast.unparse(node.returns) != "None":
            end = node.body[0].lineno
            if not any(line in notes for line in range(node.returns.lineno, end)):
                found.append(f"{node.name}: the result has no comment")
    return found


@each_chapter
def test_exported_functions_are_documented(chapter: Chapter) -> None:
    if chapter.module:
        path = ROOT / "llmchain" / (chapter.module.replace(".", "/") + ".py")
        assert not undocumented(path.read_text(encoding="utf-8"))


def test_the_check_sees_what_is_undocumented() -> None:
    good = 'def f(\n    x: int,  # a number\n) -> int:  # twice\n    "Double."\n    return 2 * x\n'
    assert undocumented(good) == []
    assert len(undocumented(good.replace("# a number", ""))) == 1
    assert len(undocumented(good.replace("# twice", ""))) == 1
    assert len(undocumented(good.replace('"Double."', "0"))) == 1
    assert len(undocumented(good.replace(": int,", ","))) == 1
