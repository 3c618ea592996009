"""How long after it was asked for a chapter has torch: from the runner's order to the end of its import.

Papermill's command line starts Python, a kernel, and torch anew; ours forks what has them."""

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernels import notebook, project

UNIT = "seconds until torch is imported"
GOALS: dict[str, float] = {}
LIMIT = 0.5


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """One chapter that imports torch, and a notebook that does."""
    chapters, _ = project(folder)
    parameters = "n: int = 3  # how many (0 to 9)\nseed: int = 0  # seed (0 to 9)"
    opened = (
        "from llmchain.workbench.chapter import open_chapter\nch = open_chapter('01_torch', vars())"
    )
    done = 'ch.write("sum/n", [{"sum": float(torch.ones(n).sum())}])\nch.close()'
    raw = "---\nchapter:\n  makes: [sum/n]\n---"
    ours = notebook(parameters, "import torch", opened, done, tags={0: ["parameters"]}, raw=raw)
    (chapters / "01_torch.ipynb").write_text(ours)
    (folder / "plain.ipynb").write_text(notebook("n = 3", "import torch", tags={0: ["parameters"]}))
    return {
        "ours": [[sys.executable, __file__, "ours", str(folder)]],
        "papermill": [[sys.executable, __file__, "papermill", str(folder)]],
    }


def ours(folder: Path) -> float:
    """Seconds between the order, written as job.json, and the end of `import torch`."""
    runs = folder / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    places = {"LLMCHAIN_ROOT": str(folder), "LLMCHAIN_RUNS": str(runs)}
    words = [sys.executable, "-m", "llmchain.workbench.cli", "run", "--json"]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, **places})
    (made,) = runs.glob("2*/01_torch")
    return imported(made / "notebook.ipynb") - (made / "job.json").stat().st_mtime


def papermill(folder: Path) -> float:
    """Seconds between the start of the command and the end of `import torch`."""
    begun, out = time.time(), folder / "out.ipynb"
    words = [sys.executable, "-m", "papermill", str(folder / "plain.ipynb"), str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return imported(out) - begun


def imported(path: Path) -> float:
    """When the cell with `import torch` ended, in seconds since 1970."""
    cells = json.loads(path.read_text())["cells"]
    (cell,) = [c for c in cells if "".join(c["source"]) == "import torch"]
    return datetime.fromisoformat(cell["metadata"]["papermill"]["end_time"]).timestamp()


if __name__ == "__main__":
    print(
        json.dumps(
            {"value": {"ours": ours, "papermill": papermill}[sys.argv[1]](Path(sys.argv[2]))}
        )
    )
