"""Our measures next to SciPy's, our losses next to torch's, our model next to BertForSequenceClassification."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from side_by_side import bert_config, gap_after_a_step, gradient_gap, head_names, loud
from torch.testing import assert_close
from transformers import BertForSequenceClassification, BertModel

from llmchain.finetune.regression import (
    RegressionObjective,
    Regressor,
    fisher_interval,
    gaussian_nats,
    huber,
    koenker,
    level_weights,
    ordinal_log_probs,
    ordinal_nats,
    pearson,
    ranks,
    segments,
    sentence_vectors,
    spearman,
    to_hf_regressor,
)
from llmchain.pretrain.bert import from_hf

SIZES = [(1, 1, 8, 16, 11, 6), (3, 4, 32, 64, 97, 24)]
SEP = 3


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("tied", [True, False])
def test_correlations_are_those_of_scipy(seed, tied):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 4 + 10 * seed)) * 2
    if tied:
        x, y = x.round(), y.round()
    y = y + x
    assert abs(pearson(x, y) - stats.pearsonr(x, y).statistic) <= 1e-12
    assert abs(spearman(x, y) - stats.spearmanr(x, y).statistic) <= 1e-12
    assert np.array_equal(ranks(x), stats.rankdata(x))
    theirs = stats.pearsonr(x, y).confidence_interval(0.9)
    assert_close(
        fisher_interval(pearson(x, y), len(x), 0.9), (theirs.low, theirs.high), atol=1e-10, rtol=0
    )


def test_koenker_is_n_times_r_squared_of_a_regression():
    rng = np.random.default_rng(1)
    x, e = rng.normal(size=90), rng.normal(size=90)
    r = stats.linregress(x, e**2).rvalue
    statistic, p = koenker(e, x[:, None])
    assert abs(statistic - 90 * r**2) <= 1e-9
    assert abs(p - stats.chi2.sf(statistic, 1)) <= 1e-12


def drawn(*sizes, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        2 * torch.randn(s, generator=draw, dtype=torch.float64, requires_grad=True) for s in sizes
    ]


def same_with_gradients(ours, theirs, leaves):
    assert abs(ours.item() / theirs.item() - 1) <= 1e-12
    for a, b in zip(*(torch.autograd.grad(loss, leaves) for loss in (ours, theirs)), strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("delta", [0.3, 1.0, 5.0])
def test_huber_is_that_of_torch(delta):
    p, t = drawn(50, 50)
    same_with_gradients(
        huber(p, t, delta), F.huber_loss(p, t, reduction="sum", delta=delta), [p, t]
    )


def test_gaussian_is_that_of_torch_and_of_scipy():
    p, v, t = drawn(50, 50, 50)
    theirs = F.gaussian_nll_loss(p, t, v.exp(), full=True, eps=1e-30, reduction="sum")
    same_with_gradients(gaussian_nats(p, v, t), theirs, [p, v])
    density = stats.norm.logpdf(*(part.detach() for part in (t, p, (v / 2).exp())))
    assert abs(gaussian_nats(p, v, t).item() + density.sum()) <= 1e-9


@pytest.mark.parametrize("n_levels", [2, 3, 6])
def test_levels_are_differences_of_sigmoids(n_levels):
    (scores,) = drawn(20)
    thresholds = torch.linspace(-2, 2.5, n_levels - 1, dtype=torch.float64).requires_grad_()
    cumulative = torch.sigmoid(thresholds - scores[:, None])
    one, zero = torch.ones(20, 1, dtype=torch.float64), torch.zeros(20, 1, dtype=torch.float64)
    theirs = torch.cat([cumulative, one], 1) - torch.cat([zero, cumulative], 1)
    assert_close(ordinal_log_probs(scores, thresholds).exp(), theirs, atol=1e-14, rtol=0)
    levels = torch.arange(n_levels, dtype=torch.float64)
    weights = level_weights(torch.rand(20, dtype=torch.float64) * (n_levels - 1), levels)
    leaves = [scores, thresholds]
    same_with_gradients(
        ordinal_nats(scores, thresholds, weights), -(weights * theirs.log()).sum(), leaves
    )
    assert torch.autograd.gradcheck(lambda s, t: ordinal_nats(s, t, weights), leaves)


def pair(*sizes):
    "Theirs with one label and random weights, ours with the same."
    config = bert_config(*sizes, num_labels=1, problem_type="regression")
    theirs = loud(BertForSequenceClassification, config)
    ours = Regressor(from_hf(theirs.bert), SEP).double()
    ours.head.load_state_dict(theirs.classifier.state_dict())
    return ours.eval(), theirs


def both(sizes):
    "Models, batch, and of either side its numbers and its loss."
    ours, theirs = pair(*sizes)
    vocab_size, block_size = sizes[4:]
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(4, vocab_size, (4, block_size), generator=draw)
    lengths = torch.tensor([block_size, block_size - 1, block_size // 2 + 1, 4])
    ids[:, 2] = SEP
    ids[torch.arange(4), lengths - 1] = SEP
    mask = (torch.arange(block_size) < lengths[:, None]).long()
    labels = torch.randn(4, generator=draw, dtype=torch.float64)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    output = theirs(**batch, token_type_ids=segments(ids, SEP, mask))
    return ours, theirs, batch, output, RegressionObjective().sums(ours, batch)["target"] / 4


@pytest.mark.parametrize("sizes", SIZES)
def test_numbers_loss_and_every_gradient(sizes):
    ours, theirs, batch, output, loss = both(sizes)
    mine = ours(batch["input_ids"], batch["attention_mask"])
    assert mine.dtype == torch.float64
    assert (mine - output.logits).abs().max().item() <= 1e-10
    assert abs(loss.item() / output.loss.item() - 1) <= 1e-9
    loss.backward()
    output.loss.backward()
    assert gradient_gap(ours, theirs, head_names(sizes[0])) <= 1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_one_adamw_step(sizes):
    ours, theirs, _, output, loss = both(sizes)
    names = head_names(sizes[0])
    assert gap_after_a_step(ours, theirs, loss, output.loss, names) <= 1e-10


@pytest.mark.parametrize("sizes", SIZES)
def test_scale_and_shift_disappear_into_the_head(sizes):
    ours, theirs, batch, _, _ = both(sizes)
    assert all(
        torch.equal(weight, to_hf_regressor(ours).state_dict()[name])
        for name, weight in theirs.state_dict().items()
    )
    ours.center, ours.spread = 2.6, 1.5
    back = to_hf_regressor(ours)
    types = segments(batch["input_ids"], SEP, batch["attention_mask"])
    given = {k: v for k, v in batch.items() if k != "labels"}
    with torch.inference_mode():
        said = back(**given, token_type_ids=types).logits
        wanted = 2.6 + 1.5 * ours(**given)
    assert (said - wanted).abs().max().item() <= 1e-10


def test_vectors_are_the_mean_of_their_tokens():
    theirs = loud(BertModel, bert_config(2, 2, 16, 32, 60, 24)).float()
    rows = [
        torch.randint(5, 60, (n,), generator=torch.Generator().manual_seed(n)) for n in (3, 9, 5)
    ]
    ours = sentence_vectors(from_hf(theirs), rows)
    for row, vector in zip(rows, ours, strict=True):
        with torch.inference_mode():
            mean = theirs(row[None]).last_hidden_state[0].mean(0)
        assert np.abs(vector - (mean / mean.norm()).numpy()).max() < 1e-5


def test_least_nats_are_those_of_the_least_squares():
    p, t = drawn(30, 30)
    least = (p - t).square().mean()
    nats = gaussian_nats(p, least.log(), t) / 30
    assert abs(nats.item() - 0.5 * math.log(2 * math.pi * math.e * least.item())) <= 1e-12
