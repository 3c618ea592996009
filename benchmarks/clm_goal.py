"""Seconds of training to a loss of 5.1: our loop of clm.py, its model, its tokens, alone.

The plan is the whole of LIMIT, because the learning rate falls to its end; the run stops when it is under GOAL, and
is not within LIMIT if it never is."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import clm

UNIT = "seconds of training to a validation loss of 5.1 nats a token"
GOALS: dict[str, float] = {}
LIMIT, GOAL = 300.0, 5.1
MUST = ("under_target",)
WARM_UP = False


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Only ours."""
    data = str(clm.artifact("tokens/clm", "07_objectives"))
    return {"ours": [clm.command(__file__, "ours", data, folder)]}


def main(data: Path, folder: Path) -> dict[str, Any]:
    """Our contender of clm.py with another target."""
    from llmchain.pretrain.objectives import load_clm

    at = clm.size_here()
    train, meta = load_clm(data, "train")
    windows = clm.held_out(load_clm(data, "validation")[0], at)
    rate = clm.RATES[at.device]["ours"]
    return clm.ours(train, windows, meta["vocab_size"], folder, rate, 0, at, GOAL, LIMIT)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[2]), Path(sys.argv[3]))))
