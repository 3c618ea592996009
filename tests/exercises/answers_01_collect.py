"""Answers to the exercises of chapter 01_collect: each RIGHT must pass, each WRONG must not."""

OPEN = {"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC"}


def is_permissive(licence):
    return any(set(choice.split(" AND ")) <= OPEN for choice in licence.split(" OR "))


def any_named(licence):
    return any(name in licence for name in OPEN)


def all_named(licence):
    return set(licence.replace(" OR ", " AND ").split(" AND ")) <= OPEN


def stays_inside(path):
    if path.startswith("/"):
        return False
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return False
    return True


def no_dots(path):
    return ".." not in path and not path.startswith("/")


def ends_inside(path):
    parts = path.split("/")
    return not path.startswith("/") and parts.count("..") * 2 <= len(parts)


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


RIGHT = {1: is_permissive, 2: decide, 3: stays_inside}
WRONG = {
    1: [any_named, all_named, "MIT"],
    2: [first_rule, any_no, no_default, first_of_longest, "/a"],
    3: [no_dots, ends_inside],
}
