"""The service's two pages in a real browser: keyboard, phone, dark, errors, and no outside request."""

import shutil
from collections.abc import Iterator

import pytest
from serving_fake import write_model

from llmchain.product.serving import RunningService, running_service

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: pages are not opened"),
]
# contrast of text against what lies behind it (WCAG 2), for an element that is named
CONTRAST = """(selector) => {
  const rgb = s => s.match(/[\\d.]+/g).map(Number);
  const light = c => c.slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const element = document.querySelector(selector);
  let back = element, colour = null;
  for (; back && !colour; back = back.parentElement) {
    const c = rgb(getComputedStyle(back).backgroundColor);
    if (c.length < 4 || c[3] > 0) colour = c;
  }
  const pair = [light(rgb(getComputedStyle(element).color)), light(colour || [255, 255, 255])].sort();
  return (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with running_service(write_model(tmp_path_factory.mktemp("model"))) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service: RunningService):
    "A page on a phone that records what it asks for and what it complains about."
    context = browser.new_context(viewport={"width": 390, "height": 800}, base_url=service.url)
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


def test_a_sentence_by_keyboard_alone(page, service: RunningService) -> None:
    page.goto("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("the film was joy joy")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "send"
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer:visible")
    assert page.inner_text("#label") == "good"
    assert page.locator("#rows tr").count() == 3
    assert page.inner_text("#rows tr:first-child th") == "good"
    assert "7 tokens" in page.inner_text("#note") and page.inner_text("#error") == ""
    assert all(url.startswith((service.url, "data:")) for url in page.asked), page.asked
    assert page.complaints == []


def test_ctrl_enter_sends_and_markup_stays_text(page) -> None:
    page.goto("/")
    page.fill("#text", "sorrow <img src=x onerror=alert(1)> <b>joy</b> sorrow")
    page.press("#text", "Control+Enter")
    page.wait_for_selector("#answer:visible")
    assert page.locator("img, #answer b").count() == 0 and page.complaints == []


def test_truncation_is_said(page) -> None:
    page.goto("/")
    page.fill("#text", "joy " * 30)
    page.click("#send")
    page.wait_for_selector("#answer:visible")
    assert "has been cut" in page.inner_text("#note")


@pytest.mark.parametrize("text, part", [("", "must not be empty"), ("x" * 2001, "2000 characters")])
def test_refusals_are_readable(page, text: str, part: str) -> None:
    page.goto("/")
    page.fill("#text", text)
    page.click("#send")
    page.wait_for_selector("#error:not(:empty)")  # a predicate would be refused by the page's CSP
    assert part in page.inner_text("#error") and not page.is_visible("#answer")
    assert page.get_attribute("#error", "role") == "alert"


def test_service_gone_is_said(page) -> None:
    page.goto("/")
    page.route("**/predict", lambda route: route.abort())
    page.fill("#text", "joy")
    page.click("#send")
    page.wait_for_selector("#error:not(:empty)")  # a predicate would be refused by the page's CSP
    assert "cannot be reached" in page.inner_text("#error") and page.is_enabled("#send")


def test_names_for_a_screen_reader(page) -> None:
    page.goto("/")
    assert page.get_by_label("Your text").count() == 1
    assert page.get_by_role("button", name="Classify").count() == 1
    assert page.get_attribute("html", "lang") == "en" and page.title() == "Ask the model"
    assert page.get_attribute("#answer", "aria-live") == "polite"


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_light_and_dark(page, path: str, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    named = ["h1", "p.soft", "a", "#hint", "button"] if path == "/" else ["h1", "td", "pre", "a"]
    for selector in named:
        assert page.evaluate(CONTRAST, selector) >= 4.5, (selector, scheme)


def test_docs_need_no_script_and_no_internet(browser, service: RunningService) -> None:
    context = browser.new_context(java_script_enabled=False)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/docs")
    assert "POST /predict" in page.inner_text("main") and "too many requests" in page.inner_text(
        "main"
    )
    assert all(url.startswith((service.url, "data:")) for url in asked), asked
    context.close()


def test_injected_script_is_blocked(page) -> None:
    page.goto("/")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.x = 1'}))"
    )
    assert page.evaluate("window.x") is None
    assert any("Content Security Policy" in text for text in page.complaints)
