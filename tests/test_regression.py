"""Rows, measures, losses, the model, intervals and files of the regression chapter."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, BertTokenizerFast

from llmchain.finetune.classification import collate, keep_frozen_states, predict
from llmchain.finetune.regression import (
    KINDS,
    RegressionObjective,
    Regressor,
    bootstrap,
    check_scored,
    conformal_quantile,
    encode_pairs,
    fisher_interval,
    gaussian_nats,
    huber,
    jaccard,
    koenker,
    level_weights,
    load_regressor,
    ordinal_log_probs,
    pearson,
    ranks,
    read_scored,
    refuse_shared,
    save_regressor,
    score_texts,
    segments,
    sentence_vectors,
    spearman,
    split_coverages,
    to_hf_regressor,
)
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.pretrain.training import train

LEVELS = (0.0, 1.0, 2.0, 3.0)
SEP = 3


def small(kind="mse", n_frozen=0, pooling="pooler", **more):
    bert = Bert(BertConfig(60, 24, 2, 2, 16, 32), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(5)
    given_ = {"levels": LEVELS, "center": 1.5, "spread": 0.8} | more
    return Regressor(bert, SEP, kind, n_frozen=n_frozen, pooling=pooling, **given_)


def pair_rows(n=9, seed=0):
    "Rows `[CLS] a [SEP] b [SEP]` of different lengths."
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        a, b = (draw.integers(5, 60, draw.integers(1, 9)).tolist() for _ in range(2))
        rows.append(torch.tensor([2, *a, SEP, *b, SEP]))
    return rows


@pytest.fixture
def tokenizer(tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a dog cat runs sits the ##s red".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"))


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text_a": "a", "text_b": "b"}, "no `score`; give a number from 0 to 5"),
        ({"text_a": "a", "text_b": "b", "score": math.nan}, "score nan is not a number"),
        ({"text_a": "a", "text_b": "b", "score": "much"}, "score 'much' is not a number"),
        ({"text_a": "a", "text_b": "b", "score": True}, "score True is not a number"),
        ({"text_a": "a", "text_b": "b", "score": 5.01}, "score 5.01 is not from 0 to 5"),
        ({"text_a": "a", "text_b": "b", "score": math.inf}, "score inf is not from 0 to 5"),
        ({"text_a": "a", "text_b": " ", "score": 1}, "an empty or missing text"),
        ({"text_a": "a", "score": 1}, "an empty or missing text"),
        ({"text": "", "score": 1}, "an empty or missing text"),
        ({"text": "x" * 100_000, "score": 1}, "100,000 characters, at most 20,000; cut it"),
        ({"text_a": "a", "text_b": "x" * 20_001, "score": 1}, "20,001 characters, at most"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place(row, told):
    with pytest.raises(ValueError, match=f"my.jsonl, row 7: {told}"):
        check_scored(row, 0, 5, "my.jsonl, row 7")


def test_files_name_the_row_and_the_remedy(tmp_path):
    def read(name, content):
        (tmp_path / name).write_bytes(content)
        return read_scored(tmp_path / name, 0, 5)

    good = '{"text": "naïve", "score": 3}\n{"text": "b", "score": "0.5"}\n'
    assert [row["score"] for row in read("a.jsonl", good.encode())] == [3.0, 0.5]
    with pytest.raises(ValueError, match="a.jsonl, row 1: byte 0xef is not UTF-8"):
        read("a.jsonl", good.encode("latin-1"))
    with pytest.raises(ValueError, match="a.jsonl, row 2: not JSON"):
        read("a.jsonl", b'{"text": "a", "score": 1}\n[1]\n')
    with pytest.raises(ValueError, match="a.jsonl, row 2: 100,000 characters, at most 20,000"):
        read("a.jsonl", good[:30].encode() + b'{"text": "%s", "score": 1}' % (b"x" * 100_000))
    with pytest.raises(ValueError, match="a.jsonl, row 2: score nan is not a number"):
        read("a.jsonl", b'{"text": "a", "score": 1}\n{"text": "b", "score": NaN}\n')
    table = b'text_a,text_b,score\r\n"a, b","c\nd",4.5\r\nx,y,9\r\n'
    with pytest.raises(ValueError, match="t.csv, row 4: score 9 is not from 0 to 5"):
        read("t.csv", table)  # the row before it takes two lines of the file
    assert read("t.csv", table[:-7]) == [{"text_a": "a, b", "text_b": "c\nd", "score": 4.5}]
    assert len(read("t.tsv", b"text_a\ttext_b\tscore\na, b\tc\t1\n")) == 1
    with pytest.raises(ValueError, match="t.csv, row 2: its fields are not the header's 3"):
        read("t.csv", b"text_a,text_b,score\na,b\n")
    with pytest.raises(ValueError, match="t.csv, row .*quotation marks"):
        read("t.csv", b"text_a,text_b,score\n" + b"x" * 140_000 + b",b,1\n")
    with pytest.raises(ValueError, match="row 1: byte 0xff is not UTF-8.*UTF-16"):
        read("t.csv", table.decode().encode("utf-16"))


def test_a_shared_sentence_is_a_leak_in_either_place():
    learnt = [{"text_a": "A dog runs.", "text_b": "Cats sit."}]
    refuse_shared(learnt, [{"text_a": "Birds.", "text_b": "Fish."}], "test")
    for row in ({"text_a": "new", "text_b": "a dog  runs"}, {"text_a": "cats sit", "text_b": "x"}):
        with pytest.raises(
            ValueError, match="test, row 2 and 1 more: a sentence of it is in train"
        ):
            refuse_shared(learnt, [{"text_a": "y", "text_b": "z"}, row, row], "test")


# ── measures ──────────────────────────────────────────────────────────────────────────────────────

numbers = st.lists(st.integers(-3, 3), min_size=3, max_size=20)


@given(numbers)
def test_equal_values_share_a_rank_whatever_their_order(values):
    found = ranks(values)
    assert found.sum() == len(values) * (len(values) + 1) / 2
    assert np.array_equal(ranks(values[::-1]), found[::-1])
    for a, r in zip(values, found, strict=True):
        smaller, same = sum(b < a for b in values), sum(b == a for b in values)
        assert r == smaller + (same + 1) / 2


def test_correlations_at_the_edges():
    assert math.isnan(pearson([1, 2, 3], [2.581] * 3)) and math.isnan(spearman([1, 1], [1, 2]))
    assert pearson([1, 2, 3], [2, 4, 6]) == 1 and pearson([1, 2, 3], [-1, -2, -3]) == -1
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == 1
    for wrong, told in (
        ([1.0], "values"),
        ([1, 2, 3], "values"),
        ([1, math.nan], "value 1 is not"),
    ):
        with pytest.raises(ValueError, match=told):
            spearman([1, 2], wrong)
    with pytest.raises(ValueError, match="n=3"):
        fisher_interval(0.5, 3)
    with pytest.raises(ValueError, match="r=1"):
        fisher_interval(1.0, 30)


def test_bootstrap_draws_rows_together_and_covers():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    good, bad = truth + rng.normal(size=200), rng.normal(size=200)
    difference = bootstrap(
        lambda t, a, b: pearson(t, a) - pearson(t, b), (truth, good, bad), rng, 300
    )
    assert difference.verdict == "helps" and difference.low < difference.mean < difference.high
    same = bootstrap(lambda t, a, b: pearson(t, a) - pearson(t, b), (truth, good, good), rng, 50)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match=r"columns of \[199, 200\] rows"):
        bootstrap(pearson, (truth, good[1:]), rng)


def test_jaccard_counts_words_once():
    assert jaccard("A dog, a DOG!", "the dog") == 1 / 3
    assert jaccard("", "") == jaccard("!", "?") == 0 and jaccard("x", "X.") == 1


# ── losses ────────────────────────────────────────────────────────────────────────────────────────


def test_losses_refuse_to_broadcast():
    column, row = torch.zeros(4, 1), torch.zeros(4)
    for loss in (lambda p, t: huber(p, t, 1.0), lambda p, t: gaussian_nats(p, torch.zeros(4), t)):
        with pytest.raises(ValueError, match=r"predictions \(4, 1\) and targets \(4,\)"):
            loss(column, row)
    with pytest.raises(ValueError, match="delta must be above 0"):
        huber(row, row, 0.0)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=9))
def test_weights_give_the_target_back(targets):
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    given_ = torch.tensor(targets, dtype=torch.float64)
    weights = level_weights(given_, levels)
    assert torch.allclose(weights @ levels, given_, atol=1e-12)
    assert torch.allclose(weights.sum(1), torch.ones(len(targets), dtype=torch.float64))
    assert (weights >= 0).all() and ((weights > 0).sum(1) <= 2).all()


def test_levels_outside_and_thresholds_that_cross_are_refused():
    for wrong in (-0.1, 3.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 3"):
            level_weights(torch.tensor([wrong]), torch.tensor(LEVELS))
    with pytest.raises(ValueError, match="must ascend"):
        ordinal_log_probs(torch.zeros(1), torch.tensor([0.0, 0.0]))


def test_far_scores_have_finite_probabilities_and_gradients():
    scores = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    log_probs = ordinal_log_probs(scores, torch.tensor([-1.0, 0.0, 1.0]))
    log_probs.sum().backward()
    assert torch.isfinite(log_probs).all() and torch.isfinite(scores.grad).all()


# ── texts and the model ───────────────────────────────────────────────────────────────────────────


def test_segments_are_those_of_the_tokenizer(tokenizer):
    first, second = ["a dog", "the red cats run", "cat"], ["cats", "a", "the dog runs"]
    theirs = tokenizer(first, second, padding=True, return_tensors="pt")
    rows = encode_pairs(tokenizer, first, second)
    batch = collate(rows, None, range(3))
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    found = segments(batch["input_ids"], tokenizer.sep_token_id, batch["attention_mask"])
    assert torch.equal(found, theirs["token_type_ids"])
    alone = collate(encode_pairs(tokenizer, first), None, range(3))
    assert not segments(alone["input_ids"], tokenizer.sep_token_id, alone["attention_mask"]).any()


def test_texts_that_mean_nothing_are_refused(tokenizer):
    cases = [
        ((["a"], ["b", "c"]), "1 and 2 texts"),
        ((["a", ""],), "row 2 has an empty text"),
        ((["a"], ["\n"]), "row 1 has an empty text"),
        ((["a"], ["ᚠᚢᚦ"]), "row 1 has a text of unknown pieces only"),
        ((["zzz"], ["a"]), "row 1 has a text of unknown pieces only"),
        ((["a [SEP] dog"], ["cat"]), r"spells \[SEP\]"),
        ((["a"], None, 4), "at least 5, got 4"),
    ]
    for given_, told in cases:
        with pytest.raises(ValueError, match=told):
            encode_pairs(tokenizer, *given_)
    assert encode_pairs(tokenizer, []) == []
    for second in (["cat"], ["cat " * 25_000]):  # the tokenizer's own truncation takes gigabytes
        long = encode_pairs(tokenizer, ["dog " * 25_000], second, 16)[0]
        assert len(long) == 16 and long.tolist().count(tokenizer.sep_token_id) == 2


@given(st.integers(1, 12), st.integers(1, 12), st.integers(5, 20))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pairs_are_cut_as_the_tokenizer_cuts_them(tokenizer, n, m, max_tokens):
    first, second = "a dog runs " * 4, "the red cat " * 4
    first, second = (" ".join(t.split()[:k]) for t, k in ((first, n), (second, m)))
    theirs = tokenizer([first], [second], truncation=True, max_length=max_tokens)["input_ids"][0]
    assert encode_pairs(tokenizer, [first], [second], max_tokens)[0].tolist() == theirs
    alone = tokenizer([first], truncation=True, max_length=max_tokens)["input_ids"][0]
    assert encode_pairs(tokenizer, [first], None, max_tokens)[0].tolist() == alone


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_kept_states_change_no_number(kind):
    model, rows = small(kind, n_frozen=1).eval(), pair_rows()
    alone = np.concatenate([predict(model, [row]) for row in rows])
    assert np.abs(predict(model, rows) - alone).max() < 1e-5
    kept = keep_frozen_states(model, rows)
    assert np.abs(predict(model, kept) - alone).max() < 1e-5


def test_the_second_text_is_told_apart():
    model, row = small().eval(), pair_rows(1)[0]
    batch = collate([row], None, [0])
    types = segments(batch["input_ids"], SEP, batch["attention_mask"])
    assert types.sum() > 0
    with torch.inference_mode():
        assert torch.equal(model(**batch), model(**batch, token_type_ids=types))
        flat = model(**batch, token_type_ids=torch.zeros_like(types))
    assert (model(**batch) - flat).abs().max() > 1e-4


def test_vectors_have_length_one_and_no_neighbours():
    bert, rows = small().bert, pair_rows()
    together = sentence_vectors(bert, rows)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([sentence_vectors(bert, [row]) for row in rows])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_zero_says_the_mean_and_scores_have_the_targets_unit(kind):
    model = small(kind)
    raw = np.zeros((1, 2 if kind == "gaussian" else 1), np.float32)
    score, doubt = model.read(raw)
    assert abs(score[0] - 1.5) < 0.01
    assert (doubt is None) == (kind in ("mse", "huber"))
    up = model.read(raw + np.float32([[1.0] + [0.0] * (raw.shape[1] - 1)]))[0][0]
    assert up > score[0] and (kind == "ordinal" or abs(up - 2.3) < 1e-6)
    if kind == "gaussian":
        wide = model.read(np.float32([[0.0, 2 * math.log(3)]]))[1]
        assert abs(doubt[0] - 0.8) < 1e-6 and abs(wide[0] - 2.4) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    model, rows = small(kind), pair_rows(8)
    goals = np.array([0, 3, 1.4, 2, 0.5, 3, 0, 1], np.float32)
    before = predict(model.eval(), rows)
    done = train(
        model,
        RegressionObjective(),
        lambda step: collate(rows, goals, range(8)),
        n_steps=60,
        schedule=lambda step: 3e-3,
        weight_decay=0.0,
    )
    losses = [row["loss"] for row in done["history"]]
    assert losses[-1] < losses[0] - 0.1
    after = model.read(predict(model, rows))[0]
    error = np.abs(after - goals).mean()
    assert error < 0.6 * np.abs(model.read(before)[0] - goals).mean()
    if kind == "ordinal":
        assert (model.thresholds().diff() > 0).all()


def test_thresholds_move_by_their_rate():
    model = small("ordinal", rate=10.0)
    before = model.thresholds().detach()[0].item()
    with torch.no_grad():
        model.steps[0] += 0.1
    assert abs(model.thresholds()[0].item() - before - 1.0) < 1e-5


def test_settings_that_cannot_be_meant_are_refused():
    for more in ({"kind": "l1"}, {"spread": 0.0}, {"spread": math.nan}):
        with pytest.raises(ValueError, match="Regressor: needs kind of mse, huber"):
            small(**more)
    with pytest.raises(ValueError, match="1 levels"):
        small("ordinal", levels=(1.0,))


# ── what is left over ─────────────────────────────────────────────────────────────────────────────


def test_a_fan_is_found_and_a_band_is_not():
    rng, x = np.random.default_rng(0), np.linspace(-2, 2, 400)
    p = [koenker(rng.normal(size=400), np.column_stack([x, x**2]))[1] for _ in range(200)]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1
    assert koenker(rng.normal(size=400) * np.exp(x / 2), x[:, None])[1] < 1e-4


def test_the_quantile_counts_the_new_row():
    scores = np.arange(1.0, 20)  # nineteen
    assert conformal_quantile(scores, 0.1) == 18 and conformal_quantile(scores, 0.05) == 19
    assert conformal_quantile(scores, 0.04) == math.inf
    assert conformal_quantile(np.arange(1.0, 10), 0.1) == 9  # 10 · 0.9 is not over 9
    assert conformal_quantile([1, 2, 2, 2, 3], 0.5) == 2
    for wrong in (([], 0.1), ([1.0, math.nan], 0.1), ([1.0], 0.0), ([1.0], 1.0)):
        with pytest.raises(ValueError, match="needs 0 < alpha < 1"):
            conformal_quantile(*wrong)


@given(st.integers(1, 40), st.floats(0.02, 0.6))
@settings(max_examples=40, deadline=None)
def test_coverage_is_what_the_theorem_says(n, alpha):
    "Every one of n + 1 rows as the new one: the share covered is k / (n + 1), for distinct scores."
    scores = np.random.default_rng(n).normal(size=n + 1)
    covered = [scores[i] <= conformal_quantile(np.delete(scores, i), alpha) for i in range(n + 1)]
    share = np.mean(covered)
    assert 1 - alpha - 1e-9 <= share <= min(1, 1 - alpha + 1 / (n + 1)) + 1e-9


def test_splits_judge_by_rows_that_did_not_calibrate():
    scores = np.arange(40.0)
    found = split_coverages(scores, 20, 0.3, 3000, np.random.default_rng(0))
    k = math.ceil(21 * 0.7)
    assert abs(found.mean() - k / 21) < 4 * found.std() / 3000**0.5
    assert np.allclose(found * 20 % 1, 0)  # twenty judges
    with pytest.raises(ValueError, match="40 of 40 rows leave none"):
        split_coverages(scores, 40, 0.1, 10, np.random.default_rng(0))


# ── files ─────────────────────────────────────────────────────────────────────────────────────────

FACTS = {"low": 0.0, "high": 3.0, "radius": 0.5, "alpha": 0.1, "n_calibration": 20}


@pytest.mark.parametrize("kind", ["mse", "huber", "gaussian"])
def test_a_saved_regressor_opens_and_says_the_same(kind, tmp_path, tokenizer):
    model, folder = small(kind).eval(), tmp_path / "saved"
    folder.mkdir()
    save_regressor(folder, model, tokenizer, FACTS | {"pairs": True, "max_tokens": 20})
    first, second = ["a dog", "the red cats"], ["cats sit", "dog"]
    rows = encode_pairs(tokenizer, first, second, 20)
    wanted = model.read(predict(model, rows))[0]
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert theirs.config.num_labels == 1 and theirs.config.problem_type == "regression"
    asked = tokenizer(first, second, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said = theirs(**asked).logits[:, 0].numpy()
    assert np.abs(said - wanted).max() < 1e-4
    ours, facts = load_regressor(folder)
    assert np.abs(ours.read(predict(ours, rows))[0] - wanted).max() < 1e-4
    found = score_texts(ours, tokenizer, facts, first, second)
    turned = score_texts(ours, tokenizer, facts, second, first)
    assert np.abs(found["score"] - turned["score"]).max() < 1e-6  # both orders are read
    assert (found["low"] <= found["score"]).all() and (found["score"] <= found["high"]).all()
    assert min(found["low"]) >= 0 and max(found["high"]) <= 3
    with pytest.raises(ValueError, match="this model reads pairs of texts"):
        score_texts(ours, tokenizer, facts, first)
    with pytest.raises(ValueError, match="2 and 1 texts"):
        score_texts(ours, tokenizer, facts, first, second[:1])
    long = [second[0], "dog " * 25_000]
    for pair in ((first, long), (long, first)):  # not an answer to its first lines
        with pytest.raises(ValueError, match="^score_texts: row 2: 100,000 characters, at most"):
            score_texts(ours, tokenizer, facts, *pair)
    assert len(score_texts(ours, tokenizer, facts, first, long, longest=100_000)["score"]) == 2


def test_single_texts_are_read_once(tmp_path, tokenizer):
    model, folder = small().eval(), tmp_path / "saved"
    folder.mkdir()
    save_regressor(folder, model, tokenizer, FACTS | {"pairs": False, "max_tokens": 20})
    ours, facts = load_regressor(folder)
    found = score_texts(ours, tokenizer, facts, ["a dog"])
    wanted = model.read(predict(model, encode_pairs(tokenizer, ["a dog"])))[0]
    assert np.abs(found["score"] - np.clip(wanted, 0, 3)).max() < 1e-4
    with pytest.raises(ValueError, match="this model reads single texts"):
        score_texts(ours, tokenizer, facts, ["a"], ["b"])
    assert json.loads((folder / "regressor.json").read_text())["sep_token_id"] == SEP


def test_what_has_no_place_in_a_standard_class_is_refused(tmp_path):
    for model in (small("ordinal"), small(pooling="mean")):
        with pytest.raises(ValueError, match="to_hf_regressor: needs pooling pooler"):
            to_hf_regressor(model)
