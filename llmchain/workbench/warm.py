"""Kernels that start warm: forked from a server that has imported what the chapters import.

Starting Python, importing torch and importing transformers takes longer than many a chapter. The
server is the standard library's `multiprocessing.forkserver`: it imports once and has one thread, so
it can be forked. A worker is forked from it, and forks the kernel before it starts a thread itself.
Papermill talks with that kernel by the ordinary protocol, through a kernel provisioner.
"""

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import math
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.connect import KernelConnectionInfo, write_connection_file
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Type

PRELOAD = "LLMCHAIN_PRELOAD"  # names a JSON file: what the server imports, and its log
PROVISIONER = "llmchain-forked"  # the entry point of ForkedProvisioner in pyproject.toml
ALWAYS = (
    *("papermill", "nbclient", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.debugger"),
    *("papermill.translators", "filelock"),
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
            with contextlib.suppress(ImportError):  # libraries that load by attribute
                getattr(sys.modules.get(module), attribute, None)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    if sys.modules["rfc3987_syntax"] is None:
        del sys.modules["rfc3987_syntax"]
    # a forked process collects its own garbage only: what is here stays, and its pages stay shared
    gc.collect()
    gc.freeze()


if os.environ.get(PRELOAD):
    preload(Path(os.environ.pop(PRELOAD)))


# ── in a worker ───────────────────────────────────────────────────────────────────────────────


class Kernel:
    """A forked process that is a kernel; looks like a `Popen` to Jupyter."""

    stdin = stdout = stderr = None

    def __init__(self, cwd: str) -> None:
        """Fork. Call before any thread exists: the child would keep the locks of those threads."""
        self.returncode: int | None = None
        self._folder = tempfile.mkdtemp(prefix="llmchain-")  # of its sockets; nobody else may enter
        path, info = write_connection_file(
            f"{self._folder}/kernel.json", transport="ipc", ip=f"{self._folder}/ipc"
        )
        self.connection_info: KernelConnectionInfo = {**info, "key": info["key"].encode()}  # type: ignore[typeddict-item]
        self.pid = os.fork()
        if self.pid == 0:
            _become_kernel(path, cwd)

    def close(self) -> None:
        """End it, if it has not ended, and leave nothing of it behind."""
        self.kill()
        self.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

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
    """Where Jupyter would start `python -m ipykernel_launcher`, gives the kernel that stands by."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Returns the connection information; the base class does so for any other kernel."""
        if not STANDBY or "ipykernel_launcher" not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        kernel = STANDBY.pop()
        self.process, self.pid, self.pgid = kernel, kernel.pid, None  # type: ignore[assignment]
        return kernel.connection_info

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Give the kernel a second to end; Jupyter itself would look only ten times a second."""
        for _ in range(200):
            if await self.poll() is not None:
                return
            await asyncio.sleep(0.005)


class Client(AsyncKernelClient):
    """Begins as soon as the kernel is heard, where the base class waits for 0.2 s of silence."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Ask until an answer and its echo come. RuntimeError if the kernel ends or `timeout` seconds pass."""
        until = time.monotonic() + (timeout or math.inf)
        while time.monotonic() < until and await self.is_alive():
            self.kernel_info()
            with contextlib.suppress(queue.Empty):
                await self.shell_channel.get_msg(timeout=1)
                # lost if the kernel wrote before we listened; old ones are of other requests and pass by
                await self.iopub_channel.get_msg(timeout=0.2)
                return
        raise RuntimeError("the kernel ended, or did not answer, before the first cell")


class Manager(AsyncKernelManager):
    """Jupyter's manager of a kernel, with our client."""

    client_factory = Type(Client)


def use_threads(count: int) -> None:
    """Let the libraries that read their number of threads when they load use `count`."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _become_kernel(connection_file: str, cwd: str) -> None:
    """In the forked process: serve until told to stop, and end the process."""
    code = 1
    if sys.platform == "linux":  # PR_SET_PDEATHSIG: a worker that is killed takes its kernel along
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    try:
        os.setsid()
        os.chdir(cwd)
        # what the chapter starts with multiprocessing must not take it for a worker of ours
        sys.modules.pop("__mp_main__", None)
        # as a program started by Jupyter has
        sys.argv = ["ipykernel_launcher", "-f", connection_file]
        use_threads(int(os.environ.get("LLMCHAIN_THREADS", "1")))
        from ipykernel.kernelapp import IPKernelApp

        # nobody types here, so there is no history to keep, and no database and thread for it
        IPKernelApp.launch_instance(["-f", connection_file, "--HistoryManager.enabled=False"])
        # its last message goes through the thread that closing ends first: wait for it, or both
        # wait for each other until Jupyter loses patience and kills the kernel
        IPKernelApp.instance().control_thread.join(timeout=1.0)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    finally:
        atexit._run_exitfuncs()  # what a process that ends by itself would do
        os._exit(code)
