"""Mermaid flowcharts as static SVG, so that a page needs neither a browser nor a request.

Understood: `graph` and `flowchart` in the four directions, chains of edges with labels, the usual
shapes of nodes, `&`, and `accTitle`/`accDescr`. Subgraphs and styles are skipped: the order of
the chain is what a reader comes for. Layers are longest paths, as in Sugiyama et al. 1981.
"""

import re
import unicodedata
from html import escape

FIGURE = 7.2  # width of a Latin letter at the font size used, in units of the drawing
GAP, LAYER, ROW = 22.0, 46.0, 36.0  # between nodes of a layer, between layers, height of a line
WIDEST = 760  # a row that is longer is drawn downwards, or its text would shrink
LEAST = 0.75  # text is never drawn smaller than this; the diagram scrolls instead
SHAPE = re.compile(r"([\w.\-]*\w)\s*(?:@\{.*?\}|[\[({>]+[\"/\\]*(.*?)[\"/\\]*[\])}]+)?(?::::\w+)?$")
EDGE = re.compile(
    r"\s*(?:(?:--|==|-\.)\s+(?P<inner>[^|>]+?)\s+)?"
    r"(?P<arrow><?(?:-{2,}|={2,}|-\.+-?)[>ox]?)\s*(?:\|(?P<label>[^|]*)\|)?\s*"
)
SKIPPED = re.compile(r"(subgraph|end|classDef|class|style|linkStyle|click|direction|%%)\b|%%")


def width(text: str) -> float:
    "Width of a line of text; a Chinese character is two letters wide."
    return FIGURE * sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def parse(source: str) -> tuple[str, str, dict[str, str], list[tuple[str, str, str]]]:
    "(direction, description, label of each node, edges as (from, to, label))."
    direction, said, nodes, edges = "TB", "", {}, []
    for line in re.split(r"[\n;]", source):
        line = line.strip()
        if head := re.match(r"(?:graph|flowchart)\s*(TB|TD|LR|RL|BT)?\s*$", line):
            direction = head[1] or "TB"
        elif words := re.match(r"acc(?:Title|Descr)\s*:\s*(.*)", line):
            said = f"{said} {words[1]}".strip()
        elif line and not SKIPPED.match(line):
            before: list[str] = []
            label, at = "", 0
            joints = [m for m in EDGE.finditer(line) if not within_label(line, m.start("arrow"))]
            for joint in [*joints, None]:
                here = []
                for part in line[at : joint.start() if joint else None].split(" & "):
                    if found := SHAPE.match(part.strip()):
                        text = re.sub(r"<br\s*/?>|\\n", "\n", found[2] or found[1])
                        if found[2] or found[1] not in nodes:
                            nodes[found[1]] = text
                        here.append(found[1])
                edges += [(a, b, label) for a in before for b in here]
                if joint:
                    before, at = here, joint.end()
                    label = (joint["inner"] or joint["label"] or "").strip('" ')
    return direction, said, nodes, edges


def within_label(line: str, at: int) -> bool:
    "True inside the brackets or quotes of a node's text, where `--` is no edge."
    before = re.sub(r"\|[^|]*\|", "", line[:at])
    return before.count('"') % 2 == 1 or len(re.findall(r"[\[({]", before)) > len(
        re.findall(r"[\])}]", before)
    )


def layers(
    nodes: list[str], edges: list[tuple[str, str]]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    "Nodes by longest path, and who joins whom; a long edge has a dummy `a>b@i` in each layer."
    found, state = [], dict.fromkeys(nodes, 0)

    def visit(node: str) -> None:
        state[node] = 1
        for a, b in edges:
            if a == node != b:  # an edge to a node still open closes a cycle: it counts reversed
                found.append((b, a) if state[b] == 1 else (a, b))
                if state[b] == 0:
                    visit(b)
        state[node] = 2

    for node in nodes:
        if state[node] == 0:
            visit(node)
    forward = dict.fromkeys(found)
    rank = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for a, b in forward:
            rank[b] = max(rank[b], rank[a] + 1)
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
    for sweep in range(8):  # order each layer by the mean place of its neighbours
        order = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for i in order:
            near = rows[i - 1] if sweep % 2 == 0 else rows[i + 1]
            place = {node: (k + 0.5) / len(near) for k, node in enumerate(near)}
            mean = {}
            for k, node in enumerate(rows[i]):
                at = [place[n] for n in beside.get(node, []) if n in place]
                mean[node] = sum(at) / len(at) if at else (k + 0.5) / len(rows[i])
            rows[i].sort(key=lambda node: mean[node])
    return rows, beside


def spread(
    rows: list[list[str]], beside: dict[str, list[str]], room: dict[str, float]
) -> dict[str, float]:
    "The middle of each node along its row: near its neighbours, from 0 on, nothing overlapping."
    at: dict[str, float] = {}
    for sweep in range(10):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            found: list[float] = []
            wish = []
            for node in row:
                near = [at[n] for n in beside.get(node, []) if n in at]
                wish.append(sum(near) / len(near) if near else at.get(node, 0.0))
            for i, node in enumerate(row):
                least = found[-1] + (room[row[i - 1]] + room[node]) / 2 + GAP if found else wish[0]
                found.append(max(wish[i], least))
            shift = sum(w - f for w, f in zip(wish, found, strict=True)) / len(row)
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
    size = {}
    for node, label in nodes.items():
        lines = label.split("\n")
        size[node] = (max(map(width, lines)) + 26, ROW + 17 * (len(lines) - 1))
    rows, beside = layers(list(nodes), [(a, b) for a, b, _ in edges])
    if direction in ("RL", "BT"):
        rows.reverse()
    room = {node: size.get(node, (6.0, 6.0))[across] for row in rows for node in row}
    for _, node, label in edges:  # room for the label above the box it leads to
        room[node] = max(room[node], 0 if across else width(label) + 8)
    at = spread(rows, beside, room)
    wide, deep, place = max(at[n] + room[n] / 2 for n in at), 2.0, {}
    label_room = max((width(t) for *_, t in edges), default=0.0) if across else 0.0
    for row in rows:
        thick = max(size.get(node, (6.0, 6.0))[not across] for node in row)
        for node in row:
            pair = (deep + thick / 2, at[node] + 2)
            place[node] = pair if across else pair[::-1]
        deep += thick + LAYER + label_room
    deep -= LAYER + label_room
    w, h = (deep + 2, wide + 4) if across else (wide + 4, deep + 2)
    if across and w > WIDEST:
        return mermaid_svg(source, "TB" if direction == "LR" else "BT")
    names = {n: label.replace("\n", " ") for n, label in nodes.items()}
    steps = "; ".join(f"{names[a]} → {names[b]}" + (f" ({t})" if t else "") for a, b, t in edges)
    said = said or f"Flowchart: {steps or ', '.join(names.values())}"
    style = f'viewBox="0 0 {w:.0f} {h:.0f}" style="width:{w:.0f}px;min-width:{w * LEAST:.0f}px"'
    out = [f'<svg class="flow" {style} role="img"><title>{escape(said)}</title>']
    taken = [(*place[n], *size[n]) for n in nodes]  # (x, y, width, height) where no label may be
    for a, b, label in edges:
        between = [d for r in rows for d in r if d.startswith((f"{a}>{b}@", f"{b}>{a}@"))]
        if place[a][not across] > place[b][not across]:
            between.reverse()
        out.append(edge_path([a, *between, b], place, size, across, label, taken))
    for node, label in nodes.items():
        (x, y), (nw, nh) = place[node], size[node]
        out.append(f'<rect x="{x - nw / 2:.1f}" y="{y - nh / 2:.1f}" width="{nw:.1f}" ')
        out.append(f'height="{nh:.1f}" rx="6"/>')
        lines = label.split("\n")
        for i, line in enumerate(lines):
            out.append(f'<text x="{x:.1f}" y="{y + 5 + 17 * (i - (len(lines) - 1) / 2):.1f}">')
            out.append(f"{escape(line)}</text>")
    return "".join(out) + "</svg>"


def edge_path(
    path: list[str],
    place: dict[str, tuple[float, float]],
    size: dict[str, tuple[float, float]],
    across: bool,
    label: str,
    taken: list[tuple[float, float, float, float]],
) -> str:
    "A smooth line through the dummies of an edge, its arrow head, and its label where space is."
    axis = 0 if across else 1
    points = [list(place[node]) for node in path]
    sign = 1 if points[-1][axis] >= points[0][axis] else -1
    points[0][axis] += sign * size[path[0]][axis] / 2
    points[-1][axis] -= sign * (size[path[-1]][axis] / 2 + 1)
    d, spots = f"M{points[0][0]:.1f} {points[0][1]:.1f}", []
    for p, q in zip(points, points[1:], strict=False):
        half = (q[axis] - p[axis]) / 2
        c, e = list(p), list(q)
        c[axis] += half
        e[axis] -= half
        d += "C" + ",".join(f"{x:.1f} {y:.1f}" for x, y in (c, e, q))
        for t in (0.5, 0.35, 0.65, 0.2, 0.8):
            u = 1 - t
            weights = (u**3, 3 * u * u * t, 3 * u * t * t, t**3)
            spots.append(
                [sum(w * z[k] for w, z in zip(weights, (p, c, e, q), strict=True)) for k in (0, 1)]
            )
    (x, y), s = points[-1], 6 * sign
    ends = ((x - s, y - 4), (x - s, y + 4)) if across else ((x - 4, y - s), (x + 4, y - s))
    (x1, y1), (x2, y2) = ends
    out = f'<path d="{d}"/><path d="M{x1:.1f} {y1:.1f}L{x:.1f} {y:.1f}L{x2:.1f} {y2:.1f}"/>'
    if label:
        w, h = width(label) * 0.9, 15.0

        def free(spot: list[float]) -> bool:
            near = (
                (abs(spot[0] - x) < (w + bw) / 2, abs(spot[1] - y) < (h + bh) / 2)
                for x, y, bw, bh in taken
            )
            return not any(beside and level for beside, level in near)

        x, y = next(filter(free, spots), spots[0])
        taken.append((x, y, w, h))
        out += f'<text class="label" x="{x:.1f}" y="{y + 4:.1f}">{escape(label)}</text>'
    return out
