"""Refusals, ranks and costs against scikit-learn or by hand; the authored data set; the assistant."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from llmchain.apps import customer_service as cs
from llmchain.apps.customer_service import (
    REFUSALS,
    Assistant,
    auroc,
    cached_features,
    calibration_error,
    choose_threshold,
    coverage_risk,
    draw_rows,
    expected_cost,
    fit_softmax,
    intent_similarities,
    mean_pool,
    mean_reciprocal_rank,
    ranks_of,
    recall_at,
    refusal_before_reading,
    refusal_report,
    softmax_probabilities,
)

DATA = Path(__file__).parents[1] / "data" / "customer_service"
SPLITS = ("train", "validation", "test")


def rows_of(name: str) -> list[dict]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────


def test_mean_pool_leaves_padding_out() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    wanted = torch.stack([hidden[0, :2].mean(0), hidden[1].mean(0)])
    torch.testing.assert_close(mean_pool(hidden, mask), wanted)


def test_auroc_equals_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(2, 9, 200) / 10, rng.integers(0, 7, 90) / 10
    labels = np.r_[np.ones(200), np.zeros(90)]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]))


def test_ranks_count_ties_against_the_system() -> None:
    similarities = np.array([[0.9, 0.5, 0.1], [0.3, 0.3, 0.3], [0.1, 0.2, 0.3]])
    ranks = ranks_of(similarities, np.array([0, 1, 0]))
    assert ranks.tolist() == [1, 3, 3]
    assert recall_at(ranks, 1) == pytest.approx(1 / 3) and recall_at(ranks, 3) == 1.0
    assert mean_reciprocal_rank(ranks) == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)


def test_similarity_is_that_of_the_nearest_question() -> None:
    documents = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = intent_similarities(np.array([[0.0, 1.0]]), documents, np.array([0, 0, 1]), 3)
    assert found.tolist() == [[0.8, 1.0, -np.inf]]


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.35, 0.35])
    right = np.array([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx((0.05 + 0.15) / 2)


CONFIDENCE = np.array([0.9, 0.8, 0.7, 0.6, 0.75, 0.3])
RIGHT = np.array([True, True, False, True, False, False])
INSIDE = np.array([True, True, True, True, False, False])


def test_cost_by_hand() -> None:
    # from 0.7 on: of four inside one is wrong and one refused; of two outside one is answered
    inner, outer = 5 * 1 / 4 + 1 / 4, 5 * 1 / 2
    cost = expected_cost(0.7, CONFIDENCE, RIGHT, INSIDE, 5, 0.3)
    assert cost == pytest.approx(0.7 * inner + 0.3 * outer)
    with pytest.raises(ValueError, match="both kinds"):
        expected_cost(0.7, CONFIDENCE[:4], RIGHT[:4], INSIDE[:4], 5, 0.3)


def test_threshold_is_the_cheapest_of_all() -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 0.2, 0.9):
        confidence = rng.random(60)
        inside = rng.random(60) < 0.6
        right = inside & (rng.random(60) < confidence)
        args = (confidence, right, inside, 4.0, share)
        best = min(expected_cost(t, *args) for t in [0, *confidence, 2])
        assert expected_cost(choose_threshold(*args), *args) == pytest.approx(best)


def test_more_outside_traffic_raises_the_threshold() -> None:
    rng = np.random.default_rng(3)
    inside = np.r_[np.ones(400, dtype=bool), np.zeros(100, dtype=bool)]
    confidence = np.r_[rng.beta(4, 2, 400), rng.beta(3, 4, 100)]
    right = inside & (rng.random(500) < 0.9)
    chosen = [choose_threshold(confidence, right, inside, 4.0, s) for s in (0.03, 0.3, 0.9)]
    assert chosen == sorted(chosen) and chosen[0] < chosen[-1]


def test_report_by_hand() -> None:
    report = refusal_report(0.7, CONFIDENCE, RIGHT, INSIDE)
    assert report["answered_right"] == 0.5 and report["answered_wrong"] == 0.25
    assert report["refused_inside"] == 0.25
    assert report["outside_recall"] == 0.5 and report["outside_precision"] == 0.5
    assert report["auroc"] == pytest.approx(roc_auc_score(INSIDE, CONFIDENCE))


def test_coverage_and_risk_by_hand() -> None:
    order = np.array([0.2, 0.9, 0.5])
    coverage, risk = coverage_risk(order, np.array([False, True, False]), np.array([1.0, 2.0, 1.0]))
    assert coverage.tolist() == [0.5, 0.75, 1.0]
    np.testing.assert_allclose(risk, [0, 1 / 3, 0.5])


@pytest.mark.parametrize("n_classes", [2, 3])
def test_softmax_layer_equals_scikit_learn(n_classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    targets = np.arange(60) % n_classes
    x = rng.normal(size=(60, 5)) + targets[:, None]
    ours = softmax_probabilities(x, *fit_softmax(x, targets, 1.0))
    theirs = LogisticRegression(C=1.0, max_iter=100).fit(x, targets).predict_proba(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match="at least two classes"):
        fit_softmax(x, np.full(60, 1))


def test_features_are_computed_once_for_texts_and_weights(tmp_path: Path) -> None:
    weights, calls = tmp_path / "w", []
    weights.write_bytes(b"one")

    def compute(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.full((len(texts), 2), len(calls), dtype=np.float32)

    for texts in (["a", "b"], ["a", "b"], ["ab"]):
        cached_features(tmp_path, texts, weights, compute)
    assert len(calls) == 2
    weights.write_bytes(b"two")
    assert cached_features(tmp_path, ["ab"], weights, compute).tolist() == [[3.0, 3.0]]


def test_drawing_is_bounded_and_repeats() -> None:
    rows = [
        {"intent": i, "in_scope": i != "oos", "n": n} for n in range(20) for i in ("a", "b", "oos")
    ]
    drawn = draw_rows(rows, ["a"], 3, 2, np.random.default_rng(0))
    assert sorted(row["intent"] for row in drawn) == ["a", "a", "a", "oos", "oos"]
    assert drawn == draw_rows(rows, ["a"], 3, 2, np.random.default_rng(0))


# ── the authored set ─────────────────────────────────────────────────────────────────────────────


def test_every_intent_has_an_answer_and_all_splits() -> None:
    answers = [row["intent"] for row in rows_of("answers")]
    assert len(answers) == len(set(answers)) == 20
    for split, least in zip(SPLITS, (8, 3, 4), strict=True):
        rows = rows_of(split)
        for intent in answers:
            assert sum(row["intent"] == intent for row in rows) == least
        assert sum(not row["in_scope"] for row in rows) >= 14
        for row in rows:
            assert set(row) == {"id", "text", "intent", "domain", "in_scope"}
            assert row["in_scope"] == (row["intent"] != "oos") and row["text"].strip()
    assert all(row["answer"].endswith(".") for row in rows_of("answers"))


def test_no_near_copies_across_splits() -> None:
    def grams(text: str) -> set[str]:
        plain = re.sub(r"\W+", " ", text.lower())
        return {plain[i : i + 4] for i in range(max(1, len(plain) - 3))}

    rows = [(split, grams(row["text"]), row["text"]) for split in SPLITS for row in rows_of(split)]
    assert len({text.lower() for _, _, text in rows}) == len(rows)
    for number, (split, mine, text) in enumerate(rows):
        for other, theirs, copy in rows[:number]:
            if other != split:
                assert len(mine & theirs) / len(mine | theirs) < 0.4, (text, copy)


# ── the assistant ────────────────────────────────────────────────────────────────────────────────


class WordEncoder:
    "A stand-in for MiniLM: one axis for each of three words, so every answer is known."

    WORDS = ("parcel", "password", "weather")

    def __init__(self, folder: Path, device: str = "cpu"):
        self.folder = folder

    def embed(self, texts: list[str]) -> np.ndarray:
        counts = np.array([[float(w in t.lower()) for w in self.WORDS] for t in texts])
        return (counts / np.maximum(1, np.linalg.norm(counts, axis=1, keepdims=True))).astype("f4")


@pytest.fixture
def assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Assistant:
    "Two intents and an outside; saved and loaded. Its weights are in Fortran order, as scikit-learn's are."
    monkeypatch.setattr(cs, "SentenceEncoder", WordEncoder)
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "model.safetensors").write_bytes(b"weights")
    known = ["Where is my parcel?", "I forgot my password"]
    weights = np.asfortranarray(np.array([[6, 0, 0], [1, 6, 0], [0, 2, 9]], dtype=np.float32))
    arrays = {
        "weights": weights,
        "bias": np.zeros(3, dtype=np.float32),
        "questions": WordEncoder(encoder).embed(known),
        "targets": np.array([0, 1]),
    }
    settings = {
        "intents": ["order_status", "account_password"],
        "answers": {"order_status": "It is on its way."},
        "threshold": 0.6,
        "max_characters": 100,
        "encoder": cs.encoder_hash(encoder),
    }
    folder = tmp_path / "saved"
    folder.mkdir()
    Assistant(settings, arrays, known, WordEncoder(encoder)).save(folder)
    loaded = Assistant.load(folder, encoder)
    np.testing.assert_array_equal(loaded.arrays["weights"], weights)
    loaded.folder, loaded.encoder_folder = folder, encoder
    return loaded


def test_answers_and_refuses(assistant: Assistant) -> None:
    reply = assistant.answer("where is the parcel")
    assert (reply.intent, reply.answer, reply.refused) == (
        "order_status",
        "It is on its way.",
        False,
    )
    assert reply.confidence == pytest.approx(np.exp(6) / (np.exp(6) + np.exp(1) + 1), abs=1e-5)
    nearest = assistant.answer("new password please")
    assert nearest.intent == "account_password" and "I forgot my password" in nearest.answer
    outside = assistant.answer("how is the weather")
    assert outside.refused and outside.reason == "unsure" and outside.answer == REFUSALS["unsure"]
    nothing_known = assistant.answer("hello there")
    assert nothing_known.refused and nothing_known.confidence == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("12345 ?!", "empty"),
        ("\x00\ud800", "empty"),
        ("parcel " * 1500, "too_long"),
        ("我的包裹在哪里", "language"),
        ("Где мой заказ?", "language"),
    ],
)
def test_bad_inputs_get_a_clear_reply(assistant: Assistant, text: str, reason: str) -> None:
    reply = assistant.answer(text)
    assert (reply.refused, reply.reason, reply.answer) == (True, reason, REFUSALS[reason])


def test_only_strings_are_texts(assistant: Assistant) -> None:
    with pytest.raises(TypeError, match="must be a string, got int"):
        assistant.answer(5)


def test_another_encoder_is_refused(assistant: Assistant) -> None:
    (assistant.encoder_folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="made with encoder"):
        Assistant.load(assistant.folder, assistant.encoder_folder)


def test_nothing_that_runs_code_is_saved(assistant: Assistant) -> None:
    kinds = {path.suffix for path in assistant.folder.iterdir()}
    assert kinds == {".json", ".jsonl", ".npy", ".safetensors"}
    np.load(assistant.folder / "questions.npy", allow_pickle=False)


def test_mixed_scripts_are_read_by_majority() -> None:
    assert refusal_before_reading("Where is my 包裹?", 100) == ""
    assert refusal_before_reading("包裹包裹包裹 ok", 100) == "language"


@pytest.mark.slow
def test_encoder_equals_transformers() -> None:
    from transformers import AutoModel, AutoTokenizer

    from llmchain.workbench import catalog

    folder = catalog.find("weights/minilm", "embedded").path
    texts = [
        "Where is my parcel?",
        "Hi",
        "How do I wash a blanket that my cat has slept on for years?",
    ]
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
        pooled = mean_pool(hidden, tokens["attention_mask"])
    wanted = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    ours = cs.SentenceEncoder(folder).embed(texts, batch_size=2)
    print(f"max |Δ| = {np.abs(ours - wanted).max():.1e}")
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
