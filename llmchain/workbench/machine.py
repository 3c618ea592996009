"""The machine: what it is, how much of it may be used, and how its processes are ended."""

import contextlib
import functools
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmchain.workbench import catalog

GIGABYTE = 2**30


@functools.cache
def device_class() -> str:
    """`cuda:<model>` or `cpu:<architecture>`, found without importing torch.

    LLMCHAIN_DEVICE_CLASS says it for machines of another kind than this one (`--on`)."""
    if given := os.environ.get("LLMCHAIN_DEVICE_CLASS"):
        return given
    wanted = os.environ.get("LLMCHAIN_DEVICE", "")
    gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    if gpus and not wanted.startswith("cpu"):
        lines = gpus[0].read_text().splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if x.startswith("Model")), "gpu")
        return f"cuda:{model}"
    return f"cpu:{platform.machine()}"


def cores() -> int:
    """Cores a run may use: LLMCHAIN_THREADS, else those this process may run on."""
    given = os.environ.get("LLMCHAIN_THREADS")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return int(given) if given else int(available or 1)


def stop_tree(pid: int, grace: float = 3.0, hurry: Callable[[], bool] = lambda: False) -> None:
    """End a process and all it started: politely, then after `grace` seconds or `hurry` by force."""
    import psutil

    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in reversed(tree):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    alive, until = tree, time.monotonic() + grace
    while alive and time.monotonic() < until and not hurry():
        _, alive = psutil.wait_procs(alive, timeout=0.1)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def environment(root: Path) -> dict[str, Any]:
    """What a run was made with; names of packages and machine, no values of other variables."""
    import psutil

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", *words], cwd=root, capture_output=True, text=True, timeout=5
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()

    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": model,
        "cores": cores(),
        "memory_gb": round(psutil.virtual_memory().total / GIGABYTE, 1),
        "device": device_class(),
        "commit": git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain")),
        "data": "local sets" if os.environ.get("LLMCHAIN_DATA") else "embedded",
        "packages": catalog.installed(),
    }
