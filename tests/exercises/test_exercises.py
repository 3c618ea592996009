"""The checks of the exercises accept a right answer and refuse wrong ones."""

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from llmchain.workbench.contract import Chapter, read_chapters

ROOT = Path(__file__).parents[2]
CHAPTERS = read_chapters(ROOT)


def checks(chapter: Chapter) -> dict[str, Any]:
    """The namespace after the import cells, the exported cells and the check cells of a notebook."""
    namespace: dict[str, Any] = {"__name__": f"exercises_{chapter.id}"}
    for cell in json.loads(chapter.path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        body = ast.parse(source).body
        only_imports = body and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in body)
        exported = source.startswith("#| export")
        if only_imports or exported or "exercise" in cell["metadata"].get("tags", []):
            exec(compile(source, chapter.id, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("chapter", CHAPTERS.values(), ids=list(CHAPTERS))
def test_checks_tell_right_from_wrong(chapter: Chapter) -> None:
    answers = runpy.run_path(str(Path(__file__).parent / f"answers_{chapter.id}.py"))
    namespace = checks(chapter)
    assert sorted(answers["RIGHT"]) == sorted(answers["WRONG"]) == [1, 2, 3]
    for number, right in answers["RIGHT"].items():
        check = namespace[f"check_{number}"]
        check(right)
        assert answers["WRONG"][number], "at least one wrong answer"
        for wrong in answers["WRONG"][number]:
            with pytest.raises(AssertionError):
                check(wrong)
