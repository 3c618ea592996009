"""Papermill's own command with our engine: the same checks, the same store, its own output file."""

import json
import subprocess
import sys

from conftest import Project


def papermill(project: Project, name: str, *words: str, **more: str):
    source = project.root / "nbs" / "01_data" / f"{name}.ipynb"
    command = [sys.executable, "-m", "papermill", "--engine", "llmchain", str(source), str(project.root / "out.ipynb")]  # fmt: skip
    return subprocess.run([*command, *words], capture_output=True, text=True,
                          env=project.environment(**more), cwd=project.root)  # fmt: skip


def test_engine_checks_runs_and_keeps(project: Project) -> None:
    wrong = papermill(project, "01_first", "-p", "nn", "3", "-p", "n", "101")
    assert wrong.returncode == 1 and "did you mean `n`?" in wrong.stderr
    assert "`n` must be int, 0 to 100; got 101" in wrong.stderr
    assert not list(project.runs.glob("2*")), "nothing was started"
    done = papermill(project, "01_first", "-p", "n", "3")
    assert done.returncode == 0, done.stderr
    cells = json.loads((project.root / "out.ipynb").read_text())["cells"]
    shown = "".join(str(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    assert "01_first closed after" in shown and "profile custom" in shown
    assert papermill(project, "01_first", "-p", "n", "3").returncode == 0
    runs = sorted(project.runs.glob("2*/summary.json"))
    entries = [json.loads(p.read_text())["chapters"][0] for p in runs]
    assert [e["status"] for e in entries] == ["ok", "cached"]
    assert entries[0]["outputs"] == entries[1]["outputs"]
    found = project.summary("01", "02", "-p", "first.n=3")
    assert [c["status"] for c in found["chapters"]] == ["cached", "ok"], "one store for both"


def test_engine_takes_the_profile_and_says_what_fails(project: Project) -> None:
    missing = papermill(project, "02_second", PROFILE="smoke")
    assert missing.returncode == 1 and "made by 01_first: llmchain run 01_first" in missing.stderr
    assert papermill(project, "01_first", PROFILE="smoke").returncode == 0
    (path,) = project.runs.glob("2*/01_first/record.json")
    record = json.loads(path.read_text())
    assert record["profile"] == "smoke" and record["parameters"]["n"] == 2
