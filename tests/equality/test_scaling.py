"""Formulas next to counters: operations that ran, bytes that were given out, a noise that is known."""

import pytest
import torch
from scipy.optimize import curve_fit
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmchain.pretrain.gpt import GPT, GPTConfig
from llmchain.pretrain.objectives import CausalObjective
from llmchain.pretrain.scaling import (
    ScalingLaw,
    activation_memory,
    fit_scaling_law,
    gpt_parameters,
    mean_squared_norm,
    noise_scale,
    training_flops,
)
from llmchain.pretrain.training import backward_batch, make_optimizer, mixed_precision, train_step

SIZES = [(11, 5, 1, 1, 8), (97, 24, 2, 4, 32), (300, 64, 5, 3, 96)]


@pytest.mark.parametrize("sizes", SIZES)
def test_parameters_by_formula_are_those_there_are(sizes):
    config = GPTConfig(*sizes)
    model = GPT(config)
    assert sum(gpt_parameters(config).values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("n_tokens", [2, 5])
def test_operations_by_formula_are_those_that_ran(sizes, n_tokens):
    config = GPTConfig(*sizes)
    batch = {"input_ids": torch.zeros(3, n_tokens, dtype=torch.long)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        backward_batch(GPT(config), CausalObjective(), batch)
    assert counter.get_total_flops() == training_flops(config, 3, n_tokens)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_keeps_the_bytes_of_the_formula(precision):
    """What autograd saves in a block, each storage once: the difference of two depths."""

    def saved(n_layer):
        config = GPTConfig(64, 64, n_layer, 4, 128)
        model = GPT(config)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept = {}

        def pack(tensor):
            if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        ids = torch.zeros(4, 64, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            with mixed_precision(precision, "cpu"):
                CausalObjective().sums(model, {"input_ids": ids})
        return sum(t.untyped_storage().nbytes() for t in kept.values()), config

    (two, config), (three, _) = saved(2), saved(3)
    copies = 2 * 12 * 128**2 if precision == "bf16" else 0
    expected = activation_memory(config, 4, 64, precision)["block"]
    assert three - two - copies == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("muon", [0.0, 2.0])
def test_moments_are_as_many_as_the_formula_says(muon):
    from llmchain.pretrain.scaling import training_memory

    config = GPTConfig(97, 24, 2, 4, 32)
    model = GPT(config)
    optimizer = make_optimizer(model, 0.1, (0.9, 0.95), muon)
    batch = {"input_ids": torch.zeros(2, 24, dtype=torch.long)}
    train_step(model, optimizer, CausalObjective(), batch, 1e-3)
    tensors = [t for s in optimizer.state.values() for t in s.values() if t.ndim]
    real = sum(t.untyped_storage().nbytes() for t in tensors)
    name = "muon" if muon else "adamw"
    assert training_memory(config, 2, optimizer=name)["moments"] == real


def test_the_noise_of_a_gaussian_is_found():
    """Rows drawn around a known gradient: |G|² and tr Σ are known, not estimated."""
    generator = torch.Generator().manual_seed(0)
    true = torch.full((50,), 0.4, dtype=torch.float64)
    rows = true + 2 * torch.randn(4096, 50, generator=generator, dtype=torch.float64)
    signal, noise, scale = noise_scale(*(mean_squared_norm(rows, n) for n in (4, 256)), 4, 256)
    assert signal == pytest.approx(float(true.square().sum()), rel=0.1)
    assert noise == pytest.approx(4 * 50, rel=0.05)
    assert scale == pytest.approx(200 / 8, rel=0.1)


def test_the_fit_agrees_with_scipys_curve_fit():
    import numpy as np

    sizes = np.geomspace(1e4, 1e7, 8)
    law = ScalingLaw(1.8, 40.0, 0.3)
    losses = law.loss(sizes) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 8))
    theirs, _ = curve_fit(
        lambda n, e, a, b: np.log(e + np.exp(a) * n**-b), sizes, np.log(losses), p0=(1.5, 3, 0.2)
    )
    ours = fit_scaling_law(sizes, losses)
    assert ours.exponent == pytest.approx(theirs[2], rel=1e-3)
    assert ours.floor == pytest.approx(theirs[0], rel=1e-3)
