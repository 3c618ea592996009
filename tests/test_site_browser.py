"""The pages in a real browser: from file://, narrow and wide, light and dark, by keyboard."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_site import project, run
from test_report import DIFF, make_run

from llmchain.workbench import report, site

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: pages are not opened"),
]
PAGES = ["index.html", "01_data/deduplicate.html", "01_data/tokenize.html", "api/data/dedup.html"]
PAGES += ["report.html", "comparison.html"]
AXE = "axe-core@4.14.1"

# text with less contrast against what lies behind it than WCAG 2 asks for (4.5), as "text: ratio"
PALE = """() => {
  const rgb = s => (s.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), pale = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || ["SCRIPT", "STYLE", "title", "annotation"].includes(e.tagName)) continue;
    const style = getComputedStyle(e);
    const front = light(rgb(e.closest("svg") ? style.fill : style.color)), back = light(behind(e));
    const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
    if (ratio < 4.5) pale.push(`${text.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return pale;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A built site with a report beside its pages."
    root = project(tmp_path_factory.mktemp("project"))
    assert site.build(root, "_site", run(root / "runs/r1")) == []
    shutil.copy(report.write_report(make_run(root / "runs/r2")), root / "_site/report.html")
    (root / "_site/comparison.html").write_text(report.comparison_page(DIFF), encoding="utf-8")
    return root / "_site"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    "The source of axe-core, from the npm registry for the time of the test."
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", AXE, "--silent", "--fetch-retries=0", "--fetch-timeout=30000"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
        with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
            found = archive.extractfile("package/axe.min.js")
            assert found is not None
            return found.read().decode()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"{AXE} cannot be had from the npm registry: {error}")


@pytest.fixture
def open_page(browser, folder: Path) -> Iterator:
    "Opens a page; the test fails if it asked for anything outside, logged an error or a dialog."
    contexts, wrong = [], []

    def opened(name: str, width: int = 1280, scheme: str = "light", script: bool = True):
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.on("requestfailed", lambda r: wrong.append(f"failed {r.url}"))
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("dialog", lambda d: (wrong.append(f"dialog {d.message}"), d.dismiss()))
        page.goto((folder / name).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_pages_fit_and_can_be_read(open_page, name: str, scheme: str) -> None:
    for width in (1280, 390):
        page = open_page(name, width, scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} wide on a screen of {width}"
        assert page.evaluate(PALE) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_names_roles_and_order(open_page, name: str) -> None:
    page = open_page(name)
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("main").count() == page.locator("h1").count() == 1
    levels = [
        int(e[1]) for e in page.locator("h1,h2,h3,h4").evaluate_all("l => l.map(e => e.tagName)")
    ]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    for picture in page.locator("img, svg[role=img]").all():
        assert picture.get_attribute("alt") or picture.locator("title").text_content()
    assert (
        page.locator("button:not(:has-text('')), a:not([href])").count() <= 1
    )  # one made harmless


def test_keyboard_reaches_content_and_shows_where_it_is(open_page) -> None:
    page = open_page("01_data/deduplicate.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(open_page, axe: str, name: str) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        page = open_page(name, width, scheme)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.evaluate(axe)
        found = page.evaluate("axe.run({preload: false}).then(r => r.violations)")
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not bad, [(v["id"], v["nodes"][0]["html"][:200]) for v in bad]


def test_formulas_diagrams_and_figures_are_drawn(open_page) -> None:
    page = open_page("01_data/deduplicate.html")
    boxes = page.locator("math").evaluate_all("l => l.map(e => e.getBoundingClientRect().height)")
    assert len(boxes) == 2 and min(boxes) > 8 and page.locator("merror").count() == 0
    fraction = page.locator("math").first.evaluate(
        "e => [...e.querySelectorAll('mi')].map(m => m.getBoundingClientRect().left)"
    )
    assert fraction == sorted(fraction), "set by the browser, from left to right"
    page.locator("img").first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
    page = open_page("index.html")
    boxes = page.locator("svg.flow rect").evaluate_all("l => l.map(e => e.getBoundingClientRect())")
    assert len(boxes) == 3 and all(box["width"] > 20 for box in boxes)


def test_search_in_english_and_chinese(open_page) -> None:
    page = open_page("01_data/deduplicate.html")
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    status, hit = page.locator("[role=status]"), page.locator(".hits li a")
    page.keyboard.press("/")
    page.keyboard.type("zebra")
    hit.wait_for()
    scripts = [url.rpartition("/")[2] for url in asked if url.endswith(".js")]
    assert scripts == ["search.js"], "loaded when first wanted"
    assert hit.count() == 1 and "Tokens › Bytes first" in hit.text_content()
    assert hit.locator("mark").text_content() == "zebra"
    assert status.text_content() == "1 found"
    page.locator("#site-search").fill("斑马")
    page.wait_for_selector("mark >> text=斑马")
    assert hit.count() == 1
    page.locator("#site-search").fill("马斑")
    page.wait_for_selector("text=Nothing found")
    page.locator("#site-search").fill("near-ident")
    page.wait_for_selector(".hits >> text=Deduplication")
    page.locator("#site-search").fill("shingle")
    page.wait_for_selector(".hits mark >> text=Shingle")
    assert "data.dedup › shingles" in page.locator(".hits").inner_text()
    page.locator("#site-search").fill("<img src=x onerror=alert(1)>")
    page.locator("#site-search").fill("byte")
    page.wait_for_selector(".hits mark >> text=Byte")
    page.locator("#site-search").press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_data/tokenize.html#bytes-first")
    page.locator("#site-search").fill("zebra")
    hit.wait_for()
    page.locator("h1").click()
    assert not hit.is_visible(), "a click beside it closes the list"
    page.locator("#site-search").focus()
    hit.wait_for()
    page.keyboard.press("Escape")
    assert page.locator(".hits li").count() == 0


def test_what_the_search_takes_for_a_word(open_page) -> None:
    page = open_page("index.html")
    page.evaluate("""window.searchIndex = [
        ["text.html", "A", "", "heads of text, Multi-head n_gram_size, 注意力 é7", 1],
        ["heading.html", "B", "Heads", "GPT模型", 2], ["other.html", "C", "", "paragraph", 1]]""")

    def found(query: str) -> list[str]:
        return page.evaluate("query => find(query).map(section => section[0])", query)

    for query in ("multi-head", "N_GRAM_SIZE", "n_gr", "gram size", "注意", "意力", "力", "é7"):
        assert found(query) == ["text.html"], query
    for query in ("ulti", "力注", "multi paragraph", "", "!"):
        assert found(query) == [], query
    assert found("模型") == found("gpt模型") == ["heading.html"]
    assert found("heads") == ["heading.html", "text.html"], "a heading weighs more"


def test_dark_and_light_by_button(open_page) -> None:
    page = open_page("01_data/deduplicate.html", scheme="light")
    button, paper = page.locator(".theme"), "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    assert button.get_attribute("aria-pressed") == "false"
    button.press("Enter")
    assert button.get_attribute("aria-pressed") == "true" and page.evaluate(paper) != light
    page.goto(page.url.replace("deduplicate", "tokenize"))
    assert page.evaluate(paper) != light, "the choice goes along"
    page.locator(".theme").press("Enter")
    assert page.evaluate(paper) == light


def test_only_what_scrolls_is_a_stop_for_the_keyboard(open_page) -> None:
    stops = "l => l.filter(e => e.tabIndex === 0).length"
    wide = open_page("01_data/deduplicate.html", 1280)
    narrow = open_page("01_data/deduplicate.html", 390)
    narrow.wait_for_timeout(200)
    few, many = (p.locator("main pre, main .scroll").evaluate_all(stops) for p in (wide, narrow))
    assert few < many < wide.locator("main pre, main .scroll").count()


def test_menu_on_a_telephone(open_page) -> None:
    page = open_page("01_data/deduplicate.html", 390)
    menu, chapters = page.locator(".menu"), page.get_by_role("navigation", name="Chapters")
    assert not chapters.is_visible() and menu.get_attribute("aria-expanded") == "false"
    menu.press("Enter")
    assert chapters.is_visible() and menu.get_attribute("aria-expanded") == "true"
    chapters.get_by_text("Tokens").click()
    page.wait_for_url("**/tokenize.html")


def test_without_scripts_nothing_is_missing_but_the_search(open_page) -> None:
    page = open_page("01_data/deduplicate.html", 390, script=False)
    assert page.get_by_role("navigation", name="Chapters").is_visible()
    assert not page.locator(".menu").is_visible()
    assert page.get_by_role("heading", name="Two documents as sets").is_visible()


def test_following_the_course_from_the_front_page(open_page) -> None:
    page = open_page("index.html")
    assert page.locator("svg.flow").get_attribute("role") == "img"
    for title in ("Deduplication", "Tokens"):
        page.locator("a[rel=next]").click()
        assert page.locator("h1").text_content() == title
