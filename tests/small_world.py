"""A world of gloo ranks in forks of this process: no start-up, no port, a few tenths of a second."""

import multiprocessing
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def _live(rank: int, n_ranks: int, folder: str, pipe: Any, function: Callable, words: tuple) -> None:  # fmt: skip
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    inside = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ["GLOO_SOCKET_IFNAME"] = inside
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meet",
            rank=rank,
            world_size=n_ranks,
            timeout=timedelta(seconds=20),
        )
        pipe.send(("ok", function(*words)))
    except BaseException as error:
        pipe.send(("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))
    finally:
        pipe.close()
        os._exit(0)  # nothing of pytest's ends in a fork


def in_world(n_ranks: int, function: Callable, *words: Any) -> list[Any]:
    """What `function(*words)` returns on each of `n_ranks` ranks; tensors must be turned into lists.

    RuntimeError with what the first rank that failed said."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        ends, ranks = [], []
        for rank in range(n_ranks):
            mine, theirs = context.Pipe(duplex=False)
            given = (rank, n_ranks, folder, theirs, function, words)
            ranks.append(context.Process(target=_live, args=given, daemon=True))
            ranks[-1].start()
            theirs.close()
            ends.append(mine)
        said = [end.recv() if end.poll(30) else ("error", "TimeoutError: says nothing") for end in ends]  # fmt: skip
        for process in ranks:
            process.kill()
            process.join()
        assert Path(folder).exists()
    errors = [text for kind, text in said if kind == "error"]
    if errors:
        raise RuntimeError(min(errors, key=lambda text: "onnection" in text or "Timeout" in text))
    return [value for _, value in said]
