"""One chapter in its own process: wait for its turn, execute by Papermill, keep the result."""

import multiprocessing
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

from llmchain.workbench import warm
from llmchain.workbench.report import kept_charts
from llmchain.workbench.store import Store, read_json, write_json


def watch_runner() -> None:
    """End this process and its kernel when the runner is gone, so that no orphan goes on writing."""
    from llmchain.workbench.machine import stop_tree

    if runner := multiprocessing.parent_process():
        runner.join()
        stop_tree(os.getpid())


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Execute the job's notebook; the outcome says whether somebody else had done it meanwhile."""
    store = Store(Path(job["runs"]) / "store")
    folder = Path(job["folder"])
    with store.lock(job["key"]):  # a second run with the same key waits here, then finds the result
        kept = None if job["force"] else store.result(job["chapter"], job["key"])
        if kept is not None:
            shutil.copytree(kept[0], folder, dirs_exist_ok=True)
            return {"waited": True}
        execute(Path(job["notebook"]), folder / "notebook.ipynb", job)
        record = read_json(folder / "record.json")
        if not (record and record.get("finished")):
            raise RuntimeError(f"{job['chapter']}: ended without `ch.close()`")
        kept_charts(folder, again=True)
        store.keep_result(job["chapter"], job["key"], folder)
        shutil.rmtree(job["scratch"], ignore_errors=True)
    return {"waited": False}


def execute(source: Path, target: Path, job: dict[str, Any]) -> None:
    """Run a notebook by Papermill's interface; its own exception passes through."""
    import papermill

    papermill.execute_notebook(
        str(source),
        str(target),
        parameters=job["parameters"],
        kernel_name="python3",
        cwd=job["root"],
        progress_bar=False,
        log_output=False,
        request_save_on_cell_execute=False,  # twice a cell takes longer than many a chapter's cells
        autosave_cell_every=15,
        kernel_manager_class=warm.Manager,
    )


def one_line(error: BaseException) -> str:
    """What went wrong in the notebook, without the traceback, which stays in log.txt."""
    name, value = getattr(error, "ename", None), getattr(error, "evalue", None)
    if name:
        return f"{name}: {value}"
    return f"{type(error).__name__}: {error}"


def main(path: str, environment: dict[str, str]) -> None:
    """Read the job, do it, leave outcome.json; exit code 1 with the error in it if it failed."""
    job = read_json(Path(path))
    folder = Path(job["folder"])
    os.setsid()  # Ctrl-C reaches the runner alone, which stops the workers in order
    os.environ.clear()
    os.environ.update(environment)
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = warm.PROVISIONER
    with (folder / "log.txt").open("wb", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    kernel = warm.Kernel(job["root"])
    warm.STANDBY.append(kernel)
    threading.Thread(target=watch_runner, daemon=True).start()
    outcome = folder / "outcome.json"
    try:
        write_json(outcome, work(job))
    except Exception as error:
        import traceback

        traceback.print_exc()
        write_json(outcome, {"error": one_line(error)})
        sys.exit(1)
    finally:
        if code := kernel.poll():
            print(f"the kernel ended with code {code}")
        kernel.close()


if __name__ == "__main__":  # on a machine of a cluster: python -m llmchain.workbench.worker JOB
    main(sys.argv[1], dict(os.environ))
