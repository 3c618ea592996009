"""Right and wrong answers to the exercises of 17_preferences."""

import math

RIGHT = {
    1: lambda a, b, beta: 1 / (1 + math.exp(-beta * (a - b))),
    2: lambda labels: sum(
        y != -100 and (i == 0 or labels[i - 1] == -100) for i, y in enumerate(labels)
    ),
    3: lambda p, n: p**n + (1 - p) ** n,
}
WRONG = {
    1: [lambda a, b, beta: 1 / (1 + math.exp(-(a - b))), lambda a, b, beta: math.exp(beta * a)],
    2: [lambda labels: sum(y != -100 for y in labels), lambda labels: labels.count(-100)],
    3: [lambda p, n: (1 - p) ** n, lambda p, n: 1 - p**n - (1 - p) ** n],
}
