"""The training loop against steps written by hand, torch's own loop, and transformers."""

import math

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

from llmchain.pretrain.training import (
    adamw_update,
    evaluate_mean,
    make_optimizer,
    muon_update,
    train,
    warmup_cosine,
)

N_STEPS, DECAY, BETAS, CLIP = 8, 0.1, (0.9, 0.95), 0.5


class NextToken:
    "Next-token prediction with torch's own cross-entropy."

    def counts(self, batch):
        return {"clm": int(batch["attention_mask"][:, 1:].sum())}

    def sums(self, model, batch):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
        logits = model(batch["input_ids"]).logits[:, :-1]
        return {
            "clm": nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="sum"
            )
        }


def gpt2():
    "A random GPT-2: two layers, tied head, no dropout, fp64."
    sizes = dict(vocab_size=60, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    config = GPT2Config(
        **sizes, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).double().train()


def batches(step):
    generator = torch.Generator().manual_seed(step)
    input_ids = torch.randint(60, (6, 12), generator=generator)
    lengths = torch.randint(2, 13, (6, 1), generator=generator)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(12) < lengths).long()}


def schedule(step):
    return warmup_cosine(step, N_STEPS, 3, 1e-2, 1e-3)


def mean_loss(model, batch):
    return NextToken().sums(model, batch)["clm"] / NextToken().counts(batch)["clm"]


def ours(**kw):
    model = gpt2()
    options = {"n_steps": N_STEPS, "weight_decay": DECAY, "betas": BETAS, "grad_clip": CLIP} | kw
    result = train(model, NextToken(), batches, schedule=schedule, **options)
    return model, result["history"]


def gap(a, b):
    pairs = zip(a.named_parameters(), b.named_parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for (_, p), (_, q) in pairs)


@pytest.mark.parametrize("n_steps", [1, N_STEPS])
def test_adamw_written_by_hand(n_steps):
    model = gpt2()
    moments = {
        name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in model.named_parameters()
    }
    for step in range(n_steps):
        names, parameters = zip(*model.named_parameters(), strict=True)
        grads = torch.autograd.grad(mean_loss(model, batches(step)), parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
        scale, lr = min(1.0, CLIP / (norm + 1e-6)), schedule(step)
        with torch.no_grad():
            for name, p, g in zip(names, parameters, grads, strict=True):
                g, (m, v) = g * scale, moments[name]
                m.mul_(BETAS[0]).add_(g, alpha=1 - BETAS[0])
                v.mul_(BETAS[1]).add_(g * g, alpha=1 - BETAS[1])
                m_hat, v_hat = m / (1 - BETAS[0] ** (step + 1)), v / (1 - BETAS[1] ** (step + 1))
                if p.ndim >= 2:
                    p.mul_(1 - lr * DECAY)
                p.sub_(lr * m_hat / (v_hat.sqrt() + 1e-8))
    trained, history = ours(n_steps=n_steps)
    print(f"max |Δweight| after {n_steps} steps = {gap(trained, model):.1e}")
    assert gap(trained, model) <= 1e-12
    assert history[n_steps - 1]["grad_norm"] == pytest.approx(norm, abs=1e-10)


@pytest.mark.parametrize("n_micro", [1, 4])
def test_the_loop_of_the_torch_tutorial(n_micro):
    model = gpt2()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=BETAS, foreach=False)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    losses, norms = [], []
    for step in range(N_STEPS):
        optimizer.zero_grad()
        loss = mean_loss(model, batches(step))
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    trained, history = ours(n_micro=n_micro)
    print(f"max |Δweight| = {gap(trained, model):.1e}")
    assert gap(trained, model) <= 1e-10
    assert [row["loss"] for row in history] == pytest.approx(losses, abs=1e-10)
    assert [row["grad_norm"] for row in history] == pytest.approx(norms, abs=1e-10)


def test_a_clipped_and_a_tied_matrix_count_once():
    model = gpt2()
    assert model.lm_head.weight is model.transformer.wte.weight
    grads = torch.autograd.grad(mean_loss(model, batches(0)), list(model.parameters()))
    want = math.sqrt(sum(float((g**2).sum()) for g in grads))
    _, history = ours(n_steps=1)
    assert history[0]["grad_norm"] == pytest.approx(want, abs=1e-12)


def test_evaluation_is_one_mean_over_everything():
    model = gpt2().eval()
    sets = [batches(i) for i in range(4)]
    whole = {k: torch.cat([b[k] for b in sets]) for k in sets[0]}
    got = evaluate_mean(model, NextToken(), sets)["clm"]
    assert got == pytest.approx(float(mean_loss(model, whole).detach()), abs=1e-12)


def test_schedule_is_that_of_transformers_without_the_step_of_rate_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimizer, 10, 100).lr_lambdas[0]
    for step in range(100):
        want = theirs(step + 1 if step < 10 else step)
        assert warmup_cosine(step, 100, 10, 1.0, 0.0) == pytest.approx(want, abs=1e-12)
    assert theirs(0) == 0 < warmup_cosine(0, 100, 10, 1.0, 0.0)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_our_update_is_that_of_torch(decay):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    theirs = nn.Parameter(weight.clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.02, betas=BETAS, weight_decay=decay)
    moments = (torch.zeros_like(weight), torch.zeros_like(weight))
    for step in range(1, 11):
        gradient = torch.randn(7, 5, generator=generator, dtype=torch.float64)
        theirs.grad = gradient.clone()
        optimizer.step()
        weight, moments = adamw_update(weight, gradient, moments, step, 0.02, BETAS, decay)
        assert float((weight - theirs.detach()).abs().max()) <= 1e-13


@pytest.fixture
def unrounded(monkeypatch):
    "torch's Muon computes in bfloat16; without the rounding it must be ours."
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())


@pytest.mark.parametrize("n_rounds", [2, 5])
@pytest.mark.parametrize("shape", [(24, 24), (40, 24), (24, 40), (1, 7)])
def test_muon_is_torchs(unrounded, shape, n_rounds):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    theirs = nn.Parameter(weight.clone())
    optimizer = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, ns_steps=n_rounds)
    mean = torch.zeros_like(weight)
    for _ in range(N_STEPS):
        theirs.grad = torch.randn(shape, generator=generator, dtype=torch.float64)
        optimizer.step()
        muon_update(weight, theirs.grad, mean, 0.02, weight_decay=0.1, n_rounds=n_rounds)
    print(f"max |Δweight| = {float((weight - theirs.detach()).abs().max()):.1e}")
    assert (weight - theirs.detach()).abs().max() <= 1e-10


def test_a_step_of_both_kinds_is_torchs_two(unrounded):
    "Muon for the inner matrices, AdamW for the rest, each at its own rate."
    pair = [nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 4), nn.LayerNorm(4)).double() for _ in "ab"]  # fmt: skip
    pair[1].load_state_dict(pair[0].state_dict())
    ours = make_optimizer(pair[0], 0.1, BETAS, muon=2.0)
    inner = pair[1][1].weight
    rest = [p for p in pair[1].parameters() if p is not inner]
    theirs = [
        torch.optim.Muon([inner], lr=0.02, weight_decay=0.1, ns_steps=2),
        torch.optim.AdamW([{"params": [p for p in rest if p.ndim == 2], "weight_decay": 0.1},
                           {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0}],
                          lr=0.01, betas=BETAS),
    ]  # fmt: skip
    for step in range(N_STEPS):
        ids = torch.randint(9, (5,), generator=torch.Generator().manual_seed(step))
        for net in pair:
            net.zero_grad()
            (net(ids) ** 3).sum().backward()
        for group in ours.param_groups:
            group["lr"] = 0.01 * group.get("rate", 1.0)
        for optimizer in (ours, *theirs):
            optimizer.step()
    found = gap(*pair)
    print(f"max |Δweight| = {found:.1e}")
    assert found <= 1e-10
