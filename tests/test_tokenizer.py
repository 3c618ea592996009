"""Edges of chapter 04's tokenizers; equality with the library is in tests/equality."""

import json

import pytest

from llmchain.data.tokenizer import (
    BPE_ROLES,
    NAME_OF_BYTE,
    WORDPIECE_ROLES,
    WORDPIECE_SPECIAL,
    Encoder,
    bert_words,
    bpe_pieces,
    bpe_words,
    build_bpe,
    build_wordpiece,
    decode_bpe,
    encode_bpe,
    encode_wordpiece,
    load_encoder,
    merge_pair,
    save_tokenizer,
    train_bpe,
    train_merges,
    train_wordpiece,
    word_alphabet,
    wordpiece_ids,
)

TEXTS = [
    "The tokens of the text, the token of the text.",
    "你好，世界。",
    "naïve café — [SEP] x1",
] * 3


@pytest.fixture(scope="module")
def bpe():
    vocab, merges = train_bpe(TEXTS, 300)
    return vocab, {pair: i for i, pair in enumerate(merges)}


def test_names_of_bytes_are_a_bijection():
    assert sorted(NAME_OF_BYTE) == list(range(256)) and len(set(NAME_OF_BYTE.values())) == 256
    assert not any(name.isspace() for name in NAME_OF_BYTE.values())


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n  a", "it's I'LL", "a1b2", "  two  spaces ", "你好 a"]
)
def test_words_join_to_the_text(text):
    assert "".join(bpe_words(text)) == text


def test_merges_by_hand():
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    symbols, merges = train_merges(counts, sorted(set("".join(counts))), 13)
    assert merges == [("e", "s"), ("es", "t"), ("l", "o")]  # 9, 9, 7; ties to smaller ids
    assert symbols[-3:] == ["es", "est", "lo"]


def test_counts_weigh_the_words():
    assert train_merges({"ab": 1, "cd": 9}, list("abcd"), 5)[1] == [("c", "d")]
    assert train_merges({"ab": 4, "cd": 4}, list("dcba"), 5)[1] == [("c", "d")]  # smaller ids


def test_counts_are_kept_up_to_date():
    # after a+b the pair (b, c) is left twice and (x, c) three times
    counts = {"abc": 9, "bc": 2, "xc": 3}
    assert train_merges(counts, list("abcx"), 7)[1] == [("b", "c"), ("a", "bc"), ("x", "c")]


def test_overlapping_pairs():
    assert merge_pair(list("aaaa"), ("a", "a"), "aa") == ["aa", "aa"]
    assert merge_pair([1, 1, 1], (1, 1), 2) == [2, 1]
    assert merge_pair([], (1, 1), 2) == []


def test_earliest_merge_first():
    assert bpe_pieces("baba", {("a", "b"): 0, ("b", "a"): 1}) == ["b", "ab", "a"]
    assert bpe_pieces("baba", {("b", "a"): 0, ("a", "b"): 1}) == ["ba", "ba"]


def test_bpe_loses_nothing_and_knows_everything(bpe):
    vocab, ranks = bpe
    token_of = {i: t for t, i in vocab.items() if i > 1}
    for text in ("", "🌍 unseen \x00 bytes", "<|endoftext|>", "\r\n\t", "a" * 500):
        ids = encode_bpe(text, vocab, ranks)
        assert decode_bpe(ids, token_of) == text
        assert all(i > 1 for i in ids), "text must never become a control token"


def test_half_a_character_is_shown_as_such(bpe):
    vocab, ranks = bpe
    token_of = {i: t for t, i in vocab.items() if i > 1}
    assert decode_bpe(encode_bpe("🌍", vocab, ranks)[:-1], token_of) == "\ufffd"


def test_bpe_needs_all_bytes():
    with pytest.raises(ValueError, match="at least 258"):
        train_bpe(TEXTS, 257)


def test_bert_words():
    words = [w for w in bert_words("Ünïcode's  «Text»\t中文a\x00b\u00ad $5") if w]
    assert words == ["unicode", "'", "s", "«", "text", "»", "中", "文", "ab", "$", "5"]


def test_alphabet_keeps_the_frequent():
    assert word_alphabet({"aab": 3, "ac": 1}, 2) == ["a", "b", "##a", "##b"]
    assert word_alphabet({"b": 1, "a": 1}, 1) == ["a"]  # ties by character


def test_longest_match_and_unknown():
    vocab = {"[UNK]": 0, "un": 1, "unaf": 2, "##f": 3, "##aff": 4, "u": 5}
    assert wordpiece_ids("unaff", vocab) == [2, 3]
    assert wordpiece_ids("unaffx", vocab) == [0]  # the whole word
    assert wordpiece_ids("u" * 101, vocab) == [0]
    assert encode_wordpiece(" un  u ", vocab) == [1, 5]


def test_special_tokens_are_text_for_wordpiece():
    vocab = train_wordpiece(TEXTS, 120, 60)
    assert [vocab[t] for t in WORDPIECE_SPECIAL] == [0, 1, 2, 3, 4]
    assert 3 not in encode_wordpiece("a [SEP] b", vocab)


@pytest.mark.parametrize(("build", "size"), [(build_bpe, 280), (build_wordpiece, 120)])
def test_same_corpus_same_bytes(build, size):
    assert len({build(TEXTS, size).to_str() for _ in range(4)}) == 1


def test_encoder_remembers():
    asked = []

    def word_ids(word):
        asked.append(word)
        return [len(word)]

    encoder = Encoder(str.split, word_ids)
    assert encoder.encode("a bb a bb a") == [1, 2, 1, 2, 1] and asked == ["a", "bb"]


def test_loading_refuses_other_models(tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "Unigram", "vocab": []}})
    )
    with pytest.raises(ValueError, match="Unigram is neither"):
        load_encoder(tmp_path)


def test_auto_tokenizer_reads_what_we_save(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "b").mkdir()
    (tmp_path / "w").mkdir()
    both = ["input_ids", "token_type_ids", "attention_mask"]
    save_tokenizer(build_bpe(TEXTS, 280), tmp_path / "b", BPE_ROLES, both[::2], 99)
    save_tokenizer(build_wordpiece(TEXTS, 120), tmp_path / "w", WORDPIECE_ROLES, both, 77)
    gpt, bert = (AutoTokenizer.from_pretrained(tmp_path / d) for d in "bw")
    assert gpt.is_fast and bert.is_fast
    assert (gpt.model_max_length, bert.model_max_length) == (99, 77)
    assert (gpt.bos_token_id, gpt.eos_token_id, gpt.pad_token_id) == (0, 0, 1)
    names = "pad unk cls sep mask".split()
    assert [getattr(bert, f"{n}_token_id") for n in names] == [0, 1, 2, 3, 4]
    pair = bert("the token", "text")
    assert pair.tokens()[0] == "[CLS]" and pair.tokens().count("[SEP]") == 2
    first = pair.tokens().index("[SEP]")
    assert pair["token_type_ids"] == [0] * (first + 1) + [1] * (len(pair.tokens()) - first - 1)
    assert set(gpt("a b")) == {"input_ids", "attention_mask"}
    text = "naïve 你好 🌍\n"
    assert gpt.decode(gpt(text)["input_ids"]) == text
    assert load_encoder(tmp_path / "b").encode(text) == gpt(text)["input_ids"]
