"""The training loop: what a notebook cannot show. Kills, torn files, refused settings, random state."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llmchain.pretrain import training
from llmchain.pretrain.bert import BertConfig, BertPretraining
from llmchain.pretrain.gpt import GPT, GPTConfig
from llmchain.pretrain.objectives import CausalObjective, MaskedObjective
from llmchain.pretrain.training import (
    backward_batch,
    checkpoint_fault,
    evaluate_mean,
    make_optimizer,
    newest_checkpoint,
    parameter_groups,
    split_batch,
    step_randomness,
    train,
    train_step,
    warmup_cosine,
    warmup_stable_decay,
)

V, C, B, T = 40, 12, 6, 10  # vocabulary, width, rows, tokens of a row
N_STEPS = 12
TIMES = ("seconds", "tokens_per_second")  # the only entries of a row that may differ


class Toy(nn.Module):
    "A language model in miniature: tied embedding, norm, bias, dropout."

    def __init__(self, dropout: float = 0.3, width: int = C):
        super().__init__()
        self.emb = nn.Embedding(V, width)
        self.norm = nn.LayerNorm(width)
        self.mid = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, V, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.tanh(self.mid(self.norm(self.emb(input_ids))))))


class NextToken:
    "Sums and counts over what is not padding."

    def counts(self, batch):
        return {"clm": int(batch["attention_mask"][:, 1:].sum())}

    def sums(self, model, batch):
        scores = model(batch["input_ids"])[:, :-1]
        scores = scores.float() if scores.dtype == torch.bfloat16 else scores
        nats = -scores.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return {"clm": (nats * batch["attention_mask"][:, 1:]).sum()}


def toy(dropout=0.3, dtype=torch.float32, **kw):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy(dropout, **kw).to(dtype)


def batches(step):
    generator = torch.Generator().manual_seed(step)
    input_ids = torch.randint(V, (B, T), generator=generator)
    lengths = torch.randint(2, T + 1, (B, 1), generator=generator)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(T) < lengths).long()}


def schedule(step):
    return warmup_cosine(step, N_STEPS, 3, 1e-2, 1e-3)


def evaluate(model):
    return evaluate_mean(model, NextToken(), [batches(1000), batches(1001)])


def run(model, **kw):
    kw = {"n_steps": N_STEPS, "schedule": schedule, "evaluate": evaluate, "eval_every": 4} | kw
    return train(model, NextToken(), batches, **kw)


def bits(model):
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def timeless(history):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in history]


def stop_at(step):
    def on_step(i, row):
        if i == step:
            raise KeyboardInterrupt

    return on_step


def interrupted(folder, step=7, **kw):
    with pytest.raises(KeyboardInterrupt):
        run(toy(), checkpoint_dir=folder, checkpoint_every=2, on_step=stop_at(step), **kw)


def killed_run(folder, where):
    "Called in another process, which it ends by SIGKILL."

    def kill(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    on_step = None
    if where == "between steps":
        on_step = lambda step, row: kill() if step == 7 else None  # noqa: E731
    else:
        real = {"save_file": training.save_file, "sync": training.sync}
        calls = {"n": 0}

        def late(*args):
            calls["n"] += 1
            return (
                kill() if calls["n"] == (6 if where == "save_file" else 16) else real[where](*args)
            )

        setattr(training, where, late)
    run(toy(), checkpoint_dir=Path(folder), checkpoint_every=2, on_step=on_step)


@pytest.fixture(scope="module")
def undisturbed():
    model = toy()
    result = run(model)
    return bits(model), timeless(result["history"]), result


# ---------------------------------------------------------------- sums and counts


@pytest.mark.parametrize("n_micro", [2, 3, 4, 6])
def test_gradient_does_not_depend_on_the_split(n_micro):
    gaps = []
    for step in range(3):
        whole, cut = toy(0, torch.float64), toy(0, torch.float64)
        loss, counts = backward_batch(whole, NextToken(), batches(step))
        loss_cut, counts_cut = backward_batch(cut, NextToken(), batches(step), n_micro=n_micro)
        parts = [NextToken().counts(b)["clm"] for b in split_batch(batches(step), n_micro)]
        assert len(set(parts)) > 1, "the parts must count differently for this test to say anything"
        assert counts == counts_cut == {"clm": sum(parts)}
        gaps += [abs(loss["clm"] - loss_cut["clm"])]
        pairs = zip(whole.parameters(), cut.parameters(), strict=True)
        gaps += [float((a.grad - b.grad).abs().max()) for a, b in pairs]
    print(f"max |Δ| over {n_micro} parts = {max(gaps):.1e}")
    assert max(gaps) <= 1e-10


def test_trained_weights_do_not_depend_on_the_split():
    models = [toy(0, torch.float64) for _ in range(2)]
    results = [run(m, n_micro=n) for m, n in zip(models, (1, 4), strict=True)]
    gap = max(
        float((a - b).detach().abs().max())
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True)
    )
    rows = zip(results[0]["history"], results[1]["history"], strict=True)
    assert max(abs(a["loss"] - b["loss"]) for a, b in rows) <= 1e-10
    assert gap <= 1e-10


def test_a_part_without_anything_to_count_is_passed_over():
    batch = batches(0)
    batch["attention_mask"][:2] = 0  # first of three parts
    whole, cut = toy(0, torch.float64), toy(0, torch.float64)
    backward_batch(whole, NextToken(), batch)
    backward_batch(cut, NextToken(), batch, n_micro=3)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-12, rtol=0)


class TwoTerms(NextToken):
    "A second term with a count of its own, and sometimes none."

    def counts(self, batch):
        return super().counts(batch) | {"first": int((batch["input_ids"][:, 0] < 5).sum())}

    def sums(self, model, batch):
        rows = batch["input_ids"][batch["input_ids"][:, 0] < 5]
        scores = model(rows)[:, 0, 0]
        return super().sums(model, batch) | {"first": (scores**2).sum()}


def test_terms_are_means_of_their_own_and_add_up():
    batch = batches(0)
    batch["input_ids"][:, 0] = torch.tensor([0, 9, 9, 9, 1, 9])
    model = toy(0, torch.float64)
    losses, counts = backward_batch(model, TwoTerms(), batch, n_micro=3)
    sums = TwoTerms().sums(model, batch)
    assert counts["first"] == 2
    for term in sums:
        assert losses[term] == pytest.approx(float(sums[term]) / counts[term], abs=1e-12)
    want = torch.autograd.grad(sum(sums[t] / counts[t] for t in sums), model.mid.weight)[0]
    torch.testing.assert_close(model.mid.weight.grad, want, atol=1e-12, rtol=0)


def test_a_term_without_a_count_leaves_the_others_alone():
    batch = batches(0)
    batch["input_ids"][:, 0] = 9
    losses, counts = backward_batch(toy(0), TwoTerms(), batch, n_micro=2)
    assert counts["first"] == 0 and set(losses) == {"clm"} and math.isfinite(losses["clm"])


def test_split_batch_loses_and_doubles_nothing():
    batch = batches(0) | {"language": "en"}
    parts = split_batch(batch, 4)
    assert [len(p["input_ids"]) for p in parts] == [2, 2, 1, 1]
    assert torch.equal(torch.cat([p["input_ids"] for p in parts]), batch["input_ids"])
    assert all(p["language"] == "en" for p in parts)
    with pytest.raises(ValueError, match="n_micro must be from 1 to the batch's 6, got 7"):
        split_batch(batch, 7)
    with pytest.raises(ValueError, match="agree in their first size"):
        split_batch({"a": torch.zeros(2), "b": torch.zeros(3)}, 1)


# ---------------------------------------------------------------- one step


def test_clipping_is_torch_clipping():
    ours, theirs = toy(0, torch.float64), toy(0, torch.float64)
    for model, limit in ((ours, 0.05), (theirs, None)):
        optimizer = torch.optim.SGD([{"params": list(model.parameters())}], lr=0.0)
        if limit:
            row = train_step(model, optimizer, NextToken(), batches(0), 0.5, limit)
        else:
            backward_batch(model, NextToken(), batches(0))
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.param_groups[0]["lr"] = 0.5
            optimizer.step()
    assert row["grad_norm"] == pytest.approx(float(norm), abs=1e-12) and norm > 0.05
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-14, rtol=0)
        torch.testing.assert_close(a.grad, b.grad, atol=1e-14, rtol=0)


def test_no_limit_clips_nothing():
    model, free = toy(0, torch.float64), toy(0, torch.float64)
    train_step(model, make_optimizer(model, 0, (0.9, 0.95)), NextToken(), batches(0), 1e-3, 0.0)
    backward_batch(free, NextToken(), batches(0))
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(model.parameters(), free.parameters(), strict=True)
    )


def test_gradients_of_the_step_before_are_gone():
    twice, once = toy(0, torch.float64), toy(0, torch.float64)
    optimizer = make_optimizer(twice, 0.0, (0.9, 0.95))
    train_step(twice, optimizer, NextToken(), batches(0), 0.0, 0.0)  # rate 0: no weight moves
    train_step(twice, optimizer, NextToken(), batches(1), 0.0, 0.0)
    backward_batch(once, NextToken(), batches(1))
    torch.testing.assert_close(twice.mid.weight.grad, once.mid.weight.grad, atol=1e-14, rtol=0)


def test_the_first_step_uses_the_first_rate():
    model = toy(0, torch.float64)
    before = model.mid.bias.detach().clone()
    rows = run(model, n_steps=1, grad_clip=0.0)["history"]
    moved = (model.mid.bias - before).abs()  # Adam's first step is lr · g / |g|
    torch.testing.assert_close(moved, torch.full_like(moved, schedule(0)), atol=1e-7, rtol=0)
    assert rows[0]["lr"] == schedule(0) == pytest.approx(1e-2 / 3)


def test_biases_and_norms_do_not_decay_and_tied_weights_decay_once():
    groups = parameter_groups(toy(), 0.5)
    decayed, kept = groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.5, 0.0)
    model = toy()
    ids = [id(p) for group in parameter_groups(model, 0.5) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters()) and len(set(ids)) == len(ids)
    assert all(p.ndim >= 2 for p in decayed["params"]) and all(p.ndim < 2 for p in kept["params"])
    before = bits(model)
    optimizer = make_optimizer(model, 0.5, (0.9, 0.95))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()  # without a gradient only decay moves a weight
    after = bits(model)
    for name in before:
        factor = 0.95 if before[name].ndim >= 2 else 1.0
        torch.testing.assert_close(after[name], before[name] * factor)


def test_frozen_parameters_stay():
    model = toy()
    model.mid.requires_grad_(False)
    before = bits(model)
    run(model)
    after = bits(model)
    assert torch.equal(before["mid.weight"], after["mid.weight"])
    assert not torch.equal(before["emb.weight"], after["emb.weight"])
    with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
        parameter_groups(model.requires_grad_(False), 0.1)


def test_the_fused_kernel_is_used_on_cpu():
    assert make_optimizer(toy(), 0.1, (0.9, 0.95)).param_groups[0]["fused"] is True


def test_schedule():
    values = [warmup_cosine(i, 100, 10, 1.0, 0.1) for i in range(101)]
    assert values[0] == 0.1 and values[9] == values[10] == 1.0 == max(values)
    assert values[55] == pytest.approx(0.55) and values[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False)) and min(values) > 0
    assert warmup_cosine(0, 1, 0, 0.3, 0.0) == 0.3
    assert warmup_cosine(500, 100, 10, 1.0, 0.1) == pytest.approx(0.1)
    assert warmup_cosine(100, 100, 100, 1.0, 0.1) == pytest.approx(1.0)
    for wrong in ((-1, 10, 1, 1.0, 0.0), (0, 10, 11, 1.0, 0.0), (0, 10, 1, 1.0, 2.0)):
        with pytest.raises(ValueError, match="warmup_cosine: needs"):
            warmup_cosine(*wrong)


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize("step", [0, 5, 6, 11])
def test_resumed_is_undisturbed_bit_for_bit(tmp_path, undisturbed, step):
    weights, history, result = undisturbed
    interrupted(tmp_path, step)
    model = toy()
    with torch.no_grad():
        model.mid.weight.fill_(
            7.0
        )  # whatever was there before must not matter, unless none was saved
    if step < 2:
        model = toy()
    again = run(model, checkpoint_dir=tmp_path, checkpoint_every=2)
    assert again["resumed_from"] == step // 2 * 2
    assert same(bits(model), weights)
    assert timeless(again["history"]) == history
    assert [again[k] for k in ("tokens", "skipped")] == [result[k] for k in ("tokens", "skipped")]


def test_resumed_optimizer_state_is_undisturbed(tmp_path):
    for name in ("a", "b"):
        if name == "b":
            interrupted(tmp_path / name)
        run(toy(), checkpoint_dir=tmp_path / name, checkpoint_every=2)
    files = [load_file(newest_checkpoint(tmp_path / n) / "optimizer.safetensors") for n in "ab"]
    assert same(*files)
    assert {k.rpartition("/")[2] for k in files[0]} == {"step", "exp_avg", "exp_avg_sq"}
    assert "mid.weight/exp_avg" in files[0] and float(files[0]["mid.weight/step"]) == N_STEPS


def test_resumed_with_tied_weights_stays_tied(tmp_path):
    interrupted(tmp_path)
    model = toy()
    run(model, checkpoint_dir=tmp_path, checkpoint_every=2)
    assert model.head.weight is model.emb.weight
    assert set(load_file(newest_checkpoint(tmp_path) / "model.safetensors")) == {
        *("emb.weight", "norm.weight", "norm.bias", "mid.weight", "mid.bias")
    }


@pytest.mark.parametrize("where", ["between steps", "save_file", "sync"])
def test_sigkill_loses_nothing_but_steps(tmp_path, undisturbed, where):
    code = f"import test_training as t; t.killed_run({str(tmp_path)!r}, {where!r})"
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=env,
        timeout=120,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [p.name for p in tmp_path.glob(".writing_*")]
    assert bool(left) == (where != "between steps")
    model = toy()
    again = run(model, checkpoint_dir=tmp_path, checkpoint_every=2)
    assert 0 < again["resumed_from"] < N_STEPS
    assert same(bits(model), undisturbed[0]) and timeless(again["history"]) == undisturbed[1]
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_is_not_run_again(tmp_path, undisturbed):
    run(toy(), checkpoint_dir=tmp_path)
    model = toy()
    again = run(model, checkpoint_dir=tmp_path, on_step=stop_at(0))
    assert again["resumed_from"] == N_STEPS and timeless(again["history"]) == undisturbed[1]
    assert same(bits(model), undisturbed[0])


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    kw = {"schedule": lambda step: 1e-3, "evaluate": None}
    run(toy(), n_steps=5, checkpoint_dir=tmp_path, **kw)
    model, straight = toy(), toy()
    assert run(model, n_steps=9, checkpoint_dir=tmp_path, **kw)["resumed_from"] == 5
    run(straight, n_steps=9, **kw)
    assert same(bits(model), bits(straight))


def test_a_bar_is_shown_for_the_steps_that_are_left(tmp_path):
    seen = []

    def track(steps, desc):
        seen.append((list(steps), desc))
        return steps

    interrupted(tmp_path)
    run(toy(), checkpoint_dir=tmp_path, checkpoint_every=2, track=track)
    assert seen == [(list(range(6, N_STEPS)), "steps")]


# ---------------------------------------------------------------- torn checkpoints


def checkpoints(folder):
    return sorted(folder.glob("step_*"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


FAULTS = {
    "model.safetensors differs": lambda p: flip(p / "model.safetensors"),
    "optimizer.safetensors differs": lambda p: (p / "optimizer.safetensors").write_bytes(
        (p / "optimizer.safetensors").read_bytes()[:-100]
    ),
    "state.json differs": lambda p: (p / "state.json").write_text("{}"),
    "state.json is missing": lambda p: (p / "state.json").unlink(),
    "manifest.json cannot be read": lambda p: (p / "manifest.json").unlink(),
    "manifest.json cannot": lambda p: (p / "manifest.json").write_text('{"step": 6, "sha'),
    "its manifest is of step 999": lambda p: (p / "manifest.json").write_text(
        json.dumps({"step": 999, "sha256": {}})
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_torn_checkpoint_is_never_taken(tmp_path, undisturbed, fault):
    interrupted(tmp_path)
    FAULTS[fault](checkpoints(tmp_path)[-1])
    model = toy()
    with pytest.warns(UserWarning, match=f"step_00000006: {fault}.*going back to step_00000004"):
        again = run(model, checkpoint_dir=tmp_path, checkpoint_every=2)
    assert again["resumed_from"] == 4
    assert same(bits(model), undisturbed[0]) and timeless(again["history"]) == undisturbed[1]
    assert all(checkpoint_fault(path) is None for path in checkpoints(tmp_path))


def test_if_all_are_torn_it_says_so_and_does_not_begin_again(tmp_path):
    interrupted(tmp_path)
    for path in checkpoints(tmp_path):
        flip(path / "model.safetensors")
    with pytest.raises(RuntimeError, match="no usable checkpoint.*step_00000006.*step_00000004"):
        run(toy(), checkpoint_dir=tmp_path)


def test_a_checkpoint_is_safetensors_and_json(tmp_path):
    interrupted(tmp_path)
    run(toy(), checkpoint_dir=tmp_path, checkpoint_every=2)
    newest = newest_checkpoint(tmp_path)
    assert newest.name == f"step_{N_STEPS:08d}" and len(checkpoints(tmp_path)) == 2
    assert sorted(p.name for p in newest.iterdir()) == [
        *("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
    ]
    for path in newest.glob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_what_is_not_ours_in_the_folder_stays(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    run(toy(), checkpoint_dir=tmp_path, checkpoint_every=2)
    assert (tmp_path / ".ipynb_checkpoints").is_dir() and (tmp_path / "notes.txt").exists()


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, undisturbed, monkeypatch):
    real, calls = training.save_file, []

    def full(*args):
        calls.append(1)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(training, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run(toy(), checkpoint_dir=tmp_path, checkpoint_every=2)
    model = toy()
    assert run(model, checkpoint_dir=tmp_path, checkpoint_every=2)["resumed_from"] == 4
    assert same(bits(model), undisturbed[0])


# ---------------------------------------------------------------- another run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_clip": 0.5}, "grad_clip was 1.0, is 0.5"),
        ({"seed": 3}, "seed was 0, is 3"),
        ({"weight_decay": 0.2, "n_micro": 2}, "weight_decay was 0.1, is 0.2; n_micro was 1, is 2"),
        ({"betas": (0.9, 0.99)}, r"betas was \[0.9, 0.95\], is \[0.9, 0.99\]"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"schedule": lambda step: 0.5}, "lr of step 0 was 0.0033333333333333335, is 0.5"),
        ({"n_steps": 3}, "6 steps are done, n_steps is 3"),
    ],
)
def test_another_run_is_refused_in_one_line(tmp_path, change, message):
    interrupted(tmp_path)
    model = toy()
    before = bits(model)
    with pytest.raises(
        ValueError, match=f"checkpoint of step 6 belongs to another run.*{message}"
    ) as e:
        run(model, checkpoint_dir=tmp_path, **change)
    assert "\n" not in str(e.value) and "use another checkpoint_dir" in str(e.value)
    assert same(bits(model), before)


def test_another_model_is_refused_and_left_alone(tmp_path):
    interrupted(tmp_path)
    model = toy(width=16)
    before = bits(model)
    with pytest.raises(
        ValueError, match=r"`emb.weight` is \(40, 12\) there and \(40, 16\) in this"
    ):
        run(model, checkpoint_dir=tmp_path)
    assert same(bits(model), before)
    model = nn.Sequential(toy())
    with pytest.raises(ValueError, match=r"`0.emb.weight` is missing there"):
        run(model, checkpoint_dir=tmp_path)


def test_settings_are_refused_all_at_once():
    with pytest.raises(ValueError) as e:
        run(toy(), n_steps=0, n_micro=0, precision="fp8", grad_clip=-1, weight_decay=math.nan)
    for part in ("n_steps", "n_micro", "fp32, bf16; got fp8", "grad_clip", "weight_decay"):
        assert part in str(e.value)


# ---------------------------------------------------------------- divergence


class Broken(NextToken):
    "A loss that breaks at one step."

    def __init__(self, value):
        self.value, self.calls = value, 0

    def sums(self, model, batch):
        self.calls += model.training
        (sums,) = super().sums(model, batch).values()
        return {"clm": sums * self.value if self.calls == 8 else sums}


Broken.__name__ = "NextToken"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_loss_stops_and_spoils_nothing(tmp_path, undisturbed, value):
    model = toy()
    kw = {"n_steps": N_STEPS, "schedule": schedule, "evaluate": evaluate, "eval_every": 4}
    with pytest.raises(FloatingPointError) as e:
        train(model, Broken(value), batches, checkpoint_dir=tmp_path, checkpoint_every=2, **kw)
    assert f"train: loss is {value} at step 7, learning rate {schedule(7):.3g}" in str(e.value)
    assert f"last good checkpoint: {tmp_path / 'step_00000006'}" in str(e.value)
    assert "\n" not in str(e.value)
    assert all(p.isfinite().all() for p in model.parameters()), "the bad step was taken"
    assert model.training
    again = toy()
    assert run(again, checkpoint_dir=tmp_path, checkpoint_every=2)["resumed_from"] == 6
    assert same(bits(again), undisturbed[0])


def test_a_broken_gradient_stops_too():
    class Steep(NextToken):
        def sums(self, model, batch):
            return {"clm": model.mid.bias.sum().mul(0).sqrt()}  # value 0, gradient nan

    model = toy()
    with pytest.raises(
        FloatingPointError, match="grad_norm is nan at step 0.*there is no checkpoint"
    ):
        train(model, Steep(), batches, n_steps=2, schedule=schedule)
    assert all(p.isfinite().all() for p in model.parameters())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    def spoil(step, row):
        if step == 3:
            with torch.no_grad():
                model.mid.bias[0] = math.inf

    model = toy()
    with pytest.raises(
        FloatingPointError, match="mid.bias is not finite after step 3.*step_00000002"
    ):
        run(model, checkpoint_dir=tmp_path, checkpoint_every=2, on_step=spoil)
    assert newest_checkpoint(tmp_path).name == "step_00000002"


def test_a_batch_without_anything_to_count_is_skipped_and_counted():
    def some(step):
        batch = batches(step)
        if step == 2:
            batch["attention_mask"][:] = 0
        return batch

    model, seen = toy(), []

    def look(step, row):
        seen.append(bits(model))

    result = train(model, NextToken(), some, n_steps=4, schedule=schedule, on_step=look)
    assert result["skipped"] == 1 and [r["step"] for r in result["history"]] == [0, 1, 2, 3]
    row = result["history"][2]
    assert row["loss"] is None and row["grad_norm"] is None and row["tokens"] == 0
    assert same(seen[1], seen[2]) and not same(seen[2], seen[3])


# ---------------------------------------------------------------- evaluation and modes


def test_evaluation_is_the_mean_over_items_without_dropout():
    model = toy(0.5, torch.float64)
    sets = [batches(0), batches(1), {k: v[:1] for k, v in batches(2).items()}]
    got = evaluate_mean(model, NextToken(), sets)
    plain = toy(0.0, torch.float64)
    total = sum(float(NextToken().sums(plain, b)["clm"]) for b in sets)
    assert got["clm"] == pytest.approx(
        total / sum(NextToken().counts(b)["clm"] for b in sets), abs=1e-12
    )
    with pytest.raises(ValueError, match="hold nothing to count"):
        evaluate_mean(model, NextToken(), [])


@pytest.mark.parametrize("mode", [True, False])
def test_every_module_keeps_its_mode(mode):
    model = toy().train(mode)
    model.drop.training = not mode
    evaluate_mean(model, NextToken(), [batches(0)])
    assert (model.training, model.drop.training, model.mid.training) == (mode, not mode, mode)

    class Breaks(NextToken):
        def sums(self, model, batch):
            raise RuntimeError("broken on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        evaluate_mean(model, Breaks(), [batches(0)])
    assert (model.training, model.drop.training) == (mode, not mode)
    run(model, n_steps=2)
    assert (model.training, model.drop.training, model.mid.training) == (mode, not mode, mode)


def test_evaluation_is_in_eval_mode_and_training_in_train_mode():
    modes = {"train": set(), "evaluate": set()}

    class Watch(NextToken):
        def sums(self, model, batch):
            modes["train"].add(model.drop.training)
            return super().sums(model, batch)

    def watch(model):
        modes["evaluate"].add(model.drop.training)
        return {"val": 1.0}

    train(
        *(toy().eval(), Watch(), batches),
        n_steps=3,
        schedule=schedule,
        evaluate=watch,
        eval_every=1,
    )
    assert modes == {"train": {True}, "evaluate": {False}}


def test_evaluating_does_not_change_the_training(undisturbed):
    model = toy()

    def draws(model):
        torch.rand(1000)
        return {}

    run(model, evaluate=draws, eval_every=1)
    assert same(bits(model), undisturbed[0])


def test_history(undisturbed):
    _, _, result = undisturbed
    history = result["history"]
    assert [row["step"] for row in history] == list(range(N_STEPS))
    assert [row["lr"] for row in history] == [schedule(i) for i in range(N_STEPS)]
    assert [row["step"] for row in history if "clm" in row] == [3, 7, 11]
    tokens = [int(batches(i)["attention_mask"].sum()) for i in range(N_STEPS)]
    assert [row["tokens"] for row in history] == tokens and result["tokens"] == sum(tokens)
    assert result["seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    for row in history:
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["loss"] == row["loss/clm"] and row["grad_norm"] > 0
    assert history[-1]["clm"] < history[0]["loss"] + 1


# ---------------------------------------------------------------- randomness


def test_no_global_random_state_is_changed(tmp_path):
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(toy(), checkpoint_dir=tmp_path, checkpoint_every=4)
    evaluate(toy())
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_the_run_does_not_depend_on_the_global_random_state(undisturbed):
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        model = toy()
        run(model)
    assert same(bits(model), undisturbed[0])


def test_each_step_and_each_seed_has_its_own_dropout():
    def draw(seed, step):
        with step_randomness(seed, step):
            return torch.rand(4)

    assert torch.equal(draw(0, 1), draw(0, 1))
    draws = [draw(seed, step) for seed in range(3) for step in range(3)]
    assert len({tuple(d.tolist()) for d in draws}) == 9
    models = [toy(), toy()]
    for seed, model in enumerate(models):
        run(model, seed=seed)
    assert not same(*map(bits, models))


# ---------------------------------------------------------------- precision and device


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
        ),
    ],
)
def test_bfloat16_trains_fp32_weights(device, tmp_path):
    seen = set()

    class Watch(NextToken):
        def sums(self, model, batch):
            seen.add(model(batch["input_ids"]).dtype)
            return super().sums(model, batch)

    kw = {"schedule": schedule, "precision": "bf16", "device": device, "checkpoint_dir": tmp_path}
    model, state = toy(0), torch.random.get_rng_state()
    half = train(model, Watch(), batches, n_steps=N_STEPS, **kw)
    assert torch.equal(torch.random.get_rng_state(), state)
    full = run(toy(0).to(device), device=device, evaluate=None)
    assert seen == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and p.device.type == device for p in model.parameters())
    gap = max(
        abs(a["loss"] - b["loss"]) for a, b in zip(half["history"], full["history"], strict=True)
    )
    assert 0 < gap < 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_resumed_on_a_gpu(tmp_path):
    models = [toy(), toy()]
    kw = {"device": "cuda", "evaluate": None}
    state = torch.cuda.get_rng_state()
    run(models[0], **kw)
    with pytest.raises(KeyboardInterrupt):
        run(toy(), checkpoint_dir=tmp_path, checkpoint_every=2, on_step=stop_at(7), **kw)
    run(models[1], checkpoint_dir=tmp_path, checkpoint_every=2, **kw)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_nothing_warns(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(toy(), checkpoint_dir=tmp_path, checkpoint_every=4)


# ---------------------------------------------------------------- Muon


def test_orthogonalize_works_on_the_smaller_square(monkeypatch) -> None:
    sides = []
    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda a, b, c, **kw: sides.append(len(b)) or addmm(a, b, c, **kw))  # fmt: skip
    wide = torch.randn(5, 90, generator=torch.Generator().manual_seed(0))
    tall = training.orthogonalize(wide.mT)
    assert torch.equal(tall, training.orthogonalize(wide).mT) and tall.shape == (90, 5)
    assert set(sides) == {5}


@pytest.mark.parametrize("n_rounds, low", [(5, 0.6), (12, 0.6)])
def test_orthogonalize_keeps_directions_and_levels_values(n_rounds: int, low: float) -> None:
    generator = torch.Generator().manual_seed(1)
    u, _, v = torch.linalg.svd(torch.randn(20, 12, generator=generator).double(), full_matrices=False)  # fmt: skip
    found = training.orthogonalize(u @ torch.diag(torch.logspace(0, -1.5, 12).double()) @ v, n_rounds)  # fmt: skip
    values = u.mT @ found @ v.mT
    assert (values - values.diagonal().diag()).abs().max() < 1e-12
    assert low < float(values.diagonal().min()) and float(values.diagonal().max()) < 1.3
    assert torch.equal(training.orthogonalize(torch.zeros(3, 2)), torch.zeros(3, 2)), "no NaN at zero"  # fmt: skip


def test_muon_moves_inner_matrices_only() -> None:
    model = toy()
    assert training.inner_matrices(model) == [model.mid.weight], "the head is the embedding"
    groups = parameter_groups(model, 0.1, muon=2.0)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert [bool(g.get("muon")) for g in groups] == [True, False, False]
    assert parameter_groups(model, 0.1, muon=0.0)[0].get("muon") is None
    model.mid.weight.requires_grad_(False)
    assert training.inner_matrices(model) == []


def test_muon_has_its_own_rate() -> None:
    "Its step has a size that the gradient does not set: the rate times the root of the rank, nearly."
    moved = []
    for factor in (1.0, 3.0):
        model = toy(0.0)
        before = model.mid.weight.detach().clone()
        train_step(model, make_optimizer(model, 0.0, (0.9, 0.95), factor), NextToken(), batches(0), lr=1e-3)  # fmt: skip
        moved.append(float((model.mid.weight - before).norm()))
    assert moved[1] == pytest.approx(3 * moved[0], rel=1e-3)
    assert 0.2e-3 * C**0.5 < moved[0] < 1.3e-3 * C**0.5


def test_muon_resumes_bit_for_bit(tmp_path) -> None:
    whole = toy()
    run(whole, muon=2.0)
    interrupted(tmp_path, muon=2.0)
    again = toy()
    assert run(again, muon=2.0, checkpoint_dir=tmp_path, checkpoint_every=2)["resumed_from"] == 6
    assert same(bits(whole), bits(again))
    with pytest.raises(ValueError, match=r"muon was 2.0, is 0.0"):
        run(toy(), muon=0.0, checkpoint_dir=tmp_path, checkpoint_every=2)


# ---------------------------------------------------------------- the schedule with a late decay


@pytest.mark.parametrize(
    "n_steps, n_warmup, n_decay", [(20, 4, 5), (10, 0, 10), (10, 10, 0), (1, 0, 1)]
)
def test_stable_schedule(n_steps, n_warmup, n_decay):
    rates = [
        warmup_stable_decay(s, n_steps, n_warmup, n_decay, 2.0, 0.2) for s in range(n_steps + 3)
    ]
    assert rates[:n_warmup] == [2.0 * (s + 1) / n_warmup for s in range(n_warmup)]
    begin = n_steps - n_decay
    assert set(rates[n_warmup : begin + (n_decay > 0)]) <= {2.0}
    line = [2.0 - 1.8 * (s - begin) / n_decay for s in range(begin, n_steps)] if n_decay else []
    assert rates[begin:n_steps] == pytest.approx(line)
    assert rates[n_steps:] == pytest.approx([0.2] * 3 if n_decay else [2.0] * 3)


@pytest.mark.parametrize("bad", [dict(step=-1), dict(n_decay=-1), dict(n_warmup=17), dict(lr_min=3.0), dict(lr=math.nan)])  # fmt: skip
def test_stable_schedule_refuses_nonsense(bad):
    given = dict(step=0, n_steps=20, n_warmup=4, n_decay=5, lr=2.0) | bad
    with pytest.raises(ValueError, match="warmup_stable_decay: needs .*; got step"):
        warmup_stable_decay(**given)


def test_a_stable_run_may_grow_and_is_the_long_run(tmp_path):
    def late(n):
        return {"n_steps": n, "schedule": lambda s: warmup_stable_decay(s, n, 3, 4, 1e-2)}

    with pytest.raises(KeyboardInterrupt):
        run(toy(), checkpoint_dir=tmp_path, checkpoint_every=4, on_step=stop_at(9), **late(12))
    grown, whole = toy(), toy()
    assert run(grown, checkpoint_dir=tmp_path, **late(20))["resumed_from"] == 8
    run(whole, **late(20))
    assert same(bits(grown), bits(whole))


# ---------------------------------------------------------------- the average of the weights


def test_the_average_is_that_of_the_weights_it_saw():
    seen, model = [], toy()
    start = bits(model)
    result = run(model, ema=0.9, on_step=lambda step, row: seen.append(bits(model)))
    expected = start
    for step, weights in enumerate(seen):
        decay = min(0.9, (step + 1) / (step + 10))
        expected = {k: decay * expected[k] + (1 - decay) * weights[k] for k in expected}
    assert set(result["ema"]) == {name for name, _ in model.named_parameters()}
    for name, average in result["ema"].items():
        assert (average - expected[name]).abs().max() < 1e-6


def test_the_average_does_not_touch_the_training(undisturbed):
    model = toy()
    result = run(model, ema=0.9)
    assert same(bits(model), undisturbed[0])
    rows = zip(result["history"], undisturbed[1], strict=True)
    assert all(a["loss"] == b["loss"] and a.get("clm") == b.get("clm") for a, b in rows)
    last = result["history"][-1]
    with training.weights_of(model, result["ema"]):
        assert evaluate(model)["clm"] == last["ema/clm"] != last["clm"]
    assert same(bits(model), undisturbed[0]), "its own weights are back"


def test_weights_come_back_after_an_error():
    model = toy()
    before, average = bits(model), training.begin_average(model, 0.9)
    average["mid.weight"].add_(1.0)
    with pytest.raises(KeyError), training.weights_of(model, average):
        assert not same(bits(model), before)
        raise KeyError
    assert same(bits(model), before)


@pytest.mark.parametrize("step", [3, 7])
def test_the_average_is_resumed_bit_for_bit(tmp_path, step):
    models = [toy(), toy()]
    whole = run(models[0], ema=0.95)
    interrupted(tmp_path, step, ema=0.95)
    again = run(models[1], ema=0.95, checkpoint_dir=tmp_path, checkpoint_every=2)
    assert again["resumed_from"] == step // 2 * 2
    assert same(whole["ema"], again["ema"]) and same(*map(bits, models))
    assert timeless(whole["history"]) == timeless(again["history"])


def test_a_skipped_step_is_not_averaged():
    def some(step):
        return batches(step) if step != 5 else {k: v * 0 for k, v in batches(5).items()}

    taken = []
    update = training.update_average
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "update_average", lambda *a: taken.append(a[2]) or update(*a))
        result = train(toy(), NextToken(), some, n_steps=8, schedule=schedule, ema=0.9)
    assert result["skipped"] == 1 and len(taken) == 7


def test_a_checkpoint_with_another_average_is_refused(tmp_path):
    interrupted(tmp_path / "with", ema=0.9)
    interrupted(tmp_path / "without")
    for folder, ema, message in (
        ("with", 0.0, "ema was 0.9, is None"),
        ("with", 0.8, "ema was 0.9, is 0.8"),
        ("without", 0.9, "ema was None, is 0.9"),
    ):
        with pytest.raises(ValueError, match=message):
            run(toy(), checkpoint_dir=tmp_path / folder, ema=ema)


def test_a_torn_average_is_never_taken(tmp_path):
    interrupted(tmp_path, ema=0.9)
    flip(newest_checkpoint(tmp_path) / "average.safetensors")
    with pytest.warns(UserWarning, match="average.safetensors differs from its sha256"):
        assert newest_checkpoint(tmp_path).name == "step_00000004"


# ---------------------------------------------------------------- recomputation and compiling


class Stack(Toy):
    "Blocks in a list, dropout in each."

    def __init__(self):
        super().__init__(0.3)
        layer = lambda: nn.Sequential(nn.Linear(C, C), nn.Tanh(), nn.Dropout(0.3))  # noqa: E731
        self.blocks = nn.ModuleList(layer() for _ in range(3))

    def forward(self, input_ids):
        x = self.norm(self.emb(input_ids))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def stack(dtype=torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Stack().to(dtype)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputation_changes_no_bit(precision):
    models = [stack(), stack()]
    plain = run(models[0], precision=precision)
    with training.recomputed(models[1]):
        again = run(models[1], precision=precision)
    assert same(*map(bits, models))
    assert timeless(plain["history"]) == timeless(again["history"])


def test_recomputation_computes_again_and_only_inside():
    model, calls = stack(), []
    model.blocks[0][0].register_forward_hook(lambda *_: calls.append(1))
    with training.recomputed(model):
        backward_batch(model, NextToken(), batches(0))
        assert len(calls) == 2
        evaluate(model)
        assert len(calls) == 4, "no backward pass, no second forward pass"
    assert all("forward" not in vars(block) for block in model.blocks)
    backward_batch(model, NextToken(), batches(0))
    assert len(calls) == 5


def test_recomputation_needs_blocks():
    with pytest.raises(ValueError, match="no nn.ModuleList of blocks"), training.recomputed(toy()):
        pass


def test_recomputation_keeps_less():
    def kept(model):
        total = []
        pack = lambda t: total.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            NextToken().sums(model, batches(0))
        return sum(total)

    model = stack()
    plain = kept(model)
    with training.recomputed(model):
        assert kept(model) < 0.8 * plain


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_trains_alike_and_checkpoints_fit(tmp_path, backend):
    models = [toy(0, torch.float64), toy(0, torch.float64)]
    plain = run(models[0], n_steps=3)
    with training.compiled(models[1], backend):
        found = run(models[1], n_steps=3, checkpoint_dir=tmp_path)
    rows = zip(plain["history"], found["history"], strict=True)
    assert max(abs(a["loss"] - b["loss"]) for a, b in rows) <= 1e-12
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= 1e-12
    assert models[1]._compiled_call_impl is None
    assert run(toy(0, torch.float64), n_steps=3, checkpoint_dir=tmp_path)["resumed_from"] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_compiled_on_a_gpu():
    models = [toy(0), toy(0)]
    plain = run(models[0], device="cuda")
    with training.compiled(models[1]):
        found = run(models[1], device="cuda")
    rows = zip(plain["history"], found["history"], strict=True)
    assert max(abs(a["loss"] - b["loss"]) for a, b in rows) <= 1e-3


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="one of: inductor, aot_eager, eager; got tvm"):
        with training.compiled(toy(), "tvm"):
            pass


# ---------------------------------------------------------------- packing and arithmetic


def test_packing_loses_nothing_and_wastes_little():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 17, (60,), generator=generator).tolist()
    documents = [torch.full((n,), i + 1) for i, n in enumerate(lengths)]
    packed = training.pack_documents(documents, 16)
    ids, which = packed["input_ids"], packed["document_ids"]
    assert sorted(ids[which >= 0].tolist()) == sorted(torch.cat(documents).tolist())
    assert (ids[which < 0] == 0).all()
    for row, numbers in zip(ids, which, strict=True):
        for number in numbers[numbers >= 0].unique():
            (document,) = row[numbers == number].unique()
            assert (row == document).sum() == lengths[int(document) - 1], "whole and in one row"
    assert len(ids) <= 1.3 * sum(lengths) / 16 + 1


@pytest.mark.parametrize("lengths", [[3, 17], [0, 4]])
def test_documents_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be from 1 to 16, got"):
        training.pack_documents([torch.zeros(n).long() for n in lengths], 16)


def test_packed_training_is_padded_training():
    from llmchain.pretrain.gpt import GPT, GPTConfig
    from llmchain.pretrain.objectives import CausalObjective

    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([9, 4, 7, 3, 5, 8])
    ids = torch.randint(1, V, (6, 9), generator=generator)
    padded = {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths[:, None]).long()}
    documents = [row[:n] for row, n in zip(ids, lengths, strict=True)]
    packed = training.pack_documents(documents, 16)
    assert len(packed["input_ids"]) == 3
    models = [GPT(GPTConfig(V, 16, 2, 2, 8)).double() for _ in range(2)]
    for model, batch in zip(models, (padded, packed), strict=True):
        train(model, CausalObjective(), lambda step, b=batch: b, n_steps=4, schedule=schedule)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= 1e-10


def test_operations_are_counted_as_torch_counts_them():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from llmchain.pretrain.gpt import GPT, GPTConfig
    from llmchain.pretrain.objectives import CausalObjective

    model = GPT(GPTConfig(V, 24, 3, 2, 8))
    n_matrix = 3 * 12 * 8**2 + V * 8
    ids = torch.randint(V, (2, 24), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        backward_batch(model, CausalObjective(), {"input_ids": ids})
    assert counter.get_total_flops() == 48 * training.flops_per_token(n_matrix, 3, 8, 24)
    assert training.matmul_flops_per_second("bf16", size=64, n_rounds=1) > 0


# ---------------------------------------------------------------- bad input, before any work


def nothing_happened(model, before, folder):
    return same(bits(model), before) and not (folder.exists() and any(folder.iterdir()))


@pytest.mark.parametrize(
    "rate, message",
    [
        (0.0, "the learning rate is 0 at every step"),
        (-1e-3, "learning rate of step 0 is -0.001"),
        (math.nan, "learning rate of step 0 is nan"),
        (math.inf, "learning rate of step 0 is inf"),
    ],
)
def test_a_rate_that_cannot_be_meant_is_refused(tmp_path, rate, message):
    model = toy()
    before = bits(model)
    with pytest.raises(ValueError, match=f"train: {message}"):
        run(model, schedule=lambda step: rate, checkpoint_dir=tmp_path)
    assert nothing_happened(model, before, tmp_path)
    with pytest.raises(ValueError, match="learning rate of step 11 is -1"):
        run(model, schedule=lambda step: -1 if step == 11 else 1e-3)


@pytest.mark.parametrize("ema", [-0.1, 1.0, math.nan])
def test_an_average_that_cannot_be_meant_is_refused(ema):
    with pytest.raises(ValueError, match="ema must be from 0 to under 1"):
        run(toy(), ema=ema)


def test_no_room_for_the_checkpoints_is_said_before_the_work(tmp_path, monkeypatch):
    model = toy()
    before, n_bytes = bits(model), 4 * sum(p.numel() for p in model.parameters())
    usage = type("Usage", (), {"free": 9 * n_bytes - 1})
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="train: checkpoints need .* MB in .* MB are free") as error:
        run(model, checkpoint_dir=tmp_path / "new" / "run")
    assert "\n" not in str(error.value) and nothing_happened(model, before, tmp_path)
    usage.free = 9 * n_bytes
    run(model, checkpoint_dir=tmp_path / "new" / "run", n_steps=2)
    usage.free = 12 * n_bytes - 1
    with pytest.raises(OSError, match="train: checkpoints need"):
        run(toy(), checkpoint_dir=tmp_path / "average", n_steps=2, ema=0.9)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "last.ckpt"])
def test_a_pickle_is_no_checkpoint(tmp_path, name):
    model = toy()
    before = bits(model)
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=f"holds {name}, a pickle, which may run code"):
        run(model, checkpoint_dir=tmp_path)
    assert same(bits(model), before)


def test_another_dtype_is_refused_and_left_alone(tmp_path):
    interrupted(tmp_path)
    model = toy(dtype=torch.float64)
    before = bits(model)
    with pytest.raises(ValueError, match="is torch.float32 there and torch.float64 in this model"):
        run(model, checkpoint_dir=tmp_path)
    assert same(bits(model), before)


def test_a_checkpoint_of_a_fifth_kind_is_not_resumed(tmp_path):
    "Loading into a model of another shape, directly."
    model = toy()
    optimizer = make_optimizer(model, 0.1, (0.9, 0.95))
    state = {"step": 1, "history": [{"step": 0, "lr": 0.1}]}
    path = training.save_checkpoint(tmp_path, model, optimizer, state)
    other = toy(width=16)
    with pytest.raises(ValueError, match=r"is \(40, 12\) there and \(40, 16\) in this model"):
        training.load_checkpoint(path, other, make_optimizer(other, 0.1, (0.9, 0.95)))


def test_data_with_nothing_to_learn_are_refused(tmp_path):
    model = toy()
    before = bits(model)

    def padding(step):
        return {k: v * 0 for k, v in batches(step).items()}

    with pytest.raises(
        ValueError, match="nothing to count for clm in the batches of steps 0 to 9: only pad"
    ):
        train(
            model, NextToken(), padding, n_steps=N_STEPS, schedule=schedule, checkpoint_dir=tmp_path
        )
    assert nothing_happened(model, before, tmp_path)
    with pytest.raises(ValueError, match="nothing to count for clm in the batches of steps 0 to 1"):
        train(model, NextToken(), padding, n_steps=2, schedule=schedule)


def small_bert():
    return BertPretraining(BertConfig(V, T, 1, 2, 12, 24), torch.Generator().manual_seed(0))


def pairs_of(step, labels=True, mask=True, follows=True):
    "Two pairs; without `labels` no word is asked, without `mask` all is padding, and so on."
    ids = torch.from_numpy(np.random.default_rng(step).integers(1, V, (2, 6)))
    answers = ids if labels else torch.full_like(ids, -100)
    given = torch.ones_like(ids) if mask else torch.zeros_like(ids)
    batch = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": given}
    asked = torch.tensor([0, 1]) if follows else torch.full((2,), -100)
    return batch | {"labels": answers, "next_sentence_label": asked}


@pytest.mark.parametrize("term, wrong", [("mlm", dict(labels=False)), ("nsp", dict(follows=False)), ("mlm", dict(labels=False, mask=False))])  # fmt: skip
def test_a_term_that_is_never_asked_is_named_before_the_work(tmp_path, term, wrong):
    "With sentence pairs alone the loss falls, and no word is ever learnt."
    model = small_bert()
    before = bits(model)
    with pytest.raises(
        ValueError, match=f"train: nothing to count for {term} in the batches of steps 0 to 9: only"
    ) as told:
        train(
            model, MaskedObjective(), lambda step: pairs_of(step, **wrong), n_steps=12,
            schedule=schedule, checkpoint_dir=tmp_path,
        )  # fmt: skip
    assert "\n" not in str(told.value) and nothing_happened(model, before, tmp_path)


def test_a_term_that_is_asked_now_and_then_trains():
    model = small_bert()
    some = lambda step: pairs_of(step, labels=step == 7)  # noqa: E731
    result = train(model, MaskedObjective(), some, n_steps=9, schedule=schedule)
    assert [row["step"] for row in result["history"] if "loss/mlm" in row] == [7]


@pytest.mark.parametrize("all_asked", [True, False], ids=["all masked", "words alone"])
def test_all_masked_trains(all_asked):
    model = small_bert()

    def every(step):
        batch = pairs_of(step)
        return batch if all_asked else {k: v for k, v in batch.items() if "next" not in k}

    rows = train(model, MaskedObjective(), every, n_steps=9, schedule=schedule)["history"]
    assert all(math.isfinite(row["loss"]) for row in rows) and ("loss/nsp" in rows[0]) == all_asked
    assert bits(model)["bert.token_embedding.weight"].isfinite().all()


def test_a_short_rest_looks_back_for_its_terms(tmp_path):
    "The last batch alone may ask for nothing, as any batch may."
    kw = dict(schedule=schedule, checkpoint_dir=tmp_path, checkpoint_every=1)
    some = lambda step: pairs_of(step, labels=step < 7)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        train(small_bert(), MaskedObjective(), some, n_steps=9, on_step=stop_at(7), **kw)
    result = train(small_bert(), MaskedObjective(), some, n_steps=9, **kw)
    assert result["resumed_from"] >= 7 and len(result["history"]) == 9


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_one_batch_of_padding_among_others_spoils_nothing(kind):
    "No nan in the forward pass, none in the gradient, and GPT takes no step for it."
    made = small_bert() if kind == "bert" else small_gpt()
    objective = MaskedObjective() if kind == "bert" else CausalObjective()

    def some(step):
        empty = step == 1
        batch = pairs_of(step, labels=not empty, mask=not empty)
        names = batch if kind == "bert" else ("input_ids", "attention_mask")
        return {name: batch[name] for name in names}

    rows = train(made, objective, some, n_steps=4, schedule=schedule)["history"]
    assert all(v.isfinite().all() for v in bits(made).values())
    if kind == "gpt":
        assert [row["loss"] is None for row in rows] == [False, True, False, False]
    else:
        assert "loss/mlm" not in rows[1] and math.isfinite(rows[1]["loss"])


def test_an_empty_data_set_is_refused_before_the_first_step():
    from llmchain.pretrain.objectives import clm_batch

    model = toy()
    before = bits(model)
    with pytest.raises(ValueError, match="no items; the split is empty"):
        train(
            model, NextToken(), lambda s: clm_batch(np.zeros(0, np.uint16), s, 2, 8, 0),
            n_steps=2, schedule=schedule,
        )  # fmt: skip
    assert same(bits(model), before)


def small_gpt(**sizes):
    sizes = {"vocab_size": V, "block_size": T, "n_layer": 1, "n_head": 2, "n_embd": 12} | sizes
    return GPT(GPTConfig(**sizes), torch.Generator().manual_seed(0))


def tokens_to(high):
    return lambda step: {"input_ids": torch.full((2, 4), high)}


@pytest.mark.parametrize("high", [V, V + 9, -1])
def test_tokens_that_the_model_does_not_know_are_refused_before_the_first_step(tmp_path, high):
    model = small_gpt()
    before = bits(model)
    message = (
        f"train: the data have tokens {high} to {high}, the model knows 0 to {V - 1}; take the"
    )
    with pytest.raises(ValueError, match=message):
        train(model, CausalObjective(), tokens_to(high), n_steps=2, schedule=schedule, checkpoint_dir=tmp_path)  # fmt: skip
    assert nothing_happened(model, before, tmp_path)


def test_a_text_longer_than_the_context_is_refused_before_the_first_step(tmp_path):
    model, long = small_gpt(block_size=3), tokens_to(1)
    before, called = bits(model), []
    model.register_forward_pre_hook(lambda *given: called.append(1))
    message = (
        "^train: the rows have 4 tokens, the model's context is 3; cut them, or give the model a"
    )
    with pytest.raises(ValueError, match=message):
        train(model, CausalObjective(), long, n_steps=2, schedule=schedule, checkpoint_dir=tmp_path)
    assert not called and nothing_happened(model, before, tmp_path)
    train(small_gpt(block_size=4), CausalObjective(), long, n_steps=2, schedule=schedule)


def test_heads_and_dropout_belong_to_a_run_though_no_weight_shows_them(tmp_path):
    kw = {"schedule": schedule, "checkpoint_dir": tmp_path}
    train(small_gpt(), CausalObjective(), tokens_to(1), n_steps=2, **kw)
    other = small_gpt(n_head=4, dropout=0.1)
    with pytest.raises(
        ValueError, match=r"another run \(n_head was 2, is 4; dropout was 0.0, is 0.1\)"
    ):
        train(other, CausalObjective(), tokens_to(1), n_steps=3, **kw)


def test_a_pickle_under_the_name_of_safetensors_is_not_read(tmp_path):
    interrupted(tmp_path)
    path = newest_checkpoint(tmp_path)
    torch.save({"weight": torch.ones(1)}, path / "model.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["sha256"]["model.safetensors"] = training.sha256(path / "model.safetensors")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"model.safetensors: not a file of safetensors \("):
        run(toy(), checkpoint_dir=tmp_path)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"muon": math.nan}, "muon must not be negative, got nan"),
        ({"muon": -1.0, "seed": -1}, "seed must not be negative, got -1; muon must not be negative"),
        ({"muon": math.inf, "weight_decay": math.inf}, "weight_decay must be finite, got inf; muon must"),
    ],
)  # fmt: skip
def test_numbers_that_would_end_in_nan_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^train: {message}"):
        run(toy(), **change)


def test_a_file_in_the_place_of_the_folder_is_refused_before_the_work(tmp_path):
    model = toy()
    before = bits(model)
    (tmp_path / "run").write_text("")
    with pytest.raises(
        OSError, match=r"no checkpoint can be written into .*run: .*run is no folder"
    ):
        run(model, checkpoint_dir=tmp_path / "run")
    assert same(bits(model), before)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit for the size of a file")
def test_a_disk_that_is_full_while_it_is_written_is_one_line_and_leaves_nothing(tmp_path):
    """A limit for the size of a file stands for the disk; in another process, since it is for all of one."""
    code = (
        "import resource, signal, sys, test_training as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        f"try:\n    t.run(t.toy(), checkpoint_dir=t.Path({str(tmp_path / 'run')!r}))\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})  # fmt: skip
    assert done.stdout.startswith("train: no checkpoint could be written into"), done.stderr
    assert "File too large" in done.stdout and done.stdout.count("\n") == 1
    assert list((tmp_path / "run").iterdir()) == []


def test_half_a_step_and_a_device_that_is_not_here_are_refused():
    with pytest.raises(ValueError, match="n_steps must be a whole number and at least 1, got 2.5"):
        run(toy(), n_steps=2.5)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda is not here; take cpu"):
            run(toy(), n_steps=1, device="cuda")
