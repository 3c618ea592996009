"""Right and wrong answers to the exercises of chapter 40; a test demands that each check tells them apart."""

import torch


def on_a_ring(n_parameters, n_ranks, strategy):
    return {"ddp": 2, "fsdp": 3}[strategy] * (n_ranks - 1) / n_ranks * n_parameters


def one_operation(n_parameters, n_ranks, strategy):
    return (n_ranks - 1) / n_ranks * n_parameters


def gathered_once(n_parameters, n_ranks, strategy):
    return 2 * (n_ranks - 1) / n_ranks * n_parameters


def to_everybody(n_parameters, n_ranks, strategy):
    return {"ddp": 1, "fsdp": 1.5}[strategy] * (n_ranks - 1) * n_parameters


def shares(means, counts):
    total = sum(counts)
    return [len(means) * m * n / total if n else 0.0 for m, n in zip(means, counts, strict=True)]


def own_means(means, counts):
    return means


def not_multiplied(means, counts):
    return [s / len(means) for s in shares(means, counts)]


def nan_handed_in(means, counts):
    return [len(means) * m * n / sum(counts) for m, n in zip(means, counts, strict=True)]


def same_for_all(means, counts):
    return [sum(shares(means, counts)) / len(means)] * len(means)


def by_the_whole(pieces, limit):
    norm = sum(float(p.norm()) ** 2 for p in pieces) ** 0.5
    return [p * (limit / norm) if norm > limit else p for p in pieces]


def by_their_own(pieces, limit):
    return [p * min(1.0, limit / float(p.norm())) for p in pieces]


def sum_of_norms(pieces, limit):
    norm = sum(float(p.norm()) for p in pieces)
    return [p * min(1.0, limit / norm) for p in pieces]


def always_scaled(pieces, limit):
    norm = float(torch.cat(pieces).norm())
    return [p * (limit / norm) for p in pieces]


RIGHT = {1: on_a_ring, 2: shares, 3: by_the_whole}
WRONG = {
    1: [one_operation, gathered_once, to_everybody, 2400],
    2: [own_means, not_multiplied, nan_handed_in, same_for_all, [1.0, 6.0]],
    3: [by_their_own, sum_of_norms, always_scaled, 1.0],
}
