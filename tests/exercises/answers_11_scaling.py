"""Right and wrong answers to the exercises of chapter 11; a test demands that each check tells them apart."""

import math

import numpy as np


def factor(alpha):
    return 2 ** (1 / alpha)


def factor_upside_down(alpha):
    return 2**alpha


def factor_of_ten(alpha):
    return 10 ** (1 / alpha)


def lifetime(n_parameters, n_tokens, n_served):
    return 6 * n_parameters * n_tokens + 2 * n_parameters * n_served


def served_as_trained(n_parameters, n_tokens, n_served):
    return 6 * n_parameters * (n_tokens + n_served)


def training_alone(n_parameters, n_tokens, n_served):
    return 6 * n_parameters * n_tokens


def best_size(sizes, losses):
    a, b, _ = np.polyfit(np.log(sizes), losses, 2)
    if a <= 0:
        raise ValueError("best_size: no minimum")
    return math.exp(-b / (2 * a))


def lowest_point(sizes, losses):
    return sizes[int(np.argmin(losses))]


def parabola_over_sizes(sizes, losses):
    a, b, _ = np.polyfit(sizes, losses, 2)
    return -b / (2 * a)


def takes_a_maximum(sizes, losses):
    a, b, _ = np.polyfit(np.log(sizes), losses, 2)
    return math.exp(-b / (2 * a))


RIGHT = {1: factor, 2: lifetime, 3: best_size}
WRONG = {
    1: [factor_upside_down, factor_of_ten, 8.0],
    2: [served_as_trained, training_alone, 1e20],
    3: [lowest_point, parabola_over_sizes, takes_a_maximum, 6e6],
}
