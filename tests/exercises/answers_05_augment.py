"""Answers to the exercises of chapter 05_augment: each RIGHT must pass, each WRONG must not."""


def more_strength(strength, k):
    return strength * (1 + k)


def less_strength(strength, k):
    return strength / (1 + k)


def only_the_copies(strength, k):
    return strength * k


def unchanged(strength, k):
    return strength


def is_no(word):
    return word in ("not", "no", "never") or word.endswith("n't")


def careful(words, alpha, rng):
    return [w for w in words if is_no(w) or rng.random() >= alpha]


def careless(words, alpha, rng):
    return [w for w in words if rng.random() >= alpha]


def nothing(words, alpha, rng):
    return list(words)


def the_other_share(words, alpha, rng):
    return [w for w in words if is_no(w) or rng.random() >= alpha / 2]


def out_of_order(words, alpha, rng):
    kept = careful(words, alpha, rng)
    return sorted(kept)


RIGHT = {1: 1 / 3, 2: more_strength, 3: careful}
WRONG = {
    1: [0.2, 0.25, 0.4, "1/3"],
    2: [less_strength, only_the_copies, unchanged, 5.0],
    3: [careless, nothing, the_other_share, out_of_order],
}
