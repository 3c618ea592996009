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


RIGHT = {1: is_permissive, 2: 9, 3: stays_inside}
WRONG = {1: [any_named, all_named, "MIT"], 2: [6, 10, "9"], 3: [no_dots, ends_inside]}
