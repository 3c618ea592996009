"""MinHash, bands and clusters against definitions that share nothing with them."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.data import dedup

WORDS = st.lists(st.sampled_from("a b c d e f g".split()), max_size=12).map(" ".join)


def shingles_by_hand(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+|[^\W\d_a-z]", text.lower())
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=6), st.integers(1, 4))
def test_jaccard_is_that_of_python_sets(texts: list[str], n: int) -> None:
    shingles, borders = dedup.shingle_sets(texts, n)
    pairs = np.array(list(itertools.combinations(range(len(texts)), 2)))
    ours = dedup.jaccard(pairs, shingles, borders, block=7)
    for (i, j), value in zip(pairs.tolist(), ours, strict=True):
        a, b = shingles_by_hand(texts[i], n), shingles_by_hand(texts[j], n)
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


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_estimate_is_unbiased(share: float) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        common = int(200 * share)
        left, right, both = (
            rng.integers(0, 2**63, n, dtype=np.uint64) for n in (200 - common, 200 - common, common)
        )
        sets = [np.unique(np.concatenate([both, x])) for x in (left, right)]
        borders = np.array([0, len(sets[0]), len(sets[0]) + len(sets[1])])
        signature = dedup.signatures(np.concatenate(sets), borders, 128, rng)
        true = dedup.jaccard(np.array([[0, 1]]), np.concatenate(sets), borders)[0]
        errors.append((signature[0] == signature[1]).mean() - true)
    assert abs(np.mean(errors)) < 4 * np.sqrt(0.25 / 128 / 60)


def test_bands_keep_the_promised_chance() -> None:
    for k, threshold, recall in itertools.product((64, 128, 256), (0.5, 0.7, 0.9), (0.8, 0.95)):
        bands, rows = dedup.choose_bands(k, threshold, recall)
        assert bands * rows <= k
        assert 1 - (1 - threshold**rows) ** bands >= recall
        longer = rows + 1
        assert 1 - (1 - threshold**longer) ** (k // longer) < recall


def test_candidates_are_all_pairs_with_an_equal_band() -> None:
    rng = np.random.default_rng(1)
    signature = rng.integers(0, 3, (30, 8)).astype(np.uint32)
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(30), 2)
        for band in range(4)
        if (signature[i, 2 * band : 2 * band + 2] == signature[j, 2 * band : 2 * band + 2]).all()
    }
    assert set(map(tuple, dedup.candidate_pairs(signature, 4, 2).tolist())) == expected


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
