"""Benchmarks: what is measured, and what is said of it."""

import json
import sys
from pathlib import Path

import pytest

from llmchain.workbench import bench


def test_a_command_that_fails_is_one_line() -> None:
    command = [sys.executable, "-c", "print('so far'); raise SystemExit('no such set')"]
    with pytest.raises(ChildProcessError, match="failed: no such set$"):
        bench.measure([command])


def test_a_printed_value_counts_else_the_wall_time() -> None:
    told = json.dumps({"value": 0.25, "quality": {"f1": 0.9}})
    found = bench.measure([[sys.executable, "-c", f"print({told!r})"]] * 2)
    assert found["value"] == 0.5 and found["quality"] == {"f1": 0.9} and found["peak_rss_mb"] > 1
    assert 0.01 < bench.measure([[sys.executable, "-c", "print('hello')"]])["value"]


def test_ratios_of_medians_goals_and_limits() -> None:
    def results(*values: float, peak: float = 1.0) -> list[dict]:
        return [{"value": v, "quality": {}, "peak_rss_mb": peak} for v in values]

    slow = [*results(8), *results(6, peak=4.0), *results(9)]
    found = {"ours": results(1, 2, 3, peak=3.0), "slow": slow, "fast": results(1, 1, 1)}
    told = bench.summarise("x", "seconds", {"slow": 3.0, "fast": 0.8}, found, limit=1.5)
    assert (told["ratios"]["slow"]["ratio"], told["ratios"]["slow"]["reached"]) == (4.0, True)
    assert (told["ratios"]["slow"]["low"], told["ratios"]["slow"]["high"]) == (3.0, 8.0)
    assert (told["ratio"], told["ratios"]["fast"]["reached"], told["within"]) == (0.5, False, False)
    assert (told["ratios"]["slow"]["memory"], told["ratios"]["fast"]["memory"]) == (0.75, 3.0)
    alone = bench.summarise("x", "seconds", {}, {"ours": results(1)}, limit=1.5)
    assert (alone["ratio"], alone["ratios"], alone["within"]) == (None, {}, True)


def test_the_stages_of_the_memory_benchmark_run(tmp_path: Path) -> None:
    module = bench.load("memory")
    module.generate(0.15, tmp_path)
    counts = {name: stage(tmp_path) for name, stage in module.STAGES.items()}
    assert counts["collect"] > counts["clean"] > counts["deduplicate"] >= counts["tokenize"] > 50
    assert module.peak_mb() > 30
