"""Right and wrong answers to the exercises of chapter 10; a test demands that each check tells them apart."""

import math

import numpy as np
import torch


def token_mean(means, counts):
    return sum(m * n for m, n in zip(means, counts, strict=True) if n) / sum(counts)


def mean_of_means(means, counts):
    return sum(means) / len(means)


def mean_of_means_without_empty(means, counts):
    kept = [m for m, n in zip(means, counts, strict=True) if n]
    return sum(kept) / len(kept)


def nan_spreads(means, counts):
    return sum(m * n for m, n in zip(means, counts, strict=True)) / sum(counts)


def trunk_and_decays(lengths, share):
    decays = [int(share * n) for n in lengths]
    trunk = max((n - d for n, d in zip(lengths, decays, strict=True)), default=0)
    return sum(lengths), trunk + sum(decays)


def only_the_longest(lengths, share):
    return sum(lengths), max(lengths, default=0)


def trunk_of_the_whole_length(lengths, share):
    return sum(lengths), max(lengths, default=0) + sum(int(share * n) for n in lengths)


def decays_forgotten(lengths, share):
    return sum(lengths), max((n - int(share * n) for n in lengths), default=0)


def blocks(tokens, places):
    return torch.from_numpy(np.asarray(tokens)[places[:, None] + np.arange(8)])


def pure(tokens, step, seed):
    return blocks(tokens, np.random.default_rng([seed, step]).integers(0, len(tokens) - 7, 4))


def sum_of_seeds(tokens, step, seed):
    return blocks(tokens, np.random.default_rng(seed + step).integers(0, len(tokens) - 7, 4))


def ignores_the_step(tokens, step, seed):
    return blocks(tokens, np.random.default_rng(seed).integers(0, len(tokens) - 7, 4))


def global_stream(tokens, step, seed):
    return blocks(tokens, torch.randint(len(tokens) - 7, (4,)).numpy())


def reseeds_the_global_stream(tokens, step, seed):
    torch.manual_seed(1000 * seed + step)
    return blocks(tokens, torch.randint(len(tokens) - 7, (4,)).numpy())


def single_tokens(tokens, step, seed):
    return torch.from_numpy(np.random.default_rng([seed, step]).choice(tokens, (4, 8)))


RIGHT = {1: token_mean, 2: trunk_and_decays, 3: pure}
WRONG = {
    1: [mean_of_means, mean_of_means_without_empty, nan_spreads, math.nan],
    2: [only_the_longest, trunk_of_the_whole_length, decays_forgotten, 220],
    3: [
        sum_of_seeds,
        ignores_the_step,
        global_stream,
        reseeds_the_global_stream,
        single_tokens,
    ],
}
