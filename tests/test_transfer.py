"""Rates by layer, class weights and thresholds."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight

from llmchain.finetune.classification import ClassificationObjective, Classifier
from llmchain.finetune.transfer import (
    WeightedObjective,
    balanced_weights,
    best_threshold,
    estimate_prior,
    layer_groups,
    with_prior,
)
from llmchain.pretrain.bert import Bert, BertConfig
from llmchain.pretrain.training import Muon, training_steps


def small(n_frozen=0, n_classes=2):
    bert = Bert(BertConfig(50, 20, 3, 2, 16, 32, 0.0), torch.Generator().manual_seed(1))
    return Classifier(bert, n_classes, "mean", n_frozen)


def some_batch(n=6):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (n, 7), generator=generator)
    labels = torch.tensor([0, 1, 0, 0, 1, 0])[:n]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def rates(model, groups):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group["rate"] for group in groups for p in group["params"]}


def test_the_rate_falls_from_the_head_down():
    model = small()
    found = rates(model, layer_groups(model, 0.5, 0.01))
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {"head.": 1.0, "bert.blocks.2.": 0.5, "bert.blocks.1.": 0.25}
    expected |= {"bert.blocks.0.": 0.125, "bert.token_": 0.0625, "bert.position_": 0.0625}
    expected |= {"bert.type_": 0.0625, "bert.norm.": 0.0625}
    for name, rate in found.items():
        (wanted,) = (r for begin, r in expected.items() if name.startswith(begin))
        assert rate == wanted, name


def test_frozen_layers_have_no_group_and_keep_their_depth():
    model = small(n_frozen=2)
    found = rates(model, layer_groups(model, 0.5, 0.01))
    assert {name.split(".")[2] for name in found if "blocks" in name} == {"2"}
    assert not any("embedding" in name for name in found)
    assert found["bert.blocks.2.mlp.up.weight"] == 0.5


def test_biases_do_not_decay_in_any_layer():
    for group in layer_groups(small(), 0.9, 0.01):
        dims = {p.ndim >= 2 for p in group["params"]}
        assert dims == {group["weight_decay"] > 0}


def test_the_loop_moves_each_layer_by_its_rate():
    model = small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Muon(layer_groups(model, 0.1, 0.0), lr=0.0, betas=(0.9, 0.98))
    steps = training_steps(
        model,
        optimizer,
        ClassificationObjective(),
        lambda s: some_batch(),
        lambda s: 1e-3,
        range(1),
    )
    assert len(list(steps)) == 1
    moved = {
        name: float((p - before[name]).detach().abs().max()) for name, p in model.named_parameters()
    }
    assert moved["head.weight"] == pytest.approx(1e-3, rel=0.01)  # AdamW's first step is the rate
    assert moved["bert.blocks.2.mlp.up.weight"] == pytest.approx(1e-4, rel=0.01)
    assert moved["bert.blocks.0.mlp.up.weight"] == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("decay", [0.0, -1.0, 1.1, float("nan")])
def test_a_decay_outside_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be above 0 and at most 1"):
        layer_groups(small(), decay, 0.01)


def test_weights_are_sklearn_s():
    labels = np.random.default_rng(0).choice(3, 200, p=[0.7, 0.2, 0.1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(balanced_weights(labels, 3), expected)
    assert float(balanced_weights(labels, 3)[labels].mean()) == pytest.approx(1.0)


@pytest.mark.parametrize(("labels", "n"), [([0, 0], 2), ([0, 1, 2], 2), ([1], 2)])
def test_a_class_that_is_missing_or_too_many_is_refused(labels, n):
    with pytest.raises(ValueError, match="must occur and no other"):
        balanced_weights(np.array(labels), n)


def test_weighted_loss_is_torch_s_and_splits():
    model, batch, weights = small().double().eval(), some_batch(), torch.tensor([0.6, 3.0]).double()
    logits = model(batch["input_ids"], batch["attention_mask"])
    mean = torch.nn.functional.cross_entropy(logits, batch["labels"], weights)
    objective = WeightedObjective(weights)
    total = objective.sums(model, batch)["label"]
    assert float(total / weights[batch["labels"]].sum()) == pytest.approx(float(mean), abs=1e-12)
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 6))]
    split = sum(objective.sums(model, half)["label"] for half in halves)
    assert float(split) == pytest.approx(float(total), abs=1e-12)
    assert [objective.counts(half)["label"] for half in halves] == [2, 4]


def test_unlabelled_texts_weigh_nothing():
    model, batch = small().eval(), some_batch()
    objective = WeightedObjective(torch.tensor([1.0, 5.0]))
    rest = {k: v[:4] for k, v in batch.items()}
    batch["labels"][4:] = -100
    assert objective.counts(batch) == {"label": 4}
    assert torch.allclose(
        objective.sums(model, batch)["label"], objective.sums(model, rest)["label"]
    )


def test_threshold_is_the_best_of_all():
    rng = np.random.default_rng(1)
    for n in (5, 40, 300):
        scores = rng.random(n).round(1)  # many ties
        labels = (rng.random(n) < 0.15 + 0.5 * scores).astype(int)
        labels[:2] = 0, 1
        threshold, value = best_threshold(scores, labels)
        tried = [f1_score(labels, scores > t, average="macro") for t in [-1.0, *np.unique(scores)]]
        assert value == pytest.approx(max(tried))
        assert f1_score(labels, scores > threshold, average="macro") == pytest.approx(value)


def test_threshold_of_scores_that_separate():
    threshold, value = best_threshold(np.array([0.2, 0.8, 0.3]), np.array([0, 1, 0]))
    assert 0.3 < threshold < 0.8 and value == 1.0


@pytest.mark.parametrize(
    ("scores", "labels"),
    [([0.1, 0.2], [0, 0]), ([0.1], [0, 1]), ([float("nan"), 0.2], [0, 1]), ([0.1, 0.2], [1, 2])],
)
def test_what_has_no_threshold_is_refused(scores, labels):
    with pytest.raises(ValueError, match="needs a score for each label and both classes"):
        best_threshold(np.array(scores), np.array(labels))


def world(share, n=20_000, seed=0):
    """Logs of p(1) - p(0) at a training share of 0.3, of texts whose share is `share`; their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < share
    odds = 2 * rng.normal(2.0 * labels) - 2 + np.log(0.3 / 0.7)
    positive = 1 / (1 + np.exp(-odds))
    return np.stack([1 - positive, positive], 1), labels


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_the_prior_is_found_without_labels(share):
    probabilities, labels = world(share)
    found = estimate_prior(probabilities, np.array([0.7, 0.3]))
    assert found.sum() == pytest.approx(1.0)
    assert found[1] == pytest.approx(labels.mean(), abs=0.015)


def test_the_estimate_is_the_most_likely_prior():
    probabilities, _ = world(0.6, 500)
    old = np.array([0.7, 0.3])

    def likelihood(b):
        return np.log(probabilities @ (np.array([1 - b, b]) / old)).mean()

    found = estimate_prior(probabilities, old)[1]
    assert likelihood(found) >= max(likelihood(b) for b in np.linspace(0.01, 0.99, 99)) - 1e-9


def test_another_prior_and_back():
    probabilities, _ = world(0.5, 50)
    old, new = np.array([0.7, 0.3]), np.array([0.2, 0.8])
    there = with_prior(probabilities, old, new)
    assert np.allclose(there.sum(1), 1) and not np.allclose(there, probabilities)
    assert np.allclose(with_prior(there, new, old), probabilities)


@pytest.mark.parametrize("old", [[1.0], [0.0, 1.0], [0.2, 0.3, 0.5]])
def test_a_prior_that_does_not_fit_is_refused(old):
    with pytest.raises(ValueError, match="a share above 0 for each column"):
        estimate_prior(np.full((4, 2), 0.5), np.array(old))
