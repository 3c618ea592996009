"""The bug museum: each planted bug must be killed by the test that claims to."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = [
    pytest.param(mutant, id=f"{path.stem.removeprefix('mutants_')}: {mutant['name']}")
    for path in sorted(Path(__file__).parent.glob("mutants_*.py"))
    for mutant in runpy.run_path(str(path))["MUTANTS"]
]
KILLERS = sorted({m.values[0]["killed_by"] for m in MUTANTS})


@pytest.fixture(scope="session")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code in which bugs are planted."""
    copy = tmp_path_factory.mktemp("museum")
    for name in ("llmchain", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nbs", "data", "pyproject.toml", "settings.ini", "_quarto.yml", "constraints.txt"):
        (copy / name).symlink_to(ROOT / name)
    return copy


@pytest.fixture(scope="session")
def run_nodes(museum: Path) -> Iterator[Callable[[list[str]], dict]]:
    """Run tests on the copy as it is now."""
    hidden = ("PYTEST_", "LLMCHAIN_RUNS", "LLMCHAIN_CONTEXT")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    environment |= {"OMP_NUM_THREADS": "1", "LLMCHAIN_ROOT": str(museum)}
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("museum.py")), str(museum)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=museum,
    )  # fmt: skip

    def run(nodes: list[str]) -> dict:
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps({"nodes": nodes}) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.kill()
    server.wait()


def test_there_is_a_museum() -> None:
    assert len(MUTANTS) >= 40


@pytest.mark.parametrize("mutant", MUTANTS)
def test_killed(mutant: dict[str, str], museum: Path, run_nodes: Callable) -> None:
    path = museum / (mutant["module"].replace(".", "/") + ".py")
    good = path.read_text(encoding="utf-8")
    assert good.count(mutant["old"]) == 1, (
        f"`{mutant['old']}` occurs {good.count(mutant['old'])} times"
    )
    assert mutant["why"], "every bug is explained"
    try:
        path.write_text(good.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        done = run_nodes([mutant["killed_by"]])
    finally:
        path.write_text(good, encoding="utf-8")
    # 1: tests ran and failed; anything else (2 interrupted, 4 no such test, 5 none) kills nothing
    assert done["code"] == 1, f"survived or not run ({done['code']}): {done['output']}"


@pytest.mark.parametrize("node", KILLERS)
def test_killer_passes_without_a_bug(node: str, run_nodes: Callable) -> None:
    done = run_nodes([node])
    assert done["code"] == 0, done["output"]
    assert "skipped" not in done["output"].splitlines()[-1], (
        "a killer that is skipped kills nothing"
    )
