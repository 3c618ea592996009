"""Two runs side by side, a run made again, and many values of one parameter."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmchain.workbench import contract
from llmchain.workbench.runner import read_summary
from llmchain.workbench.store import read_json

FINISHED = ("ok", "cached")


def changes(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, list[Any]]:
    """The keys whose values differ, with both; None where one of the two has no such key."""
    a, b = a or {}, b or {}
    pairs = {key: [a.get(key), b.get(key)] for key in sorted({*a, *b}, key=str)}
    # NaN is not equal to itself, yet two runs that both diverged do not differ
    return {key: [x, y] for key, (x, y) in pairs.items() if not (x == y or (x != x and y != y))}


def diff(first: str | None, second: str | None) -> dict[str, Any]:
    """What differs between two runs: environment, and for each chapter in both what went in and out.

    FileNotFoundError if one of them does not exist."""
    a, b = read_summary(first), read_summary(second)
    surroundings = [read_json(Path(s["folder"]) / "environment.json") or {} for s in (a, b)]
    packages = [s.pop("packages", {}) for s in surroundings]
    old, new = ({c["id"]: c for c in s["chapters"]} for s in (a, b))
    found: dict[str, Any] = {
        "runs": [a["run"], b["run"]],
        "run": changes(*({k: s[k] for k in ("profile", "device", "cores")} for s in (a, b))),
        "environment": changes(*surroundings),
        "packages": changes(*packages),
        "only": [sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())],
        "chapters": {},
    }
    for name in sorted(old.keys() & new.keys()):
        x, y = old[name], new[name]
        kinds = ("parameters", "inputs", "metrics", "outputs", "data")
        parts = {kind: part for kind in kinds if (part := changes(x.get(kind), y.get(kind)))}
        # the key holds the code as well; when all else it holds is equal, the code is what differs
        told = parts.keys() & {"parameters", "inputs", "data"} or found["run"] or found["packages"]
        code = "same" if x["key"] == y["key"] else "unknown" if told else "changed"
        if parts or code == "changed":
            found["chapters"][name] = {**parts, "code": code}
    return found


def combinations(
    chapters: dict[str, contract.Chapter], given: Iterable[str]
) -> list[tuple[dict[str, str], list[str]]]:
    """Every choice from lists such as `gpt.lr=1e-3,3e-3`: what was chosen, and the words for it.

    A comma separates values of numbers and switches; in a text it is a part of the text."""
    fixed: list[str] = []
    lists: list[list[tuple[str, str]]] = []
    for word in given:
        key, _, text = word.partition("=")
        owner, _, name = key.strip().rpartition(".")
        try:
            ids = contract.find_chapters([owner], chapters)
            is_text = chapters[ids[0]].parameters[name].type == "str"
        except (contract.ContractError, KeyError):
            is_text = True  # the check of all parameters will say what is wrong
        if is_text or "," not in text:
            fixed.append(word)
        else:
            lists.append([(key.strip(), value.strip()) for value in text.split(",")])
    return [
        (dict(chosen), [*fixed, *(f"{key}={value}" for key, value in chosen)])
        for chosen in itertools.product(*lists)
    ]


def sweep_rows(
    chosen: list[dict[str, str]], summaries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each run of a sweep: what was chosen, the run, and the key metrics that differ."""
    rows = []
    for values, summary in zip(chosen, summaries, strict=True):
        row: dict[str, Any] = {**values, "run": summary["run"]}
        for entry in summary["chapters"]:
            name, key = entry["id"], entry["key_metric"]
            if entry["status"] not in FINISHED:
                row[name] = entry["status"]
            elif key:
                row[f"{name}: {key}"] = (entry["metrics"] or {}).get(key)
        rows.append(row)
    columns = dict.fromkeys(k for row in rows for k in row)
    differ = [c for c in columns if len({repr(row.get(c)) for row in rows}) > 1]
    return [{c: row[c] for c in differ if c in row} for row in rows]


def verdict(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """For each chapter of a run and of its repetition: identical artifacts, or what to say of them.

    On another class of machine sums are rounded otherwise, so there a number must lie in the interval
    over seeds that the run stated for it (metrics x, x_low, x_high); a chapter that states none can
    only be judged by its claims."""
    again = {c["id"]: c for c in new["chapters"]}
    same_machine = (old["device"], old["cores"]) == (new["device"], new["cores"])
    rows: list[dict[str, Any]] = []
    for entry in old["chapters"]:
        other = again[entry["id"]]
        if other["status"] not in FINISHED:
            word, good = f"failed: {other.get('error', '')}", False
        elif entry["outputs"] == other["outputs"]:
            word, good = "identical", True
        elif same_machine:
            word, good = f"differs: {', '.join(changes(entry['outputs'], other['outputs']))}", False
        else:
            wrong = outside_intervals(entry["metrics"], other["metrics"])
            wrong += [c["name"] for c in other.get("claims") or [] if c["held"] is False]
            word, good = f"outside: {', '.join(wrong)}" if wrong else "within intervals", not wrong
        rows.append({"id": entry["id"], "verdict": word, "good": good})
    return rows


def outside_intervals(stated: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """Names of the metrics that have an interval in `stated` and lie outside of it in `measured`."""
    return [
        name
        for name in stated
        if f"{name}_low" in stated
        and not stated[f"{name}_low"] <= measured.get(name, float("nan")) <= stated[f"{name}_high"]
    ]
