"""The map of the chain and the READMEs show the chapters and the artifacts that there really are."""

import json
import re
from pathlib import Path

import pytest

from llmchain.workbench import graph
from llmchain.workbench.contract import read_chapters
from llmchain.workbench.diagram import parse

ROOT = Path(__file__).parents[1]
CHAPTERS = read_chapters(ROOT)
MAPS = ["nbs/index.ipynb", "README.md", "README.zh.md"]


def text_of(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".ipynb"):
        return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text


def picture(name: str) -> tuple[set[str], dict[tuple[str, str], str]]:
    """Nodes and edges (with their label) of the one mermaid picture in a file."""
    (source,) = re.findall(r"```mermaid\n(.*?)```", text_of(name), flags=re.S)
    _, _, nodes, edges = parse(source)
    return set(nodes), {(a, b): label for a, b, label in edges}


def chain() -> dict[tuple[str, str], set[str]]:
    """(maker, taker) -> the artifacts that go from one to the other."""
    makers = graph.makers(CHAPTERS)
    found: dict[tuple[str, str], set[str]] = {}
    for chapter in CHAPTERS.values():
        for artifact in chapter.needs:
            found.setdefault((makers[artifact], chapter.id), set()).add(artifact)
    return found


@pytest.mark.parametrize("name", MAPS)
def test_every_chapter_and_every_edge_is_drawn(name: str) -> None:
    nodes, edges = picture(name)
    assert set(CHAPTERS) <= nodes, f"not drawn: {sorted(set(CHAPTERS) - nodes)}"
    for edge, artifacts in chain().items():
        assert edge in edges, f"{name}: no arrow {edge[0]} → {edge[1]}"
        wanted = artifacts if len(artifacts) == 1 else {next(iter(artifacts)).split("/")[0] + "/*"}
        assert {edges[edge]} == wanted, f"{name}: {edge[0]} → {edge[1]} is labelled {edges[edge]}"


@pytest.mark.parametrize("name", MAPS)
def test_no_edge_is_drawn_that_is_not_there(name: str) -> None:
    _, edges = picture(name)
    there = chain()
    for a, b in edges:
        if a in CHAPTERS and b in CHAPTERS:
            assert (a, b) in there, f"{name}: {a} → {b} is drawn, but {b} takes nothing from {a}"


def test_the_table_tells_today_from_planned() -> None:
    rows = re.findall(r"^\|[^|]*\| (\S+) \|[^|]*\| (today|planned) \|$", text_of(MAPS[0]), re.M)
    numbers = [re.search(r"\d\d", cell)[0] for cell, _ in rows]
    assert len(numbers) == len(set(numbers)), "each chapter once"
    today = [re.search(r"\d\d_\w+", cell)[0] for cell, state in rows if state == "today"]
    assert today == list(CHAPTERS), "in reading order"
    states = {re.search(r"\d\d_\w+", cell)[0]: (cell, state) for cell, state in rows}
    for chapter in CHAPTERS.values():
        cell, state = states[chapter.id]
        assert state == "today", f"{chapter.id} exists; say `today`"
        assert cell == f"[{chapter.id}]({chapter.part}/{chapter.id}.ipynb)", cell
    for name, (_cell, state) in states.items():
        assert state == "planned" or name in CHAPTERS, f"{name} does not exist; say `planned`"


@pytest.mark.parametrize("name", MAPS)
def test_every_link_to_a_file_resolves(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#\s]+)\)", text_of(name)):
        if "://" not in target:
            assert (folder / target).exists(), f"{name}: {target}"


def test_every_command_of_the_readme_exists() -> None:
    from llmchain.workbench.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for name in ("README.md", "README.zh.md"):
        named = set(re.findall(r"^\| `llmchain (\w+)` \|", text_of(name), re.M))
        assert named and named <= known, named - known


def test_both_readmes_say_the_same() -> None:
    english, chinese = (text_of(name) for name in MAPS[1:])
    blocks = [re.findall(r"```(?:bash|mermaid)\n.*?```", t, flags=re.S) for t in (english, chinese)]
    strip = [[re.sub(r"#.*|<.*?>", "", block) for block in found] for found in blocks]
    code = [[re.sub(r"\s+", " ", block) for block in found] for found in strip]
    assert code[0] == code[1]
    assert english.count("\n## ") == chinese.count("\n## ")
