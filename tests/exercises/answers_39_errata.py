"""Right and wrong answers to the exercises of 39_errata."""

import math


def nsp_loss(p, y):
    return -(y * math.log(p) + (1 - y) * math.log(1 - p))


def article(p, y):
    return -math.log(p / (1 - p))


def wrong_sign(p, y):
    return y * math.log(p) + (1 - y) * math.log(1 - p)


def transposed(p, y):
    return -(y * math.log(1 - p) + (1 - y) * math.log(p))


def mean_loss(sums, counts):
    return sum(sums) / sum(counts)


def mean_of_means(sums, counts):
    return sum(s / c for s, c in zip(sums, counts, strict=True) if c) / len(sums)


RIGHT = {1: -math.log(9), 2: nsp_loss, 3: mean_loss}
WRONG = {
    1: [math.log(9), -math.log(0.9), 0.105, "-2.2"],
    2: [article, wrong_sign, transposed],
    3: [mean_of_means, lambda sums, counts: sum(sums), lambda sums, counts: sum(sums) / len(sums)],
}
