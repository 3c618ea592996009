"""Mermaid flowcharts as static SVG, so that a page needs neither a browser nor a request.

Understood: `graph` and `flowchart`, chains of edges with labels, the usual shapes of nodes, `&`, and
`accTitle`/`accDescr`. Subgraphs and styles are skipped: the order of the chain is what a reader comes
for. The nodes stand below each other as they are first named (`BT` and `RL`: above each other); an
arrow to a neighbour is straight, every other one an arc at the right, wider the farther it goes.
"""

import re
import unicodedata
from html import escape

FIGURE = 7.2  # width of a Latin letter at the font size used, in units of the drawing
BOX, STEP = 34.0, 66.0  # height of a box, and from one to the next
LEAST = 0.75  # text is never drawn smaller than this; the diagram scrolls instead
TOKEN = re.compile(
    r"""(?P<name>\w(?:[\w.\-]*\w)?) \s*
            (?:@\{.*?\} | [\[({>]+"(?P<quoted>[^"]*)"[\])}]+
              | [\[({>]+[/\\]*(?P<text>.*?)[/\\]*[\])}]+ (?=\s*(?:$|&|:::|<?--|==|-\.)))?
            (?::::\w+)?
      | (?:(?:--|==|-\.)\s+(?P<inner>[^|>]+?)\s+)?
            <?(?P<arrow>-{2,}|={2,}|-?\.+-)[>ox]?\s*(?:\|(?P<label>[^|]*)\|)?""",
    re.X,
)
SKIPPED = re.compile(r"(subgraph|end|classDef|class|style|linkStyle|click|direction|%%)\b|%%")


def width(text: str) -> float:
    "Width of a line of text; a Chinese character is two letters wide."
    return FIGURE * sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def parse(source: str) -> tuple[str, str, dict[str, str], list[tuple[str, str, str]]]:
    "(direction, description, label of each node, edges as (from, to, label))."
    direction, said, nodes, edges = "TB", "", {}, []
    for line in map(str.strip, re.split(r"[\n;]", source)):
        if head := re.match(r"(?:graph|flowchart)\s*(TB|TD|LR|RL|BT)?\s*$", line):
            direction = head[1] or "TB"
        elif words := re.match(r"acc(?:Title|Descr)\s*:\s*(.*)", line):
            said = f"{said} {words[1]}".strip()
        elif line and not SKIPPED.match(line):
            before: list[str] = []
            group: list[str] = []
            for token in TOKEN.finditer(line):
                if token["arrow"]:
                    before, group = group, []
                    label = (token["inner"] or token["label"] or "").strip('" ')
                    continue
                name, text = token["name"], token["quoted"] or token["text"]
                if text or name not in nodes:
                    nodes[name] = re.sub(r"<br\s*/?>|\\n", " ", text or name)
                group.append(name)
                edges += [(a, name, label) for a in before]
    return direction, said, nodes, edges


def mermaid_svg(source: str) -> str:
    "The flowchart as an SVG with a description; ValueError if it is none."
    direction, said, nodes, edges = parse(source)
    if not nodes or not re.search(r"^\s*(graph|flowchart)\b", source, re.M):
        raise ValueError("mermaid: only graph and flowchart are drawn in the preview")
    names = list(nodes)[:: -1 if direction in ("BT", "RL") else 1]
    row, right = {name: i for i, name in enumerate(names)}, max(map(width, nodes.values())) + 28
    boxes, wide, taken = [], right, set()
    for name, i in row.items():
        top = f'y="{i * STEP + 2}" width="{right - 2:.0f}" height="{BOX}"'
        text = f'x="{right / 2:.0f}" y="{i * STEP + BOX / 2 + 7}"'
        boxes.append(f'<rect x="1" {top} rx="6"/><text {text}>{escape(nodes[name])}</text>')
    arrows = []
    for a, b, label in edges:
        down = 1 if row[b] >= row[a] else -1
        start, end, far = row[a] * STEP, row[b] * STEP, abs(row[b] - row[a])
        if far == 1:  # between two neighbours
            x, y = right / 2, max(start, end) - (STEP - BOX) / 2 + 2
            start, end = start + 2 + BOX * (down > 0), end + 2 + BOX * (down < 0) - down
            line = f"M{x:.0f} {start}V{end}m-4 {-6 * down}l4 {6 * down}l4 {-6 * down}"
        else:  # an arc; it leaves a box after the middle and comes in before it
            x, y = right + 18 * far - 4, (start + end) / 2 + BOX / 2 + 2
            start, end = start + BOX / 2 + 2 + 7 * down, end + BOX / 2 + 2 - 7 * down
            # a curve goes three quarters of the way to its handles
            out = right + (x - right) / 0.75
            line = f"M{right:.0f} {start}C{out:.0f} {start} {out:.0f} {end} {right + 1:.0f} {end}"
            line += "m6 -4l-6 4l6 4"
        while (far == 1, y) in taken:
            y += 15
        taken.add((far == 1, y))
        arrows.append(f'<path d="{line}"/>')
        boxes.append(f'<text class="label" x="{x + 7:.0f}" y="{y + 4:.0f}">{escape(label)}</text>')
        wide = max(wide, x + 7 + 0.9 * width(label))
    steps = "; ".join(f"{nodes[a]} → {nodes[b]}" + (f" ({t})" if t else "") for a, b, t in edges)
    said = said or f"Flowchart: {steps or ', '.join(nodes.values())}"
    size = f'viewBox="0 0 {wide + 2:.0f} {len(row) * STEP - STEP + BOX + 4:.0f}"'
    style = f'style="width:{wide + 2:.0f}px;min-width:{wide * LEAST:.0f}px"'
    title = f"<title>{escape(said)}</title>"
    inside = "".join([title, *arrows, *boxes])
    return f'<svg class="flow" {size} {style} role="img">{inside}</svg>'
