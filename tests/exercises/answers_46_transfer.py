"""Right and wrong answers to the exercises of 46_transfer."""

import math

RIGHT = {
    1: lambda lr, xi, n_blocks: lr * xi ** (n_blocks + 1),
    2: lambda w0, w1: w1 / (w0 + w1),
    3: lambda n1, e1, n2, e2, e: n1 * (e1 / e) ** (math.log(n2 / n1) / math.log(e1 / e2)),
}
WRONG = {
    1: [lambda lr, xi, n_blocks: lr * xi**n_blocks, lambda lr, xi, n_blocks: lr],
    2: [lambda w0, w1: w0 / (w0 + w1), lambda w0, w1: 0.5],
    3: [lambda n1, e1, n2, e2, e: n2 + (n2 - n1) * (e - e2) / (e2 - e1)],
}
