"""The report of a run: complete, escaped, and there even when pieces are missing."""

import json
import math
import re
from pathlib import Path

import pytest
from lxml import html
from small_site import png

from llmchain.workbench import report

EVIL = "<script>alert(1)</script>"
DIFF = {
    "runs": ["r1", f"r2{EVIL}"],
    "run": {"profile": ["smoke", "cpu"]},
    "environment": {"commit": ["ab" * 20, None]},
    "packages": {"torch": ["2.13.0", "2.14.0"]},
    "only": [["05_augment"], []],
    "chapters": {
        "08_gpt": {
            "code": "unknown",
            "parameters": {"lr": [0.001, 0.003], "prompt": [EVIL, True]},
            "metrics": {"val_loss": [4.0, 3.8], "from_zero": [0.0, 2.0], "lost": [math.nan, 1]},
            "data": {"corpus": [{"tier": "local", "fingerprint": "ef" * 32}, None]},
            "outputs": {"model/gpt": ["ab" * 32, "cd" * 32]},
        },
        "39_errata": {"code": "changed"},
    },
}


def make_run(folder: Path) -> Path:
    "A run of four chapters: two finished, one failed, one skipped; markup wherever text can be."
    claims = [
        {"name": "val_loss", "value": 4.2, "at_most": 5.3, "held": True},
        {"name": f"recall {EVIL}", "value": 0.61, "at_least": 0.93, "held": False},
        {"name": "speed", "value": 12345.6, "at_least": None, "held": None},
    ]
    gpt = {"id": "08_gpt", "title": f"GPT {EVIL}", "status": "ok", "seconds": 75.2}
    gpt |= {"peak_rss_mb": 2048, "parameters": {"prompt": f'"{EVIL}'}, "claims": claims}
    gpt |= {"metrics": {f"m{EVIL}": 3}}
    serve = {"id": "29_serve", "status": "cached", "seconds": 3, "peak_rss_mb": 300}
    broken = {"id": "12_classification", "status": "failed", "seconds": 1.5}
    broken |= {"error": f"ValueError: {EVIL}", "metrics": None, "claims": None}
    summary = {
        "run": "20260101T000000-smoke-ab12",
        "profile": "smoke",
        "started": "2026-01-01T00:00:00Z",
        "seconds": 3725.0,
        "device": f"cpu {EVIL}",
        "certificate": "ab" * 32,
        "chapters": [gpt, serve, broken, {"id": "33_customer_service", "status": "skipped"}],
    }
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    environment = {"python": "3.11", "cpu": {"name": EVIL}, "packages": {"torch": "2.13"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    curves = {
        "train/loss": [[i, 8 * math.exp(-i / 300) + 2] for i in range(0, 1000, 5)],
        "val/loss": [[i, 8 * math.exp(-i / 320) + 2.3] for i in range(0, 1000, 100)],
        f"train{EVIL[:8]}": [[0, 1.0], [1, math.nan], [2, math.inf], [3, 2.0]],
        "lost": [[0, math.nan]],
    }
    record = {
        "curves": curves,
        "figures": [
            {"name": "funnel", "alt": f'bars "{EVIL}', "file": "figures/funnel.png"},
            {"name": "outside", "alt": "no", "file": "../../outside.png"},
        ],
        "samples": [{"title": f"generated {EVIL}", "text": f"Once {EVIL} 从前"}],
    }
    (folder / "08_gpt/figures").mkdir(parents=True)
    (folder / "08_gpt/figures/funnel.png").write_bytes(png())
    (folder.parent / "outside.png").write_bytes(png())
    (folder / "08_gpt/record.json").write_text(json.dumps(record))
    (folder / "08_gpt/notebook.ipynb").write_text("{}")
    (folder / "29_serve").mkdir()
    rows = [{"text": "good film", "label": "positive", "score": 0.98123}, {"text": EVIL}]
    answers = {
        "samples": [{"title": "refusals", "text": "422"}, {"title": "Answers", "rows": rows}]
    }
    (folder / "29_serve/record.json").write_text(json.dumps(answers))
    return folder


@pytest.fixture
def page(tmp_path: Path) -> html.HtmlElement:
    text = report.write_report(make_run(tmp_path / "run")).read_text(encoding="utf-8")
    return html.document_fromstring(text)


def test_nothing_of_the_data_becomes_markup(page: html.HtmlElement) -> None:
    assert page.xpath("//script") == []
    assert "alert(1)" in page.text_content()
    for place in ("recall", "generated", "Once", "ValueError", "m<script>", "GPT"):
        assert place in page.text_content(), place
    assert f'"{EVIL}' in page.xpath("string(//th[.='prompt']/following-sibling::td)")


def test_the_file_needs_nothing_else(page: html.HtmlElement) -> None:
    loaded = [v for e, a, v, _ in page.iterlinks() if not (e.tag == "a" and a == "href")]
    assert loaded and all(value.startswith("data:") for value in loaded)
    style = "".join(page.xpath("//style/text()"))
    assert "light-dark(" in style and "url(" not in style


def test_links_lead_somewhere(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    page = html.fromstring(report.write_report(folder).read_bytes())
    ids = {e.get("id") for e in page.xpath("//*[@id]")}
    for target in page.xpath("//a/@href"):
        assert target[1:] in ids if target[0] == "#" else (folder / target).is_file(), target


def test_claims_are_told_in_words(page: html.HtmlElement) -> None:
    rows = [r.text_content() for r in page.xpath("//div[@aria-labelledby='claims']//tbody/tr")]
    assert len(rows) == 3
    assert "✓ held" in rows[0] and "≤ 5.3" in rows[0] and "4.2" in rows[0]
    assert "✗ broken" in rows[1] and "≥ 0.93" in rows[1]
    assert "– recorded" in rows[2] and "12,346" in rows[2]
    assert "1 of 3 broken" in page.text_content()


def test_summary_says_what_happened(page: html.HtmlElement) -> None:
    rows = {
        r.xpath("string(th)"): " ".join(r.text_content().split())
        for r in page.xpath("//div[@aria-labelledby='summary']//tbody/tr")
    }
    assert list(rows) == ["08_gpt", "29_serve", "12_classification", "33_customer_service"]
    assert (
        "✓ ok" in rows["08_gpt"] and "1 min 15 s" in rows["08_gpt"] and "2.0 GB" in rows["08_gpt"]
    )
    assert "recall" in rows["08_gpt"], "a broken claim comes before one that holds"
    assert "✗ failed" in rows["12_classification"] and "– skipped" in rows["33_customer_service"]
    assert "1 January 2026" in page.text_content() and "1 h 02 min" in page.text_content()


def test_curves_share_a_chart_and_are_described(page: html.HtmlElement) -> None:
    charts = page.xpath("//div[@class='charts']//*[local-name()='svg']")
    assert len(charts) == 2, "a curve without a finite point draws nothing"
    title = charts[0].xpath("string(*[local-name()='title'])")
    assert title == "loss, 0 to 995 steps: train from 10 to 2.29; val from 10.3 to 2.78"
    told = [t for t in charts[0].itertext() if t in ("train", "val", "step", "loss")]
    assert told == ["step", "loss", "train", "val"]
    (line,) = charts[0].xpath(".//*[contains(@style, 'var(--c0)')]/@d")[:1]
    places = [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", line)]
    assert len(places) > 10 and all(0 <= x <= 432 and 0 <= y <= 216 for x, y in places)
    assert places == sorted(places) and places[0][1] < places[-1][1], "the loss falls"


def test_samples_and_the_answers_of_the_service(page: html.HtmlElement) -> None:
    answers = page.xpath("//div[@class='answers']")[0]
    assert answers.xpath(".//figcaption/text()") == ["Answers"], "refusals stand with the chapter"
    assert answers.xpath(".//th/text()") == ["text", "label", "score"]
    assert "0.9812" in answers.text_content() and EVIL in answers.text_content()
    assert f"Once {EVIL} 从前" in page.text_content()


def test_figures_stay_inside_the_folder_of_their_chapter(page: html.HtmlElement) -> None:
    pictures = page.xpath("//img")
    assert [p.get("alt") for p in pictures] == [f'bars "{EVIL}']


def test_missing_pieces_are_said(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(
        json.dumps({"run": "r", "chapters": [{"id": "08_gpt", "status": "failed"}]})
    )
    (tmp_path / "environment.json").write_text('{"cut off')
    text = report.write_report(tmp_path).read_text()
    for said in ("recorded a curve", "made a claim", "did not finish", "was not recorded"):
        assert said in text
    (tmp_path / "summary.json").write_text(json.dumps({"run": "r", "chapters": []}))
    assert "has no chapters" in report.write_report(tmp_path).read_text()
    with pytest.raises(FileNotFoundError, match="no summary.json"):
        report.write_report(tmp_path / "nothing")


def test_results_table_in_both_languages(tmp_path: Path) -> None:
    summary = json.loads((make_run(tmp_path / "run") / "summary.json").read_text())
    english, chinese = (report.results_table(summary, lang) for lang in ("en", "zh"))
    lines = english.splitlines()
    assert re.fullmatch("<!-- run 20260101T000000-smoke-ab12, seal [0-9a-f]{16} -->", lines[-1])
    assert lines[-3].startswith("Run of 2026-01-01") and lines[-2] == lines[-4] == ""
    lines = lines[:-4]
    assert len(lines) == 6 and all(line.count("|") - line.count("\\|") == 6 for line in lines)
    assert "<script>" not in english and "✗ claim broken" in lines[2] and "✗ failed" in lines[4]
    assert "章节" in chinese and "失败" in chinese and "不成立" in chinese
    with pytest.raises(ValueError, match="one of: en, zh; got fr"):
        report.results_table(summary, "fr")


def test_two_runs_side_by_side() -> None:
    page = html.document_fromstring(report.comparison_page(DIFF))
    assert page.xpath("//script") == [] and EVIL in page.text_content()
    rows = {
        r.xpath("string(th)"): [" ".join(c.text_content().split()) for c in r.xpath("td")]
        for r in page.xpath("//section[@aria-labelledby='08_gpt']//tbody/tr")
    }
    assert rows["val_loss"] == ["4", "3.8", "-5.0%"] and rows["from_zero"][2] == "–"
    assert rows["model/gpt"] == ["ab" * 6, "cd" * 6] and rows["prompt"] == [EVIL, "True", "–"]
    assert rows["lost"] == ["nan", "1", "–"]
    assert rows["corpus"] == ["local " + "ef" * 6, "–"], "a set by its tier and a short hash"
    text = " ".join(page.text_content().split())
    assert "05_augment: only in r1" in text and "Here the code differs" in text
    assert "2.14.0" in text and "do not differ" not in text
    nothing = {"runs": ["a", "b"], "run": {}, "environment": {}, "packages": {}, "only": [[], []]}
    assert "The two runs do not differ" in report.comparison_page(nothing | {"chapters": {}})


def test_key_result_prefers_the_key_metric() -> None:
    claims = [{"name": "a", "value": 1, "at_least": 0, "held": True}]
    claims += [{"name": "b", "value": 2.5, "equal": 2.5, "held": True}]
    chapter = {"claims": claims, "metrics": {"a": 1, "b": 2.5, "c": 7}}
    assert report.key_result(chapter) == "a 1 ≥ 0"
    assert report.key_result(chapter | {"key_metric": "b"}) == "b 2.5 = 2.5"
    assert report.key_result(chapter | {"key_metric": "c"}) == "c 7"
    assert report.key_result({"claims": [], "metrics": {}}) == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (2.29, 10.3), (-3e-5, 4e-5), (0, 1e7), (1e-9, 1.1e-9)]
)
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    drawn = report.chart("loss", {"loss": [[0, low], [1, high]]})
    assert drawn is not None
    texts = html.fragment_fromstring(f"<svg>{drawn['svg']}").xpath(".//text")
    heights = [float(t.get("y")) for t in texts if re.fullmatch(r"[−\d.]+", t.text)]
    upwards = [y for y in heights if y < max(heights)]  # those of the steps stand lowest
    assert 2 <= len(upwards) <= 9 and all(0 <= y <= 216 for y in heights)
