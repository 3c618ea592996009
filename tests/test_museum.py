"""The bug museum: planting touches nothing else, every exhibit is what the tests plant, every check bites."""

import ast
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmchain.pretrain import gpt, museum, objectives, training
from llmchain.pretrain.museum import (
    CHECKS,
    EXHIBITS,
    Bug,
    check_bug,
    find_bug,
    hang,
    planted,
    read_bugs,
    set_aside,
    with_bug,
)

ROOT = Path(__file__).parents[1]
BUGS = read_bugs(ROOT / "tests" / "mutants")
SCALE = BUGS["gpt.attention_scale"]


def ours() -> dict[str, object]:
    return {name: m for name, m in sys.modules.items() if name.startswith("llmchain")}


@pytest.fixture(scope="module")
def right():
    return planted()


# ── planting ─────────────────────────────────────────────────────────────────────────────────────


def test_planting_leaves_the_real_modules_alone() -> None:
    before, files = ours(), {p: p.read_bytes() for p in (ROOT / "llmchain/pretrain").glob("*.py")}
    function, code = gpt.attention, gpt.attention_weights.__code__
    wrong = planted(SCALE)
    assert set(ours()) == set(before)
    assert all(sys.modules[name] is module for name, module in before.items())
    assert gpt.attention is function and gpt.attention_weights.__code__ is code
    assert sys.modules["llmchain.pretrain"].gpt is gpt, "the package shows its own module"
    assert wrong.gpt is not gpt
    assert files == {p: p.read_bytes() for p in files}


def test_an_error_while_loading_puts_everything_back() -> None:
    before = ours()
    with pytest.raises(SyntaxError):
        planted(replace(SCALE, new="1 +"))
    with pytest.raises(ZeroDivisionError):
        planted(replace(BUGS["gpt.bits_in_nats"], old="GPT_TRANSPOSED = (", new="1 / 0; X = ("))
    with pytest.raises(KeyError), set_aside(["llmchain.pretrain.gpt", "llmchain.nothing"]):
        assert "llmchain.pretrain.gpt" not in sys.modules
        sys.modules["llmchain.nothing"] = sys.modules["llmchain"]
        raise KeyError
    assert ours() == before and sys.modules["llmchain.pretrain.gpt"] is gpt


def test_dependants_use_the_patched_module() -> None:
    wrong = planted(replace(BUGS["gpt.exact_gelu"], new="return 0 * x"))
    assert wrong.transformer.gelu_new is wrong.gpt.gelu_new is not gpt.gelu_new
    assert wrong.transformer.ACTIVATIONS["gelu_new"](torch.ones(1)).item() == 0
    assert wrong.bert.Block is wrong.gpt.Block
    assert gpt.gelu_new(torch.ones(1)).item() > 0.8


def test_a_second_set_of_the_right_code_is_the_right_code(right) -> None:
    x = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(right.gpt.attention(x, x, x), gpt.attention(x, x, x))
    assert right.training is not training and right.objectives is not objectives
    assert planted().gpt is not right.gpt, "every set is a new one"


@pytest.mark.parametrize(("old", "n"), [("no such line", 0), ("return", "many")])
def test_a_patch_hits_exactly_once(old: str, n: object) -> None:
    with pytest.raises(ValueError, match="gpt.attention_scale occur .* needs exactly 1") as error:
        planted(replace(SCALE, old=old))
    assert "\n" not in str(error.value)
    assert (f"occur {n} times" in str(error.value)) == (n == 0)


def test_with_bug_replaces_and_nothing_else() -> None:
    bug = Bug("x.y", "x", "b", "B", "", "")
    assert with_bug("abc", bug) == "aBc"
    for source in ("", "bb"):
        with pytest.raises(ValueError, match="needs exactly 1"):
            with_bug(source, bug)


def test_what_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    for call, message in (
        (lambda: find_bug("gpt.mean_of_means", BUGS), "no bug gpt.mean_of_means.*did you mean"),
        (lambda: find_bug("nothing", BUGS), f"no bug nothing among {len(BUGS)}$"),
        (lambda: planted(replace(SCALE, module="llmchain.data.clean")), "needs one of llmchain"),
        (lambda: check_bug("nothing", None), "no check nothing; one of causal_loss"),
        (lambda: read_bugs(tmp_path), "mutants_objectives.py.* lie in tests/mutants"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            call()
        assert "\n" not in str(error.value)


# ── exhibits ─────────────────────────────────────────────────────────────────────────────────────


def test_there_are_enough_and_none_hangs_twice() -> None:
    names = [e.bug for e in EXHIBITS]
    assert len(names) == len(set(names)) >= 30
    assert {e.check for e in EXHIBITS} == set(CHECKS)
    assert len({e.room for e in EXHIBITS}) >= 5


def nodes(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda e: e.bug)
def test_an_exhibit_is_a_bug_that_the_tests_plant(exhibit) -> None:
    bug = find_bug(exhibit.bug, BUGS)
    source = (ROOT / (bug.module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    assert source.count(bug.old) == 1 and bug.why
    file, _, test = bug.killed_by.partition("::")
    assert test.partition("[")[0] in nodes(ROOT / file), bug.killed_by


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda e: e.bug)
def test_its_check_finds_it(exhibit) -> None:
    value = check_bug(exhibit.check, planted(BUGS[exhibit.bug]))
    assert value > CHECKS[exhibit.check][1]


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_is_silent_on_the_right_code(name: str, right) -> None:
    check, bound = CHECKS[name]
    assert check(right) <= bound


def test_a_check_leaves_the_global_random_state_alone(right) -> None:
    before = torch.random.get_rng_state()
    for name in ("global_stream", "resumed", "recomputation", "evaluation", "padding"):
        check_bug(name, right)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_bug_that_raises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(parts: object) -> float:
        raise FloatingPointError("loss is nan")

    monkeypatch.setitem(museum.CHECKS, "broken", (fails, 0.0))
    assert check_bug("broken", None) == float("inf")


def test_a_room_is_a_list_of_lines() -> None:
    (one, two) = hang("r", "gpt.a stream future", "gpt.b padded cache owner/name #1")
    assert (one.room, one.bug, one.run, one.check, one.seen_in) == (
        "r",
        "gpt.a",
        "stream",
        "future",
        "",
    )
    assert two.seen_in == "owner/name #1"


# ── laws that the checks rest on ─────────────────────────────────────────────────────────────────


def test_toy_rows_are_unequal_and_padded_on_the_asked_side() -> None:
    for left in (False, True):
        ids, mask = museum.toy_batch(left).values()
        assert len(set(mask.sum(1).tolist())) > 2 and (ids * (1 - mask)).sum() == 0
        steps = mask.diff(dim=1)
        assert (steps >= 0).all() if left else (steps <= 0).all()
        assert (ids[mask.bool()] > 0).all()


@pytest.mark.parametrize(("hits", "errors"), [(50, 0.0), (60, 2.0), (40, 2.0), (65, 3.0)])
def test_deviation_counts_standard_errors(hits: int, errors: float) -> None:
    assert museum.deviation(hits, 100, 0.5) == pytest.approx(errors)
