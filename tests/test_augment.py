"""Augmentation against definitions, counts and libraries that share nothing with it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from llmchain.data import augment
from llmchain.workbench import catalog

TABLE = {"good": ("decent", "fine"), "film": ("movie",), "the": ("this",), "not": ("never",)}
SENTENCE = "the film is not good , and the end is good".split()
WORDS = st.lists(st.sampled_from(SENTENCE), max_size=30)
RATES = st.sampled_from([0.0, 0.05, 0.3, 1.0])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("n", "alpha", "wanted"), [(0, 0.5, 0), (1, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (7, 0.0, 1), (7, 1.0, 7)])  # fmt: skip
def test_number_of_changes_is_that_of_the_paper(n: int, alpha: float, wanted: int) -> None:
    assert augment.n_changes(n, alpha) == wanted


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_rate_outside_zero_to_one_is_refused(alpha: float) -> None:
    for operation in (
        lambda: augment.n_changes(3, alpha),
        lambda: augment.delete_words(SENTENCE, alpha, rng()),
        lambda: augment.swap_words(SENTENCE, alpha, rng()),
    ):
        with pytest.raises(ValueError, match="alpha must lie between 0 and 1"):
            operation()


@settings(max_examples=100, deadline=None)
@given(WORDS, RATES, st.integers(0, 99))
def test_synonyms_replace_at_most_n_content_words(
    words: list[str], alpha: float, seed: int
) -> None:
    before = list(words)
    out = augment.replace_synonyms(words, TABLE, alpha, rng(seed))
    assert words == before, "the argument is left as it was"
    changed = [(a, b) for a, b in zip(words, out, strict=True) if a != b]
    assert all(b in TABLE[a] and a in ("good", "film") for a, b in changed)
    possible = sum(w in ("good", "film") for w in words)
    assert len(changed) == min(possible, augment.n_changes(len(words), alpha))


@settings(max_examples=100, deadline=None)
@given(WORDS, RATES, st.integers(0, 99))
def test_insertion_keeps_the_sentence_in_order(words: list[str], alpha: float, seed: int) -> None:
    out = augment.insert_synonyms(words, TABLE, alpha, rng(seed))
    known = {"good", "film"} & set(words)
    added = Counter(out) - Counter(words)
    assert set(added) <= {s for w in known for s in TABLE[w]}
    assert sum(added.values()) == (augment.n_changes(len(words), alpha) if known else 0)
    kept = iter(out)
    assert all(word in kept for word in words), "a subsequence of the copy"


def test_insertion_reaches_both_ends() -> None:
    places = set()
    for seed in range(60):
        places.add(augment.insert_synonyms(["a", "film"], TABLE, 0.1, rng(seed)).index("movie"))
    assert places == {0, 1, 2}


@settings(max_examples=100, deadline=None)
@given(WORDS, RATES, st.integers(0, 99))
def test_swapping_keeps_all_words(words: list[str], alpha: float, seed: int) -> None:
    assert Counter(augment.swap_words(words, alpha, rng(seed))) == Counter(words)


def test_one_swap_always_moves_two_words_and_all_pairs_are_alike() -> None:
    words = list("abcd")
    seen: Counter = Counter()
    for seed in range(3000):
        out = augment.swap_words(words, 0.25, rng(seed))
        moved = tuple(w for w, o in zip(words, out, strict=True) if w != o)
        assert len(moved) == 2, "a word was swapped with itself"
        seen[moved] += 1
    assert len(seen) == 6 and max(seen.values()) < 1.25 * min(seen.values())


@settings(max_examples=100, deadline=None)
@given(WORDS, RATES, st.integers(0, 99))
def test_deletion_leaves_a_subsequence_and_never_nothing(
    words: list[str], alpha: float, seed: int
) -> None:
    out = augment.delete_words(words, alpha, rng(seed))
    rest = iter(words)
    assert all(word in rest for word in out)
    assert bool(out) == bool(words)
    assert alpha != 0 or out == words


def test_deletion_drops_the_stated_share() -> None:
    kept = augment.delete_words(["w"] * 20_000, 0.3, rng())
    assert abs(1 - len(kept) / 20_000 - 0.3) < 0.015  # more than four standard errors


def test_eda_takes_the_operations_in_turn() -> None:
    words = ["good"] * 40
    for seed in range(20):
        copies = augment.eda(words, TABLE, 0.2, 8, rng(seed))
        lengths = [len(c) for c in copies]
        assert lengths[:4].count(48) == lengths[4:].count(48) == 1, "one insertion in four"
        replaced = [set(c) != {"good"} and len(c) == 40 for c in copies]
        assert sum(replaced[:4]) == sum(replaced[4:]) == 1, "one replacement in four"


def test_eda_orders_the_operations_at_random() -> None:
    words = ["good"] * 40
    first = [len(augment.eda(words, TABLE, 0.2, 1, rng(seed))[0]) for seed in range(40)]
    assert 2 <= first.count(48) <= 20, "with one copy each operation gets its turn"


def test_all_methods_repeat() -> None:
    for operation in (
        lambda r: augment.replace_synonyms(SENTENCE, TABLE, 0.3, r),
        lambda r: augment.insert_synonyms(SENTENCE, TABLE, 0.3, r),
        lambda r: augment.swap_words(SENTENCE, 0.3, r),
        lambda r: augment.delete_words(SENTENCE, 0.3, r),
        lambda r: augment.eda(SENTENCE, TABLE, 0.3, 5, r),
        lambda r: augment.content_places(SENTENCE, 0.3, r),
    ):
        assert operation(rng(7)) == operation(rng(7))


def test_the_table_is_symmetric_and_has_no_word_for_itself() -> None:
    table = augment.synonym_table([["b", "a"], ["b", "c"], ["d"], ["e", "e"]])
    assert table == {"a": ("b",), "b": ("a", "c"), "c": ("b",)}
    for word, others in table.items():
        assert word not in others and all(word in table[o] for o in others)


def test_local_synonyms_are_read(local_data: Path) -> None:
    groups = augment.read_synonyms(local_data / "lexicon" / "synonyms_en.tsv")
    assert len(groups) > 20_000 and all(len(group) >= 2 for group in groups)
    assert "movie" in augment.synonym_table(groups)["film"]


def test_a_broken_line_of_synonyms_is_named(tmp_path: Path) -> None:
    path = tmp_path / "synonyms_en.tsv"
    path.write_text("synset\tpos\twords\tdefinition\n1\ta\tgood|fine\tx\nno tabs here\n")
    with pytest.raises(ValueError, match="synonyms_en.tsv line 3: expected synset, pos and words"):
        augment.read_synonyms(path)


@pytest.mark.parametrize("name", ["synonyms", "antonyms"])
def test_authored_word_lists_are_as_their_datasheets_say(name: str) -> None:
    found = catalog.find("lexicon" if name == "synonyms" else name, "embedded")
    rows = found.rows(name)
    words = [word for row in rows for word in row["words"]]
    assert all(w == w.lower() and len(w.split()) == 1 for w in words)
    assert all(len(set(row["words"])) == len(row["words"]) >= 2 for row in rows)
    kind = "sets" if name == "synonyms" else "pairs"
    sheet = (found.path / "README.md").read_text(encoding="utf-8")
    assert f"{len(rows)} {kind}" in sheet and f"{len(set(words))} different words" in sheet


def test_negations_and_stop_words_are_no_content() -> None:
    for word in ("not", "don't", "don’t", "the", "a", ",", "2", "x"):
        assert not augment.is_content(word), word
    assert augment.is_content("film") and augment.is_negation("isn't")
    assert augment.loses_negation(["not", "not", "good"], ["not", "good"])
    assert not augment.loses_negation(["good"], ["not", "good"])


def test_places_are_those_of_content_words() -> None:
    for seed in range(50):
        places = augment.content_places(SENTENCE, 0.3, rng(seed))
        assert places == sorted(set(places)) and len(places) == 3
        assert all(augment.is_content(SENTENCE[i]) for i in places)


def test_proposals_are_drawn_by_weight_and_never_the_old_word() -> None:
    offered = [[("old", 8.0), ("x", 3.0), ("y", 1.0)]]
    r = rng()
    drawn = Counter(augment.draw_proposals(["old"], [0], offered, r)[0] for _ in range(4000))
    assert set(drawn) == {"x", "y"}
    assert abs(drawn["x"] / 4000 - 0.75) < 0.03
    assert augment.draw_proposals(["a", "b"], [1], [[]], r) == ["a", "b"], "cut off: it stays"


def test_back_translation_keeps_order_and_number() -> None:
    assert augment.back_translate(["a", "b"], lambda t: [x * 2 for x in t], lambda t: [x[0] for x in t]) == ["a", "b"]  # fmt: skip
    assert augment.back_translate(["a", "b"], list, lambda t: [" ", "c"]) == ["a", "c"], (
        "lost: kept"
    )
    with pytest.raises(ValueError, match="2 texts gave 2 there and 1 back"):
        augment.back_translate(["a", "b"], list, lambda t: t[:1])


def test_a_translator_is_opened_from_a_folder(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    inner = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "good": 3, "film": 4}, "<unk>"))  # fmt: skip
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "there")
    config = T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = T5ForConditionalGeneration(config).eval()
    network.save_pretrained(tmp_path / "there")
    translate = augment.load_translator(tmp_path / "there", max_tokens=4, batch_size=2)
    texts = ["good film", "film", "good"]
    batch = tokenizer(texts[:2], padding=True, return_tensors="pt")
    ids = network.generate(**batch, max_new_tokens=4, do_sample=False)
    assert translate(texts)[:2] == tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert len(translate(texts)) == 3 and translate(texts) == translate(texts)
    assert translate(["good", "", " "])[1:] == ["", ""], "blank texts are not asked about"


def test_a_translator_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionError) as caught:
        augment.load_translator(tmp_path / "nothing")
    assert "nothing cannot be opened" in str(caught.value) and "\n" not in str(caught.value)


def test_mixup_mixes_features_and_labels_alike() -> None:
    x = np.eye(5)
    mixed, soft = augment.mixup(x, x.copy(), 0.7, 400, rng())
    np.testing.assert_array_equal(mixed, soft)
    np.testing.assert_allclose(soft.sum(1), 1)
    assert (np.count_nonzero(mixed, axis=1) <= 2).all(), "between two examples, no more"
    heavy = mixed[np.arange(400), np.arange(400) % 5]  # λ, where the partner is another one
    other = np.count_nonzero(mixed, axis=1) == 2
    assert abs(heavy[other].mean() - 0.5) < 0.06
    assert abs(heavy[other].var() - 1 / (4 * (2 * 0.7 + 1))) < 0.02  # of Beta(0.7, 0.7)


def test_gradient_is_autograds() -> None:
    r = rng(1)
    x, w, b = r.normal(size=(9, 4)), r.normal(size=(4, 3)), r.normal(size=3)
    targets = r.dirichlet(np.ones(3), size=9)
    loss, by_weights, by_bias = augment.soft_loss(w, b, x, targets, 0.8)
    tw, tb = torch.tensor(w, requires_grad=True), torch.tensor(b, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(x) @ tw + tb, torch.tensor(targets), reduction="sum"
    )
    total = 0.8 * theirs + 0.5 * (tw**2).sum()
    total.backward()
    assert abs(loss - total.item()) < 1e-10
    np.testing.assert_allclose(by_weights, tw.grad, atol=1e-10)
    np.testing.assert_allclose(by_bias, tb.grad, atol=1e-10)


def test_loss_survives_large_logits() -> None:
    loss, by_weights, _ = augment.soft_loss(np.eye(2) * 4000, np.zeros(2), np.eye(2), np.eye(2), 1.0)  # fmt: skip
    assert np.isfinite(loss) and np.isfinite(by_weights).all()


def test_hard_labels_give_the_classifier_of_scikit_learn() -> None:
    r = rng(2)
    y = r.integers(0, 3, 90)
    x = r.normal(size=(90, 5)) + np.eye(3, 5)[y]
    weights, bias = augment.fit_soft(x, np.eye(3)[y], 0.5)
    theirs = LogisticRegression(C=0.5, tol=1e-8, max_iter=2000).fit(x, y)
    np.testing.assert_allclose(weights.T, theirs.coef_, atol=2e-3)
    ours = np.exp(x @ weights + bias)
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), theirs.predict_proba(x), atol=1e-3)  # fmt: skip


def test_fit_refuses_rows_without_targets() -> None:
    with pytest.raises(ValueError, match="3 rows, 2 targets"):
        augment.fit_soft(np.ones((3, 1)), np.ones((2, 2)))


@pytest.mark.parametrize("truth", [0.0, 0.2, 0.5])
def test_lost_labels_are_counted_through_a_judge_that_errs(truth: float) -> None:
    r = rng(3)
    n, right = 3000, 0.8
    turned = r.random(n) < truth
    before, after = r.random(n) < right, (r.random(n) < right) != turned
    found = augment.lost_labels(before, after)
    assert abs(found.mean - truth) < 0.06 and found.low < found.mean < found.high
    sure = augment.lost_labels(np.ones(n, bool), ~turned)  # a judge that never errs
    assert abs(sure.mean - turned.mean()) < 1e-12


def test_a_judge_that_tosses_coins_is_refused() -> None:
    with pytest.raises(ValueError, match="more often than a coin, got 0.5"):
        augment.lost_labels(np.array([True, False]), np.array([True, True]))


@settings(max_examples=100, deadline=None)
@given(WORDS, WORDS)
def test_marks_rebuild_both_sentences(before: list[str], after: list[str]) -> None:
    marks = augment.word_changes(before, after)
    assert [w for kind, w in marks if kind != "new"] == before
    assert [w for kind, w in marks if kind != "gone"] == after
