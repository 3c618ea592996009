"""Forked kernels: what they are given, that they are separate, and that they are warm at all."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import Project, chapter


def of(summary: dict, name: str) -> dict:
    return next(c for c in summary["chapters"] if c["id"] == name)


def test_what_a_chapter_imports_is_there_before_it_starts(project: Project) -> None:
    body = 'import sys\nch.metric("before", "colorsys" in sys.modules)\nimport colorsys\nch.write("{}", [])'
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body.format("corpus/raw")))
    assert of(project.summary("01"), "01_first")["metrics"]["before"] is True


def test_kernels_share_nothing(project: Project) -> None:
    """Each has its own process, environment, working folder and modules."""
    body = (
        "import os, sys, json as shared\n"
        'ch.metric("pid", os.getpid())\nch.metric("mark", getattr(shared, "mark", "none"))\n'
        'ch.metric("own", os.environ.get("OWN", "none"))\nch.metric("cwd", os.getcwd())\n'
        'shared.mark = "left behind"\nos.environ["OWN"] = "left behind"\nos.chdir("/")\n'
        'ch.metric("worker", "__mp_main__" in sys.modules)\nch.write("{}", [])'
    )
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body.format("corpus/raw")))
    project.put("03_aside", chapter("03_aside", makes="report/aside", body=body.format("report/aside")))  # fmt: skip
    summary = project.summary("01", "03", "--jobs", "1")
    first, second = (of(summary, n)["metrics"] for n in ("01_first", "03_aside"))
    assert first["pid"] != second["pid"]
    assert {first["mark"], second["mark"], first["own"], second["own"]} == {"none"}
    assert first["cwd"] == second["cwd"] == str(project.root)
    assert not first["worker"] and not second["worker"]


def test_a_chapter_may_start_processes(project: Project) -> None:
    body = (
        "import multiprocessing, math\n"
        'with multiprocessing.get_context("spawn").Pool(1) as pool:\n'
        '    ch.metric("factorial", pool.map(math.factorial, [5])[0])\n'
        'ch.write("corpus/raw", [])'
    )
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    assert of(project.summary("01"), "01_first")["metrics"]["factorial"] == 120


def test_threads_are_those_of_the_chapter(project: Project) -> None:
    """Of BLAS and of torch, though both were loaded before the number was known."""
    body = (
        "import torch, numpy\nfrom threadpoolctl import threadpool_info\n"
        "numpy.ones((300, 300)) @ numpy.ones((300, 300))\n"
        'ch.metric("torch", torch.get_num_threads())\n'
        'ch.metric("blas", max(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"))\n'
        'ch.write("report/aside", [])'
    )
    project.put("03_aside", chapter("03_aside", makes="report/aside", body=body, extra="cores: all"))  # fmt: skip
    for count in (1, 2):
        found = of(project.summary("03", LLMCHAIN_THREADS=str(count)), "03_aside")["metrics"]
        assert (found["torch"], found["blas"]) == (count, count)


def test_same_artifacts_as_a_cold_kernel(project: Project) -> None:
    """Plain Papermill starts Python anew; the numbers are the same to the last bit."""
    body = (
        "import torch\nw = torch.nn.Linear(200, 200)\nx = torch.randn(300, 200)\n"
        "for _ in range(5):\n    x = torch.tanh(w(x))\n"
        'ch.write("corpus/raw", [{"sum": float(x.double().sum()), "draw": float(ch.rng("a").random())}])'
    )
    text = chapter("01_first", makes="corpus/raw", body=body).replace(
        "from llmchain.workbench.chapter", "import torch\\nfrom llmchain.workbench.chapter"
    )
    path = project.put("01_first", text)
    warm = of(project.summary("01"), "01_first")["outputs"]
    threads = {"LLMCHAIN_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(path), str(project.root / "out.ipynb")],
        capture_output=True, text=True, cwd=project.root, env=project.environment(**threads),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (cold,) = project.runs.glob("interactive/*/record.json")
    assert json.loads(cold.read_text())["outputs"] == warm


def test_a_kernel_that_nobody_asks_ends_and_leaves_nothing() -> None:
    script = (
        "from llmchain.workbench.warm import Kernel; from pathlib import Path; k = Kernel('/'); "
        "folder = Path(k.connection_info['ip']).parent; print(k.poll(), folder.exists()); "
        "k.close(); print(k.poll(), folder.exists()); k.send_signal(15)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["None", "True", "-9", "False"], done.stderr
    assert done.returncode == 0, done.stderr


def test_kernels_end_by_themselves(project: Project) -> None:
    """Every second one hung when it was told to end, until Jupyter lost patience and killed it."""
    for number in range(4, 12):
        name = f"{number:02d}_quick"
        project.put(
            name, chapter(name, makes=f"a/n{number}", body=f'ch.write("a/n{number}", [{{}}])')
        )
    run = project.summary()
    logs = [(Path(run["folder"]) / c["id"] / "log.txt").read_text() for c in run["chapters"]]
    assert len(logs) == 11 and not [log for log in logs if "the kernel ended with code" in log]


def test_the_provisioner_is_registered() -> None:
    from importlib.metadata import entry_points

    from llmchain.workbench import warm

    (found,) = entry_points(group="jupyter_client.kernel_provisioners", name=warm.PROVISIONER)
    assert found.load() is warm.ForkedProvisioner
