"""Right and wrong answers to the exercises of 14_translation."""

import math

RIGHT = {
    1: lambda labels, start: [start, *labels[:-1]],
    2: lambda a, m, b, n: math.log(b / a) / math.log(n / m),
    3: (["a b c d", "x x x x x x x x"], ["a b c d", "y y y y y y y y"]),
}
WRONG = {
    1: [lambda labels, start: labels, lambda labels, start: [start, *labels]],
    2: [lambda a, m, b, n: a / m - b / n, lambda a, m, b, n: math.log(a / b) / math.log(n / m)],
    3: [(["a b c d", "e f g h"], ["a b c d", "e f g h"]), (["a b"], ["a b"])],
}
