"""`llmchain run` when there is nothing to do: forty chapters as long as the real ones, all finished."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kernels import notebook, project

UNIT = "seconds to find that 40 chapters are finished"
GOALS: dict[str, float] = {}
LIMIT = 3.0
N = 40


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """A project of 40 chapters in a chain, run once; their code is that of the course, not executed."""
    chapters, variables = project(folder)
    course = sorted(Path(__file__).parents[1].glob("nbs/[0-9]*/[0-9]*.ipynb"))
    for i in range(N):
        name, cells = f"{i + 1:02d}_add", json.loads(course[i % len(course)].read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        idle = [f"if n < 0:\n{textwrap.indent(c, '    ')}\n    pass" for c in code if c.strip()]
        needs = f"sum/n{i:02d}" if i else ""
        text = notebook(
            "n: int = 3  # how many (0 to 9)\nseed: int = 0  # seed (0 to 9)",
            "from llmchain.workbench.chapter import open_chapter",
            f'ch = open_chapter("{name}", vars())',
            "\n".join(idle),
            f'ch.write("sum/n{i + 1:02d}", [{{"total": {i}}}])\nch.close()',
            tags={0: ["parameters"]},
            raw=f"---\nchapter:\n  needs: [{needs}]\n  makes: [sum/n{i + 1:02d}]\n---",
        )
        (chapters / f"{name}.ipynb").write_text(text)
    shutil.copytree(Path(__file__).parents[1] / "llmchain", folder / "llmchain")
    env = shutil.which("env") or "env"
    again = [
        env,
        *(f"{k}={v}" for k, v in variables.items()),
        sys.executable,
        "-m",
        "llmchain.workbench.cli",
        "run",
        "--json",
    ]
    subprocess.run(again, check=True, capture_output=True)
    return {"ours": [again]}
