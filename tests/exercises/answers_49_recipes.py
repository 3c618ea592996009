"""Right and wrong answers to the exercises of chapter 49; a test demands that each check tells them apart."""

import math

import numpy as np

from llmchain.pretrain.streaming import N_ROUNDS, keyed_order, mixed_bits


def buffered(n, k, rng):
    held, out = list(range(min(k, n))), []
    for window in range(len(held), n):
        chosen = int(rng.integers(len(held)))
        out.append(held[chosen])
        held[chosen] = window
    return [*out, *rng.permutation(held).tolist()]


def first_in_first_out(n, k, rng):
    return list(range(n))


def shuffled_in_blocks(n, k, rng):
    return [i for start in range(0, n, k) for i in start + rng.permutation(min(k, n - start))]


def last_ones_dropped(n, k, rng):
    return buffered(n, k, rng)[: n - k + 1]


def full_shuffle(n, k, rng):
    return rng.permutation(n).tolist() if k > 1 else list(range(n))


def shared(batch_tokens, block_size, before, after):
    step = math.lcm(before, after)
    return batch_tokens // block_size // step * step


def by_the_product(batch_tokens, block_size, before, after):
    step = before * after
    return batch_tokens // block_size // step * step


def of_the_new_alone(batch_tokens, block_size, before, after):
    return batch_tokens // block_size // after * after


def in_tokens(batch_tokens, block_size, before, after):
    step = math.lcm(before, after)
    return batch_tokens // step * step


def place_of(item, n_items, seed, epoch):
    half = max(1, ((n_items - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = np.random.SeedSequence([seed, epoch]).generate_state(N_ROUNDS, np.uint64)
    x = item
    while True:
        left, right = x >> half, x & low
        for key in keys[::-1]:
            bits = mixed_bits(np.array([left], dtype=np.uint64) ^ key)
            left, right = right ^ (int(bits[0]) & low), left
        x = left << half | right
        if x < n_items:
            return x


def without_the_walk(item, n_items, seed, epoch):
    half = max(1, ((n_items - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = np.random.SeedSequence([seed, epoch]).generate_state(N_ROUNDS, np.uint64)
    left, right = item >> half, item & low
    for key in keys[::-1]:
        bits = mixed_bits(np.array([left], dtype=np.uint64) ^ key)
        left, right = right ^ (int(bits[0]) & low), left
    return left << half | right


def forwards(item, n_items, seed, epoch):
    return int(keyed_order(np.array([item]), n_items, seed, epoch)[0])


def epoch_forgotten(item, n_items, seed, epoch):
    return place_of(item, n_items, seed, 0)


RIGHT = {1: buffered, 2: shared, 3: place_of}
WRONG = {
    1: [first_in_first_out, shuffled_in_blocks, last_ones_dropped, full_shuffle, 3],
    2: [by_the_product, of_the_new_alone, in_tokens, 480],
    3: [without_the_walk, forwards, epoch_forgotten, 0],
}
