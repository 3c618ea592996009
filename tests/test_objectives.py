"""Packing, masking and counting of chapter 07: what a notebook would be too long to show."""

import json

import numpy as np
import pytest
import torch

from llmchain.pretrain.objectives import (
    CausalObjective,
    MaskedObjective,
    Seq2SeqObjective,
    batch_indices,
    causal_labels,
    causal_lm_sums,
    clm_batch,
    cross_entropy,
    exchange_order,
    exchange_seconds,
    fit_pair,
    load_clm,
    load_mlm,
    mask_tokens,
    mlm_batch,
    mse,
    number_documents,
    pack_pairs,
    pack_stream,
    pair_labels,
    random_spans,
    scored_positions,
    sentence_pairs,
    seq2seq_sums,
    shift_right,
    split_sentences,
    whole_words,
    z_loss,
)

META = {"special_ids": [0, 1, 2, 3, 4], "mask_token_id": 4, "vocab_size": 500, "pad_token_id": 0}


def within(share: float, rate: float, n: int) -> bool:
    """Within four standard errors of a binomial share."""
    return abs(share - rate) < 4 * (rate * (1 - rate) / n) ** 0.5


@pytest.fixture(scope="module")
def pairs() -> list:
    """True pairs: token = 100 × document + sentence, so that origins can be read off."""
    documents = [[[100 * d + s] * (3 + (d * s) % 7) for s in range(9)] for d in range(1, 60)]
    return sentence_pairs(documents, 29, np.random.default_rng(0))


def test_mask_shares():
    n = 1_000_000
    ids = torch.randint(5, 500, (n,), generator=torch.Generator().manual_seed(1))
    out, labels = mask_tokens(ids, range(5), 4, 500, torch.Generator().manual_seed(2))
    chosen = labels != -100
    k = int(chosen.sum())
    assert within(k / n, 0.15, n)
    assert within(int((out[chosen] == 4).sum()) / k, 0.8, k)
    assert within(int((out[chosen] == ids[chosen]).sum()) / k, 0.1 + 0.1 / 495, k)
    assert (out[~chosen] == ids[~chosen]).all() and (labels[chosen] == ids[chosen]).all()


def test_mask_leaves_special_tokens_alone():
    ids = torch.randint(0, 10, (100_000,), generator=torch.Generator().manual_seed(1))
    out, labels = mask_tokens(ids, range(5), 4, 10, torch.Generator().manual_seed(2), rate=1.0)
    special = ids < 5
    assert (labels[special] == -100).all() and (out[special] == ids[special]).all()
    assert (labels[~special] != -100).all()
    assert (out[~special] >= 4).all()  # a random token is an ordinary one


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_mask_rates_at_the_ends(rate):
    ids = torch.full((50,), 7)
    labels = mask_tokens(ids, [0], 1, 20, torch.Generator().manual_seed(0), rate)[1]
    assert int((labels != -100).sum()) == 50 * rate
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        mask_tokens(ids, [0], 1, 20, torch.Generator(), 1.5)


def test_mask_shares_are_those_of_the_collator():
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(495))]
    backend = Tokenizer(models.WordPiece({t: i for i, t in enumerate(names)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]"
    )
    collator = DataCollatorForLanguageModeling(tokenizer, seed=0)
    ids = torch.randint(5, 500, (200, 1000), generator=torch.Generator().manual_seed(1))
    theirs = collator([{"input_ids": row} for row in ids])
    out, labels = mask_tokens(ids, range(5), 4, 500, torch.Generator().manual_seed(2))
    for o, lab in ((theirs["input_ids"], theirs["labels"]), (out, labels)):
        k = int((lab != -100).sum())
        assert within(k / ids.numel(), 0.15, ids.numel())
        assert within(int((o[lab != -100] == 4).sum()) / k, 0.8, k)


def test_causal_shift_happens_once():
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    perfect = torch.full((1, 5, 6), -50.0)
    perfect[0, torch.arange(4), ids[0, 1:]] = 50.0  # position t knows token t + 1
    nats, count = causal_lm_sums(perfect, ids)
    assert float(nats) == 0 and int(count) == 4


def test_padding_changes_nothing():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 9, dtype=torch.float64, generator=g)
    ids = torch.randint(9, (2, 6), generator=g)
    alone = causal_lm_sums(logits[:, :4], ids[:, :4])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    padded = causal_lm_sums(logits, ids, mask)
    left = causal_lm_sums(logits.roll(2, 1), ids.roll(2, 1), mask.roll(2, 1))
    for nats, count in (padded, left):
        assert int(count) == int(alone[1]) == 6
        torch.testing.assert_close(nats, alone[0], atol=1e-12, rtol=0)
    assert CausalObjective().counts({"input_ids": ids, "attention_mask": mask}) == {"clm": 6}


def test_nothing_counted_gives_zero_and_zero_gradient():
    logits = torch.randn(4, 7, requires_grad=True)
    nats, count = cross_entropy(logits, torch.full((4,), -100))
    nats.backward()
    assert float(nats.detach()) == 0 and int(count) == 0 and float(logits.grad.abs().sum()) == 0


def test_half_precision_logits_are_summed_in_single():
    logits = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.arange(8)
    assert cross_entropy(logits, labels)[0].dtype == torch.float32


def test_splitting_a_batch_changes_nothing():
    g = torch.Generator().manual_seed(0)
    table = torch.randn(50, 50, dtype=torch.float64, generator=g)
    ids = torch.randint(5, 50, (6, 8), generator=g)
    labels = ids.masked_fill(torch.rand(6, 8, generator=g) > 0.3, -100)
    labels[4:] = -100  # the last micro-batch asks nothing

    def model(x, types, mask, positions):
        return table[x.flatten()[positions]], table[x[:, 0], :2]

    batch = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "next_sentence_label": torch.tensor([0, 1, 0, 1, 1, -100]),
    }
    objective = MaskedObjective()
    parts = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2, 4)]
    whole, pieces = objective.sums(model, batch), [objective.sums(model, p) for p in parts]
    for term in ("mlm", "nsp"):
        torch.testing.assert_close(whole[term], sum(p[term] for p in pieces))
        assert objective.counts(batch)[term] == sum(objective.counts(p)[term] for p in parts)
    assert objective.counts(batch)["nsp"] == 5 and objective.counts(parts[2])["mlm"] == 0


def test_masked_objective_without_nsp():
    batch = {
        "input_ids": torch.ones(2, 3, dtype=torch.long), "token_type_ids": None,
        "attention_mask": None, "labels": torch.full((2, 3), 1),
    }  # fmt: skip

    def model(x, types, mask, positions):
        return torch.zeros(len(positions), 4), None

    assert MaskedObjective().sums(model, batch).keys() == {"mlm"}
    assert MaskedObjective().counts(batch) == {"mlm": 6}


def test_mse_refuses_to_broadcast():
    with pytest.raises(ValueError, match="same shape"):
        mse(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize("n_tokens", [101, 105])
def test_an_epoch_predicts_every_token_once(n_tokens):
    stream = np.arange(n_tokens, dtype=np.uint16)
    rows = torch.cat([clm_batch(stream, s, 2, 11, 0)["input_ids"] for s in range(5)])
    assert sorted(rows[:, 1:].flatten().tolist()) == list(range(1, 101))
    assert (rows[:, 1:] - rows[:, :-1] == 1).all()


def test_batches_are_functions_of_step_and_seed():
    first = [batch_indices(7, s, 3, 0).tolist() for s in range(7)]
    assert first == [batch_indices(7, s, 3, 0).tolist() for s in reversed(range(7))][::-1]
    for epoch in np.array(first).reshape(-1, 7):  # also across the border of a step
        assert sorted(epoch.tolist()) == list(range(7))
    assert first != [batch_indices(7, s, 3, 1).tolist() for s in range(7)]
    with pytest.raises(ValueError, match="no items"):
        batch_indices(0, 0, 1, 0)


def test_mlm_batch_draws_new_masks(pairs):
    exchanged, label = exchange_seconds(pairs, 29, np.random.default_rng(1))
    ids, types = pack_pairs(exchanged, 32, 2, 3, 0)
    ids = np.where(ids > 4, ids % 400 + 5, ids).astype(np.uint16)
    arrays = {"input_ids": ids, "token_type_ids": types, "next_sentence_label": label}
    n = len(ids)
    one, two = (mlm_batch(arrays, s, n, 5, META) for s in (0, 1))  # two epochs, all pairs each
    again = mlm_batch(arrays, 0, n, 5, META)
    assert all(torch.equal(one[k], again[k]) for k in one)
    rows = np.argsort(batch_indices(n, 0, n, 5)), np.argsort(batch_indices(n, 1, n, 5))
    assert not torch.equal(one["labels"][rows[0]], two["labels"][rows[1]])
    asked = [mlm_batch(arrays, s, n, 5, META, rate=0.5)["labels"] != -100 for s in (0, 1)]
    both = [mlm_batch(arrays, s, n, 5, META, rate=1.0)["labels"] != -100 for s in (0, 1)]
    where = both[0] & both[1]  # ordinary tokens at the same place of both batches
    assert not torch.equal(asked[0][where], asked[1][where])  # the draws differ, not only the rows
    intact = torch.where(one["labels"] != -100, one["labels"], one["input_ids"])
    assert torch.equal(intact[rows[0]], torch.from_numpy(ids.astype(np.int64)))
    assert torch.equal(one["attention_mask"] == 0, intact == 0)


def test_stream():
    assert pack_stream([], 0).tolist() == []
    assert pack_stream([[], [9]], 0).tolist() == [0, 9, 0]
    with pytest.raises(ValueError, match="16 bits"):
        pack_stream([[65536]], 0)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there. How are you? Fine!", ["Hello there.", "How are you?", "Fine!"]),
        ("Version 3.2 of a.b.c, e.g. This one.", ["Version 3.2 of a.b.c, e.g. This one."]),
        ("你好。再见！真的？是的", ["你好。", "再见！", "真的？", "是的"]),
        ("他说：“走吧。”大家走了。", ["他说：“走吧。”", "大家走了。"]),
        ("什么？！真的。", ["什么？！", "真的。"]),
        ("English ends. 中文开始。End.", ["English ends.", "中文开始。", "End."]),
        ("one\ntwo\n\nthree\n* four\n* five", ["one two", "three", "* four", "* five"]),
        ("  \n\n ", []),
    ],
)  # fmt: skip
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_fit_pair_keeps_what_touches():
    a, b = list(range(20)), list(range(100, 120))
    assert fit_pair(a, b, 10) == ([15, 16, 17, 18, 19], [100, 101, 102, 103, 104])
    assert fit_pair(a[:2], b, 10) == ([0, 1], list(range(100, 108)))
    assert fit_pair(a, b[:2], 10) == (list(range(12, 20)), [100, 101])
    assert fit_pair(a[:3], b[:3], 10) == ([0, 1, 2], [100, 101, 102])


def test_true_pairs_are_neighbours(pairs):
    assert pairs
    for document, a, b in pairs:
        assert {t // 100 for t in a + b} == {document + 1}
        assert 1 <= len(a) and 1 <= len(b) and len(a) + len(b) <= 29
        assert b[0] - a[-1] == 1  # the next sentence


def test_exchanged_pairs(pairs):
    out, label = exchange_seconds(pairs, 29, np.random.default_rng(1))
    assert label.sum() == len(pairs) // 2
    for (a, b), lab in zip(out, label, strict=True):
        assert (a[0] // 100 == b[0] // 100) == (lab == 0)  # 0: B follows A
        assert len(a) + len(b) <= 29
    starts = sorted(b[0] for _, b in out)
    assert starts == sorted(b[0] for _, _, b in pairs)  # every B is used exactly once


def test_one_document_has_no_false_pairs():
    pairs = sentence_pairs([[[5]] * 12], 4, np.random.default_rng(0))
    assert exchange_seconds(pairs, 4, np.random.default_rng(0))[1].sum() == 0


def test_packed_pair():
    ids, types = pack_pairs([([7, 8], [9])], 8, 2, 3, 0)
    assert ids.tolist() == [[2, 7, 8, 3, 9, 3, 0, 0]]
    assert types.tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="needs 6 places, has 5"):
        pack_pairs([([7, 8], [9])], 5, 2, 3, 0)


# ---------------------------------------------------------------- documents in one block


def test_the_first_token_of_the_next_document_is_not_asked_for():
    ids = torch.tensor([[5, 6, 0, 7, 0, 8, 9]])
    which = number_documents(ids, 0)
    assert which.tolist() == [[0, 0, 0, 1, 1, 2, 2]]
    assert causal_labels(ids, None, which).tolist() == [[6, 0, -100, 0, -100, 9]]
    assert CausalObjective().counts({"input_ids": ids, "document_ids": which}) == {"clm": 4}
    which[0, 5:] = -1  # padding
    assert causal_labels(ids, None, which).tolist() == [[6, 0, -100, 0, -100, -100]]


def test_the_end_of_a_document_belongs_to_it():
    ids = torch.tensor([[3, 0, 0, 4, 5], [0, 3, 4, 5, 6]])
    assert number_documents(ids, 0).tolist() == [[0, 0, 1, 2, 2], [0, 1, 1, 1, 1]]


def test_a_target_is_counted_without_its_padding():
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    assert Seq2SeqObjective().counts({"labels": labels}) == {"seq2seq": 4}


def test_a_batch_of_the_stream_knows_its_documents():
    stream = pack_stream([[5] * n for n in (3, 1, 8, 2)], 0)
    plain, apart = clm_batch(stream, 0, 2, 6, 1), clm_batch(stream, 0, 2, 6, 1, eos_token_id=0)
    assert set(plain) == {"input_ids"} and torch.equal(plain["input_ids"], apart["input_ids"])
    assert torch.equal(apart["document_ids"], number_documents(plain["input_ids"], 0))


# ---------------------------------------------------------------- words, spans, order, targets


def test_pieces_of_a_word_share_their_fate():
    continues = torch.zeros(30, dtype=torch.bool)
    continues[20:] = True
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 30, (400, 40), generator=generator)
    groups = whole_words(ids, continues)
    _, labels = mask_tokens(ids, range(5), 4, 30, generator, 0.3, groups)
    inside = continues[ids[:, 1:]]
    asked = labels != -100
    assert (asked[:, 1:] == asked[:, :-1])[inside].all() and inside.any()
    assert not (asked[:, 1:] == asked[:, :-1])[~inside].all()
    assert abs(asked.double().mean() - 0.3) < 0.02, "the share is that of single tokens"


def test_masking_without_groups_is_what_it_was():
    ids = torch.randint(5, 500, (50, 20), generator=torch.Generator().manual_seed(0))
    each = torch.arange(20).expand(50, 20)
    drawn = [
        mask_tokens(ids, range(5), 4, 500, torch.Generator().manual_seed(1), 0.2, g)
        for g in (None, each)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


def test_span_lengths_are_geometric_and_cut_at_the_longest():
    spans = random_spans((300, 400), torch.Generator().manual_seed(0), 0.2, 10)
    counts = torch.cat([row.unique(return_counts=True)[1][:-1] for row in spans])  # the last is cut
    share = counts.bincount(minlength=11)[1:].double() / len(counts)
    expected = torch.tensor([0.2 * 0.8 ** (n - 1) for n in range(1, 10)] + [0.8**9]).double()
    assert counts.max() == 10 and (share - expected).abs().max() < 0.01
    assert (random_spans((2, 5), torch.Generator().manual_seed(0), 1.0) == torch.arange(5)).all()


@pytest.mark.parametrize("p, longest", [(0.0, 10), (1.5, 10), (0.2, 0)])
def test_impossible_spans_are_refused(p, longest):
    with pytest.raises(ValueError, match="random_spans: needs 0 < p <= 1 and longest >= 1"):
        random_spans((4,), torch.Generator(), p, longest)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_a_turned_pair_holds_the_same_tokens(n):
    true = [(d, [100 * d, 100 * d + 1], [100 * d + 2]) for d in range(n)]
    out, label = exchange_order(true, np.random.default_rng(0))
    assert label.sum() == n // 2
    for (_, a, b), found, turned in zip(true, out, label, strict=True):
        assert found == ((b, a) if turned else (a, b))


def test_the_decoder_reads_one_token_behind():
    labels = torch.tensor([[7, 8, 9], [5, -100, -100]])
    assert shift_right(labels, 1, 0).tolist() == [[1, 7, 8], [1, 5, 0]]
    logits = torch.zeros(2, 3, 12)
    logits[0, 0, 7] = 50.0  # the first target token counts, and at its own place
    nats, count = seq2seq_sums(logits, labels)
    assert int(count) == 4 and float(nats) == pytest.approx(3 * np.log(12), abs=1e-4)


def test_z_loss_counts_what_is_asked():
    logits = torch.tensor([[0.0, 0.0], [9.0, 9.0], [1.0, 1.0]])
    nats, count = z_loss(logits, torch.tensor([0, -100, 1]))
    assert int(count) == 2
    assert float(nats) == pytest.approx(np.log(2) ** 2 + (1 + np.log(2)) ** 2, abs=1e-5)


# ---------------------------------------------------------------- bad input


def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="no items; the split is empty or shorter than one block"):
        clm_batch(np.zeros(0, dtype=np.uint16), 0, 2, 8, 0)
    with pytest.raises(ValueError, match="no items"):
        mlm_batch({"input_ids": np.zeros((0, 8))}, 0, 2, 0, META)


def test_a_vocabulary_of_special_tokens_is_refused():
    with pytest.raises(ValueError, match="all 5 tokens are special"):
        mask_tokens(torch.tensor([1, 2]), range(5), 4, 5, torch.Generator())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="rate must lie between 0 and 1"):
        mask_tokens(torch.tensor([7]), range(5), 4, 50, torch.Generator(), rate)


@pytest.mark.parametrize("labels", [[[-100] * 4] * 2, [[7] * 4] * 2], ids=["none", "all"])
def test_none_or_all_masked(labels):
    "Nothing asked: sum, count and gradient 0. Everything asked: the plain mean."
    labels = torch.tensor(labels)
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch = {"input_ids": labels.clamp(min=0), "token_type_ids": labels * 0, "labels": labels}
    batch["attention_mask"] = torch.ones_like(labels)

    def model(ids, types, mask, positions):
        return logits.flatten(0, 1)[positions], torch.zeros(2, 2)

    nats, count = (
        MaskedObjective().sums(model, batch)["mlm"],
        MaskedObjective().counts(batch)["mlm"],
    )
    (gradient,) = torch.autograd.grad(nats, logits)
    assert count == int((labels != -100).sum())
    if count:
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert float((nats / count - expected).detach().abs()) < 1e-6
    else:
        assert float(nats.detach()) == 0 and float(gradient.abs().sum()) == 0


def test_labels_of_packed_pairs_lie_at_their_first_tokens():
    which = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 0, 0, 0, -1, -1], [3, 3, 4, 4, 4, 4]])
    labels = torch.full_like(which, -100)
    labels[0, 0], labels[0, 4], labels[1, 0], labels[2, 2] = 1, 0, 1, 0  # two are not asked
    wanted = [1, -100, 0, 1, -100, 0]
    assert pair_labels(labels, which).tolist() == wanted
    assert pair_labels(labels[:1], which[:1]).tolist() == wanted[:3]
    batch = {"labels": labels, "next_sentence_label": labels, "document_ids": which}
    assert MaskedObjective().counts(batch)["nsp"] == 4
    for bad in (torch.tensor(wanted), labels.masked_fill(which == -1, 1), labels[:, :5]):
        with pytest.raises(
            ValueError, match=r"pair_labels: packed pairs want a label of shape \(3, 6\)"
        ):
            pair_labels(bad, which)


@pytest.mark.parametrize("mask_id", [-1, 30, 99])
def test_a_mask_that_is_no_token_of_the_model_is_refused(mask_id):
    with pytest.raises(ValueError, match=f"mask_id must be from 0 to 29, got {mask_id}"):
        mask_tokens(torch.ones(2, 8, dtype=torch.long), [0], mask_id, 30, torch.Generator())


def test_a_batch_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        clm_batch(np.arange(90, dtype=np.uint16), 0, 0, 8, 0)


def test_each_split_is_read_from_its_own_file(tmp_path):
    """A loss that is "held out" and read from train falls with memory."""
    (tmp_path / "meta.json").write_text(json.dumps({"vocab_size": 9}))
    for number, split in enumerate(("train", "validation", "test")):
        np.save(tmp_path / f"{split}.npy", np.full(5, number, np.uint16))
        for name in ("input_ids", "token_type_ids", "next_sentence_label"):
            np.save(tmp_path / f"{split}_{name}.npy", np.full((2, 3), number, np.uint16))
    for number, split in enumerate(("train", "validation", "test")):
        stream, meta = load_clm(tmp_path, split)
        assert stream.tolist() == [number] * 5 and meta == {"vocab_size": 9}
        arrays, _ = load_mlm(tmp_path, split)
        assert all((values == number).all() for values in arrays.values())


@pytest.mark.parametrize("n_asked", [0, 1, 63, 64, 65])
def test_scored_positions_are_filled_to_few_shapes(n_asked):
    labels = torch.full((10, 20), -100)
    chosen = torch.randperm(200, generator=torch.Generator().manual_seed(n_asked))[:n_asked]
    labels.view(-1)[chosen] = chosen + 7
    positions, asked = scored_positions(labels)
    assert positions.shape == asked.shape and len(positions) == -(-n_asked // 64) * 64
    assert torch.equal(positions[:n_asked], chosen.sort().values)
    assert torch.equal(asked[:n_asked], positions[:n_asked] + 7)
    assert (asked[n_asked:] == -100).all() and (positions[n_asked:] == 0).all()
