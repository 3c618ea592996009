"""A project of three small notebooks, made on the spot for the tests of the site and of reports."""

import base64
import json
import struct
import zlib
from pathlib import Path

QUARTO = """
project: {type: website, output-dir: _site, render: [nbs/index.ipynb, "nbs/*/*.ipynb"]}
website:
  title: Small
  sidebar:
    contents:
      - nbs/index.ipynb
      - section: Data
        contents: [nbs/01_data/03_deduplicate.ipynb, nbs/01_data/04_tokenize.ipynb]
"""


def png(width: int = 8, height: int = 4) -> bytes:
    "A grey picture."

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x99" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def md(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    cell = {"cell_type": "code", "metadata": {"tags": list(tags)} if tags else {}}
    return cell | {"execution_count": None, "outputs": list(outputs), "source": source}


def shown(data: dict, alt: str = "") -> dict:
    metadata = {"image/png": {"alt": alt}} if alt else {}
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def write(path: Path, cells: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [cell | {"id": f"c{i}"} for i, cell in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "papermill": {"duration": 1}}
    nb = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(nb))


def deduplicate(*extra: dict) -> list[dict]:
    "The source of a chapter that exports one function."
    front = "---\nchapter:\n  needs: [corpus/clean]\n  makes: [corpus/dedup]\n---"
    return [
        md("# Deduplication\n\n> Find near-identical documents"),
        {"cell_type": "raw", "metadata": {}, "source": front},
        md("**Before:** [the map](../index.ipynb). Chinese: 去重 is removal of duplicates."),
        code("#| default_exp data.dedup"),
        code("n_hashes: int = 128  # length of a signature (64 to 256)", tags=("parameters",)),
        code("#| export\nimport zlib"),
        md("## Two documents as sets\n\nThe overlap is $J(A,B)=|A\\cap B|\\,/\\,|A\\cup B|$."),
        code(
            "#| exports\n"
            "def shingles(\n"
            "    text: str,  # one document <b>\n"
            "    n: int | None = 5,  # characters in one shingle | at least 1\n"
            ") -> set[int]:  # CRC-32 of every shingle\n"
            '    "The shingles of `text`."\n'
            "    return {zlib.crc32(text[i : i + n].encode()) for i in range(len(text) - n + 1)}"
        ),
        *extra,
        md("## Shingles\n\nNext: [tokens](04_tokenize.ipynb#bytes-first), [API](#api-shingles)."),
        code("def check_1(answer):\n    assert answer == 1", tags=("exercise",)),
    ]


def project(root: Path) -> Path:
    "A root with `_quarto.yml` and three notebooks."
    (root / "_quarto.yml").write_text(QUARTO)
    write(
        root / "nbs/index.ipynb",
        [
            md("# The map\n\n> Where everything lies"),
            md(
                "[Deduplication](01_data/03_deduplicate.ipynb)\n\n"
                "```mermaid\ngraph LR\n  A[collect 采集] --> B[clean]\n"
                "  B -->|rows| C[train]\n  A --> C\n```"
            ),
        ],
    )
    write(root / "nbs/01_data/03_deduplicate.ipynb", deduplicate())
    write(
        root / "nbs/01_data/04_tokenize.ipynb",
        [
            md("# Tokens\n\n> Text as numbers"),
            md("## Bytes first\n\nA zebra is 斑马, see [Deduplication](03_deduplicate.ipynb)."),
            code("print('x')"),
        ],
    )
    return root


def run(folder: Path) -> Path:
    "A run that executed the first chapter, with an output of every kind."
    picture = base64.b64encode(png()).decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "\x1b[31mred\x1b[0m\nold\rnew <i>\n"},
        {"output_type": "stream", "name": "stderr", "text": "\rdocs:   0%|     | 0/4 [00:00<?]"},
        {"output_type": "stream", "name": "stderr", "text": "\rdocs: 100%|█████| 4/4 [00:11<0]"},
        {"output_type": "stream", "name": "stderr", "text": "\n"},
        shown({"image/png": picture, "text/plain": "<Figure>"}, alt="a grey field"),
        shown(
            {
                "text/html": "<table onclick='x()'><tr><th>a</th><td><script>bad()</script>"
                "<img src=x onerror='bad()'><a href='java\nscript:bad()'>b</a></td></tr></table>"
            }
        ),
        shown({"text/markdown": "Of **12** documents <script>bad()</script> went.\n\n- one"}),
        shown({"text/plain": "{'a': '<b>'}"}),
    ]
    write(
        folder / "03_deduplicate/notebook.ipynb",
        deduplicate(code('#| hide_line\nlen("abc")', *outputs)),
    )
    return folder
