"""Losses and gradients of 17_preferences next to formulas written down again, fp64, on models of transformers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from llmchain.finetune.preferences import (
    AnswerObjective,
    DPOObjective,
    GRPOObjective,
    RewardModel,
    RewardObjective,
    advantages,
    answer_log_probs,
    collate_chat,
    collate_pairs,
    grpo_losses,
    reference_log_probs,
    token_log_probs,
)
from llmchain.pretrain.gpt import GPT, GPT_TRANSPOSED, gpt_names, to_hf_weights
from llmchain.pretrain.training import backward_batch

EXACT = {"atol": 1e-10, "rtol": 0}
CLOSE = {"atol": 1e-12, "rtol": 1e-9}


def gpt2(seed):
    "A GPT-2 of transformers with loud random weights, fp64, and ours with the same."
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=31, n_positions=20, n_embd=16, n_layer=2, n_head=2)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(config, name, 0.0)
    theirs = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(6)
    return theirs, GPT.from_hf(theirs)


def rows(n, seed):
    "Rows of different lengths with prompts that are not asked for."
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        prompt, answer = (rng.integers(2, 31, rng.integers(2, 7)).tolist() for _ in range(2))
        out.append((prompt + answer, [-100] * len(prompt) + answer))
    return out


def pairs(n=5, seed=0):
    drawn = rows(2 * n, seed)
    return collate_pairs(list(zip(drawn[::2], drawn[1::2], strict=True)), pad_id=1)


def log_prob_of(theirs, ids, labels):
    "ln p(answer | prompt) of one row by their logits, token by token."
    table = F.log_softmax(theirs(torch.tensor([ids])).logits[0], -1)  # no padding, no mask of ours
    return sum(table[t - 1, y] for t, y in enumerate(labels) if y != -100)


def rows_of(batch):
    "The unpadded rows of a batch (B, T)."
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        end = max(t for t, y in enumerate(labels) if y != -100) + 1
        yield ids[:end], labels[:end]


def same_gradients(theirs, ours):
    "Every gradient, theirs under our names."
    grads = {n: p.grad for n, p in ours.named_parameters()}
    mapped = to_hf_weights(grads, gpt_names(ours.config.n_layer), GPT_TRANSPOSED)
    by_name = dict(theirs.named_parameters())
    assert len(mapped) == len(by_name)
    for name, grad in mapped.items():
        scale = float(by_name[name].grad.abs().max())
        assert_close(grad, by_name[name].grad, atol=1e-9 * max(scale, 1e-3), rtol=1e-9)


def test_answer_log_probabilities():
    theirs, ours = gpt2(0)
    batch = collate_chat(rows(6, 1), pad_id=1)
    found = answer_log_probs(ours, **batch)
    hand = torch.stack([log_prob_of(theirs, *row) for row in rows_of(batch)])
    assert_close(found, hand, **EXACT)


def test_loss_on_answers_and_its_gradients():
    theirs, ours = gpt2(1)
    batch = collate_chat(rows(6, 2), pad_id=1)
    losses, counts = backward_batch(ours, AnswerObjective(), batch)
    logits = theirs(batch["input_ids"]).logits[:, :-1]  # their loss is fp32: one of fp64 for both
    labels = batch["labels"][:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    loss.backward()
    assert counts["answer"] == int((labels != -100).sum())
    assert losses["answer"] == pytest.approx(float(loss.detach()), rel=1e-12)
    same_gradients(theirs, ours)


def test_dpo_loss_and_gradients():
    "Against eq. 7 of Rafailov et al. 2023 on their model, pair by pair, without padding."
    (theirs, ours), (their_start, our_start) = gpt2(2), gpt2(3)
    batch, beta = pairs(), 0.3
    batch["reference"] = reference_log_probs(our_start, batch)
    losses, _ = backward_batch(ours, DPOObjective(beta), batch)
    terms = []
    for k in range(len(batch["input_ids"])):
        two = list(rows_of({name: batch[name][k] for name in ("input_ids", "labels")}))
        with torch.no_grad():
            start = [log_prob_of(their_start, *row) for row in two]
        gain = [log_prob_of(theirs, *row) - s for row, s in zip(two, start, strict=True)]
        terms.append(torch.log1p(torch.exp(-beta * (gain[0] - gain[1]))))
    loss = torch.stack(terms).mean()
    loss.backward()
    assert losses["dpo"] == pytest.approx(float(loss.detach()), rel=1e-10)
    same_gradients(theirs, ours)


def test_dpo_gradient_is_the_weighted_difference():
    "∇L = −β σ(−βΔ) [∇ ln π(chosen) − ∇ ln π(rejected)] (Rafailov et al. 2023, sec. 4)."
    _, ours = gpt2(4)
    batch, beta = pairs(1, 5), 0.2
    batch["reference"] = torch.tensor([[-3.0, -5.0]]).double()
    flat = [batch[name][0] for name in ("input_ids", "labels")]
    log_probs = answer_log_probs(ours, *flat)
    weights = list(ours.parameters())
    up, down = (torch.autograd.grad(p, weights, retain_graph=True) for p in log_probs)
    gap = beta * float(
        (log_probs - batch["reference"][0])[0] - (log_probs - batch["reference"][0])[1]
    )
    scale = -beta / (1 + math.exp(gap))
    backward_batch(ours, DPOObjective(beta), batch)
    for weight, a, b in zip(weights, up, down, strict=True):
        assert_close(weight.grad, scale * (a - b), **CLOSE)


def test_dpo_loss_next_to_trl():
    "The loss of trl's trainer and its gradients; trl is in the extra `dev` only."
    pytest.importorskip("trl")
    from trl.trainer.dpo_trainer import DPOTrainer

    (theirs, ours), (_, our_start) = gpt2(6), gpt2(7)
    batch, beta = pairs(4, 8), 0.25
    batch["reference"] = reference_log_probs(our_start, batch)
    flat = {name: batch[name].transpose(0, 1).flatten(0, 1) for name in ("input_ids", "labels")}

    def model(input_ids, labels, **rest):
        "What trl asks a model for: the log-probability of each label."
        logits = theirs(input_ids).logits[:, :-1].log_softmax(-1)
        asked = labels[:, 1:] != -100
        picked = logits.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
        shown = {"entropy": picked * 0, "mean_logits": picked * 0, "is_top1": asked}  # its metrics
        return SimpleNamespace(log_probs=picked * asked, **shown)

    inputs = {
        "input_ids": flat["input_ids"],
        "attention_mask": torch.ones_like(flat["input_ids"]),
        "completion_mask": (flat["labels"] != -100).long(),
        "ref_chosen_logps": batch["reference"][:, 0],
        "ref_rejected_logps": batch["reference"][:, 1],
    }
    loss = trl_loss(DPOTrainer, model, inputs, beta)
    loss.backward()
    losses, _ = backward_batch(ours, DPOObjective(beta), batch)
    assert losses["dpo"] == pytest.approx(float(loss.detach()), rel=1e-10)
    same_gradients(theirs, ours)


def trl_loss(trainer, model, inputs, beta):
    "trl's own `_compute_loss` with a stand-in for the trainer around it."
    from collections import defaultdict

    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, **how: x,
    )
    stand_in = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        label_smoothing=0.0,
        args=SimpleNamespace(),
        state=SimpleNamespace(num_input_tokens_seen=0),
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    return trainer._compute_loss(stand_in, model, inputs, False)


def test_reward_model_loss_and_gradients():
    "−ln σ(r_w − r_l) is the logistic loss of the difference with label 1."
    theirs, ours = gpt2(9)
    model = RewardModel(ours)
    head = torch.randn(16, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        model.head.weight.copy_(head[None])
    model = model.double()
    batch = pairs(4, 10)
    losses, _ = backward_batch(model, RewardObjective(), batch)
    gaps = []
    for k in range(4):
        two = rows_of({name: batch[name][k] for name in ("input_ids", "labels")})
        ends = [theirs.transformer(torch.tensor([ids])).last_hidden_state[0, -1] for ids, _ in two]
        gaps.append((ends[0] - ends[1]) @ head)
    loss = F.binary_cross_entropy_with_logits(torch.stack(gaps), torch.ones(4).double())
    loss.backward()
    assert losses["pairs"] == pytest.approx(float(loss.detach()), rel=1e-10)
    grads = {n: p.grad for n, p in ours.named_parameters()}
    mapped = to_hf_weights(grads, gpt_names(2), GPT_TRANSPOSED)
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            scale = float(parameter.grad.abs().max())
            assert_close(mapped[name], parameter.grad, atol=1e-9 * max(scale, 1e-3), rtol=1e-9)


def test_grpo_loss_by_hand():
    "Eq. 3 of Shao et al. 2024 as loops over answers and tokens."
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(5, 6, generator=generator).double() for _ in range(3)]
    log_probs, old, reference = (0.3 * x - 1 for x in numbers)
    asked = torch.arange(6) < torch.tensor([6, 3, 1, 4, 2])[:, None]
    advantage = torch.randn(5, generator=generator).double()
    found = grpo_losses(log_probs, old, reference, advantage, asked, 0.07, 0.15)
    for i in range(5):
        terms = []
        for t in range(int(asked[i].sum())):
            ratio = math.exp(log_probs[i, t] - old[i, t])
            gain = min(ratio * advantage[i], min(max(ratio, 0.85), 1.15) * advantage[i])
            away = float(reference[i, t] - log_probs[i, t])
            terms.append(gain - 0.07 * (math.exp(away) - away - 1))
        assert float(found[i]) == pytest.approx(-float(sum(terms)) / len(terms), rel=1e-12)


def test_grpo_gradient_on_policy_is_the_policy_gradient():
    "At ratio 1 and without a penalty: −A ∇ mean ln π, answer by answer, on their model."
    theirs, ours = gpt2(11)
    batch = collate_chat(rows(6, 12), pad_id=1)
    rewards = torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.0, 1.0]]).double()
    with torch.no_grad():
        old, _ = token_log_probs(ours, **batch)
    more = {"old": old, "reference": old, "advantage": advantages(rewards).flatten()}
    backward_batch(ours, GRPOObjective(beta=0.0), batch | more)
    terms = []
    for (ids, labels), a in zip(rows_of(batch), more["advantage"], strict=True):
        n = sum(y != -100 for y in labels)
        terms.append(-a * log_prob_of(theirs, ids, labels) / n)
    torch.stack(terms).mean().backward()
    same_gradients(theirs, ours)


def test_advantages_next_to_numpy():
    rewards = np.random.default_rng(0).random((4, 7))
    hand = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1, keepdims=True) + 1e-4
    )
    assert_close(advantages(torch.tensor(rewards)), torch.tensor(hand), **EXACT)
