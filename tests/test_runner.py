"""The runner: what is run, what is taken from the store, what a record says."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import Project, chapter


def statuses(summary: dict) -> dict[str, str]:
    return {c["id"]: c["status"] for c in summary["chapters"]}


def test_chain_cache_and_change(project: Project) -> None:
    first = project.summary("--profile", "smoke")
    assert first["code"] == 0 and set(statuses(first).values()) == {"ok"}, first
    by = {c["id"]: c for c in first["chapters"]}
    assert by["02_second"]["inputs"]["corpus/raw"] == by["01_first"]["outputs"]["corpus/raw"]
    assert by["01_first"]["parameters"]["n"] == 2 and by["01_first"]["peak_rss_mb"] > 10
    assert {"name": "total", "value": 2, "at_most": 50, "held": True} in by["02_second"]["claims"]
    again = project.summary("--profile", "smoke")
    assert set(statuses(again).values()) == {"cached"}
    assert again["certificate"] == first["certificate"]
    assert (Path(again["folder"]) / "01_first" / "notebook.ipynb").is_file()
    # prose and comments rerun nothing; a changed value reruns what depends on it, and back hits
    path = project.root / "nbs" / "01_data" / "01_first.ipynb"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("a chapter for a test", "other words").replace(
            "ch.claim(", "# why\\nch.claim("
        ),
        encoding="utf-8",
    )
    assert set(statuses(project.summary("--profile", "smoke")).values()) == {"cached"}
    changed = project.summary("--profile", "smoke", "-p", "first.n=3")
    assert statuses(changed) == {"01_first": "ok", "02_second": "ok", "03_aside": "cached"}
    claim = next(c for c in changed["chapters"] if c["id"] == "02_second")["claims"][0]
    assert claim["held"] is None, "a changed run records the value without the profile's bound"
    path.write_text(text.replace("range(n)", "range(n + 1)"), encoding="utf-8")
    assert statuses(project.summary("01", "02", "--profile", "smoke"))["01_first"] == "ok"


def test_plan_says_what_and_why_and_starts_nothing(project: Project) -> None:
    project.summary("01", "--profile", "smoke")
    plan = {
        e["id"]: e
        for e in json.loads(project.llmchain("plan", "--profile", "smoke", "--json").stdout)
    }
    assert plan["01_first"]["action"] == "take"
    assert plan["02_second"]["action"] == "run"
    assert len(list(project.runs.glob("2*"))) == 1


def test_a_failure_is_told_and_stops_what_rests_on_it(project: Project) -> None:
    project.put(
        "01_first",
        chapter("01_first", makes="corpus/raw", body='raise ValueError("broken <here>")'),
    )
    summary = project.summary("--keep-going")
    assert summary["code"] == 1
    assert statuses(summary) == {"01_first": "failed", "02_second": "skipped", "03_aside": "ok"}
    assert "ValueError: broken <here>" in summary["chapters"][0]["error"]
    assert (Path(summary["folder"]) / "report.html").is_file()
    assert not list((project.runs / "store" / "artifacts").glob("corpus+raw/*"))


def test_a_broken_claim_publishes_nothing(project: Project) -> None:
    body = 'ch.write("corpus/raw", [{"i": 1}])\nch.claim("quality", 0.61, at_least=0.93)'
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    summary = project.summary("01")
    assert summary["code"] == 1
    assert "claim quality: 0.61 is under 0.93" in summary["chapters"][0]["error"]
    assert summary["chapters"][0]["claims"][0]["held"] is False
    assert not list((project.runs / "store" / "artifacts").glob("corpus+raw/*"))


def test_a_notebook_without_close_is_not_finished(project: Project) -> None:
    text = chapter("01_first", makes="corpus/raw", body='ch.write("corpus/raw", [{"i": 1}])')
    project.put("01_first", text.replace("ch.close()", "pass"))
    summary = project.summary("01")
    assert summary["code"] == 1 and "without `ch.close()`" in summary["chapters"][0]["error"]


def test_plain_papermill_checks_parameters_and_finds_inputs(project: Project) -> None:
    def papermill(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        source = project.root / "nbs" / "01_data" / f"{name}.ipynb"
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(source),
            str(project.root / "out.ipynb"),
            *words,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, env=project.environment(), cwd=project.root
        )

    missing = papermill("02_second")
    assert missing.returncode == 1
    assert "02_second needs `corpus/raw`, made by 01_first: llmchain run 01_first" in missing.stderr
    unknown = papermill("01_first", "-p", "nn", "3")
    assert unknown.returncode == 1
    assert "unknown parameter `nn` of chapter 01_first; did you mean `n`?" in unknown.stderr
    wrong = papermill("01_first", "-p", "n", "101")
    assert wrong.returncode == 1 and "`n` must be int, 0 to 100; got 101" in wrong.stderr
    assert papermill("01_first", "-p", "n", "3").returncode == 0
    assert papermill("02_second").returncode == 0


def test_parameter_that_holds_code_is_a_string(project: Project) -> None:
    trap = project.root / "trap"
    project.put(
        "01_first",
        chapter("01_first", makes="corpus/raw", parameters='t: str = "x"  # any words\nseed: int = 0  # s (0 to 9)',
                body='ch.write("corpus/raw", [{"t": t}])\nch.metric("t", t)\nch.say("{t}")'),
    )  # fmt: skip
    value = f'"""; open({str(trap)!r}, "w") #'
    (project.root / "settings.ini").write_text("[smoke]\n")
    summary = project.summary("01", "-p", f"first.t={value}")
    assert summary["code"] == 0 and summary["chapters"][0]["metrics"]["t"] == value
    assert not trap.exists()


def test_secrets_are_not_written_down(project: Project) -> None:
    summary = project.summary("01", MY_API_TOKEN="s3cr3t-value", HF_TOKEN="hf_s3cr3t")
    for path in Path(summary["folder"]).rglob("*"):
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes(), path


def test_threads_are_part_of_the_key(project: Project) -> None:
    project.put("03_aside", chapter("03_aside", makes="report/aside", extra="cores: all",
                                    body='ch.metric("threads", ch.threads)\nch.write("report/aside", [{"n": n}])'))  # fmt: skip
    first = project.summary("03", LLMCHAIN_THREADS="1")
    assert first["chapters"][0]["metrics"]["threads"] == 1
    assert statuses(project.summary("03", LLMCHAIN_THREADS="1")) == {"03_aside": "cached"}
    other = project.summary("03", LLMCHAIN_THREADS="3")
    assert other["chapters"][0]["metrics"]["threads"] == 3


def test_no_core_is_promised_twice(project: Project) -> None:
    for name in ("01_first", "03_aside"):
        make = "corpus/raw" if name == "01_first" else "report/aside"
        body = f'import time\nbegun = time.time()\ntime.sleep(1)\nch.write("{make}", [])\nch.metric("begun", begun)\nch.metric("ended", time.time())'
        project.put(name, chapter(name, makes=make, body=body, extra="cores: all"))
    both = {c["id"]: c["metrics"] for c in project.summary("01", "03", "--jobs", "2")["chapters"]}
    a, b = sorted(both.values(), key=lambda m: m["begun"])
    assert a["ended"] <= b["begun"], "each wants all cores, so they run one after the other"
