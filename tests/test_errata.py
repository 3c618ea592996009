"""The errata: what is quoted, that ten errors are there, and that each is proved by a claim."""

import json
import re
from pathlib import Path

import pytest

from llmchain.workbench.contract import read_chapter

ROOT = Path(__file__).parents[1]
QUOTES = json.loads((ROOT / "data" / "article" / "quotes.json").read_text(encoding="utf-8"))
CHAPTER = read_chapter(ROOT / "nbs" / "07_errata" / "39_errata.ipynb")
CODE = "\n".join(CHAPTER.code)
ERRORS = [f"E{number}" for number in range(1, 11)]


def test_quotations_are_short_and_say_where_they_stand() -> None:
    assert QUOTES["title"] and "禅与计算机程序设计艺术" in QUOTES["author"]
    names = [quote["id"] for quote in QUOTES["quotes"]]
    assert len(set(names)) == len(names)
    for quote in QUOTES["quotes"]:
        assert re.fullmatch(r"\d(\.\d+)*", quote["section"]), quote
        assert 0 < len(quote["text"]) <= 120 and "\n" not in quote["text"], quote["id"]
        assert set(quote["errors"]) <= set(ERRORS), quote["id"]
    assert sum(len(quote["text"]) for quote in QUOTES["quotes"]) < 700


def test_every_error_has_a_quotation_a_section_and_a_claim() -> None:
    prose = "\n".join(
        "".join(cell["source"])
        for cell in json.loads(CHAPTER.path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "markdown"
    )
    quoted = {error for quote in QUOTES["quotes"] for error in quote["errors"]}
    for error in ERRORS:
        assert error in quoted, f"{error} rests on no quotation"
        assert re.search(rf"^## {error}: .*§.*(wrong|missing|imprecise)\)$", prose, re.M), error
        assert f'ch.claim("{error.lower()}_' in CODE, f"{error} has no claim"
        assert f'("{error}", ' in CODE, f"{error} is not in the summary"
    said = re.split(r"^## (?=E\d)", prose, flags=re.M)[1:]
    for section in said:
        assert "**The article says**" in section and "**Right**" in section, section[:60]


def test_every_quotation_is_used() -> None:
    used = set(re.findall(r'quote\["(\w+)"\]', CODE)) | set(re.findall(r'"(\w+_formula\w*)"', CODE))
    symbols = {
        "mlm_symbols",
        "nsp_symbols",
        "ce_symbols",
        "mse_named",
        "clm_named",
        "derivation_title",
    }
    assert {quote["id"] for quote in QUOTES["quotes"]} <= used | symbols


def test_the_article_holds_every_quotation(local_data: Path) -> None:
    article = local_data.parent / "article.zh.md"
    if not article.is_file():
        pytest.skip("the article does not lie beside the local data sets")
    text = article.read_text(encoding="utf-8")
    for quote in QUOTES["quotes"]:
        assert quote["text"] in text, quote["id"]


def test_it_exports_nothing() -> None:
    assert CHAPTER.module == "" and "#| export" not in CODE
