"""The report of a run, and of the difference of two: pages that carry all they show with them.

The text of a report comes from models, data and chapters, so nothing in it is trusted: the
templates escape everything, and no markup is made here.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from llmchain.workbench.store import read_json

BOUNDS = {"at_least": "≥", "at_most": "≤", "equal": "="}
STATUS = {"ok": "✓", "cached": "✓", "failed": "✗", "interrupted": "✗", "skipped": "–"}
MARKS = ("<!-- results -->", "<!-- /results -->")  # what the table of the README stands between
HEAD = {
    "en": ["Chapter", "Status", "Time", "Memory", "Key result"],
    "zh": ["章节", "状态", "用时", "内存", "关键结果"],
}
ZH = {
    "ok": "完成", "cached": "缓存", "failed": "失败", "interrupted": "中断", "skipped": "跳过",
    "✓ claims held": "✓ 成立", "✗ claim broken": "✗ 不成立", "recorded": "已记录",
    "Run of {}, profile {}, {}, {} cores, {}.": "运行于 {}，配置 {}，{}，{} 核，{}。",
}  # fmt: skip
VERDICTS = {"broken": "✗ claim broken", "held": "✓ claims held", "recorded": "recorded"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = (
    440,
    250,
    52,
    12,
    26,
    40,
)  # a chart, as the template has it
SPLITS = {"train", "val", "validation", "test", "eval"}
MAX_POINTS = 400  # a line of a chart; more are not seen


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
    if lang not in HEAD:
        raise ValueError(f"results_table: lang must be one of: en, zh; got {lang}")

    def told(text: str) -> str:
        return ZH.get(text, text) if lang == "zh" else text

    lines = ["| " + " | ".join(HEAD[lang]) + " |", "|---|---|--:|--:|---|"]
    for chapter in summary["chapters"]:
        status, result = chapter["status"], key_result(chapter)
        found = {verdict(claim) for claim in chapter.get("claims") or []}
        if worst := next((word for kind, word in VERDICTS.items() if kind in found), ""):
            result += f" ({told(worst)})"
        cells = [chapter["id"], f"{STATUS.get(status, '')} {told(status)}"]
        cells += [duration(chapter.get("seconds")), memory(chapter.get("peak_rss_mb")), result]
        lines.append("| " + " | ".join(map(markdown_text, cells)) + " |")
    facts = [str(summary.get("started", ""))[:10], summary.get("profile", "")]
    facts += [summary.get("device", ""), summary.get("cores", "?")]
    text = told("Run of {}, profile {}, {}, {} cores, {}.")
    lines += ["", markdown_text(text.format(*facts, duration(summary.get("seconds"))))]
    table = "\n".join(lines)
    return f"{table}\n\n<!-- run {summary['run']}, seal {seal(table)} -->\n"


def seal(table: str) -> str:
    "A hash of a table without regard to spaces and lines."
    return hashlib.sha256(" ".join(table.split()).encode()).hexdigest()[:16]


def markdown_text(text: str) -> str:
    "Text that Markdown and HTML leave as it is, on one line."
    text = " ".join(escape(text, quote=False).split())
    return "".join("\\" + c if c in "|*[]`\\" else c for c in text)


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    "About `n` round numbers from `low` to `high`."
    raw = (high - low) / n
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def chart(what: str, lines: dict[str, list]) -> dict[str, Any] | None:
    "What the template draws of lines over steps; None if no point is finite."
    finite = {
        name: [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]
        for name, points in lines.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    xs, ys = zip(*(point for points in finite.values() for point in points), strict=True)
    x0, x1, y0, y1 = min(xs), max(*xs, min(xs) + 1), min(ys), max(ys)
    pad = (y1 - y0) * 0.06 or abs(y0) * 0.1 or 1.0
    y0, y1 = y0 - pad, y1 + pad
    across, up = (WIDTH - LEFT - RIGHT) / (x1 - x0), (HEIGHT - TOP - BOTTOM) / (y1 - y0)
    said = "; ".join(
        f"{name} from {number(float(points[0][1]))} to {number(float(points[-1][1]))}"
        for name, points in finite.items()
    )

    def place(x: float, y: float) -> str:
        return f"{LEFT + (x - x0) * across:.1f} {HEIGHT - BOTTOM - (y - y0) * up:.1f}"

    def path(points: list[tuple[float, float]]) -> str:
        thin = points[:: max(1, len(points) // MAX_POINTS)] + points[-1:]
        return "M" + "L".join(place(x, y) for x, y in thin)

    return {
        "what": what,
        "alt": f"{what}, {number(x0)} to {number(max(xs))} steps: {said}",
        "x": [(place(x, y0).split()[0], f"{x:.6g}") for x in ticks(x0, x1)],
        "y": [(place(x0, y).split()[1], f"{y:.4g}") for y in ticks(y0, y1)],
        "lines": [(name, path(points)) for name, points in finite.items()],
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


def table(rows: Any) -> tuple[list[str], list[list[str]]]:
    "Head and cells of sample rows, given as dicts, sequences or single values."
    rows = rows if isinstance(rows, list) else [rows]
    head = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    if head:
        rows = [[row.get(key) for key in head] for row in rows if isinstance(row, dict)]
    cells = [row if isinstance(row, (list, tuple)) else [row] for row in rows]
    return [str(key) for key in head], [[number(cell) for cell in row] for row in cells]


def flat(tree: dict, above: str = "") -> Iterator[tuple[str, str]]:
    "The leaves of nested dicts with dotted names."
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", number(value)


def chapter_view(chapter: dict, folder: Path) -> dict:
    "What the template shows of one chapter: its summary and whatever its folder kept."
    record = read_json(folder / "record.json") or {}
    figures, samples = [], []
    for figure in record.get("figures") or []:
        path = folder / str(figure.get("file"))
        inside = path.resolve().is_relative_to(folder.resolve())
        if inside and path.suffix == ".png" and path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            figures.append({"alt": figure.get("alt") or figure.get("name"), "data": data})
    for sample in record.get("samples") or []:
        head, cells = table(sample["rows"]) if sample.get("rows") else ([], [])
        samples.append({**sample, "head": head, "cells": cells})
    claims, answers = chapter.get("claims") or record.get("claims") or [], []
    if chapter["id"].endswith("_serve") and samples:
        answers = [s for s in samples if "answer" in str(s.get("title")).lower()] or samples[:1]
    return {
        **chapter,
        "claims": [c | {"verdict": verdict(c), "bound": bound(c)} for c in claims],
        "metrics": chapter.get("metrics") or record.get("metrics") or {},
        "charts": charts(record.get("curves") or {}),
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
    found.filters["change"] = change
    found.globals |= {"number": number, "duration": duration, "memory": memory, "marks": STATUS}
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
    html = page(
        "report.html",
        run=summary,
        started=started,
        chapters=[chapter_view(c, run_folder / c["id"]) for c in summary.get("chapters") or []],
        environment=list(flat(environment)),
        packages=list(flat(packages)),
    )
    path = run_folder / "report.html"
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
