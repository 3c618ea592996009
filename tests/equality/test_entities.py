"""Our measures next to seqeval's, our tagger next to BertForTokenClassification, our CRF next to all paths."""

import itertools
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from side_by_side import bert_config, gap_after_a_step, gradient_gap, head_names, loud
from torch.testing import assert_close
from transformers import BertForTokenClassification

from llmchain.finetune.entities import (
    CRF,
    Tagger,
    TaggingObjective,
    entity_counts,
    entity_f1,
    log_partition,
    path_score,
    spans,
    tag_names,
    to_hf_tagger,
    viterbi,
)
from llmchain.pretrain.bert import from_hf
from llmchain.pretrain.objectives import cross_entropy

TYPES = ["PER", "creative-work", "LOC"]
SIZES = [(1, 1, 8, 16, 11, 6, 3), (3, 4, 32, 64, 97, 24, 5)]


def random_tags(seed, n=40):
    "Gold and predicted labels, half of the predictions right, many illegal."
    rng, labels = np.random.default_rng(seed), tag_names(TYPES)
    gold = [
        [labels[k] for k in rng.integers(0, len(labels), rng.integers(1, 12))] for _ in range(n)
    ]
    wrong = [[labels[k] for k in rng.integers(0, len(labels), len(some))] for some in gold]
    keep = [rng.random(len(some)) < 0.6 for some in gold]
    predicted = [
        [a if k else b for a, b, k in zip(*three, strict=True)]
        for three in zip(gold, wrong, keep, strict=True)
    ]
    return gold, predicted


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("strict", [True, False])
def test_f1_is_that_of_seqeval(seed, average, strict):
    seqeval = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    gold, predicted = random_tags(seed)
    how = {"mode": "strict", "scheme": scheme.IOB2} if strict else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a type that is never predicted
        theirs = seqeval.f1_score(gold, predicted, average=average, zero_division=0, **how)
    found = [[spans(tags, strict) for tags in some] for some in (gold, predicted)]
    ours = entity_f1(entity_counts(*found, TYPES), average)
    assert abs(ours - theirs) <= 1e-12


@pytest.mark.parametrize("strict", [True, False])
def test_entities_are_those_of_seqeval(strict):
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    scheme = pytest.importorskip("seqeval.scheme")
    for tags in itertools.chain(*(sentences for s in range(10) for sentences in random_tags(s))):
        if strict:
            theirs = [(e.tag, e.start, e.end) for e in scheme.Tokens(tags, scheme.IOB2).entities]
        else:
            theirs = [(kind, a, b + 1) for kind, a, b in labeling.get_entities(tags)]
        assert spans(tags, strict) == theirs, tags


def random_crf(seed, T=5, K=3, B=4):
    "Emissions, lengths and scores in fp64."
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, T, K), (K, K), (K,), (K,))
    parts = [2 * torch.randn(size, generator=draw, dtype=torch.float64) for size in shapes]
    lengths = torch.tensor([T, 1, 3, 2])[:B]
    labels = torch.randint(0, K, (B, T), generator=draw)
    return parts, lengths, torch.arange(T) < lengths[:, None], labels


def every_path(emissions, transitions, start, end):
    "All paths of one sentence and their scores, written as the equation is."
    T, K = emissions.shape
    paths = list(itertools.product(range(K), repeat=T))
    return paths, torch.stack(
        [
            start[p[0]]
            + sum(emissions[t, k] for t, k in enumerate(p))
            + sum(transitions[a, b] for a, b in itertools.pairwise(p))
            + end[p[-1]]
            for p in paths
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_log_partition_viterbi_and_scores_equal_all_paths(seed):
    (emissions, *scores), lengths, mask, labels = random_crf(seed)
    total = log_partition(emissions, mask, *scores)
    own = path_score(emissions, labels, mask, *scores)
    for b, n in enumerate(lengths.tolist()):
        paths, all_scores = every_path(emissions[b, :n], *scores)
        assert abs(total[b] - all_scores.logsumexp(0)) <= 1e-12
        assert abs(own[b] - all_scores[paths.index(tuple(labels[b, :n].tolist()))]) <= 1e-12
        best = viterbi(*(part.numpy() for part in (emissions[b, :n], *scores)))
        assert tuple(best) == paths[int(all_scores.argmax())]


def test_gradients_equal_those_of_all_paths_and_finite_differences():
    parts, lengths, mask, _ = random_crf(7, T=4)
    lengths = lengths.clamp(max=4)
    leaves = [part.requires_grad_() for part in parts]
    ours = torch.autograd.grad(log_partition(leaves[0], mask, *leaves[1:]).sum(), leaves)
    brute = sum(
        every_path(leaves[0][b, :n], *leaves[1:])[1].logsumexp(0)
        for b, n in enumerate(lengths.tolist())
    )
    for a, b in zip(ours, torch.autograd.grad(brute, leaves), strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda e, *s: log_partition(e, mask, *s), leaves)


def pair(*sizes):
    "Theirs with random weights, ours with the same."
    *of_bert, n_labels = sizes
    theirs = loud(BertForTokenClassification, bert_config(*of_bert, num_labels=n_labels))
    ours = Tagger(from_hf_without_pooler(theirs), n_labels).double()
    ours.head.load_state_dict(theirs.classifier.state_dict())
    return ours.eval(), theirs


def from_hf_without_pooler(theirs):
    "Their encoder has no pooler; ours has one that nobody asks."
    from transformers import BertModel

    whole = BertModel(theirs.config).double()
    whole.load_state_dict(theirs.bert.state_dict(), strict=False)
    return from_hf(whole)


def batch_of(vocab_size, block_size, n_labels):
    "Four texts of different lengths; labels on some pieces, -100 on the others."
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocab_size, (4, block_size), generator=draw)
    sizes = torch.tensor([block_size, block_size - 1, block_size // 2, 2])
    mask = (torch.arange(block_size) < sizes[:, None]).long()
    labels = torch.randint(0, n_labels, ids.shape, generator=draw)
    hidden = (torch.rand(ids.shape, generator=draw) < 0.4) | (mask == 0)
    hidden[:, 1] = False
    return {"input_ids": ids, "attention_mask": mask, "labels": labels.masked_fill(hidden, -100)}


def both(sizes):
    "Models, batch, logits and losses of either side."
    ours, theirs = pair(*sizes)
    batch = batch_of(*sizes[4:])
    mine = ours(batch["input_ids"], batch["attention_mask"])
    logits = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nats, count = cross_entropy(mine.flatten(0, 1), batch["labels"].flatten())
    losses = nats / count, F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    return ours, theirs, batch, (mine, logits), losses


@pytest.mark.parametrize("sizes", SIZES)
def test_logits_loss_and_every_gradient(sizes):
    ours, theirs, batch, (mine, logits), (our_loss, their_loss) = both(sizes)
    assert mine.dtype == torch.float64
    real = batch["attention_mask"].bool()
    assert (mine - logits)[real].abs().max().item() <= 1e-10
    assert abs(our_loss.item() / their_loss.item() - 1) <= 1e-9
    objective = TaggingObjective()
    share = objective.sums(ours, batch)["tag"] / objective.counts(batch)["tag"]
    assert abs(share.item() / their_loss.item() - 1) <= 1e-9
    our_loss.backward()
    their_loss.backward()
    ours.bert.pooler = torch.nn.Identity()  # nobody asks it, so it has no gradient to compare
    assert gradient_gap(ours, theirs, head_names(sizes[0], pooled=False)) <= 1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_one_adamw_step(sizes):
    ours, theirs, _, _, losses = both(sizes)
    assert gap_after_a_step(ours, theirs, *losses, head_names(sizes[0], pooled=False)) <= 1e-10


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_go_back(sizes):
    ours, theirs = pair(*sizes)
    back = to_hf_tagger(ours, [f"label {i}" for i in range(sizes[6])])
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name


def test_a_crf_at_zero_is_a_softmax_for_each_word():
    (emissions, *_), _, mask, labels = random_crf(2)
    crf = CRF(3).double()
    alone = F.cross_entropy(emissions[mask], labels[mask], reduction="sum")
    assert abs(crf.nats(emissions, labels, mask) - alone).item() <= 1e-12
