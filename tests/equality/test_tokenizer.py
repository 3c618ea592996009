"""Our encoders and trainers against the `tokenizers` library, id for id."""

import json
import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from llmchain.data.tokenizer import (
    BPE_ROLES,
    BPE_WORDS,
    WORDPIECE_ROLES,
    bert_words,
    build_bpe,
    build_wordpiece,
    decode_bpe,
    encode_bpe,
    encode_wordpiece,
    load_encoder,
    save_tokenizer,
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


def odd_strings(n: int, seed: int) -> list[str]:
    """Strings that break tokenizers: random Unicode, white space, mixed languages, emoji."""
    rng = np.random.default_rng(seed)
    strings = []
    for kind in rng.integers(0, 5, n):
        pool = (OLD, WORDS, LETTERS, [chr(c) for c in range(1, 127)], EMOJI + WORDS)[kind]
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
    encoder = load_encoder(tmp_path)
    strings = odd_strings(N_STRINGS, seed=1)
    expected = reference.encode_batch_fast(strings, add_special_tokens=False)
    wrong = [s for s, e in zip(strings, expected, strict=True) if encoder.encode(s) != e.ids]
    print(f"{name}: {len(strings):,} strings, {len(wrong)} differ")
    assert not wrong, [ascii(s) for s in wrong[:3]]


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
