"""Mermaid flowcharts as static SVG, so that a page needs neither a browser nor a request.

Understood: `graph` and `flowchart` in the four directions, chains of edges with labels, the usual
shapes of nodes, `&`, and `accTitle`/`accDescr`. Subgraphs and styles are skipped: the order of
the chain is what a reader comes for. Layers are longest paths, as in Sugiyama et al. 1981.
"""

import re
import unicodedata
from html import escape

FIGURE = 7.2  # width of a Latin letter at the font size used, in units of the drawing
GAP, LAYER, ROW, LINE = 22.0, 46.0, 36.0, 17.0  # between boxes and layers; heights of box and line
WIDEST = 760  # a row that is longer is drawn downwards, or its text would shrink
LEAST = 0.75  # text is never drawn smaller than this; the diagram scrolls instead
SHAPE = re.compile(r"([\w.\-]*\w)\s*(?:@\{.*?\}|[\[({>]+[\"/\\]*(.*?)[\"/\\]*[\])}]+)?(?::::\w+)?$")
EDGE = re.compile(
    r"\s*(?:(?:--|==|-\.)\s+(?P<inner>[^|>]+?)\s+)?"
    r"(?P<arrow><?(?:-{2,}|={2,}|-\.+-?)[>ox]?)\s*(?:\|(?P<label>[^|]*)\|)?\s*"
)
SKIPPED = re.compile(r"(subgraph|end|classDef|class|style|linkStyle|click|direction|%%)\b|%%")
Point = tuple[float, float]


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
            label, at = "", 0
            joints = [m for m in EDGE.finditer(line) if not within_label(line[: m.start("arrow")])]
            for joint in [*joints, None]:
                parts = line[at : joint.start() if joint else None].split(" & ")
                found = [m for m in map(SHAPE.match, map(str.strip, parts)) if m]
                for name, text in (m.groups() for m in found):
                    if text or name not in nodes:
                        nodes[name] = re.sub(r"<br\s*/?>|\\n", "\n", text or name)
                edges += [(a, m[1], label) for a in before for m in found]
                if joint:
                    before, at = [m[1] for m in found], joint.end()
                    label = (joint["inner"] or joint["label"] or "").strip('" ')
    return direction, said, nodes, edges


def within_label(before: str) -> bool:
    "True inside the brackets or quotes of a node's text, where `--` is no edge."
    before = re.sub(r"\|[^|]*\|", "", before)
    opened, closed = (len(re.findall(brackets, before)) for brackets in (r"[\[({]", r"[\])}]"))
    return before.count('"') % 2 == 1 or opened > closed


def layers(
    nodes: list[str], edges: list[tuple[str, str]]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    "Nodes by longest path, and who joins whom; a long edge has a dummy `a>b@i` in each layer."
    forward: dict[tuple[str, str], None] = {}
    above: dict[str, set[str]] = {node: set() for node in nodes}
    for a, b in ((a, b) for a, b in edges if a != b):
        a, b = (b, a) if b in above[a] else (a, b)  # an edge that closes a cycle counts reversed
        forward[a, b] = None
        for node in nodes:
            if node == b or b in above[node]:
                above[node] |= above[a] | {a}
    rank: dict[str, int] = {}
    for node in sorted(nodes, key=lambda n: len(above[n])):
        rank[node] = max((rank[a] + 1 for a, b in forward if b == node), default=0)
    rows: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for node in nodes:
        rows[rank[node]].append(node)
    beside: dict[str, list[str]] = {}
    for a, b in forward:
        path = [a, *(f"{a}>{b}@{i}" for i in range(rank[a] + 1, rank[b])), b]
        for i, dummy in enumerate(path[1:-1], rank[a] + 1):
            rows[i].append(dummy)
        for p, q in zip(path, path[1:], strict=False):
            beside.setdefault(p, []).append(q)
            beside.setdefault(q, []).append(p)
    return rows, beside


def spread(
    rows: list[list[str]], beside: dict[str, list[str]], room: dict[str, float]
) -> dict[str, float]:
    "The middle of each node along its row: near its neighbours, from 0 on, nothing overlapping."
    at: dict[str, float] = {}
    for sweep in range(40):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish: dict[str, float] = {}
            for i, node in enumerate(row):
                near = [at[n] for n in beside.get(node, []) if n in at]
                wish[node] = sum(near) / len(near) if near else at.get(node, i * GAP)
            if sweep < 20:  # first the order, then the places
                row.sort(key=wish.__getitem__)
            found: list[float] = []
            for i, node in enumerate(row):
                gap = (room[row[i - 1]] + room[node]) / 2 + GAP
                found.append(max(wish[node], found[-1] + gap) if found else wish[node])
            shift = sum(wish[n] - f for n, f in zip(row, found, strict=True)) / len(row)
            at.update(zip(row, (f + shift for f in found), strict=True))
    first = min(at[node] - room[node] / 2 for node in at)
    return {node: x - first for node, x in at.items()}


def mermaid_svg(source: str, turned: str = "") -> str:
    "The flowchart as an SVG with a description; ValueError if it is none. A long row is `turned`."
    direction, said, nodes, edges = parse(source)
    direction = turned or direction
    if not nodes or not re.search(r"^\s*(graph|flowchart)\b", source, re.M):
        raise ValueError("mermaid: only graph and flowchart are drawn in the preview")
    across = direction in ("LR", "RL")
    rows, beside = layers(list(nodes), [(a, b) for a, b, _ in edges])
    size = {dummy: (6.0, 6.0) for row in rows for dummy in row}
    for node, label in nodes.items():
        lines = label.split("\n")
        size[node] = (max(map(width, lines)) + 26, ROW + LINE * (len(lines) - 1))
    if direction in ("RL", "BT"):
        rows.reverse()
    room = {node: size[node][across] for node in size}
    dummies = {
        (a, b): [d for row in rows for d in row if d.startswith((f"{a}>{b}@", f"{b}>{a}@"))]
        for a, b, _ in edges
    }
    for a, b, label in edges:  # room for a label on the way, or above the box it leads to
        for node in () if across or not label else dummies[a, b] or [b]:
            room[node] = max(room[node], width(label) + 8)
    at, deep, place = spread(rows, beside, room), 2.0, {}
    between = LAYER + max((width(t) if across else 1.2 * LINE for *_, t in edges if t), default=0.0)
    for row in rows:
        thick = max(size[node][not across] for node in row)
        for node in row:
            along, over = at[node] + 2, deep + thick / 2
            place[node] = (over, along) if across else (along, over)
        deep += thick + between
    deep, wide = deep - between + 2, max(at[n] + room[n] / 2 for n in at) + 4
    w, h = (deep, wide) if across else (wide, deep)
    if across and w > WIDEST:
        return mermaid_svg(source, "TB" if direction == "LR" else "BT")
    names = {n: label.replace("\n", " ") for n, label in nodes.items()}
    steps = "; ".join(f"{names[a]} → {names[b]}" + (f" ({t})" if t else "") for a, b, t in edges)
    said = said or f"Flowchart: {steps or ', '.join(names.values())}"
    style = f'viewBox="0 0 {w:.0f} {h:.0f}" style="width:{w:.0f}px;min-width:{w * LEAST:.0f}px"'
    out = [f'<svg class="flow" {style} role="img"><title>{escape(said)}</title>']
    # (x, y, width, height) where no label may be: the boxes, and the arrow heads before them
    taken = [(*place[n], size[n][0] + 16 * across, size[n][1] + 16 * (not across)) for n in nodes]
    for a, b, label in edges:
        way = dummies[a, b] if place[a][not across] < place[b][not across] else dummies[a, b][::-1]
        out.append(edge_path([a, *way, b], place, size, across, label, taken))
    for node, label in nodes.items():
        (x, y), (nw, nh) = place[node], size[node]
        box = f'x="{x - nw / 2:.1f}" y="{y - nh / 2:.1f}" width="{nw:.1f}" height="{nh:.1f}"'
        out.append(f'<rect {box} rx="6"/>')
        for i, line in enumerate(label.split("\n")):
            out.append(f'<text x="{x:.1f}" y="{y - nh / 2 + ROW / 2 + 5 + LINE * i:.1f}">')
            out.append(f"{escape(line)}</text>")
    return "".join(out) + "</svg>"


def edge_path(
    path: list[str], place: dict[str, Point], size: dict[str, Point], across: bool, label: str,
    taken: list[tuple[float, float, float, float]],
) -> str:  # fmt: skip
    "A smooth line through the dummies of an edge, its arrow head, and its label where space is."
    axis = 0 if across else 1
    points = [list(place[node]) for node in path]
    sign = 1 if points[-1][axis] >= points[0][axis] else -1
    points[0][axis] += sign * size[path[0]][axis] / 2
    points[-1][axis] -= sign * (size[path[-1]][axis] / 2 + 1)
    d, spots = f"M{points[0][0]:.1f} {points[0][1]:.1f}", points[1:-1]
    for p, q in zip(points, points[1:], strict=False):
        c, e = list(p), list(q)
        c[axis] = e[axis] = (p[axis] + q[axis]) / 2
        d += "C" + ",".join(f"{x:.1f} {y:.1f}" for x, y in (c, e, q))
        for t in (0.5, 0.35, 0.65, 0.2, 0.8):
            share = [t * t * (3 - 2 * t)] * 2  # how far along the curve is from p to q
            share[axis] = t**3 + 1.5 * t * (1 - t)
            spots.append([p[k] + (q[k] - p[k]) * share[k] for k in (0, 1)])
    (x, y), s = points[-1], 6 * sign
    (x1, y1), (x2, y2) = ((x - s, y - 4), (x - s, y + 4)) if across else ((x - 4, y - s), (x + 4, y - s))  # fmt: skip
    out = f'<path d="{d}"/><path d="M{x1:.1f} {y1:.1f}L{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}"/>'
    if label:
        w, h = width(label) * 0.9, 15.0
        free = (
            s for s in spots
            if not any(abs(s[0] - x) < (w + bw) / 2 and abs(s[1] - y) < (h + bh) / 2 for x, y, bw, bh in taken)
        )  # fmt: skip
        x, y = next(free, spots[0])
        taken.append((x, y, w, h))
        out += f'<text class="label" x="{x:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
    return out
