"""Right and wrong answers to the exercises of 12_classification."""

import math

RIGHT = {
    1: lambda n_positive, n: n / n_positive,
    2: lambda d, q: d / math.log(q / (1 - q)),
    3: 6,
}
WRONG = {
    1: [lambda n_positive, n: n_positive / n, lambda n_positive, n: 1.0],
    2: [lambda d, q: d / q, lambda d, q: math.log(q / (1 - q)) / d],
    3: [5, 7, 20],
}
