"""`llmchain new 40_guard`: a chapter that runs, from nbs/_template.ipynb."""

import json
from pathlib import Path

from llmchain.workbench.contract import NAME, ContractError, read_chapter, read_chapters


def make_chapter(root: Path, name: str, part: str) -> Path:
    """Write the notebook and return its path; ContractError for a bad or taken name or number."""
    match = NAME.fullmatch(name)
    if not match:
        raise ContractError(f"`{name}`: a chapter is called NN_name, as in 40_guard")
    if not (root / "nbs" / part).is_dir():
        known = ", ".join(sorted(p.name for p in (root / "nbs").glob("[0-9][0-9]_*")))
        raise ContractError(f"no part `{part}` under nbs/; there is: {known}")
    taken = [c for c in read_chapters(root) if c[:2] == match[1] or c.partition("_")[2] == match[2]]
    if taken:
        raise ContractError(f"`{name}`: number or name is taken by {taken[0]}")
    words = {"id": name, "name": match[2], "title": match[2].replace("_", " ").capitalize()}
    words["summary"] = "One line that says what the reader will be able to do"
    words["module"] = f"{_package(root, part)}.{match[2]}"
    text = (root / "nbs" / "_template.ipynb").read_text(encoding="utf-8")
    for key, value in words.items():
        text = text.replace("{{" + key + "}}", json.dumps(value)[1:-1])
    path = root / "nbs" / part / f"{name}.ipynb"
    path.write_text(text, encoding="utf-8")
    read_chapter(path)
    return path


def _package(root: Path, part: str) -> str:
    """The package that the part's chapters export to, read off a neighbour or the part's name."""
    for chapter in read_chapters(root).values():
        if chapter.part == part and chapter.module:
            return chapter.module.partition(".")[0]
    usual = {"04_optimization": "optimize", "05_product": "product", "06_applications": "apps"}
    return usual.get(part, "apps")
