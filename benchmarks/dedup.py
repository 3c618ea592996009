"""Near duplicates among generated documents: ours against rensa, datasketch and datatrove.

All read the same texts and use the same shingles (three words of `WORD`), the same number of bands and rows, one
thread. Measured is the time from a list of texts to pairs that were checked: ours does that by itself, behind the
others the shingles of each pair that met are compared as Python's sets. Recall and precision against the exact
similarity are printed as quality, and for the others what they would be, and how long it took, without the check.
`rensa given our numbers` is spared the words: it gets our shingle numbers and says only which documents have a
twin, unchecked; its recall and precision count documents. It is shown for comparison and is no goal.

    python benchmarks/dedup.py growth [SIZE …]     ours alone, 10,000 to 1,000,000 documents: time and memory
"""

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

UNIT = "seconds for 20,000 documents"
GOALS = {"rensa": 3.0, "datasketch": 3.0, "datatrove": 3.0}
N = 20_000
THRESHOLD = 0.7
WORD = re.compile(r"[a-z0-9']+|[^\W\d_a-z]")  # the same as in the chapter, whose code is not used


# ── documents and truth ───────────────────────────────────────────────────────────────────────


def vocabulary(rng: np.random.Generator, size: int = 30_000) -> tuple[list[str], np.ndarray]:
    """Made-up words, the frequent ones short, and the cumulative Zipf distribution of their use."""
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", "S1").astype("U1")
    words: dict[str, None] = {}
    while len(words) < size:
        length = 2 + int(rng.integers(0, 2 + len(words) // 4000))
        words.setdefault("".join(letters[rng.integers(0, 26, length)]))
    chance = 1 / (np.arange(size) + 2.7)
    return list(words), np.cumsum(chance / chance.sum())


def edited(words: list[str], known: list[str], rng: np.random.Generator) -> list[str]:
    """A copy with up to a tenth of its words replaced, dropped, or cut off at the end."""
    share = rng.uniform(0, 0.1)
    kind = rng.integers(4)
    if kind == 0:
        return [w.capitalize() + "," if rng.random() < 0.1 else w for w in words]
    if kind == 1:
        return words[: max(1, round(len(words) * (1 - 3 * share)))]
    hit = rng.random(len(words)) < share
    if kind == 2:
        return [w for w, h in zip(words, hit, strict=True) if not h]
    return [known[rng.integers(len(known))] if h else w for w, h in zip(words, hit, strict=True)]


def documents(n: int, seed: int = 0) -> Iterator[str]:
    """Texts of 60 to 260 words: three in ten are edited copies, three in a hundred carry one notice."""
    rng = np.random.default_rng(seed)
    known, chance = vocabulary(rng)
    notice = " ".join(known[i] for i in np.searchsorted(chance, rng.random(30)))
    sources: list[list[str]] = []  # what may be copied: 1 in 5, so two copies of each at any size
    for start in range(0, n, 1000):
        lengths = rng.integers(60, 261, min(1000, n - start))
        drawn = np.searchsorted(chance, rng.random(int(lengths.sum()))).tolist()
        at = 0
        for length in lengths.tolist():
            if sources and rng.random() < 0.3:
                words = edited(sources[rng.integers(len(sources))], known, rng)
            else:
                words = [known[i] for i in drawn[at : at + length]]
                if rng.random() < 0.2:
                    sources.append(words)
            at += length
            text = " ".join(words)
            yield f"{text} {notice}" if rng.random() < 0.03 else text


def exact_pairs(texts: list[str]) -> list[list[int]]:
    """All pairs at the threshold, by Python's sets; found through shingles of at most 400 documents,
    of which a pair at the threshold shares many."""
    import scipy.sparse

    sets = [set(shingles_of(t)) for t in texts]
    owner = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    value = np.fromiter((hash(x) for s in sets for x in s), np.int64, len(owner))
    _, column, count = np.unique(value, return_inverse=True, return_counts=True)
    rare = (count[column] > 1) & (count[column] <= 400)
    cells = np.ones(int(rare.sum()), np.int32), (owner[rare], column[rare])
    matrix = scipy.sparse.csr_matrix(cells, shape=(len(texts), int(column.max()) + 1))
    common = scipy.sparse.triu(matrix @ matrix.T, k=1).tocoo()
    found = []
    for i, j, shared in zip(common.row.tolist(), common.col.tolist(), common.data, strict=True):
        if shared > 5 and len(sets[i] & sets[j]) >= THRESHOLD * len(sets[i] | sets[j]):
            found.append([i, j])
    return found


def shingles_of(text: str) -> list[str]:
    """The shingles of one text, as one writes it in Python."""
    words = WORD.findall(text.lower())
    return [*map(" ".join, zip(words, words[1:], words[2:], strict=False))] or [" ".join(words)]


def checked(pairs: set, tokens: list[list[str]]) -> set:
    """Those pairs whose exact similarity reaches the threshold."""
    sets: dict[int, set[str]] = {}
    good = set()
    for i, j in pairs:
        a, b = (sets.setdefault(k, set(tokens[k])) if k not in sets else sets[k] for k in (i, j))
        common = len(a & b)
        if common >= THRESHOLD * (len(a) + len(b) - common):
            good.add((i, j))
    return good


# ── contenders: texts to pairs, and the shingles with which these are checked ────────────────────────────────────────────────────────────────


Run = Callable[[], tuple[set, list[list[str]] | None]]


def ours(texts: list[str], bands: int, rows: int) -> Run:
    """The search of the chapter, which finds its bands itself."""
    from llmchain.data.dedup import choose_bands, near_duplicates

    assert (bands, rows) == choose_bands(len(texts), THRESHOLD, 0.95, 0.03)
    return lambda: (set(map(tuple, near_duplicates(texts, THRESHOLD)[0].tolist())), None)


def rensa(texts: list[str], bands: int, rows: int) -> Run:
    """Whole-batch calls: sketches of all documents, one insertion, one query."""
    from rensa import RMinHash, RMinHashLSH

    def run() -> tuple[set, list[list[str]] | None]:
        tokens = [shingles_of(t) for t in texts]
        sketches = RMinHash.from_token_sets(tokens, bands * rows, 42)
        index = RMinHashLSH(THRESHOLD, bands * rows, bands)
        index.insert_many(sketches)
        met = index.query_all(sketches)
        return {(i, j) for i, others in enumerate(met) for j in others if i < j}, tokens

    return run


def rensa_given_our_numbers(texts: list[str], bands: int, rows: int) -> Run:
    """Its fastest way from numbers to "has a twin", behind our words and shingles."""
    from rensa import RMinHash, RMinHashLSH

    from llmchain.data.dedup import shingles, text_blocks

    def run() -> tuple[set, list[list[str]] | None]:
        index, flags = RMinHashLSH(THRESHOLD, bands * rows, bands), []
        parts = [shingles(block) for block in text_blocks(texts)]
        value = np.concatenate([v for v, _ in parts])
        borders = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(b) for _, b in parts]))])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            value, borders.astype(np.uint64), bands * rows, 42
        )
        flags = index.insert_matrix_and_query_duplicate_flags(matrix)
        return {i for i, flag in enumerate(flags) if flag}, None

    return run


def datasketch(texts: list[str], bands: int, rows: int) -> Run:
    """Bulk sketches with a fast hash of bytes, then an index of dictionaries."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    def run() -> tuple[set, list[list[str]] | None]:
        tokens = [[s.encode() for s in shingles_of(t)] for t in texts]
        sketches = MinHash.bulk(tokens, num_perm=bands * rows, hashfunc=xxhash.xxh32_intdigest)
        index = MinHashLSH(num_perm=bands * rows, params=(bands, rows))
        with index.insertion_session() as session:
            for i, sketch in enumerate(sketches):
                session.insert(i, sketch, check_duplication=False)
        found = enumerate(map(index.query, sketches))
        return {(i, j) for i, others in found for j in others if i < j}, tokens

    return run


def datatrove(texts: list[str], bands: int, rows: int) -> Run:
    """Its first two steps: signatures in files, then pairs of neighbours in sorted buckets.

    It names neighbours only; its third step joins them to clusters, and so are they joined here."""
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger
    from datatrove.utils.text import TextNormConfig

    logger.remove()

    class Words:
        def word_tokenize(self, text: str) -> list[str]:
            return WORD.findall(text)

    minhash.load_word_tokenizer = lambda language: Words()  # the same words for all
    plain = {f: False for f in TextNormConfig.__dataclass_fields__} | {"lowercase": True}
    config = minhash.MinhashConfig(
        n_grams=3,
        num_buckets=bands,
        hashes_per_bucket=rows,
        norm_config=TextNormConfig(**plain),
        hash_config=HashConfig(precision=64, hash_fc="sha1"),
    )

    def run() -> tuple[set, list[list[str]] | None]:
        from llmchain.data.dedup import clusters

        folder = Path(tempfile.mkdtemp())
        try:
            rows_in = (Document(text=t, id=str(i)) for i, t in enumerate(texts))
            first = minhash.MinhashDedupSignature(str(folder / "sig"), config)
            # its own call of this hash fails with the xxhash of today, which wants bytes
            first._hash_func = lambda s: xxhash.xxh64_intdigest(s.encode())
            first.run(rows_in)
            step = minhash.MinhashDedupBuckets(
                str(folder / "sig"), str(folder / "dup"), config=config
            )
            for rank in range(bands):
                step.run(None, rank, bands)
            parts = [np.fromfile(p, "<u4") for p in sorted((folder / "dup").glob("*.dups"))]
            pairs = np.concatenate(parts).reshape(-1, 4)[:, [1, 3]].astype(np.int64)
        finally:
            shutil.rmtree(folder)
        members: dict[int, list[int]] = {}
        for i, root in enumerate(clusters(len(texts), pairs).tolist()):
            members.setdefault(root, []).append(i)
        met = {(i, j) for m in members.values() for i in m for j in m if i < j}
        needed = {i for pair in met for i in pair}
        return met, [shingles_of(t) if i in needed else [] for i, t in enumerate(texts)]

    return run


CONTENDERS = {
    "ours": ours,
    "rensa": rensa,
    "rensa given our numbers": rensa_given_our_numbers,
    "datasketch": datasketch,
    "datatrove": datatrove,
}


def contend(who: str, corpus: Path, truth: Path) -> dict[str, Any]:
    """Time one contender and compare what it found with the exact pairs."""
    from llmchain.data.dedup import choose_bands

    texts = [json.loads(line) for line in corpus.open(encoding="utf-8")]
    bands, rows = choose_bands(len(texts), THRESHOLD, 0.95, 0.03)
    run = CONTENDERS[who](texts, bands, rows)
    begun = time.perf_counter()
    found, tokens = run()
    unchecked, before = time.perf_counter() - begun, found
    if tokens is not None:
        found = checked(before, tokens)
    seconds = time.perf_counter() - begun
    wanted: set = {tuple(pair) for pair in json.loads(truth.read_text())}
    if found and isinstance(next(iter(found)), int):
        wanted = {i for pair in wanted for i in pair}
    quality = {
        "recall": round(len(found & wanted) / len(wanted), 4),
        "precision": round(len(found & wanted) / max(1, len(found)), 4),
        "documents_per_second": round(len(texts) / seconds),
        "bands_and_rows": [bands, rows],
    }
    if tokens is not None:
        quality["precision_unchecked"] = round(len(before & wanted) / max(1, len(before)), 4)
        quality["documents_per_second_unchecked"] = round(len(texts) / unchecked)
    return {"value": seconds, "quality": quality}


def commands(folder: Path) -> dict[str, list[list[str]]]:
    """Every contender that is installed, on one corpus that is generated here."""
    corpus, truth = folder / "corpus.jsonl", folder / "truth.json"
    # in a process of its own: a child starts with the peak memory of its parent
    subprocess.run([sys.executable, __file__, "prepare", str(corpus), str(truth)], check=True)
    env = [shutil.which("env") or "env", "OMP_NUM_THREADS=1", "RAYON_NUM_THREADS=1"]
    env.append(f"PYTHONPATH={Path(__file__).parents[1]}")
    return {
        who: [[*env, sys.executable, __file__, who, str(corpus), str(truth)]]
        for who in CONTENDERS
        if who == "ours" or find_spec(who.split()[0])
    }


# ── growth ────────────────────────────────────────────────────────────────────────────────────


def grow(n: int) -> dict[str, Any]:
    """Time and memory of ours for `n` documents that lie in a file and are read twice."""
    from llmchain.data.dedup import make_plan, search, text_blocks

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        command = [sys.executable, __file__, "generate", str(n), str(path)]
        subprocess.run(command, check=True)

        def blocks() -> Iterator[list[str]]:
            with path.open(encoding="utf-8") as lines:
                yield from text_blocks(lines)

        begun = time.perf_counter()
        pairs, _, counts = search(blocks, make_plan(n))
        seconds = time.perf_counter() - begun
        size = path.stat().st_size
    return {
        "documents": n,
        "megabytes": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "documents_per_second": round(n / seconds),
        "pairs": len(pairs),
        "candidates": counts["n_candidates"],
        "bands_and_rows": [counts["n_bands"], counts["n_rows"]],
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def growth(sizes: list[int]) -> None:
    """A line for each size, each in a process of its own, and the exponent of the growth."""
    rows = []
    for n in sizes:
        command = [sys.executable, __file__, "grow", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        n, seconds = (np.log([r[key] for r in rows]) for key in ("documents", "seconds"))
        print(json.dumps({"seconds grow with the documents to the power of": round(float(np.polyfit(n, seconds, 1)[0]), 3)}))  # fmt: skip


if __name__ == "__main__":
    what, *words = sys.argv[1:] or ["growth"]
    if what == "growth":
        growth([int(w) for w in words] or [10_000, 30_000, 100_000, 300_000, 1_000_000])
    elif what == "grow":
        print(json.dumps(grow(int(words[0]))))
    elif what == "generate":
        with Path(words[1]).open("w", encoding="utf-8") as out:
            out.writelines(text + "\n" for text in documents(int(words[0])))
    elif what == "prepare":
        texts = list(documents(N))
        Path(words[0]).write_text("".join(json.dumps(t) + "\n" for t in texts), encoding="utf-8")
        Path(words[1]).write_text(json.dumps(exact_pairs(texts)))
    else:
        print(json.dumps(contend(what, Path(words[0]), Path(words[1]))))
