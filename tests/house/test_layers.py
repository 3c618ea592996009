"""Imports go one way, and the light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ["data", "pretrain", "finetune", "optimize", "product", "apps"]
MODULES = sorted((ROOT / "llmchain").rglob("*.py"))


def imported(source: str, package: str) -> set[str]:
    """Modules of ours that a source imports; `package` is where its relative imports start."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            found.add(".".join([*above, *([node.module] if node.module else [])]))
    return {name for name in found if name.startswith("llmchain.")}


def breaches(part: str, source: str) -> list[str]:
    """The imports of a module in `part` that go the wrong way."""
    allowed = {"workbench"}
    if part in LAYERS:
        allowed |= set(LAYERS[: LAYERS.index(part) + 1])
    names = sorted(imported(source, f"llmchain.{part}"))
    return [name for name in names if name.split(".")[1] not in allowed]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(ROOT / "llmchain").parts[0].removesuffix(".py")
    if part == "_modidx":
        return
    wrong = breaches(part, path.read_text(encoding="utf-8"))
    assert not wrong, f"{path.relative_to(ROOT)}: {part} may not import {', '.join(wrong)}"


def test_the_check_sees_a_breach() -> None:
    assert breaches("data", "from llmchain.pretrain.gpt import GPT") == ["llmchain.pretrain.gpt"]
    assert breaches("workbench", "import llmchain.data.clean") == ["llmchain.data.clean"]
    assert breaches("data", "from ..pretrain.gpt import GPT") == ["llmchain.pretrain.gpt"]
    assert breaches("apps", "from llmchain.data.clean import x\nfrom .other import y") == []


@pytest.mark.parametrize("words", [["-c", "import llmchain"], ["-m", "llmchain.workbench.cli", "--help"], ["-m", "llmchain.workbench.cli", "list"]])  # fmt: skip
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    heavy = "torch transformers papermill nbformat sklearn matplotlib pandas".split()
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['llmchain', *{words[2:]!r}]\n"
        "try:\n"
        + (
            f"    exec({words[1]!r})\n"
            if words[0] == "-c"
            else f"    runpy.run_module({words[1]!r}, run_name='__main__')\n"
        )
        + "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"found = [m for m in {heavy!r} if m in sys.modules]\n"
        "print('HEAVY', found)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout, done.stdout[-300:]


def test_no_module_unpickles() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not names & {"pickle", "joblib", "dill", "marshal", "shelve"}, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), f"{path}:{node.lineno}"
