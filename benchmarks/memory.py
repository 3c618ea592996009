"""Does memory grow with the corpus? The data stages 01 to 04 on a corpus and on one ten times as large.

The corpus is generated: files of JSON lines, English in made-up words, with markup, mail addresses, noise and copies.
Each stage runs in a process of its own and calls the functions that its chapter calls, on what the stage before it
wrote. Measured is the ratio of its peak resident memory at the larger size to that at the smaller one; the value is
the largest ratio of a stage.

    python benchmarks/memory.py stages [SMALL LARGE]     every stage at two sizes, in megabytes of text
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UNIT = "times the peak memory of a stage, at ten times the corpus (the stage that grows most)"
GOALS: dict[str, float] = {}
LIMIT = 1.25
SIZES = (20, 200)  # megabytes of text
ORIGIN = dict(source="file", package="made", version="1", licence="CC0-1.0", url="", time="")
STOP = "the of and to a in is that for it as was with be by on not he this are or his from at which".split()


# ── the corpus ────────────────────────────────────────────────────────────────────────────────


def texts(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of 20 to 300 words, half of them stop words, until there is text enough.

    One in ten is a copy of an earlier one with a word more, one in twenty is no text."""
    import numpy as np

    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    lengths = rng.integers(2, 11, 30_000)
    words = ["".join(letters[rng.integers(0, 26, n)]) for n in lengths]
    chance = np.cumsum(1 / (np.arange(len(words)) + 2.7))
    left, recent = megabytes * 1e6, ["Nothing was said before the first of the documents."] * 50
    while left > 0:
        kind, n = rng.random(), int(rng.integers(20, 300))
        drawn = np.searchsorted(chance, rng.random(n) * chance[-1]).tolist()
        stops = rng.integers(0, len(STOP) * 2, n).tolist()
        named = [STOP[s] if s < len(STOP) else words[d] for d, s in zip(drawn, stops, strict=True)]
        sentences = [" ".join(named[i : i + 12]).capitalize() + "." for i in range(0, n, 12)]
        text = "\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4))
        if kind < 0.1:
            text = f"{recent[n % 50]} {words[n]}"
        elif kind < 0.15:
            text = " ".join(map(str, drawn))
        elif kind < 0.3:
            text = f"<p>{text}</p> Ask {words[n]}@{words[-n]}.org, see :func:`{words[n]}`."
        recent[n % 50] = text
        left -= len(text)
        yield text


def generate(megabytes: float, folder: Path) -> None:
    """The corpus as files of JSON lines, about ten megabytes each."""
    (folder / "in").mkdir(parents=True)
    made, n = texts(megabytes), 0
    while lines := [json.dumps({"text": t}) + "\n" for t, _ in zip(made, range(10_000))]:  # noqa: B905
        (folder / "in" / f"{n:04d}.jsonl").write_text("".join(lines), encoding="utf-8")
        n += 1


# ── the stages, as their chapters run them ────────────────────────────────────────────────────


def write(rows: Iterator[dict], path: Path) -> None:
    """Rows as `ch.write` writes them."""
    from llmchain.data.rows import dump

    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(dump, rows))


def collect(folder: Path) -> int:
    """01_collect: read, spool, sort, count, write rows and shards, read the shards again."""
    from llmchain.data.corpus import Tally
    from llmchain.data.reading import folder_documents
    from llmchain.data.rows import read_shards, sorted_rows, spool, write_shards
    from llmchain.workbench.rows import Rows

    entry = spool("made", folder_documents(folder / "in", ORIGIN), folder / "spools")
    files, tally = [folder / "spools" / f"{entry['spool']}.rows"], Tally()

    def counted() -> Iterator[dict]:
        for row in sorted_rows(files, folder / "pieces"):
            tally.add(row)
            yield row

    write(counted(), folder / "raw.jsonl")
    write_shards(iter(Rows(folder / "raw.jsonl")), folder / "shards")
    n = sum(1 for _ in read_shards(folder / "shards"))
    assert n == entry["documents"] == tally.documents["kind"]["text"]
    return n


def clean(folder: Path) -> int:
    """02_clean: the rules with a fitted judge, on every row."""
    import numpy as np

    from llmchain.data.clean import DAMAGES, clean_rows, damaged, fit_quality, quality_features
    from llmchain.data.clean import rules_of_quality as rules_of
    from llmchain.data.rows import dump
    from llmchain.workbench.rows import Rows

    raw, rng = Rows(folder / "raw.jsonl"), np.random.default_rng(0)
    sound = [raw[int(i)]["text"] for i in rng.permutation(len(raw))[:500]]
    bad = [damaged(text, DAMAGES[i % len(DAMAGES)], rng) for i, text in enumerate(sound)]
    features = np.array([quality_features(text) for text in sound + bad])
    rules = rules_of(quality=fit_quality(features, np.arange(len(features)) < len(sound)))
    verdicts: list[str] = []
    with (folder / "rejected.jsonl").open("w", encoding="utf-8") as file:

        def reject(row: dict, against: list[str]) -> None:
            file.write(dump(row))
            verdicts.append(sys.intern("|".join(against)))

        write(clean_rows(raw, rules, False, reject, Counter()), folder / "clean.jsonl")
    return len(Rows(folder / "clean.jsonl"))


def deduplicate(folder: Path) -> int:
    """03_deduplicate: exact copies, near copies, clusters, splits."""
    from llmchain.data.dedup import (
        choose_kept,
        exact_key,
        keep_first,
        near_duplicates,
        repeated_passages,
        split_of,
    )
    from llmchain.workbench.rows import Rows

    rows = Rows(folder / "clean.jsonl")
    names = [row["id"] for row in rows]
    order = sorted(range(len(rows)), key=names.__getitem__)
    unique, _ = keep_first([exact_key(row["text"]) for row in rows], order)
    unique_texts = rows.column("text", unique)
    pairs, _, _ = near_duplicates(unique_texts)
    kept, _ = choose_kept(unique_texts, [names[i] for i in unique], pairs)
    repeated_passages(rows.column("text", [unique[i] for i in kept]))

    def split(row: dict) -> dict:
        return row | {"split": split_of(row["package"], row["id"])}

    write((split(rows[unique[i]]) for i in kept), folder / "dedup.jsonl")
    return len(kept)


def tokenize(folder: Path) -> int:
    """04_tokenize: draw the sample, train both tokenizers, encode held-out text."""
    import numpy as np

    from llmchain.data.tokenizer import build_bpe, build_wordpiece, drawn_texts
    from llmchain.workbench.rows import Rows

    docs, most = Rows(folder / "dedup.jsonl"), 6e6  # train_mb of profile cpu
    is_train = np.fromiter((d["split"] == "train" for d in docs), bool, len(docs))
    train, held = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    sample = drawn_texts(docs, train, most, np.random.default_rng(0))
    held_out = drawn_texts(docs, held, most, np.random.default_rng(1))
    for tokenizer in (build_bpe(sample, 4096), build_wordpiece(sample, 4096, 1000)):
        for start in range(0, len(held_out), 256):
            tokenizer.encode_batch_fast(held_out[start : start + 256], add_special_tokens=False)
    return len(sample)


STAGES = {"collect": collect, "clean": clean, "deduplicate": deduplicate, "tokenize": tokenize}


# ── measuring ─────────────────────────────────────────────────────────────────────────────────


def peak_mb() -> float:
    """Peak resident memory of this process; ru_maxrss, where it must do, begins at the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def stage(name: str, folder: Path) -> dict[str, float]:
    """One stage in this process: what it gave and took."""
    begun = time.perf_counter()
    n = STAGES[name](folder)
    seconds = time.perf_counter() - begun
    return {"documents": n, "peak_mb": round(peak_mb(), 1), "seconds": round(seconds, 1)}


def call(*words: str) -> str:
    """This program in a process of its own; the last line of what it printed."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)  # fmt: skip
    return (done.stdout.splitlines() or [""])[-1]


def stages(small: float, large: float) -> dict[str, Any]:
    """Every stage at two sizes: the largest ratio, and the peaks."""
    told: dict[str, dict[str, Any]] = {name: {} for name in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for size in (small, large):
            place = Path(folder) / f"{size:g}"
            call("generate", f"{size}", str(place))
            for name in STAGES:
                told[name][f"{size:g} MB"] = found = json.loads(call("stage", name, str(place)))
                print(json.dumps({"stage": name, "megabytes": size} | found), file=sys.stderr)
    for name, by_size in told.items():
        first, second = (found["peak_mb"] for found in by_size.values())
        told[name] = by_size | {"ratio": round(second / first, 3)}
    return {"value": max(found["ratio"] for found in told.values()), "quality": told}


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Ours alone: what it is compared with is itself."""
    return {"ours": [[sys.executable, __file__, "stages", *map(str, SIZES)]]}


if __name__ == "__main__":
    what, *words = sys.argv[1:] or ["stages"]
    if what == "generate":
        generate(float(words[0]), Path(words[1]))
    elif what == "stage":
        print(json.dumps(stage(words[0], Path(words[1]))))
    else:
        small, large = map(float, words or SIZES)
        print(json.dumps(stages(small, large)))
