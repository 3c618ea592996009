"""Formulas of scaling against counters, known laws, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.pretrain.gpt import GPT, GPTConfig
from llmchain.pretrain.objectives import CausalObjective
from llmchain.pretrain.scaling import (
    HARDWARE,
    ScalingLaw,
    WidthGPT,
    best_rate,
    bootstrap_laws,
    buy,
    compute_optimal,
    config_of_size,
    find_hardware,
    fit_scaling_law,
    fold_vocabulary,
    gpt_parameters,
    mean_squared_norm,
    noise_scale,
    part_gradients,
    plan_parallelism,
    predicted_interval,
    rate_for_width,
    training_bill,
    training_flops,
    training_memory,
    width_groups,
)
from llmchain.pretrain.training import inner_matrices

LAW = ScalingLaw(floor=2.0, scale=30.0, exponent=0.35)
SIZES = np.array([1e4, 3e4, 1e5, 3e5, 1e6])
NARROW = GPTConfig(2048, 64, 2, 4, 64)  # the loss is its summit
WIDE = GPTConfig(256, 16, 2, 4, 256)  # the state is
DEEP = GPTConfig(256, 64, 8, 4, 64)  # the activations are


def noisy_losses(n_seeds=3, spread=0.003, seed=0):
    luck = np.random.default_rng(seed).normal(0, spread, (len(SIZES), n_seeds))
    return LAW.loss(SIZES)[:, None] * np.exp(luck)


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def test_the_summit_is_one_and_not_the_sum_of_all():
    for config in (NARROW, WIDE, DEEP):
        parts = training_memory(config, 8)
        assert parts["peak"] == sum(v for k, v in parts.items() if k != "peak")
        n = sum(gpt_parameters(config).values())
        full = parts["gradients"] == 4 * n
        assert full == (parts["activations"] == 0), "gradients and activations never meet in full"


def test_state_alone_is_sixteen_bytes_a_parameter():
    n = sum(gpt_parameters(WIDE).values())
    assert training_memory(WIDE, 1)["peak"] == 16 * n


def test_a_wide_vocabulary_costs_sixteen_bytes_a_logit():
    more = GPTConfig(4096, 64, 2, 4, 64)
    grown = training_memory(more, 8)["work"] - training_memory(NARROW, 8)["work"]
    assert grown == 16 * 2048 * 8 * 64


def test_what_saves_memory_saves_only_its_own_part():
    whole = training_memory(DEEP, 16)
    half = training_memory(DEEP, 16, precision="bf16")
    assert half["weights"] == whole["weights"] and half["work"] == whole["work"]
    scores = DEEP.n_layer * 16 * DEEP.block_size * DEEP.n_head  # one row of weights each
    table = scores * (2 * DEEP.block_size - 4)  # bytes: the weights instead of their logsumexp
    assert half["activations"] - table < 0.65 * whole["activations"] < half["activations"]
    again = training_memory(DEEP, 16, checkpointing=True)
    assert again["moments"] == whole["moments"]
    assert again["activations"] < 0.3 * whole["activations"]
    muon = training_memory(DEEP, 16, optimizer="muon")
    saved = 4 * gpt_parameters(DEEP)["matrices"]
    assert whole["moments"] - muon["moments"] == saved


def test_shards_divide_the_state_and_not_the_activations():
    one, four = training_memory(DEEP, 16), training_memory(DEEP, 16, n_shards=4)
    assert one["weights"] == 4 * four["weights"] and one["moments"] == 4 * four["moments"]
    assert one["activations"] == four["activations"]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"n_rows": 0}, "n_rows must be at least 1, got 0"),
        ({"n_tokens": 65}, "n_tokens must be from 1 to 64, got 65"),
        ({"precision": "fp8"}, "precision must be one of: fp32, bf16; got fp8"),
        ({"optimizer": "sgd"}, "optimizer must be one of: adamw, muon; got sgd"),
        ({"n_shards": 0}, "n_shards must be at least 1, got 0"),
    ],
)
def test_memory_refuses_what_cannot_be_meant(how, told):
    with pytest.raises(ValueError, match=told) as error:
        training_memory(DEEP, **{"n_rows": 2} | how)
    assert "\n" not in str(error.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ValueError, match="n_rows.*n_shards.*precision"):
        training_memory(DEEP, 0, precision="x", n_shards=-1)


def test_flops_refuse_rows_that_are_too_long():
    with pytest.raises(ValueError, match="n_tokens from 1 to block_size"):
        training_flops(DEEP, 1, 65)


# ── learning rate ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_must_be_one(lr):
    with pytest.raises(ValueError, match="lr must be finite and above 0"):
        rate_for_width(lr, 64, 32)
    with pytest.raises(ValueError, match="rates above 0"):
        best_rate([lr, 1e-3, 1e-2], [1.0, 1.0, 1.0])


def test_the_rate_of_hidden_matrices_falls_with_the_width():
    assert rate_for_width(1e-2, 128, 32) == pytest.approx(2.5e-3)
    model = WidthGPT(GPTConfig(50, 8, 2, 4, 64), 32)
    groups = width_groups(model, 32, weight_decay=0.1)
    inner = {id(p) for p in inner_matrices(model)}
    for group in groups:
        hidden = {id(p) in inner for p in group["params"]}
        assert len(hidden) == 1 and group.get("rate", 1.0) == (0.5 if hidden == {True} else 1.0)
    counted = sum(len(g["params"]) for g in groups)
    assert counted == len(list(model.parameters())), "each parameter is in one group"


def test_one_step_carries_every_width_equally_far():
    """The derivation itself: the change of Wx in one step of Adam does not depend on the width."""
    moved = []
    for width in (64, 256, 1024):
        rate = rate_for_width(1e-3, width, 64)
        x = torch.randn(width, generator=torch.Generator().manual_seed(0))
        step = torch.ones(width, 1).sign() * x.sign()[None]  # Adam's first step is a sign
        moved.append(float((rate * step @ x).abs().mean()))
    assert max(moved) / min(moved) < 1.2


def test_at_the_base_width_nothing_changes():
    config = GPTConfig(50, 8, 2, 4, 32)
    ids = torch.arange(8)[None]
    ours = WidthGPT(config, 32, torch.Generator().manual_seed(3))
    assert torch.equal(ours(ids), GPT(config, torch.Generator().manual_seed(3))(ids))


@pytest.mark.parametrize("width", [64, 256])
def test_the_start_of_hidden_matrices_has_the_gain_that_is_asked_for(width):
    config = GPTConfig(50, 8, 2, 4, width)
    plain, loud = WidthGPT(config, 16), WidthGPT(config, 16, gain=1.0)
    for model, gain in ((plain, 0.02 * 16**0.5), (loud, 1.0)):
        deviation = model.blocks[0].attention.qkv.weight.std().item()
        assert deviation * width**0.5 == pytest.approx(gain, rel=0.05)
    assert torch.equal(plain.token_embedding.weight, loud.token_embedding.weight)


def test_logits_are_divided_by_the_width():
    config = GPTConfig(50, 8, 1, 4, 64)
    model = WidthGPT(config, 16)
    hidden = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(4 * model.logits(hidden), GPT.logits(model, hidden))


@settings(max_examples=30, deadline=None)
@given(st.floats(-1.9, 1.9), st.floats(0.01, 3.0))
def test_the_vertex_of_a_parabola_is_found(place, steepness):
    rates = 2.0 ** np.arange(-3, 4)
    losses = steepness * (np.log2(rates) - place) ** 2 + 1
    assert best_rate(rates, losses) == pytest.approx(2.0**place, rel=1e-6)


def test_runs_that_diverged_are_never_best():
    assert best_rate([1, 2, 4], [0.5, 0.6, math.nan]) == 1
    assert best_rate([1, 2, 4], [math.inf, 0.6, 0.9]) == 2
    with pytest.raises(ValueError, match="every run diverged"):
        best_rate([1, 2, 4], [math.nan] * 3)


# ── noise ───────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 100), st.floats(0.1, 100), st.integers(1, 50), st.integers(1, 50))
def test_the_identity_is_inverted(signal, noise, small, more):
    large = small + more
    found = noise_scale(signal + noise / small, signal + noise / large, small, large)
    assert found == pytest.approx((signal, noise, noise / signal), rel=1e-6)


def test_pure_noise_has_no_scale():
    assert noise_scale(1.0, 0.25, 1, 4)[2] == math.inf


def test_the_two_sizes_must_differ():
    with pytest.raises(ValueError, match="n_small < n_large, got 4 and 2"):
        noise_scale(1.0, 2.0, 4, 2)
    with pytest.raises(ValueError, match="n_joined must be from 1 to 3, got 4"):
        mean_squared_norm(torch.ones(3, 2), 4)
    with pytest.raises(ValueError, match="n_parts must divide the batch's 4, got 3"):
        part_gradients(GPT(NARROW), CausalObjective(), {"input_ids": torch.zeros(4, 8).long()}, 3)


def test_gradients_of_rows_average_to_that_of_the_batch():
    model = GPT(GPTConfig(19, 12, 1, 2, 16)).double()
    ids = torch.randint(19, (4, 12), generator=torch.Generator().manual_seed(0))
    rows = part_gradients(model, CausalObjective(), {"input_ids": ids}, 4)
    pairs = part_gradients(model, CausalObjective(), {"input_ids": ids}, 2)
    torch.testing.assert_close(rows[:2].mean(0), pairs[0], atol=1e-12, rtol=0)
    loss = CausalObjective().sums(model, {"input_ids": ids})["clm"] / (4 * 11)
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(rows.mean(0), whole, atol=1e-12, rtol=0)
    assert mean_squared_norm(rows, 4) == pytest.approx(float(whole.square().sum()), rel=1e-9)


# ── the law ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exponent", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("floor", [0.5, 2.0])
def test_a_known_law_is_recovered(exponent, floor):
    truth = ScalingLaw(floor, 1.5 * 1e4**exponent, exponent)
    found = fit_scaling_law(SIZES, truth.loss(SIZES))
    assert found.exponent == pytest.approx(exponent, rel=0.02)
    assert found.floor == pytest.approx(floor, rel=0.02)


def test_a_straight_line_has_no_floor():
    truth = ScalingLaw(0.0, 8.0, 0.07)
    found = fit_scaling_law(SIZES, truth.loss(SIZES), with_floor=False)
    assert found.floor == 0.0 and found.exponent == pytest.approx(0.07, rel=1e-4)


def test_one_bad_run_does_not_turn_the_law():
    losses = np.tile(LAW.loss(SIZES)[:, None], 3)
    losses[2, 0] *= 1.2
    assert fit_scaling_law(SIZES, losses).exponent == pytest.approx(0.35, abs=0.02)


def test_order_of_sizes_and_seeds_does_not_matter():
    losses = noisy_losses()
    turned = fit_scaling_law(SIZES[::-1], losses[::-1, ::-1])
    assert turned.exponent == pytest.approx(fit_scaling_law(SIZES, losses).exponent, rel=1e-3)


def test_a_law_is_refused_without_enough():
    with pytest.raises(ValueError, match="at least 3 different sizes, got 2"):
        fit_scaling_law([1e4, 1e5, 1e5], [3.0, 2.0, 2.0])
    with pytest.raises(ValueError, match="those of size 30000 are not"):
        fit_scaling_law(SIZES[:3], [3.0, math.inf, 2.0])
    with pytest.raises(ValueError, match="3 sizes and 2 rows"):
        fit_scaling_law(SIZES[:3], [3.0, 2.0])
    with pytest.raises(ValueError, match="sizes must be finite and above 0"):
        fit_scaling_law([0.0, 1e3, 1e4], [3.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        bootstrap_laws(SIZES, noisy_losses(1), 3, np.random.default_rng(0))


def test_every_resample_keeps_every_size():
    """Seeds are drawn, not sizes: without noise every resample is the same law."""
    losses = np.tile(LAW.loss(SIZES)[:, None], 3)
    laws = bootstrap_laws(SIZES, losses, 5, np.random.default_rng(0))
    assert all(found.exponent == pytest.approx(0.35, rel=1e-3) for found in laws)


def test_the_interval_holds_the_truth_and_grows_with_luck():
    losses = noisy_losses()
    laws = bootstrap_laws(SIZES, losses, 20, np.random.default_rng(0))
    residuals = np.random.default_rng(1).normal(0, 0.003, 15)
    low, high = predicted_interval(laws, residuals, 3e6, np.random.default_rng(2))
    assert low < LAW.loss(3e6) < high
    wide = predicted_interval(laws, 10 * residuals, 3e6, np.random.default_rng(2))
    assert wide[1] - wide[0] > 2 * (high - low)


# ── money and devices ───────────────────────────────────────────────────────────────────────────


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 1e9), st.sampled_from(sorted(HARDWARE)), st.floats(0.05, 1.0))
def test_the_bill_of_what_was_bought_is_the_budget(budget, name, mfu):
    got = buy(budget, HARDWARE[name], mfu)
    bill = training_bill(got["parameters"], got["tokens"], HARDWARE[name], mfu)
    assert bill["dollars"] == pytest.approx(budget, rel=1e-9)
    assert bill["flops"] == pytest.approx(got["flops"], rel=1e-9)


def test_hours_are_those_at_the_rate_that_is_reached():
    bill = training_bill(1e9, 20e9, HARDWARE["A100 80GB"], mfu=0.5, price=2.0)
    assert bill["hours"] == pytest.approx(1.2e20 / 156e12 / 3600)
    assert bill["dollars"] == pytest.approx(2 * bill["hours"])


@pytest.mark.parametrize("budget", [0, -5, math.nan, math.inf])
def test_a_budget_must_be_one(budget):
    with pytest.raises(ValueError, match="budget must be finite and above 0"):
        buy(budget, HARDWARE["L4"])
    with pytest.raises(ValueError, match="flops must be finite and above 0"):
        compute_optimal(budget)


def test_nobody_reaches_more_than_the_peak():
    with pytest.raises(ValueError, match="mfu must be at most 1, got 40"):
        training_bill(1e9, 2e10, HARDWARE["L4"], mfu=40)


def test_an_unknown_device_is_told_the_nearest():
    with pytest.raises(ValueError, match="no `RTX4090`; did you mean `RTX 4090`"):
        find_hardware("RTX4090")


@pytest.mark.parametrize("n", [1e8, 1e9, 7e9, 70e9])
def test_a_shape_has_the_size_that_was_asked_for(n):
    assert gpt_parameters(config_of_size(n))["matrices"] == pytest.approx(n, rel=0.06)


def test_ddp_if_it_fits_else_fsdp_then_tensor_then_pipeline():
    h100 = HARDWARE["H100 SXM"]

    def method(n, devices, tokens):
        return plan_parallelism(config_of_size(n), h100, devices, tokens)["method"]

    assert method(1e9, 1, 4e6) == "one device"
    assert method(1e9, 8, 4e6) == "DDP"
    assert method(7e9, 8, 4e6) == "FSDP"
    assert method(70e9, 1024, 4e6) == "FSDP + tensor"
    assert method(70e9, 8192, 4e6) == "FSDP + tensor + pipeline"
    with pytest.raises(ValueError, match="does not fit"):
        plan_parallelism(config_of_size(70e9), HARDWARE["L4"], 4, 4e6)


def test_groups_are_just_large_enough_for_the_wire():
    plan = plan_parallelism(config_of_size(70e9), HARDWARE["H100 SXM"], 2048, 4e6)
    reached = plan["tokens"] * plan["tensor"] * plan["pipeline"]
    assert reached >= plan["needed"] > reached / 2


# ── data ────────────────────────────────────────────────────────────────────────────────────────


def test_folding_keeps_the_common_and_joins_the_rare():
    counted = np.array([5] * 4 + [9] * 3 + [2] * 2 + [7])
    folded = fold_vocabulary(np.array([5, 9, 2, 7, 1]), counted, 3)
    assert folded.tolist() == [0, 1, 2, 2, 2] and folded.dtype == np.uint16
    with pytest.raises(ValueError, match="n_known must be at least 2, got 1"):
        fold_vocabulary(counted, counted, 1)


def test_every_row_of_the_hardware_names_a_dated_source():
    for row in HARDWARE.values():
        assert "20" in row.source and row.link >= row.network, row.name
    assert HARDWARE["H100 SXM"].peak == 989e12, "dense; with sparsity it would be twice that"
