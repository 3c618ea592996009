"""The report of a run, and of the difference of two: pages that carry all they show with them.

The text of a report comes from models, data and chapters, so nothing in it is trusted: the
templates escape everything, and the one markup that is made here, a chart, is matplotlib's.
"""

import base64
import hashlib
import json
import math
import re
from contextlib import suppress
from datetime import datetime
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from llmchain.workbench.store import read_json, write_json

BOUNDS = {"at_least": "≥", "at_most": "≤", "equal": "="}
MARKS = ("<!-- results -->", "<!-- /results -->")  # what the table of the README stands between
SPLITS = {"train", "val", "validation", "test", "eval"}


def number(value: Any) -> str:
    "A value for the eye: four significant digits, thousands apart, text as it is."
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    whole = isinstance(value, int) or (math.isfinite(value) and 1000 <= abs(value) < 1e9)
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def duration(seconds: Any) -> str:
    "Seconds as a person says them."
    if not isinstance(seconds, (int, float)):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(mebibytes: float | None) -> str:
    "Peak resident memory as a person says it."
    if not mebibytes:
        return "–"
    return f"{mebibytes / 1024:.1f} GB" if mebibytes >= 1024 else f"{mebibytes:.0f} MB"


def bound(claim: dict) -> str:
    "The bound of a claim, such as `≥ 0.93`; empty where none was set for this profile."
    given = ((sign, claim[key]) for key, sign in BOUNDS.items() if claim.get(key) is not None)
    return next((f"{sign} {number(value)}" for sign, value in given), "")


def verdict(claim: dict) -> str:
    "held, broken, or recorded: a claim without a bound for this profile is only recorded."
    return "recorded" if claim.get("held") is None else "held" if claim["held"] else "broken"


def key_result(chapter: dict) -> str:
    "What a chapter stands for: a broken claim, else its key metric, else its first claim or metric."
    key, metrics = chapter.get("key_metric"), chapter.get("metrics") or {}
    claims = sorted(
        chapter.get("claims") or [], key=lambda c: (verdict(c) != "broken", c["name"] != key)
    )
    first = claims[0] if claims else {}
    if first and (verdict(first) == "broken" or first["name"] == key or key not in metrics):
        return f"{first['name']} {number(first.get('value'))} {bound(first)}".strip()
    name = key if key in metrics else next(iter(metrics), None)
    return f"{name} {number(metrics[name])}" if name is not None else ""


def results_table(summary: dict, lang: str = "en") -> str:
    "The Markdown table of a run for the README, with the seal by which a change of it is found."
    if lang not in ("en", "zh"):
        raise ValueError(f"results_table: lang must be one of: en, zh; got {lang}")
    table = page("results.md", run=summary, lang=lang)
    return f"{table}\n\n<!-- run {summary['run']}, seal {seal(table)} -->\n"


def seal(table: str) -> str:
    "A hash of a table without regard to spaces and lines."
    return hashlib.sha256(" ".join(table.split()).encode()).hexdigest()[:16]


def markdown_text(text: str) -> Any:
    "Text that Markdown and HTML leave as it is, on one line."
    from markupsafe import Markup

    text = " ".join(escape(text, quote=False).split())
    return Markup(re.sub(r"[|*\[\]`\\]", r"\\\g<0>", text))


def chart(what: str, curves: dict[str, list]) -> dict[str, str] | None:
    "A drawing of curves over steps, and what it says in words; None if no point is finite."
    import numpy as np
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    points = {name: np.array(curve, float).reshape(-1, 2) for name, curve in curves.items()}
    finite = {name: xy[np.isfinite(xy).all(axis=1)] for name, xy in points.items()}
    lines = {name: xy for name, xy in finite.items() if len(xy)}
    if not lines:
        return None
    with rc_context({"svg.fonttype": "none", "text.parse_math": False}), StringIO() as file:
        figure = Figure(figsize=(6, 3), layout="constrained")  # as large as the template says
        axes = figure.add_subplot(xlabel="step", ylabel=what)
        axes.grid(axis="y", color="#0000ff", clip_on=False)
        axes.tick_params(length=0)
        axes.locator_params(axis="x", integer=True)
        axes.spines[:].set_visible(False)
        for i, (name, xy) in enumerate(lines.items()):
            color, dashes = f"#0000f{i % 4}", ("-", "--", ":", "-.")[i % 4]
            axes.plot(*xy.T, dashes, label=name, color=color, clip_on=False)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=4, frameon=False)
        figure.savefig(file, format="svg", transparent=True)
        drawn = file.getvalue().partition("</defs>")[2]
    steps = np.concatenate(list(lines.values()))[:, 0]
    said = "; ".join(
        f"{name} from {number(xy[0, 1])} to {number(xy[-1, 1])}" for name, xy in lines.items()
    )
    return {
        "what": what,
        "alt": f"{what}, {steps.min():,.6g} to {steps.max():,.6g} steps: {said}",
        # the colours of the page, and no names that several charts would share
        "svg": re.sub("#0000f([0-3f])", r"var(--c\1)", re.sub(r'<g id="[^"]*"', "<g", drawn)),
    }


def charts(curves: dict[str, list]) -> list[dict[str, Any]]:
    "A chapter's curves as charts; `train/loss` and `val/loss` share one, `lr/a` and `lr/b` too."
    groups: dict[str, dict[str, list]] = {}
    for name, points in curves.items():
        line, _, what = name.rpartition("/")
        if line and line not in SPLITS:
            line, what = what, line
        groups.setdefault(what, {})[line or what] = points
    return [found for what, lines in groups.items() if (found := chart(what, lines))]


def kept_charts(folder: Path, again: bool = False) -> list[dict[str, Any]]:
    "The charts of a chapter's folder. They are drawn once, since that takes longer than all the rest."
    kept = folder / "charts.json"
    if again or (found := read_json(kept)) is None:
        found = charts((read_json(folder / "record.json") or {}).get("curves") or {})
        if folder.is_dir():
            write_json(kept, found, durable=False)
    return list(found)


def chapter_view(chapter: dict, folder: Path) -> dict:
    "What the template shows of one chapter: its summary and whatever its folder kept."
    record = read_json(folder / "record.json") or {}
    figures = []
    for figure in record.get("figures") or []:
        path = (folder / figure["file"]).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            figures.append((figure["alt"], base64.b64encode(path.read_bytes()).decode()))
    samples = record.get("samples") or []
    answers: list[dict] = []
    if chapter["id"].endswith("_serve"):
        answers = [s for s in samples if "answer" in str(s.get("title")).lower()] or samples[:1]
    return {
        **chapter,
        "claims": chapter.get("claims") or record.get("claims") or [],
        "metrics": chapter.get("metrics") or record.get("metrics") or {},
        "charts": kept_charts(folder),
        "figures": figures,
        "answers": answers,
        "samples": [sample for sample in samples if sample not in answers],
        "notebook": (folder / "notebook.ipynb").is_file(),
        "result": key_result(chapter),
    }


def page(template: str, **fields: Any) -> str:
    "A template of this package filled in."
    from llmchain.workbench.style import templates

    found = templates()
    found.filters |= {"change": change, "plain": markdown_text, "verdict": verdict}
    for function in (number, duration, memory, verdict, bound, key_result):
        found.globals[function.__name__] = function
    return str(found.get_template(template).render(**fields))


def write_report(run_folder: Path) -> Path:
    "Write `report.html` of a run beside its summary, and return its path."
    run_folder = Path(run_folder)
    summary = read_json(run_folder / "summary.json")
    if not summary:
        raise FileNotFoundError(f"report: no summary.json in {run_folder}; finish a run first")
    started = str(summary.get("started") or "")
    with suppress(ValueError):  # else shown as it was written
        started = datetime.fromisoformat(started).strftime("%-d %B %Y, %H:%M")
    environment = read_json(run_folder / "environment.json") or {}
    packages = environment.pop("packages", None) or {}
    path = run_folder / "report.html"
    html = page(
        "report.html",
        run=summary,
        started=started,
        chapters=[chapter_view(c, run_folder / c["id"]) for c in summary.get("chapters") or []],
        environment=environment.items(),
        packages=packages.items(),
    )
    temporary = path.with_suffix(".tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)
    return path


def comparison_page(diff: dict) -> str:
    "Two runs side by side as a page, from what `compare.diff` found."
    return page("comparison.html", diff=diff)


def change(pair: list) -> str:
    "The relative change from the first of two numbers to the second; empty where there is none."
    a, b = pair
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in pair)
    if not numbers or not a or not math.isfinite(b / a):
        return ""
    return f"{b / a - 1:+.1%}"
