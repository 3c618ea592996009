"""Right and wrong answers to the exercises of 13_entities."""

import numpy as np


def legal_sequences(n, k):
    outside, inside = 1, k
    for _ in range(n - 1):
        outside, inside = outside + inside, k * (outside + inside) + inside
    return outside + inside


def log_sum(x, axis):
    top = x.max(axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis, keepdims=True))).squeeze(axis)


def marginals(emissions, transitions, start, end):
    T, K = emissions.shape
    forward, backward = np.zeros((T, K)), np.zeros((T, K))
    forward[0], backward[-1] = start + emissions[0], end
    for t in range(1, T):
        forward[t] = emissions[t] + log_sum(forward[t - 1][:, None] + transitions, 0)
    for t in range(T - 2, -1, -1):
        backward[t] = log_sum(transitions + emissions[t + 1] + backward[t + 1], 1)
    both = forward + backward
    return np.exp(both - log_sum(both, 1)[:, None])


def forward_only(emissions, transitions, start, end):
    return marginals(emissions, transitions * 0, start * 0, end * 0)


GOLD = ["O", "B-x", "I-x", "I-x", "I-x", "O", "O", "O"]
RIGHT = {
    1: legal_sequences,
    2: ["O", "B-x", "I-x", "I-x", "O", "O", "O", "O"],
    3: marginals,
}
WRONG = {
    1: [lambda n, k: (2 * k + 1) ** n, lambda n, k: (k + 1) ** n],
    2: [GOLD, ["O"] * 8, ["O", "O", "I-x", "I-x", "I-x", "O", "O", "O"], GOLD[:7]],
    3: [forward_only, lambda e, a, s, f: marginals(e, a.T, s, f), lambda e, a, s, f: e[0]],
}
