"""Bugs planted into llmchain.finetune.regression."""

MODULE = "llmchain.finetune.regression"
TESTS = "tests/test_regression.py"
EQUALITY = "tests/equality/test_regression.py"


def bug(name, old, new, why, killed_by):
    "One row."
    killer = killed_by if "::" in killed_by else f"{TESTS}::{killed_by}"
    return dict(name=name, module=MODULE, old=old, new=new, why=why, killed_by=killer)


MUTANTS = [
    bug(
        "only the first text of a pair has a limit",
        "for side in (first, second or ()):",
        "for side in (first,):",
        "A book in the second place is answered from its first lines, and nobody is told.",
        "test_a_saved_regressor_opens_and_says_the_same",
    ),
    bug(
        "a file's texts have no limit",
        "        refuse_long([text], where, longest)\n",
        "",
        "A row that swallowed the rest of the file is learnt as one text, cut in silence.",
        "test_files_name_the_row_and_the_remedy",
    ),
    bug(
        "a column against a row",
        "    if predictions.shape != targets.shape:\n",
        "    if predictions.numel() != targets.numel():\n",
        "(B, 1) against (B,): all pairs are compared, the loss falls, and the model learns the mean.",
        "test_losses_refuse_to_broadcast",
    ),
    bug(
        "padding in the mean of a sentence",
        'pool(bert, hidden, mask, "mean")',
        'pool(bert, hidden, torch.ones_like(mask), "mean")',
        "A sentence's place in space depends on who else is in its batch.",
        "test_vectors_have_length_one_and_no_neighbours",
    ),
    bug(
        "the quantile without the one",
        "math.ceil((n + 1) * (1 - alpha) - 1e-9)",
        "math.ceil(n * (1 - alpha) - 1e-9)",
        "The new row is not counted: less is covered than promised, most of all with few rows.",
        "test_coverage_is_what_the_theorem_says",
    ),
    bug(
        "calibration rows judge too",
        "judges = mixed[n_calibration:]",
        "judges = mixed",
        "Rows that set the quantile are counted as covered by it: evaluation on what was fitted.",
        "test_splits_judge_by_rows_that_did_not_calibrate",
    ),
    bug(
        "a rounding error asks for one row more",
        "(1 - alpha) - 1e-9)",
        "(1 - alpha) + 1e-9)",
        "Nine rows at one in ten: the rank becomes ten of nine, and the interval is the whole line.",
        "test_the_quantile_counts_the_new_row",
    ),
    bug(
        "the variance for its logarithm",
        "squares * (-log_variances).exp()",
        "squares / log_variances",
        "The head's second number is taken for the variance: it may be negative, and the loss has no end.",
        f"{EQUALITY}::test_gaussian_is_that_of_torch_and_of_scipy",
    ),
    bug(
        "the variance for the deviation",
        "np.exp(raw[:, 1] / 2)",
        "np.exp(raw[:, 1])",
        "The root is forgotten: small doubts become smaller and large ones larger.",
        "test_a_head_of_zero_says_the_mean_and_scores_have_the_targets_unit",
    ),
    bug(
        "ranks without ties",
        "    return (np.cumsum(count) - (count - 1) / 2)[place]",
        "    return np.argsort(np.argsort(np.asarray(values), kind='stable'), kind='stable') + 1.0",
        "Equal values get different ranks, by their place in the file: sorting the file changes ρ.",
        "test_equal_values_share_a_rank_whatever_their_order",
    ),
    bug(
        "Fisher's interval on the wrong axis",
        "return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)",
        "return r - half, r + half",
        "The transformation is left out: near 1 the interval reaches over it.",
        f"{EQUALITY}::test_correlations_are_those_of_scipy[True-3]",
    ),
    bug(
        "each model on its own rows",
        "values = [measure(*(column[rows] for column in columns)) for rows in drawn]",
        "values = [measure(*(column[rng.integers(0, n, n)] for column in columns)) for _ in drawn]",
        "Columns are resampled apart: the pairs are torn, and two equal models differ.",
        "test_bootstrap_draws_rows_together_and_covers",
    ),
    bug(
        "Huber's kink is a jump",
        "return (near * (gap - near / 2)).sum()",
        "return (near * gap / 2).sum()",
        "Right below delta, half the slope beyond it: outliers pull at half their force.",
        f"{EQUALITY}::test_huber_is_that_of_torch[0.3]",
    ),
    bug(
        "thresholds minus score, the wrong way round",
        "at_most = thresholds - scores[:, None]",
        "at_most = scores[:, None] - thresholds",
        "The sign of the cumulative model: the levels are in reverse, or their sum is not one.",
        f"{EQUALITY}::test_levels_are_differences_of_sigmoids[3]",
    ),
    bug(
        "the shares of two levels exchanged",
        "weights.scatter_(1, upper[:, None], share[:, None])",
        "weights.scatter_(1, upper[:, None], 1 - share[:, None])",
        "A score of 3.4 pulls towards 4 as much as towards 3; the mean is lost.",
        "test_weights_give_the_target_back",
    ),
    bug(
        "the shorter text is cut",
        "kept = min(len(pieces[shorter]), room // 2)",
        "kept = room - min(len(pieces[1 - shorter]), room // 2)",
        "The longer text keeps its half first: a short text loses words, or rows are not what others see.",
        "test_pairs_are_cut_as_the_tokenizer_cuts_them",
    ),
    bug(
        "one segment for both texts",
        "return ((is_sep.cumsum(1) - is_sep) > 0).long() * attention_mask",
        "return (is_sep.cumsum(1) > 2).long() * attention_mask",
        "The second text is not told apart; it trains, and is not the model that others load.",
        "test_segments_are_those_of_the_tokenizer",
    ),
    bug(
        "padding is a second text",
        "> 0).long() * attention_mask",
        "> 0).long()",
        "Harmless while padding is masked; whoever pools over segments finds the padding in them.",
        "test_segments_are_those_of_the_tokenizer",
    ),
    bug(
        "shift forgotten when the head is shipped",
        '"bias": bias + model.center',
        '"bias": bias',
        "The scale goes into the head, the mean does not: correlations are perfect, scores are off.",
        f"{EQUALITY}::test_scale_and_shift_disappear_into_the_head[sizes0]",
    ),
    bug(
        "a leak is looked for in the same place only",
        "learnt = [text for row in train for text in texts_of(row)]",
        "learnt = [texts_of(row)[0] for row in train]",
        "A sentence that was the second of a training pair may be the first of a test pair.",
        "test_a_shared_sentence_is_a_leak_in_either_place",
    ),
    bug(
        "one order is read",
        "given = [(first, second), (second, first)] if facts",
        "given = [(first, second), (first, second)] if facts",
        "The mean of twice the same order: the score of a pair depends on who stands first.",
        "test_a_saved_regressor_opens_and_says_the_same[mse]",
    ),
]
