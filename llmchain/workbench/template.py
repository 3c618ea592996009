"""`llmchain new 40_guard`: a chapter that runs, from nbs/_template.ipynb."""

from pathlib import Path

from llmchain.workbench.contract import NAME, ContractError, read_chapter, read_chapters

PACKAGES = {"01_data": "data", "02_pretraining": "pretrain", "03_finetuning": "finetune"}
PACKAGES |= {"04_optimization": "optimize", "05_product": "product"}


def make_chapter(root: Path, name: str, part: str) -> Path:
    """Write the notebook and return its path; ContractError for a bad or taken name or number."""
    match = NAME.fullmatch(name)
    if not match:
        raise ContractError(f"`{name}`: a chapter is called NN_name, as in 40_guard")
    if not (root / "nbs" / part).is_dir():
        known = ", ".join(sorted(p.name for p in (root / "nbs").glob("[0-9][0-9]_*")))
        raise ContractError(f"no part `{part}` under nbs/; there is: {known}")
    taken = [c for c in read_chapters(root).values() if c.id[:2] == match[1] or c.name == match[2]]
    if taken:
        raise ContractError(f"`{name}`: number or name is taken by {taken[0].id}")
    words = {
        "id": name,
        "name": match[2],
        "title": match[2].replace("_", " ").capitalize(),
        "summary": "One line that says what the reader will be able to do",
        "module": f"{PACKAGES.get(part, 'apps')}.{match[2]}",
    }
    text = (root / "nbs" / "_template.ipynb").read_text(encoding="utf-8")
    for key, value in words.items():
        text = text.replace("{{" + key + "}}", value)
    path = root / "nbs" / part / f"{name}.ipynb"
    path.write_text(text, encoding="utf-8")
    read_chapter(path)
    return path
