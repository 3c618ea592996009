"""Every chapter runs headless at profile smoke, in one chain, and the site is built from that run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmchain.workbench.contract import read_chapters
from llmchain.workbench.machine import cores

ROOT = Path(__file__).parents[1]
CHAPTERS = list(read_chapters(ROOT))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The summary of one run of the whole chain in a store of its own."""
    runs = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "LLMCHAIN_RUNS": str(runs), "LLMCHAIN_ROOT": str(ROOT)}
    # what pytest's other workers compute on is not promised twice: threads that wait for a core spin
    beside = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    environment.setdefault("LLMCHAIN_THREADS", str(max(1, cores() // beside)))
    words = [
        sys.executable,
        "-m",
        "llmchain.workbench.cli",
        "run",
        "--profile",
        "smoke",
        "--keep-going",
        "--json",
    ]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("{"), done.stderr
    return json.loads(done.stdout) | {"environment": environment}


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_runs_and_holds_its_claims(name: str, smoke: dict) -> None:
    entry = next(c for c in smoke["chapters"] if c["id"] == name)
    assert entry["status"] == "ok", entry.get("error")
    assert entry["claims"] and all(c["held"] in (True, None) for c in entry["claims"])
    assert any(c["held"] for c in entry["claims"]), "no claim has a bound at profile smoke"
    assert entry["outputs"]


def test_second_run_takes_everything_from_the_store(smoke: dict) -> None:
    words = [sys.executable, "-m", "llmchain.workbench.cli", "run", "--profile", "smoke", "--json"]
    done = subprocess.run(words, cwd=ROOT, env=smoke["environment"], capture_output=True, text=True)
    again = json.loads(done.stdout)
    assert {c["status"] for c in again["chapters"]} == {"cached"}
    assert again["certificate"] == smoke["certificate"]


def test_report_of_the_run(smoke: dict) -> None:
    page = (Path(smoke["folder"]) / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in CHAPTERS)
    assert "http://" not in page.replace("http://www.w3.org", "") or 'src="http' not in page


def test_site_is_built_and_every_link_resolves(smoke: dict, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "llmchain.workbench.cli",
        "site",
        "build",
        "--out",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(words, cwd=ROOT, env=smoke["environment"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "site").rglob("*.html"))) >= len(CHAPTERS) + 1
