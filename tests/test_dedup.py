"""MinHash, bands and clusters against definitions that share nothing with them."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Project, chapter
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.data import dedup
from llmchain.workbench.contract import read_chapters

WORDS = st.lists(st.sampled_from("a b c d e f g".split()), max_size=12).map(" ".join)


def shingles_by_hand(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+|[^\W\d_a-z]", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=6), st.integers(1, 4))
def test_jaccard_is_that_of_python_sets(texts: list[str], n: int) -> None:
    shingles, borders = dedup.shingle_sets(texts, n)
    pairs = np.array(list(itertools.combinations(range(len(texts)), 2)))
    ours = dedup.jaccard(pairs, shingles, borders, cells=70)
    for (i, j), value in zip(pairs.tolist(), ours, strict=True):
        a, b = shingles_by_hand(texts[i], n), shingles_by_hand(texts[j], n)
        assert value == len(a & b) / len(a | b)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text() | st.text("ab'Z9_é清İẞΣ𝒳٣ \n-", max_size=90), max_size=6))
def test_words_are_those_of_the_regular_expression(texts: list[str]) -> None:
    numbers, borders = dedup.word_numbers(texts)
    words = [re.findall(r"[a-z0-9']+|[^\W\d_a-z]", t.lower()) for t in texts]
    assert np.diff(borders).tolist() == [len(w) for w in words]
    flat = [w for ws in words for w in ws]
    assert len(set(zip(flat, numbers.tolist(), strict=True))) == len(set(flat))
    assert len(set(numbers.tolist())) == len(set(flat)), "two words have one number"


def test_long_words_differ_in_every_place() -> None:
    base = "x" * 200
    words = [base[:i] + "y" + base[i + 1 :] for i in range(200)] + [base, base + "x"]
    numbers, _ = dedup.word_numbers([" ".join(words)])
    assert len(set(numbers.tolist())) == len(words)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=5), st.integers(1, 14))
def test_runs_are_sums_of_powers(texts: list[str], n: int) -> None:
    numbers, borders = dedup.word_numbers(texts)
    value, place = dedup.word_runs(numbers, borders, n)
    expected = []
    for start, stop in itertools.pairwise(borders.tolist()):
        for i in range(start, stop - n + 1):
            terms = (int(numbers[i + k]) * pow(dedup.BASE, k, 2**64) for k in range(n))
            expected.append((i, sum(terms) % 2**64))
    assert list(zip(place.tolist(), value.tolist(), strict=True)) == expected


def test_jaccard_of_long_and_short_documents() -> None:
    rng = np.random.default_rng(8)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(words, n)) for n in (1, 2, 9, 33, 64, 65, 700, 3000) for _ in "ab"]
    pairs = np.array(list(itertools.combinations(range(len(texts)), 2)))
    ours = dedup.jaccard(pairs, *dedup.shingles(texts, 2))
    for (i, j), value in zip(pairs.tolist(), ours, strict=True):
        a, b = shingles_by_hand(texts[i], 2), shingles_by_hand(texts[j], 2)
        assert value == len(a & b) / len(a | b)


def test_shingles_do_not_cross_documents() -> None:
    shingles, borders = dedup.shingle_sets(["a b", "c d", "a b c d"], 3)
    assert np.diff(borders).tolist() == [1, 1, 2]
    assert len(set(shingles.tolist())) == 4


def test_chinese_is_cut_by_character() -> None:
    shingles, _ = dedup.shingle_sets(["返回数组的平均值"], 3)
    assert len(shingles) == 6


@pytest.mark.parametrize("block", [1, 5, 1 << 15])
def test_signature_is_the_minimum_of_each_hash(block: int) -> None:
    texts = [" ".join(map(str, range(i, i + 12))) for i in range(9)]
    shingles, borders = dedup.shingle_sets(texts, 2)
    ours = dedup.signatures(shingles, borders, 16, np.random.default_rng(3), block=block)
    rng = np.random.default_rng(3)
    a = [2 * int(x) + 1 for x in rng.integers(0, 1 << 63, 16, dtype=np.uint64)]
    b = [int(x) for x in rng.integers(0, 1 << 63, 16, dtype=np.uint64)]
    for i, (start, stop) in enumerate(itertools.pairwise(borders.tolist())):
        members = [int(x) for x in shingles[start:stop]]
        for k in range(16):
            assert ours[i, k] == min((a[k] * x + b[k]) % 2**64 for x in members) >> 32


def test_a_bin_holds_its_smallest_hash_or_that_of_the_first_filled_bin_on_its_walk() -> None:
    rng = np.random.default_rng(4)
    borders = np.array([0, 1, 4, 44])
    values = rng.integers(0, 2**63, 44, dtype=np.uint64)
    odd, walks = dedup.draw_hash(16, rng)
    ours = dedup.sketches(values, borders, odd, walks)
    for i, (start, stop) in enumerate(itertools.pairwise(borders.tolist())):
        bins: dict[int, int] = {}
        for v in values[start:stop].tolist():
            h = v * int(odd) % 2**64
            b = (h >> 32) * 16 >> 32
            bins[b] = min(h, bins.get(b, h))
        for j in range(16):
            source = j if j in bins else next(b for b in walks[:, j].tolist() if b in bins)
            assert ours[i, j] == bins[source]


def many_functions(shingles: np.ndarray, borders: np.ndarray, rng: np.random.Generator):
    return dedup.signatures(shingles, borders, 128, rng)


def one_function(shingles: np.ndarray, borders: np.ndarray, rng: np.random.Generator):
    return dedup.sketches(shingles, borders, *dedup.draw_hash(128, rng))


@pytest.mark.parametrize("sketch", [many_functions, one_function])
@pytest.mark.parametrize("size", [12, 200])  # far fewer members than numbers, and more
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_estimate_is_unbiased(share: float, size: int, sketch: Callable) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        common = int(size * share)
        left, right, both = (
            rng.integers(0, 2**63, n, dtype=np.uint64)
            for n in (size - common, size - common, common)
        )
        sets = np.concatenate([both, left, both, right])
        borders = np.array([0, size, 2 * size])
        found = sketch(sets, borders, rng)
        errors.append((found[0] == found[1]).mean() - common / (2 * size - common))
    assert abs(np.mean(errors)) < 4 * np.sqrt(0.25 / 128 / 60)


def test_bands_keep_the_promised_chance() -> None:
    for n, threshold, recall in itertools.product((10, 10**4, 10**9), (0.5, 0.7, 0.9), (0.8, 0.95)):
        bands, rows = dedup.choose_bands(n, threshold, recall, 0.03)
        assert 1 - (1 - threshold**rows) ** bands >= recall
        assert 1 - (1 - threshold**rows) ** (bands - 1) < recall
        assert n * bands * 0.03**rows <= 2, "a document meets more than one stranger"


def test_the_s_curve_is_what_happens() -> None:
    rng = np.random.default_rng(6)
    similarity, bands, rows = 0.6, 4, 3
    agree = rng.random((20_000, bands, rows)) < similarity
    met = agree.all(2).any(1).mean()
    assert abs(dedup.meeting_chance(similarity, bands, rows) - met) < 0.02


def test_rows_grow_with_the_logarithm_of_the_documents() -> None:
    rows = [dedup.choose_bands(10**power, 0.7, 0.95, 0.05)[1] for power in range(1, 13)]
    assert rows == sorted(rows) and rows[-1] <= 12


def test_candidates_are_all_pairs_with_an_equal_band() -> None:
    rng = np.random.default_rng(1)
    signature = rng.integers(0, 3, (30, 8)).astype(np.uint32)
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(30), 2)
        for band in range(4)
        if (signature[i, 2 * band : 2 * band + 2] == signature[j, 2 * band : 2 * band + 2]).all()
    }
    keys = dedup.band_keys(signature, 4, 2)
    assert set(map(tuple, dedup.candidate_pairs(keys).tolist())) == expected


def test_a_crowd_stays_one_cluster() -> None:
    texts = ["one template with the very same words in it"] * 500
    pairs, _, counts = dedup.near_duplicates(texts)
    assert counts["n_candidates"] < 5 * len(texts)
    assert set(dedup.clusters(len(texts), pairs).tolist()) == {0}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_clusters_are_connected_components(edges: list[tuple[int, int]]) -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(edges, int).reshape(-1, 2)
    ours = dedup.clusters(12, pairs)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(12, 12))
    labels = connected_components(graph, directed=False)[1]
    for i, j in itertools.combinations(range(12), 2):
        assert (ours[i] == ours[j]) == (labels[i] == labels[j])
    assert all(root <= i for i, root in enumerate(ours.tolist()))


def test_planted_copies_are_found() -> None:
    rng = np.random.default_rng(5)
    vocabulary = np.array([f"word{i}" for i in range(3000)])
    texts = [" ".join(rng.choice(vocabulary, 120)) for _ in range(300)]
    texts += [
        dedup.edited(t, s, rng)[0] for t, s in zip(texts, rng.uniform(0, 0.2, 150), strict=False)
    ]
    truth = dedup.all_pairs(texts, 3, 0.7)
    pairs, similarity, _ = dedup.near_duplicates(texts)
    found = dict(zip(map(tuple, pairs.tolist()), similarity, strict=True))
    assert len(truth) > 50
    assert len(found.keys() & truth.keys()) >= 0.95 * len(truth)
    assert found.keys() <= truth.keys()
    assert all(abs(truth[p] - v) < 1e-12 for p, v in found.items())


def test_keeping_respects_the_preference() -> None:
    kept, removed = dedup.keep_first([1, 2, 1, 1], [3, 0, 1, 2])
    assert kept == [1, 3]
    assert removed == {0: 3, 2: 3}


def test_split_depends_on_the_file_alone() -> None:
    shares = {"train": 0, "validation": 0, "test": 0}
    for i in range(20_000):
        shares[dedup.split_of("package", f"a/{i}.py")] += 1
    assert abs(shares["validation"] - 400) < 90
    assert abs(shares["test"] - 400) < 90
    assert dedup.split_of("p", "x", salt="1") in shares


def test_one_seed_one_result() -> None:
    texts = [f"a text number {i // 2} with some words that are equal {i // 2}" for i in range(40)]
    first = dedup.near_duplicates(texts, rng=np.random.default_rng(7))
    second = dedup.near_duplicates(texts, rng=np.random.default_rng(7))
    assert (first[0] == second[0]).all() and first[2] == second[2]


def test_repeated_words_are_one_member() -> None:
    shingles, borders = dedup.shingle_sets(["a b a b a b a b", "a b a"], 2)
    assert np.diff(borders).tolist() == [2, 2]
    assert dedup.jaccard(np.array([[0, 1]]), shingles, borders)[0] == 1


def test_split_is_the_same_in_another_process() -> None:
    import subprocess
    import sys

    code = (
        "from llmchain.data.dedup import split_of\n"
        "print([split_of('p', f'{i}.py') for i in range(300)])"
    )
    here = [dedup.split_of("p", f"{i}.py") for i in range(300)]
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(here)


def templates(n: int) -> list[str]:
    """Documents of one template, so alike that all meet: more than one bucket takes as a whole."""
    rng = np.random.default_rng(2)
    base = [f"w{i}" for i in range(60)]
    texts = []
    for i in range(n):
        words = list(base)
        for place in rng.integers(0, 60, int(rng.integers(0, 9))):
            words[place] = f"x{i % 17}y{place}"
        texts.append(" ".join(words))
    return texts


def survivors(texts: list[str], order: list[int], documents: int) -> tuple[set[int], set]:
    """Kept documents and clusters, in the numbers of `texts`, after a search in another order."""
    shuffled = [texts[i] for i in order]
    plan = dedup.make_plan(len(texts), rng=np.random.default_rng(0))
    pairs, _, _ = dedup.search(lambda: dedup.text_blocks(shuffled, documents=documents), plan)
    kept, _ = dedup.choose_kept(shuffled, [f"{i:06d}" for i in order], pairs)
    groups: dict[int, set[int]] = {}
    for i, root in enumerate(dedup.clusters(len(texts), pairs).tolist()):
        groups.setdefault(root, set()).add(order[i])
    return {order[i] for i in kept}, set(map(frozenset, groups.values()))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=30), st.data())
def test_neither_order_nor_blocks_matter(texts: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    documents = data.draw(st.integers(1, len(texts)))
    straight = survivors(texts, list(range(len(texts))), 1000)
    assert survivors(texts, list(order), documents) == straight


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 13, 400]))
def test_order_does_not_matter_in_a_crowd(seed: int, documents: int) -> None:
    texts = templates(300)
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    assert survivors(texts, order, documents) == survivors(texts, list(range(300)), 1000)


def test_blocks_end_where_they_should() -> None:
    blocks = list(dedup.text_blocks(["abc", "d", "efgh", "", "i"], characters=4, documents=2))
    assert blocks == [["abc", "d"], ["efgh"], ["", "i"]]


def test_blocks_without_candidates_are_counted() -> None:
    texts = [f"{c}{i} {c}{i + 1} {c}{i + 2} {c}{i + 3}" for i, c in enumerate("abcdefgh")]
    texts += [texts[5], "p q r s t", "u v w x y", "p q r s t"]
    plan = dedup.make_plan(len(texts))
    pairs, similarity, _ = dedup.search(lambda: dedup.text_blocks(texts, documents=2), plan)
    assert pairs.tolist() == [[5, 8], [9, 11]] and similarity.tolist() == [1, 1]


def test_a_cluster_of_two_workers_finds_the_same() -> None:
    """Ray Data is an extra of its own: skipped, and said, where it is not installed."""
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        mapper = dedup.ray_mapper(ray.get_runtime_context().gcs_address, workers=2)
        assert mapper is not map and mapper(len, []) == []
        texts = templates(120) + [" ".join(f"u{i}v{k}" for k in range(30)) for i in range(80)]
        plan = dedup.make_plan(len(texts))

        def blocks():
            return dedup.text_blocks(texts, documents=40)

        here, there = dedup.search(blocks, plan), dedup.search(blocks, plan, mapper)
    finally:
        ray.shutdown()
    assert len(here[0]) > 100 and here[2] == there[2]
    assert (here[0] == there[0]).all() and (here[1] == there[1]).all()


def test_without_a_cluster_blocks_are_computed_here() -> None:
    assert dedup.ray_mapper(None) is map and dedup.ray_mapper("") is map


def test_equally_long_copies_are_chosen_by_name() -> None:
    kept, removed = dedup.choose_kept(["aa", "bb", "c"], ["z", "a", "b"], np.array([[0, 1]]))
    assert kept == [1, 2] and removed == {0: 1}


def test_documents_without_words_are_no_trouble() -> None:
    pairs, similarity, _ = dedup.near_duplicates(["", "a b c d e", "...", "a b c d e"])
    assert pairs.tolist() == [[0, 2], [1, 3]] and similarity.tolist() == [1, 1]


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=5), st.integers(2, 5))
def test_passages_are_those_of_a_dictionary(texts: list[str], n: int) -> None:
    words = [t.split() for t in texts]
    seen: set[tuple[str, ...]] = set()
    count: dict[tuple[str, ...], int] = {}
    for ws in words:
        for i in range(len(ws) - n + 1):
            count[tuple(ws[i : i + n])] = count.get(tuple(ws[i : i + n]), 0) + 1
    copied, originals = set(), set()
    for d, ws in enumerate(words):
        for i in range(len(ws) - n + 1):
            run = tuple(ws[i : i + n])
            places = {(d, k) for k in range(i, i + n)}
            if run in seen:
                copied |= places
            elif count[run] > 1:
                originals |= places
            seen.add(run)
    spans = dedup.repeated_passages(texts, n).tolist()
    assert {(d, k) for d, a, b in spans for k in range(a, b)} == copied - originals
    ends = [(d, b) for d, _, b in spans]
    assert not {(d, a) for d, a, _ in spans} & set(ends), "two spans touch"


@settings(max_examples=100, deadline=None)
@given(st.text("ab İß.,清\n", max_size=30), st.integers(0, 5), st.integers(1, 5))
def test_cutting_leaves_the_other_words(text: str, first: int, n: int) -> None:
    words = dedup.WORD.findall(text.lower())
    first = min(first, len(words))
    last = min(first + n, len(words))
    if first < last:
        left = dedup.WORD.findall(dedup.without_passages(text, [(first, last)]).lower())
        assert "".join(left) == "".join(words[:first] + words[last:])


@settings(max_examples=150, deadline=None)
@given(st.lists(WORDS, max_size=5), st.lists(WORDS, max_size=5), st.integers(3, 6))
def test_contamination_is_that_of_python_sets(
    texts: list[str], evaluation: list[str], n: int
) -> None:
    def runs(words: list[str], size: int) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}

    expected = []
    for d, text in enumerate(texts):
        for e, asked in enumerate(evaluation):
            words = asked.split()
            size = min(len(words), n)
            if len(words) >= 2 and runs(text.split(), size) & runs(words, size):
                expected.append([d, e])
    assert dedup.shared_runs(texts, evaluation, n, 2).tolist() == expected


def test_recall_and_precision_on_measured_truth(local_data: Path) -> None:
    folder = local_data / "near_duplicates"
    rows = [json.loads(line) for line in (folder / "docs.jsonl").open(encoding="utf-8")]
    number = {row["id"]: i for i, row in enumerate(rows)}
    with (folder / "truth_pairs.jsonl").open(encoding="utf-8") as lines:
        truth = [json.loads(line) for line in lines]
    wanted = {
        tuple(sorted((number[t["a"]], number[t["b"]]))) for t in truth if t["jaccard_w3"] >= 0.7
    }
    found = set(map(tuple, dedup.near_duplicates([r["text"] for r in rows])[0].tolist()))
    assert len(found & wanted) >= 0.93 * len(wanted) > 1000
    assert len(found & wanted) >= 0.95 * len(found)


def test_an_evaluation_set_that_was_read_in_training_is_seen(local_data: Path) -> None:
    """The passages of the Chinese questions are part of the Chinese raw text: its README says so."""

    def texts(name: str, limit: int) -> list[str]:
        with (local_data / name).open(encoding="utf-8") as lines:
            return [json.loads(line)["text"] for line in itertools.islice(lines, limit)]

    passages = texts("qa_zh/passages.jsonl", 700)
    train = texts("pretrain_zh/train.jsonl", 10**6)
    assert len(set(dedup.shared_runs(train, passages)[:, 1].tolist())) > 0.5 * len(passages)


def test_every_set_that_a_chapter_measures_on_is_looked_for() -> None:
    chapters = read_chapters(Path(__file__).parents[1])
    searched = set(chapters["03_deduplicate"].data)
    for c in chapters.values():
        if c.path.parent.name not in ("01_data", "02_pretraining", "07_errata"):
            missing = {n for n in c.data if not n.startswith("weights/")} - searched
            assert not missing, f"add {missing} of {c.id} to `data` of 03_deduplicate"


def test_paper_follows_the_number_of_documents() -> None:
    assumed = dict(
        word_bytes=6.0, meeting_share=0.5, plan=(0.7, 0.95, 0.03), core_speed=1e7,
        machines=10, cores=10, network=1e9, core_price=0.1,
    )  # fmt: skip
    one = dedup.scale_out(1e12, 1e3, **assumed)
    assert one["documents"] == 10**9
    assert (one["bands"], one["rows"]) == dedup.choose_bands(10**9, 0.7, 0.95, 0.03)
    assert one["shuffle"] == 10**9 * (one["bands"] + 1) * 16
    assert one["judge"] == pytest.approx(0.5 * 1e12 / 6 * 8)
    assert one["reading"] == pytest.approx(1.5e12 / 1e7 / 3600 / 100)
    assert one["sending"] == pytest.approx((one["shuffle"] + one["judge"]) / 1e10 / 3600)
    assert one["price"] == pytest.approx(one["hours"] * 100 * 0.1)


def clean_documents(leak: str) -> str:
    """Code of a chapter that makes corpus/clean; one of its documents holds `leak`."""
    return f"""
import numpy as np
rng = np.random.default_rng(0)
known = np.array([f"w{{i}}" for i in range(4000)])
rows = []
for i in range(1500):
    text = " ".join(rng.choice(known, 60)) + "."
    row = dict(id=f"d{{i:04d}}", text=text, lang="en", package="p", path=f"{{i}}.py")
    rows.append(row)
rows[7]["text"] += " " + {leak!r}
ch.write("corpus/clean", rows)
ch.claim("rows", len(rows), equal=1500)"""


@pytest.mark.slow
def test_a_run_whose_test_data_leak_fails_its_claim(project: Project) -> None:
    """The real chapter on a corpus with one question of the customers in it."""
    root = Path(__file__).parents[1]
    shutil.rmtree(project.root / "data")
    (project.root / "data").symlink_to(root / "data")
    name = "nbs/01_data/03_deduplicate.ipynb"
    shutil.copy(root / name, project.root / name)
    for other in ("01_first", "02_second", "03_aside"):
        (project.root / "nbs" / "01_data" / f"{other}.ipynb").unlink()
    (project.root / "settings.ini").write_text("[smoke]\n", encoding="utf-8")
    with (root / "data/customer_service/test.jsonl").open(encoding="utf-8") as lines:
        questions = [json.loads(line)["text"] for line in lines]
    leak = max(questions, key=len)
    made = chapter("02_clean", "", "corpus/clean", body=clean_documents(leak))
    project.put("02_clean", made)
    words = ("03_deduplicate", "-p", "03_deduplicate.tier=embedded")
    leaky = project.summary(*words, "-p", "03_deduplicate.decontaminate=false")
    errors = {c["id"]: c.get("error") or "" for c in leaky["chapters"]}
    assert not errors["02_clean"] and leaky["code"] == 1, errors
    assert "claim contaminated_documents: 1 is not 0" in errors["03_deduplicate"]
    clean = project.summary(*words)
    assert clean["code"] == 0, [c.get("error") for c in clean["chapters"]]
    entry = next(c for c in clean["chapters"] if c["id"] == "03_deduplicate")
    assert entry["metrics"]["n_contaminated"] == 1


@given(
    st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=8),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_passages_do_not_depend_on_what_is_in_memory_at_once(texts, n, at_once):
    whole = dedup.repeated_passages(texts, n)
    assert dedup.repeated_passages(texts, n, at_once).tolist() == whole.tolist()


@pytest.mark.parametrize("at_once", [1, 50, 1000])
def test_similarity_does_not_depend_on_what_is_in_memory_at_once(tmp_path, at_once):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdef"), rng.integers(3, 40))) for _ in range(30)]
    value, borders = dedup.shingles(texts, 3)
    pairs = np.array([(i, j) for i in range(30) for j in range(i + 1, 30)])
    with (tmp_path / "shingles").open("w+b") as file:
        file.write(value)
        file.flush()
        found = dedup.judged(pairs, file, borders, at_once)
    assert found.tolist() == dedup.jaccard(pairs, value, borders).tolist()
