"""Translation: pairs without leaks, batches of tokens, a search that is exact, scores, and what is refused."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from llmchain.finetune.translation import (
    EOS,
    LONGEST,
    PAD,
    SLOTS,
    Finished,
    SourceReader,
    TranslationObjective,
    beam_search,
    bleu,
    bleu_counts,
    check_pair,
    chrf,
    chrf_counts,
    count_kept,
    cut,
    encode_sides,
    error_kinds,
    gettext_pairs,
    hide,
    ibm_model_1,
    load_course_translator,
    look_up,
    next_token_probabilities,
    pair_batch,
    pair_epochs,
    pair_groups,
    pair_padding,
    pattern,
    placeholders,
    ranked,
    read_pairs,
    refuse_leaks,
    reveal,
    safe_or_source,
    save_translator,
    shared_bpe,
    signature,
    split_groups,
    split_words,
    token_batches,
    translate,
    translator_config,
)
from llmchain.pretrain.objectives import seq2seq_sums
from llmchain.pretrain.transformer import EncoderDecoder

MESSAGES = [
    "Open the file",
    "打开文件",
    "Save %s as {name}",
    "将 %s 另存为 {name}",
    "Close",
    "关闭",
]


def small_bpe():
    return shared_bpe([hide(text)[0] for text in MESSAGES] * 3, 290)


def small_model(seed=0, vocab_size=290, block_size=24):
    "Random weights that are loud, so that nothing hides in their smallness."
    generator = torch.Generator().manual_seed(seed)
    config = translator_config(vocab_size, block_size, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
    model = EncoderDecoder(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5).add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def drawn_pairs(n, seed=0, vocab_size=290):
    rng = np.random.default_rng(seed)
    side = lambda: [*rng.integers(2, vocab_size, rng.integers(1, 9)).tolist(), EOS]  # noqa: E731
    return [(side(), side()) for _ in range(n)]


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────


def test_messages_of_the_environment_are_pairs_of_two_languages():
    rows = gettext_pairs()
    assert len(rows) > 3000 and len({(r["en"], r["zh"]) for r in rows}) == len(rows)
    assert rows == gettext_pairs()
    assert {"Close": "关闭"}.items() <= {r["en"]: r["zh"] for r in rows if len(r["en"]) < 9}.items()
    for row in rows:
        check_pair(row, row["where"])
        assert row["en"].isascii() or not any("\u4e00" <= c <= "\u9fff" for c in row["en"])
        assert any("\u3400" <= c <= "\u9fff" for c in row["zh"])


def test_no_package_is_an_error_with_a_remedy():
    with pytest.raises(FileNotFoundError, match=r"no catalogue in nothing; pip install"):
        gettext_pairs(["nothing"])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"en": "Close"}, "pairs.jsonl, row 2: no `zh`; give both sides, or delete the row"),
        ({"en": "", "zh": "关闭"}, "row 2: `en` is empty; delete the row"),
        ({"en": "Close", "zh": " \n"}, "row 2: `zh` is empty"),
        ({"en": float("nan"), "zh": "关闭"}, "row 2: `en` is nan, not a text"),
        ({"en": 3, "zh": "关闭"}, "row 2: `en` is 3, not a text"),
        ({"en": "x" * 100_000, "zh": "关闭"}, "has 100,000 characters, at most 2,000"),
        ({"en": "Close", "zh": "关\ufffd"}, "holds U.FFFD; it was decoded with the wrong table"),
        ({"en": "Close", "zh": f"关{SLOTS[3]}"}, "holds U.E003, which is no character"),
        ({"en": "Close", "zh": "关\ud800"}, "holds U.D800, which is no character"),
    ],
)
def test_bad_pairs_are_refused_by_file_and_row(tmp_path, row, told):
    path = tmp_path / "pairs.jsonl"
    good = {"en": "Open", "zh": "打开"}
    path.write_text("".join(json.dumps(r) + "\n" for r in (good, row)), encoding="utf-8")
    with pytest.raises(ValueError, match=told):
        read_pairs(path)


def test_files_in_another_encoding_or_form_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes("en,zh\nClose,关闭\n".encode("gb18030"))
    with pytest.raises(ValueError, match="pairs.csv, row 2: byte 0xb9 is not UTF-8; save the file"):
        read_pairs(path)
    path.write_text("en,zh\nClose, all,关闭\n", encoding="utf-8")
    with pytest.raises(ValueError, match="row 2: its fields are not the header's 2"):
        read_pairs(path)
    path.write_text("en,zh\n", encoding="utf-8")
    with pytest.raises(ValueError, match="pairs.csv: no row; give at least one pair"):
        read_pairs(path)
    path.write_text(f"en,zh\n{'x' * LONGEST},关闭\n", encoding="utf-8")
    assert read_pairs(path)[0]["where"] == "pairs.csv, row 2"


ROWS = [
    {"en": "Loaded 3 files", "zh": "已加载 3 个文件", "where": "a, row 1"},
    {"en": "loaded %d files.", "zh": "文件已载入", "where": "a, row 2"},
    {"en": "Files were loaded", "zh": "文件已载入！", "where": "a, row 3"},
    {"en": "Close", "zh": "关闭", "where": "a, row 4"},
]


def test_rows_that_share_a_source_or_a_target_are_one_group():
    assert pair_groups(ROWS).tolist() == [0, 0, 0, 3]
    assert pattern("Loaded 3 files") == pattern("loaded %d files.") == "loaded files"
    assert pattern("…") == "…"


def test_near_duplicates_are_one_group():
    long = "the quick brown fox jumps over the lazy dog near the bank of the river"
    rows = [{"en": long, "zh": "甲"}, {"en": long + " today", "zh": "乙"}, {"en": "no", "zh": "丙"}]
    assert pair_groups(rows).tolist() == [0, 0, 2]


def test_no_group_is_torn_apart_by_the_split():
    rows = gettext_pairs()[:1500]
    groups = pair_groups(rows)
    splits, left_out = split_groups(rows, groups)
    assert left_out == 0 and sum(map(len, splits.values())) == len(rows)
    where = {r["where"]: name for name, found in splits.items() for r in found}
    by_group = {}
    for row, g in zip(rows, groups.tolist(), strict=True):
        by_group.setdefault(g, set()).add(where[row["where"]])
    assert all(len(names) == 1 for names in by_group.values())
    assert all(len(found) > 50 for found in splits.values())
    refuse_leaks(splits["train"], splits["test"])


def test_given_splits_lose_what_stands_in_a_later_one():
    rows = [
        r | {"split": s} for r, s in zip(ROWS, ("train", "train", "test", "train"), strict=True)
    ]
    splits, left_out = split_groups(rows, pair_groups(rows))
    assert left_out == 2 and [len(splits[s]) for s in ("train", "validation", "test")] == [1, 0, 1]


@pytest.mark.parametrize("side", ["en", "zh"])
def test_a_test_row_that_was_learnt_is_refused_on_either_side(side):
    twin = {"en": "New", "zh": "新", "where": "b, row 7"} | {side: ROWS[3][side] + "!"}
    with pytest.raises(ValueError, match=f"b, row 7: its `{side}` is in training too .a, row 4"):
        refuse_leaks(ROWS, [twin])


# ── placeholders ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%s of %(total)d", ["%s", "%(total)d"]),
        ("{} {0} {name} {a.b} {x!r}", ["{}", "{0}", "{name}", "{a.b}", "{x!r}"]),
        ("a &amp; b &#39;", ["&amp;", "&#39;"]),
        ("<b>x</b> <a href='y'>", ["<b>", "</b>", "<a href='y'>"]),
        ("see https://x.org/a?b=1。好", ["https://x.org/a?b=1"]),
        ("run `pip`, %1 and %.2f", ["`pip`", "%1", "%.2f"]),
        ("50% sure, 1 < 2 and 3 > 2, R&D, {not this one}", []),
    ],
)
def test_what_a_placeholder_is(text, found):
    assert placeholders(text) == found


def test_hiding_is_undone_and_the_order_is_free():
    text = "Moved %s to {b} and %s back"
    hidden, known = hide(text)
    assert known == ["%s", "{b}"] and reveal(hidden, known) == text
    assert hide("{b} 和 %s 和 %d", known)[0] == f"{SLOTS[1]} 和 {SLOTS[0]} 和 %d"
    assert reveal(SLOTS[5], known) == ""
    many = " ".join(f"{{x{i}}}" for i in range(11))
    assert reveal(*hide(many)) == many and len(hide(many)[1]) == len(SLOTS)
    with pytest.raises(ValueError, match="U.E000"):
        hide(SLOTS[0])


def test_kept_lost_and_invented_are_counted_by_occurrence():
    assert count_kept(["%s %s {a}", "x"], ["%s {a} {a}", "%d"]) == (2, 3, 2)
    safe, n_refused = safe_or_source(["%s a", "b"], ["无", "乙"])
    assert safe == ["%s a", "乙"] and n_refused == 1


# ── batches ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_hold_each_place_once_and_no_more_tokens_than_asked(shuffled):
    sizes = np.random.default_rng(0).integers(1, 30, (300, 1)) + np.array([[0, 2]])
    rng = np.random.default_rng(1) if shuffled else None
    batches = token_batches(sizes, 400, rng)
    assert sorted(np.concatenate(batches).tolist()) == list(range(300))
    places = [len(b) * int(sizes[b].max(0).sum()) for b in batches]
    assert max(places) <= 400 and np.mean(places) > 250
    chance = np.array_split(np.random.default_rng(2).permutation(300), len(batches))
    assert pair_padding(sizes, batches) < 0.5 * pair_padding(sizes, chance)


def test_every_epoch_has_as_many_batches_in_another_order():
    sizes = np.random.default_rng(0).integers(1, 30, (300, 2))
    plans = [token_batches(sizes, 400, np.random.default_rng(seed)) for seed in range(5)]
    assert len({len(plan) for plan in plans}) == 1
    assert plans[0][0].tolist() != plans[1][0].tolist()


def test_a_pair_that_fits_no_batch_is_refused():
    with pytest.raises(ValueError, match="a pair of 60 tokens does not fit into 59"):
        token_batches(np.array([[30, 30]]), 59)
    assert token_batches(np.zeros((0, 2), np.int64), 59) == []


def test_what_the_decoder_reads_is_one_place_behind_what_it_is_asked():
    batch = pair_batch([([5, 6, EOS], [8, EOS]), ([7, EOS], [9, 3, EOS])], [0, 1])
    assert batch["input_ids"].tolist() == [[5, 6, EOS], [7, EOS, PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[8, EOS, -100], [9, 3, EOS]]
    assert batch["decoder_input_ids"].tolist() == [[PAD, 8, EOS], [PAD, 9, 3]]


def test_epochs_are_a_pure_function_of_the_step():
    pairs = drawn_pairs(50)
    first, again = pair_epochs(pairs, 120, 3), pair_epochs(pairs, 120, 3)
    steps = [0, 30, 7, 30]
    for step in steps:
        assert torch.equal(first(step)["labels"], again(step)["labels"])


# ── the objective ────────────────────────────────────────────────────────────────────────────────


def test_padding_is_neither_summed_nor_counted():
    model, pairs = small_model(), drawn_pairs(6)
    objective = TranslationObjective(0.1)
    whole = objective.sums(model, pair_batch(pairs, range(6)))["seq2seq"]
    single = [objective.sums(model, pair_batch(pairs, [i]))["seq2seq"] for i in range(6)]
    torch.testing.assert_close(whole, sum(single), atol=1e-3, rtol=1e-5)
    assert objective.counts(pair_batch(pairs, range(6)))["seq2seq"] == sum(len(b) for _, b in pairs)


def test_smoothing_is_that_of_torch_and_a_share():
    model, batch = small_model(), pair_batch(drawn_pairs(6), range(6))
    logits = model(batch["input_ids"], batch["decoder_input_ids"], batch["attention_mask"])
    for eps in (0.0, 0.1, 0.4):
        theirs = nn.CrossEntropyLoss(label_smoothing=eps, reduction="sum")(
            logits.flatten(0, 1), batch["labels"].flatten()
        )
        torch.testing.assert_close(TranslationObjective(eps).sums(model, batch)["seq2seq"], theirs)
    with pytest.raises(ValueError, match="from 0 to under 1, got 1"):
        TranslationObjective(1)


def test_what_a_source_is_padded_with_does_not_matter():
    model, batch = small_model(), pair_batch(drawn_pairs(6), range(6))
    noise = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 77)
    assert not torch.equal(noise, batch["input_ids"])
    a = TranslationObjective().sums(model, batch)["seq2seq"]
    b = TranslationObjective().sums(model, batch | {"input_ids": noise})["seq2seq"]
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-6)


def test_next_token_probabilities_are_of_target_tokens_alone():
    "Each token of each target once, its end included, in whatever batch; what they cost is the loss."
    model, pairs = small_model().train(), drawn_pairs(9)
    p, came = next_token_probabilities(model, pairs, 60)
    assert model.training and p.shape == (sum(len(b) for _, b in pairs), 290)
    assert sorted(came.tolist()) == sorted(t for _, b in pairs for t in b)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    model.eval()
    total = TranslationObjective().sums(model, pair_batch(pairs, range(9)))["seq2seq"]
    assert -np.log(p[np.arange(len(came)), came]).sum() == pytest.approx(
        float(total.detach()), rel=1e-4
    )


# ── the search ───────────────────────────────────────────────────────────────────────────────────


class Table:
    "A network of random numbers, one for each beginning and sentence."

    def __init__(self, seed, n_sentences=1, n_tokens=5):
        self.seed, self.sentences, self.n_tokens = seed, list(range(n_sentences)), n_tokens

    def log_p(self, sentence, beginning):
        key = abs(hash((self.seed, sentence, beginning))) % 2**31
        draw = 1.5 * torch.randn(self.n_tokens, generator=torch.Generator().manual_seed(key))
        return draw.index_fill(0, torch.tensor(PAD), -1e9).log_softmax(0)

    def keep(self, rows):
        self.sentences = [self.sentences[i] for i in rows.tolist()]
        self.seen = [self.seen[i] for i in rows.tolist()]

    def __call__(self, tokens, parents):
        if parents is None:
            self.seen = [[()] * tokens.size(1) for _ in tokens]
        else:
            self.seen = [
                [(*seen[p], t) for p, t in zip(ps, ts, strict=True)]
                for seen, ps, ts in zip(self.seen, parents.tolist(), tokens.tolist(), strict=True)
            ]
        rows = zip(self.sentences, self.seen, strict=True)
        return torch.stack([torch.stack([self.log_p(s, b) for b in seen]) for s, seen in rows])


def exhaustive(table, sentence, n_new, alpha):
    best = ([], -math.inf)
    words = [t for t in range(table.n_tokens) if t not in (EOS, PAD)]
    for n in range(n_new + 1):
        for text in itertools.product(words, repeat=n):
            whole = text if n == n_new else (*text, EOS)
            log_p = sum(float(table.log_p(sentence, whole[:i])[t]) for i, t in enumerate(whole))
            best = max(best, (list(text), log_p / len(whole) ** alpha), key=lambda pair: pair[1])
    return best


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_what_trying_everything_finds(seed, alpha):
    found = beam_search(Table(seed, 3), 3, 64, 3, alpha)
    for sentence, (text, score) in enumerate(found):
        truth = exhaustive(Table(seed, 3), sentence, 3, alpha)
        assert text == truth[0]
        assert score == pytest.approx(truth[1], abs=1e-5)


def test_a_narrow_beam_misses_some_and_a_wider_one_fewer():
    missed = {1: 0, 2: 0, 8: 0}
    for seed in range(30):
        truth = exhaustive(Table(seed), 0, 3, 1.0)[0]
        for width in missed:
            missed[width] += beam_search(Table(seed), 1, width, 3)[0][0] != truth
    assert missed[1] > missed[2] > missed[8]


def test_the_end_is_scored_and_counted():
    class Ending(Table):
        "Ending is unlikely after one token and certain after two."

        def log_p(self, sentence, beginning):
            p = {0: [0.0, 0, 0.6, 0.4], 1: [0.1, 0, 0.9, 0.0]}.get(len(beginning), [1.0, 0, 0, 0])
            return torch.tensor(p).log().clamp(min=-1e9)

    text, score = beam_search(Ending(0, n_tokens=4), 1, 4, 5, 0.0)[0]
    assert text == [2, 2] and score == pytest.approx(math.log(0.6 * 0.9), abs=1e-6)
    _, mean = beam_search(Ending(0, n_tokens=4), 1, 4, 5, 1.0)[0]
    assert mean == pytest.approx(math.log(0.6 * 0.9) / 3, abs=1e-6)  # two tokens and the end


def test_an_end_among_the_best_leaves_room_for_who_goes_on():
    class Early(Table):
        "The end is likeliest at once; the least likely beginning ends for certain."

        def log_p(self, sentence, beginning):
            p = {(): [0.4, 0, 0.35, 0.25], (3,): [1.0, 0, 0, 0]}.get(
                beginning, [0.34, 0, 0.33, 0.33]
            )
            return torch.tensor(p).log().clamp(min=-1e9)

    text, score = beam_search(Early(0, n_tokens=4), 1, 2, 4, 1.2)[0]
    assert text == [3] and score == pytest.approx(math.log(0.25) / 2**1.2, abs=1e-6)


def test_a_larger_penalty_never_shortens():
    lengths = []
    for alpha in (-2.0, 0.0, 1.0, 3.0):
        lengths.append(sum(len(t) for t, _ in beam_search(Table(5, 20), 20, 64, 3, alpha)))
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    assert ranked(torch.tensor(-4.0), 4, 1.0) == -1.0


def test_finished_keeps_the_best_and_the_order():
    finished = Finished(1, 2, 3)
    finished.add(torch.tensor([[[5], [6], [7]]]), torch.tensor([[-3.0, -math.inf, -1.0]]))
    finished.add(torch.tensor([[[8, EOS]]]), torch.tensor([[-2.0]]))
    assert finished.best(0) == ([7], -1.0)
    assert finished.score.tolist() == [[-1.0, -2.0]]


def test_the_cache_gives_what_the_whole_decoder_gives():
    model, pairs = small_model(), drawn_pairs(3, seed=4)
    batch = pair_batch(pairs, range(3))
    source = batch["input_ids"], batch["attention_mask"]
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        reader, written = SourceReader(model, *source, 2, 5), torch.full((3, 2, 1), PAD)
        parents = None
        for t in range(5):
            here = reader(written[..., -1], parents)
            for beam in range(2):
                there = model(source[0], written[:, beam], source[1])[:, -1].log_softmax(-1)
                there[:, PAD] = -math.inf  # never written
                torch.testing.assert_close(here[:, beam], there, atol=1e-4, rtol=1e-4)
            if t == 2:  # the first sentence is done
                rows = torch.tensor([2, 1])
                reader.keep(rows)
                written, source = written[rows], tuple(x[rows] for x in source)
            parents = torch.randint(2, written.shape[:2], generator=generator)
            new = torch.randint(2, 290, (*parents.shape, 1), generator=generator)
            before = written.gather(1, parents[..., None].expand_as(written))
            written = torch.cat([before, new], -1)


def test_translations_do_not_depend_on_company_or_order():
    model, bpe = small_model(block_size=40), small_bpe()
    texts = ["Open the file", "Close", "", "Save it as {name}", "  "]
    together = translate(model, bpe, texts, 3)
    alone = [translate(model, bpe, [text], 3)[0] for text in texts]
    turned = translate(model, bpe, texts[::-1], 3, batch_size=2)[::-1]
    assert together == alone == turned and together[2] == together[4] == ""


def test_a_text_that_is_too_long_is_refused_by_number_or_cut():
    model, bpe = small_model(), small_bpe()
    with pytest.raises(ValueError, match=r"text 1 has [\d,]+ tokens, this model reads at most 24"):
        translate(model, bpe, ["Open", "x" * 100_000])
    assert len(translate(model, bpe, ["Open", "y " * 99], cut=True)) == 2


def test_translating_leaves_the_mode_as_it_was():
    model, bpe = small_model().train(), small_bpe()
    translate(model, bpe, ["Open"])
    assert model.training


# ── the tokenizer ────────────────────────────────────────────────────────────────────────────────


def test_slots_are_tokens_and_every_text_ends():
    bpe = small_bpe()
    ids = bpe.encode(f"打开 {SLOTS[0]}{SLOTS[7]}").ids
    assert ids[-3:] == [bpe.token_to_id(SLOTS[0]), bpe.token_to_id(SLOTS[7]), EOS]
    assert bpe.decode(ids) == f"打开 {SLOTS[0]}{SLOTS[7]}"
    assert bpe.token_to_id("<|endoftext|>") == EOS and bpe.token_to_id("<|pad|>") == PAD


def test_both_sides_hide_the_placeholders_of_the_source():
    rows = [{"en": "Save %s as {name}", "zh": "以 {name} 保存 %s"}]
    bpe = small_bpe()
    ((source, target),) = encode_sides(bpe, rows, ("en", "zh"))
    slots = [bpe.token_to_id(s) for s in SLOTS[:2]]
    assert [i for i in source if i in slots] == slots
    assert [i for i in target if i in slots] == slots[::-1]
    ((target, source),) = encode_sides(bpe, rows, ("zh", "en"))
    assert [i for i in target if i in slots] == slots


# ── scores ───────────────────────────────────────────────────────────────────────────────────────


def test_bleu_by_hand():
    counts = bleu_counts(["the the the the the the the"], ["the cat is on the mat"], "en")
    assert counts[0].tolist() == [7, 6, 2, 0, 0, 0, 7, 6, 5, 4]
    counts = bleu_counts(["a b c d"], ["a b c d e f g h"], "en")
    assert bleu(counts) == pytest.approx(100 * math.exp(1 - 2))  # nothing wrong, half of it missing
    long = bleu_counts(["a b c d e f g h"], ["a b c d"], "en")
    assert bleu(long) == pytest.approx(100 * (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)
    assert bleu(bleu_counts([""], ["a"], "en")) == 0 == bleu(bleu_counts(["x"], ["a"], "en"))


def test_bleu_of_a_set_is_no_mean_of_sentences():
    out, ref = ["a b c d", "x"], ["a b c d", "y y y y"]
    counts = bleu_counts(out, ref, "en")
    assert abs(bleu(counts) - (bleu(counts[:1]) + bleu(counts[1:])) / 2) > 1


def test_the_scorer_cuts_plain_text_itself():
    assert cut("1,000.5 dollars, R&amp;D.", "en") == ["1,000.5", "dollars", ",", "R", "&", "D", "."]
    assert cut("打开JupyterLab，“好”。", "zh") == [*"打开", "JupyterLab", *"，“好”。"]
    with pytest.raises(ValueError, match="2 outputs and 1 references"):
        bleu_counts(["a", "b"], ["a"], "en")


def test_bleu_is_given_plain_text():
    assert bleu(bleu_counts(["保存了所有的文件。"], ["保存所有的文件。"], "zh")) > 40
    ours = bleu_counts(["I see, it works."], ["I see, it worked."], "en")
    assert ours[0, :6].tolist() == [6, 6, 5, 3, 2, 1]


def test_chrf_by_hand():
    assert chrf(chrf_counts(["ab cd"], ["abcd"])) == 100  # white space does not count
    counts = chrf_counts(["ab"], ["abcd"])
    assert counts[0, :6].tolist() == [2, 4, 2, 1, 3, 1]
    recall = (2 / 4 + 1 / 3) / 2
    assert chrf(counts) == pytest.approx(100 * 5 * recall / (4 + recall))
    assert chrf(chrf_counts([""], ["a"])) == 0 == chrf(chrf_counts(["b"], ["a"]))


def test_signatures_name_what_was_done():
    assert signature("bleu", "zh").startswith(
        "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:"
    )
    assert "tok:13a" in signature("bleu", "en") and "nc:6|nw:0" in signature("chrf", "en")


def test_kinds_of_error():
    assert error_kinds("Open %s", "打开文件", "打开 %s", "zh") == ["placeholder lost"]
    alien = error_kinds("Open", "Open", "打开", "zh")
    assert alien == ["untranslated", "nothing in common"]
    assert error_kinds("打开", "Open 开", "Open", "en") == ["untranslated"]
    assert error_kinds("打开", "Open", "Open 开", "en") == []
    assert "stutters" in error_kinds("Open", "打开打开打开", "打开", "zh")
    assert error_kinds("Open", "", "打开", "zh")[0] == "empty"
    assert error_kinds("Open", "打开", "打开", "zh") == []


# ── opponents ────────────────────────────────────────────────────────────────────────────────────

HEARD = [["das", "haus"], ["das", "buch"], ["ein", "buch"]]
WRITTEN = [["the", "house"], ["the", "book"], ["a", "book"]]


def ibm_by_loops(sources, targets, n_rounds):
    "Model 1 as the paper writes it."
    sources = [["", *s] for s in sources]
    words = {e for t in targets for e in t}
    t = {
        (f, e): 1 / len(words)
        for s, tgt in zip(sources, targets, strict=True)
        for f in s
        for e in tgt
    }
    history = []
    for _ in range(n_rounds):
        count, total, log_p = {}, {}, 0.0
        for s, tgt in zip(sources, targets, strict=True):
            for e in tgt:
                norm = sum(t[f, e] for f in s)
                log_p += math.log(norm / len(s))
                for f in s:
                    count[f, e] = count.get((f, e), 0) + t[f, e] / norm
                    total[f] = total.get(f, 0) + t[f, e] / norm
        t = {(f, e): c / total[f] for (f, e), c in count.items()}
        history.append(log_p)
    return t, history


def test_model_1_is_that_of_the_paper():
    table, history = ibm_model_1(HEARD, WRITTEN, 6)
    t, theirs = ibm_by_loops(HEARD, WRITTEN, 6)
    assert history == pytest.approx(theirs)
    for f, (e, p) in table.items():
        assert p == pytest.approx(t[f, e]) and p == pytest.approx(
            max(v for (g, _), v in t.items() if g == f)
        )
    assert (np.diff(history) >= -1e-12).all()


def test_a_dictionary_looks_up_and_keeps_what_it_does_not_know():
    table, _ = ibm_model_1(HEARD, WRITTEN, 20)
    assert look_up(["das", "buch", ".", SLOTS[0], "x"], table, "en") == f"the book. {SLOTS[0]} x"
    assert look_up(["das", "buch"], table, "zh") == "thebook"
    assert split_words(f"Don't save {SLOTS[1]}, OK", "en", list) == [
        "don't",
        "save",
        SLOTS[1],
        ",",
        "ok",
    ]
    assert split_words("打 开", "zh", list) == ["打", "开"]


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def test_a_stored_translator_says_the_same(tmp_path):
    model, bpe = small_model(block_size=40), small_bpe()
    save_translator(tmp_path, model, bpe, ("en", "zh"), 3, 0.6)
    texts = ["Open the file", "Save %s as {name}", ""]
    assert load_course_translator(tmp_path)(texts) == translate(model, bpe, texts, 3, 0.6)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}  # no pickle
    about = json.loads((tmp_path / "translator.json").read_text())
    assert about == {"source": "en", "target": "zh", "n_beams": 3, "length_penalty": 0.6}


def test_a_folder_without_a_translator_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="holds no translator.json; 14_translation makes one"
    ):
        load_course_translator(tmp_path)


def test_label_rows_of_padding_only_count_nothing():
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))
    total, count = seq2seq_sums(logits, torch.full((2, 3), -100), 0.1)
    assert float(total) == 0 and int(count) == 0
