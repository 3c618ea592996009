"""Is everything here that a run needs?"""

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from llmchain.workbench import catalog, store
from llmchain.workbench.contract import ContractError, read_chapters, read_settings

FREE_GB = 4.0  # a run at profile cpu writes about one; the rest is room for a second and for pip


def examine(root: Path) -> list[dict[str, Any]]:
    """Each thing looked at: {"what", "found", "ok"}."""
    found: list[dict[str, Any]] = []

    def add(what: str, text: str, ok: bool = True) -> None:
        found.append({"what": what, "found": text, "ok": ok})

    version = sys.version_info
    add("python", f"{version.major}.{version.minor}", (3, 11) <= version[:2] <= (3, 13))
    for package in ("torch", "transformers", "papermill", "nbdev", "onnxruntime", "fastapi"):
        here = _version(package)
        missing = "not installed: run `make run` once, or pip install -e .[app,dev]"
        add(package, here or missing, bool(here))
    add("versions", *_against_constraints(root))
    try:
        add("chapters", f"{len(read_chapters(root))} declared well")
        read_settings(root)
    except ContractError as error:
        add("chapters", "; ".join(error.problems), False)
    # local sets are an offer: that they are not there is a fault only where they were asked for
    tiers = ("embedded", "local") if os.environ.get("LLMCHAIN_DATA") else ("embedded",)
    for name, entry in catalog.entries(root).items():
        for tier in (t for t in tiers if t in entry):
            try:
                catalog.find(name, tier, root)
                add(f"data {name}", f"{tier} here")
            except (FileNotFoundError, ValueError) as error:
                add(f"data {name}", str(error), False)
    folder = store.runs_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        add("disk", f"{free:.0f} GB free under {folder.name}/", free > FREE_GB)
    except OSError as error:
        add("disk", f"cannot write {folder}: {error.strerror}", False)
    return found


def _version(package: str) -> str:
    """The installed version, or nothing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _against_constraints(root: Path) -> tuple[str, bool]:
    """Installed versions against constraints.txt."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    here = {name: _version(name) for name in tested}
    differ = [
        f"{name} {here[name]} (tested: {version})"
        for name, version in tested.items()
        if here[name].partition("+")[0] not in ("", version.partition("+")[0])
    ]
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return "; ".join(differ[:3]) + more or "as in constraints.txt", not differ
