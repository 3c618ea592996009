"""The report of a run: one page that carries its curves, figures, samples and claims with it.

The text of a report comes from models, data and chapters, so nothing in it is trusted: the
template escapes everything, and the only markup made here is the SVG of the curves, out of
numbers and escaped names.
"""

import base64
import json
import math
from collections.abc import Iterable
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

BOUNDS = {"at_least": "≥", "at_most": "≤", "equal": "="}
STATUS = {"ok": "✓", "cached": "✓", "failed": "✗", "interrupted": "✗", "skipped": "–"}
WORDS = {
    "en": [
        "Chapter",
        "Status",
        "Time",
        "Memory",
        "Key result",
        "claims held",
        "claim broken",
        "recorded",
    ],
    "zh": ["章节", "状态", "用时", "内存", "关键结果", "成立", "不成立", "已记录"],
}
STATUS_ZH = {
    "ok": "完成",
    "cached": "缓存",
    "failed": "失败",
    "interrupted": "中断",
    "skipped": "跳过",
}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 52, 12, 26, 40  # a chart and its margins
SPLITS = {"train", "val", "validation", "test", "eval"}
MAX_POINTS = 400  # a line of a chart; more are not seen


def number(value: Any) -> str:
    "A value for the eye: four significant digits, thousands apart, text as it is."
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        if isinstance(value, (dict, list)):
            return json.dumps(value, ensure_ascii=False)
        return "–" if value is None else str(value)
    if isinstance(value, int) or (math.isfinite(value) and 1000 <= abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.4g}"


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
    key = chapter.get("key_metric")
    claims = sorted(
        chapter.get("claims") or [], key=lambda c: (verdict(c) != "broken", c["name"] != key)
    )
    metrics = chapter.get("metrics") or {}
    if claims and (
        verdict(claims[0]) == "broken" or claims[0]["name"] == key or key not in metrics
    ):
        claim = claims[0]
        return f"{claim['name']} {number(claim.get('value'))} {bound(claim)}".strip()
    name = key if key in metrics else next(iter(metrics), None)
    return f"{name} {number(metrics[name])}" if name is not None else ""


def results_table(summary: dict, lang: str = "en") -> str:
    "The Markdown table of a run that stands between the `<!-- results -->` marks of the README."
    if lang not in WORDS:
        raise ValueError(f"results_table: lang must be one of: en, zh; got {lang}")
    *head, held, broken, recorded = WORDS[lang]
    word = {"held": f"✓ {held}", "broken": f"✗ {broken}", "recorded": recorded}
    lines = ["| " + " | ".join(head) + " |", "|---|---|--:|--:|---|"]
    for chapter in summary["chapters"]:
        status, result = chapter["status"], key_result(chapter)
        verdicts = [verdict(claim) for claim in chapter.get("claims") or []]
        if verdicts:
            worst = min(verdicts, key=["broken", "held", "recorded"].index)
            result += f" ({word[worst]})"
        shown = STATUS_ZH.get(status, status) if lang == "zh" else status
        cells = [
            chapter["id"],
            f"{STATUS.get(status, '')} {shown}",
            duration(chapter.get("seconds")),
        ]
        cells += [memory(chapter.get("peak_rss_mb")), result]
        lines.append("| " + " | ".join(markdown_text(cell) for cell in cells) + " |")
    text = (
        "Run of {}, profile {}, {}, {} cores, {}."
        if lang == "en"
        else "运行于 {}，配置 {}，{}，{} 核，{}。"
    )
    facts = [str(summary.get("started", ""))[:10], summary.get("profile", "")]
    facts += [
        summary.get("device", ""),
        summary.get("cores", "?"),
        duration(summary.get("seconds")),
    ]
    lines += ["", markdown_text(text.format(*facts))]
    return "\n".join(lines) + "\n"


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


def chart(title: str, lines: dict[str, list], ylabel: str) -> str:
    "Lines over steps as one SVG: solid, dashed, dotted, so that colour is never needed."
    finite = {
        name: [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(y)]
        for name, points in lines.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return ""
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1 = x1 if x1 > x0 else x0 + 1
    pad = (y1 - y0) * 0.06 or abs(y0) * 0.1 or 1.0
    y0, y1 = y0 - pad, y1 + pad

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    said = "; ".join(
        f"{name} from {number(float(points[0][1]))} to {number(float(points[-1][1]))}"
        for name, points in finite.items()
    )
    alt = f"{title}, {number(x0)} to {number(max(xs))} steps: {said}"
    out = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    out.append(f"<title>{escape(alt)}</title>")
    for y in ticks(y0, y1):
        out.append(f'<path class="grid" d="M{LEFT} {py(y):.1f}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in ticks(x0, x1):
        out.append(f'<text x="{px(x):.1f}" y="{HEIGHT - 22}" text-anchor="middle">{x:.6g}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">step</text>')
    out.append(f'<text x="12" y="{middle}" transform="rotate(-90 12 {middle})" ')
    out.append(f'text-anchor="middle">{escape(ylabel)}</text>')
    at = LEFT
    for i, (name, points) in enumerate(finite.items()):
        thin = points[:: max(1, len(points) // MAX_POINTS)] + points[-1:]
        path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in thin)
        out.append(f'<path class="line line-{i % 4}" d="M{path}"/>')
        out.append(f'<path class="line line-{i % 4}" d="M{at} 12h22"/>')
        out.append(f'<text x="{at + 27}" y="16">{escape(name)}</text>')
        at += 45 + 7 * len(name)
    return "".join(out) + "</svg>"


def charts(curves: dict[str, list]) -> Iterable[tuple[str, str]]:
    "(what, SVG) of a chapter's curves; `train/loss` and `val/loss` share a chart, `lr/a`, `lr/b` too."
    groups: dict[str, dict[str, list]] = {}
    for name, points in curves.items():
        line, _, what = name.rpartition("/")
        if line and line not in SPLITS:
            line, what = what, line
        groups.setdefault(what, {})[line or what] = points
    for what, lines in groups.items():
        if svg := chart(what, lines, what):
            yield what, svg


def table(rows: Any) -> tuple[list[str], list[list[str]]]:
    "Head and cells of sample rows, given as dicts, sequences or single values."
    if not isinstance(rows, list):
        rows = [rows]
    head = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    if head:
        rows = [[row.get(key) for key in head] for row in rows if isinstance(row, dict)]
    cells = [row if isinstance(row, (list, tuple)) else [row] for row in rows]
    return [str(key) for key in head], [[number(cell) for cell in row] for row in cells]


def read_json(path: Path) -> dict:
    "A JSON file as a dict; empty where there is none or it was cut off."
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(tree: dict, above: str = "") -> Iterable[tuple[str, str]]:
    "The leaves of nested dicts with dotted names."
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", number(value)


def chapter_view(chapter: dict, folder: Path) -> dict:
    "What the template shows of one chapter: its summary and whatever its folder kept."
    record = read_json(folder / "record.json")
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
    answers = []
    if chapter["id"].endswith("_serve") and samples:
        answers = [s for s in samples if "answer" in str(s.get("title")).lower()] or samples[:1]
    return {
        **chapter,
        "claims": chapter.get("claims") or record.get("claims") or [],
        "metrics": chapter.get("metrics") or record.get("metrics") or {},
        "charts": list(charts(record.get("curves") or {})),
        "figures": figures,
        "answers": answers,
        "samples": [sample for sample in samples if sample not in answers],
        "links": [n for n in ("notebook.html", "notebook.ipynb") if (folder / n).is_file()],
        "result": key_result(chapter),
    }


def write_report(run_folder: Path) -> Path:
    "Write `report.html` of a run beside its summary, and return its path."
    from llmchain.workbench.site import templates

    run_folder = Path(run_folder)
    summary = read_json(run_folder / "summary.json")
    if not summary:
        raise FileNotFoundError(f"report: no summary.json in {run_folder}; finish a run first")
    chapters = [chapter_view(c, run_folder / c["id"]) for c in summary.get("chapters") or []]
    started = str(summary.get("started") or "")
    try:
        started = datetime.fromisoformat(started).strftime("%-d %B %Y, %H:%M")
    except ValueError:
        pass  # shown as it was written
    environment = read_json(run_folder / "environment.json")
    packages = environment.pop("packages", None) or {}
    page = templates().get_template("report.html")
    html = page.render(
        run=summary,
        started=started,
        chapters=chapters,
        answers=[sample for c in chapters for sample in c["answers"]],
        environment=list(flat(environment)),
        packages=list(flat(packages)),
        broken=sum(verdict(claim) == "broken" for c in chapters for claim in c["claims"]),
        n_claims=sum(len(c["claims"]) for c in chapters),
        helpers={"number": number, "duration": duration, "memory": memory},
        bound=bound,
        verdict=verdict,
        status=STATUS,
    )
    path = run_folder / "report.html"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(html, encoding="utf-8")
    temporary.replace(path)
    return path
