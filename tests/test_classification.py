"""Batches, poolings, measures and the head of the classification chapter."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from llmchain.finetune.classification import (
    ClassificationObjective,
    Classifier,
    accuracy,
    check_rows,
    checked_splits,
    collate,
    confusion_matrix,
    epoch_batches,
    evaluate,
    expected_calibration_error,
    first_token,
    fit_temperature,
    fit_words,
    keep_frozen_states,
    leaked,
    length_batches,
    load_classifier,
    macro_f1,
    matthews,
    mcnemar,
    only_unknown,
    padding_share,
    paired_measure,
    predict,
    read_examples,
    refuse_shared,
    refuse_unknown,
    reliability,
    shared_rows,
    softmax,
    standing,
    table_rows,
    to_hf_classifier,
    without_shared,
)
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.pretrain.training import train


def small(pooling="pooler", n_frozen=0, dropout=0.0, n_classes=3):
    bert = Bert(BertConfig(50, 20, 3, 2, 16, 32, dropout), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(5)
    return Classifier(bert, n_classes, pooling, n_frozen)


def some_rows(n=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 15, (n,), generator=generator).tolist()
    return [torch.randint(5, 50, (size,), generator=generator) for size in sizes]


def test_every_text_is_in_one_batch():
    lengths = np.random.default_rng(0).integers(3, 60, 1003)
    for rng in (None, np.random.default_rng(1)):
        batches = length_batches(lengths, 32, rng)
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(1003))
        assert max(map(len, batches)) <= 32
    chosen = epoch_batches(lengths, 32, 3)
    for epoch in (0, 1):
        seen = np.concatenate([chosen(32 * epoch + step) for step in range(32)])
        assert np.array_equal(np.sort(seen), np.arange(1003))
    assert np.array_equal(chosen(5), epoch_batches(lengths, 32, 3)(5))


def test_bucketing_removes_padding_and_keeps_order_random():
    lengths = np.random.default_rng(0).integers(3, 60, 3200)
    mixed = length_batches(lengths, 32, np.random.default_rng(1), window=1)
    bucketed = length_batches(lengths, 32, np.random.default_rng(1))
    assert padding_share(lengths, bucketed) < 0.1 < 0.3 < padding_share(lengths, mixed)
    sizes = [lengths[b].mean() for b in bucketed]
    assert (
        abs(np.corrcoef(sizes, range(len(sizes)))[0, 1]) < 0.3
    )  # batches are not in order of length


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_padding_changes_no_logit(pooling):
    model, rows = small(pooling).double().eval(), some_rows()
    alone = np.concatenate([predict(model, [row], 1) for row in rows])
    assert np.abs(predict(model, rows, 4) - alone).max() < 1e-6


def test_first_token_equals_the_block():
    model = small().double().eval()
    x = torch.randn(4, 7, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 5])[:, None]
    visible = mask[:, None, None, :]
    for block in model.bert.blocks:
        whole = block(x, visible)[:, :1]
        print(f"max |Δ| = {(first_token(block, x, visible) - whole).abs().max():.1e}")
        torch.testing.assert_close(first_token(block, x, visible), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_kept_states_give_the_same_logits(pooling):
    model, rows = small(pooling, n_frozen=2).double().eval(), some_rows()
    kept = [state.double() for state in keep_frozen_states(model, rows, 4)]
    assert [len(k) for k in kept] == [len(r) for r in rows]
    assert np.abs(predict(model, kept, 3) - predict(model, rows, 3)).max() < 1e-5


def test_frozen_parts_neither_learn_nor_drop():
    model = small(n_frozen=2, dropout=0.5).train()
    assert not model.bert.blocks[1].training and model.bert.blocks[2].training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rows, labels = some_rows(), np.arange(9) % 3
    schedule = lambda step: 1e-2  # noqa: E731
    train(
        model,
        ClassificationObjective(),
        lambda step: collate(rows, labels, range(9)),
        n_steps=2,
        schedule=schedule,
    )
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    frozen = (
        "bert.token",
        "bert.position",
        "bert.type",
        "bert.norm",
        "bert.blocks.0",
        "bert.blocks.1",
    )
    assert moved and not any(k.startswith(frozen) for k in moved)
    assert {"head.weight", "head.bias", "bert.pooler.weight"} <= moved


def test_prediction_is_in_the_order_of_the_texts_and_keeps_the_mode():
    model, rows = small(dropout=0.3).train(), some_rows(20)
    forwards = predict(model, rows, 6)
    assert np.abs(predict(model, rows[::-1], 6)[::-1] - forwards).max() < 1e-5
    assert model.training and model.dropout.training


def test_measures_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for n_classes in (2, 3, 5):
        labels, called = rng.integers(0, n_classes, (2, 200))
        matrix = confusion_matrix(labels, called, n_classes)
        assert np.array_equal(matrix, metrics.confusion_matrix(labels, called))
        assert accuracy(matrix) == pytest.approx(metrics.accuracy_score(labels, called))
        assert macro_f1(matrix) == pytest.approx(metrics.f1_score(labels, called, average="macro"))
        assert matthews(matrix) == pytest.approx(metrics.matthews_corrcoef(labels, called))
    with pytest.raises(ValueError, match="classes must lie from 0 to 1"):
        confusion_matrix([0, 2], [0, 1], 2)


def test_mcnemar_is_the_exact_binomial():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    for n in (10, 300, 3000):
        a, b = rng.random((2, n)) < [[0.8], [0.7]]
        won, lost, p = mcnemar(a, b)
        assert p == pytest.approx(binomtest(won, won + lost).pvalue)
        assert mcnemar(b, a) == (lost, won, p)


def test_calibration():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20000, 2)) * 2
    labels = (rng.random(20000) < softmax(logits)[:, 1]).astype(int)
    assert expected_calibration_error(softmax(logits), labels) < 0.02
    assert expected_calibration_error(softmax(4 * logits), labels) > 0.08
    assert fit_temperature(4 * logits, labels) == pytest.approx(4, rel=0.1)
    assert (
        sum(b["n"] for b in reliability(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([1, 0]))) == 2
    )
    assert softmax(np.array([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]


def test_a_leak_is_seen():
    assert leaked(["So, it ends."], ["so it ends", "so it begins"]) == [0]
    assert leaked([":)"], [":(", ":)"]) == [1]  # nothing is left of both but their signs


def told_by(texts):
    return {
        name: [{"text": text, "label": i % 2} for i, text in enumerate(some)]
        for name, some in texts.items()
    }


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (
            {
                "train": ["a", "b", "So, it ends"],
                "validation": ["c", "d"],
                "test": ["e", "SO IT ENDS."],
            },
            "mine/train, row 3: the same text is in test, row 2; remove it from train",
        ),
        (
            {"train": ["a", "b"], "validation": ["c", "B!"], "test": ["d", "e"]},
            "mine/train, row 2: the same text is in validation, row 2; remove it from train",
        ),
        (
            {"train": ["a", "b"], "validation": ["c", "d"], "test": ["d", "c"]},
            "mine/validation, row 1 and 1 more: the same text is in test, row 2",
        ),
    ],
)
def test_a_text_in_two_splits_is_refused_and_can_be_dropped(texts, told):
    splits = told_by(texts)
    with pytest.raises(ValueError) as error:
        refuse_shared(splits, "mine")
    assert told in str(error.value) and "\n" not in str(error.value)
    kept, n_gone = without_shared(splits)
    assert n_gone == len(shared_rows(splits)) and not shared_rows(kept)
    assert kept["test"] == splits["test"]  # what judges last is kept whole
    refuse_shared(kept, "mine")


def test_splits_are_checked_numbered_and_apart():
    splits = told_by({"train": ["a", "b", "c", "d"], "validation": ["e", "f"], "test": ["A", "g"]})
    kept, n_gone = checked_splits(splits, ["0", "1"], "mine")
    assert n_gone == 1 and [row["row"] for row in kept["train"]] == [2, 3, 4]
    assert "row" not in splits["train"][0]
    splits["test"][1]["label"] = 7
    with pytest.raises(ValueError, match="mine/test, row 2: label 7 is not one of: 0, 1"):
        checked_splits(splits, ["0", "1"], "mine")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([("a", 0), ("b", 2)], "mine, row 2: label 2 is not one of: 0, 1"),
        ([("a", 0), ("b", float("nan"))], "mine, row 2: label nan is not one of: 0, 1"),
        ([("a", None)], "mine, row 1: no `label`; give one of: 0, 1"),
        ([("a", 1), (" \n", 0)], "mine, row 2: an empty or missing `text`"),
        ([("a", 1), (None, 0)], "mine, row 2: an empty or missing `text`"),
        ([("x" * 100_000, 1)], "mine, row 1: 100,000 characters, at most 20,000"),
        ([("a", 1), ("b", 1)], "mine: needs rows of two classes at least; found: 1"),
        ([], "mine: needs rows of two classes at least; found: no rows"),
    ],
)
def test_rows_in_memory_are_read_with_the_same_suspicion(rows, told):
    with pytest.raises(ValueError) as error:
        check_rows([{"text": text, "label": label} for text, label in rows], ["0", "1"], "mine")
    assert told in str(error.value) and "\n" not in str(error.value)


def test_saved_and_read_back(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model, rows = small(), some_rows()
    to_hf_classifier(model, {0: "a", 1: "b", 2: "c"}).save_pretrained(tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    batch = collate(rows, None, range(9))
    with torch.inference_mode():
        gap = (theirs(**batch).logits.numpy() - predict(load_classifier(tmp_path), rows, 9)).max()
    assert abs(gap) < 1e-5
    with pytest.raises(ValueError, match="pools with pooler"):
        to_hf_classifier(small("mean"), {0: "a", 1: "b", 2: "c"})


CLASSES = ["bad", "good"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"text,label\nfine,meh\n", "a.csv, row 2: label 'meh' is not one of: bad, good"),
        ("a.csv", b"text,label\nfine,good\ndull,\n", "a.csv, row 3: no `label`"),
        ("a.csv", b"text,stars\nfine,5\n", "a.csv, row 2: no `label`; give one of"),
        ("a.csv", b"text,label\n ,bad\n", "a.csv, row 2: an empty or missing `text`"),
        (
            "a.csv",
            b"text,label\nfine, really,good\n",
            "a.csv, row 2: its fields are not the header's 2",
        ),
        ("a.csv", b'text,label\n"fine,good\n', "a.csv, row 2: "),
        ("a.csv", b"text,label\nfine,good\nna\xefve,bad\n", "a.csv, row 3: byte 0xef is not UTF-8"),
        ("a.tsv", b"text\tlabel\nfine\tgood\n", "two classes at least; found: good"),
        ("a.csv", b"text,label\n", "two classes at least; found: no rows"),
        (
            "a.csv",
            b"text,label\n" + b"x" * 100_000 + b",good\n",
            "100,000 characters, at most 20,000",
        ),
        ("a.jsonl", b'{"text": "fine", "label": "good"}\n[1]\n', "a.jsonl, row 2: not JSON"),
        (
            "a.jsonl",
            b'{"text": 3, "label": "good"}\n',
            "a.jsonl, row 1: an empty or missing `text`",
        ),
    ],
)
def test_a_row_that_will_not_do_is_named_with_what_to_do(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_examples(tmp_path / name, CLASSES)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_good_files_are_read_the_same_in_every_form(tmp_path):
    (tmp_path / "a.csv").write_bytes('\ufefftext,label\n"ä, b",good\nc,bad\n'.encode())
    (tmp_path / "a.tsv").write_bytes("text\tlabel\nä, b\tgood\nc\tbad\n".encode())
    lines = '{"text": "ä, b", "label": "good"}\n{"text": "c", "label": "bad"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        texts, numbers = read_examples(tmp_path / name, CLASSES)
        assert texts == ["ä, b", "c"] and numbers.tolist() == [1, 0]
    assert [where for where, _ in table_rows(tmp_path / "a.csv")] == [
        "a.csv, row 2",
        "a.csv, row 3",
    ]


def test_texts_of_which_nothing_is_seen_are_found():
    class Words:
        unk_token_id, all_special_ids = 1, [0, 1, 2, 3]

    ids = [torch.tensor([2, 9, 3]), torch.tensor([2, 1, 1, 3]), torch.tensor([2, 3])]
    assert only_unknown(Words(), ids) == [1, 2]
    refuse_unknown(Words(), ids[:1], "mine")
    with pytest.raises(ValueError, match="mine, row 2 and 1 more: only unknown tokens; delete"):
        refuse_unknown(Words(), ids, "mine")
    with pytest.raises(ValueError, match="mine, row 70 and 1 more: only unknown tokens"):
        refuse_unknown(Words(), ids, "mine", [60, 70, 80])


def test_the_split_that_is_named_judges():
    model, rows = small(n_classes=2).eval(), {"train": some_rows(12, 1), "test": some_rows(12, 2)}
    told = {split: predict(model, rows[split]).argmax(1) for split in rows}
    labels = {"train": told["train"], "test": 1 - told["test"]}  # learnt by heart, always wrong
    assert accuracy(evaluate(model, rows, labels, "train")) == 1.0
    assert accuracy(evaluate(model, rows, labels, "test")) == 0.0
    one = evaluate(model, rows, labels, "test", batch_size=1)
    assert (
        one.tolist()
        == metrics.confusion_matrix(labels["test"], told["test"], labels=[0, 1]).tolist()
    )
    with pytest.raises(ValueError, match="test has 12 texts and 11 labels"):
        evaluate(model, rows, labels | {"test": labels["test"][1:]}, "test")


def test_the_opponent_learns_its_words_from_train_alone():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = {"train": ["good fun", "bad work", "good", "bad"], "validation": ["good odd", "bad"]}
    labels = {"train": np.array([1, 0, 1, 0]), "validation": np.array([1, 0])}
    vectorizer = TfidfVectorizer()
    model, score = fit_words(vectorizer, texts, labels)
    assert score == 1.0 and "odd" not in vectorizer.vocabulary_
    x = TfidfVectorizer().fit_transform(texts["train"])
    same = LogisticRegression(C=1, max_iter=1000).fit(x, labels["train"])
    assert np.allclose(model.coef_, same.coef_)  # of equals the first


def test_interval_over_texts_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    a, b = (np.where(rng.random(2000) < p, labels, 1 - labels) for p in (0.8, 0.7))
    found = paired_measure(labels, a, b, 2, accuracy, np.random.default_rng(1))
    differences = (a == labels).astype(float) - (b == labels)
    assert found.mean == pytest.approx(differences.mean()) and found.n == 2000
    half = 1.96 * differences.std() / 2000**0.5
    assert found.low == pytest.approx(differences.mean() - half, abs=0.004)
    assert found.high == pytest.approx(differences.mean() + half, abs=0.004)
    assert standing(found) == "ahead"
    other_way = paired_measure(labels, b, a, 2, accuracy, np.random.default_rng(1))
    assert other_way.mean == pytest.approx(-found.mean) and standing(other_way) == "behind"


def test_interval_over_texts_pairs_them_and_takes_the_mean_of_runs():
    rng = np.random.default_rng(0)
    labels, a = rng.integers(0, 3, 300), rng.integers(0, 3, (2, 300))
    same = paired_measure(labels, a, a[::-1], 3, macro_f1, np.random.default_rng(1), 50)
    assert max(abs(same.mean), abs(same.low), abs(same.high)) < 1e-12
    assert standing(same) == "not told apart"
    perfect = paired_measure(labels, labels, a, 3, macro_f1, np.random.default_rng(1), 50)
    mean = np.mean([metrics.f1_score(labels, run, average="macro") for run in a])
    assert perfect.mean == pytest.approx(1 - mean)
    with pytest.raises(ValueError, match="300 labels, 300 and 299 calls; pair them by text"):
        paired_measure(labels, a, a[:, 1:], 3, macro_f1, rng)
