"""The built-in preview: what it stages, what pages it makes, and what it refuses."""

import json
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import yaml
from lxml import html
from small_site import code, md, project, run, shown, write

from llmchain.workbench import apidoc, diagram, outputs, site

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = project(tmp_path_factory.mktemp("project"))
    problems = site.build(root, "_site", run(root / "runs/r1"))
    return root / "_site", problems


@pytest.fixture
def page(built: tuple[Path, list[str]]) -> html.HtmlElement:
    return html.document_fromstring((built[0] / "01_data/deduplicate.html").read_text())


def test_a_clean_project_has_no_problems(built: tuple[Path, list[str]]) -> None:
    folder, problems = built
    assert problems == []
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*.html")}
    chapters = {"index.html", "01_data/deduplicate.html", "01_data/tokenize.html"}
    assert names == chapters | {"api/data/dedup.html"}, "an API page for what chapters export only"


def test_page_has_its_frame(page: html.HtmlElement) -> None:
    assert page.get("lang") == "en"
    assert page.xpath("//main/h1/text()") == ["Deduplication"]
    assert page.xpath("//main/p[@class='lead']/text()") == ["Find near-identical documents"]
    assert page.xpath("//a[@aria-current='page']/text()") == ["Deduplication"]
    assert page.xpath("//a[@rel='prev']/@href") == ["../index.html"]
    assert page.xpath("//a[@rel='next']/@href") == ["../01_data/tokenize.html"]
    assert page.xpath("//aside//a/@href")[:2] == ["#two-documents-as-sets", "#shingles"]
    assert page.xpath("//nav[@aria-label='Chapters']//p/text()") == ["Data"]
    assert page.xpath("//nav[@aria-label='Chapters']//summary/text()") == ["API"]


def test_the_footer_holds_the_certificate(built: tuple[Path, list[str]], tmp_path: Path) -> None:
    for path in built[0].rglob("*.html"):
        (footer,) = html.document_fromstring(path.read_text()).xpath("//footer")
        assert "ab" * 32 in footer.text_content() and "llmchain verify r1" in footer.text_content()
    site.build(project(tmp_path), "_site")
    assert "no run was made" in (tmp_path / "_site/index.html").read_text()


def test_links_between_notebooks_become_links_between_pages(page: html.HtmlElement) -> None:
    links = page.xpath("//main/p/a/@href")
    assert links[:3] == ["../index.html", "tokenize.html#bytes-first", "#exported-functions"]
    assert links[3:] == ["../api/data/dedup.html", "../api/data/dedup.html#shingles"]


def test_formulas_code_and_chinese(page: html.HtmlElement) -> None:
    assert "\\cap" in page.xpath("string(//math[@display='inline']//annotation)")
    assert page.xpath("//math[@display='block']/parent::span[@aria-label='Formula']")
    assert page.xpath("//span[@lang='zh']/text()") == ["去重"]
    assert page.xpath("//main//summary/text()") == ["Imports", "What is checked"]
    shown_code = "".join(page.xpath("//main//pre//text()"))
    assert (
        "#|" not in shown_code and "default_exp" not in shown_code and "import zlib" in shown_code
    )
    assert "corpus/clean" not in page.text_content(), "the declaration of the chapter is not shown"


def test_outputs_show_and_do_nothing(page: html.HtmlElement, built: tuple[Path, list[str]]) -> None:
    text = page.text_content()
    assert "red\nnew <i>" in text and "old" not in text, "colours and rewritten lines are gone"
    assert "docs:" not in text, "progress bars are gone"
    assert "<script>bad()</script>" in text and page.xpath("//strong[text()='1,234']")
    assert not [s for s in page.xpath("//main//script")]
    for element in page.iter():
        if isinstance(element.tag, str):
            assert not [a for a in element.attrib if a.startswith("on")]
            assert not re.match(r"\s*java", element.get("href", ""))
    picture = page.xpath("//main//img")
    assert [p.get("alt") for p in picture] == ["a grey field", "another"]
    assert (built[0] / "01_data" / picture[0].get("src")).is_file()


def test_functions_are_documented_from_their_docments(built: tuple[Path, list[str]]) -> None:
    page = html.document_fromstring((built[0] / "api/data/dedup.html").read_text())
    assert page.xpath("//main/h1/text()") == ["data.dedup"]
    assert page.xpath("//main/p[@class='lead']/text()") == ["Find near-identical documents"]
    table = page.xpath("//h2[@id='shingles']/following::table[1]")[0]
    rows = [[" ".join(c.text_content().split()) for c in r] for r in table.xpath(".//tr")]
    assert rows == [
        ["Name", "Type", "Default", "Meaning"],
        ["text", "str", "", "one document <b>"],
        ["n", "int | None", "5", "characters in one shingle | at least 1"],
        ["result", "set[int]", "", "CRC-32 of every shingle"],
    ]
    call = page.xpath("string(//h2[@id='shingles']/following::pre[1])")
    assert call == "shingles(text: str, n: int | None = 5) -> set[int]"


def test_api_of_every_kind_of_parameter_and_of_classes() -> None:
    source = """
@dataclass
class Config:
    "Sizes."
    n: int  # how many
    def copy(self, deep: bool = False) -> "Config":
        "Another."
class _Hidden: ...
def call(
    a,  # first
    /,
    *rest: int,  # more
    key: str = "|",  # only by name
    **options,  # others
) -> None:
    "Do it."
def keyword(*, k: int = 2): ...
"""
    config, call, keyword = apidoc.symbols(source).values()
    assert "| `n` | `int` |  | how many |" in config
    assert "- `copy(deep: bool = False) -> 'Config'`: Another." in config
    assert "call(a, /, *rest: int, key: str = '|', **options) -> None" in call
    assert "| `*rest` | `int` |  | more |" in call and "| `**options` |" in call
    assert "*result*" not in call and "keyword(*, k: int = 2)" in keyword
    assert "Meaning" not in keyword, "a table that says nothing is left out"


def test_workbench_modules_are_described_if_a_chapter_imports_them(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "llmchain/workbench").mkdir()
    for name in ("ledger", "cli"):
        (root / f"llmchain/workbench/{name}.py").write_text('"Pairs."\ndef paired(): "Gain."\n')
    write(root / "nbs/01_data/05_x.ipynb", [code("from llmchain.workbench.ledger import paired")])
    assert list(apidoc.pages(root)) == ["data.dedup", "workbench.ledger"]


def test_a_chapter_that_was_not_run_says_so(built: tuple[Path, list[str]]) -> None:
    bare = (built[0] / "01_data/tokenize.html").read_text()
    assert "Shown from its source" in bare and "print" in bare
    assert "Shown from its source" not in (built[0] / "index.html").read_text()
    assert "Shown from its source" not in (built[0] / "01_data/deduplicate.html").read_text()


def test_no_page_asks_for_anything_outside(built: tuple[Path, list[str]]) -> None:
    for path in built[0].rglob("*.html"):
        page = html.document_fromstring(path.read_text())
        for element, _, target, _ in page.iterlinks():
            assert element.tag == "a" or not re.match(r"(https?:)?//", target), target
    text = "".join(p.read_text() for p in (*built[0].glob("*.css"), *built[0].glob("*.js")))
    assert (
        "http" not in text
        and "fetch(" not in text
        and "innerHTML" not in text.replace("never innerHTML", "")
    )


def test_the_search_index_is_made_at_build_time(built: tuple[Path, list[str]]) -> None:
    text = (built[0] / "search.js").read_text()
    index = json.loads(text.removeprefix("window.searchIndex=").rstrip(";\n"))
    at = {url: (title, heading, text) for url, title, heading, text, _ in index}
    _, heading, said = at["01_data/tokenize.html#bytes-first"]
    assert heading == "Bytes first" and "斑马" in said
    assert [url for url, entry in at.items() if "zebra" in entry[2]] == [
        "01_data/tokenize.html#bytes-first"
    ]
    assert at["01_data/deduplicate.html"][0] == "Deduplication"
    assert "Shingles" in at["01_data/deduplicate.html#shingles"][1]
    assert "api/data/dedup.html#shingles" in at


def test_hashes_are_not_worth_finding() -> None:
    page = {"url": "a.html", "title": "A", "description": "", "body": f"<p>sha {'ab' * 32} 马</p>"}
    assert [text.split() for _, _, _, text, _ in site.read_sections(page)] == [["sha", "…", "马"]]


def test_staged_notebooks_are_ready_for_quarto(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    root = project(tmp_path / "p")
    executed = {"03_deduplicate": run(root / "r") / "03_deduplicate/notebook.ipynb"}
    out = site.stage(root, executed, tmp_path / "staged")
    settings = yaml.safe_load((out / "_quarto.yml").read_text())
    assert settings["project"]["render"] == ["index.ipynb", "*/*.ipynb", "api/*/*.ipynb"]
    assert "llmchain verify r" in settings["website"]["page-footer"]["left"]
    rendered = {p for pattern in settings["project"]["render"] for p in out.glob(pattern)}
    listed = {out / path for _, path in site.sidebar(settings)}
    assert rendered == listed, "Quarto and the preview make the same set of pages"
    nb = json.loads((out / "01_data/deduplicate.ipynb").read_text())
    first = "".join(nb["cells"][0]["source"])
    assert nb["cells"][0]["cell_type"] == "raw" and "title: Deduplication" in first
    assert set(nb["metadata"]) == {"kernelspec"}
    assert all(cell["metadata"] == {} for cell in nb["cells"])
    sources = ["".join(cell["source"]) for cell in nb["cells"]]
    assert not [s for s in sources if re.search(r"#\|\s*(export|default_exp|hide)", s)]
    outputs = json.dumps([cell.get("outputs") for cell in nb["cells"]])
    assert "bad()" not in outputs.replace("\\\\<script>bad()", ""), "harmless before Quarto sees it"
    assert any(s.startswith('#| fig-alt: "a grey field; another"') for s in sources)
    assert any("(tokenize.ipynb#bytes-first)" in s for s in sources)
    index = (out / "index.ipynb").read_text()
    assert "```{mermaid}" in index and "(01_data/deduplicate.ipynb)" in index


def broken_project(root: Path) -> Path:
    root.mkdir()
    project(root)
    write(
        root / "nbs/01_data/04_tokenize.ipynb",
        [
            md("# Tokens\n\n> Text as numbers"),
            md("[a](05_augment.ipynb), [b](03_deduplicate.ipynb#nowhere), [c](https://e.org)"),
            md("![](https://e.org/a.png)\n\n![x](gone.png)\n\nSee @fig-none."),
            md("## Two\n\n#### Four\n\n[bad](javascript:alert(1))"),
            code("x", shown({"image/png": "aGk=", "text/plain": "x"})),
            code("1 / 0", {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["E"]}),
            md("```mermaid\nsequenceDiagram\n  A->>B: hi\n```"),
        ],
    )
    settings = (
        (root / "_quarto.yml")
        .read_text()
        .replace("03_dedup", "02_gone.ipynb, nbs/01_data/03_dedup")
    )
    (root / "_quarto.yml").write_text(settings)
    return root


def test_every_kind_of_problem_is_named(tmp_path: Path) -> None:
    problems = site.build(broken_project(tmp_path / "p"), "_site")
    text = "\n".join(problems)
    for expected in (
        "_quarto.yml: nbs/01_data/02_gone.ipynb is in the sidebar but does not exist",
        "01_data/tokenize.html: link to augment.html: there is no such page or file",
        "01_data/tokenize.html: link to deduplicate.html#nowhere: 01_data/deduplicate.html has no such",
        "01_data/tokenize.html: <img src> points outside: https://e.org/a.png",
        "01_data/tokenize.html: link to gone.png: there is no such page or file",
        "01_data/tokenize.html: unresolved reference @fig-none",
        "01_data/tokenize.html: heading level jumps from 2 to 4",
        "01_data/tokenize.html: <a href> points outside: javascript:alert(1)",
        "01_data/tokenize.html: a cell failed: E",
        "01_data/tokenize.html: picture 1 has no alternative text",
        "01_data/tokenize.html: mermaid: only graph and flowchart",
    ):
        assert expected in text, expected
    assert all("\n" not in problem for problem in problems)
    assert "https://e.org\n" not in text + "\n", "a link to another site is no problem"


def test_paths_of_this_machine_are_found_wherever_runs_lie(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    root = project(tmp_path / "p")
    for folder, told in ((tmp_path / "elsewhere", True), (tmp_path / "third", False)):
        output = {"output_type": "stream", "name": "stdout", "text": f"{folder}/store/x"}
        notebook = tmp_path / "elsewhere" / "r1" / "03_deduplicate" / "notebook.ipynb"
        notebook.parent.mkdir(parents=True, exist_ok=True)
        write(notebook, [md("# Deduplication\n> x"), code("print(path)", output)])
        (notebook.parents[1] / "summary.json").write_text("{}")
        problems = site.build(root, "_site", tmp_path / "elsewhere" / "r1")
        found = "01_data/deduplicate.html: shows a path of this machine" in problems
        assert found == told, problems


def test_a_folder_with_other_things_is_not_emptied(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not overwritten"):
        site.build(tmp_path, "precious")
    with pytest.raises(FileExistsError, match="not overwritten"):
        site.build(tmp_path, ".")
    assert (tmp_path / "precious/thesis.txt").exists()
    with pytest.raises(FileNotFoundError, match="no _quarto.yml"):
        site.build(tmp_path / "precious")


@pytest.mark.parametrize(
    "given",
    [
        "<img src=x onerror=bad()>",
        "<svg onload=bad()>",
        "<a href='&#106;avascript:bad()'>x</a>",
        "<a href=' data:text/html,<script>bad()</script>'>x</a>",
        "<table><tr><td style='background:url(https://e.org)'>x</table>",
        "<img src='https://e.org/pixel.png' alt='x'>",
        "<iframe srcdoc='<script>bad()</script>'></iframe>",
        "<math><mtext></mtext><script>bad()</script></math>",
        "<b onclick=bad()>x",
        "<!--><script>bad()</script>-->",
        "<form action=javascript:bad()><button>x</button></form>",
    ],
)
def test_sanitiser_takes_away_what_acts_or_loads(given: str) -> None:
    clean = outputs.sanitised(given)
    assert not re.search(r"bad\(|e\.org|javascript|<script|onerror|srcdoc|style=", clean), clean


def test_sanitiser_keeps_a_table_with_its_text() -> None:
    given = '<table class="dataframe"><thead><tr><th scope="col">a &lt; b</th></tr></thead></table>'
    assert given in outputs.sanitised(given)
    assert outputs.sanitised("  ") == outputs.sanitised("<script>x</script>") == ""


def test_markdown_of_outputs_cannot_bring_markup() -> None:
    assert outputs.tame("a <b> `<c>` :::") == "a \\<b> `<c>` \\:::"
    assert "{=html}" not in outputs.tame("```{=html}\n<script>\n```")


FLOW = """accTitle: The chain
subgraph one
A["collect (采集)"] --> B(clean) -->|rows| C{train}; A & B -.-> C
end
C -- done --> D([serve])
class A big"""


def test_flowcharts_are_drawn_in_order() -> None:
    direction, said, nodes, edges = diagram.parse(f"%% note\nflowchart LR\n{FLOW}")
    assert (direction, said) == ("LR", "The chain")
    assert nodes == {"A": "collect (采集)", "B": "clean", "C": "train", "D": "serve"}
    pairs = [("A", "B", ""), ("B", "C", "rows"), ("A", "C", ""), ("B", "C", ""), ("C", "D", "done")]
    assert edges == pairs
    svg = html.fragment_fromstring(diagram.mermaid_svg(f"graph TB\n{FLOW}"))
    heights = {e.text: float(e.get("y")) for e in svg.iter("text") if not e.get("class")}
    assert sorted(heights, key=heights.__getitem__) == list(nodes.values())
    assert len(svg.findall("path")) == len(edges), "an arrow for each edge"
    assert {e.text for e in svg.find_class("label") if e.text} == {"rows", "done"}


@pytest.mark.parametrize("direction", ["TB", "BT"])
def test_arrows_point_from_the_first_to_the_second(direction: str) -> None:
    source = f"graph {direction}\nA --> B --> C\nA --> C\nC --> A"
    svg = html.fragment_fromstring(diagram.mermaid_svg(source))
    at = {e.text: float(e.get("y")) for e in svg.iter("text") if not e.get("class")}
    ends = []
    for path in svg.findall("path"):  # the line, before the head is drawn in relative steps
        line = re.match(r"M\S+ ([\d.]+)(?:V|C.* )([\d.]+)m", path.get("d"))
        ends.append([min(at, key=lambda n: abs(at[n] - y)) for y in map(float, line.groups())])
    assert ends == [["A", "B"], ["B", "C"], ["A", "C"], ["C", "A"]]


@pytest.mark.parametrize("direction", ["TB", "TD", "LR", "RL", "BT"])
def test_boxes_of_a_flowchart_do_not_overlap(direction: str) -> None:
    source = (
        f"graph {direction}\nA[one<br>two] --> B[a much longer name]\nA-->C\nB-->D\nC-->D\nD-->A"
    )
    svg = html.fragment_fromstring(diagram.mermaid_svg(source))
    boxes = [[float(r.get(k)) for k in ("x", "y", "width", "height")] for r in svg.iter("rect")]
    assert len(boxes) == 4
    _, _, w, h = map(float, (svg.get("viewbox") or svg.get("viewBox")).split())
    for i, (x, y, bw, bh) in enumerate(boxes):
        assert 0 <= x and x + bw <= w + 1 and 0 <= y and y + bh <= h + 1
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + bw <= x2 or x2 + w2 <= x or y + bh <= y2 or y2 + h2 <= y
    assert "one two → a much longer name" in svg.findtext("title")


def test_flowchart_text_is_escaped() -> None:
    assert "<script" not in diagram.mermaid_svg('graph TB\nA["<script>x</script>"] --> B')


def test_sidebar_of_the_project_lists_its_notebooks() -> None:
    settings = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    paths = [path for _, path in site.sidebar(settings)]
    assert paths[0] == "nbs/index.ipynb" and len(set(map(site.address, paths))) == len(paths)
    assert paths[1:] == sorted(paths[1:]), "the reading order: by part, then by number"
    there = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").glob("[0-9]*/[0-9]*.ipynb")}
    assert there <= set(paths), "a notebook is missing in the sidebar"


def test_importing_the_site_loads_nothing_heavy() -> None:
    check = "import sys, llmchain.workbench.site, llmchain.workbench.report as r; print([m for m in"
    check += " ('torch', 'jinja2', 'nbformat', 'pypandoc', 'nbdev', 'lxml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_serving_on_this_machine_only(built: tuple[Path, list[str]], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} is taken"):
            probe.listen()
            site.serve(built[0], port)
    command = f"from llmchain.workbench.site import serve; serve({str(built[0])!r}, {port})"
    process = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(30, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"site: http://127.0.0.1:{port}/")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=10) as answer:
            assert b"The map" in answer.read()
    finally:
        process.terminate()
        process.wait()
        timer.cancel()
    with pytest.raises(FileNotFoundError, match="no index.html"):
        site.serve(tmp_path)


def test_an_executed_notebook_is_shown_with_todays_prose(tmp_path: Path) -> None:
    import nbformat

    def read(prose: str, *cells: dict) -> nbformat.NotebookNode:
        write(tmp_path / "n.ipynb", [md(prose), *cells])
        return nbformat.read(tmp_path / "n.ipynb", 4)

    given, injected = (
        code("n = 1", tags=("parameters",)),
        code("n = 2", tags=("injected-parameters",)),
    )
    two = {"output_type": "stream", "name": "stdout", "text": "2"}
    ran = read("old words", given, injected, code("print(n)", two))
    merged = site.with_todays_prose(ran, read("new words", given, code("print(n)"))).cells
    assert [c.source for c in merged] == ["new words", "n = 1", "n = 2", "print(n)"]
    assert merged[-1].outputs[0]["text"] == "2"
    ran = read("old words", given, injected, code("print(n)", two))
    assert site.with_todays_prose(ran, read("new words", given)).cells[0].source == "old words"


# keys of _quarto.yml and of cells, looked up in Quarto's schema (src/resources/schema)
KNOWN = {
    "": "project website lang execute format",
    "project": "type output-dir render resources",
    "website": "title description search page-navigation page-footer sidebar",
    "website.search": "location type",
    "website.page-footer": "left center right",
    "website.sidebar": "style collapse-level contents",
    "execute": "enabled",
    "format": "html",
    "format.html": "theme respect-user-color-scheme html-math-method toc toc-depth code-copy"
    " code-overflow embed-resources",
    "format.html.theme": "light dark",
}


def test_quarto_knows_every_key() -> None:
    def walk(settings: dict, above: str) -> None:
        assert set(settings) <= set(KNOWN[above].split()), above
        for key, value in settings.items():
            if isinstance(value, dict):
                walk(value, f"{above}.{key}".lstrip("."))

    settings = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    walk(settings, "")
    assert settings["format"]["html"]["html-math-method"] == "mathml", "MathJax would be fetched"
    for theme in settings["format"]["html"]["theme"].values():
        style = (ROOT / theme[-1]).read_text()
        assert "$web-font-path: false" in style, "the theme would fetch its font"
