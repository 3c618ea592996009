"""Side-by-side benchmarks: ours and its peers in turn, same input, ratios of medians with their spread.

A benchmark is `benchmarks/<name>.py` with

    UNIT      what is measured, as in "seconds" (less is better)
    GOALS     {peer: ratio of the peer's median to ours that we want}
    LIMIT     (may be left out) what our median should not exceed, in UNIT
    EQUAL     (may be left out) {name in `quality`: name of its margin, or "" where both must say the
              same}: what a peer with a goal and ours must share, or the ratio says nothing
    MEMORY    (may be left out) our share of such a peer's peak memory, at most
    MUST      (may be left out) names in `quality` that every round of ours must tell as true
    WARM_UP   (may be left out) False: no round that is not counted; for contenders of minutes
    commands(folder)  {"ours": [argv, …], peer: [argv, …], …}; the commands of one contender are run
                      one after the other, and `folder` is an empty one for their files

Measured is the wall time of the commands. A command that measures something narrower prints
`{"value": number, "quality": {…}}` as its last line; values of one contender are then added up. A goal
is reached by a ratio that is large enough, work that was equal in every round, rounds of ours that tell
what they must, and memory that fits.
"""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from llmchain.workbench.contract import nearest, project_root


def names() -> list[str]:
    """What can be measured."""
    return sorted(p.stem for p in (project_root() / "benchmarks").glob("*.py"))


def load(name: str) -> Any:
    """The module of a benchmark; ValueError with the nearest name if there is none."""
    if name not in names():
        raise ValueError(f"bench: no benchmark `{name}`{nearest(name, names())}")
    path = project_root() / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(commands: list[list[str]]) -> dict[str, Any]:
    """Run commands one after the other: value, peak memory in MB, quality if one was printed.

    ChildProcessError with the last line of what it said if a command fails."""
    total, printed, peak = 0.0, False, 0.0
    quality: dict[str, Any] = {}
    begun = time.perf_counter()
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.stdout.read().decode(errors="replace") if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = (out.strip().splitlines() or ["it said nothing"])[-1]
            raise ChildProcessError(f"bench: {' '.join(command)[-80:]} failed: {last[:300]}")
        peak = max(peak, used.ru_maxrss / 1024)
        try:
            told = json.loads(out.strip().splitlines()[-1])
            total, printed = total + told["value"], True
            quality |= told.get("quality", {})
        except (IndexError, ValueError, KeyError, TypeError):
            pass  # the wall time counts
    value = total if printed else time.perf_counter() - begun
    return {"value": value, "peak_rss_mb": round(peak, 1), "quality": quality}


def run(name: str, rounds: int = 3) -> dict[str, Any]:
    """Measure all contenders in turn, `rounds` times after one that is not counted."""
    module = load(name)
    with tempfile.TemporaryDirectory() as folder:
        contenders = module.commands(Path(folder))
        found: dict[str, list[dict[str, Any]]] = {who: [] for who in contenders}
        for number in range(0 if getattr(module, "WARM_UP", True) else 1, rounds + 1):
            for who, commands in contenders.items():  # A B A B: what drifts hits all alike
                result = measure(commands)
                if number:
                    found[who].append(result)
    more = {key.lower(): getattr(module, key, None) for key in ("LIMIT", "EQUAL", "MEMORY", "MUST")}
    return summarise(name, module.UNIT, module.GOALS, found, **more)


def differs(ours: dict[str, Any], theirs: dict[str, Any], equal: dict[str, str]) -> list[str]:
    """The qualities of `equal` in which a round of two contenders is not alike; one that is not told is not."""
    wrong = []
    for key, margin in equal.items():
        if key not in ours or key not in theirs:
            wrong.append(key)
        elif margin:  # the wider of both intervals: they are of the same examples
            width = max(ours.get(margin, 0.0), theirs.get(margin, 0.0))
            wrong += [key] * (abs(ours[key] - theirs[key]) > width)
        else:
            wrong += [key] * (ours[key] != theirs[key])
    return wrong


def summarise(
    name: str,
    unit: str,
    goals: dict[str, float],
    found: dict[str, list[dict[str, Any]]],
    limit: float | None = None,
    equal: dict[str, str] | None = None,
    memory: float | None = None,
    must: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """What a program reads of a benchmark: ratios (above one: ours is better) of medians."""
    failed = sorted(
        {key for r in found["ours"] for key in must or () if r["quality"].get(key) is not True}
    )
    values = {who: [r["value"] for r in results] for who, results in found.items()}
    peaks = {who: max(r["peak_rss_mb"] for r in results) for who, results in found.items()}
    ours = values.pop("ours")
    ratios = {}
    for peer, theirs in values.items():
        each = [t / o for t, o in zip(theirs, ours, strict=True)]
        ratios[peer] = {
            "ratio": statistics.median(theirs) / statistics.median(ours),
            "low": min(each),
            "high": max(each),
            "goal": goals.get(peer),
            "memory": peaks["ours"] / peaks[peer],  # below one: ours needs less
            "reached": None,
        }
        if peer in goals:
            rounds = zip(found["ours"], found[peer], strict=True)
            wrong = {w for o, t in rounds for w in differs(o["quality"], t["quality"], equal or {})}
            missed = ["speed"] * (ratios[peer]["ratio"] < goals[peer]) + sorted(wrong) + failed
            missed += ["memory"] * (memory is not None and ratios[peer]["memory"] > memory)
            ratios[peer] |= {"missed": missed, "reached": not missed}
    nearest_peer: dict[str, Any] = min(ratios.values(), key=lambda r: r["ratio"], default={})
    return {
        "name": name,
        "ratio": nearest_peer.get("ratio"),
        "goal": nearest_peer.get("goal"),
        "limit": limit,
        "within": None if limit is None else statistics.median(ours) <= limit and not failed,
        "unit": unit,
        "ours": ours,
        "peers": values,
        "ratios": ratios,
        "quality": {who: [r["quality"] for r in results] for who, results in found.items()},
        "peak_rss_mb": peaks,
        "rounds": len(ours),
        "interleaved": True,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
