"""Edges of chapter 04's tokenizers; equality with the library is in tests/equality."""

import json
import time
from collections import Counter

import numpy as np
import pytest

from llmchain.data.tokenizer import (
    ASCII_WORDS,
    BPE_ROLES,
    BPE_WORDS,
    LONGEST_WORD,
    NAME_OF_BYTE,
    WORDPIECE_ROLES,
    WORDPIECE_SPECIAL,
    Encoder,
    bert_words,
    bpe_pieces,
    bpe_pieces_long,
    bpe_words,
    build_bpe,
    build_wordpiece,
    decode_bpe,
    drawn,
    drawn_texts,
    encode_batch,
    encode_bpe,
    encode_wordpiece,
    fast_encoder,
    load_encoder,
    load_fast_encoder,
    merge_pair,
    save_tokenizer,
    segment_words,
    smaller_bpe,
    train_bpe,
    train_merges,
    train_wordpiece,
    unigram_bits,
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


def test_both_cuts_are_one():
    pairs = [f"{chr(a)}{chr(b)}x{chr(b)} 1" for a in range(128) for b in range(128)]
    assert [ASCII_WORDS.findall(s) for s in pairs] == [BPE_WORDS.findall(s) for s in pairs]


def test_long_words_take_the_other_road_to_the_same_cut(bpe):
    _, ranks = bpe
    for word in ("", "a", "the", "thethe" * 9, "aaaa", "ababab", "你好", "tokentext" * 7):
        assert bpe_pieces_long(word, ranks) == bpe_pieces(word, ranks)
    assert bpe_pieces_long("baba", {("a", "b"): 0, ("b", "a"): 1}) == ["b", "ab", "a"]
    # the entry of (b, c) in the heap is old once a + b is merged
    assert bpe_pieces_long("abc", {("a", "b"): 0, ("b", "c"): 1}) == ["ab", "c"]
    assert bpe_pieces_long("aaa", {("a", "a"): 0}) == ["aa", "a"]


def test_old_entries_wait_for_their_turn():
    # after b + c the entry of (a, b) is old, and (a, bc) is in line behind (d, e)
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("d", "e"): 2, ("bc", "d"): 3, ("a", "bc"): 4}
    assert bpe_pieces_long("abcde", ranks) == bpe_pieces("abcde", ranks) == ["abc", "de"]
    ranks = {("b", "c"): 0, ("a", "b"): 1, ("bc", "d"): 2, ("a", "bc"): 3}
    assert bpe_pieces_long("abcd", ranks) == bpe_pieces("abcd", ranks) == ["a", "bcd"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_word_of_a_megabyte_is_encoded(kind, tmp_path):
    build, roles = (build_bpe, BPE_ROLES) if kind == "bpe" else (build_wordpiece, WORDPIECE_ROLES)
    tokenizer = build(TEXTS, 300)
    save_tokenizer(tokenizer, tmp_path, roles, ["input_ids"], 512)
    word, begun = "tokens" * 175_000, time.process_time()
    ids = load_encoder(tmp_path).encode(word)
    assert ids == tokenizer.encode(word, add_special_tokens=False).ids
    assert load_fast_encoder(tmp_path).encode(word) == ids
    assert time.process_time() - begun < 60  # a loop that reads the word for each merge takes hours


@pytest.mark.parametrize("train", [train_bpe, build_bpe, train_wordpiece, build_wordpiece])
def test_trainers_refuse_in_one_line(train):
    name = train.__name__
    for texts, size, error, words in (
        (["a b c"], 6, ValueError, f"{name}: vocab_size must be at least "),
        ([], 300, ValueError, f"{name}: the texts are empty"),
        (["", ""], 300, ValueError, f"{name}: the texts are empty"),
        ("one text", 300, TypeError, f"{name}: texts must be a list of documents, got one str"),
        (["a", b"b"], 300, TypeError, f"{name}: document 1: a text must be str, got bytes"),
        (["a", "b\udc80"], 300, ValueError, f"{name}: document 1: character 1 is the lone surr"),
        (
            ["a", "b" * (LONGEST_WORD + 1)],
            300,
            ValueError,
            f"{name}: document 1 has a word of 50,001",
        ),
    ):
        with pytest.raises(error, match=words) as caught:
            train(texts, size)
        assert "\n" not in str(caught.value)


def test_symbols_must_be_unique_and_have_room():
    with pytest.raises(ValueError, match="train_merges: vocab_size must be at least 2 .* got 1"):
        train_merges({"ab": 1}, ["a", "b"], 1)
    with pytest.raises(ValueError, match="symbol 'a' stands twice"):
        train_bpe(["a"], 300, ["a"])
    with pytest.raises(ValueError, match="limit must be at least 1"):
        word_alphabet({"a": 1}, 0)


def test_lone_surrogates_are_refused_with_their_place(bpe):
    vocab, ranks = bpe
    pieces = train_wordpiece(TEXTS, 120)
    fast = fast_encoder(build_wordpiece(TEXTS, 120))
    for encode in (
        lambda t: encode_bpe(t, vocab, ranks),
        lambda t: encode_wordpiece(t, pieces),
        fast.encode,
        lambda t: encode_batch(fast, ["fine", t]),
    ):
        with pytest.raises(ValueError, match=r"character 3 is the lone surrogate U\+D83C"):
            encode("abc\ud83c")
    with pytest.raises(ValueError, match="document 1"):
        encode_batch(fast, ["fine", "\ud83c"])
    with pytest.raises(TypeError, match="a text must be str, got NoneType"):
        fast.encode(None)
    with pytest.raises(TypeError, match="got one str"):
        encode_batch(fast, "one text")


def test_empty_text_has_no_tokens(bpe):
    fast = fast_encoder(build_bpe(TEXTS, 300))
    assert (
        fast.encode("") == [] and encode_batch(fast, []) == [] and encode_batch(fast, [""]) == [[]]
    )
    assert encode_wordpiece("", {}) == [] and decode_bpe([], {}) == ""


def test_a_memory_has_an_end():
    encoder = Encoder(str.split, lambda word: [len(word)], max_words=3)
    assert encoder.encode("a bb ccc dddd a") == [1, 2, 3, 4, 1] and len(encoder) <= 3
    assert encoder.encode("x" * 101) == [101] and "x" * 101 not in encoder
    with pytest.raises(ValueError, match="max_words must be at least 1, got 0"):
        Encoder(str.split, len, max_words=0)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("pre_tokenizer", "add_prefix_space", True),
        ("model", "ignore_merges", True),
        ("model", "dropout", 0.1),
        ("model", "end_of_word_suffix", "</w>"),
    ],
)
def test_another_bpe_is_refused_not_misread(part, field, value, tmp_path):
    save_tokenizer(build_bpe(TEXTS, 280), tmp_path, BPE_ROLES, ["input_ids"], 99)
    file = tmp_path / "tokenizer.json"
    pipeline = json.loads(file.read_text())
    pipeline[part][field] = value
    file.write_text(json.dumps(pipeline))
    for load in (load_encoder, load_fast_encoder):
        with pytest.raises(ValueError, match=rf"{load.__name__}: .*{part}\.{field} is {value!r}"):
            load(tmp_path)


def test_a_cased_bert_and_broken_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*tokenizer.json"):
        load_fast_encoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="save_tokenizer: there is no folder"):
        save_tokenizer(build_bpe(TEXTS, 280), tmp_path / "none", BPE_ROLES, ["input_ids"], 9)
    for broken in ("", "{", "[]", "{}", '{"model": null}'):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(ValueError, match="is no file of a tokenizer"):
            load_encoder(tmp_path)
    save_tokenizer(build_wordpiece(TEXTS, 120), tmp_path, WORDPIECE_ROLES, ["input_ids"], 99)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(ValueError, match="normalizer.lowercase is False, not True"):
        load_encoder(tmp_path)


def test_smaller_vocabulary_is_the_one_that_training_gives():
    large = build_bpe(TEXTS, 300)
    for size in (258, 259, 277, 300):
        assert smaller_bpe(large, size).to_str() == build_bpe(TEXTS, size).to_str()
    with pytest.raises(ValueError, match="smaller_bpe: vocab_size must be at least 258"):
        smaller_bpe(large, 257)


def test_most_probable_words():
    frequency = {"研究": 9, "研究生": 4, "生命": 8, "命": 2}
    assert segment_words("研究生命", frequency, 23) == ["研究", "生命"]
    assert segment_words("研究生命", frequency | {"研究": 1}, 23) == ["研究生", "命"]
    # 6 * 1 for the likelier first word, 5 * 8 for the likelier cut
    likelier = {"研究": 5, "研究生": 6, "生命": 8, "命": 1}
    assert segment_words("研究生命", likelier, 20) == ["研究", "生命"]
    assert segment_words("aab", {"a": 0, "aa": 1}, 1) == ["aa", "b"]
    # equally probable (1/1 each): the longer first word, as jieba decides it
    assert segment_words("abc", {"a": 1, "bc": 1, "ab": 1, "c": 1}, 1) == ["ab", "c"]
    assert segment_words("abc", {"abc": 1, "ab": 1}, 2, longest=2) == ["ab", "c"]
    with pytest.raises(ValueError, match="total must be at least 1, got 0"):
        segment_words("a", {}, 0)


def test_unigram_bits_by_hand():
    assert unigram_bits({0: 5, 1: 5}, {0: 3, 1: 1}, 2) == 4.0
    assert unigram_bits({}, {0: 1, 7: 1}, 8) == 6.0
    # p(1) = (0 + 2) / (6 + 2 * 2) = 1/5, twice
    assert unigram_bits(Counter({0: 6}), {1: 2}, 2, alpha=2) == pytest.approx(
        2 * 2.3219280948873626
    )
    assert unigram_bits({0: 1}, {}, 3) == 0
    for counts, size, alpha, words in (
        ({2: 1}, 2, 1.0, "id 2 is not below vocab_size"),
        ({-1: 1}, 2, 1.0, "id -1 is not below"),
        ({0: 1}, 2, 0.0, "alpha must be above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            unigram_bits(counts, {}, size, alpha)


def test_probabilities_of_all_tokens_sum_to_one():
    learnt = {0: 7, 2: 1}
    each = [2 ** -unigram_bits(learnt, {i: 1}, 5, alpha=0.3) for i in range(5)]
    assert sum(each) == pytest.approx(1)


def test_documents_are_drawn_until_there_is_text_enough() -> None:
    class Counted(list):
        looks = 0

        def __getitem__(self, place):
            Counted.looks += 1
            return super().__getitem__(place)

    rows = Counted({"text": f"数据{i:03d}"} for i in range(200))  # nine bytes each
    places = np.arange(0, 200, 2)
    found = drawn(rows, places, 90, np.random.default_rng(0))
    assert len(found) == len(set(found)) == 10 and Counted.looks == 10
    assert set(found) <= set(places.tolist()) and found != sorted(found)
    assert found == drawn(rows, places, 90, np.random.default_rng(0))
    assert len(drawn(rows, places, 91, np.random.default_rng(0))) == 11
    everything = drawn_texts(rows, places, 1e9, np.random.default_rng(0))
    assert sorted(everything) == [row["text"] for row in list(rows)[::2]]
    assert drawn(rows, places[:0], 90, np.random.default_rng(0)) == []
