"""Real processes are hurt; nothing half-written is taken for finished."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Project, chapter

SLOW = """import os, time
from pathlib import Path
steps = ch.scratch / "steps"
done = int(steps.read_text()) if steps.exists() else 0
ch.metric("resumed_at", done)
for i in range(done, 40):
    time.sleep(0.1)
    (ch.scratch / "t").write_text(str(i + 1))
    os.replace(ch.scratch / "t", steps)
ch.write("corpus/raw", [{"i": 1}])
ch.claim("rows", 1, equal=1)"""


def start(project: Project, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmchain.workbench.cli", "run", *words, "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=project.environment(), cwd=project.root, start_new_session=True,
    )  # fmt: skip


def wait_for_step(project: Project, least: int = 2) -> None:
    """Until the slow chapter has done some steps."""
    for _ in range(1200):
        for path in project.runs.glob("store/work/*/steps"):
            if int(path.read_text() or 0) >= least:
                return
        time.sleep(0.05)
    raise TimeoutError("the slow chapter never began")


def kernels(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The children of the workers, which are the children of the server they are forked from."""
    tree = psutil.Process(process.pid).children(recursive=True)
    return [p for p in tree if len(p.parents()) - len(psutil.Process(process.pid).parents()) == 3]


@pytest.fixture
def slow(project: Project) -> Project:
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=SLOW))
    return project


def test_kernel_killed_then_resumed(slow: Project) -> None:
    run = start(slow, "01")
    wait_for_step(slow)
    (kernel,) = kernels(run)
    kernel.kill()
    out, err = run.communicate(timeout=120)
    summary = json.loads(out)
    assert run.returncode == 1 and summary["chapters"][0]["status"] == "failed", err
    assert not list(slow.runs.glob("store/artifacts/corpus+raw/*"))
    again = slow.summary("01")
    assert again["code"] == 0
    assert again["chapters"][0]["metrics"]["resumed_at"] >= 2, "it went on, it did not begin again"


def test_runner_killed_then_resumed(slow: Project) -> None:
    run = start(slow, "01")
    wait_for_step(slow)
    children = psutil.Process(run.pid).children(recursive=True)
    run.kill()
    run.wait()
    gone, alive = psutil.wait_procs(children, timeout=15)
    assert not alive, "no orphan goes on writing"
    assert json.loads(slow.llmchain("status", "--json").stdout)["state"] == "killed"
    again = slow.summary("01")
    assert again["code"] == 0 and again["chapters"][0]["metrics"]["resumed_at"] >= 2


def test_interrupt_stops_cleanly(slow: Project) -> None:
    run = start(slow, "01", "03")
    wait_for_step(slow)
    os.kill(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    summary = json.loads(out)
    assert run.returncode == 130 and summary["state"] == "interrupted", err
    assert "interrupted" in {c["status"] for c in summary["chapters"]}
    assert slow.summary("01")["code"] == 0


def test_two_runs_at_once_share_the_work(slow: Project) -> None:
    runs = [start(slow, "01"), start(slow, "01")]
    results = [json.loads(r.communicate(timeout=240)[0]) for r in runs]
    assert all(r.returncode == 0 for r in runs), results
    found = sorted(s["chapters"][0]["status"] for s in results)
    assert found == ["cached", "ok"], "the second waited and took the result"
    assert results[0]["certificate"] == results[1]["certificate"]


def test_flipped_byte_is_found_and_rebuilt(project: Project) -> None:
    first = project.summary("01", "02")
    (path,) = project.runs.glob("store/artifacts/corpus+raw/*/rows.jsonl")
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))
    again = project.summary("01", "02")
    assert [c["status"] for c in again["chapters"]] == ["ok", "cached"]
    assert again["certificate"] == first["certificate"]


def test_unwritable_store_is_one_line(project: Project) -> None:
    project.runs.write_text("a file where the folder should be")
    done = project.llmchain("run", "03")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("llmchain: ")


def test_deleted_run_folder_does_not_hurt_the_next_run(project: Project) -> None:
    import shutil

    first = project.summary("03")
    shutil.rmtree(first["folder"])
    assert project.summary("03")["chapters"][0]["status"] == "cached"
    assert Path(first["folder"]).parent == project.runs
