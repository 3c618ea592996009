"""What must hold for any text: chapter 04's tokenizers under hypothesis."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmchain.data.tokenizer import (
    BPE_ROLES,
    BPE_WORDS,
    NAME_OF_BYTE,
    WORDPIECE_ROLES,
    Encoder,
    bpe_pieces,
    bpe_pieces_long,
    bpe_words,
    build_bpe,
    build_wordpiece,
    decode_bpe,
    encode_batch,
    load_encoder,
    load_fast_encoder,
    merge_pair,
    read_tokenizer,
    save_tokenizer,
    segment_words,
)

CORPUS = [
    "The tokens of the text, the token of the text. Tokenizers don't see words, they see tokens.",
    "你好，世界。语言模型在预训练之后微调。世界语言。",
    "naïve café — [SEP] x1 <|endoftext|>  a\n\n    b = b + 1\n",
] * 3
EVERY = settings(
    max_examples=300, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
# any Unicode text, and text that meets the merges
TEXT = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="thetoknsx .,'\n你好世界语言é\u0301\U0001f30d", max_size=200),
    st.lists(st.sampled_from(["the", " token", "世界", "<|endoftext|>", "[MASK]", "  ", "\n"])).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    both = {
        "bpe": tmp_path_factory.mktemp("bpe"),
        "wordpiece": tmp_path_factory.mktemp("wordpiece"),
    }
    save_tokenizer(build_bpe(CORPUS, 330), both["bpe"], BPE_ROLES, ["input_ids"], 512)
    save_tokenizer(
        build_wordpiece(CORPUS, 160), both["wordpiece"], WORDPIECE_ROLES, ["input_ids"], 512
    )
    return both


@pytest.fixture(scope="module")
def bpe(folders):
    model = read_tokenizer(folders["bpe"], "test")
    ranks = {tuple(pair): i for i, pair in enumerate(model["merges"])}
    token_of = {i: token for token, i in model["vocab"].items() if i > 1}
    return load_encoder(folders["bpe"]), load_fast_encoder(folders["bpe"]), ranks, token_of


@EVERY
@given(text=TEXT)
def test_bpe_restores_every_text(text, bpe):
    encoder, _, _, token_of = bpe
    assert decode_bpe(encoder.encode(text), token_of) == text


@EVERY
@given(text=TEXT)
def test_no_id_out_of_range_and_no_control_token(text, bpe, folders):
    ids = bpe[0].encode(text)
    assert all(2 <= i < 330 for i in ids)  # never <|endoftext|> or <|pad|> out of a text
    assert len(ids) <= len(text.encode())
    vocab = read_tokenizer(folders["wordpiece"], "test")["vocab"]
    words = load_fast_encoder(folders["wordpiece"]).encode(text)
    assert all(0 <= i < len(vocab) and i not in (0, 2, 3, 4) for i in words)  # [UNK] is allowed


@EVERY
@given(text=TEXT)
def test_the_fast_path_gives_the_same_ids(text, bpe, folders):
    encoder, fast, _, _ = bpe
    assert fast.encode(text) == encoder.encode(text)
    slow, fast = load_encoder(folders["wordpiece"]), load_fast_encoder(folders["wordpiece"])
    assert fast.encode(text) == slow.encode(text)


@EVERY
@given(texts=st.lists(TEXT, max_size=8), seed=st.integers(0, 99), kind=st.sampled_from("bw"))
def test_ids_do_not_depend_on_the_batch(texts, seed, kind, folders):
    folder = folders["bpe" if kind == "b" else "wordpiece"]
    alone = [load_fast_encoder(folder).encode(t) for t in texts]
    order = random.Random(seed).sample(range(len(texts)), len(texts))
    shuffled = encode_batch(load_fast_encoder(folder), [texts[i] for i in order])
    assert shuffled == [alone[i] for i in order]
    forgetful = load_fast_encoder(folder)
    forgetful.max_words = 1
    assert encode_batch(forgetful, texts) == alone


@EVERY
@given(text=TEXT)
def test_the_cut_loses_nothing(text):
    assert "".join(bpe_words(text)) == text
    assert bpe_words(text) == BPE_WORDS.findall(text)


@EVERY
@given(text=st.text(alphabet="thetokns世界", max_size=64))
def test_two_roads_to_one_cut(text, bpe):
    ranks = bpe[2]
    pieces = [NAME_OF_BYTE[b] for b in text.encode()]
    while found := [p for p in zip(pieces, pieces[1:], strict=False) if p in ranks]:
        first = min(found, key=ranks.get)
        pieces = merge_pair(pieces, first, "".join(first))
    assert bpe_pieces_long(text, ranks) == bpe_pieces(text, ranks) == pieces


@EVERY
@given(
    text=st.text(alphabet="abc", max_size=9),
    frequency=st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=3), st.integers(1, 9)),
)
def test_no_cut_is_more_probable(text, frequency):
    """The dynamic program against all cuts."""
    total = sum(frequency.values()) or 1
    singles = {c: frequency.get(c, 0) for c in "abc"}
    known = {w: n for w, n in (singles | frequency).items() if n or len(w) == 1}
    frequency = {w: n or 1 for w, n in known.items()}  # all single characters are words here

    def best(rest):
        if not rest:
            return 1.0
        ends = [j for j in (1, 2, 3) if rest[:j] in frequency and j <= len(rest)]
        return max(frequency[rest[:j]] / total * best(rest[j:]) for j in ends)

    product = 1.0
    for word in segment_words(text, frequency, total):
        product *= frequency[word] / total
    assert product == pytest.approx(best(text))


@EVERY
@given(words=st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=30))
def test_a_small_memory_changes_nothing(words):
    text = " ".join(words)
    large, small = (Encoder(str.split, lambda w: [*map(ord, w)], n) for n in (10, 1))
    assert large.encode(text) == small.encode(text) and len(small) <= 1
