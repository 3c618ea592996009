"""`papermill --engine llmchain notebook.ipynb out.ipynb -p …`: Papermill's command, our checks and store."""

import os
from pathlib import Path
from typing import Any

import nbformat
from papermill.engines import NBClientEngine

from llmchain.workbench import contract
from llmchain.workbench.runner import Run


class Engine(NBClientEngine):
    """Runs the chapter as `llmchain run --only` would, and hands its notebook back to Papermill."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        """ContractError for a wrong parameter, before a kernel starts; RuntimeError if it fails.

        The profile is PROFILE, else cpu. A finished result is taken from the store."""
        name = Path(kwargs["input_path"]).stem
        root, profile = contract.project_root(), os.environ.get("PROFILE", "cpu")
        chapters = contract.read_chapters(root)
        (chosen,) = contract.find_chapters([name], chapters)
        values, _ = contract.check_parameters(chapters, profile, contract.read_settings(root), [])
        own = dict(values[chosen])
        with contract.told_together() as problems:
            for key, value in nb_man.nb.metadata.papermill["parameters"].items():
                with contract.noted(problems):
                    own[key] = contract.known(chapters[chosen], key).check(value, chosen)
            if not problems:
                with contract.noted(problems):
                    contract.check_quotients(chapters[chosen].parameters, own, chosen)
        changed = {chosen} if own != values[chosen] else set()
        run = Run(chapters, [chosen], profile, {**values, chosen: own}, changed)
        (entry,) = run.execute()["chapters"]
        executed = run.folder / chosen / "notebook.ipynb"
        if executed.exists():
            nb_man.nb.cells = nbformat.read(executed, as_version=4).cells
        if entry["status"] not in ("ok", "cached"):
            raise RuntimeError(f"{chosen} {entry['status']}: {entry.get('error', '')}")
