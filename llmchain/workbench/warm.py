"""Kernels that start warm: forked from a server that has imported what the chapters import.

Starting Python, importing torch and importing transformers takes longer than many a chapter. The
server is the standard library's `multiprocessing.forkserver`: it imports once and has one thread, so
it can be forked. A worker is forked from it, and forks the kernel before it starts a thread itself.
Papermill talks with that kernel by the ordinary protocol, through a kernel provisioner.
"""

import atexit
import importlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

PRELOAD = "LLMCHAIN_PRELOAD"  # names a JSON file: what the server imports, and its log
PROVISIONER = "llmchain-forked"  # the entry point of ForkedProvisioner in pyproject.toml
ALWAYS = (
    *("papermill", "nbclient", "ipykernel.kernelapp", "ipykernel.ipkernel"),
    # a process that is started with multiprocessing imports the main module of its parent again
    *("llmchain.workbench.cli", "llmchain.workbench.worker", "llmchain.workbench.chapter"),
)


# ── in the runner ─────────────────────────────────────────────────────────────────────────────


class Server:
    """Starts functions in forked processes. It imports `names` first, which takes some seconds."""

    def __init__(self, names: Iterable[str], log: Path) -> None:
        self._context = multiprocessing.get_context("forkserver")
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
            json.dump({"names": [*ALWAYS, *sorted(names)], "log": str(log)}, file)
        # read when the libraries load; each chapter's own numbers are set after the fork
        settings = {
            PRELOAD: file.name,
            "PYTHONHASHSEED": "0",
            "MPLBACKEND": "agg",
            "OPENBLAS_NUM_THREADS": "1",  # more would be threads at import, and forbid to fork
            "TOKENIZERS_PARALLELISM": "true",
            # a kernel that was killed cannot give back its locks; the tracker does, and need not tell
            "PYTHONWARNINGS": "ignore:resource_tracker",
        }
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            self._context.set_forkserver_preload([__name__])
            multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
        # the first process exists when the imports are done; waiting for it would stop the runner
        self._first = threading.Thread(target=self._wait, args=[file.name], daemon=True)
        self._first.start()

    def _wait(self, preload: str) -> None:
        self.start(os.getpid)  # any function will do
        Path(preload).unlink(missing_ok=True)

    @property
    def ready(self) -> bool:
        """Whether the imports are done."""
        return not self._first.is_alive()

    def start(self, function: Callable[..., object], *arguments: Any) -> BaseProcess:
        """Call a function of a module in a process of its own."""
        process = self._context.Process(target=function, args=arguments)
        process.start()
        return process


# ── in the server ─────────────────────────────────────────────────────────────────────────────


def preload(path: Path) -> None:
    """Import what the file names. What cannot be imported is left to the chapter that wants it."""
    wanted = json.loads(path.read_text(encoding="utf-8"))
    with Path(wanted["log"]).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # jsonschema would compile a grammar for two seconds to check addresses that no notebook has
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    for name in wanted["names"]:
        try:
            importlib.import_module(name)
        except ImportError:
            module, _, attribute = name.rpartition(".")
            getattr(sys.modules.get(module), attribute, None)  # libraries that load by attribute
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    if sys.modules["rfc3987_syntax"] is None:
        del sys.modules["rfc3987_syntax"]


if os.environ.get(PRELOAD):
    preload(Path(os.environ.pop(PRELOAD)))


# ── in a worker ───────────────────────────────────────────────────────────────────────────────


class Kernel:
    """A forked process that becomes a kernel when it is asked to; looks like a `Popen` to Jupyter."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        """Fork. Call before any thread exists: the child would keep the locks of those threads."""
        self.returncode: int | None = None
        reading, self._asking = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._asking)
            _become_kernel(reading)
        os.close(reading)

    def ask(self, connection_file: str, environment: dict[str, str], cwd: str) -> None:
        """Let it be a kernel at the connection file."""
        order = {"file": connection_file, "environment": environment, "cwd": cwd}
        with os.fdopen(self._asking, "w") as pipe:
            json.dump(order, pipe)

    def poll(self) -> int | None:
        """The exit code if it has ended, negative for a signal."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        """The exit code, when it has ended."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


STANDBY: list[Kernel] = []  # the kernel that the worker has forked for its one notebook


class ForkedProvisioner(LocalProvisioner):
    """Where Jupyter would start `python -m ipykernel_launcher`, asks the kernel that stands by."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Returns the connection information; the base class does so for any other kernel."""
        if not STANDBY or "ipykernel_launcher" not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        kernel = STANDBY.pop()
        cwd = str(kwargs.get("cwd") or Path.cwd())
        kernel.ask(cmd[cmd.index("-f") + 1], kwargs["env"], cwd)
        self.process, self.pid, self.pgid, self.cwd = kernel, kernel.pid, None, cwd  # type: ignore[assignment]
        return self.connection_info


def use_threads(count: int) -> None:
    """Let the libraries that read their number of threads when they load use `count`."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _become_kernel(reading: int) -> None:
    """In the forked process: wait for the order, serve until told to stop, and end the process."""
    code = 1
    if sys.platform == "linux":  # PR_SET_PDEATHSIG: a worker that is killed takes its kernel along
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    try:
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        if text:
            order = json.loads(text)
            os.setsid()
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["cwd"])
            # what the chapter starts with multiprocessing must not take it for a worker of ours
            sys.modules.pop("__mp_main__", None)
            # as a program started by Jupyter has
            sys.argv = ["ipykernel_launcher", "-f", order["file"]]
            use_threads(int(os.environ.get("LLMCHAIN_THREADS", "1")))
            from ipykernel.kernelapp import IPKernelApp

            # nobody types here, so there is no history to keep, and no database and thread for it
            IPKernelApp.launch_instance(["-f", order["file"], "--HistoryManager.enabled=False"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        atexit._run_exitfuncs()  # what a process that ends by itself would do
        os._exit(code)
