"""What a notebook opens: inputs, outputs, numbers, claims, curves and figures of one chapter."""

import ast
import json
import os
import resource
import string
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llmchain.workbench import catalog, tracking
from llmchain.workbench.contract import (
    Chapter,
    ContractError,
    known,
    project_root,
    read_chapter,
)
from llmchain.workbench.store import Store, read_json, runs_folder, write_json

ROWS = "rows.jsonl"
Bound = float | int | dict[str, float]


def open_chapter(chapter_id: str, namespace: dict[str, Any]) -> "Open":
    """Open a chapter from its notebook: `ch = open_chapter("03_deduplicate", vars())`.

    Checks the parameters in `namespace`, finds the inputs, seeds the libraries that can only be
    seeded globally, and sets the number of threads. ContractError: a wrong parameter.
    FileNotFoundError: a missing input, with the command that makes it.
    """
    paths = sorted(project_root().glob(f"nbs/[0-9][0-9]_*/{chapter_id}.ipynb"))
    if len(paths) != 1:
        raise ContractError(f"{chapter_id}: {len(paths)} such notebooks under nbs/; expected one")
    chapter = read_chapter(paths[0])
    parameters, problems = {}, []
    for name in _injected(namespace.get("In", [])):
        try:
            known(chapter, name)
        except ContractError as error:
            problems += error.problems
    for name, parameter in chapter.parameters.items():
        try:
            parameters[name] = parameter.check(namespace.get(name, parameter.default), chapter.id)
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    opened = Open(chapter, parameters)
    namespace.update(parameters)  # an int given for a float is a float from here on
    return opened


def _injected(history: list[str]) -> list[str]:
    """The names that Papermill's injected cell assigns; without this an unknown one is no error."""
    names = []
    for source in history:
        if source.lstrip().startswith("# Parameters"):
            names += [
                target.id
                for node in ast.parse(source).body
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            ]
    return names


def _how_to_make(artifact: str) -> str:
    """`made by 02_clean: llmchain run 02_clean`."""
    for path in sorted(project_root().glob("nbs/[0-9][0-9]_*/*.ipynb")):
        try:
            if artifact in read_chapter(path).makes:
                return f"made by {path.stem}: llmchain run {path.stem}"
        except ContractError:
            continue  # a notebook that somebody is writing; `llmchain doctor` tells of it
    return "which no chapter makes"


class Open:
    """An opened chapter. Everything it is told is kept in its run folder; `close` publishes."""

    def __init__(self, chapter: Chapter, parameters: dict[str, Any]) -> None:
        self.chapter = chapter
        self.parameters = parameters
        self.seed = int(parameters.get("seed", 0))
        self.store = Store()
        self._started = time.time()
        # the runner says where this run lies and what its inputs are; without it we look ourselves
        context = read_json(Path(os.environ.get("LLMCHAIN_CONTEXT", "/nonexistent"))) or {}
        if context.get("chapter") != chapter.id:
            context = {}
        self.context: dict[str, Any] = context
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{chapter.id}-{uuid.uuid4().hex[:6]}"
        self.folder = Path(context.get("folder") or runs_folder() / "interactive" / stamp)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.inputs = self._find_inputs()
        self.profile = self._profile()
        self.threads = int(os.environ.get("LLMCHAIN_THREADS") or os.cpu_count() or 1)
        self.outputs: dict[str, Path] = {}
        self.metrics: dict[str, Any] = {}
        self.claims: list[dict[str, Any]] = []
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.figures: list[dict[str, str]] = []
        self.samples: list[dict[str, Any]] = []
        self.tiers: dict[str, dict[str, str]] = {}
        self._writer: Any = None
        self._tracking = tracking.from_environment(chapter.id, parameters, self.folder)
        self._plots: list[LivePlot] = []
        self._seed_libraries()
        held = ", ".join(f"{n} {d[:8]}" for n, d in self.inputs.items()) or "no inputs"
        print(f"{chapter.id} · profile {self.profile} · {self.device} · {held}")

    # ── what goes in ──────────────────────────────────────────────────────────────────────────

    def _find_inputs(self) -> dict[str, str]:
        given = self.context.get("inputs", {})
        found, missing = {}, []
        for name in self.chapter.needs:
            digest = given.get(name) or self.store.latest(name)
            if digest is None:
                missing.append(f"{self.chapter.id} needs `{name}`, {_how_to_make(name)}")
            else:
                found[name] = digest
        if missing:
            raise FileNotFoundError("\n".join(missing))
        return found

    def _profile(self) -> str:
        """The profile whose bounds apply; `custom` when parameters or inputs are not its own."""
        if self.context:
            profile = "custom" if self.context.get("custom") else self.context["profile"]
        else:
            profile = "cpu" if self.parameters == self.chapter.defaults() else "custom"
        made = {self.store.manifest(n, d).get("profile", "cpu") for n, d in self.inputs.items()}
        return profile if made <= {profile} else "custom"

    def _seed_libraries(self) -> None:
        """Some library code draws from the global state only; ours never does."""
        import random

        random.seed(self.seed)
        if "numpy" in sys.modules:
            import numpy as np

            np.random.seed(self.seed)  # noqa: NPY002
        if "torch" in sys.modules:
            import torch

            torch.manual_seed(self.seed)
            torch.set_num_threads(self.threads)

    @property
    def device(self) -> str:
        """`cuda` if torch is loaded and sees one and LLMCHAIN_DEVICE does not say otherwise."""
        if wanted := os.environ.get("LLMCHAIN_DEVICE"):
            return wanted
        torch = sys.modules.get("torch")
        return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"

    def input(self, name: str) -> Path:
        """The folder of an input artifact. KeyError if the front matter does not name it."""
        if name not in self.inputs:
            raise KeyError(f"{self.chapter.id}: `{name}` is not in `needs` of the front matter")
        return self.store.path(name, self.inputs[name])

    def read(self, name: str) -> list[dict[str, Any]]:
        """The rows of an input artifact that holds rows."""
        with (self.input(name) / ROWS).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def data(self, name: str, tier: str = "auto") -> catalog.DataSet:
        """A set of the catalogue; prints and records the tier that is used."""
        if name not in self.chapter.data:
            raise KeyError(f"{self.chapter.id}: `{name}` is not in `data` of the front matter")
        found = catalog.find(name, tier)
        self.tiers[name] = {"tier": found.tier, "fingerprint": found.fingerprint}
        print(f"data {name}: tier {found.tier}, licence {found.licence}")
        return found

    def rng(self, stream: str) -> Any:
        """A NumPy generator for the named stream, from its beginning; streams are independent."""
        import numpy as np

        return np.random.default_rng(
            np.random.SeedSequence([self.seed, zlib.crc32(stream.encode())])
        )

    def generator(self, stream: str) -> Any:
        """A torch generator (CPU) for the named stream, from its beginning."""
        import torch

        return torch.Generator().manual_seed(int(self.rng(stream).integers(2**63 - 1)))

    @property
    def scratch(self) -> Path:
        """A folder that an interrupted run finds again: for checkpoints. Emptied when it finishes."""
        given = self.context.get("scratch")
        folder = Path(given) if given else self.folder / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # ── what comes out ────────────────────────────────────────────────────────────────────────

    def output(self, name: str) -> Path:
        """An empty folder for artifact `name`; what lies in it at `close` is published."""
        if name not in self.chapter.makes:
            raise KeyError(f"{self.chapter.id}: `{name}` is not in `makes` of the front matter")
        if name not in self.outputs:
            self.outputs[name] = self.store.fresh()
        return self.outputs[name]

    def write(self, name: str, rows: Iterable[dict[str, Any]]) -> Path:
        """Artifact `name` as rows.jsonl, one JSON object a line, keys sorted; returns its folder."""
        folder = self.output(name)
        with (folder / ROWS).open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
        return folder

    # ── numbers ───────────────────────────────────────────────────────────────────────────────

    def metric(self, name: str, value: Any) -> Any:
        """Record a number of this run and return it. TypeError if it is no number and no text."""
        plain = value.item() if hasattr(value, "item") else value
        if not isinstance(plain, (int, float, str, bool)):
            raise TypeError(f"metric {name}: a number or text, got {type(value).__name__}")
        self.metrics[name] = plain
        self._keep()
        return plain

    def claim(
        self,
        name: str,
        value: Any,
        at_least: Bound | None = None,
        at_most: Bound | None = None,
        equal: Any = None,
    ) -> Any:
        """State what a number must be; shown now, recorded, and demanded by `close`.

        A bound given by profile, `{"smoke": 8.5, "cpu": 5.3}`, holds for an unchanged run of that
        profile; a changed run records the value without a bound. ValueError without any bound."""
        bounds = {"at_least": at_least, "at_most": at_most, "equal": equal}
        stated = {k: v for k, v in bounds.items() if v is not None}
        if not stated:
            raise ValueError(f"claim {name}: give at_least, at_most or equal")
        if unknown := {p for b in stated.values() if isinstance(b, dict) for p in b} - {
            "smoke",
            "cpu",
            "gpu",
        }:
            raise ValueError(f"claim {name}: unknown profile {sorted(unknown)[0]}")
        plain = self.metric(name, value)
        entry: dict[str, Any] = {"name": name, "value": plain}
        for kind, bound in stated.items():
            entry[kind] = bound.get(self.profile) if isinstance(bound, dict) else bound
            if hasattr(entry[kind], "item"):
                entry[kind] = entry[kind].item()
        checks = [_holds(plain, k, entry[k]) for k in stated if entry[k] is not None]
        entry["held"] = all(checks) if checks else None
        self.claims = [c for c in self.claims if c["name"] != name] + [entry]
        mark = {True: "✓", False: "✗", None: "·"}[entry["held"]]
        print(f"{mark} claim {claim_text(entry)}")
        self._keep()
        return plain

    def say(self, template: str) -> None:
        """Prose with this run's numbers: `ch.say("Of {n_docs:,} documents {share:.1%} went.")`.

        Every field must be a metric recorded before, so no number can be typed from memory.
        KeyError names the field that is not one."""
        fields = [f for _, f, _, _ in string.Formatter().parse(template) if f is not None]
        if unknown := [f for f in fields if f not in self.metrics]:
            raise KeyError(f"{self.chapter.id}: say: `{unknown[0]}` is not a recorded metric")
        text = template.format(**self.metrics)
        if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
            from IPython.display import Markdown, display

            display(Markdown(text))
        else:
            print(text)

    # ── what is looked at ─────────────────────────────────────────────────────────────────────

    def curve(self, tag: str, step: int, value: float) -> None:
        """One point of a curve: kept, written to TensorBoard event files, drawn in a live plot."""
        value = float(value)
        self.curves.setdefault(tag, []).append((int(step), value))
        if self._writer is None:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._writer = EventFileWriter(str(self.folder / "tensorboard"))
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        self._writer.add_event(Event(wall_time=time.time(), step=int(step), summary=summary))
        if self._tracking is not None:
            self._tracking.curve(tag, int(step), value)
        for plot in self._plots:
            if tag in plot.tags:
                plot.refresh(self.curves)

    def watch(self, *tags: str, title: str, ylabel: str, xlabel: str = "step") -> None:
        """Show a plot that `curve` keeps up to date, at most every three seconds."""
        self._plots.append(LivePlot(tags, title, xlabel, ylabel))

    def track(
        self, items: Iterable[Any], total: int | None = None, desc: str = ""
    ) -> Iterator[Any]:
        """A progress bar over `items` that the runner's table shows as well."""
        from tqdm import tqdm

        total = total if total is not None else getattr(items, "__len__", lambda: None)()
        last = 0.0
        for done, item in enumerate(tqdm(items, total=total, desc=desc, mininterval=1.0), 1):
            yield item
            if total and time.time() - last > 1:
                last = time.time()
                state = {"done": done, "total": total, "desc": desc}
                write_json(self.folder / "progress.json", state, durable=False)

    def figure(self, fig: Any, name: str, alt: str) -> None:
        """Show a matplotlib figure with its text alternative and keep it for the report."""
        import io

        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        (self.folder / "figures").mkdir(exist_ok=True)
        (self.folder / "figures" / f"{name}.png").write_bytes(buffer.getvalue())
        self.figures.append({"name": name, "alt": alt, "file": f"figures/{name}.png"})
        _show_png(buffer.getvalue(), alt)
        import matplotlib.pyplot as plt

        plt.close(fig)
        self._keep()

    def sample(self, title: str, content: str | list[dict[str, Any]]) -> None:
        """A piece of text or a small table that is shown here and kept for the report."""
        rows = isinstance(content, list)
        self.samples.append({"title": title, ("rows" if rows else "text"): content})
        if not rows:
            print(f"{title}: {content}")
        elif "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
            from IPython.display import HTML, display

            display(HTML(_table(title, content)))  # type: ignore[arg-type]
        else:
            print(title, *content, sep="\n")
        self._keep()

    def exercise(self, number: int, answer: Any, check: Callable[[Any], None]) -> str:
        """Say whether exercise `number` is `open`, `right`, or `not yet` and why."""
        if answer is None:
            verdict = "open: put your answer in place of None and run the cell again"
        else:
            try:
                check(answer)
                verdict = "right"
            except AssertionError as error:
                verdict = f"not yet: {error}"
        print(f"exercise {number}: {verdict}")
        return verdict.partition(":")[0]

    # ── the end ───────────────────────────────────────────────────────────────────────────────

    def record(self, finished: bool, published: dict[str, str]) -> dict[str, Any]:
        """What the runner, the report and a later reader need to know of this chapter's run."""
        return {
            "chapter": self.chapter.id,
            "profile": self.profile,
            "finished": finished,
            "seconds": round(time.time() - self._started, 3),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "device": self.device,
            "threads": self.threads,
            "parameters": self.parameters,
            "inputs": self.inputs,
            "outputs": published,
            "data": self.tiers,
            "metrics": self.metrics,
            "claims": self.claims,
            "curves": self.curves,
            "figures": self.figures,
            "samples": self.samples,
        }

    def _keep(self) -> None:
        write_json(self.folder / "record.json", self.record(False, {}), durable=False)

    def close(self) -> dict[str, str]:
        """Demand the claims, then publish every output; returns name -> hash.

        AssertionError names every broken claim; RuntimeError an output that was not made. In both
        cases nothing is published."""
        if self._writer is not None:
            self._writer.close()
        if self._tracking is not None:
            self._tracking.close(self.metrics, self.claims)
        for plot in self._plots:
            plot.refresh(self.curves, final=True)
        self._keep()
        if broken := [c for c in self.claims if c["held"] is False]:
            raise AssertionError("\n".join(f"claim {claim_text(c)}" for c in broken))
        for name in self.chapter.makes:
            if name not in self.outputs:
                raise RuntimeError(f"{self.chapter.id}: `{name}` is in `makes` but was not written")
        facts = {"made_by": self.chapter.id, "profile": self.profile, "inputs": self.inputs}
        published = {n: self.store.publish(n, f, facts) for n, f in sorted(self.outputs.items())}
        write_json(self.folder / "record.json", self.record(True, published))
        seconds = time.time() - self._started
        made = ", ".join(f"{n} {d[:8]}" for n, d in published.items()) or "nothing"
        print(f"{self.chapter.id} closed after {seconds:.1f} s · made {made}")
        return published


def _holds(value: Any, kind: str, bound: Any) -> bool:
    if kind == "equal":
        return bool(value == bound)
    # comparisons with NaN are false: a number that is not one holds no claim
    return bool(value >= bound if kind == "at_least" else value <= bound)


def claim_text(claim: dict[str, Any]) -> str:
    """`recall: 0.61 is under 0.93`, or the same for a claim that holds."""

    def short(number: Any) -> str:
        return f"{number:.4g}" if isinstance(number, float) else str(number)

    value, name = short(claim["value"]), claim["name"]
    if claim["held"] is None:
        return f"{name}: {value} (no bound for this profile)"
    parts = []
    for kind, good, bad in (
        ("at_least", "is at least", "is under"),
        ("at_most", "is at most", "is over"),
        ("equal", "equals", "is not"),
    ):
        bound = claim.get(kind)
        if bound is not None:
            parts.append(f"{good if _holds(claim['value'], kind, bound) else bad} {short(bound)}")
    return f"{name}: {value} {' and '.join(parts)}"


class LivePlot:
    """A figure in the notebook that is redrawn while curves grow."""

    def __init__(self, tags: tuple[str, ...], title: str, xlabel: str, ylabel: str) -> None:
        self.tags, self.title, self.labels = tags, title, (xlabel, ylabel)
        self._handle: Any = None
        self._last = 0.0

    def refresh(self, curves: dict[str, list[tuple[int, float]]], final: bool = False) -> None:
        """Redraw, unless that was done less than three seconds ago."""
        if not final and time.time() - self._last < 3:
            return
        self._last = time.time()
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(6, 3))
        for tag in self.tags:
            if points := curves.get(tag):
                steps, values = zip(*points, strict=True)
                ax.plot(steps, values, label=tag, marker="." if len(points) < 30 else None)
        ax.set(xlabel=self.labels[0], ylabel=self.labels[1], title=self.title)
        if ax.lines:
            ax.legend()
        import io

        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
        plt.close(fig)
        alt = f"{self.title}: {', '.join(self.tags)} by {self.labels[0]}"
        self._handle = _show_png(buffer.getvalue(), alt, self._handle)


def _show_png(png: bytes, alt: str, handle: Any = None) -> Any:
    """Display a picture with its text alternative, or replace the one `handle` stands for."""
    if "IPython" not in sys.modules or not sys.modules["IPython"].get_ipython():
        return None
    import base64

    from IPython.display import display

    bundle = {"image/png": base64.b64encode(png).decode(), "text/plain": alt}
    metadata = {"image/png": {"alt": alt}}
    if handle is not None:
        handle.update(bundle, raw=True, metadata=metadata)
        return handle
    return display(bundle, raw=True, metadata=metadata, display_id=True)


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    from html import escape

    columns = list(dict.fromkeys(k for row in rows for k in row))
    head = "".join(f"<th scope='col'>{escape(c)}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row.get(c, '')))}</td>" for c in columns) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
