"""Right and wrong answers to the exercises of chapter 08."""

import math


def perplexity(nats_sum, n_tokens):
    return math.exp(nats_sum / n_tokens)


def of_the_sum(nats_sum, n_tokens):
    return math.exp(nats_sum) / n_tokens


def of_bits(nats_sum, n_tokens):
    return 2 ** (nats_sum / n_tokens)


def the_mean(nats_sum, n_tokens):
    return nats_sum / n_tokens


def count(config):
    c = config
    block = 12 * c.n_embd**2 + 13 * c.n_embd
    return (c.vocab_size + c.block_size + 2) * c.n_embd + c.n_layer * block


def head_twice(config):
    return count(config) + config.vocab_size * config.n_embd


def without_biases(config):
    c = config
    return (c.vocab_size + c.block_size) * c.n_embd + 12 * c.n_layer * c.n_embd**2


def min_p(probabilities, share):
    kept = probabilities * (probabilities >= share * probabilities.max(-1, keepdim=True).values)
    return kept / kept.sum(-1, keepdim=True)


def absolute(probabilities, share):
    kept = probabilities * (probabilities >= share)
    return kept / kept.sum(-1, keepdim=True)


def not_normalised(probabilities, share):
    return probabilities * (probabilities >= share * probabilities.max(-1, keepdim=True).values)


def flattened(probabilities, share):
    kept = probabilities >= share * probabilities.max(-1, keepdim=True).values
    return kept / kept.sum(-1, keepdim=True)


RIGHT = {1: perplexity, 2: count, 3: min_p}
WRONG = {
    1: [of_the_sum, of_bits, the_mean],
    2: [head_twice, without_biases],
    3: [absolute, not_normalised, flattened],
}
