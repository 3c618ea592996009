"""Benchmarks: what is measured, and what is said of it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmchain.workbench import bench

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # they import each other by name, as in commands


def test_a_command_that_fails_is_one_line() -> None:
    command = [sys.executable, "-c", "print('so far'); raise SystemExit('no such set')"]
    with pytest.raises(ChildProcessError, match="failed: no such set$"):
        bench.measure([command])


def test_a_printed_value_counts_else_the_wall_time() -> None:
    told = json.dumps({"value": 0.25, "quality": {"f1": 0.9}})
    found = bench.measure([[sys.executable, "-c", f"print({told!r})"]] * 2)
    assert found["value"] == 0.5 and found["quality"] == {"f1": 0.9} and found["peak_rss_mb"] > 1
    assert 0.01 < bench.measure([[sys.executable, "-c", "print('hello')"]])["value"]


def test_ratios_of_medians_goals_and_limits() -> None:
    def results(*values: float, peak: float = 1.0) -> list[dict]:
        return [{"value": v, "quality": {}, "peak_rss_mb": peak} for v in values]

    slow = [*results(8), *results(6, peak=4.0), *results(9)]
    found = {"ours": results(1, 2, 3, peak=3.0), "slow": slow, "fast": results(1, 1, 1)}
    told = bench.summarise("x", "seconds", {"slow": 3.0, "fast": 0.8}, found, limit=1.5)
    assert (told["ratios"]["slow"]["ratio"], told["ratios"]["slow"]["reached"]) == (4.0, True)
    assert (told["ratios"]["slow"]["low"], told["ratios"]["slow"]["high"]) == (3.0, 8.0)
    assert (told["ratio"], told["ratios"]["fast"]["reached"], told["within"]) == (0.5, False, False)
    assert (told["ratios"]["slow"]["memory"], told["ratios"]["fast"]["memory"]) == (0.75, 3.0)
    alone = bench.summarise("x", "seconds", {}, {"ours": results(1)}, limit=1.5)
    assert (alone["ratio"], alone["ratios"], alone["within"]) == (None, {}, True)


def told_of(ours: dict, theirs: dict, **more: object) -> dict:
    """What is said of a peer that takes twice as long, with these qualities; it needs 10 MB as ours does."""
    found = {
        who: [{"value": value, "quality": quality, "peak_rss_mb": 10.0}] * 2
        for who, value, quality in (("ours", 1.0, ours), ("peer", 2.0, theirs))
    }
    return bench.summarise("x", "seconds", {"peer": 1.5}, found, **more)["ratios"]["peer"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "theirs", "missed"),
    [
        ({"tokens": "a"}, {"tokens": "a"}, []),
        ({"tokens": "a"}, {"tokens": "b"}, ["tokens"]),
        ({"tokens": "a"}, {}, ["tokens"]),
    ],
)
def test_other_work_is_no_speed(ours: dict, theirs: dict, missed: list[str]) -> None:
    told = told_of(ours, theirs, equal={"tokens": ""})
    assert told["missed"] == missed and told["reached"] is (not missed)


def test_accuracy_may_differ_by_its_margin_and_memory_by_its_share() -> None:
    ours, theirs = {"accuracy": 0.80, "pm": 0.02}, {"accuracy": 0.83, "pm": 0.03}
    assert told_of(ours, theirs, equal={"accuracy": "pm"})["reached"]
    low = theirs | {"accuracy": 0.5}  # a peer that learns nothing is not beaten
    assert told_of(ours, low, equal={"accuracy": "pm"})["missed"] == ["accuracy"]
    assert told_of({}, {}, memory=1.0)["reached"]
    assert told_of({}, {}, memory=0.9)["missed"] == ["memory"]


def test_a_round_of_ours_that_did_not_arrive_reaches_no_goal() -> None:
    assert told_of({"under": True}, {}, must=("under",))["reached"]
    assert told_of({"under": False}, {}, must=("under",))["missed"] == ["under"]
    assert told_of({}, {"under": True}, must=("under",))["missed"] == ["under"]


def test_one_unequal_round_is_enough() -> None:
    rounds = [{"value": 1.0, "quality": {"tokens": t}, "peak_rss_mb": 1.0} for t in "aab"]
    same = [{"value": 9.0, "quality": {"tokens": "a"}, "peak_rss_mb": 1.0}] * 3
    found = {"ours": rounds, "peer": same}
    told = bench.summarise("x", "seconds", {"peer": 1.5}, found, equal={"tokens": ""})
    assert told["ratios"]["peer"]["missed"] == ["tokens"]
    assert [q["tokens"] for q in told["quality"]["ours"]] == ["a", "a", "b"]


def test_the_stages_of_the_memory_benchmark_run(tmp_path: Path) -> None:
    module = bench.load("memory")
    module.generate(0.15, tmp_path)
    counts = {name: stage(tmp_path) for name, stage in module.STAGES.items()}
    assert counts["collect"] > counts["clean"] > counts["deduplicate"] >= counts["tokenize"] > 50
    assert module.peak_mb() > 30


# ── every contender runs, at a size of seconds ────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream and pairs of a language whose words follow each other in turn, as 07_objectives stores them."""
    import numpy as np

    folder, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        stream = (np.arange(9000) + rng.integers(0, 2, 9000)) % 40 + 5
        np.save(folder / f"{split}.npy", stream.astype(np.uint16))
        rows = stream[: 64 * 32].reshape(64, 32).astype(np.uint16)
        rows[:, 0], rows[:, 16], rows[:, -4:] = 2, 3, 0  # [CLS], [SEP], [PAD]
        np.save(folder / f"{split}_input_ids.npy", rows)
        kinds = np.broadcast_to(np.arange(32) > 16, rows.shape).astype(np.uint8)
        np.save(folder / f"{split}_token_type_ids.npy", kinds)
        np.save(folder / f"{split}_next_sentence_label.npy", np.arange(64) % 2)
    meta = {"vocab_size": 64, "eos_token_id": 1, "mask_token_id": 4, "pad_token_id": 0}
    meta |= {"special_ids": [0, 1, 2, 3, 4]}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def small(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of width 16, and a plan of a second."""
    import clm

    size = clm.Size(width=16, depth=2, heads=2, context=32, batch=4)
    plans = {"bf16": 1.0, "fp32": 1.0}, {"nanogpt": 0.3, "trainer": 1.0}
    for name, value in zip(("OURS", "BUDGETS"), plans, strict=True):
        monkeypatch.setattr(clm, name, value)
    monkeypatch.setattr(clm, "SIZES", {"cpu": size, "cuda": size})
    monkeypatch.setattr(clm, "HELD_OUT", 640)
    monkeypatch.setattr(clm, "EVALUATIONS", 6)
    if hasattr(module, "AT"):
        monkeypatch.setattr(module, "AT", size)
        monkeypatch.setattr(module, "SECONDS", 0.5)
        monkeypatch.setattr(module, "OUR_BUDGET", 2.0)
        monkeypatch.setattr(module, "HELD_OUT", 32)


def test_contenders_of_clm_race_for_one_target(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same tokens, same held-out windows; who is not under the target when his plan ends says so."""
    module = bench.load("clm")
    small(module, monkeypatch)
    import clm

    first = clm.main("nanogpt", tokens, tmp_path)
    target = json.loads((tmp_path / "target.json").read_text())["loss"]
    assert first["quality"]["loss"] == round(target, 4) < 4.2  # less than log 64
    for who in ("ours", "trainer"):
        told = clm.main(who, tokens, tmp_path)
        assert told["value"] > 0 and 0 < told["quality"]["of_ceiling"] < 1
        assert told["quality"]["target"] == round(target, 4)
        assert told["quality"]["under_target"] is (told["quality"]["loss"] <= round(target, 4))
    (tmp_path / "target.json").write_text(json.dumps({"loss": 0.0, "steps": 1}))
    late = clm.main("ours", tokens, tmp_path) | {"peak_rss_mb": 1.0}
    found = {"ours": [late], "nanogpt": [first | {"peak_rss_mb": 1.0}]}
    said = bench.summarise("x", "seconds", {"nanogpt": 0.0}, found, must=module.MUST)
    assert said["ratios"]["nanogpt"]["missed"] == ["under_target"]


def test_the_goal_of_clm_is_reached_or_missed(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bench.load("clm_goal")
    small(module, monkeypatch)
    monkeypatch.setattr(module, "LIMIT", 1.0)
    monkeypatch.setattr(module, "GOAL", 4.1)
    assert module.main(tokens, tmp_path)["quality"]["loss"] <= 4.1
    monkeypatch.setattr(module, "GOAL", 0.01)
    late = module.main(tokens, tmp_path) | {"peak_rss_mb": 1.0}
    told = bench.summarise("x", "seconds", {}, {"ours": [late]}, limit=1e6, must=module.MUST)
    assert late["quality"]["under_target"] is False and told["within"] is False


def test_contenders_of_mlm_race_for_one_target(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = bench.load("mlm")
    small(module, monkeypatch)
    first = module.main("trainer", tokens, tmp_path)["quality"]
    target = json.loads((tmp_path / "target.json").read_text())
    assert first["loss"] == round(target["loss"], 4) < 4.4
    (tmp_path / "target.json").write_text(json.dumps(target | {"loss": 4.4}))  # anybody gets there
    for who in ("ours", "trainer bf16"):
        told = module.main(who, tokens, tmp_path)["quality"]
        assert told["under_target"] and told["steps"] >= 1


def test_both_write_the_same_with_their_caches(tokens: Path, tmp_path: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=24)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    module = bench.load("generate")
    told = [module.main(who, tmp_path, tokens) for who in ("ours", "transformers")]
    assert told[0]["quality"]["tokens"] == told[1]["quality"]["tokens"]
    assert all(t["value"] > 0 for t in told)


def test_both_search_the_same_beams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from llmchain.finetune import translation as tr
    from llmchain.pretrain.transformer import EncoderDecoder

    pairs = [{"en": f"open file {n} of {n * n}", "zh": f"打开文件{n}"} for n in range(40)]
    bpe = tr.shared_bpe([text for pair in pairs for text in (pair["en"], pair["zh"])], 320)
    config = tr.translator_config(bpe.get_vocab_size(), 24, 1, 2, 16, dropout=0.0)
    model = EncoderDecoder(config, torch.Generator().manual_seed(0)).eval()
    tr.save_translator(tmp_path, model, bpe, ("en", "zh"), 3, 1.0)
    module = bench.load("beam")
    monkeypatch.setattr(module, "N_SOURCES", 20)
    monkeypatch.setattr(tr, "gettext_pairs", lambda: pairs)
    told = [module.main(who, tmp_path)["quality"] for who in ("ours", "transformers")]
    assert told[0] == told[1]
