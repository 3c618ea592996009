"""Answers to the exercises of chapter 03_deduplicate: each RIGHT must pass, each WRONG must not."""


def containment(a, b):
    return len(a & b) / min(len(a), len(b)) if a and b else 0


def of_the_first(a, b):
    return len(a & b) / len(a) if a else 0


def jaccard(a, b):
    return len(a & b) / len(a | b)


RIGHT = {1: (42, 3), 2: containment, 3: 400}
WRONG = {1: [(25, 5), (64, 2), (50, 3), 3], 2: [of_the_first, jaccard], 3: [399, 1600, 100, "400"]}
