"""Right and wrong answers to the exercises of 48_chinese."""

RIGHT = {
    1: lambda m: m + max(0, m - 1) + max(0, m - 2),
    2: lambda p, a, b: p * b / a / (p * b / a + (1 - p) * (1 - b) / (1 - a)),
    3: lambda s: s / (1 + s),
}
WRONG = {
    1: [lambda m: 3 * m - 3, lambda m: 3 * m],
    2: [lambda p, a, b: p * b / a, lambda p, a, b: p],
    3: [lambda s: 2 * s / (1 + s), lambda s: s / 2],
}
