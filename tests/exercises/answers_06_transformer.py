"""Right and wrong answers to the exercises of chapter 06."""

import torch


def window(n_queries, n_keys, width):
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool).tril(n_keys - n_queries)
    return causal.triu(n_keys - n_queries - width + 1)


def one_too_many(n_queries, n_keys, width):
    return window(n_queries, n_keys, width + 1)


def both_directions(n_queries, n_keys, width):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).triu(1 - width)


def from_the_first_key(n_queries, n_keys, width):
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril().triu(1 - width)


def alibi(n_head, n_tokens):
    slopes = 2.0 ** (-8 * torch.arange(1, n_head + 1) / n_head)
    places = torch.arange(n_tokens)
    distance = (places[:, None] - places).clamp(min=0)
    return -slopes[:, None, None] * distance


def both_sides(n_head, n_tokens):
    slopes = 2.0 ** (-8 * torch.arange(1, n_head + 1) / n_head)
    places = torch.arange(n_tokens)
    return -slopes[:, None, None] * (places[:, None] - places).abs()


def first_slope_one(n_head, n_tokens):
    return alibi(n_head, n_tokens) * 2.0 ** (8 / n_head)


def positive(n_head, n_tokens):
    return -alibi(n_head, n_tokens)


RIGHT = {1: 1 / 8, 2: window, 3: alibi}
WRONG = {
    1: [1.0, 8, 1 / 64, "one eighth"],
    2: [one_too_many, both_directions, from_the_first_key],
    3: [both_sides, first_slope_one, positive],
}
