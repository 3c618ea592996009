"""Chapters as tasks of Ray: `llmchain run --on ray`, or `--on ray://HEAD:10001` for a cluster that is there.

A task fetches the inputs of its chapter from the storage, executes the chapter as a worker on this
machine would, and puts back what it made; hashes are checked on both sides. The storage is a folder
that all machines see or anything fsspec knows, `s3://bucket/prefix` for example: LLMCHAIN_STORAGE.
"""

import contextlib
import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from llmchain.workbench.store import MANIFEST, Store, read_json, write_json

# what a machine of the cluster must be told; all other variables are its own
TOLD = ("LLMCHAIN_DATA", "LLMCHAIN_DEVICE", "WANDB_PROJECT", "WANDB_MODE")
NOT_SENT = [".git", ".venv", "runs", "_site", "_stage", "node_modules"]


class Storage:
    """Folders at a place that every machine of the cluster reaches."""

    def __init__(self, url: str) -> None:
        """ValueError or ImportError, as fsspec says it, if the address is of no known kind."""
        import fsspec

        self.url = url
        self._files, self._base = fsspec.core.url_to_fs(url)

    def _at(self, *parts: str) -> str:
        return "/".join([self._base, *parts])

    def put(self, folder: Path, place: str) -> None:
        """Copy a folder there; the manifest comes last, so that a torn copy has none."""
        if self._files.exists(self._at(place, MANIFEST)):
            return
        files = [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]
        for path in sorted(files, key=lambda p: p.name == MANIFEST):
            target = self._at(place, path.relative_to(folder).as_posix())
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), target)

    def get(self, place: str, folder: Path) -> None:
        """Copy a folder from there. ValueError at a name that leads out of it."""
        base = self._at(place)
        for found in self._files.find(base):
            name = PurePosixPath(found[len(base) :].lstrip("/"))
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"storage {self.url}: {found} leads out of {place}")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.get_file(found, str(target))

    def fetch(self, store: Store, name: str, digest: str) -> None:
        """Bring an artifact into a store that lacks it. ValueError if it is not what its hash says."""
        if not store.problems(name, digest):
            return
        folder = store.fresh()
        self.get(f"artifacts/{name}/{digest}", folder)
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            raise FileNotFoundError(f"storage {self.url}: no artifact {name} {digest[:12]}")
        (folder / MANIFEST).unlink()
        facts = {k: manifest[k] for k in ("made_by", "profile", "inputs") if k in manifest}
        if (got := store.publish(name, folder, facts)) != digest:
            raise ValueError(f"storage {self.url}: {name} {digest[:12]} holds {got[:12]}")

    def keep(self, store: Store, name: str, digest: str) -> None:
        """Copy an artifact there."""
        self.put(store.path(name, digest), f"artifacts/{name}/{digest}")


# ── on a machine of the cluster ───────────────────────────────────────────────────────────────


def _end_with_parent() -> None:
    # PR_SET_PDEATHSIG: a task that is cancelled takes its chapter along
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def execute(job: dict[str, Any], environment: dict[str, str], device: str, url: str, node: str) -> dict[str, Any]:  # fmt: skip
    """Do a job in the folder that Ray has unpacked the checkout to; returns the outcome.

    What belongs to the machine (folders, the notebook's path) is filled in here."""
    from llmchain.workbench.machine import device_class

    if (here := device_class()) != device:
        problem = f"the run was planned for {device}, this machine is {here}: set LLMCHAIN_DEVICE_CLASS={here}"
        return {"error": problem}
    storage, root = Storage(url), Path.cwd()
    runs = Path(tempfile.gettempdir()) / f"llmchain-{os.getuid()}-{node}"
    store = Store(runs / "store")
    for name, digest in job["inputs"].items():
        storage.fetch(store, name, digest)
    folder = runs / job["run"] / job["chapter"]
    folder.mkdir(parents=True, exist_ok=True)
    job |= {"folder": str(folder), "scratch": str(store.work(job["key"])), "runs": str(runs)}
    job |= {"root": str(root), "notebook": str(root / job["notebook"])}
    write_json(folder / "job.json", job)
    places = {"LLMCHAIN_CONTEXT": folder / "job.json", "LLMCHAIN_RUNS": runs, "LLMCHAIN_ROOT": root}
    told = {**os.environ, **environment, **{k: str(v) for k, v in places.items()}}
    words = [sys.executable, "-m", "llmchain.workbench.worker", str(folder / "job.json")]
    done = subprocess.run(words, env=told, cwd=root, preexec_fn=_end_with_parent)
    outcome = read_json(folder / "outcome.json") or {}
    if done.returncode == 0:
        record = read_json(folder / "record.json")
        for name, digest in record["outputs"].items():
            storage.keep(store, name, digest)
    elif "error" not in outcome:
        outcome["error"] = f"the worker ended with code {done.returncode} on {node[:8]}"
    storage.put(folder, f"runs/{job['run']}/{job['chapter']}")
    return outcome


# ── on the machine of the run ─────────────────────────────────────────────────────────────────


class Task:
    """A chapter on the cluster; to the runner it is a worker like one of its own."""

    def __init__(self, reference: Any, bring_home: Callable[[], None], folder: Path) -> None:
        self._reference, self._bring_home, self._folder = reference, bring_home, folder
        self._code: int | None = None

    @property
    def exitcode(self) -> int | None:
        """None while it waits or runs, 0 when all it made is here, 1 if it failed."""
        import ray

        if self._code is None and ray.wait([self._reference], timeout=0)[0]:
            try:
                outcome = ray.get(self._reference)
                self._bring_home()
            except Exception as error:  # of the cluster or the storage: the run goes on and says it
                text = str(error).strip().splitlines()
                outcome = {"error": f"{type(error).__name__}: {text[-1] if text else ''}"}
            write_json(self._folder / "outcome.json", outcome)
            self._code = int("error" in outcome)
        return self._code

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End it."""
        import ray

        ray.cancel(self._reference, force=True)


class Cluster:
    """Starts chapters as tasks of Ray, with the processors and memory that they state."""

    schedules = True  # Ray decides what runs where and when
    ready = True

    def __init__(self, address: str, root: Path, runs: Path) -> None:
        """Connect, or start Ray here for `ray` without RAY_ADDRESS.

        ImportError if Ray is not installed, ConnectionError if none answers at the address."""
        try:
            import ray
        except ImportError:
            raise ImportError("--on needs Ray: pip install 'llmchain[scale]'") from None
        self._root = root
        self._storage = Storage(os.environ.get("LLMCHAIN_STORAGE") or str(runs / "storage"))
        if place := re.fullmatch(r"(?:ray://)?(\S+):(\d+)", address):  # Ray would try for minutes
            try:
                socket.create_connection((place[1], int(place[2])), timeout=10).close()
            except OSError as error:
                raise ConnectionError(f"--on {address}: nothing answers there ({error})") from None
        sent = {"working_dir": str(root), "excludes": NOT_SENT}
        known = None if address == "ray" else address
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of them is in the error
            try:
                ray.init(known, runtime_env=sent, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
                text = " ".join(str(error).split())[:200]
                raise ConnectionError(f"--on {address}: no Ray there ({text})") from None

    def start(self, job: dict[str, Any], environment: dict[str, str], memory: float, gpu: bool) -> Task:  # fmt: skip
        """Put the inputs into the storage and the chapter into Ray's queue; a lost machine is no failure."""
        import ray

        from llmchain.workbench.machine import device_class

        store, storage, home = Store(), self._storage, Path(job["folder"])
        for name, digest in job["inputs"].items():
            storage.keep(store, name, digest)
        job = job | {"run": home.parent.name}
        job["notebook"] = str(Path(job["notebook"]).relative_to(self._root))
        own = ("LLMCHAIN_THREADS", "OMP_NUM_THREADS", "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "MPLBACKEND")  # fmt: skip
        told = {k: environment[k] for k in (*own, *TOLD) if k in environment}
        told["LLMCHAIN_RAY"] = (
            ray.get_runtime_context().gcs_address
        )  # for chapters that share out blocks
        device = device_class()

        @ray.remote(max_retries=3)
        def chapter() -> dict[str, Any]:
            from llmchain.workbench import cluster

            node = ray.get_runtime_context().get_node_id()
            return cluster.execute(dict(job), told, device, storage.url, node)

        def bring_home() -> None:
            storage.get(f"runs/{job['run']}/{job['chapter']}", home)
            record = read_json(home / "record.json") or {}
            if record.get("finished"):
                for name, digest in record["outputs"].items():
                    storage.fetch(store, name, digest)
                store.keep_result(job["chapter"], job["key"], home)

        asked = chapter.options(
            name=job["chapter"],
            num_cpus=int(told["LLMCHAIN_THREADS"]),
            num_gpus=int(gpu),
            memory=memory,
        )
        return Task(asked.remote(), bring_home, home)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()
