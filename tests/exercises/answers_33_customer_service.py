"""Right and wrong answers to the exercises of 33_customer_service."""


def precision(refused, inside):
    return float((refused & ~inside).sum() / refused.sum()) if refused.any() else 1.0


def recall_instead(refused, inside):
    return float((refused & ~inside).sum() / (~inside).sum())


def divides_by_one(refused, inside):
    return float((refused & ~inside).sum() / max(1, refused.sum()))


RIGHT = {1: 8 / 9, 2: precision, 3: "too low"}
WRONG = {
    1: [1 / 9, 0.9, 9, "8/9"],
    2: [recall_instead, divides_by_one],
    3: ["too high", "the same", "lower"],
}
