"""What a reader sees of the outputs of a cell.

Outputs hold text of models, data and error messages. None of it may act: HTML keeps its tables
and text and loses whatever runs or loads, Markdown may format but brings no HTML along.
"""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
BAR = re.compile(r"^.*(\d+%\|.*\|.*|\d+it )\[\d+:\d+.*\]$\n?", re.M)  # tqdm's
WHERE = re.compile(r"^\S*/(\S+?\.py:\d+: )", re.M)  # the folder a warning comes from
SHOWN = ["text/html", "text/markdown", "text/latex", "image/svg+xml", "image/png", "image/jpeg"]
SHOWN += ["image/webp", "text/plain"]  # the first of these that an output has is what is seen
KEPT_TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure"
    " h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup"
    " table tbody td tfoot th thead tr u ul var".split()
)
KEPT_ATTRIBUTES = set("alt class colspan headers open rowspan scope start title".split())
GONE = set(
    "script style iframe object embed link meta form input button template noscript svg math audio"
    " video base textarea select".split()
)
SAFE = {"href": r"https?:|mailto:|#|[^:]*$", "src": r"data:image/(png|jpeg|gif|webp);"}


def tidy(outputs: list[Any]) -> list[Any]:
    "Outputs without progress bars, with clean HTML, and one stream for many pieces in a row."
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
            continue
        if html := output.get("data", {}).pop("text/html", ""):  # Quarto gets it clean, too
            if html := sanitised(html):
                output.data["text/html"] = html
        for kind in {"text/markdown", "text/latex"} & set(output.get("data", {})):
            output.data[kind] = tame(output.data[kind])
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = WHERE.sub(r"\1", BAR.sub("", plain(output.text))).strip("\n")
    return [o for o in kept if o.output_type != "stream" or o.text]


def shown(outputs: list[Any]) -> Iterator[tuple[str, str, str]]:
    "(kind, content, text alternative) of each tidy output; a text is HTML by now."
    for output in outputs:
        data = {"text/plain": output.get("text", "")}
        if output.output_type == "error":
            data = {"text/plain": "\n".join(output.traceback)}
        data = output.get("data", data)
        kind = next((kind for kind in SHOWN if kind in data), "")
        alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
        if kind == "text/plain":
            style = "error" if output.output_type == "error" else "out"
            yield "text/html", f'<pre class="{style}">{escape(plain(data[kind]))}</pre>', ""
        elif kind:
            yield kind, data[kind], alt


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

    try:
        top = fragment_fromstring(html, create_parent="div")
    except (etree.ParserError, etree.XMLSyntaxError):
        return ""
    etree.strip_elements(top, etree.Comment, etree.PI, *GONE, with_tail=False)
    for element in list(top.iterdescendants()):
        for name, value in element.items():
            target = re.sub(r"[\x00-\x20]", "", value).lower()
            if name not in KEPT_ATTRIBUTES and not re.match(SAFE.get(name, "(?!)"), target):
                del element.attrib[name]
        if element.tag not in KEPT_TAGS or (element.tag == "img" and not element.get("src")):
            element.drop_tag()
    found = bool(top.text_content().strip()) or top.find(".//img") is not None
    return str(tostring(top, encoding="unicode")) if found else ""
