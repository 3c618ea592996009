"""Bugs planted into llmchain.finetune.transfer."""

MODULE = "llmchain.finetune.transfer"
UNIT = "tests/test_transfer.py::"

MUTANTS = [
    dict(
        name="layers_upside_down",
        module=MODULE,
        old="depth |= {id(p): n - i for p in block.parameters()}",
        new="depth |= {id(p): i + 1 for p in block.parameters()}",
        why="The lowest block learns fastest: what is most general is moved most.",
        killed_by=UNIT + "test_the_rate_falls_from_the_head_down",
    ),
    dict(
        name="embeddings_learn_at_full_rate",
        module=MODULE,
        old="depth = {id(p): n + 1 for part in embeddings for p in part.parameters()}",
        new="depth = {}",
        why="Parameters that no rule names fall back to the head's rate.",
        killed_by=UNIT + "test_the_rate_falls_from_the_head_down",
    ),
    dict(
        name="weights_upside_down",
        module=MODULE,
        old="len(labels) / (n_classes * counts)",
        new="n_classes * counts / len(labels)",
        why="The rare class is made rarer.",
        killed_by=UNIT + "test_weights_are_sklearn_s",
    ),
    dict(
        name="mean_by_weight_in_each_part",
        module=MODULE,
        old='logits, batch["labels"], self.weights.to(logits), reduction="sum", ignore_index=-100',
        new='logits, batch["labels"], self.weights.to(logits), reduction="mean", ignore_index=-100',
        why="torch's weighted mean divides by the weights of its own batch, so a batch cut in two has another loss.",
        killed_by=UNIT + "test_weighted_loss_is_torch_s_and_splits",
    ),
    dict(
        name="threshold_inside_a_tie",
        module=MODULE,
        old="ranked[:-1] > ranked[1:], (f1_positive",
        new="True, (f1_positive",
        why="Texts with the same score are put on both sides of the threshold; no threshold does that.",
        killed_by=UNIT + "test_threshold_is_the_best_of_all",
    ),
    dict(
        name="prior_multiplied_twice",
        module=MODULE,
        old="new, with_prior(probabilities, old, new).mean(0)",
        new="new, with_prior(with_prior(probabilities, old, new), old, new).mean(0)",
        why="Corrected probabilities are corrected again: the shares run away to 0 or 1.",
        killed_by=UNIT + "test_the_prior_is_found_without_labels",
    ),
    dict(
        name="prior_not_divided_out",
        module=MODULE,
        old="scaled = probabilities * (np.asarray(new) / np.asarray(old))",
        new="scaled = probabilities * np.asarray(new)",
        why="The shares of training stay inside: the correction counts both priors.",
        killed_by=UNIT + "test_another_prior_and_back",
    ),
]
