"""Labels, windows, CRF, perceptron, measures, files and pages of the entities chapter."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForTokenClassification, BertTokenizerFast

from llmchain.finetune.classification import keep_frozen_states
from llmchain.finetune.entities import (
    CRF,
    TINTS,
    Perceptron,
    Tagger,
    TaggingObjective,
    by_novelty,
    check_row,
    check_rows,
    chinese_names,
    collate_tags,
    cut,
    decode,
    entity_counts,
    entity_f1,
    features,
    fill_frame,
    find_entities,
    first_pieces,
    fit_path_temperature,
    gazetteer,
    highlighted,
    label_marginals,
    legal_transitions,
    load_tagger,
    log_partition,
    look_up,
    merge,
    outermost,
    paired_f1,
    path_nats,
    path_rules,
    path_score,
    pattern_of,
    piece_labels,
    read_tagged,
    refuse_leaks,
    repair,
    role_rows,
    role_sentence,
    save_tagger,
    sentences_of,
    span_confusion,
    span_row,
    spans,
    split_of,
    tag_names,
    tags_of,
    viterbi,
    windows_of,
    word_pieces,
    word_probabilities,
    word_scores,
)
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.pretrain.training import train

LABELS = tag_names(["x", "y"])
any_tags = st.lists(st.sampled_from(LABELS), max_size=12)


def small(crf=False, n_labels=5, n_frozen=0):
    bert = Bert(BertConfig(60, 24, 2, 2, 16, 32), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.mul_(5)
    return Tagger(bert, n_labels, crf, n_frozen)


@pytest.fixture
def tokenizer(tmp_path):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a ##b ##c met in lon ##don ada bob x y".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return BertTokenizerFast(str(tmp_path / "vocab.txt"))


# ── labels ────────────────────────────────────────────────────────────────────────────────────────


@given(any_tags)
def test_repair_reads_as_the_lenient_reader_and_counts_what_it_changed(tags):
    mended, n = repair(tags)
    assert spans(mended, strict=True) == spans(mended) == spans(tags)
    assert n == sum(a != b for a, b in zip(tags, mended, strict=True))
    assert repair(mended) == (mended, 0)
    assert tags_of(spans(tags), len(tags)) == mended


def test_an_orphan_run_is_one_repair():
    assert repair(["O", "I-x", "I-x", "I-x"]) == (["O", "B-x", "I-x", "I-x"], 1)
    assert repair(["B-x", "I-y", "I-y", "I-x"])[1] == 2
    assert spans(["I-x", "I-x"], strict=True) == []


@given(any_tags)
def test_strict_entities_are_some_of_the_lenient_ones(tags):
    assert {e[1:] for e in spans(tags, strict=True)} <= {e[1:] for e in spans(tags)}


any_entity = st.tuples(st.sampled_from("xy"), st.integers(0, 9), st.integers(1, 4))


@given(st.lists(any_entity, max_size=8))
def test_outermost_keeps_the_longest_and_counts_the_rest(given_):
    entities = [(kind, start, start + size) for kind, start, size in given_]
    kept, dropped = outermost(entities)
    assert dropped == len(entities) - len(kept)
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(kept))  # in order, no word twice
    assert set(kept) <= set(entities)
    for kind, a, b in entities:  # what went met one that is longer, or as long and not to its right
        meets = [k for k in kept if k[1] < b and a < k[2]]
        assert any((a - b, a) >= (k[1] - k[2], k[1]) for k in meets), (kind, a, b)
    assert spans(tags_of(kept, 14)) == kept
    assert outermost(kept) == (kept, 0)


def test_of_nested_names_the_outer_one_stays():
    inner, outer, far = ("LOC", 2, 3), ("ORG", 0, 3), ("PER", 4, 5)
    assert outermost([inner, far, outer]) == ([outer, far], 1)
    assert outermost([("x", 1, 3), ("y", 0, 2)]) == ([("y", 0, 2)], 1)
    assert outermost([outer, outer]) == ([outer], 1) and outermost([]) == ([], 0)


@pytest.mark.parametrize(
    ("entities", "told"),
    [
        ([("x", 0, 3), ("y", 1, 2)], "y from 1 to 2 overlaps another"),
        ([("x", 3, 5)], "x from 3 to 5 is not within 4 words"),
        ([("x", 2, 2)], "x from 2 to 2 is not within"),
    ],
)
def test_labels_of_entities_that_have_no_place_are_refused(entities, told):
    with pytest.raises(ValueError, match=told):
        tags_of(entities, 4)


def test_a_row_of_spans_is_read_with_suspicion():
    text = {"chars": "伦敦大学在"}
    one, two = {"type": "y", "start": 0, "end": 2}, {"type": "x", "start": 0, "end": 4}
    row, dropped = span_row(text | {"entities": [one, two]}, "here")
    assert row == {"tokens": list("伦敦大学在"), "tags": ["B-x", "I-x", "I-x", "I-x", "O"]}
    assert dropped == 1 and span_row(text | {"entities": []}, "here")[0]["tags"] == ["O"] * 5
    for entities, told in (
        (None, "needs a text `chars` and a list"),
        ([[0, 2]], "an entity without `type`, `start` or `end`"),
        ([{"type": "x", "start": 0}], "an entity without `type`, `start` or `end`"),
        ([two | {"end": 6}], "x from 0 to 6; it must lie within the 5 characters"),
        ([two | {"end": "4"}], "x from 0 to 4; it must lie"),
    ):
        with pytest.raises(ValueError, match="zh.jsonl, row 7: " + told):
            span_row(text | {"entities": entities}, "zh.jsonl, row 7")
    with pytest.raises(ValueError, match="row 1: 100,000 characters, at most 20,000"):
        span_row({"chars": "字" * 100_000, "entities": []}, "row 1")


# ── measures ──────────────────────────────────────────────────────────────────────────────────────


def test_half_a_name_is_no_name():
    gold, called = [[("x", 0, 3), ("y", 4, 5)]], [[("x", 0, 2), ("y", 4, 5)]]
    counts = entity_counts(gold, called, ["x", "y"])
    assert counts.tolist() == [[[0, 1, 1], [1, 1, 1]]]
    assert entity_f1(counts) == entity_f1(counts, "macro") == 0.5
    assert entity_f1(np.zeros((0, 2, 3), int)) == entity_f1(np.zeros((0, 2, 3), int), "macro") == 0


def test_confusion_of_spans_adds_up():
    gold, called = [[("x", 0, 1), ("y", 2, 4)]], [[("y", 0, 1), ("y", 2, 3)]]
    assert span_confusion(gold, called, ["x", "y"]).tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_paired_bootstrap_finds_what_is_there_and_pairs():
    rng = np.random.default_rng(0)
    gold = rng.integers(1, 4, 300)
    good, bad = rng.binomial(gold, 0.8), rng.binomial(gold, 0.5)
    a, b = (np.stack([tp, gold, gold], 1)[None, :, None] for tp in (good, bad))
    found = paired_f1(a, b, np.random.default_rng(1), 300)
    assert found.low < found.mean < found.high and found.verdict == "helps"
    assert abs(found.mean - (good.sum() - bad.sum()) / gold.sum()) < 1e-12
    same = paired_f1(a, a, np.random.default_rng(1), 50)
    assert (same.low, same.high) == (0, 0)
    with pytest.raises(ValueError, match="300 and 299 sentences"):
        paired_f1(a, b[:, 1:], rng)


def test_entities_are_split_by_whether_their_words_were_a_name():
    words, entities = [["ada", "met", "bob"]], [[("x", 0, 1), ("x", 2, 3)]]
    names = {("ada",): "y"}
    assert by_novelty(words, entities, names, True) == [[("x", 0, 1)]]
    assert by_novelty(words, entities, names, False) == [[("x", 2, 3)]]


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────


def random_crf(seed, *sizes):
    draw = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(size, generator=draw, dtype=torch.float64) for size in sizes]


def test_padding_changes_neither_partition_nor_score():
    emissions, a, s, f = random_crf(0, (2, 6, 3), (3, 3), (3,), (3,))
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    labels = torch.randint(0, 3, (2, 6), generator=torch.Generator().manual_seed(1))
    alone = torch.ones(1, 4, dtype=torch.bool)
    for function, given_ in ((log_partition, ()), (path_score, (labels,))):
        whole = function(emissions, *given_, mask, a, s, f)[0]
        short = function(emissions[:1, :4], *(x[:1, :4] for x in given_), alone, a, s, f)[0]
        assert abs(whole - short) < 1e-12
    with pytest.raises(ValueError, match="words before its padding"):
        log_partition(emissions, ~mask, a, s, f)


def test_transitions_go_from_row_to_column():
    transitions = np.full((3, 3), -10.0)
    transitions[0, 1] = transitions[1, 2] = transitions[2, 0] = 0  # 0 -> 1 -> 2 -> 0
    start = np.array([0.0, -10, -10])
    assert viterbi(np.zeros((5, 3)), transitions, start, np.zeros(3)) == [0, 1, 2, 0, 1]
    labels = torch.tensor([[0, 1, 2, 0, 1]])
    parts = [torch.as_tensor(part) for part in (transitions, start, np.zeros(3))]
    mask = torch.ones(1, 5, dtype=torch.bool)
    score = path_score(torch.zeros(1, 5, 3, dtype=torch.float64), labels, mask, *parts)
    assert score.item() == 0


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_rules_leave_legal_paths_only(seed, n):
    scores = np.random.default_rng(seed).normal(size=(n, 5)) * 3
    for how, crf in (("repair", None), ("rules", None), ("crf", CRF(5))):
        tags, changed = decode(scores, LABELS, how, crf)
        assert repair(tags) == (tags, 0)
        assert changed == 0 or how == "repair"
    rules, first = legal_transitions(LABELS)
    legal = [LABELS[k] for k in scores.argmax(1)]
    if not repair(legal)[1]:  # where words by themselves are legal, rules change nothing
        assert decode(scores, LABELS, "rules")[0] == legal


def tried(scores, rules, temperature):
    "Every legal path of a sentence and its probability."
    T, K = scores.shape
    paths = np.array(list(itertools.product(range(K), repeat=T)))
    S = rules[1][paths[:, 0]] + rules[2][paths[:, -1]] + scores[np.arange(T), paths].sum(1)
    S = S + sum(rules[0][paths[:, t - 1], paths[:, t]] for t in range(1, T))
    weights = np.exp(S / temperature)
    return paths, weights / weights.sum()


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("learnt", [False, True])
def test_marginals_and_nats_equal_all_paths(learnt, temperature):
    draw, crf = np.random.default_rng(0), CRF(5, rate=1.0) if learnt else None
    if learnt:
        for parameter in crf.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    rules = path_rules(LABELS, crf)
    scores = [draw.normal(size=(n, 5)) * 2 for n in (4, 1, 3)]
    right = [[1, 2, 0, 3], [3], [0, 0, 1]]
    nats = 0.0
    for some, found, path in zip(
        scores, word_probabilities(scores, rules, temperature, 2), right, strict=True
    ):
        paths, p = tried(some, rules, temperature)
        by_hand = [[p[paths[:, t] == k].sum() for k in range(5)] for t in range(len(some))]
        assert found.shape == some.shape and np.abs(found - by_hand).max() < 1e-12
        assert np.allclose(found.sum(1), 1) and found[0, [2, 4]].max() == 0  # no I- begins
        nats -= math.log(p[(paths == path).all(1)].item())
        assert decode(some, LABELS, "crf" if learnt else "rules", crf)[0] == [
            LABELS[k] for k in paths[p.argmax()]
        ]  # what ships is the most probable path, at every temperature
    assert abs(path_nats(scores, right, rules, temperature) - nats / 8) < 1e-12


def test_padding_has_no_marginal_and_gradients_may_be_off():
    emissions, a, s, f = random_crf(0, (2, 6, 3), (3, 3), (3,), (3,))
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    with torch.inference_mode():
        p = label_marginals(emissions, mask, a, s, f)
    assert torch.allclose(p.sum(2), mask.double()) and not p[0, 4:].any()


def test_one_temperature_for_a_path_finds_what_is_there():
    "Labels drawn from the model at temperature 2 are best told at temperature 2, by rules and CRF."
    draw, crf = np.random.default_rng(0), CRF(5, rate=1.0)
    torch.nn.init.normal_(crf.transitions, generator=torch.Generator().manual_seed(1))
    rules = path_rules(LABELS, crf)
    scores = [draw.normal(size=(3, 5)) * 4 for _ in range(400)]
    right = []
    for some in scores:
        paths, p = tried(some, rules, 2.0)
        right.append(paths[draw.choice(len(paths), p=p)].tolist())
    found = fit_path_temperature(scores, right, rules)
    assert abs(found - 2) < 0.25
    best = path_nats(scores, right, rules, found)
    assert all(best <= path_nats(scores, right, rules, t) + 1e-6 for t in (0.5, 1.0, 1.9, 2.1, 5.0))
    with pytest.raises(ValueError, match="path 2 breaks the rules of BIO; repair it first"):
        path_nats(scores[:2], [right[0], [0, 2, 0]], rules)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        path_nats(scores, right, rules, 0.0)


def test_crf_moves_by_its_rate():
    crf = CRF(3, rate=30.0)
    with torch.no_grad():
        crf.transitions.fill_(0.1)
    assert torch.allclose(crf.scores()[0], torch.full((3, 3), 3.0))


# ── opponents ─────────────────────────────────────────────────────────────────────────────────────


def test_word_list_takes_the_longest_match_and_the_commoner_type():
    sentences = [["new", "york"], ["new", "york", "times"], ["york"], ["york"], ["york"]]
    entities = [[("x", 0, 2)], [("y", 0, 3)], [("y", 0, 1)], [("x", 0, 1)], [("y", 0, 1)]]
    names = gazetteer(sentences, entities)
    assert names[("york",)] == "y"
    assert look_up("in new york times york".split(), names) == [("y", 1, 4), ("y", 4, 5)]
    assert look_up([], names) == look_up(["a"], {}) == []


def test_perceptron_averages_all_its_weights():
    "Against a perceptron that keeps every weight and takes the mean."
    texts = [["ada", "met", "bob"], ["x", "in", "lon", "bob"], ["bob", "y"]]
    tags = [["B-x", "O", "B-x"], ["O", "O", "B-y", "I-y"], ["B-x", "B-y"]]
    sentences = [features(words, {}) for words in texts]
    model = Perceptron(LABELS)
    model.fit(sentences, tags, 3, np.random.default_rng(0))
    rng, K, kept = np.random.default_rng(0), len(LABELS), []
    weights, steps = np.zeros((len(model.places), K)), np.zeros((K, K))
    kept.append((weights.copy(), steps.copy()))
    for _ in range(3):
        for i in rng.permutation(3):
            rows = [np.array([model.places[f] for f in some]) for some in sentences[i]]
            path = model.path(rows, weights, steps)
            right = [LABELS.index(tag) for tag in tags[i]]
            for t, (a, b) in enumerate(zip(right, path, strict=True)):
                weights[rows[t], a] += 1
                weights[rows[t], b] -= 1
            for seen, sign in ((right, 1), (path, -1)):
                for a, b in zip(seen[:-1], seen[1:], strict=True):
                    steps[a, b] += sign
            kept.append((weights.copy(), steps.copy()))
    assert np.abs(model.weights - np.mean([w for w, _ in kept], 0)).max() < 1e-12
    assert np.abs(model.transitions - np.mean([s for _, s in kept], 0)).max() < 1e-12
    assert model.predict(features(["never", "seen"], {}))  # unknown features are no error


# ── pieces and windows ────────────────────────────────────────────────────────────────────────────


def test_pieces_are_those_of_the_tokenizer_and_no_word_is_lost(tokenizer):
    words = ["ada", "met", "abc", "in", "london", "zzz"]
    (pieces,) = word_pieces(tokenizer, [words])
    theirs = tokenizer(words, is_split_into_words=True)
    assert [101, *sum(pieces, []), 102][1:-1] == theirs["input_ids"][1:-1]
    owners = [i for i, some in enumerate(pieces) for _ in some]
    assert owners == theirs.word_ids()[1:-1]
    assert word_pieces(tokenizer, [["\u200b"]]) == [[[tokenizer.unk_token_id]]]
    assert word_pieces(tokenizer, []) == []


def test_labels_stand_on_first_pieces_as_word_ids_say(tokenizer):
    words, label_ids = ["ada", "abc", "in", "london"], [1, 3, 0, 4]
    (window,) = windows_of(word_pieces(tokenizer, [words]), 20, 3, (2, 3))
    seen, expected = set(), []
    for word in tokenizer(words, is_split_into_words=True).word_ids():
        first = word is not None and word not in seen
        expected.append(label_ids[word] if first else -100)
        seen.add(word)
    assert piece_labels(window, label_ids).tolist() == expected


@example([1] * 10, 4, 2)
@example([2, 1, 3, 1, 1, 2, 1], 6, 3)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 6))
def test_windows_lose_no_word_and_no_entity(sizes, room, overlap):
    found = cut(sizes, room, overlap)
    assert {i for a, b in found for i in range(a, b)} == set(range(len(sizes)))
    assert all(sum(min(s, room) for s in sizes[a:b]) <= room for a, b in found)
    for n in range(1, overlap + 1):
        for a in range(len(sizes) - n + 1):
            # as large as an entity may be with room for one word more
            if sum(min(s, room) for s in sizes[a : a + n]) + max(sizes) <= room:
                assert any(begin <= a and a + n <= end for begin, end in found), (a, n, found)


def test_a_long_word_keeps_its_label():
    (one, two, three) = windows_of([[[5], [6] * 50, [7]]], 8, 2, (2, 3))
    assert len(two.ids) == 8 and piece_labels(two, [0, 4, 0]).tolist().count(4) == 1
    assert (one.begin, two.begin, three.begin) == (0, 1, 2)


def test_each_word_takes_the_window_with_more_context():
    windows = windows_of([[[5]] * 10, [[5]]], 6, 2, (2, 3))
    number = [np.full((len(w.starts), 2), i) for i, w in enumerate(windows)]
    long, short = merge(number, windows)
    assert long[:, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert short.tolist() == [[4, 4]]


@pytest.mark.parametrize("crf", [False, True])
def test_scores_do_not_depend_on_batch_windows_of_others_or_mode(crf):
    model = small(crf).double().train()
    draw = np.random.default_rng(0)
    pieces = [[[int(x)] for x in draw.integers(5, 60, n)] for n in (3, 9, 1, 15)]
    windows = windows_of(pieces, 12, 3, (2, 3))
    together = word_scores(model, windows, batch_size=3)
    assert model.training and [len(some) for some in together] == [3, 9, 1, 15]
    for i, sentence in enumerate(pieces):
        alone = word_scores(model, windows_of([sentence], 12, 3, (2, 3)))[0]
        assert np.abs(alone - together[i]).max() < 1e-5


def test_first_pieces_are_moved_to_the_left():
    labels = torch.tensor([[-100, 1, -100, 2], [-100, -100, 0, -100]])
    scores, moved, mask = first_pieces(torch.arange(8.0).view(2, 4, 1), labels)
    assert scores[mask][:, 0].tolist() == [1, 3, 6] and moved[mask].tolist() == [1, 2, 0]


@pytest.mark.parametrize("crf", [False, True])
def test_loss_counts_first_pieces_only_and_training_lowers_it(crf):
    model, objective = small(crf), TaggingObjective()
    pieces = [[[7, 8], [9], [10, 11, 12]], [[9], [7, 8]]]
    windows = windows_of(pieces, 20, 2, (2, 3))
    targets = [piece_labels(w, ids) for w, ids in zip(windows, ([1, 0, 3], [0, 1]), strict=True)]
    rows = [window.ids for window in windows]
    batch = collate_tags(rows, targets, [0, 1])
    assert objective.counts(batch) == {"tag": 5}
    with torch.no_grad():
        before = objective.sums(model, batch)["tag"]
        alone = [objective.sums(model, collate_tags(rows, targets, [i]))["tag"] for i in (0, 1)]
        assert abs(before - sum(alone)) < 1e-4
    train(model, objective, lambda step: batch, n_steps=30, schedule=lambda step: 3e-3)
    scores = word_scores(model, windows)
    how = "crf" if crf else "rules"
    found = [decode(some, LABELS, how, model.crf)[0] for some in scores]
    assert found == [["B-x", "O", "B-y"], ["O", "B-x"]]
    if crf:
        assert model.crf.transitions.abs().max() > 0


def test_kept_states_give_the_same_scores():
    model = small(n_frozen=1)
    windows = windows_of([[[5], [6]], [[7, 8], [9]]], 12, 2, (2, 3))
    states = keep_frozen_states(model, [window.ids for window in windows])
    for a, b in zip(word_scores(model, windows, states), word_scores(model, windows), strict=True):
        assert np.abs(a - b).max() < 1e-5


# ── saved, read, asked ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("crf", [False, True])
def test_a_saved_tagger_opens_anywhere_and_answers_alike(tmp_path, tokenizer, crf):
    model, folder = small(crf), tmp_path / "out"
    folder.mkdir()
    if crf:
        torch.nn.init.normal_(model.crf.transitions, generator=torch.Generator().manual_seed(3))
    save_tagger(folder, model, tokenizer, LABELS, {"temperature": 1.5})
    assert json.loads((folder / "calibration.json").read_text()) == {"temperature": 1.5}
    theirs = AutoModelForTokenClassification.from_pretrained(folder).eval()
    ours, labels = load_tagger(folder)
    assert labels == LABELS == [theirs.config.id2label[i] for i in range(5)]
    ids = torch.tensor([[2, 8, 9, 5, 3]])
    with torch.inference_mode():
        assert (theirs(ids).logits - model.eval()(ids)).abs().max() < 1e-5
        assert (ours(ids) - model(ids)).abs().max() < 1e-6
    texts = [["ada", "met", "abc", "in", "london"] * 5]
    assert find_entities(ours, tokenizer, labels, texts, 20, 3) == find_entities(
        model, tokenizer, labels, texts, 20, 3
    )
    with pytest.raises(ValueError, match="4 labels, the head has 5"):
        save_tagger(folder, model, tokenizer, LABELS[:4])


def test_texts_that_have_no_answer_and_long_ones_that_have(tokenizer):
    model = small()
    ask = lambda *texts: find_entities(model, tokenizer, LABELS, texts, 20, 3)  # noqa: E731
    with pytest.raises(ValueError, match="text 2 is empty"):
        ask(["ada"], ["", " "])
    with pytest.raises(ValueError, match="text 1 has only unknown pieces"):
        ask(["ᚠ", "ᚢ"])
    assert ask() == []
    assert len(ask(["x" * 10_000, "ada"], ["a"] * 3000)) == 2  # long is no error
    with pytest.raises(
        ValueError, match="text 2: 100,003 characters, at most 20,000; cut"
    ) as error:
        ask(["ada"], ["x" * 100_000, "ada"])
    assert "\n" not in str(error.value)
    assert find_entities(model, tokenizer, LABELS, [["a"] * 30], 20, 3, longest=30)
    with pytest.raises(ValueError, match="31 characters, at most 30"):
        find_entities(model, tokenizer, LABELS, [["a"] * 31], 20, 3, longest=30)


def test_decode_wants_a_way_it_knows():
    with pytest.raises(ValueError, match="how must be repair, rules or crf"):
        decode(np.zeros((1, 5)), LABELS, "beam")
    with pytest.raises(ValueError, match="with its CRF"):
        decode(np.zeros((1, 5)), LABELS, "rules", CRF(5))
    with pytest.raises(ValueError, match="one of: micro, macro"):
        entity_f1(np.zeros((1, 1, 3)), "weighted")
    with pytest.raises(ValueError, match="max_tokens must be at least 3"):
        windows_of([[[1]]], 2, 0, (2, 3))
    with pytest.raises(ValueError, match="room 0"):
        cut([1], 0, 0)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def written(tmp_path, *rows):
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


GOOD = {"tokens": ["Ada", "met"], "tags": ["B-x", "O"]}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            GOOD | {"tags": ["B-z", "O"]},
            "label 'B-z' is not one of: O, B-x, I-x, B-y, I-y; correct",
        ),
        (GOOD | {"tags": ["B-x"]}, "2 tokens, 1 tags; give one for each token"),
        ({"tokens": ["Ada"]}, "no `tags`; give one label"),
        ({"tokens": [], "tags": []}, "an empty text or token; delete it"),
        ({"tokens": ["Ada", " "], "tags": ["O", "O"]}, "an empty text or token; delete it"),
        ({"tokens": "Ada", "tags": ["O"] * 3}, "no list `tokens`; give the words"),
        ({"tokens": ["Ada", "met"], "tags": "OO"}, "no `tags`; give one label"),
        ({"tokens": ["x" * 100_000], "tags": ["O"]}, "100,000 characters, at most 20,000; cut it"),
        ([1], "not JSON ([1]); one object a line"),
        ("Ada", "not JSON (Ada); one object a line"),
    ],
)
def test_a_wrong_row_is_named_with_its_remedy(tmp_path, row, told):
    with pytest.raises(ValueError) as error:
        read_tagged(written(tmp_path, GOOD, row), ["x", "y"])
    assert str(error.value).startswith("my.jsonl, row 2: ") and told in str(error.value)
    assert "\n" not in str(error.value)
    assert read_tagged(written(tmp_path, GOOD, GOOD), ["x", "y"]) == [GOOD, GOOD]


def test_wrong_encoding_and_broken_json_are_named(tmp_path):
    path = tmp_path / "old.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + '\n{"tokens": ["café"]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^old.jsonl, row 2: byte 0xe9 is not UTF-8; save"):
        read_tagged(path, ["x"])
    path.write_text(json.dumps(GOOD) + "\n{'tokens': 1}\n")
    with pytest.raises(ValueError, match=r"^old.jsonl, row 2: not JSON .*; one object a line$"):
        read_tagged(path, ["x"])


def test_a_file_of_one_class_is_refused(tmp_path):
    nothing = GOOD | {"tags": ["O", "O"]}
    with pytest.raises(
        ValueError, match=r"^my.jsonl: 2 rows and no entity, all labels are O; label"
    ):
        read_tagged(written(tmp_path, nothing, nothing), ["x"])
    assert len(read_tagged(written(tmp_path, nothing, GOOD), ["x"])) == 2  # a sentence may be empty
    with pytest.raises(ValueError, match="train: 0 rows and no entity"):
        check_rows([], LABELS, "train")
    with pytest.raises(ValueError, match="train, row 2: 2 tokens, 1 tags"):
        check_rows([GOOD, GOOD | {"tags": ["O"]}], LABELS, "train")


def test_a_learnt_sentence_cannot_judge():
    same = {"tokens": ["ADA", "met", "!"], "tags": ["B-x", "O", "O"]}
    other = {"tokens": ["Bob"], "tags": ["B-x"]}
    refuse_leaks([GOOD], [other], "test.jsonl")
    with pytest.raises(ValueError, match=r"^test.jsonl, row 2: the same sentence is in train"):
        refuse_leaks([GOOD], [other, same], "test.jsonl")
    with pytest.raises(ValueError, match="and 1 more"):
        refuse_leaks([GOOD], [same, same], "test.jsonl")


# ── where labels come from ────────────────────────────────────────────────────────────────────────


def test_roles_become_labels_and_leave_no_trace():
    words, tags = role_sentence("See :class:`~a.b.C`, :func:`the sum <a.sum>` or :ref:`x`.")
    assert words == ["See", "C", ",", "the", "sum", "or", "x", "."]
    assert spans(tags) == [("class", 1, 2), ("function", 3, 5)]
    assert role_sentence(":meth:`!a.go()`")[0] == ["a", ".", "go"]
    text = "One :class:`A`. Two.\n\n    >>> A()\n\n.. note:: no\n\nThree\nfour."
    assert sentences_of(text) == ["One :class:`A`.", "Two.", "Three four."]


def test_a_pattern_never_crosses_splits():
    rows = role_rows(("jinja2",))
    assert rows and {"train"} <= {row["split"] for row in rows}
    places = {}
    for row in rows:
        assert len(row["tokens"]) == len(row["tags"]) and repair(row["tags"])[1] == 0
        assert not re.search(r":\w+:`", " ".join(row["tokens"]))
        places.setdefault(pattern_of(row["tokens"], row["tags"]), set()).add(row["split"])
    assert all(len(found) == 1 for found in places.values())
    assert rows == role_rows(("jinja2",))
    shares = [split_of(str(i)) for i in range(2000)]
    assert 0.7 < shares.count("train") / 2000 < 0.8 and shares.count("test") > 150


def test_frames_are_labelled_character_by_character():
    rng = np.random.default_rng(0)
    row = fill_frame("{PER}爱{LOC}", {"PER": ["王伟"], "LOC": ["伦敦"]}, rng)
    assert row == {"tokens": list("王伟爱伦敦"), "tags": ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]}
    known, everything = chinese_names("train"), chinese_names("test")
    for kind, names in known.items():
        assert set(names) < set(everything[kind])
    check_row(row, tag_names(["LOC", "ORG", "PER"]), "here")


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


def luminance(colour):
    "Relative luminance (WCAG 2)."
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_every_tint_can_be_read():
    assert all((luminance(tint) + 0.05) / 0.05 >= 7 for tint in TINTS)
    assert len(set(TINTS)) == len(TINTS)


def test_the_page_escapes_marks_and_explains():
    words, found = [["<script>", "Ada", "&", "Co", "left"]], [[("x<y", 1, 4)]]
    page = highlighted(words, found, ["x<y", "z"])
    assert "<script>" not in page and "&lt;script&gt;" in page and "x<y" not in page
    assert page.count("<mark") == 3 and "Legend" in page  # one find, two in the legend
    assert "Ada &amp; Co <small>x&lt;y</small></mark> left" in page
    assert "王伟" in highlighted([list("王伟来")], [[("z", 0, 2)]], ["z"], joiner="")
