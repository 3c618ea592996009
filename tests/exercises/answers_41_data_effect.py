"""Right and wrong answers to the exercises of chapter 41."""

import math


def saved(nats_a, nats_b, n_bytes):
    return (nats_a - nats_b) / (n_bytes * math.log(2))


def in_nats(nats_a, nats_b, n_bytes):
    return (nats_a - nats_b) / n_bytes


def other_sign(nats_a, nats_b, n_bytes):
    return -saved(nats_a, nats_b, n_bytes)


def in_all(nats_a, nats_b, n_bytes):
    return (nats_a - nats_b) / math.log(2)


def widths(a, b):
    paired = (a - b).std(ddof=1) / len(a) ** 0.5
    return paired, ((a.var(ddof=1) + b.var(ddof=1)) / len(a)) ** 0.5


def with_n(a, b):
    return (a - b).std() / len(a) ** 0.5, ((a.var() + b.var()) / len(a)) ** 0.5


def exchanged(a, b):
    return widths(a, b)[::-1]


RIGHT = {1: 2 * 1_000_000 / (128 * 16), 2: saved, 3: widths}
WRONG = {
    1: [1_000_000 / (128 * 16), 2_000_000, 0],
    2: [in_nats, other_sign, in_all],
    3: [with_n, exchanged],
}
