"""Bugs planted into the assistant and into the measures that judge it."""

MODULE = "llmchain.apps.customer_service"
UNIT = "tests/test_customer_service.py::"

MUTANTS = [
    dict(
        name="padding_in_the_mean",
        module=MODULE,
        old="return (hidden * weights).sum(dim=1) / weights.sum(dim=1)",
        new="return hidden.mean(dim=1)",
        why="The vector of a sentence depends on the longest sentence in its batch.",
        killed_by=UNIT + "test_mean_pool_leaves_padding_out",
    ),
    dict(
        name="ties_in_our_favour",
        module=MODULE,
        old="return (similarities >= own).sum(axis=1)",
        new="return 1 + (similarities > own).sum(axis=1)",
        why="A retriever that finds everything equally near is counted as perfect.",
        killed_by=UNIT + "test_ranks_count_ties_against_the_system",
    ),
    dict(
        name="outside_answers_cost_nothing",
        module=MODULE,
        old="return float((1 - outside_share) * inner + outside_share * cost_wrong * accepted)",
        new="return float((1 - outside_share) * inner)",
        why="The threshold is chosen as if nobody ever asked anything else.",
        killed_by=UNIT + "test_cost_by_hand",
    ),
    dict(
        name="wrong_answers_over_all_rows",
        module=MODULE,
        old="wrong = (answered & ~right)[inside].mean()",
        new="wrong = (answered & ~right).mean()",
        why="In-scope errors are mixed with the out-of-scope rows, in the file's proportion.",
        killed_by=UNIT + "test_cost_by_hand",
    ),
    dict(
        name="weights_saved_in_memory_order",
        module=MODULE,
        old="kept = {n: np.ascontiguousarray(self.arrays[n])",
        new="kept = {n: self.arrays[n]",
        why="Met while this chapter was written: right shape, right numbers, wrong order after loading.",
        killed_by=UNIT + "test_answers_and_refuses",
    ),
    dict(
        name="ties_ignored_in_auroc",
        module=MODULE,
        old="return float(((below + not_above) / 2).mean() / len(outside))",
        new="return float(not_above.mean() / len(outside))",
        why="Equal confidences count as a success: a constant confidence gets a perfect AUROC.",
        killed_by=UNIT + "test_auroc_equals_scikit_learn_with_ties",
    ),
    dict(
        name="cache_key_without_the_weights",
        module=MODULE,
        old='key.update(hashlib.file_digest(file, "sha256").digest())',
        new='key.update(b"features")',
        why="After the encoder is exchanged the old vectors are read, silently.",
        killed_by=UNIT + "test_features_are_computed_once_for_texts_and_weights",
    ),
]
