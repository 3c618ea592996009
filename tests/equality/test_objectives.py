"""Our losses and their gradients against torch and against the models of transformers, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

from llmchain.pretrain.bert import BertConfig as OurConfig
from llmchain.pretrain.bert import BertPretraining
from llmchain.pretrain.objectives import (
    CausalObjective,
    MaskedObjective,
    binary_cross_entropy,
    causal_lm_sums,
    cross_entropy,
    cross_entropy_gradient,
    mse,
    seq2seq_sums,
    shift_right,
    z_loss,
    z_loss_gradient,
)
from llmchain.pretrain.training import backward_batch


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    ours, reference = ours.detach(), reference.detach()
    return float((ours - reference).abs().max() / reference.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torch_s(generator, smoothing):
    logits = torch.randn(200, 30, dtype=torch.float64, generator=generator) * 5
    labels = torch.randint(30, (200,), generator=generator)
    labels[::3] = -100
    ours, reference = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    nats, count = cross_entropy(ours, labels, label_smoothing=smoothing)
    expected = F.cross_entropy(reference, labels, reduction="sum", label_smoothing=smoothing)
    (g,), (r,) = torch.autograd.grad(nats, ours), torch.autograd.grad(expected, reference)
    print(f"max |Δloss| = {abs(nats - expected):.1e}, max |Δgradient| = {(g - r).abs().max():.1e}")
    assert int(count) == int((labels != -100).sum())
    assert relative(nats, expected) < 1e-12 and relative(g, r) < 1e-12
    assert relative(cross_entropy_gradient(logits, labels, -100, smoothing), r) < 1e-12


def test_gradcheck(generator):
    z = torch.randn(6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, -100, 3, 2, 2])
    target = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    bits = torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels)[0], (z,))
    assert torch.autograd.gradcheck(lambda z: cross_entropy(z, labels, -100, 0.2)[0], (z,))
    assert torch.autograd.gradcheck(lambda z: mse(z, target)[0], (z,))
    assert torch.autograd.gradcheck(lambda z: binary_cross_entropy(z[:, 0], bits)[0], (z,))


def test_z_loss_by_hand(generator):
    z = 3 * torch.randn(6, 4, dtype=torch.float64, generator=generator)
    z.requires_grad_()
    labels = torch.tensor([0, 1, -100, 3, 2, 2])
    assert torch.autograd.gradcheck(lambda z: z_loss(z, labels)[0], (z,))
    (auto,) = torch.autograd.grad(z_loss(z, labels)[0], z)
    assert relative(z_loss_gradient(z.detach(), labels), auto) < 1e-13
    lifted = torch.autograd.grad(z_loss(z + 2, labels)[0], z)[0]
    assert float(lifted.sum()) > float(auto.sum()), "a lifted row is pushed down harder"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_seq2seq_is_that_of_transformers(generator, smoothing):
    from transformers import BartConfig, BartForConditionalGeneration
    from transformers.models.bart.modeling_bart import shift_tokens_right

    sizes = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2)
    sizes |= dict(decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=40)
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(**sizes, max_position_embeddings=20, dropout=0.0)
    ).double()
    model.eval()
    source = torch.randint(4, 40, (3, 9), generator=generator)
    labels = torch.randint(4, 40, (3, 7), generator=generator)
    labels[1, 4:] = -100
    read = shift_right(labels, model.config.decoder_start_token_id, model.config.pad_token_id)
    theirs = shift_tokens_right(
        labels, model.config.pad_token_id, model.config.decoder_start_token_id
    )
    assert torch.equal(read, theirs)
    logits = model(input_ids=source, decoder_input_ids=read).logits
    nats, count = seq2seq_sums(logits, labels, smoothing)
    flat = logits.flatten(0, 1), labels.flatten()
    reference = F.cross_entropy(*flat, reduction="mean", label_smoothing=smoothing)
    assert relative(nats / count, reference) < 1e-12
    if not smoothing:
        assert relative(nats / count, model(input_ids=source, labels=labels).loss) < 1e-12
        assert compare(model, nats / count, model(input_ids=source, labels=labels).loss) < 1e-9


def test_mse_and_binary_are_torch_s(generator):
    a, b = torch.randn(2, 50, dtype=torch.float64, generator=generator)
    bits = (b > 0).double()
    assert relative(mse(a, b)[0], F.mse_loss(a, b, reduction="sum")) < 1e-14
    reference = F.binary_cross_entropy_with_logits(a * 40, bits, reduction="sum")
    assert relative(binary_cross_entropy(a * 40, bits)[0], reference) < 1e-12


def test_causal_loss_is_gpt2_s(generator):
    config = GPT2Config(
        vocab_size=90,
        n_positions=24,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).double().eval()
    ids = torch.randint(90, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    # transformers casts the logits to fp32 inside its causal loss, even those of an fp64 model
    theirs = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    logits = model(input_ids=ids, attention_mask=mask).logits
    nats, count = causal_lm_sums(logits.float(), ids, mask)
    print(f"max |Δloss| = {abs(theirs - nats / count):.1e} (fp32)")
    assert int(count) == 19 + 11 + 19 and relative(nats / count, theirs) < 1e-6

    def reference(**batch: torch.Tensor) -> torch.Tensor:
        out = model(input_ids=ids, attention_mask=mask).logits[:, :-1].reshape(-1, 90)
        return F.cross_entropy(out, labels[:, 1:].reshape(-1))

    batch = {"input_ids": ids, "attention_mask": mask}
    objective = CausalObjective()
    sums = objective.sums(
        lambda x, attention_mask: model(x, attention_mask=attention_mask).logits, batch
    )
    ours = sums["clm"] / objective.counts(batch)["clm"]
    worst = compare(model, ours, reference())
    assert worst < 1e-9


def test_masked_losses_are_bert_s(generator):
    config = BertConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=24,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForPreTraining(config).double().eval()
    ids = torch.randint(5, 90, (4, 20), generator=generator)
    labels = ids.masked_fill(torch.rand(4, 20, generator=generator) > 0.2, -100)
    mask = torch.ones_like(ids)
    mask[2, 15:], labels[2, 15:] = 0, -100
    batch = {
        "input_ids": ids,
        "token_type_ids": (torch.arange(20) > 9).long().expand(4, 20),
        "attention_mask": mask,
        "labels": labels,
        "next_sentence_label": torch.tensor([0, 1, 1, 0]),
    }

    def at_positions(ids, types, mask, positions):
        out = model(input_ids=ids, token_type_ids=types, attention_mask=mask)
        return out.prediction_logits.flatten(0, 1)[positions], out.seq_relationship_logits

    objective = MaskedObjective()
    sums, counts = objective.sums(at_positions, batch), objective.counts(batch)
    ours = sum(sums[term] / counts[term] for term in sums)
    theirs = model(**batch).loss
    assert relative(ours, theirs) < 1e-12
    assert compare(model, ours, theirs) < 1e-9


def compare(model: torch.nn.Module, ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest relative difference of loss and of the gradient of any weight."""
    weights = list(model.parameters())
    g = torch.autograd.grad(ours, weights, retain_graph=True, materialize_grads=True)
    r = torch.autograd.grad(theirs, weights, materialize_grads=True)
    scale = max(float(x.abs().max()) for x in r)
    worst = max(float((a - b).abs().max()) for a, b in zip(g, r, strict=True)) / scale
    loss = relative(ours.detach(), theirs.detach())
    print(f"max |Δloss| = {loss:.1e}, max |Δgradient| = {worst:.1e} (relative)")
    return max(worst, loss)


def packed_and_apart() -> tuple[dict, dict]:
    "Seven pairs: in four rows, with padding and one that is not asked about; and each in a row of its own."
    generator = torch.Generator().manual_seed(3)
    rows = [[5, 3, 4], [9], [4, 7], [6]]  # tokens of each pair, row by row
    ids = torch.randint(5, 30, (4, 12), generator=generator)
    labels = ids.masked_fill(torch.rand(4, 12, generator=generator) > 0.4, -100)
    packed = {"input_ids": ids, "labels": labels, "document_ids": torch.full((4, 12), -1)}
    packed |= {"token_type_ids": torch.zeros(4, 12, dtype=torch.long)}
    packed["next_sentence_label"] = torch.full((4, 12), -100)
    names = ("input_ids", "labels", "token_type_ids", "attention_mask")
    apart = {k: torch.full((7, 12), -100 if k == "labels" else 0) for k in names}
    answers, pair = torch.tensor([1, 0, -100, 1, 1, 0, 0]), 0
    for r, lengths in enumerate(rows):
        begin = 0
        for k, n in enumerate(lengths):
            here = slice(begin, begin + n)
            packed["document_ids"][r, here] = k
            packed["token_type_ids"][r, begin + n // 2 : begin + n] = 1
            packed["next_sentence_label"][r, begin] = answers[pair]
            for name in names[:3]:
                apart[name][pair, :n] = packed[name][r, here]
            apart["attention_mask"][pair, :n] = 1
            begin, pair = begin + n, pair + 1
        packed["labels"][r, begin:] = -100
    return packed, apart | {"next_sentence_label": answers}


@pytest.mark.parametrize("n_micro", [1, 2, 3, 4])
def test_packed_pairs_in_parts_are_each_pair_alone(n_micro: int) -> None:
    packed, apart = packed_and_apart()
    sizes = OurConfig(30, 12, 2, 2, 16, 32)
    found = []
    for batch, n in ((apart, 1), (packed, n_micro)):
        model = BertPretraining(sizes, torch.Generator().manual_seed(0)).double()
        losses, counts = backward_batch(model, MaskedObjective(), batch, n)
        found.append((losses, counts, [p.grad for p in model.parameters()]))
    (losses, counts, gradients), (ours, our_counts, our_gradients) = found
    assert counts == our_counts and counts["nsp"] == 6
    assert max(abs(ours[term] - losses[term]) for term in ("mlm", "nsp")) <= 1e-10
    gap = max((a - b).abs().max() for a, b in zip(our_gradients, gradients, strict=True))
    assert gap <= 1e-10
