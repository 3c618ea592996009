"""Curves, parameters and metrics of a chapter for Weights & Biases, where WANDB_PROJECT is set.

Everything else about the account, the server and the mode (WANDB_MODE=offline keeps it in the run
folder, for `wandb sync`) is read by wandb itself, from its own variables and files."""

import os
from pathlib import Path
from typing import Any


class Tracking:
    """One run of W&B for one chapter."""

    def __init__(self, chapter: str, parameters: dict[str, Any], folder: Path) -> None:
        """ImportError, with what to install, if wandb is not there."""
        try:
            import wandb
        except ImportError:
            raise ImportError(
                "WANDB_PROJECT is set, but wandb is not installed: pip install 'llmchain[tracking]'"
            ) from None
        self._known: set[str] = set()
        # no output of the notebook, no state of machine and git: what we say, and nothing else
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True,
            x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
        )  # fmt: skip
        self._run = wandb.init(
            project=os.environ["WANDB_PROJECT"],
            name=chapter,
            group=folder.parent.name,  # the run that the chapter is a part of
            config=parameters,
            dir=str(folder),
            settings=quiet,
        )

    def curve(self, tag: str, step: int, value: float) -> None:
        """A point of a curve. Each curve counts its own steps: several seeds begin at 0."""
        own = f"{tag}/step"
        if tag not in self._known:
            self._known.add(tag)
            self._run.define_metric(own, hidden=True)
            self._run.define_metric(tag, step_metric=own)
        self._run.log({tag: value, own: step})

    def close(self, metrics: dict[str, Any], claims: list[dict[str, Any]]) -> None:
        """Send what stands at the end."""
        self._run.summary.update(
            {**metrics, "claims_broken": sum(c["held"] is False for c in claims)}
        )
        self._run.finish()


def from_environment(chapter: str, parameters: dict[str, Any], folder: Path) -> Tracking | None:
    """A W&B run if WANDB_PROJECT is set and WANDB_MODE does not say `disabled`."""
    if not os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_MODE") == "disabled":
        return None
    return Tracking(chapter, parameters, folder)
