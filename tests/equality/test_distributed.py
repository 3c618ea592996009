"""Several ranks against one process, in 64 bits: gradients, trained weights, clipping, dropout."""

import numpy as np
import pytest
import torch
from small_world import in_world
from torch import nn

from llmchain.pretrain.bert import BertConfig, BertPretraining
from llmchain.pretrain.distributed import (
    backward_ranks,
    distribute,
    evaluate_ranks,
    own_rank,
    rank_rows,
    train_distributed,
    whole,
)
from llmchain.pretrain.gpt import GPT, GPTConfig
from llmchain.pretrain.objectives import CausalObjective, MaskedObjective
from llmchain.pretrain.training import backward_batch, evaluate_mean, train, warmup_cosine

V, T, B = 40, 10, 6
STRATEGIES = ("ddp", "fsdp")


def gpt(dropout=0.0):
    return GPT(GPTConfig(V, T, 2, 2, 12, dropout), torch.Generator().manual_seed(1)).double()


def batches(step, empty=False):
    "Texts of very different length, short ones first; `empty`: the first half says nothing at all."
    rng = np.random.default_rng(step)
    ids = torch.from_numpy(rng.integers(0, V, (B, T)))
    lengths = torch.from_numpy(np.sort(rng.integers(2, T + 1, B)))
    if empty:
        lengths[: B // 2] = 1
    return {"input_ids": ids, "attention_mask": (torch.arange(T) < lengths[:, None]).long()}


def bert():
    sizes = BertConfig(V, T, 1, 2, 12, 24)
    return BertPretraining(sizes, torch.Generator().manual_seed(1)).double()


def pairs(step, case):
    "Masked words and next sentences; `case` leaves out a term, on one rank or everywhere."
    rng = np.random.default_rng(step)
    ids = torch.from_numpy(rng.integers(0, V, (B, T)))
    labels = torch.where(torch.from_numpy(rng.random((B, T)) < 0.3), ids, -100)
    nsp = torch.from_numpy(rng.integers(0, 2, B))
    if case == "no words on rank 0":
        labels[: B // 2] = -100
    if case == "no pairs on rank 1":
        nsp[B // 2 :] = -100
    if case == "no pairs":
        nsp[:] = -100
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    batch |= {"attention_mask": torch.ones_like(ids)}
    return batch | {"labels": labels, "next_sentence_label": nsp}


def gradients(model):
    return {k: None if p.grad is None else whole(p.grad).tolist() for k, p in model.named_parameters()}  # fmt: skip


def gradient_of_ranks(build, objective, batch, strategy, n_micro):
    model = build()
    wrapped = distribute(model, strategy, n_terms=len(objective.counts(batch)))
    losses, totals = backward_ranks(wrapped, objective, rank_rows(batch, *own_rank()), n_micro)
    return gradients(model), losses, totals


def close(ours, theirs, bound=1e-10):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] is None) == (value is None), name
        if value is not None:
            torch.testing.assert_close(
                torch.tensor(ours[name]), torch.tensor(value), atol=bound, rtol=0, msg=name
            )


def check_gradient(build, objective, batch, strategy, n_ranks, n_micro):
    model = build()
    losses, totals = backward_batch(model, objective, batch)
    for ours in in_world(n_ranks, gradient_of_ranks, build, objective, batch, strategy, n_micro):
        close(ours[0], gradients(model))
        assert ours[1] == pytest.approx(losses, abs=1e-12) and ours[2] == totals


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_ranks,n_micro", [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_gradient_is_that_of_one_process(strategy, n_ranks, n_micro):
    check_gradient(gpt, CausalObjective(), batches(0), strategy, n_ranks, n_micro)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_with_nothing_to_say_keeps_nobody_waiting(strategy):
    check_gradient(gpt, CausalObjective(), batches(0, empty=True), strategy, 2, 3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", ["all", "no words on rank 0", "no pairs on rank 1", "no pairs"])
def test_each_term_is_a_mean_over_all_ranks(strategy, case):
    check_gradient(bert, MaskedObjective(), pairs(0, case), strategy, 2, 1)


# ---------------------------------------------------------------- whole runs

N_STEPS = 6


def schedule(step):
    return warmup_cosine(step, N_STEPS, 2, 1e-2)


def run_of_ranks(strategy, options):
    model = gpt()
    kw = {"n_steps": N_STEPS, "schedule": schedule, "strategy": strategy}
    result = train_distributed(model, CausalObjective(), batches, **kw, **options)
    weights = {k: whole(p).tolist() for k, p in model.state_dict().items()}
    return weights, [[row["loss"], row["grad_norm"], row["tokens"]] for row in result["history"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "options",
    [{"grad_clip": 0.05}, {"grad_clip": 0.0, "n_micro": 3}, {"muon": 20.0}],
    ids=["clipped", "in parts", "Muon"],
)
def test_trained_weights_are_those_of_one_process(strategy, options):
    model = gpt()
    alone = train(model, CausalObjective(), batches, n_steps=N_STEPS, schedule=schedule, **options)
    rows = [[row["loss"], row["grad_norm"], row["tokens"]] for row in alone["history"]]
    for weights, history in in_world(2, run_of_ranks, strategy, options):
        close(weights, {k: v.tolist() for k, v in model.state_dict().items()}, 1e-9)
        np.testing.assert_allclose(history, rows, atol=1e-9, rtol=0)


# ---------------------------------------------------------------- held-out rows

CASES = {"gpt": (gpt, CausalObjective()), "bert": (bert, MaskedObjective())}


def held_out(case):
    "Batches of six rows, of five, and of one: fewer than there are ranks."
    made = batches if case == "gpt" else lambda step: pairs(step, "all")
    return [{k: v[:n] for k, v in made(100 + n).items()} for n in (6, 5, 1)]


def measured(case, strategy):
    build, objective = CASES[case]
    model = build()
    wrapped = distribute(model, strategy, n_terms=2)
    found = evaluate_ranks(wrapped, objective, held_out(case))
    backward_ranks(wrapped, objective, rank_rows(held_out(case)[0], *own_rank()))  # still trains
    return found, all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case,n_ranks", [("gpt", 2), ("gpt", 3), ("bert", 2)])
def test_held_out_loss_is_that_of_one_process_and_the_same_on_all_ranks(case, n_ranks, strategy):
    build, objective = CASES[case]
    alone = evaluate_mean(build(), objective, held_out(case))
    ranks = in_world(n_ranks, measured, case, strategy)
    assert all(found == ranks[0][0] and trains for found, trains in ranks)
    assert ranks[0][0] == pytest.approx(alone, abs=1e-10, rel=0)


def run_that_measures(strategy, evaluate):
    model = gpt(dropout=0.3)
    measure = (lambda m: evaluate_ranks(m, CausalObjective(), held_out("gpt"))) if evaluate else None  # fmt: skip
    kw = {"n_steps": N_STEPS, "schedule": schedule, "strategy": strategy}
    kw |= {"evaluate": measure, "eval_every": 2}
    result = train_distributed(model, CausalObjective(), batches, **kw)
    weights = {k: whole(p).tolist() for k, p in model.state_dict().items()}
    return weights, [row.get("clm") for row in result["history"]], model.training


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_measuring_changes_no_bit_of_the_training(strategy):
    plain = in_world(2, run_that_measures, strategy, False)
    ranks = in_world(2, run_that_measures, strategy, True)
    assert ranks[0][0] == ranks[1][0] == plain[0][0] and ranks[0][2]
    assert ranks[0][1] == ranks[1][1]
    assert [value is None for value in ranks[0][1]] == [True, False] * 3


def test_a_run_measures_what_one_process_measures():
    def measure(model):
        return evaluate_mean(model, CausalObjective(), held_out("gpt"))

    kw = {"n_steps": 1, "schedule": schedule, "evaluate": measure}
    (row,) = train(gpt(), CausalObjective(), batches, **kw)["history"]

    def of_ranks():
        kw["evaluate"] = lambda model: evaluate_ranks(model, CausalObjective(), held_out("gpt"))
        result = train_distributed(gpt(), CausalObjective(), batches, **kw)
        return result["history"][0]["clm"]

    assert in_world(2, of_ranks) == pytest.approx([row["clm"]] * 2, abs=1e-10, rel=0)


def test_a_world_of_one_is_the_plain_loop_bit_by_bit():
    found = []
    for loop in (train, train_distributed):
        model = gpt(dropout=0.3)
        loop(model, CausalObjective(), batches, n_steps=N_STEPS, schedule=schedule, seed=7)
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def bf16_loss(strategy):
    model = GPT(GPTConfig(V, T, 2, 2, 12), torch.Generator().manual_seed(1))
    kw = {"n_steps": N_STEPS, "schedule": schedule, "strategy": strategy, "precision": "bf16"}
    result = train_distributed(model, CausalObjective(), batches, **kw)
    kept = {whole(p).dtype for p in model.parameters()}
    return [row["loss"] for row in result["history"]], kept == {torch.float32}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bf16_keeps_weights_in_fp32_and_is_near_one_process(strategy):
    model = GPT(GPTConfig(V, T, 2, 2, 12), torch.Generator().manual_seed(1))
    kw = {"n_steps": N_STEPS, "schedule": schedule, "precision": "bf16"}
    alone = [r["loss"] for r in train(model, CausalObjective(), batches, **kw)["history"]]
    for losses, kept in in_world(2, bf16_loss, strategy):
        assert kept
        np.testing.assert_allclose(losses, alone, atol=2e-2, rtol=0)


# ---------------------------------------------------------------- PyTorch's own way


def plain_ddp(batch):
    "DDP as its manual has it, for a loss that is a plain mean: rows of one length."
    model = gpt()
    wrapped = nn.parallel.DistributedDataParallel(model)
    rows = rank_rows(batch, *own_rank())
    logits = wrapped(rows["input_ids"])
    nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), rows["input_ids"][:, 1:].flatten()
    ).backward()
    return gradients(model)


def test_rows_of_one_length_give_what_plain_ddp_gives():
    batch = {"input_ids": batches(0)["input_ids"]}
    ours = in_world(2, gradient_of_ranks, gpt, CausalObjective(), batch, "ddp", 1)
    theirs = in_world(2, plain_ddp, batch)
    close(ours[0][0], theirs[0], 1e-12)
