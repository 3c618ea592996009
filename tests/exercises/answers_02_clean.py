"""Answers to the exercises of chapter 02_clean: each RIGHT must pass, each WRONG must not."""


def has_code(text):
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    code = sum(line.endswith(("{", "}", ";", "):")) for line in lines)
    return bool(lines) and 3 * code >= len(lines)


def any_bracket(text):
    return "{" in text or ";" in text


def counts_blanks(text):
    lines = text.split("\n")
    return 3 * sum(line.endswith(("{", "}", ";", "):")) for line in lines) >= len(lines)


RIGHT = {1: has_code, 2: (0.9, 90 / 140), 3: (0, 9)}
WRONG = {
    1: [any_bracket, counts_blanks],
    2: [(0.9, 0.9), (0.09, 0.64), 0.9],
    3: [(1, 2), (9, 0), 90],
}
