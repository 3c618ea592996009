"""The same artifacts from a cluster; a machine that is lost is no failure; the storage is not trusted."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import fsspec
import pytest
from conftest import Project, chapter

from llmchain.workbench.cluster import Storage
from llmchain.workbench.store import MANIFEST, Store

SLOW = """import os, time
from pathlib import Path
place = Path(os.environ["LLMCHAIN_DATA"])
(place / f"{os.getpid()}").write_text(str(Path(os.environ["LLMCHAIN_RUNS"]).name))
for _ in range(200):
    time.sleep(0.1)
    if len(list(place.iterdir())) > 1:
        break
ch.write("corpus/raw", [{"i": 1}])
ch.claim("rows", 1, equal=1)"""


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    local = request.param == "file"
    return Storage(str(tmp_path / "storage") if local else f"memory://{uuid.uuid4().hex}")


def artifact(store: Store) -> str:
    folder = store.fresh()
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    return store.publish("corpus/raw", folder, {"made_by": "01_first", "profile": "smoke"})


def test_artifact_travels_and_is_the_same(storage: Storage, tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    digest = artifact(one)
    storage.keep(one, "corpus/raw", digest)
    storage.keep(one, "corpus/raw", digest)  # again: nothing to do
    storage.fetch(two, "corpus/raw", digest)
    assert two.problems("corpus/raw", digest) == []
    assert (two.path("corpus/raw", digest) / "deep" / "a.txt").read_text() == "a"
    assert two.manifest("corpus/raw", digest)["made_by"] == "01_first"
    storage.fetch(two, "corpus/raw", digest)


def test_what_is_not_there_or_changed_is_refused(storage: Storage, tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    digest = artifact(one)
    with pytest.raises(FileNotFoundError, match="no artifact corpus/raw"):
        storage.fetch(two, "corpus/raw", digest)
    storage.keep(one, "corpus/raw", digest)
    files, base = fsspec.core.url_to_fs(storage.url)
    files.pipe_file(f"{base}/artifacts/corpus/raw/{digest}/b.txt", b"changed")
    with pytest.raises(ValueError, match="holds"):
        storage.fetch(two, "corpus/raw", digest)
    assert two.problems("corpus/raw", digest), "what was fetched is not taken for the artifact"


def test_torn_copy_has_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, one = Storage(str(tmp_path / "storage")), Store(tmp_path / "one")
    digest = artifact(one)
    put = storage._files.put_file
    copied = []

    def torn(source: str, target: str) -> None:
        if len(copied) == 2:
            raise ConnectionError("cut")
        copied.append(target)
        put(source, target)

    monkeypatch.setattr(storage._files, "put_file", torn)
    with pytest.raises(ConnectionError):
        storage.keep(one, "corpus/raw", digest)
    assert not list((tmp_path / "storage").rglob(MANIFEST))


def test_name_that_leads_out_is_refused(tmp_path: Path) -> None:
    storage = Storage("memory://" + uuid.uuid4().hex)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage._files, "find", lambda base: [f"{base}/../../x"])
        with pytest.raises(ValueError, match="leads out"):
            storage.get("a", tmp_path)


@pytest.mark.slow
def test_ray_makes_the_same_artifacts_and_says_what_fails(project: Project) -> None:
    pytest.importorskip("ray", reason="extra scale is not installed")
    project.put(
        "03_aside", chapter("03_aside", makes="report/aside", body="raise KeyError('gone')")
    )
    here = project.summary("--keep-going", LLMCHAIN_RUNS=str(project.root / "elsewhere"))
    storage = {"LLMCHAIN_STORAGE": str(project.root / "storage")}
    there = project.summary("--keep-going", "--on", "ray", **storage)
    assert [c["status"] for c in there["chapters"]] == ["ok", "ok", "failed"], there
    assert there["code"] == 1 and "KeyError: 'gone'" in there["chapters"][2]["error"]
    assert "gone" in (Path(there["folder"]) / "03_aside" / "log.txt").read_text()
    assert there["certificate"] == here["certificate"]
    for entry in there["chapters"][:2]:
        assert (Path(there["folder"]) / entry["id"] / "notebook.ipynb").exists()
        for name, digest in entry["outputs"].items():
            assert Store(project.runs / "store").problems(name, digest) == []
            assert (project.root / "storage" / "artifacts" / name / digest / MANIFEST).exists()
    again = project.summary("01", "02")
    assert [c["status"] for c in again["chapters"]] == ["cached"] * 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_cluster_at_an_address(project: Project) -> None:
    """As on a real one: a head that runs by itself and asks for a token, reached by `ray://`."""
    pytest.importorskip("ray", reason="extra scale is not installed")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    here = project.summary("01", LLMCHAIN_RUNS=str(project.root / "elsewhere"))
    ray, port = Path(sys.executable).with_name("ray"), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # a short path: it holds sockets
        words = [
            str(ray),
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--include-dashboard=false",
        ]
        words += ["--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
        words += [f"--port={free_port()}", f"--ray-client-server-port={port}"]
        words += ["--min-worker-port=0", "--max-worker-port=0"]
        head = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | token
        )  # fmt: skip
        try:
            assert head.stdout and any("Ray runtime started" in line for line in head.stdout)
            storage = {"LLMCHAIN_STORAGE": str(project.root / "storage")}
            there = project.summary("01", "--on", f"ray://127.0.0.1:{port}", **storage, **token)
        finally:
            head.terminate()
            head.wait(timeout=60)
    assert there["code"] == 0, there
    assert there["chapters"][0]["status"] == "ok"
    assert there["certificate"] == here["certificate"]


def test_what_cannot_be_reached_is_one_line_and_no_run(project: Project) -> None:
    (project.root / "without").mkdir()
    (project.root / "without" / "ray.py").write_text("raise ImportError('not here')")
    paths = {"PYTHONPATH": str(project.root / "without")}
    for words, variables, said in (
        (["--on", "ray"], paths, "llmchain: --on needs Ray: pip install 'llmchain[scale]'"),
        (["--on", "ray"], {"LLMCHAIN_STORAGE": "foo://x"}, "llmchain: Protocol not known: foo"),
        (["--on", f"ray://127.0.0.1:{free_port()}"], {}, "llmchain: --on ray://127.0.0.1:"),
    ):
        done = project.llmchain("run", "01", *words, **variables)
        assert done.returncode == 1 and done.stderr.startswith(said), done.stderr
        assert "Traceback" not in done.stderr
        assert not list(project.runs.glob("2*")), "no run was begun"


@pytest.mark.slow
def test_lost_machine_is_no_failure(project: Project) -> None:
    """Two machines; the one that works on the chapter is taken away; the other does it."""
    pytest.importorskip("ray", reason="extra scale is not installed")
    from ray.cluster_utils import Cluster

    seen = project.root / "seen"
    seen.mkdir()
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=SLOW))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})  # fmt: skip
    try:
        machines = [cluster.add_node(num_cpus=2, include_dashboard=False) for _ in range(2)]
        variables = {"RAY_ADDRESS": cluster.address, "LLMCHAIN_DATA": str(seen),
                     "LLMCHAIN_STORAGE": str(project.root / "storage")}  # fmt: skip
        words = [
            sys.executable,
            "-m",
            "llmchain.workbench.cli",
            "run",
            "01",
            "--on",
            "ray",
            "--json",
        ]
        run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=project.environment(**variables), cwd=project.root)  # fmt: skip
        until = time.monotonic() + 120
        while not list(seen.iterdir()) and time.monotonic() < until and run.poll() is None:
            time.sleep(0.1)
        (mark,) = seen.iterdir()
        time.sleep(0.3)
        (busy,) = [m for m in machines if mark.read_text().endswith(m.node_id)]
        cluster.remove_node(busy, allow_graceful=False)
        out, err = run.communicate(timeout=180)
    finally:
        cluster.shutdown()
    summary = json.loads(out)
    assert run.returncode == 0 and summary["chapters"][0]["status"] == "ok", (summary, err)
    marks = {path.read_text() for path in seen.iterdir()}
    assert len(marks) == 2, "it was begun on one machine and done on the other"
