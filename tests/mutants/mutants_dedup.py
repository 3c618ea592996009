"""Bugs planted into the deduplication."""

MODULE = "llmchain.data.dedup"
UNIT = "tests/test_dedup.py::"

MUTANTS = [
    dict(
        name="shingles_cross_documents",
        module=MODULE,
        old="inside = place + k < length[owner]",
        new="inside = borders[owner] + place + k < len(words)",
        why="In a flat array the end of a document is not the end: short documents borrow words of the next one.",
        killed_by=UNIT + "test_shingles_do_not_cross_documents",
    ),
    dict(
        name="multiset",
        module=MODULE,
        old="value, owner = value[new], owner[new]\n    return",
        new="value, owner = value[order >= 0], owner[order >= 0]\n    return",
        why="Repeated shingles are not dropped: intersections and unions of lists, not of sets.",
        killed_by=UNIT + "test_repeated_words_are_one_member",
    ),
    dict(
        name="union_counted_twice",
        module=MODULE,
        old="(counts.reshape(-1, 2).sum(1) - common)",
        new="counts.reshape(-1, 2).sum(1)",
        why="The common part is not taken off the union: no pair ever exceeds one half.",
        killed_by=UNIT + "test_planted_copies_are_found",
    ),
    dict(
        name="even_multiplier",
        module=MODULE,
        old="np.uint64(2) + np.uint64(1)  # odd",
        new="np.uint64(1 << 62)  # odd",
        why="An even multiplier throws bits away; with too few left all minima agree.",
        killed_by=UNIT + "test_estimate_is_unbiased[0.2]",
    ),
    dict(
        name="bands_and_rows_swapped",
        module=MODULE,
        old="return 1 - (1 - jaccard**n_rows) ** n_bands",
        new="return 1 - (1 - jaccard**n_bands) ** n_rows",
        why="The two exponents of the S-curve are exchanged: the chosen bands miss most pairs.",
        killed_by=UNIT + "test_bands_keep_the_promised_chance",
    ),
    dict(
        name="parents_not_followed",
        module=MODULE,
        old="parent[max(i, j)] = min(i, j)",
        new="parent[j] = i",
        why="Roots are linked without order, and the final pass, which relies on it, leaves halves of clusters.",
        killed_by=UNIT + "test_clusters_are_connected_components",
    ),
    dict(
        name="split_by_python_hash",
        module=MODULE,
        old='place = int.from_bytes(digest, "big") % 100',
        new='place = hash(f"{package}/{path}") % 100',
        why="Python salts its hash in each process: tomorrow's test documents were today's training text.",
        killed_by=UNIT + "test_split_is_the_same_in_another_process",
    ),
]
