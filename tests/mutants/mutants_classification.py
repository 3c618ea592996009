"""Bugs planted into llmchain.finetune.classification."""

MODULE = "llmchain.finetune.classification"
TESTS = "tests/test_classification.py"
MUTANTS = [
    dict(
        name="predictions left in the order of length",
        module=MODULE,
        old="                logits[place] = row\n    return np.stack(logits)",
        new="                logits[place] = row\n"
        "    return np.stack([logits[i] for i in np.argsort(lengths, kind='stable')])",
        why="Somebody sorts for speed and forgets to sort back: accuracy falls to chance, no error.",
        killed_by=f"{TESTS}::test_prediction_is_in_the_order_of_the_texts_and_keeps_the_mode",
    ),
    dict(
        name="mean pooling counts padding",
        module=MODULE,
        old="return (hidden * weight).sum(1) / weight.sum(1)",
        new="return hidden.mean(1)",
        why="The mask is forgotten in the average: a text's vector depends on its neighbours' length.",
        killed_by=f"{TESTS}::test_padding_changes_no_logit",
    ),
    dict(
        name="dropout on in the frozen part",
        module=MODULE,
        old="        for module in self.frozen_modules():\n            module.eval()\n",
        new="",
        why="model.train() reaches frozen blocks too, so kept states and computed states differ.",
        killed_by=f"{TESTS}::test_frozen_parts_neither_learn_nor_drop",
    ),
    dict(
        name="true and false positives swapped",
        module=MODULE,
        old="np.bincount(labels * n_classes + predictions,",
        new="np.bincount(predictions * n_classes + labels,",
        why="A transposed confusion matrix keeps accuracy and F1; precision becomes recall.",
        killed_by=f"{TESTS}::test_measures_equal_those_of_scikit_learn",
    ),
    dict(
        name="one-sided McNemar",
        module=MODULE,
        old="min(1.0, 2 * tail / 2**n)",
        new="min(1.0, tail / 2**n)",
        why="Half the p-value: differences that are chance are reported as found.",
        killed_by=f"{TESTS}::test_mcnemar_is_the_exact_binomial",
    ),
    dict(
        name="the same order in every epoch",
        module=MODULE,
        old="return lambda step: plan(step // n_batches)[step % n_batches]",
        new="return lambda step: plan(0)[step // n_batches]",
        why="Step and epoch confused: one batch is repeated a whole epoch long.",
        killed_by=f"{TESTS}::test_every_text_is_in_one_batch",
    ),
    dict(
        name="evaluation on the train split",
        module=MODULE,
        old="    logits = predict(model, rows[split], **options)\n"
        "    return confusion_matrix(labels[split], logits.argmax(1), n_classes)",
        new='    logits = predict(model, rows["train"], **options)\n'
        '    return confusion_matrix(labels["train"], logits.argmax(1), n_classes)',
        why="A split's name left over from a trial: what was learnt by heart is reported as the test score.",
        killed_by=f"{TESTS}::test_the_split_that_is_named_judges",
    ),
    dict(
        name="validation is not compared with test",
        module=MODULE,
        old="        later |= {form: (name, i) for i, form in enumerate(forms[name])}",
        new="        later = later or {form: (name, i) for i, form in enumerate(forms[name])}",
        why="Only the last split is remembered, so training sentences that choose on validation pass.",
        killed_by=f"{TESTS}::test_a_text_in_two_splits_is_refused_and_can_be_dropped",
    ),
    dict(
        name="unpaired bootstrap",
        module=MODULE,
        old="[mean_measure(a, weights) - mean_measure(b, weights) for weights in drawn]",
        new="[\n        mean_measure(a, weights) - mean_measure(b, other)\n"
        "        for weights, other in zip(drawn, drawn[::-1], strict=True)\n    ]",
        why="Each model gets its own draw of texts: the interval is too wide, and what helps is called chance.",
        killed_by=f"{TESTS}::test_interval_over_texts_pairs_them_and_takes_the_mean_of_runs",
    ),
]
