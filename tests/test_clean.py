"""What chapter 02_clean promises and a notebook cannot show well."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.data import clean

RULES = clean.rules_of_quality()


def document(text: str, kind: str = "docstring", path: str = "a/b.py") -> dict:
    return {"id": "x", "text": text, "kind": kind, "path": path, "lang": "en"}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_survived(text: str) -> None:
    for kind, path in (("docstring", "a.py"), ("readme", "README.md"), ("docs", "a.rst")):
        row, reason, masked = clean.clean_document(document(text, kind, path), RULES)
        assert (row is None) == bool(reason)
        if row is not None:
            assert not clean.INVISIBLE.search(row["text"])
            assert "\r" not in row["text"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_repair_is_idempotent_on_what_it_made(text: str) -> None:
    once = clean.repair(text)
    assert clean.INVISIBLE.search(once) is None
    if once.isascii():
        assert clean.repair(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "<" * 20_000,
        "<!--" * 5_000,
        "`" * 20_000,
        ":a:`" * 5_000,
        "[" * 20_000,
        "[![" * 5_000,
        "a@" * 10_000,
        "a." * 10_000 + "@" + "b." * 10_000,
        "1." * 10_000,
        "1 " * 10_000,
        "*" * 20_000,
        "-----BEGIN PRIVATE KEY-----" * 500,
        "=" * 20_000,
        "\n" * 20_000,
        " " * 20_000,
        "|a" * 10_000,
    ],
)
def test_hostile_text_takes_no_time(text: str) -> None:
    start = time.process_time()
    clean.clean_document(document(text), RULES)
    clean.clean_document(document(text, "readme", "README.md"), RULES)
    clean.personal_spans(text)
    assert time.process_time() - start < 3


def test_code_and_comparisons_are_not_html() -> None:
    for text in ("a < b > c", "vector<int> v;", "<stdin>", "x <- y; </unknown>", "if (a<b && c>d)"):
        assert clean.strip_html(text) == text


def test_html_tables_and_entities() -> None:
    text = clean.strip_html("<table><tr><td>a&lt;b</td><td>caf&eacute;</td></tr></table>")
    assert text.split() == ["a<b", "café"]


def test_directives_keep_their_sentence() -> None:
    assert clean.strip_rst(".. versionadded:: 1.2\n   Now faster.\n").split() == [
        "1.2",
        "Now",
        "faster.",
    ]
    assert clean.strip_rst(".. image:: a.png\n   :alt: x\nText") == "Text"


def test_python_keywords_survive_markdown() -> None:
    text = "Call f(*args, **kwargs) or f(**a, **b) with __init__ and __doc__."
    assert clean.strip_markdown(text) == text


def test_language_of_short_and_mixed_texts() -> None:
    assert clean.identify_language("Alias for `fit`.") == "en"
    assert clean.identify_language("使用 transformers 加载 BERT 模型 from_pretrained") == "zh"
    assert clean.identify_language("한국어 문장입니다") == "other"
    assert clean.identify_language("") == "other"


@pytest.mark.parametrize("seed", range(3))
def test_masks_on_planted_truth(seed: int) -> None:
    planted = clean.planted_personal(600, np.random.default_rng(seed))
    found = [set(clean.personal_spans(text)) for text, _, _ in planted]
    true = [set(spans) for _, spans, _ in planted]
    hits = sum(len(f & t) for f, t in zip(found, true, strict=True))
    assert hits / sum(map(len, true)) >= 0.9
    assert hits / sum(map(len, found)) >= 0.95
    for (text, _, form), f in zip(planted, found, strict=True):
        assert form != "decoy" or not f, text


def test_masked_text_holds_nothing_to_mask() -> None:
    for text, spans, form in clean.planted_personal(200, np.random.default_rng(9)):
        masked, counts = clean.mask_personal(text)
        assert not clean.personal_spans(masked)
        assert form == "mail in words" or counts == Counter(kind for *_, kind in spans)


def test_spans_are_where_they_say() -> None:
    text = "a x@y.org b +49 30 1234567 c"
    assert [text[a:b] for a, b, _ in clean.personal_spans(text)] == ["x@y.org", "+49 30 1234567"]


def test_reasons_name_the_first_rule() -> None:
    assert clean.clean_document(document("Hi."), RULES)[1] == "too short"
    assert clean.clean_document(document("  \n---------\n"), RULES)[1] == "empty"
    german = "Die Funktion gibt den Mittelwert zurück und wird nicht mit Null aufgerufen."
    assert clean.clean_document(document(german), RULES)[1] == "language"
    assert clean.clean_document(document(german), RULES, keep_other=True)[0]["lang"] == "other"
    repeated = "the same line of words\n" * 9
    assert clean.clean_document(document(repeated), RULES)[1] == "repeated lines"
    latin = "The text is lorem ipsum dolor and so on."
    assert clean.clean_document(document(latin), RULES)[1] == "placeholder"


def test_the_row_keeps_its_origin() -> None:
    given = {**document("The mean of the values is returned."), "licence": "MIT", "package": "p"}
    row, _, _ = clean.clean_document(given, RULES)
    assert row is not None and row is not given
    assert {k: row[k] for k in ("id", "licence", "package", "path")} == {
        k: given[k] for k in ("id", "licence", "package", "path")
    }


def test_html_beside_placeholders() -> None:
    assert (
        clean.strip_html("<p>Use <name> and Map<K, V>.</p>").strip() == "Use <name> and Map<K, V>."
    )


def test_masks_change_nothing_else() -> None:
    assert clean.mask_personal("(x@y.org), then")[0] == "([EMAIL]), then"


def test_japanese_is_not_chinese() -> None:
    assert clean.identify_language("配列の平均値を計算して返します") == "other"
    assert clean.identify_language("计算并返回数组的平均值") == "zh"


def test_lines_that_differ_are_not_repeated() -> None:
    assert clean.repeated_line_share("first line\nsecond line\nthird line") == 0
