"""Runs one test after another in forks of a process that has the heavy libraries loaded.

    python museum.py COPY      reads {"nodes": [...]} lines, answers {"code": …, "output": …} lines

Importing torch and transformers takes seconds and a planted bug's test takes one; the code under
test is imported in the fork, from the copy in which the bug lies.
"""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 120  # seconds for one test of five; a bug may also make a loop that never ends


def preload() -> None:
    """What tests import and what no planted bug can change."""
    import fastapi.testclient  # noqa: F401
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytest  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch
    import torch.distributed.checkpoint  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401
    import torch.distributed.launcher.api  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401

    torch.set_num_threads(1)  # a pool of threads does not survive a fork


def run(copy: Path, nodes: list[str]) -> dict:
    """pytest's exit code and what it printed, from a fork; where every thread stood, if it was stopped."""
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            os.chdir(copy)
            sys.path.insert(0, str(copy))
            os.environ.update(PYTHONPATH=str(copy), LLMCHAIN_ROOT=str(copy))
            import faulthandler

            import pytest

            faulthandler.register(signal.SIGUSR1, file=log, all_threads=True)
            # plain: to explain how two long lists differ can take pytest minutes
            options = "-x -q --assert=plain -p no:cacheprovider -p no:xdist".split()
            options += ["-p", "no:faulthandler", "--rootdir"]
            options.append(str(copy))
            code = 70
            try:
                code = int(pytest.main([*options, *nodes]))
            finally:
                sys.stdout.flush()
                os._exit(code)
        signal.signal(signal.SIGALRM, lambda *_: stop(child))
        signal.alarm(LIMIT)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        log.seek(0)
        output = log.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    told = f"stopped after {LIMIT} s" if code < 0 else ""
    return {"code": code, "output": output[-9000:] + told}


def stop(child: int) -> None:
    """Let it say where it stands, then end it."""
    os.kill(child, signal.SIGUSR1)
    time.sleep(2)
    os.kill(child, signal.SIGKILL)


def main() -> None:
    """Serve until the input ends."""
    sys.dont_write_bytecode = True  # a patched file may have the size and second of the good one
    copy = Path(sys.argv[1]).resolve()
    preload()
    for line in sys.stdin:
        print(json.dumps(run(copy, json.loads(line)["nodes"])), flush=True)


if __name__ == "__main__":
    main()
