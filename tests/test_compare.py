"""diff, verify, sweeps and gc: what they say is what is there."""

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Project, chapter

from llmchain.workbench import compare, store
from llmchain.workbench.contract import read_chapters


def call(project: Project, *words: str, code: int = 0, **more: str):
    done = project.llmchain(*words, "--json", **more)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_diff_names_what_differs_and_nothing_else(project: Project) -> None:
    a = project.summary("--profile", "smoke")["run"]
    b = project.summary("--profile", "smoke")["run"]
    same = call(project, "diff", a, b)
    assert same["chapters"] == {} and same["environment"] == {} and same["only"] == [[], []]
    assert "do not differ" in project.llmchain("diff", a, b).stdout
    c = project.summary("--profile", "smoke", "-p", "first.n=5")["run"]
    found = call(project, "diff", a, c)["chapters"]
    assert set(found) == {"01_first", "02_second"}
    assert found["01_first"]["parameters"] == {"n": [2, 5]}
    assert found["01_first"]["metrics"] == {"rows": [2, 5]} and found["01_first"]["code"] == "unknown"  # fmt: skip
    assert set(found["02_second"]["inputs"]) == {"corpus/raw"}
    assert "first" in project.llmchain("diff", a, c).stdout
    path = project.root / "nbs" / "01_data" / "03_aside.ipynb"
    path.write_text(path.read_text().replace('{\\"n\\": n}', '{\\"n\\": n, \\"more\\": 1}'))
    d = project.summary("--profile", "smoke")["run"]
    assert call(project, "diff", a, d)["chapters"]["03_aside"]["code"] == "changed"
    only = project.summary("03", "--profile", "smoke")["run"]
    assert call(project, "diff", d, only)["only"] == [["01_first", "02_second"], []]


def test_diff_of_a_run_that_is_not_there(project: Project) -> None:
    done = project.llmchain("diff", "x", "y")
    assert done.returncode == 1 and "0 runs are called `x`" in done.stderr


def test_nan_does_not_differ_from_itself() -> None:
    nan = float("nan")
    assert compare.changes({"a": nan, "b": 1}, {"a": nan, "b": 1.0}) == {}
    assert compare.changes({"a": nan}, {"a": 2}).keys() == {"a"}
    assert compare.changes(None, {"a": None, "b": 0}) == {"b": [None, 0]}


def test_verify_proves_or_names(project: Project) -> None:
    first = project.summary("--profile", "smoke", "-p", "first.n=3")
    rows = call(project, "verify")["chapters"]
    assert {r["verdict"] for r in rows} == {"identical"} and len(rows) == 3
    body = 'import os\nch.write("report/aside", [{"n": os.getpid()}])'
    project.put("03_aside", chapter("03_aside", makes="report/aside", body=body))
    drawn = project.summary("--profile", "smoke", "-p", "first.n=3")["run"]
    rows = call(project, "verify", drawn, code=1)["chapters"]
    assert {r["id"]: r["good"] for r in rows} == {"01_first": True, "02_second": True, "03_aside": False}  # fmt: skip
    assert rows[2]["verdict"] == "differs: report/aside"
    assert first["chapters"][0]["parameters"]["n"] == 3


def test_verify_takes_the_inputs_of_that_run_not_the_newest(project: Project) -> None:
    project.summary("01", "--profile", "smoke")
    only = project.summary("02", "--only", "--profile", "smoke")["run"]
    project.summary("01", "--profile", "smoke", "-p", "first.n=9")
    assert call(project, "verify", only)["chapters"][0]["verdict"] == "identical"


def test_on_another_machine_a_number_must_lie_in_its_interval() -> None:
    def run(device: str, value: float, outputs: str) -> dict:
        metrics = {"accuracy": value, "accuracy_low": 0.7, "accuracy_high": 0.8, "other": value}
        entry = {"id": "x", "status": "ok", "outputs": {"m": outputs}, "metrics": metrics, "claims": []}  # fmt: skip
        return {"device": device, "cores": 2, "chapters": [entry]}

    old = run("cpu:x86_64", 0.75, "a")
    assert compare.verdict(old, run("cpu:aarch64", 0.79, "b"))[0]["verdict"] == "within intervals"
    (row,) = compare.verdict(old, run("cpu:aarch64", 0.81, "b"))
    assert row == {"id": "x", "verdict": "outside: accuracy", "good": False}
    assert compare.verdict(old, run("cpu:aarch64", 0.2, "a"))[0]["verdict"] == "identical"
    assert compare.verdict(old, run("cpu:x86_64", 0.76, "b"))[0]["verdict"] == "differs: m"
    new = run("cpu:aarch64", 0.75, "b")
    new["chapters"][0]["claims"] = [{"name": "other", "held": False}]
    assert compare.verdict(old, new)[0]["verdict"] == "outside: other"
    new["chapters"][0] |= {"status": "failed", "error": "ValueError: x"}
    assert compare.verdict(old, new)[0]["verdict"] == "failed: ValueError: x"


def test_sweep_makes_a_table(project: Project) -> None:
    text = chapter("01_first", makes="corpus/raw", extra="key: rows",
                   body='ch.write("corpus/raw", [{"i": i} for i in range(n)])\nch.claim("rows", n, at_least=0)')  # fmt: skip
    project.put("01_first", text)
    rows = call(project, "run", "--profile", "smoke", "-p", "first.n=2,4", "-p", "first.seed=0,1", "-p", "aside.n=7")  # fmt: skip
    assert [(r["first.n"], r["first.seed"], r["01_first: rows"]) for r in rows] == [
        ("2", "0", 2), ("2", "1", 2), ("4", "0", 4), ("4", "1", 4),
    ]  # fmt: skip
    assert len({r["run"] for r in rows}) == 4
    done = project.llmchain("run", "01", "-p", "first.n=2,4000")
    assert done.returncode == 2 and "0 to 100; got 4000" in done.stderr
    assert len(list(project.runs.glob("2*/summary.json"))) == 4, "nothing was started"


def test_a_comma_in_a_text_is_a_part_of_it(in_project: Project) -> None:
    in_project.put("01_first", chapter("01_first", makes="corpus/raw", parameters='t: str = "x"  # words\nseed: int = 0  # s (0 to 9)'))  # fmt: skip
    chapters = read_chapters(in_project.root)
    assert compare.combinations(chapters, ["first.t=a,b"]) == [({}, ["first.t=a,b"])]
    assert len(compare.combinations(chapters, ["first.seed=1,2", "nowhere.x=1,2"])) == 2


def test_gc_deletes_what_no_run_needs(project: Project) -> None:
    first = project.summary("--profile", "smoke")
    project.summary("--profile", "smoke", "-p", "first.n=5")
    kept = project.summary("03", "--profile", "smoke")
    folder = project.runs / "store"
    os.environ.pop("LLMCHAIN_RUNS", None)
    found = store.garbage(store.Store(folder), recent=0)
    assert found == [], "every run is kept, so nothing is garbage"
    shutil.rmtree(first["folder"])
    found = store.garbage(store.Store(folder), recent=0)
    gone = {p.parent.name for p in found}
    assert gone == {"01_first", "02_second", "corpus+raw", "corpus+clean"}, found
    assert not any(kept["chapters"][0]["outputs"]["report/aside"] in str(p) for p in found)
    assert store.garbage(store.Store(folder)) == [], "somebody may be working with what is new"
    for path in found:
        os.utime(path, (0, 0))
    told = call(project, "gc", "--dry-run")
    assert len(told) == len(found) and all(p.exists() for p in found)
    assert {r["folder"] for r in call(project, "gc")} <= {str(p) for p in found}
    assert not any(p.exists() for p in found)
    again = project.summary("--profile", "smoke", "-p", "first.n=5")
    assert {c["status"] for c in again["chapters"]} == {"cached"}
    assert project.summary("--profile", "smoke")["chapters"][0]["status"] == "ok"


def test_gc_keeps_the_newest_runs(project: Project) -> None:
    runs = [project.summary("03", "-p", f"aside.n={n}")["folder"] for n in (1, 2, 3)]
    assert len(call(project, "gc", "--keep", "2")) == 1
    assert [Path(r).exists() for r in runs] == [False, True, True]


def test_gc_keeps_what_an_unfinished_chapter_uses(project: Project) -> None:
    project.summary("--profile", "smoke")
    (project.runs / "store" / "work" / "some-key").mkdir(parents=True)
    assert store.garbage(store.Store(project.runs / "store"), recent=-1) == []


def test_a_run_that_cannot_fit_is_refused_before_it_starts(project: Project) -> None:
    project.put("01_first", chapter("01_first", makes="corpus/raw", extra="cost: {smoke: [1 s, 1 GB], cpu: [1 s, 999999 GB]}",
                                    body='ch.write("corpus/raw", [{"i": 1}])'))  # fmt: skip
    done = project.llmchain("run", "01")
    assert done.returncode == 2 and done.stderr.startswith("llmchain: 01_first states 999999 GB at")
    assert not list(project.runs.glob("2*"))
    assert "cannot fit: 01_first" in project.llmchain("plan", "01").stdout
    assert project.llmchain("run", "01", "--anyway", "--json").returncode == 0
    assert project.llmchain("run", "01", "--profile", "smoke", "--json").returncode == 0


@pytest.mark.parametrize("command", ["diff", "verify", "gc", "board"])
def test_help(project: Project, command: str) -> None:
    assert project.llmchain(command, "--help").returncode == 0
