"""What a notebook may declare, and how a wrong declaration is refused."""

from pathlib import Path

import pytest
from conftest import Project, chapter, notebook
from hypothesis import given
from hypothesis import strategies as st

from llmchain.workbench import graph
from llmchain.workbench.contract import (
    ContractError,
    Parameter,
    check_parameters,
    find_chapters,
    read_chapter,
    read_chapters,
    read_parameters,
    read_settings,
)


def one(source: str) -> Parameter:
    return next(iter(read_parameters(source, "08_gpt").values()))


def test_parameter_with_range_choices_and_text() -> None:
    lr = one("lr: float = 3e-4  # peak learning rate (1e-6 to 1)")
    assert (lr.low, lr.high, lr.help) == (1e-6, 1.0, "peak learning rate")
    assert one('m: str = "a"  # method (one of: a, b)').choices == ("a", "b")
    assert one('t: str = "hello (there)"  # any words').rule == "any text"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("n = 3  # n (0 to 1)", "expected `name: type = value"),
        ("n: int = 3", "no comment"),
        ("n: int = 3  # steps", "no range"),
        ("n: int = 3  # steps (0 to 2)", "must be int, 0 to 2; got 3"),
        ("n: list = []  # steps (0 to 2)", "has type list"),
        ("n: int = 3  # a (0 to many)", "cannot read the range"),
        ("n: int = 1  # a (0 to 2)\nn: int = 1  # a (0 to 2)", "given twice"),
        ("n: int = f()  # a (0 to 2)", "line 1"),
    ],
)
def test_wrong_parameter_lines(source: str, says: str) -> None:
    with pytest.raises(ContractError, match=None) as error:
        read_parameters(source, "08_gpt")
    assert says in str(error.value)


@pytest.mark.parametrize(
    "value", ["x", "1.5", "-1", "101", "nan", "inf", "True", "", "__import__('os')"]
)
def test_int_refuses(value: str) -> None:
    with pytest.raises(ContractError, match="08_gpt: `n` must be int, 0 to 100; got"):
        Parameter("n", "int", 1, "", 0, 100).check(value, "08_gpt")


def test_float_takes_int_but_not_bool_and_not_nan() -> None:
    p = Parameter("x", "float", 1.0, "", 0, 100)
    assert p.check(3, "") == 3.0 and isinstance(p.check(3, ""), float)
    for value in (True, float("nan"), float("inf"), "nan", None, [1]):
        with pytest.raises(ContractError):
            p.check(value, "08_gpt")


@given(st.integers(-1000, 1000))
def test_range_is_exactly_the_range(value: int) -> None:
    p = Parameter("n", "int", 1, "", -5, 7)
    if -5 <= value <= 7:
        assert p.check(str(value), "x") == value
    else:
        with pytest.raises(ContractError):
            p.check(value, "x")


@given(st.text())
def test_a_text_parameter_is_never_anything_but_text(value: str) -> None:
    assert Parameter("t", "str", "", "").check(value, "x") == value


def test_names_of_chapters(in_project: Project) -> None:
    chapters = read_chapters()
    for word in ("2", "02", "02_second", "second"):
        assert find_chapters([word], chapters) == ["02_second"]
    assert find_chapters(["01_data"], chapters) == list(chapters)
    with pytest.raises(ContractError, match="unknown chapter `secund`; did you mean `second`?"):
        find_chapters(["secund"], chapters)


def test_unknown_parameter_names_the_nearest(in_project: Project) -> None:
    in_project.put("08_gpt", chapter("08_gpt", parameters="n_steps: int = 1  # steps (0 to 9)"))
    with pytest.raises(ContractError) as error:
        check_parameters(read_chapters(), "cpu", {}, ["gpt.n_stepz=3"])
    assert (
        str(error.value) == "unknown parameter `n_stepz` of chapter 08_gpt; did you mean `n_steps`?"
    )


HEADS = """n_head: int = 4  # heads a block; divides n_embd (1 to 32)
n_embd: int = 64  # width (1 to 512)
narrow: int = 32  # width of the fast test; n_head divides it (1 to 512)"""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["gpt.n_head=3"], "08_gpt: `n_head` must divide `n_embd`; got 3 and 64"),
        (["gpt.narrow=6"], "08_gpt: `n_head` must divide `narrow`; got 4 and 6"),
        (["gpt.n_head=8", "gpt.n_embd=40"], ""),
    ],
)
def test_what_must_divide_is_told_before_any_kernel(
    in_project: Project, given: list[str], says: str
) -> None:
    in_project.put("08_gpt", chapter("08_gpt", parameters=HEADS))
    if not says:
        assert check_parameters(read_chapters(), "cpu", {}, given)[1] == {"08_gpt"}
        return
    with pytest.raises(ContractError) as error:
        check_parameters(read_chapters(), "cpu", {}, given)
    assert says in error.value.problems
    with pytest.raises(ContractError, match="must divide"):
        check_parameters(read_chapters(), "cpu", {"gpu": {"08_gpt.n_embd": "63"}}, [])


def test_a_default_that_does_not_divide_is_refused() -> None:
    for wrong in ("n_embd: int = 62", "width: int = 64"):
        with pytest.raises(ContractError, match="divide"):
            read_parameters(HEADS.replace("n_embd: int = 64", wrong), "08_gpt")


def test_all_problems_at_once_also_those_of_settings(in_project: Project) -> None:
    settings = {"gpu": {"01_first.n": "101"}, "smoke": {"nobody.n": "1"}}
    with pytest.raises(ContractError) as error:
        check_parameters(read_chapters(), "cpu", settings, ["first.n=x", "second.m=1", "n", "n=1"])
    assert len(error.value.problems) == 6
    assert "settings.ini [gpu]" in str(error.value)


def test_profile_values_and_changed_chapters(in_project: Project) -> None:
    chapters, settings = read_chapters(), read_settings(in_project.root)
    values, changed = check_parameters(chapters, "smoke", settings, ["first.n=2", "02.n=9"])
    assert values["01_first"]["n"] == 2 and values["02_second"]["n"] == 9
    assert changed == {"02_second"}, "a value equal to the profile's changes nothing"
    assert check_parameters(chapters, "cpu", settings, [])[0]["01_first"]["n"] == 1


PARAMETERS = ("code", "seed: int = 0  # seed (0 to 9)", ["parameters"])
FRONT = ("raw", "---\nchapter:\n  makes: [a/b]\n---")


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ([PARAMETERS], "0 raw cells declare"),
        ([FRONT], "0 code cells are tagged `parameters`"),
        ([FRONT, PARAMETERS, PARAMETERS], "2 code cells are tagged"),
        ([("raw", "---\nchapter: [\n---"), PARAMETERS], "not valid YAML"),
        ([("raw", "---\nchapter:\n  makes: b\n---"), PARAMETERS], "must be a list"),
        ([("raw", "---\nchapter:\n  makes: [b]\n---"), PARAMETERS], "is not called kind/name"),
        ([("raw", "---\nchapter:\n  makes: [a/b, a/b]\n---"), PARAMETERS], "names something twice"),
        ([("raw", "---\nchapter:\n  wants: [a/b]\n---"), PARAMETERS], "unknown fields: wants"),
        ([("raw", "---\nchapter:\n  cost: {cpu: [9]}\n---"), PARAMETERS], "`cost` must read"),
        ([FRONT, ("code", "n: int = (", ["parameters"])], "parameters"),
    ],
)
def test_wrong_notebooks(tmp_path: Path, cells: list, says: str) -> None:
    path = tmp_path / "05_x.ipynb"
    path.write_text(notebook(*cells), encoding="utf-8")
    with pytest.raises(ContractError) as error:
        read_chapter(path)
    assert says in str(error.value) and "05_x" in str(error.value)


def test_a_torn_notebook_is_named(tmp_path: Path) -> None:
    path = tmp_path / "05_x.ipynb"
    path.write_text('{"cells": [', encoding="utf-8")
    with pytest.raises(ContractError, match="05_x: not a notebook"):
        read_chapter(path)


def test_graph_refuses_cycles_twins_and_orphans(in_project: Project) -> None:
    in_project.put("04_x", chapter("04_x", "b/b", "a/a"))
    in_project.put("05_y", chapter("05_y", "a/a", "b/b"))
    with pytest.raises(ContractError, match="cycle of artifacts: 0"):
        graph.order(read_chapters())
    in_project.put("05_y", chapter("05_y", "", "a/a"))
    with pytest.raises(ContractError, match="05_y: `a/a` is already made by 04_x"):
        graph.order(read_chapters())
    in_project.put("05_y", chapter("05_y", "c/c", "d/d"))
    with pytest.raises(ContractError, match="05_y: needs `c/c`, which no chapter makes"):
        graph.order(read_chapters())


def test_two_chapters_of_one_number(in_project: Project) -> None:
    in_project.put("03_twin", chapter("03_twin"))
    with pytest.raises(ContractError, match="number 03 is taken by 03_aside"):
        read_chapters()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_order_puts_makers_first(tmp_path_factory: pytest.TempPathFactory, edges: list) -> None:
    from llmchain.workbench.contract import Chapter

    needs: dict[int, set[int]] = {i: set() for i in range(8)}
    for a, b in edges:
        if a != b:
            needs[max(a, b)].add(min(a, b))  # from smaller to larger: no cycle
    chapters = {
        f"{i:02}_c": Chapter(
            f"{i:02}_c", Path(f"nbs/01_x/{i:02}_c.ipynb"), "", "", "",
            tuple(f"a/a{j}" for j in sorted(n)), (f"a/a{i}",), (), {}, "", False, "one", {}, (),
        )
        for i, n in needs.items()
    }  # fmt: skip
    place = {c: k for k, c in enumerate(graph.order(chapters))}
    assert len(place) == 8
    for i, n in needs.items():
        assert all(place[f"{j:02}_c"] < place[f"{i:02}_c"] for j in n)
    assert set(graph.upstream(["07_c"], chapters)) >= {"07_c"} | {f"{j:02}_c" for j in needs[7]}
