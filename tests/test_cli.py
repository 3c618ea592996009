"""The command line as a user meets it."""

import json
import time

import pytest
from conftest import ROOT, Project, chapter


def test_a_wrong_parameter_is_refused_before_anything_starts(project: Project) -> None:
    project.put("08_gpt", chapter("08_gpt", parameters="n_steps: int = 1  # steps (1 to 9)"))
    begun = time.time()
    done = project.llmchain("run", "08", "-p", "gpt.n_stepz=3")
    assert done.returncode == 2 and time.time() - begun < 20
    assert (
        done.stderr
        == "llmchain: unknown parameter `n_stepz` of chapter 08_gpt; did you mean `n_steps`?\n"
    )
    assert not project.runs.exists(), "nothing was started and nothing written"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["run", "second", "-p", "second.n=999"], 2, "02_second: `n` must be int, 0 to 100; got 999"),
        (["run", "nobody"], 2, "unknown chapter `nobody`"),
        (["run", "--profile", "huge"], 2, "unknown profile `huge`; one of: smoke, cpu, gpu"),
        (["run", "--jobs", "0"], 2, "jobs"),
        (["fly"], 2, "No such command"),
        (["show"], 1, "no finished run"),
        (["status"], 1, "no finished run"),
        (["serve"], 1, "llmchain run 28_quantize"),
        (["data", "get", "nothing"], 1, "no set `nothing`"),
        (["data", "check"], 1, "set LLMCHAIN_DATA"),
        (["new", "4_x"], 2, "a chapter is called NN_name"),
        (["new", "03_other", "--part", "01_data"], 2, "taken by 03_aside"),
        (["new", "44_x", "--part", "99_none"], 2, "no part `99_none`"),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line(
    project: Project, words: list[str], code: int, says: str
) -> None:
    done = project.llmchain(*words)
    assert done.returncode == code, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert all(line.startswith("llmchain: ") for line in done.stderr.splitlines())


def test_outside_a_checkout(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = project.llmchain("list", LLMCHAIN_ROOT=str(tmp_path_factory.mktemp("empty")))
    assert done.returncode == 1 and "holds no nbs/" in done.stderr


def test_list_and_show_a_chapter(project: Project) -> None:
    found = json.loads(project.llmchain("list", "--json").stdout)
    assert [c["id"] for c in found] == ["01_first", "02_second", "03_aside"]
    shown = json.loads(project.llmchain("show", "first", "--json").stdout)
    n = next(p for p in shown["parameters"] if p["name"] == "n")
    assert (n["smoke"], n["cpu"], n["rule"]) == (2, 1, "0 to 100")


def test_new_makes_a_chapter_that_runs(project: Project) -> None:
    template = (ROOT / "nbs" / "_template.ipynb").read_text(encoding="utf-8")
    (project.root / "nbs" / "_template.ipynb").write_text(template, encoding="utf-8")
    (project.root / "nbs" / "06_applications").mkdir()
    made = project.llmchain("new", "40_guard")
    assert made.returncode == 0, made.stderr
    summary = project.summary("40_guard", "--profile", "smoke")
    assert summary["code"] == 0, summary
    (entry,) = summary["chapters"]
    assert entry["status"] == "ok" and any(c["held"] for c in entry["claims"])


def test_doctor_of_this_checkout_finds_the_embedded_sets(project: Project) -> None:
    done = project.llmchain("doctor", "--json", LLMCHAIN_ROOT=str(ROOT))
    found = {item["what"]: item for item in json.loads(done.stdout)}
    assert found["data weights/minilm"]["ok"] and found["data sentiment_en"]["ok"]
    assert found["chapters"]["ok"]


def test_data_list(project: Project) -> None:
    done = project.llmchain("data", "list", "--json", LLMCHAIN_ROOT=str(ROOT))
    found = {item["name"]: item for item in json.loads(done.stdout)}
    assert found["weights/minilm"]["tiers"]["embedded"] == "here"
    assert all(item["licence"] for item in found.values())


def test_exercises_are_checked_from_the_terminal(project: Project) -> None:
    body = "def positive(x):\n    assert x > 0, 'it is not positive'\n" + "\n".join(
        f"ch.exercise({i}, {answer}, positive)" for i, answer in enumerate(("None", "3", "-3"), 1)
    )
    body += '\nch.write("corpus/raw", [{}])'
    project.put("01_first", chapter("01_first", makes="corpus/raw", body=body))
    done = project.llmchain("exercises", "check", "01", "--json")
    assert done.returncode == 1, done.stderr
    told = [
        (row["name"], row["ok"], row["found"].partition(":")[0]) for row in json.loads(done.stdout)
    ]
    assert told == [
        ("01_first, exercise 1", True, "open"),
        ("01_first, exercise 2", True, "right"),
        ("01_first, exercise 3", False, "not yet"),
    ]
