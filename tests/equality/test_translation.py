"""Our search and scores next to those of transformers and, where it is installed, sacreBLEU."""

import random

import numpy as np
import pytest
import sacrebleu
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel

from llmchain.data.augment import back_translate, load_translator
from llmchain.finetune.translation import (
    EOS,
    PAD,
    SLOTS,
    SourceReader,
    beam_search,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    gettext_pairs,
    hide,
    load_course_translator,
    pair_batch,
    placeholders,
    reveal,
    save_translator,
    search_settings,
    shared_bpe,
    signature,
    translator_config,
)
from llmchain.pretrain.transformer import EncoderDecoder, from_hf


def loud_marian(seed=0, vocab_size=60):
    "A Marian with weights so large that it is sure of something else at each place."
    config = MarianConfig(
        vocab_size=vocab_size,
        max_position_embeddings=40,
        d_model=16,
        **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
        activation_function="relu",
        scale_embedding=True,
        dropout=0.0,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MarianMTModel(config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
    model.final_logits_bias[0, EOS] = 3.0  # else hardly any text ends
    return model.eval()


def sources(n, vocab_size=60, seed=0):
    rng = np.random.default_rng(seed)
    return [
        ([*rng.integers(2, vocab_size, rng.integers(1, 12)).tolist(), EOS], [EOS]) for _ in range(n)
    ]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("n_beams", [2, 4, 5])
def test_beam_search_is_that_of_transformers(n_beams, alpha):
    theirs, n_new = loud_marian(), 14
    ours = from_hf(theirs)
    batch = pair_batch(sources(24), range(24))
    given = batch["input_ids"], batch["attention_mask"]
    settings = search_settings(n_beams, alpha, n_new)
    found = theirs.generate(
        given[0],
        attention_mask=given[1],
        **settings,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.inference_mode():
        reader = SourceReader(ours, *given, n_beams, n_new)
    here = beam_search(reader, 24, n_beams, n_new, alpha)
    lengths = set()
    for (text, score), row, their_score in zip(
        here, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True
    ):
        ids = row[1:]
        ids = ids[: ids.index(EOS)] if EOS in ids else ids
        assert text == ids[: len(text)] and set(ids[len(text) :]) <= {PAD}
        assert score == pytest.approx(their_score, abs=1e-4)
        lengths.add(len(text))
    if alpha >= 1:  # with less, these weights prefer the empty text, as many do
        assert len(lengths) > 2


def test_greedy_is_a_beam_of_one():
    theirs = loud_marian(1)
    batch = pair_batch(sources(16, seed=1), range(16))
    given = batch["input_ids"], batch["attention_mask"]
    settings = search_settings(1, 1.0, 14)
    there = theirs.generate(given[0], attention_mask=given[1], **settings)
    with torch.inference_mode():
        reader = SourceReader(from_hf(theirs), *given, 1, 14)
    for (text, _), row in zip(beam_search(reader, 16, 1, 14), there[:, 1:].tolist(), strict=True):
        assert text == (row[: row.index(EOS)] if EOS in row else row)[: len(text)]


def small_translator(tmp_path, n_beams=3, seed=0):
    texts = [t for r in gettext_pairs(["sphinx"])[:300] for t in (r["en"], r["zh"])]
    bpe = shared_bpe([hide(t)[0] for t in texts], 600)
    config = translator_config(600, 48, 2, 2, 16, 0.1)
    model = EncoderDecoder(config, torch.Generator().manual_seed(seed)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    save_translator(tmp_path, model, bpe, ("en", "zh"), n_beams, 1.0)
    return model, bpe


def test_what_is_stored_opens_in_the_library_with_equal_logits(tmp_path):
    model, bpe = small_translator(tmp_path)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, use_safetensors=True).eval()
    assert type(theirs) is MarianMTModel
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["Open the file", "build finished with problems"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert [bpe.encode(t).ids for t in texts] == [
        [i for i in row if i != PAD] for row in batch["input_ids"].tolist()
    ]
    begins = torch.tensor([[PAD, 5, 6, 7]] * 2)
    with torch.inference_mode():
        there = theirs(batch["input_ids"], batch["attention_mask"], decoder_input_ids=begins).logits
        here = model(batch["input_ids"], begins, batch["attention_mask"])
    torch.testing.assert_close(here, there, atol=1e-4, rtol=0)
    settings = theirs.generation_config
    assert (settings.num_beams, settings.max_length, settings.forced_eos_token_id) == (3, 49, None)


SENTENCES = ["Open the file", "build finished with problems", "", "done", "  ", "see also: index"]


def test_back_translation_of_the_course_opens_it(tmp_path):
    "What 05 reads from the folder with the library is what 14 says with its own search, one beam wide."
    small_translator(tmp_path, n_beams=1)
    theirs, ours = load_translator(tmp_path), load_course_translator(tmp_path)
    said = ours(SENTENCES)
    # slots that stand for nothing are dropped by us alone
    assert [reveal(text, []).strip() for text in theirs(SENTENCES)] == said
    assert said[2] == said[4] == "" and len({*said}) > 3  # no two sources alike
    assert load_translator(tmp_path, batch_size=2)(SENTENCES[::-1]) == theirs(SENTENCES)[::-1]


def test_back_translation_goes_there_and_back_and_loses_no_text(tmp_path):
    "Two folders, one for each way: N texts for N, in their order, so that labels stay beside them."
    folders = [tmp_path / way for way in ("there", "back")]
    for seed, folder in enumerate(folders):
        folder.mkdir()
        small_translator(folder, n_beams=1, seed=seed)
    there, back = (load_course_translator(folder, cut=True) for folder in folders)
    whole = back_translate(SENTENCES, there, back)
    assert len(whole) == len(SENTENCES) and whole[2] == "" and whole[4] == "  "
    for text, after in zip(SENTENCES, whole, strict=True):
        assert after == (back(there([text]))[0] or text)  # alone it becomes the same
    library = back_translate(SENTENCES, *(load_translator(folder) for folder in folders))
    assert [bool(text) for text in library] == [bool(text) for text in whole]


def test_back_translation_puts_placeholders_back_and_invents_none(tmp_path):
    "A translator that writes the first slot alone: what comes out is what that slot stood for."
    _, bpe = small_translator(tmp_path, n_beams=2)
    theirs = MarianMTModel.from_pretrained(tmp_path)
    theirs.final_logits_bias[0, bpe.token_to_id(SLOTS[0])] = 200.0  # beats all words
    theirs.save_pretrained(tmp_path)
    texts = ["Save %s as {name}", "{name} is not there", "Open", "see `pip` and %(n)d"]
    said = load_course_translator(tmp_path)(texts)
    for text, out in zip(texts, said, strict=True):
        known = placeholders(text)
        assert {*placeholders(out)} == {*known[:1]} and not {*SLOTS} & {*out}
    assert back_translate(texts, load_course_translator(tmp_path), list)[2] == "Open"  # lost: kept


# ── sacreBLEU: no dependency of the course, compared where it is installed ──────────────────────


def drawn_texts(n=400):
    "Real messages, and the same with words lost, doubled and exchanged."
    rng, rows = random.Random(0), gettext_pairs()
    rows = rng.sample(rows, n)

    def spoilt(text, joiner):
        parts = text.split() if joiner else list(text)
        parts = [p for p in parts if rng.random() > 0.2] + parts[: rng.randrange(3)]
        if rng.random() < 0.3:
            rng.shuffle(parts)
        return joiner.join(parts)

    return {
        "en": ([spoilt(r["en"], " ") for r in rows], [r["en"] for r in rows]),
        "zh": ([spoilt(r["zh"], "") for r in rows], [r["zh"] for r in rows]),
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_bleu_is_that_of_sacrebleu(language):
    out, ref = drawn_texts()[language]
    name = signature("bleu", language).split("tok:")[1].split("|")[0]
    scorer = sacrebleu.BLEU(tokenize=name)
    assert bleu(bleu_counts(out, ref, language)) == pytest.approx(
        scorer.corpus_score(out, [ref]).score, abs=1e-9
    )
    assert signature("bleu", language) == str(scorer.get_signature())
    for some in range(0, 400, 7):  # one sentence, where precisions are 0
        alone = scorer.corpus_score(out[some : some + 1], [ref[some : some + 1]]).score
        counts = bleu_counts(out[some : some + 1], ref[some : some + 1], language)
        assert bleu(counts) == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_chrf_is_that_of_sacrebleu(language):
    out, ref = drawn_texts()[language]
    scorer = sacrebleu.CHRF()
    assert chrf(chrf_counts(out, ref)) == pytest.approx(
        scorer.corpus_score(out, [ref]).score, abs=1e-9
    )
    assert signature("chrf", language) == str(scorer.get_signature())
