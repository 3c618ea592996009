"""Answers to the exercises of chapter 43_fetch: each RIGHT must pass, each WRONG must not."""


def waits(pause, retries, asked, most):
    found = []
    for n in range(retries):
        if asked[n] > most:
            return found
        found.append(max(asked[n], min(pause * 2**n, most)))
    return found


def deaf(pause, retries, asked, most):
    return [min(pause * 2**n, most) for n in range(retries)]


def impatient(pause, retries, asked, most):
    return [max(min(asked[n], most), min(pause * 2**n, most)) for n in range(retries)]


def obedient(pause, retries, asked, most):
    return [asked[n] or min(pause * 2**n, most) for n in range(retries) if asked[n] <= most]


def decide(rules, path):
    found = [(len(prefix), ok) for prefix, ok in rules if path.startswith(prefix)]
    return max(found)[1] if found else True


def first_rule(rules, path):
    return next((ok for prefix, ok in rules if path.startswith(prefix)), True)


def any_no(rules, path):
    return not any(path.startswith(prefix) and not ok for prefix, ok in rules)


def no_default(rules, path):
    found = [(len(prefix), ok) for prefix, ok in rules if path.startswith(prefix)]
    return max(found, default=(0, False))[1]


def first_of_longest(rules, path):
    found = [(prefix, ok) for prefix, ok in rules if path.startswith(prefix)]
    return max(found, key=lambda rule: len(rule[0]))[1] if found else True


def follow(moved, start, most):
    here, seen = start, {start}
    for _ in range(most):
        if here not in moved:
            return here
        here = moved[here]
        if here in seen:
            return "loop"
        seen.add(here)
    return "too many" if here in moved else here


def no_memory(moved, start, most):
    here = start
    for _ in range(most):
        here = moved.get(here, here)
    return "too many" if here in moved else here


def back_to_the_start(moved, start, most):
    here = start
    for _ in range(most):
        if here not in moved:
            return here
        here = moved[here]
        if here == start:
            return "loop"
    return "too many" if here in moved else here


def one_less(moved, start, most):
    return follow(moved, start, most - 1)


RIGHT = {1: waits, 2: decide, 3: follow}
WRONG = {
    1: [deaf, impatient, obedient, [1, 2, 4]],
    2: [first_rule, any_no, no_default, first_of_longest, "/a"],
    3: [no_memory, back_to_the_start, one_less],
}
