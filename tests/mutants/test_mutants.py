"""The bug museum: each planted bug must be killed by the test that claims to."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = [
    pytest.param(mutant, id=f"{path.stem.removeprefix('mutants_')}: {mutant['name']}")
    for path in sorted(Path(__file__).parent.glob("mutants_*.py"))
    for mutant in runpy.run_path(str(path))["MUTANTS"]
]


def run_node(root: Path, node: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LLMCHAIN_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        node,
    ]
    return subprocess.run(
        words, cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which bugs are planted."""
    copy = tmp_path_factory.mktemp("museum")
    for name in ("llmchain", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nbs", "data", "pyproject.toml", "settings.ini", "_quarto.yml", "constraints.txt"):
        (copy / name).symlink_to(ROOT / name)
    return copy


def test_there_is_a_museum() -> None:
    assert len(MUTANTS) >= 40


@pytest.mark.parametrize("mutant", MUTANTS)
def test_killed(mutant: dict[str, str], museum: Path) -> None:
    path = museum / (mutant["module"].replace(".", "/") + ".py")
    good = path.read_text(encoding="utf-8")
    assert good.count(mutant["old"]) == 1, (
        f"`{mutant['old']}` occurs {good.count(mutant['old'])} times"
    )
    assert mutant["why"], "every bug is explained"
    try:
        path.write_text(good.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        done = run_node(museum, mutant["killed_by"])
    finally:
        path.write_text(good, encoding="utf-8")
    # 1: tests ran and failed; anything else (2 interrupted, 4 no such test, 5 none) kills nothing
    assert done.returncode == 1, f"survived or not run: {done.stdout[-1500:]}{done.stderr[-500:]}"


def test_the_killers_pass_without_a_bug(museum: Path) -> None:
    nodes = sorted({m.values[0]["killed_by"] for m in MUTANTS})
    environment = {**os.environ, "LLMCHAIN_ROOT": str(museum)}
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *nodes,
    ]
    done = subprocess.run(
        words, cwd=museum, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout.splitlines()[-1], "a killer that is skipped kills nothing"
