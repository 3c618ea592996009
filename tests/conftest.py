"""A small project made on the spot, for tests of the workbench."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Two workers test at a time; with two threads each they would wait for each other most of the time.
# The runner gives the chapters it starts their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def notebook(*cells: tuple[str, str] | tuple[str, str, list[str]]) -> str:
    """A notebook of (kind, source[, tags]) cells as JSON text."""
    made = []
    for i, (kind, source, *tags) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"c{i}", "source": source}
        cell["metadata"] = {"tags": tags[0]} if tags else {}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell)
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def chapter(
    name: str,
    needs: str = "",
    makes: str = "",
    parameters: str = "n: int = 1  # how many (0 to 100)\nseed: int = 0  # seed (0 to 9)",
    body: str = "",
    extra: str = "",
) -> str:
    """A chapter that opens, does `body`, and closes."""
    return notebook(
        ("markdown", f"# {name}\n> a chapter for a test"),
        ("raw", f"---\nchapter:\n  needs: [{needs}]\n  makes: [{makes}]\n  {extra}\n---"),
        ("code", parameters, ["parameters"]),
        ("code", "from llmchain.workbench.chapter import open_chapter"),
        ("code", f'ch = open_chapter("{name}", vars())'),
        ("code", body or "pass"),
        ("code", "ch.close()"),
    )


class Project:
    """A checkout of three chapters in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        (root / "nbs" / "01_data").mkdir(parents=True)
        (root / "data").mkdir()
        (root / "data" / "catalog.toml").write_text("", encoding="utf-8")
        (root / "settings.ini").write_text("[smoke]\n01_first.n = 2\n", encoding="utf-8")
        self.put(
            "01_first", chapter("01_first", makes="corpus/raw", body='ch.write("corpus/raw", [{"i": i} for i in range(n)])\nch.claim("rows", n, at_least=0)')
        )  # fmt: skip
        self.put(
            "02_second",
            chapter("02_second", "corpus/raw", "corpus/clean", body='rows = ch.read("corpus/raw")\nch.write("corpus/clean", [{"i": r["i"] * n} for r in rows])\nch.claim("total", len(rows) * n, at_most={"smoke": 50, "cpu": 100})'),
        )  # fmt: skip
        self.put(
            "03_aside",
            chapter("03_aside", makes="report/aside", body='ch.write("report/aside", [{"n": n}])'),
        )

    def put(self, name: str, text: str) -> Path:
        """Write a notebook."""
        path = self.root / "nbs" / "01_data" / f"{name}.ipynb"
        path.write_text(text, encoding="utf-8")
        return path

    def environment(self, **more: str) -> dict[str, str]:
        """Variables that make the command work on this project."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LLMCHAIN_")}
        return {**kept, "LLMCHAIN_ROOT": str(self.root), "LLMCHAIN_RUNS": str(self.runs), **more}

    def llmchain(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user does."""
        return subprocess.run(
            [sys.executable, "-m", "llmchain.workbench.cli", *words],
            capture_output=True, text=True, env=self.environment(**more), cwd=self.root, timeout=300,
        )  # fmt: skip

    def summary(self, *words: str, **more: str) -> dict:
        """`llmchain run … --json` as a value; the return code is kept in it."""
        done = self.llmchain("run", *words, "--json", **more)
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return json.loads(done.stdout) | {"code": done.returncode}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def in_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same, for code that is called in this process."""
    for name in list(os.environ):
        if name.startswith("LLMCHAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLMCHAIN_ROOT", str(project.root))
    monkeypatch.setenv("LLMCHAIN_RUNS", str(project.runs))
    monkeypatch.chdir(project.root)
    return project


@pytest.fixture(scope="session")
def local_data() -> Path:
    """The folder of local data sets; tests that need it are skipped, and say so, where it is not."""
    given = os.environ.get("LLMCHAIN_DATA") or ROOT.parent / "shared" / "data"
    if not (Path(given) / "MANIFEST.json").is_file():
        pytest.skip("no local data sets: set LLMCHAIN_DATA to their folder")
    return Path(given)
