"""Real processes are hurt; nothing half-written is taken for finished."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import Project, chapter, notebook

from llmchain.workbench import catalog

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


def start(project: Project, *words: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmchain.workbench.cli", "run", *words, "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=project.environment(**variables), cwd=project.root, start_new_session=True,
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


TRAINING = """import os, time, torch
from safetensors.torch import save_file
from llmchain.pretrain.training import train
from torch import nn


class Squares:
    def counts(self, batch):
        return {"x": len(batch["x"])}

    def sums(self, model, batch):
        time.sleep(float(os.environ.get("SECONDS_A_STEP", "0")))
        return {"x": ((model(batch["x"]) - batch["x"] ** 2) ** 2).sum()}


def batch_of(step):
    return {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(step))}


model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 4))
ch.metric("resumed_from", 0)
done = train(model, Squares(), batch_of, n_steps=80, schedule=lambda s: 1e-2, muon=2.0, seed=1,
             checkpoint_dir=ch.scratch / "steps", checkpoint_every=5)
ch.metric("resumed_from", done["resumed_from"])
save_file(model.state_dict(), ch.output("corpus/raw") / "model.safetensors")
ch.claim("steps", len(done["history"]), equal=80)"""


def wait_for_checkpoint(project: Project, run: subprocess.Popen[str]) -> None:
    """Until this run has written one that was not there before."""
    known = set(project.runs.glob("store/work/*/steps/step_*"))
    until = time.monotonic() + 60
    while set(project.runs.glob("store/work/*/steps/step_*")) <= known:
        assert run.poll() is None and time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.02)


@pytest.mark.slow
def test_runner_killed_at_random_moments_gives_the_same_bits(project: Project) -> None:
    """Ten kills, each at a moment of its own; the weights are those of a run that nobody disturbed."""
    text = chapter("01_first", makes="corpus/raw", body=TRAINING)
    text = text.replace("from llmchain.workbench.chapter", "import torch\\nfrom llmchain.workbench.chapter")  # fmt: skip
    project.put("01_first", text)
    whole = project.summary("01", LLMCHAIN_RUNS=str(project.root / "elsewhere"))
    assert whole["code"] == 0, whole["chapters"][0].get("error")
    rng = random.Random(0)
    for kill in range(10):
        run = start(project, "01", SECONDS_A_STEP="0.15")
        if kill % 3 == 0:  # while it starts
            time.sleep(rng.uniform(0.2, 4))
        else:  # while it trains, checkpoints are written and old ones deleted
            wait_for_checkpoint(project, run)
            time.sleep(rng.uniform(0, 0.6))
        assert run.poll() is None, f"it ended before kill {kill}"
        children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
        run.communicate()
        assert not psutil.wait_procs(children, timeout=20)[1], "no orphan goes on writing"
    last = project.summary("01")
    assert last["code"] == 0 and last["certificate"] == whole["certificate"]
    assert last["chapters"][0]["metrics"]["resumed_from"] > 0
    assert not list(project.runs.glob("store/work/*/steps")), (
        "checkpoints of a finished run are gone"
    )


def test_chapter_that_takes_too_long_is_stopped_and_can_go_on(slow: Project) -> None:
    summary = slow.summary("01", "--timeout", "3")
    assert summary["code"] == 1 and "took longer than 3 s" in summary["chapters"][0]["error"]
    assert not list(slow.runs.glob("store/artifacts/corpus+raw/*"))
    again = slow.summary("01")
    assert again["code"] == 0 and again["chapters"][0]["metrics"]["resumed_at"] >= 1


def test_second_interrupt_does_not_wait(project: Project) -> None:
    """A chapter that ignores polite signals has three seconds, and none when Ctrl-C comes again."""
    body = (
        "import os, signal, subprocess, sys, time\n"
        'stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"\n'
        "subprocess.Popen([sys.executable, '-c', stubborn])\ntime.sleep(1)\n"
        '(ch.scratch / "steps").write_text("9")\ntime.sleep(60)\nch.write("corpus/raw", [])'
    )
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    took = []
    for again in (False, True):
        run = start(project, "01")
        wait_for_step(project)
        children = psutil.Process(run.pid).children(recursive=True)
        begun = time.monotonic()
        os.kill(run.pid, signal.SIGINT)
        if again:
            time.sleep(0.5)
            os.kill(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=50)
        took.append(time.monotonic() - begun)
        assert run.returncode == 130 and json.loads(out)["state"] == "interrupted", err
        assert not psutil.wait_procs(children, timeout=10)[1]
        for path in project.runs.glob("store/work/*/steps"):
            path.unlink()
    assert took[1] < took[0], took


def test_full_disk_publishes_nothing(project: Project) -> None:
    """Files may grow to 300 kB: the chapter's own output does not fit."""
    body = 'ch.write("corpus/raw", [{"i": i, "text": "x" * 1000} for i in range(2000)])'
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    command = f"ulimit -f 300; exec {sys.executable} -m llmchain.workbench.cli run 01 --json"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                          env=project.environment(), cwd=project.root)  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "File too large" in json.loads(done.stdout)["chapters"][0]["error"]
    assert not list(project.runs.glob("store/artifacts/corpus+raw/*"))
    assert project.summary("01")["code"] == 0


def test_torn_manifest_is_rebuilt(project: Project) -> None:
    first = project.summary("01", "02")
    (path,) = project.runs.glob("store/artifacts/corpus+raw/*/manifest.json")
    path.chmod(0o644)
    path.write_text(path.read_text()[:40])
    again = project.summary("01", "02")
    assert [c["status"] for c in again["chapters"]] == ["ok", "cached"]
    assert again["certificate"] == first["certificate"]


def test_deleted_artifact_is_rebuilt(project: Project) -> None:
    import shutil

    first = project.summary("01", "02")
    (path,) = project.runs.glob("store/artifacts/corpus+raw/*")
    shutil.rmtree(path)
    again = project.summary("01", "02")
    assert [c["status"] for c in again["chapters"]] == ["ok", "cached"]
    assert again["certificate"] == first["certificate"]


def test_artifact_that_is_a_link_is_not_used(project: Project, tmp_path: Path) -> None:
    project.summary("01")
    (path,) = project.runs.glob("store/artifacts/corpus+raw/*")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    again = project.summary("01")
    assert again["code"] == 0 and again["chapters"][0]["status"] == "ok"
    assert path.is_dir() and not path.is_symlink() and elsewhere.is_dir()


def test_link_out_of_the_store_is_refused(project: Project) -> None:
    body = 'import os\nos.symlink("/etc/hostname", ch.output("corpus/raw") / "link")'
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    summary = project.summary("01")
    assert summary["code"] == 1 and "link is not a plain file" in summary["chapters"][0]["error"]


def test_out_of_memory_is_said(project: Project) -> None:
    body = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        'x = bytearray(2**32)\nch.write("corpus/raw", [])'
    )
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    summary = project.summary("01")
    assert summary["code"] == 1 and "MemoryError" in summary["chapters"][0]["error"]
    body = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(5)"
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    summary = project.summary("01")
    assert "SIGKILL; the machine may be out of memory" in summary["chapters"][0]["error"]


def test_diverged_training_names_step_and_rate(project: Project) -> None:
    body = TRAINING.replace("lambda s: 1e-2", "lambda s: 1e-2 if s < 30 else 1e38")
    text = chapter("01_first", makes="corpus/raw", body=body)
    project.put("01_first", text.replace("from llmchain.workbench.chapter", "import torch\\nfrom llmchain.workbench.chapter"))  # fmt: skip
    error = project.summary("01")["chapters"][0]["error"]
    assert "FloatingPointError" in error and "step 3" in error and "checkpoint" in error, error


def test_clock_moved_back_changes_nothing(project: Project) -> None:
    """What was made last is the newest, whatever its time says."""
    future = time.time() + 86400
    first = project.summary("01", "-p", "first.n=3")
    (path,) = project.runs.glob("store/artifacts/corpus+raw/*/manifest.json")
    os.utime(path, (future, future))
    Path(first["folder"]).rename(project.runs / "21010101T000000-cpu-ffff")
    second = project.summary("01", "-p", "first.n=4")
    newest = project.summary("02", "--only")["chapters"][0]["inputs"]["corpus/raw"]
    assert newest == second["chapters"][0]["outputs"]["corpus/raw"]
    assert second["run"] > "21010101T000000" and json.loads(project.llmchain("show", "--json").stdout)["run"] > second["run"]  # fmt: skip


def test_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    import pickle

    from llmchain.finetune.classification import load_classifier
    from llmchain.pretrain.bert import load_bert
    from llmchain.pretrain.training import newest_checkpoint

    mark = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (mark.write_text, ("x",))

    step = tmp_path / "step_00000001"
    step.mkdir()
    for name in ("pytorch_model.bin", "model.safetensors", "optimizer.safetensors"):
        (step / name).write_bytes(pickle.dumps(Trap()))
    (step / "config.json").write_text("{}")
    for load in (load_classifier, load_bert):
        with pytest.raises(Exception):  # noqa: B017  which error is theirs to say; none may execute
            load(step)
    with pytest.raises(RuntimeError, match="no usable checkpoint"):
        newest_checkpoint(tmp_path)
    assert not mark.exists()


FRONT = ("raw", "---\nchapter:\n  makes: [a/b]\n---")
VALUES = ("code", "seed: int = 0  # seed (0 to 9)", ["parameters"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (notebook(("raw", "---\nchapter: [\n---"), VALUES), "04_bad: front matter is not valid YAML"),
        (notebook(FRONT, VALUES, VALUES), "04_bad: 2 code cells are tagged `parameters`"),
        (notebook(FRONT), "04_bad: 0 code cells are tagged `parameters`"),
        ('{"cells": [', "04_bad: not a notebook"),
        (chapter("04_bad", makes="corpus/raw"), "04_bad: `corpus/raw` is already made by 01_first"),
        (chapter("04_bad", needs="no/such", makes="a/b"), "04_bad: needs `no/such`, which no chapter"),
        (chapter("04_bad", needs="c/d", makes="c/d"), "cycle of artifacts: 04_bad → 04_bad"),
    ],
)  # fmt: skip
def test_bad_notebook_is_told_before_anything_starts(
    project: Project, text: str, says: str
) -> None:
    project.put("04_bad", text)
    for words in (["run", "01"], ["plan"], ["list"]):
        done = project.llmchain(*words)
        if (
            words == ["list"]
            and "not a" not in says
            and "tagged" not in says
            and "YAML" not in says
        ):
            continue  # the list shows what the graph would refuse
        assert (done.returncode, done.stdout) == (2, ""), words
        assert [f"llmchain: {says}" in line for line in done.stderr.splitlines()] == [True]
    assert not project.runs.exists()


def test_missing_input_is_told_with_the_command_that_makes_it(project: Project) -> None:
    done = project.llmchain("run", "02", "--only")
    assert done.returncode == 1
    assert "02_second needs `corpus/raw`, made by 01_first: llmchain run 01_first" in done.stdout


def test_archive_that_leads_out_writes_nothing(tmp_path: Path) -> None:
    """The archives we read are read in memory, by the names that the catalogue gives."""
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    path = inside / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../out.txt", f"{tmp_path}/out.txt", "a.txt"):
            content = b"1\t3.0\tfine words"
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    entry = {"kind": "ratings", "members": ["a.txt"], "neutral": 0.5}
    rows = list(catalog._ratings(path, entry))
    assert [row["text"] for row in rows] == ["fine words"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "inside", "x.tar.gz"]
