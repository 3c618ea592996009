"""What chapter 02_clean promises and a notebook cannot show well."""

import gzip
import html
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from llmchain.data import clean
from llmchain.workbench import catalog

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


MARKUP = st.lists(
    st.sampled_from(
        "<b> </b> <p> <br> &lt; &amp;lt; &gt; &amp; ` `` ** * _ # [ ] ( ) [a](b) ![a](b) :func: :ref: .. :: "
        ">>> ... = == --- | |x| ]_ a@b.org (at) 8.8.8.8 +1 212 555 0187 [EMAIL] : > <name> <!-- --> <script> "
        "caf\u00e9 Ã© \u200b \u00a0 中文 。 Copyright 2020 https://x.org \r note".split(" ")
        + ["\n", "\n\n", " ", "  ", "word", "The mean of all values. "]
    ),
    max_size=25,
).map("".join)
LOOSE = clean.rules_of_quality(min_words=1, max_symbol_share=1.0, max_repeated_lines=1.0)
KINDS_AND_PATHS = (
    ("docstring", "a.py"),
    ("readme", "README.md"),
    ("docs", "a.rst"),
    ("docs", "a.html"),
    ("licence", "LICENSE"),
    ("message", "a.po"),
)


@settings(max_examples=400, deadline=None)
@given(MARKUP | st.text(max_size=200), st.sampled_from(KINDS_AND_PATHS))
def test_cleaning_is_idempotent(text: str, place: tuple[str, str]) -> None:
    once, _ = clean.settled(text, *place)
    if once is not None:
        assert clean.settled(once, *place) == (once, Counter())
    row, _, _ = clean.clean_document(document(text, *place), LOOSE)
    if row is not None:
        assert clean.clean_document(row, LOOSE) == (row, "", Counter())


def test_what_is_clean_comes_to_rest() -> None:
    text = "&amp;amp;lt;b&amp;amp;gt;Deep&amp;amp;lt;/b&amp;amp;gt; <i>x</i>\n[EMAIL]: a@b.org"
    assert clean.settled(text, "readme", "README.md")[0] is not None
    assert clean.settled(text, "readme", "README.md", n_rounds=1)[0] is None


NEIGHBOURS = st.text(
    alphabet=st.sampled_from("abcXYZ 0123456789.,:;()'\"-+@/中文电话号码是，。：（）\n"),
    max_size=25,
)


def test_a_secret_that_looks_a_little_like_a_placeholder_is_masked() -> None:
    masked, counts = clean.mask_personal("PWD=rlNXXxX1Y4dv")
    assert "rlNXXxX1Y4dv" not in masked and counts
    assert clean.mask_personal("password = xxxxxxxx12ab")[1] == {}


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(sorted(clean.FORMS)),
    st.integers(0, 2**32 - 1),
    NEIGHBOURS,
    NEIGHBOURS,
    st.sampled_from([" ", "\n", "，", "。", "是", "（", "“"]),
    st.sampled_from([" ", "\n", "，", "。", "的", "）", "”"]),
)
def test_masking_never_leaves_a_planted_secret(
    form: str, seed: int, before: str, after: str, left: str, right: str
) -> None:
    rng = np.random.default_rng(seed)
    kind, make = clean.FORMS[form]
    item = make(rng)
    frames = clean.FRAMES.get(form, ("{}",))
    sentence = frames[seed % len(frames)].format(item)
    # a version number is what it says it is, and `a at b dot com` needs a name that is none of the words left out
    assume(not clean.VERSION.search(before + left))
    masked, counts = clean.mask_personal(before + left + sentence + right + after)
    assert item not in masked, (kind, masked)
    assert counts


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
        "4 " * 10_000,
        "AA11 " * 4_000,
        "a at b dot " * 3_000,
        "password=" * 3_000,
        "://a:" * 5_000,
        "eyJ" * 10_000,
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
    assert hits / sum(map(len, true)) >= 0.98
    assert hits / sum(map(len, found)) >= 0.98
    for (text, _, form), f in zip(planted, found, strict=True):
        assert form != "decoy" or not f, text


def test_masked_text_holds_nothing_to_mask() -> None:
    for text, spans, form in clean.planted_personal(200, np.random.default_rng(9)):
        masked, counts = clean.mask_personal(text)
        assert not clean.personal_spans(masked)
        assert counts == Counter(kind for *_, kind in spans), (form, text)


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
    given_row = {
        **document("The mean of the values is returned."),
        "licence": "MIT",
        "package": "p",
    }
    row, _, _ = clean.clean_document(given_row, RULES)
    assert row is not None and row is not given_row
    assert {k: row[k] for k in ("id", "licence", "package", "path")} == {
        k: given_row[k] for k in ("id", "licence", "package", "path")
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


def test_chinese_characters_beside_a_number_are_no_letters() -> None:
    masked, counts = clean.mask_personal("请致电13812345678或写信a.b@example.cn谢谢")
    assert (masked, counts) == ("请致电[PHONE]或写信[EMAIL]谢谢", Counter(PHONE=1, EMAIL=1))
    assert clean.mask_personal("电话１３８１２３４５６７８")[0] == "电话[PHONE]"


def test_check_digits_notice_every_single_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        card = clean.completed(clean.draw(rng, clean.DIGITS, 15), clean.luhn_valid)
        number = clean.completed(
            clean.draw(rng, clean.DIGITS, 17), clean.chinese_id_valid, clean.DIGITS + "X"
        )
        for text, test in ((card, clean.luhn_valid), (number, clean.chinese_id_valid)):
            for i, old in enumerate(text):
                if old != "X":
                    for new in set(clean.DIGITS) - {old}:
                        assert not test(text[:i] + new + text[i + 1 :])


@pytest.mark.parametrize(
    ("test", "number"),
    [  # examples of the standards and of card networks' documentation
        (clean.luhn_valid, "79927398713"),
        (clean.luhn_valid, "378282246310005"),
        (clean.luhn_valid, "4111111111111111"),
        (clean.iban_valid, "GB82WEST12345698765432"),
        (clean.iban_valid, "DE89370400440532013000"),
        (clean.chinese_id_valid, "11010519491231002X"),
        (clean.chinese_id_valid, "440524188001010014"),
    ],
)
def test_known_numbers(test, number: str) -> None:
    assert test(number)


def test_a_card_between_other_numbers_is_found() -> None:
    masked, _ = clean.mask_personal("row 4 4111 1111 1111 1111 5, next")
    assert masked == "row 4 [CARD] 5, next"


def test_placeholders_are_no_secrets() -> None:
    for text in (
        "password=None, api_key='YOUR_API_KEY_123'",
        'token: "${GITHUB_TOKEN}"',
        "https://user:password@example.com/simple",
        "secret = get_secret(1)",
    ):
        assert clean.mask_personal(text)[0] == text


# ── the main text of a page ──────────────────────────────────────────────────────────────────────

PARAGRAPH = (
    "The mean of all values is computed in one pass over the array, so no copy is made of it. "
)
OTHERS = [f"Another story of the number {i}, told to the very end" for i in range(12)]


@pytest.mark.parametrize("layout", sorted(clean.LAYOUTS))
def test_the_main_text_of_every_layout(layout: str) -> None:
    paragraphs = [f"{i}. {PARAGRAPH * 3}".strip() for i in range(4)]
    found = clean.extract_main(clean.page_around(paragraphs, OTHERS, layout))
    assert clean.ngram_f1(found, "\n".join(paragraphs))[0] > 0.9
    assert "cookies" not in found and "All rights" not in found and "var x" not in found


def test_comments_longer_than_the_text_are_left_out() -> None:
    page = f"<body><div class=text><p>{PARAGRAPH * 3}</p></div><div id=comments><p>{'I disagree. ' * 60}</p></div>"
    assert clean.extract_main(page) == (PARAGRAPH * 3).strip()


def test_an_article_in_two_boxes_is_put_together() -> None:
    box = f"<div class=card><p>{PARAGRAPH * 4}</p><p>{PARAGRAPH * 4}</p></div>"
    page = f"<body><ul><li><a href=/>Home</a></ul><div id=story>{box}{box}</div></body>"
    assert clean.extract_main(page).count("The mean") == 16


def test_menus_of_links_are_left_out() -> None:
    links = "".join(f"<li><a href=/{i}>{OTHERS[i]}</a></li>" for i in range(6))
    page = (
        f"<body><div class=text><p>{PARAGRAPH * 3}</p><ul>{links}</ul><p>{PARAGRAPH * 3}</p></div>"
    )
    assert "Another story" not in clean.extract_main(page)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=300) | MARKUP)
def test_any_page_is_survived(content: bytes | str) -> None:
    assert isinstance(clean.extract_main(content), str)


@pytest.mark.parametrize(
    "page", ["<div>" * 20_000, "<a>" * 20_000, "<p>x" * 20_000, "<table>" * 5_000, "x" * 500_000]
)
def test_hostile_pages_take_no_time(page: str) -> None:
    start = time.process_time()
    clean.extract_main(page)
    assert time.process_time() - start < 3


def test_runs_are_counted_with_repetitions() -> None:
    f1, precision, recall = clean.ngram_f1("a b c d " * 4, "a b c d")
    assert recall == 1 and precision == 1 / 13


def test_escaped_text_comes_back() -> None:
    sentence = "if a < b & c > d: the sum of the two is larger than either of them, as was shown. "
    page = f"<body><article><p>{html.escape(sentence * 2)}</p></article></body>"
    assert clean.extract_main(page) == (sentence * 2).strip()


def test_real_pages(local_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMCHAIN_DATA", str(local_data))
    data = catalog.find("web_raw", "local")
    f1: dict[str, list[float]] = {"develop": [], "test": []}
    for row in data.rows("pages"):
        content = gzip.decompress(data.file(row["html"]).read_bytes())
        found = clean.extract_main(content)
        f1[clean.part_of(row["id"])].append(clean.ngram_f1(found, row["gold_text"])[0])
    assert min(map(len, f1.values())) >= 60
    assert np.mean(f1["develop"] + f1["test"]) >= 0.95
    assert np.mean(f1["test"]) >= 0.95


# ── quality ──────────────────────────────────────────────────────────────────────────────────────


def test_repeated_phrases_are_covered_once() -> None:
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
    assert clean.repeated_phrase_share(" ".join(words)) == 0
    assert clean.repeated_phrase_share(" ".join(words + words)) == 0.5
    assert clean.repeated_phrase_share("same " * 60) == 59 / 60


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        ("bullets", "- one\n- two\n- three\n- four\n- five", "- one\nand\n- three\nor\nfive"),
        ("ellipses", "read…\non…\nhere...\nnow", "read.\non\nhere.\nnow..."),
        (
            "no stop words",
            "It is on this or from an apple, not you. " * 9,
            "the apples of my eye " * 20,
        ),
        ("capitals", "THIS IS SHOUTED AT THE READER " * 3, "This is NASA's reply to ESA " * 3),
        ("braces", "{a} {b} {c}", "use {a} in a sentence of its own"),
        ("toxic words", "What an idiot you are, moron.", "What a day it was, my friend."),
        ("toxic words", "你真是个白痴", "你真是个好人"),
        ("placeholder", "Lorem ipsum dolor sit amet", "The text of the page"),
        ("repeated phrases", "all of us are here now " * 12, "nothing here comes twice"),
    ],
)
def test_each_rule_has_an_example(rule: str, bad: str, good: str) -> None:
    lang = clean.identify_language(bad)
    assert RULES[rule](bad, lang) and not RULES[rule](good, lang)


def test_the_first_reason_is_the_first_of_all() -> None:
    given_row = document("1 2 3 {a} 4")
    _, reasons, _ = clean.judge_document(given_row, RULES)
    assert len(reasons) > 1 and clean.clean_document(given_row, RULES)[1] == reasons[0]


def test_the_classifier_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    features, sound = rng.normal(size=(300, 13)), rng.random(300) < 0.4
    features[sound] += 0.5
    model = clean.fit_quality(features, sound, strength=0.7)
    x = model.distances(features)[:, :-1]
    peer = LogisticRegression(C=0.7, tol=1e-10, max_iter=10_000).fit(x, sound)
    np.testing.assert_allclose(model.weights, np.append(peer.coef_[0], peer.intercept_), atol=1e-5)


def test_the_classifier_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes are needed, got 3 sound of 3"):
        clean.fit_quality(np.zeros((3, 13)), np.ones(3, dtype=bool))


@pytest.mark.parametrize("how", clean.DAMAGES)
def test_damage_changes_the_text(how: str) -> None:
    text = (
        "The first line has eight words in it.\nThe second one, quite similar, has as many words."
    )
    bad = clean.damaged(text, how, np.random.default_rng(0))
    assert bad and bad != text


def test_rows_are_cleaned_one_at_a_time() -> None:
    words = "The mean of all values is computed in one pass over the array, so no copy is made."
    base = {"kind": "docs", "path": "a.md"}
    rows = [base | {"text": t} for t in (words, "self", f"{words} Ask a.b@example.org.", "<b></b>")]
    rules, gone, masked, taken = clean.rules_of_quality(), [], Counter(), []

    def source():
        for row in rows:
            taken.append(row)
            yield row

    stream = clean.clean_rows(source(), rules, False, lambda *told: gone.append(told), masked)
    assert next(stream)["text"] == words and len(taken) == 1  # nothing is read ahead
    kept = [words, *(row["text"] for row in stream)]
    wanted = [clean.clean_document(row, rules) for row in rows]
    assert kept == [row["text"] for row, _, _ in wanted if row]
    assert [against[0] for _, against in gone] == [reason for row, reason, _ in wanted if not row]
    assert gone[-1][0] == rows[-1]  # of what nothing is left of, the original is shown
    assert masked == Counter(EMAIL=1)
