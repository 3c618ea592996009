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
]
