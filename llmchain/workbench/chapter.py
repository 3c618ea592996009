"""What a notebook opens: inputs, outputs, numbers, claims, curves and figures of one chapter."""

import ast
import base64
import io
import json
import operator
import os
import random
import resource
import string
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from llmchain.workbench import catalog, contract, tracking
from llmchain.workbench.rows import Rows
from llmchain.workbench.store import Store, read_json, runs_folder, write_json

ROWS = "rows.jsonl"
RECORDED = "profile device threads parameters inputs metrics claims curves figures samples".split()
Bound = float | int | dict[str, float] | None
# comparisons with NaN are false: a number that is not one holds no claim
BOUNDS: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "at_least": (operator.ge, "is at least", "is under"),
    "at_most": (operator.le, "is at most", "is over"),
    "equal": (operator.eq, "equals", "is not"),
}


def open_chapter(chapter_id: str, namespace: dict[str, Any]) -> "Open":
    """Open a chapter from its notebook: `ch = open_chapter("03_deduplicate", vars())`.

    Checks the parameters in `namespace`, finds the inputs, seeds the libraries that can only be
    seeded globally, and sets the number of threads. ContractError: a wrong parameter.
    FileNotFoundError: a missing input, with the command that makes it.
    """
    paths = list(contract.project_root().glob(f"nbs/[0-9][0-9]_*/{chapter_id}.ipynb"))
    if len(paths) != 1:
        told = f"{len(paths)} such notebooks under nbs/; expected one"
        raise contract.ContractError(f"{chapter_id}: {told}")
    chapter = contract.read_chapter(paths[0])
    parameters = {}
    with contract.told_together() as problems:
        for name in _injected(namespace.get("In", [])):
            with contract.noted(problems):
                contract.known(chapter, name)
        for name, parameter in chapter.parameters.items():
            with contract.noted(problems):
                value = namespace.get(name, parameter.default)
                parameters[name] = parameter.check(value, chapter.id)
        if not problems:
            with contract.noted(problems):
                contract.check_quotients(chapter.parameters, parameters, chapter.id)
    opened = Open(chapter, parameters)
    namespace.update(parameters)  # an int given for a float is a float from here on
    return opened


def _injected(history: list[str]) -> list[str]:
    """The names that Papermill's injected cell assigns; without this an unknown one is no error."""
    cells = [ast.parse(s) for s in history if s.lstrip().startswith("# Parameters")]
    nodes = [node for cell in cells for node in ast.walk(cell) if isinstance(node, ast.Name)]
    return [node.id for node in nodes if isinstance(node.ctx, ast.Store)]


def _how_to_make(artifact: str) -> str:
    """`made by 02_clean: llmchain run 02_clean`."""
    for path in sorted(contract.project_root().glob("nbs/[0-9][0-9]_*/*.ipynb")):
        with suppress(contract.ContractError):  # somebody is writing it; `llmchain doctor` tells
            if artifact in contract.read_chapter(path).makes:
                return f"made by {path.stem}: llmchain run {path.stem}"
    return "which no chapter makes"


class Open:
    """An opened chapter. Everything it is told is kept in its run folder; `close` publishes."""

    def __init__(self, chapter: contract.Chapter, parameters: dict[str, Any]) -> None:
        self.chapter = chapter
        self.parameters = parameters
        self.seed = int(parameters.get("seed", 0))
        self.store = Store()
        self._started = time.time()
        # the runner says where this run lies and what its inputs are; without it we look ourselves
        told = read_json(Path(os.environ.get("LLMCHAIN_CONTEXT", "/nonexistent"))) or {}
        self.context: dict[str, Any] = told if told.get("chapter") == chapter.id else {}
        stamp = f"{time.strftime('%Y%m%dT%H%M%S')}-{chapter.id}-{uuid.uuid4().hex[:6]}"
        self.folder = Path(self.context.get("folder") or runs_folder() / "interactive" / stamp)
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
        found = {n: given.get(n) or self.store.latest(n) or "" for n in self.chapter.needs}
        if missing := [name for name, digest in found.items() if not digest]:
            needs = [f"{self.chapter.id} needs `{n}`, {_how_to_make(n)}" for n in missing]
            raise FileNotFoundError("\n".join(needs))
        return found

    def _profile(self) -> str:
        """The profile whose bounds apply; `custom` when parameters or inputs are not its own."""
        own = self.parameters == self.chapter.defaults()
        told = self.context or {"profile": "cpu", "custom": not own}
        profile = "custom" if told.get("custom") else told["profile"]
        made = {self.store.manifest(n, d).get("profile", "cpu") for n, d in self.inputs.items()}
        return profile if made <= {profile} else "custom"

    def _seed_libraries(self) -> None:
        """Some library code draws from the global state only; ours never does."""
        random.seed(self.seed)
        if numpy := sys.modules.get("numpy"):
            numpy.random.seed(self.seed)
        if torch := sys.modules.get("torch"):
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

    def rows(self, name: str) -> Rows:
        """The same, read when they are asked for: memory does not grow with the text."""
        return Rows(self.input(name) / ROWS)

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

        return np.random.default_rng([self.seed, zlib.crc32(stream.encode())])

    def generator(self, stream: str) -> Any:
        """A torch generator (CPU) for the named stream, from its beginning."""
        import torch

        return torch.Generator().manual_seed(int(self.rng(stream).integers(2**63 - 1)))

    @property
    def scratch(self) -> Path:
        """A folder that an interrupted run finds again: for checkpoints. Emptied when it finishes."""
        folder = Path(self.context.get("scratch") or self.folder / "scratch")
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
        Rows.written(folder / ROWS, rows)
        return folder

    # ── numbers ───────────────────────────────────────────────────────────────────────────────

    def metric(self, name: str, value: Any) -> Any:
        """Record a number of this run and return it. TypeError if it is no number and no text."""
        plain = _plain(value)
        if not isinstance(plain, (int, float, str, bool)):
            raise TypeError(f"metric {name}: a number or text, got {type(value).__name__}")
        self.metrics[name] = plain
        self._keep()
        return plain

    def claim(
        self,
        name: str,
        value: Any,
        at_least: Bound = None,
        at_most: Bound = None,
        equal: Any = None,
    ) -> Any:
        """State what a number must be; shown now, recorded, and demanded by `close`.

        A bound given by profile, `{"smoke": 8.5, "cpu": 5.3}`, holds for an unchanged run of that
        profile; a changed run records the value without a bound. ValueError without any bound."""
        given = {"at_least": at_least, "at_most": at_most, "equal": equal}
        stated = {kind: bound for kind, bound in given.items() if bound is not None}
        if not stated:
            raise ValueError(f"claim {name}: give at_least, at_most or equal")
        profiles = {p for bound in stated.values() if isinstance(bound, dict) for p in bound}
        if unknown := sorted(profiles - {*contract.PROFILES}):
            raise ValueError(f"claim {name}: unknown profile {unknown[0]}")
        entry: dict[str, Any] = {"name": name, "value": self.metric(name, value)}
        for kind, bound in stated.items():
            entry[kind] = _plain(bound.get(self.profile) if isinstance(bound, dict) else bound)
        checks = [_holds(entry, kind) for kind in stated if entry[kind] is not None]
        entry["held"] = all(checks) if checks else None
        self.claims = [c for c in self.claims if c["name"] != name] + [entry]
        mark = {True: "✓", False: "✗", None: "·"}[entry["held"]]
        print(f"{mark} claim {claim_text(entry)}")
        self._keep()
        return entry["value"]

    def say(self, template: str) -> None:
        """Prose with this run's numbers: `ch.say("Of {n_docs:,} documents {share:.1%} went.")`.

        Every field must be a metric recorded before, so no number can be typed from memory.
        KeyError names the field that is not one."""
        fields = [f for _, f, _, _ in string.Formatter().parse(template) if f is not None]
        if unknown := [f for f in fields if f not in self.metrics]:
            raise KeyError(f"{self.chapter.id}: say: `{unknown[0]}` is not a recorded metric")
        text = template.format(**self.metrics)
        if not _show("text/markdown", text, text):
            print(text)

    def verdicts(self, tried: Iterable[tuple[str, str]]) -> None:
        """What was tried, (name, in words), and what its interval says: first what did not pay.

        Each name has metrics `<name>` or `<name>_mean`, `<name>_low` and `<name>_high`: a difference to something
        simpler, above zero if it is better. KeyError names the metric that was not recorded."""
        lines: dict[str, list[str]] = {"worse": [], "not shown to help": [], "better": []}
        for name, what in tried:
            for key in (f"{name}_low", f"{name}_high"):
                if key not in self.metrics:
                    raise KeyError(f"{self.chapter.id}: verdicts: `{key}` is not recorded")
            told, line = verdict_line(name, what, self.metrics)
            lines[told].append(line)
        lost = lines["worse"] + lines["not shown to help"]
        self.say("\n".join(lost or ["- nothing that was tried failed to pay"]))
        paid = [f"{PAID}\n", *lines["better"]] if lines["better"] else ["Nothing paid."]
        self.say("\n".join(paid))

    # ── what is looked at ─────────────────────────────────────────────────────────────────────

    def curve(self, tag: str, step: int, value: float) -> None:
        """One point of a curve: kept, written to TensorBoard event files, drawn in a live plot."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        step, value = int(step), float(value)
        self.curves.setdefault(tag, []).append((step, value))
        if self._writer is None:
            self._writer = EventFileWriter(str(self.folder / "tensorboard"))
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        if self._tracking is not None:
            self._tracking.curve(tag, step, value)
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

        bar, last = tqdm(items, total=total, desc=desc, mininterval=1.0), 0.0
        for done, item in enumerate(bar, 1):
            yield item
            if bar.total and time.time() - last > 1:
                last = time.time()
                state = {"done": done, "total": bar.total, "desc": desc}
                write_json(self.folder / "progress.json", state, durable=False)

    def figure(self, fig: Any, name: str, alt: str) -> None:
        """Show a matplotlib figure with its text alternative and keep it for the report."""
        path = self.folder / "figures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_png(fig))
        self.figures.append({"name": name, "alt": alt, "file": f"figures/{name}.png"})
        _show("image/png", path.read_bytes(), alt)
        self._keep()

    def sample(self, title: str, content: str | list[dict[str, Any]]) -> None:
        """A piece of text or a small table that is shown here and kept for the report."""
        if isinstance(content, str):
            self.samples.append({"title": title, "text": content})
            print(f"{title}: {content}")
        else:
            self.samples.append({"title": title, "rows": content})
            plain = "\n".join([title, *map(str, content)])
            if not _show("text/html", _table(title, content), plain):
                print(plain)
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

    def _keep(self, published: dict[str, str] | None = None) -> None:
        """Write down what the runner, the report and a later reader need to know of this run."""
        record = {field: getattr(self, field) for field in RECORDED} | {
            "chapter": self.chapter.id,
            "finished": published is not None,
            "seconds": round(time.time() - self._started, 3),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "outputs": published or {},
            "data": self.tiers,
        }
        write_json(self.folder / "record.json", record, durable=published is not None)

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
        self._keep(published)
        seconds = time.time() - self._started
        made = ", ".join(f"{n} {d[:8]}" for n, d in published.items()) or "nothing"
        print(f"{self.chapter.id} closed after {seconds:.1f} s · made {made}")
        return published


def _plain(value: Any) -> Any:
    """A number of NumPy or torch as one of Python; anything else as it is."""
    return value.item() if hasattr(value, "item") else value


def _holds(claim: dict[str, Any], kind: str) -> bool:
    return bool(BOUNDS[kind][0](claim["value"], claim[kind]))


PAID = "What did pay:"


def verdict_line(name: str, what: str, metrics: dict[str, Any]) -> tuple[str, str]:
    """What the interval of a difference says, and a template of the line that tells it."""
    mean = name if name in metrics else f"{name}_mean"
    low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
    told = "better" if low > 0 else "worse" if high < 0 else "not shown to help"
    interval = f"{{{name}_low:+.3f}} to {{{name}_high:+.3f}}"
    return told, f"- {what}: {{{mean}:+.3f}} ({interval}), **{told}**"


def claim_text(claim: dict[str, Any]) -> str:
    """`recall: 0.61 is under 0.93`, or the same for a claim that holds."""

    def short(number: Any) -> str:
        return f"{number:.4g}" if isinstance(number, float) else str(number)

    told = " and ".join(
        f"{good if _holds(claim, kind) else bad} {short(claim[kind])}"
        for kind, (_, good, bad) in BOUNDS.items()
        if claim.get(kind) is not None
    )
    told = "(no bound for this profile)" if claim["held"] is None else told
    return f"{claim['name']}: {short(claim['value'])} {told}"


class LivePlot:
    """A figure in the notebook that is redrawn while curves grow."""

    def __init__(self, tags: tuple[str, ...], title: str, xlabel: str, ylabel: str) -> None:
        self.tags, self.labels = tags, {"title": title, "xlabel": xlabel, "ylabel": ylabel}
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
                marker = "." if len(points) < 30 else None
                ax.plot(*zip(*points, strict=True), label=tag, marker=marker)
        ax.set(**self.labels)
        if ax.lines:
            ax.legend()
        alt = f"{self.labels['title']}: {', '.join(self.tags)} by {self.labels['xlabel']}"
        self._handle = _show("image/png", _png(fig), alt, self._handle)


def _png(fig: Any) -> bytes:
    """A figure as a picture; it is closed."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    return file.getvalue()


def _show(kind: str, content: str | bytes, plain: str, handle: Any = None) -> Any:
    """Show something in a notebook, in place of what `handle` stands for; None outside of one."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not ipython.get_ipython():
        return None
    data, metadata = {kind: content, "text/plain": plain}, {}
    if isinstance(content, bytes):
        data[kind] = base64.b64encode(content).decode()
        metadata[kind] = {"alt": plain}
    from IPython.display import display

    if handle is None:
        return display(data, raw=True, metadata=metadata, display_id=True)
    handle.update(data, raw=True, metadata=metadata)
    return handle


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(k for row in rows for k in row))
    head = "".join(f"<th scope='col'>{escape(c)}</th>" for c in columns)
    lines = [[f"<td>{escape(str(row.get(c, '')))}</td>" for c in columns] for row in rows]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    head = f"<caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"
