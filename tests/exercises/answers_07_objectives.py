"""Answers to the exercises of chapter 07: right ones and the mistakes people make."""

import math

import torch

RIGHT = {
    1: lambda z: -torch.ones_like(z),
    2: lambda nats, n_tokens, n_bytes: (
        math.exp(nats / n_tokens),
        nats / math.log(2) / n_bytes,
    ),
    3: lambda sums, counts: sum(sums) / max(1, sum(counts)),
}
WRONG = {
    1: [
        lambda z: -z,
        lambda z: z.sigmoid() - 1,  # the gradient of the right loss
        lambda z: torch.ones_like(z),
        lambda z: -1.0,
    ],
    2: [
        lambda nats, t, b: (math.exp(nats / t), nats / b),  # nats, not bits
        lambda nats, t, b: (math.exp(nats / t), nats / math.log(2) / t),  # per token
        lambda nats, t, b: (2 ** (nats / t), nats / math.log(2) / b),
    ],
    3: [
        lambda sums, counts: sum(s / max(1, c) for s, c in zip(sums, counts)) / len(sums),  # noqa: B905
        lambda sums, counts: sum(sums) / len(sums),
        lambda sums, counts: sum(sums),
    ],
}
