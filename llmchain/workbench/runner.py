"""Runs chapters through Papermill in worker processes, in the order of their artifacts.

A chapter whose cache key has a finished record is not run. "Finished" is decided by that record
and the hashes of its outputs, never by what Papermill wrote into the notebook: it marks cells as
completed that never ran.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from llmchain.workbench import cluster, graph, warm, worker
from llmchain.workbench.contract import Chapter, ContractError, project_root
from llmchain.workbench.key import cache_key, code_of, threads
from llmchain.workbench.machine import GIGABYTE, cores, device_class, environment, stop_tree
from llmchain.workbench.store import Store, read_json, runs_folder, write_json

# ── where chapters are executed ───────────────────────────────────────────────────────────────


class Forked:
    """A chapter in a process of this machine."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def exitcode(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.exitcode

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """End it and its kernel, politely unless `hurry`."""
        stop_tree(self._process.pid or 0, hurry=hurry)
        self._process.join()


class Here:
    """Starts chapters on this machine, forked from a server that has imported what they import."""

    schedules = False  # the runner counts cores and memory itself

    def __init__(self, names: Iterable[str], log: Path) -> None:
        self._server = warm.Server(names, log)

    @property
    def ready(self) -> bool:
        """Whether the imports are done."""
        return self._server.ready

    def start(self, job: dict[str, Any], environment: dict[str, str], memory: float, gpu: bool) -> Forked:  # fmt: skip
        """Start a worker with a job that lies in its folder."""
        path = str(Path(job["folder"]) / "job.json")
        return Forked(self._server.start(worker.main, path, environment))


# what may keep a chapter from being started: a bad declaration, a missing input, a cell that is no Python
UNREADY = (ContractError, FileNotFoundError, SyntaxError)

# ── a run ─────────────────────────────────────────────────────────────────────────────────────


@dataclass
class State:
    """Where one chapter of a run stands."""

    chapter: Chapter
    status: str = "waiting"  # waiting running ok cached failed skipped interrupted
    seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    key: str = ""
    started: float = 0.0
    process: "Forked | cluster.Task | None" = None

    def summary(self) -> dict[str, Any]:
        """The chapter's entry in summary.json."""
        fields = ("peak_rss_mb", "parameters", "metrics", "claims", "inputs", "outputs", "data")
        entry: dict[str, Any] = {
            "id": self.chapter.id,
            "title": self.chapter.title,
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "key_metric": self.chapter.key,
            "key": self.key,
        }
        entry |= {f: self.record.get(f) for f in fields}
        return entry | ({"error": self.error} if self.error else {})


@dataclass
class Run:
    """One run of some chapters at one profile; `execute` does it, `summary` tells of it."""

    chapters: dict[str, Chapter]
    selected: list[str]
    profile: str
    parameters: dict[str, dict[str, Any]]
    changed: set[str]  # chapters whose parameters are not those of the profile
    jobs: int = 2
    force: bool = False
    keep_going: bool = False
    artifacts: dict[str, str] = field(default_factory=dict)  # taken before the newest ones
    timeout: float | None = None  # seconds for a chapter; None: as long as it takes
    on: str = ""  # address of a cluster; empty: this machine
    notify: Callable[["Run"], None] = lambda run: None

    def __post_init__(self) -> None:
        self.root, self.store = project_root(), Store()
        self.started, self.seconds, self.state = time.time(), 0.0, "running"
        self.id = f"{_stamp()}-{self.profile}-{uuid.uuid4().hex[:4]}"
        self.folder = runs_folder() / self.id
        self.states = {i: State(self.chapters[i]) for i in self.selected}
        needed = graph.dependencies(self.chapters)
        # a maker that was not selected has its newest artifact taken
        self.depends = {i: needed[i] & set(self.selected) for i in self.selected}
        self._maker = graph.makers(self.chapters)
        self._written = 0.0
        self._interrupts = 0
        self._place: Here | cluster.Cluster | None = None

    def execute(self) -> dict[str, Any]:
        """Run everything; returns the summary, which is also kept in the run folder.

        OSError if the run folder cannot be written. Ctrl-C stops the workers cleanly."""
        with contextlib.ExitStack() as stack:
            if self.on:  # a cluster that cannot be reached is said before a run exists
                self._place = cluster.Cluster(self.on, self.root, runs_folder())
                stack.callback(self._place.close)
            self.folder.mkdir(parents=True)
            write_json(self.folder / "environment.json", environment(self.root))
            stack.enter_context(self._interrupts_counted())
            self._go_on()
        self.seconds = time.time() - self.started
        summary = self.summary()
        write_json(self.folder / "summary.json", summary)
        self.notify(self)
        return summary

    def _go_on(self) -> None:
        """Until every chapter has come to an end, or Ctrl-C."""
        while any(s.status in ("waiting", "running") for s in self.states.values()):
            if self._interrupts:
                self._stop()
                break
            self._step()
            self.notify(self)
            if time.time() - self._written > 2:  # for `llmchain status` in another terminal
                self._written = time.time()
                write_json(self.folder / "summary.json", self.summary(), durable=False)
            time.sleep(0.03)
        self.state = "interrupted" if self._interrupts else "finished"

    @contextlib.contextmanager
    def _interrupts_counted(self) -> Iterator[None]:
        """Ctrl-C is counted and looked at between two steps.

        An exception out of the middle of a step could forget a worker that has just been started."""

        def count(number: int, frame: object) -> None:
            self._interrupts += 1

        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            yield  # only the main thread may set handlers; and `nohup` and `&` mean what they say
            return
        before = signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def summary(self) -> dict[str, Any]:
        """The run as programs read it (`llmchain show --json`)."""
        entries = [self.states[name].summary() for name in self.chapters if name in self.states]
        outputs = {e["id"]: e["outputs"] for e in entries}
        mark = hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()
        return {
            "run": self.id,
            "profile": self.profile,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(self.seconds or time.time() - self.started, 2),
            "device": device_class(),
            "cores": cores(),
            "certificate": mark,
            "state": self.state,
            "pid": os.getpid(),
            "folder": str(self.folder),
            "chapters": entries,
        }

    def plan(self) -> list[dict[str, Any]]:
        """What `execute` would do with each chapter, and why; nothing is started."""
        entries = []
        for name, state in self.states.items():
            waits = sorted(d for d in self.depends[name] if self.states[d].status != "cached")
            action, why = "run", f"after {', '.join(waits)}"
            if not waits:
                why = "no finished result with this code, parameters and inputs"
                try:
                    if self._find(state):
                        state.status, action = "cached", "take"
                        why = f"finished before ({state.key[:12]})"
                except UNREADY as error:
                    action, why = "cannot run", str(error)
            cost = state.chapter.cost.get(self.profile, {})
            seconds = cost.get("seconds", 0.0) if action == "run" else 0.0
            entry = {"id": name, "action": action, "why": why, "expected_seconds": seconds}
            entries.append(entry | {"expected_gb": cost.get("gigabytes", 0.0)})
        return entries

    def _find(self, state: State) -> Path | None:
        """Set the key of a chapter and its inputs, or its finished record and return that folder."""
        chapter = state.chapter
        inputs = self._inputs(chapter)
        profile = "custom" if chapter.id in self.changed else self.profile
        state.key = cache_key(chapter, self.parameters[chapter.id], inputs, profile, self.root)
        state.record = {"inputs": inputs}
        if self.force or not (kept := self.store.result(chapter.id, state.key)):
            return None
        folder, state.record = kept
        return folder

    def too_large(self) -> list[str]:
        """One line for each chapter that states more memory than this machine has."""
        import psutil

        there = psutil.virtual_memory().total / GIGABYTE
        lines = []
        for name, state in self.states.items():
            stated = state.chapter.cost.get(self.profile, {}).get("gigabytes", 0.0)
            if stated > there:
                lines.append(
                    f"{name} states {stated:g} GB at profile {self.profile}, this machine has "
                    f"{there:.1f}; choose smaller values with -p, or say --anyway"
                )
        return lines

    def _step(self) -> None:
        for state in self.states.values():
            if state.status == "running":
                self._collect(state)
        stop = not self.keep_going and any(s.status == "failed" for s in self.states.values())
        for state in self.states.values():
            if state.status != "waiting":
                continue
            before = [self.states[d] for d in self.depends[state.chapter.id]]
            if stop or any(s.status in ("failed", "skipped") for s in before):
                state.status = "skipped"
                bad = [s.chapter.id for s in self.states.values() if s.status == "failed"]
                state.error = f"not run, because {', '.join(bad)} failed"
            elif all(s.status in ("ok", "cached") for s in before):
                self._start(state)

    def _start(self, state: State) -> None:
        """Take the chapter from the store, or start a worker if there is room for one."""
        chapter = state.chapter
        if not state.key:
            try:
                kept = self._find(state)
            except UNREADY as error:
                state.status, state.error = "failed", str(error)
                return
            if kept:
                shutil.copytree(kept, self.folder / chapter.id, dirs_exist_ok=True)
                state.status, state.seconds = "cached", float(state.record["seconds"])
                return
        if self._place is None:
            self._place = Here(self._imports(), self.folder / "imports.txt")
        if not self._place.ready or not (self._place.schedules or self._room_for(chapter)):
            return
        folder = self.folder / chapter.id
        job = {
            "chapter": chapter.id,
            "profile": self.profile,
            "custom": chapter.id in self.changed,
            "inputs": state.record["inputs"],
            "folder": str(folder),
            "scratch": str(self.store.work(state.key)),
            "key": state.key,
            "force": self.force,
            "notebook": str(chapter.path),
            "parameters": self.parameters[chapter.id],
            "runs": str(runs_folder()),
            "root": str(self.root),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "job.json", job)
        environment = {
            **os.environ,
            "LLMCHAIN_CONTEXT": str(folder / "job.json"),
            "LLMCHAIN_RUNS": str(runs_folder()),
            "LLMCHAIN_ROOT": str(self.root),
            "LLMCHAIN_THREADS": str(threads(chapter)),
            "OMP_NUM_THREADS": str(threads(chapter)),
            "PYTHONHASHSEED": "0",
            "TOKENIZERS_PARALLELISM": "true",
            "MPLBACKEND": "agg",
        }
        gpu = device_class().startswith("cuda")
        state.process = self._place.start(job, environment, self._memory(chapter), gpu)
        state.status, state.started = "running", time.monotonic()

    def _imports(self) -> set[str]:
        """What the chapters of this run import; nothing that could touch a GPU before the fork."""
        if device_class().startswith("cuda"):
            return set()
        found: set[str] = set()
        for state in self.states.values():
            if state.status == "waiting":
                found |= code_of(state.chapter, self.root)[1]
        return found

    def _inputs(self, chapter: Chapter) -> dict[str, str]:
        """Hash of each input: from this run where its maker is part of it, else the newest."""
        maker, found = self._maker, {}
        for name in chapter.needs:
            if state := self.states.get(maker[name]):
                digest = state.record["outputs"][name]
            else:
                digest = self.artifacts.get(name) or self.store.latest(name)
            if digest is None:
                raise FileNotFoundError(
                    f"{chapter.id} needs `{name}`, made by {maker[name]}: llmchain run {maker[name]}"
                )
            found[name] = digest
        return found

    def _room_for(self, chapter: Chapter) -> bool:
        """Whether the cores and the stated memory of this chapter are free, and nobody is alone."""
        import psutil

        running = [s for s in self.states.values() if s.status == "running"]
        if not running:
            return True
        if chapter.alone or any(s.chapter.alone for s in running) or len(running) >= self.jobs:
            return False
        if threads(chapter) + sum(threads(s.chapter) for s in running) > cores():
            return False
        taken = sum(self._memory(s.chapter) for s in running)
        return taken + self._memory(chapter) < 0.9 * psutil.virtual_memory().total

    def _memory(self, chapter: Chapter) -> float:
        """Bytes that the chapter states for this profile."""
        return chapter.cost.get(self.profile, {}).get("gigabytes", 1.0) * GIGABYTE

    def _collect(self, state: State) -> None:
        """See whether a worker has ended and how."""
        state.seconds = time.monotonic() - state.started
        if state.process is None:
            return
        late = self.timeout is not None and state.seconds > self.timeout
        if late and state.process.exitcode is None:
            state.process.stop()
        elif state.process.exitcode is None:
            return
        folder = self.folder / state.chapter.id
        kept = self.store.result(state.chapter.id, state.key)
        outcome = read_json(folder / "outcome.json") or {}
        if state.process.exitcode == 0 and kept is not None:
            state.record = kept[1]
            state.status = "cached" if outcome.get("waited") else "ok"
            return
        inputs = state.record["inputs"]
        state.record = {"inputs": inputs, **(read_json(folder / "record.json") or {})}
        state.status = "failed"
        state.error = outcome.get("error") or _how_it_ended(state.process.exitcode or 0)
        if late:
            state.error = (
                f"took longer than {self.timeout:g} s; run again without --timeout to resume"
            )

    def _stop(self) -> None:
        """End all workers; a second Ctrl-C ends the wait for those that do not go by themselves."""
        for state in self.states.values():
            if state.status == "running" and state.process is not None:
                state.process.stop(hurry=lambda: self._interrupts > 1)
                state.status = "interrupted"
            elif state.status == "waiting":
                state.status, state.error = "skipped", "not run, because the run was interrupted"


def _stamp() -> str:
    """Time of day for the name of a run, later than that of all others even if the clock went back."""
    form = "%Y%m%dT%H%M%S"
    newest = max((p.name[:15] for p in runs_folder().glob("2*T*-*")), default="")
    now = time.time()
    try:
        now = max(now, time.mktime(time.strptime(newest, form)) + 1)
    except ValueError:
        pass  # no run yet
    return time.strftime(form, time.localtime(now))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the worker ended with code {code} and left no record; see log.txt"
    name = signal.Signals(-code).name
    hint = "; the machine may be out of memory" if name == "SIGKILL" else ""
    return f"the worker was ended by {name}{hint}; run again to resume"


def find_run(name: str | None) -> Path:
    """The folder of run `name`, or of the newest; FileNotFoundError says what there is."""
    base = runs_folder()
    found = sorted((p.parent for p in base.glob("*/summary.json")), key=lambda p: p.name)
    if name is None:
        if not found:
            raise FileNotFoundError(f"no finished run under {base}; start one: llmchain run")
        return found[-1]
    hits = [p for p in found if p.name == name or p.name.startswith(name)]
    if len(hits) != 1:
        known = ", ".join(p.name for p in found[-3:]) or "none"
        raise FileNotFoundError(f"{len(hits)} runs are called `{name}`; the newest: {known}")
    return hits[0]


def read_summary(name: str | None) -> dict[str, Any]:
    """summary.json of a run."""
    return read_json(find_run(name) / "summary.json") or {}


def key_claim(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The claim that stands for a chapter: on its key metric, else its first."""
    claims: Iterable[dict[str, Any]] = entry.get("claims") or []
    named = [c for c in claims if c["name"] == entry.get("key_metric")]
    return next(iter([*named, *claims]), None)
