"""A figure that is not the one that was measured fails the build of the site."""

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_site import METRICS, project, run

from llmchain.workbench import checks, site
from llmchain.workbench.chapter import Open
from llmchain.workbench.report import results_table
from llmchain.workbench.runner import find_run

Plant = tuple[str, Callable[[], Any]]
FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")


def sealed(root: Path, summary: dict) -> None:
    "READMEs with the table of a run."
    for name, lang in (("README.md", "en"), ("README.zh.md", "zh")):
        table = results_table(summary, lang).strip()
        text = f"# Run 2 of 3\n\n<!-- results -->\n\n{table}\n\n<!-- /results -->\n"
        (root / name).write_text(text, encoding="utf-8")


def more(text: str) -> str:
    "A figure as text, one per cent larger."
    return repr(float(text.replace(",", "")) * 1.01)


def written(path: Path, start: int, end: int) -> Callable[[], Any]:
    "Makes the figure at a place of a text one per cent larger."

    def plant() -> None:
        text = path.read_text(encoding="utf-8")
        path.write_text(text[:start] + more(text[start:end]) + text[end:], encoding="utf-8")

    return plant


def in_json(path: Path, *keys: Any) -> Callable[[], Any]:
    "Makes a value of a JSON file, or each figure of a text in it, one per cent larger."

    def plant() -> None:
        tree = json.loads(path.read_text(encoding="utf-8"))
        place = tree
        for key in keys[:-2]:
            place = place[key]
        last, at = keys[-2:]
        if at is None:
            place[last] *= 1.01
        else:
            text = "".join(place[last])
            place[last] = text[: at[0]] + more(text[at[0] : at[1]]) + text[at[1] :]
        path.write_text(json.dumps(tree), encoding="utf-8")

    return plant


def bound_figures(root: Path, folder: Path) -> Iterator[Plant]:
    "(where, how to make it 1 % larger) of every figure that is bound to a measurement."
    for path in (root / name for name in ("README.md", "README.zh.md")):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        start, end = text.find("<!-- results -->"), text.find("<!-- run")
        for m in FIGURE.finditer(text, max(start, 0), max(end, 0)):
            if float(m[0].replace(",", "")):
                yield f"{path.name} {m[0]}", written(path, *m.span())
    summary = json.loads((folder / "summary.json").read_text())
    for i, chapter in enumerate(summary["chapters"]):
        record, at = folder / chapter["id"] / "record.json", ("chapters", i)
        for name, value in chapter["metrics"].items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
                yield f"record {name}", in_json(record, "metrics", name, None)
                yield (
                    f"summary {name}",
                    in_json(folder / "summary.json", *at, "metrics", name, None),
                )
        for k, claim in enumerate(chapter["claims"]):
            for key in {"value", "at_least", "at_most", "equal"} & set(claim):
                if isinstance(claim[key], (int, float)) and claim[key] and claim[key] is not True:
                    yield f"claim {claim['name']}", in_json(record, "claims", k, key, None)
                    path = folder / "summary.json"
                    yield f"claim {claim['name']}", in_json(path, *at, "claims", k, key, None)
        path = record.with_name("notebook.ipynb")
        claims = {claim["name"] for claim in chapter["claims"]}
        for c, cell in enumerate(json.loads(path.read_text())["cells"]):
            for o, output in enumerate(cell.get("outputs", [])):
                said = "".join(output.get("data", {}).get("text/markdown", ""))
                for m in FIGURE.finditer(said):
                    if float(m[0].replace(",", "")):
                        keys = ("cells", c, "outputs", o, "data", "text/markdown", m.span())
                        yield f"{chapter['id']} said {m[0]}", in_json(path, *keys)
                printed = "".join(output.get("text", ""))
                for line in re.finditer(r"^[✓✗·] claim (\w+): .*$", printed, re.M):
                    for m in FIGURE.finditer(printed, line.end(1), line.end()):
                        if line[1] in claims and float(m[0].replace(",", "")):
                            keys = ("cells", c, "outputs", o, "text", m.span())
                            yield f"{chapter['id']} claimed {m[0]}", in_json(path, *keys)


def chosen(root: Path, folder: Path, seed: int) -> list[int]:
    "Twenty of the bound checks."
    return random.Random(seed).sample(range(len(list(bound_figures(root, folder)))), 20)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = project(tmp_path_factory.mktemp("clean"))
    folder = run(root / "runs/r1")
    sealed(root, json.loads((folder / "summary.json").read_text()))
    assert site.build(root, "_site", folder) == []
    return root


@pytest.mark.slow
def test_one_per_cent_more_in_any_figure_fails_the_build(clean: Path, tmp_path: Path) -> None:
    missed = []
    for n, which in enumerate(chosen(clean, clean / "runs/r1", seed=1)):
        root = tmp_path / str(n)
        shutil.copytree(clean, root)
        where, plant = list(bound_figures(root, root / "runs/r1"))[which]
        plant()
        if not site.build(root, "_site", root / "runs/r1"):
            missed.append(where)
    assert not missed


def test_every_single_figure_of_a_run_is_watched(clean: Path, tmp_path: Path) -> None:
    missed, n = [], len(list(bound_figures(clean, clean / "runs/r1")))
    for which in range(n):
        root = tmp_path / str(which)
        shutil.copytree(clean, root, ignore=shutil.ignore_patterns("_site", "nbs"))
        where, plant = list(bound_figures(root, root / "runs/r1"))[which]
        plant()
        found = checks.unbound(root / "runs/r1")
        found += checks.readme(root / "README.md", root / "runs")
        if not found + checks.readme(root / "README.zh.md", root / "runs"):
            missed.append(where)
    assert n > 40 and not missed


@pytest.mark.slow
def test_figures_of_the_newest_run_of_this_machine(tmp_path: Path) -> None:
    try:
        newest = find_run(None)
    except FileNotFoundError:
        pytest.skip("no run on this machine: llmchain run --profile smoke makes one")
    if json.loads((newest / "summary.json").read_text())["state"] != "finished":
        pytest.skip("the newest run is not finished")
    kept = shutil.ignore_patterns("*.png", "tensorboard", "*.html", "log.txt")
    shutil.copytree(newest, tmp_path / "run", ignore=kept)
    assert checks.unbound(tmp_path / "run") == []
    missed = []
    for which in chosen(tmp_path, tmp_path / "run", seed=2):
        shutil.copytree(tmp_path / "run", tmp_path / "planted")
        where, plant = list(bound_figures(tmp_path, tmp_path / "planted"))[which]
        plant()
        missed += [where] if not checks.unbound(tmp_path / "planted") else []
        shutil.rmtree(tmp_path / "planted")
    assert not missed


def test_templates_as_patterns() -> None:
    def fits(template: str, text: str) -> bool:
        found = checks.sentences(f"ch.say({template})", METRICS | {"word": "(yes)"})
        return bool(re.fullmatch("|".join(found), text))

    assert fits("'{recall:.1%} of {n_kept:,}: {word}.'", "94.1% of 1,234: (yes).")
    assert not fits("'{recall:.1%} of {n_kept:,}'", "94.2% of 1,234")
    assert fits('f"{kind}: {{{kind}_gain:+.2f}}"', "near: +0.25")
    assert not fits('f"{kind}: {{{kind}_gain:+.2f}}"', "near: +0.26")
    assert not fits("'{gone}'", "") and checks.sentences("%matplotlib inline", {}) == []
    assert fits("'{word!r}'", "'(yes)'")


def test_verdicts_are_bound_to_their_intervals() -> None:
    metrics = {"a_gain_mean": 0.02, "a_gain_low": 0.01, "a_gain_high": 0.03}
    metrics |= {"b": -0.1, "b_low": -0.2, "b_high": 0.1}
    (allowed,) = checks.sentences("ch.verdicts([('a_gain', 'a'), ('b', 'b')])", metrics)
    a = "- this (or that): +0.020 (+0.010 to +0.030), **better**"
    b = "- b: -0.100 (-0.200 to +0.100), **not shown to help**"
    for good in (a, b, f"{b}\n{b}", f"What did pay:\n\n{a}"):
        assert re.fullmatch(allowed, good), good
    for bad in (a.replace("0.020", "0.021"), b.replace("not shown to help", "better"), f"{a}\n9"):
        assert not re.fullmatch(allowed, bad), bad


def test_what_did_not_pay_is_told_first() -> None:
    said: list[str] = []
    metrics = {"up_mean": 0.2, "up_low": 0.1, "up_high": 0.3, "down": -1.0, "down_low": -2.0}
    metrics |= {"down_high": -0.5, "open": 0.0, "open_low": -1.0, "open_high": 1.0}
    chapter = SimpleNamespace(metrics=metrics, say=said.append, chapter=SimpleNamespace(id="x"))
    tried = [("up", "A"), ("open", "B"), ("down", "C")]
    Open.verdicts(chapter, tried)  # type: ignore[arg-type]
    assert [line[:3] for line in said[0].splitlines()] == ["- C", "- B"]
    assert said[1].startswith("What did pay:\n\n- A: {up_mean:+.3f} ({up_low:+.3f} to")
    Open.verdicts(chapter, tried[1:])  # type: ignore[arg-type]
    assert said[3] == "Nothing paid."
    with pytest.raises(KeyError, match="x: verdicts: `gone_low` is not recorded"):
        Open.verdicts(chapter, [("gone", "D")])  # type: ignore[arg-type]


def test_a_table_that_was_written_by_hand_or_of_another_run(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean, tmp_path / "p")
    path = tmp_path / "p/README.md"
    text = path.read_text()
    assert checks.readme(path, tmp_path / "p/runs") == []
    path.write_text(re.sub("<!-- run.*\n", "", text))
    assert "not written by llmchain show --write-readme" in checks.readme(path, tmp_path)[0]
    summary = json.loads((clean / "runs/r1/summary.json").read_text())
    summary["seconds"] = 99
    sealed(tmp_path / "p", summary)
    assert checks.readme(path, tmp_path / "p/runs") == [
        "README.md: the results are not those of r1"
    ]
    assert checks.readme(path, tmp_path) == [], "a run that is not here cannot be compared"
    path.write_text("# A README without results\n")
    assert checks.readme(path, tmp_path) == checks.readme(tmp_path / "none.md", tmp_path) == []
