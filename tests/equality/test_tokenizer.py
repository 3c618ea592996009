"""Our encoders and trainers against the `tokenizers` library, id for id."""

import json
import unicodedata

import jieba
import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer, WordpieceTokenizer

from llmchain.data.tokenizer import (
    BPE_ROLES,
    BPE_WORDS,
    WORDPIECE_ROLES,
    bert_words,
    build_bpe,
    build_wordpiece,
    decode_bpe,
    encode_batch,
    encode_bpe,
    encode_wordpiece,
    load_encoder,
    load_fast_encoder,
    save_tokenizer,
    segment_words,
    train_bpe,
    train_wordpiece,
)

N_STRINGS = 120_000
WORDS = (
    "the Model's über naïve don't I'LL [MASK] [CLS] <|endoftext|> <|pad|> 你好 世界，再见。 東京 語言模型 🌍 "
    "👩‍💻 🇨🇳 😀 ﬁ ǅ İ ß Σας ½ ٣٤ กขค हिन्दी 한국어 ひらがな カタカナ é e\u0301 \u00a0 \u3000 \u200b \ufeff \ufffd "
    "\n \r\n \t \x0b \x85 \u2028   a_b x+=1 https://example.org/?q=1&r=%20 12345 3.14 ''' ... —"
).split(" ")
# Python 3.11 and the library read different editions of the Unicode tables; characters that are as
# old as Unicode 3.2 agree, but for these, whose category was corrected later
CORRECTED = {0x166D, 0x1734, 0x1885, 0x1886}
OLD = [
    chr(c)
    for c in range(0x30000)
    if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co") and c not in CORRECTED
]
LETTERS = [c for c in OLD if ord(c) < 0x3000]
EMOJI = [chr(c) for c in range(0x1F300, 0x1F650)]
CONTROL = [
    *map(chr, range(160)),
    *"\u00ad\u200b\u200d\u200e\u202e\u2028\u2029\u2060\u3000\ufeff\ufffd",
]


def odd_strings(n: int, seed: int) -> list[str]:
    """Strings that break tokenizers: random Unicode, white space, control characters, mixed
    languages, emoji; one of two hundred is a word of hundreds to thousands of characters."""
    rng = np.random.default_rng(seed)
    strings = []
    for number, kind in enumerate(rng.integers(0, 6, n)):
        pool = (OLD, WORDS, LETTERS, CONTROL, EMOJI + WORDS, list("thetokenizr"))[kind]
        if number % 200 == 0:
            pool = (list("thetokenizr"), list("语言模型的世界"), list("aé"), EMOJI)[
                number // 200 % 4
            ]
            strings.append(
                "".join(pool[i] for i in rng.integers(0, len(pool), 50 * (kind + 2) ** 2))
            )
            continue
        parts = [pool[i] for i in rng.integers(0, len(pool), rng.integers(1, 16))]
        strings.append(("", " ", "", "", "\n")[rng.integers(5)].join(parts))
    return strings


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """English from docstrings of the standard library, Chinese and oddities beside them."""
    import argparse
    import collections
    import datetime
    import decimal
    import logging
    import pathlib
    import statistics

    modules = (argparse, collections, datetime, decimal, logging, pathlib, statistics)
    objects = [o for m in modules for o in vars(m).values()]
    texts = [o.__doc__ for o in objects if isinstance(getattr(o, "__doc__", None), str)]
    chinese = ["语言模型在预训练之后微调。", "你好，世界！東京的語言。", "数据清洗与去重。"] * 5
    return [*texts, *chinese, *odd_strings(50, seed=9)]


@pytest.fixture(scope="module")
def bpe(corpus: list[str]) -> Tokenizer:
    return build_bpe(corpus, 1200)


@pytest.fixture(scope="module")
def wordpiece(corpus: list[str]) -> Tokenizer:
    return build_wordpiece(corpus, 1500, limit_alphabet=300)


def vocabulary(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]


def test_bpe_trainer_is_the_library_s(corpus, bpe):
    vocab, merges = train_bpe(corpus, 1200)
    assert vocab == vocabulary(bpe)["vocab"]
    assert merges == [tuple(m) for m in vocabulary(bpe)["merges"]]


def test_wordpiece_trainer_is_the_library_s(corpus, wordpiece):
    assert train_wordpiece(corpus, 1500, limit_alphabet=300) == vocabulary(wordpiece)["vocab"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpe", "wordpiece"])
def test_encoder_is_id_exact(name, bpe, wordpiece, tmp_path):
    tokenizer, roles = {"bpe": (bpe, BPE_ROLES), "wordpiece": (wordpiece, WORDPIECE_ROLES)}[name]
    save_tokenizer(tokenizer, tmp_path, roles, ["input_ids"], 512)
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reference.encode_special_tokens = True
    strings = odd_strings(N_STRINGS, seed=1)
    expected = [e.ids for e in reference.encode_batch_fast(strings, add_special_tokens=False)]
    for load in (load_encoder, load_fast_encoder):
        ids = encode_batch(load(tmp_path), strings)
        wrong = [s for s, a, b in zip(strings, ids, expected, strict=True) if a != b]
        print(f"{name}, {load.__name__}: {len(strings):,} strings, {len(wrong)} differ")
        assert not wrong, [ascii(s) for s in wrong[:3]]


@pytest.mark.slow
def test_wordpiece_is_id_exact_with_transformers(wordpiece, tmp_path):
    """The same strings in `BertTokenizer`, with [CLS] and [SEP] around them as it writes them."""
    save_tokenizer(wordpiece, tmp_path, WORDPIECE_ROLES, ["input_ids"], 512)
    vocab = vocabulary(wordpiece)["vocab"]
    theirs = BertTokenizer(vocab=vocab, split_special_tokens=True, model_max_length=10**6)
    strings = odd_strings(N_STRINGS, seed=1)
    ids = encode_batch(load_encoder(tmp_path), strings)
    wrong = 0
    for begin in range(0, N_STRINGS, 10_000):
        some = slice(begin, begin + 10_000)
        expected = theirs(strings[some])["input_ids"]
        wrong += sum([2, *a, 3] != b for a, b in zip(ids[some], expected, strict=True))
    print(f"BertTokenizer: {len(strings):,} strings, {wrong} differ")
    assert not wrong


def test_wordpiece_agrees_with_google_s_python(wordpiece, tmp_path):
    """The tokenizer that came with BERT, in Python, shares our edition of Unicode: any character
    goes, but the 256 ideographs from U+2B820, which the library (and so we) takes for letters."""
    save_tokenizer(wordpiece, tmp_path, WORDPIECE_ROLES, ["input_ids"], 512)
    vocab = vocabulary(wordpiece)["vocab"]
    cut, pieces = BasicTokenizer(), WordpieceTokenizer(vocab, "[UNK]")
    encoder = load_encoder(tmp_path)
    for s in odd_strings(5000, seed=5):
        expected = [vocab[p] for w in cut.tokenize(s) for p in pieces.tokenize(w)]
        assert encoder.encode(s) == expected, ascii(s)
    skipped = [*range(0x2B820, 0x2B920)]
    every = [
        c for c in map(chr, range(0x30000)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")
    ]
    texts = [f"a{c}b" for c in every if ord(c) not in skipped]
    wrong = [t for t in texts if cut.tokenize(t) != [w for w in bert_words(t) if w]]
    print(f"{len(texts):,} characters, {len(wrong)} cut unlike BERT's own code")
    assert len(texts) > 100_000 and not wrong, [ascii(t) for t in wrong[:3]]


def test_segmentation_is_jieba_s():
    """Sentences and nonsense; the Markov model for unknown words is off."""
    jieba.setLogLevel("ERROR")
    words = jieba.Tokenizer()
    words.FREQ, words.total = words.gen_pfdict(words.get_dict_file())  # no cache on the disk
    words.initialized = True
    assert words.total > 10**7 and len(words.FREQ) > 300_000
    rng = np.random.default_rng(6)
    known = [w for w in words.FREQ if len(w) > 1 and all("\u4e00" <= c <= "\u9fd5" for c in w)]
    rare = [chr(c) for c in range(0x4E00, 0x9FD6)]
    runs = ["".join(known[i] for i in rng.integers(0, len(known), 5)) for _ in range(2000)]
    runs += ["".join(rare[i] for i in rng.integers(0, len(rare), 9)) for _ in range(500)]
    runs += ["语言模型在预训练之后微调", "研究生命起源", "南京市长江大桥", "乒乓球拍卖完了"]
    for run in runs:
        assert segment_words(run, words.FREQ, words.total) == words.lcut(run, HMM=False), run


def test_plain_encoders_agree_with_the_one_that_remembers(bpe, wordpiece, tmp_path):
    save_tokenizer(bpe, tmp_path, BPE_ROLES, ["input_ids"], 512)
    encoder = load_encoder(tmp_path)
    model = vocabulary(bpe)
    ranks = {tuple(m): i for i, m in enumerate(model["merges"])}
    pieces = vocabulary(wordpiece)["vocab"]
    reference = Tokenizer.from_str(wordpiece.to_str())
    reference.encode_special_tokens = True
    for s in odd_strings(500, seed=2):
        assert encode_bpe(s, model["vocab"], ranks) == encoder.encode(s)
        assert encode_wordpiece(s, pieces) == reference.encode(s, add_special_tokens=False).ids


def test_bpe_round_trip(bpe):
    vocab = vocabulary(bpe)["vocab"]
    ranks = {tuple(m): i for i, m in enumerate(vocabulary(bpe)["merges"])}
    token_of = {i: t for t, i in vocab.items() if i > 1}
    for s in odd_strings(2000, seed=3):
        ids = encode_bpe(s, vocab, ranks)
        assert decode_bpe(ids, token_of) == s
        assert not s or min(ids) > 1


def test_unicode_tables():
    """Every assigned character but a few hundred young ones is cut as the library cuts it."""
    clean, cut = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assigned = [
        chr(c) for c in range(0x30000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")
    ]
    differ = []
    for c in assigned[::7]:
        text = f"a{c}b"
        expected = [w for w, _ in cut.pre_tokenize_str(clean.normalize_str(text))]
        if [w for w in bert_words(text) if w] != expected:
            differ.append(c)
        spans = [text[start:end] for _, (start, end) in byte_level.pre_tokenize_str(text)]
        assert BPE_WORDS.findall(text) == spans, ascii(text)
    print(f"{len(differ)} of {len(assigned[::7]):,} characters differ between Unicode editions")
    assert len(differ) < 150
    assert {ord(c) for c in differ if unicodedata.ucd_3_2_0.category(c) != "Cn"} <= CORRECTED
