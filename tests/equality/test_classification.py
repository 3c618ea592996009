"""Our classifier next to BertForSequenceClassification of transformers: same weights, fp64, no dropout."""

import pytest
import torch
import torch.nn.functional as F
from side_by_side import bert_config, gap_after_a_step, gradient_gap, head_names, loud
from torch.testing import assert_close
from transformers import BertForSequenceClassification

from llmchain.finetune.classification import (
    ClassificationObjective,
    Classifier,
    to_hf_classifier,
)
from llmchain.pretrain.bert import from_hf
from llmchain.pretrain.objectives import cross_entropy

SIZES = [(1, 1, 8, 16, 11, 6, 2), (3, 4, 32, 64, 97, 24, 5)]


def pair(*sizes):
    "Theirs with random weights, ours with the same."
    *of_bert, n_classes = sizes
    theirs = loud(BertForSequenceClassification, bert_config(*of_bert, num_labels=n_classes))
    ours = Classifier(from_hf(theirs.bert), n_classes).double()
    ours.head.load_state_dict(theirs.classifier.state_dict())
    return ours.eval(), theirs


def batch_of(vocab_size, block_size, n_classes):
    "Four texts of different lengths, padded on the right."
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocab_size, (4, block_size), generator=generator)
    sizes = torch.tensor([block_size, block_size - 1, block_size // 2, 1])
    mask = (torch.arange(block_size) < sizes[:, None]).long()
    labels = torch.randint(0, n_classes, (4,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def both(sizes):
    "The models, a batch, and of either side its logits and the loss made of them."
    ours, theirs = pair(*sizes)
    batch = batch_of(*sizes[4:])
    mine = ours(batch["input_ids"], batch["attention_mask"])
    logits = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    nats, count = cross_entropy(mine, batch["labels"])
    losses = nats / count, F.cross_entropy(logits, batch["labels"])
    return ours, theirs, batch, (mine, logits), losses


@pytest.mark.parametrize("sizes", SIZES)
def test_logits(sizes):
    *_, (mine, logits), _ = both(sizes)
    assert mine.dtype == torch.float64
    gap = (mine - logits).abs().max().item()
    print(f"max |Δlogits| = {gap:.1e}")
    assert gap <= 1e-10


@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_every_gradient(sizes):
    ours, theirs, _, _, (our_loss, their_loss) = both(sizes)
    assert our_loss.dtype == torch.float64
    gap = abs(our_loss.item() / their_loss.item() - 1)
    print(f"relative |Δloss| = {gap:.1e}")
    assert gap <= 1e-9
    our_loss.backward()
    their_loss.backward()
    assert gradient_gap(ours, theirs, head_names(sizes[0])) <= 1e-9


@pytest.mark.parametrize("sizes", SIZES)
def test_one_adamw_step(sizes):
    ours, theirs, batch, (_, before), losses = both(sizes)
    assert gap_after_a_step(ours, theirs, *losses, head_names(sizes[0])) <= 1e-10
    texts = batch["input_ids"], batch["attention_mask"]
    with torch.inference_mode():
        after = theirs(texts[0], attention_mask=texts[1]).logits
        assert (after - before).abs().max() > 1e-4  # it was a step
        assert_close(ours(*texts), after, atol=1e-10, rtol=0)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_objective_is_their_loss(sizes):
    ours, _, batch, _, (_, their_loss) = both(sizes)
    nats = ClassificationObjective().sums(ours, batch)["label"]
    count = ClassificationObjective().counts(batch)["label"]
    gap = abs(nats.item() / count / their_loss.item() - 1)
    print(f"relative |Δloss| = {gap:.1e} ({nats.dtype})")
    assert gap <= (1e-6 if nats.dtype == torch.float32 else 1e-9)  # it may round logits to fp32


@pytest.mark.parametrize("sizes", SIZES)
def test_weights_go_back(sizes):
    ours, theirs = pair(*sizes)
    back = to_hf_classifier(ours, {i: str(i) for i in range(sizes[6])})
    assert back.dtype == torch.float64
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, back.state_dict()[name]), name
