"""What a reader sees of the outputs of a cell.

Outputs hold text of models, data and error messages. None of it may act: HTML keeps its tables
and text and loses whatever runs or loads, Markdown may format but brings no HTML along.
"""

import re
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
KEPT_ATTRIBUTES = set("alt class colspan headers open rowspan scope start title".split())
GONE = "script style template noscript iframe object svg math audio video select textarea".split()
SAFE = {"href": r"https?:|mailto:|#|[^:]*$", "src": r"data:image/(png|jpeg|gif|webp);"}


def tidy(outputs: list[Any]) -> list[Any]:
    "Outputs in one clean form each, without progress bars; pieces of one stream are one."
    kept: list[Any] = []
    for output in outputs:
        if output.output_type == "stream" and kept and kept[-1].get("name") == output.name:
            kept[-1].text += output.text
            continue
        if data := output.get("data"):
            forms = ((kind, clean(data[kind])) for kind, clean in SHOWN.items() if kind in data)
            output.data = dict(next(([form] for form in forms if form[1]), []))
        kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = WHERE.sub(r"\1", BAR.sub("", plain(output.text))).strip("\n")
    return [o for o in kept if o.output_type == "error" or o.get("text") or o.get("data")]


def seen(output: Any) -> tuple[str, str, str]:
    "(kind, content, text alternative) of a tidy output."
    ((kind, content),) = output.get("data", {"text/plain": output.get("text", "")}).items()
    return kind, content, output.get("metadata", {}).get(kind, {}).get("alt", "")


def shown(output: Any) -> str:
    "A tidy output as Markdown for pandoc, its picture with it."
    if output.output_type == "error":
        return fenced(plain("\n".join(output.traceback)), ".error")
    kind, text, alt = seen(output)
    if kind.startswith("image/"):
        alt = escape(" ".join(alt.split())).replace("\\", "&#92;")
        return f'![](data:{kind};base64,{text}){{alt="{alt}" loading=lazy}}'
    if kind == "text/html":
        return raw(f'<div class="out">{text}</div>')
    return fenced(text, ".out") if kind == "text/plain" else text


def fenced(text: str, language: str) -> str:
    "A block that ends where we say, whatever backticks the text holds."
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{{{language}}}\n{text}\n{fence}"


def raw(html: str) -> str:
    "HTML that pandoc passes on untouched."
    return fenced(html, "=html")


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
    from lxml.html import fromstring, tostring

    top = fromstring(f"<div>{html}</div>")
    etree.strip_elements(top, etree.Comment, etree.PI, *GONE, with_tail=False)
    for element in list(top.iter()):
        for name, value in element.items():
            target = re.sub(r"[\x00-\x20]", "", value).lower()
            if name not in KEPT_ATTRIBUTES and not re.match(SAFE.get(name, "(?!)"), target):
                del element.attrib[name]
        if element.tag not in KEPT_TAGS or (element.tag == "img" and not element.get("src")):
            element.drop_tag()
    found = bool(top.text_content().strip()) or top.find(".//img") is not None
    return str(tostring(top, encoding="unicode")) if found else ""


def one_line(data: str) -> str:
    "What notebooks hold of a picture, on one line and nothing else."
    return re.sub(r"[^\w+/=]", "", data)


SHOWN = {  # the first of these that an output has is what is seen
    "text/html": sanitised,
    "text/markdown": tame,
    "text/latex": tame,
    "image/png": one_line,
    "image/jpeg": one_line,
    "text/plain": plain,
}
