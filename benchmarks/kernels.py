"""Thirty trivial notebooks, outputs saved: the runner against Papermill's command line and nbdev-test.

nbdev-test starts no kernel: it runs the cells in two processes of its own, so nothing of one notebook
is kept from the next one but what IPython resets."""

import json
import shutil
import sys
from pathlib import Path

UNIT = "seconds for 30 notebooks"
GOALS = {"papermill": 10.0, "nbdev-test": 0.8}
N = 30


def notebook(*sources: str, tags: dict[int, list[str]] | None = None, raw: str = "") -> str:
    """Code cells, behind a title and front matter, as the text of a notebook."""
    cells = [
        {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# Trivial\n> adds"},
        {"cell_type": "raw", "id": "front", "metadata": {}, "source": raw},
    ]
    for i, source in enumerate(sources):
        metadata = {"tags": (tags or {}).get(i, [])}
        cells.append({"cell_type": "code", "id": f"c{i}", "metadata": metadata, "source": source,
                      "execution_count": None, "outputs": []})  # fmt: skip
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def project(folder: Path) -> tuple[Path, dict[str, str]]:
    """An empty project: the folder of its chapters, and the variables that point the runner to it."""
    chapters = folder / "nbs" / "01_data"
    for path in (chapters, folder / "data"):
        path.mkdir(parents=True)
    (folder / "data" / "catalog.toml").write_text("")
    (folder / "settings.ini").write_text("[smoke]\n")
    return chapters, {"LLMCHAIN_ROOT": str(folder), "LLMCHAIN_RUNS": str(folder / "runs")}


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """A project of 30 chapters for the runner, the same cells without the contract for the others."""
    (chapters, variables), plain = project(folder), folder / "plain"
    for path in (plain, folder / "out"):
        path.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "trivial"\nversion = "1"\n[tool.nbdev]\nnbs_path = "plain"\nlib_path = "lib"\n'
    )
    work = ("n = 3", "total = sum(range(n))\nprint(total)", "assert total == 3")
    for i in range(N):
        name = f"{i + 1:02d}_add"
        raw = f"---\nchapter:\n  makes: [sum/n{i + 1:02d}]\n---"
        text = notebook(
            "n: int = 3  # how many (0 to 9)\nseed: int = 0  # seed (0 to 9)",
            "from llmchain.workbench.chapter import open_chapter",
            f'ch = open_chapter("{name}", vars())',
            *work[1:],
            f'ch.write("sum/n{i + 1:02d}", [{{"total": total}}])\nch.claim("total", total, equal=3)',
            "ch.close()",
            tags={0: ["parameters"]},
            raw=raw,
        )
        (chapters / f"{name}.ipynb").write_text(text)
        (plain / f"{name}.ipynb").write_text(notebook(*work, tags={0: ["parameters"]}))
    python = sys.executable
    env = shutil.which("env") or "env"
    ours = [
        env,
        *(f"{k}={v}" for k, v in variables.items()),
        python,
        "-m",
        "llmchain.workbench.cli",
        "run",
        "--force",
        "--json",
    ]
    test = [env, "-C", str(folder), str(Path(python).with_name("nbdev-test")), "plain", "--save"]
    return {
        "ours": [ours],
        "papermill": [
            [python, "-m", "papermill", "--no-progress-bar", str(p), str(folder / "out" / p.name)]
            for p in sorted(plain.glob("*.ipynb"))
        ],
        "nbdev-test": [[*test, "--n-workers", "2"]],
    }
