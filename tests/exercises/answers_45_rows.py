"""Answers to the exercises of chapter 45_rows: each RIGHT must pass, each WRONG must not."""


def n_shards(sizes, limit):
    shards, held = 0, 0
    for size in sizes:
        held += size
        if held >= limit:
            shards, held = shards + 1, 0
    return shards + (held > 0)


def by_division(sizes, limit):
    return -(-sum(sizes) // limit)


def closed_before(sizes, limit):
    shards, held = 0, 0
    for size in sizes:
        if held and held + size > limit:
            shards, held = shards + 1, 0
        held += size
    return shards + (held > 0)


def rest_forgotten(sizes, limit):
    shards, held = 0, 0
    for size in sizes:
        held += size
        if held >= limit:
            shards, held = shards + 1, 0
    return shards


def first_bad(content):
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1


def in_characters(content):
    return content.decode(errors="replace").find("\ufffd")


def not_ascii(content):
    return next((i for i, byte in enumerate(content) if byte > 127), -1)


def merged(a, b):
    end = object()
    x, y = next(a, end), next(b, end)
    while x is not end or y is not end:
        if y is end or (x is not end and x <= y):
            yield x
            x = next(a, end)
        else:
            yield y
            y = next(b, end)


def sorted_list(a, b):
    yield from sorted([*a, *b])


def in_turn(a, b):
    yield from (item for pair in zip(a, b, strict=False) for item in sorted(pair))


RIGHT = {1: n_shards, 2: first_bad, 3: merged}
WRONG = {
    1: [by_division, closed_before, rest_forgotten],
    2: [in_characters, not_ascii],
    3: [sorted_list, in_turn],
}
