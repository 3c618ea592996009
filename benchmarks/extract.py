"""Main text of raw web pages: ours against trafilatura and resiliparse, with the 4-gram F1 of each.

Measured is the processor time for all pages of the set `web_raw`, from their bytes to their text, after
some pages that are not counted. The set is a local one: LLMCHAIN_DATA names its folder."""

import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from llmchain.workbench import catalog

UNIT = "seconds for all pages"
GOALS = {"trafilatura": 4.0}
WARM = 15  # pages not counted: imports, compiled expressions


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """The same file once for each contender."""
    who = ("ours", "trafilatura", "trafilatura fast", "resiliparse")
    return {name: [[sys.executable, __file__, name]] for name in who}


def extractor(who: str) -> Callable[[bytes], str | None]:
    """The function of a contender, from bytes to text; trafilatura with its defaults, comments off."""
    if who == "ours":
        from llmchain.data.clean import extract_main

        return extract_main
    if who.startswith("trafilatura"):
        import trafilatura

        fast = who.endswith("fast")
        return lambda page: trafilatura.extract(page, include_comments=False, fast=fast)
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import detect_encoding
    from resiliparse.parse.html import HTMLTree

    def resiliparse(page: bytes) -> str:
        tree = HTMLTree.parse_from_bytes(page, detect_encoding(page))
        return extract_plain_text(tree, main_content=True, alt_texts=False, list_bullets=False)

    return resiliparse


def main(who: str) -> dict:
    """Seconds of one contender, and its F1 on both parts."""
    from llmchain.data.clean import ngram_f1, part_of

    data = catalog.find("web_raw", "local")
    rows = data.rows("pages")
    pages = [gzip.decompress(data.file(row["html"]).read_bytes()) for row in rows]
    extract = extractor(who)
    for page in pages[:WARM]:
        extract(page)
    begun = time.process_time()
    found = [extract(page) or "" for page in pages]
    seconds = time.process_time() - begun
    f1 = {"develop": [], "test": []}
    for row, text in zip(rows, found, strict=True):
        f1[part_of(row["id"])].append(ngram_f1(text, row["gold_text"])[0])
    every = f1["develop"] + f1["test"]
    quality = {f"F1 {part}": round(sum(v) / len(v), 4) for part, v in f1.items()}
    quality |= {"F1": round(sum(every) / len(every), 4), "pages": len(every)}
    quality["pages a second"] = round(len(every) / seconds, 1)
    return {"value": seconds, "quality": quality}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
