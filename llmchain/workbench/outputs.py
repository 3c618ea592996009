"""What a reader sees of the outputs of a cell.

Outputs hold text of models, data and error messages. None of it may act: HTML keeps its tables
and text and loses whatever runs or loads, Markdown may format but brings no HTML along.
"""

import re
from collections.abc import Iterable
from html import escape
from typing import Any

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
BAR = re.compile(r"^.*(\d+%\|.*\|.*|\d+it )\[\d+:\d+.*\]$\n?", re.M)  # tqdm's
WHERE = re.compile(r"^\S*/(\S+?\.py:\d+: )", re.M)  # the folder a warning comes from
KEPT_TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure"
    " h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup"
    " table tbody td tfoot th thead tr u ul var".split()
)
KEPT_ATTRIBUTES = set(
    "alt class colspan headers href lang open rowspan scope src start title".split()
)
GONE = {"script", "style", "iframe", "object", "embed", "link", "meta", "form", "input", "button"}
GONE |= {"template", "noscript", "svg", "math", "audio", "video", "base", "textarea", "select"}


def tidy(outputs: list[Any]) -> list[Any]:
    "Outputs without progress bars, with clean HTML, and one stream for many pieces in a row."
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream":
            output.text = "".join(output.text)
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        elif "metadata" in output:
            output.metadata = {}
            html = sanitised("".join(output.data.pop("text/html", "")))  # Quarto gets it clean, too
            output.data.update({"text/html": html} if html else {})
            for kind in {"text/markdown", "text/latex"} & set(output.data):
                output.data[kind] = tame("".join(output.data[kind]))
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = WHERE.sub(r"\1", BAR.sub("", plain(output.text))).strip("\n")
    return [o for o in kept if o.output_type != "stream" or o.text]


def shown(output: Any) -> Iterable[tuple[str, str]]:
    "(kind, content) of what a reader sees of a tidy output: html, markdown or a picture."
    if output.output_type == "stream":
        yield "html", f'<pre class="out">{escape("".join(output.text))}</pre>'
        return
    if output.output_type == "error":
        yield "html", f'<pre class="error">{escape(plain(chr(10).join(output.traceback)))}</pre>'
        return
    data = {
        k: v if isinstance(v, str) else "".join(v)
        for k, v in output.data.items()
        if k != "application/json" and not isinstance(v, dict)
    }
    if "text/html" in data:
        yield "html", data["text/html"]
    elif found := next((k for k in ("text/markdown", "text/latex") if k in data), ""):
        yield "markdown", data[found]
    elif found := next((k for k in data if re.fullmatch("image/(svg.xml|png|jpeg|webp)", k)), ""):
        yield found, data[found]
    elif "text/plain" in data:
        yield "html", f'<pre class="out">{escape(plain(data["text/plain"]))}</pre>'


def plain(text: str) -> str:
    "Text as a terminal leaves it: no colours, and of a line that was rewritten the last state."
    text = ANSI.sub("", text).replace("\r\n", "\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).strip("\n")


def tame(markdown: str) -> str:
    "Markdown that an output made: it may format, not bring HTML or raw blocks along."
    pieces = re.split(r"(`+[^`]*`+)", markdown)
    pieces[::2] = [piece.replace("<", "\\<") for piece in pieces[::2]]
    return "".join(pieces).replace("{=", "{ =").replace(":::", "\\:::")


def sanitised(html: str) -> str:
    "HTML that an output made: tables and text stay, whatever acts or loads goes."
    from lxml import etree
    from lxml.html import fragment_fromstring, tostring

    if not html.strip():
        return ""
    try:
        top = fragment_fromstring(html, create_parent="div")
    except (etree.ParserError, etree.XMLSyntaxError):
        return ""
    for element in list(top.iter()):
        if element is top:
            continue
        if not isinstance(element.tag, str) or element.tag in GONE:
            element.drop_tree() if isinstance(element.tag, str) else element.getparent().remove(
                element
            )
            continue
        for name, value in list(element.attrib.items()):
            target = re.sub(r"[\x00-\x20]", "", value).lower()
            local = name != "href" or re.match(r"https?:|mailto:|#|[^:]*$", target)
            picture = name != "src" or re.match(r"data:image/(png|jpeg|gif|webp);", target)
            if name not in KEPT_ATTRIBUTES or not local or not picture:
                del element.attrib[name]
        if element.tag not in KEPT_TAGS or (element.tag == "img" and not element.get("src")):
            element.drop_tag()
    found = bool(top.text_content().strip()) or top.find(".//img") is not None
    return tostring(top, encoding="unicode") if found else ""
