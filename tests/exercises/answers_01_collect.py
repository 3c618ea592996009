"""Answers to the exercises of chapter 01_collect: each RIGHT must pass, each WRONG must not."""

import ast

OPEN = {"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC"}
KINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_permissive(licence):
    return any(set(choice.split(" AND ")) <= OPEN for choice in licence.split(" OR "))


def any_named(licence):
    return any(name in licence for name in OPEN)


def all_named(licence):
    return set(licence.replace(" OR ", " AND ").split(" AND ")) <= OPEN


def level(sizes, budget):
    taken = []
    for i, size in enumerate(sorted(sizes)):
        taken.append(min(size, (budget - sum(taken)) / (len(sizes) - i)))
    return max(taken)


def equal_shares(sizes, budget):
    return min(max(sizes), budget / len(sizes))


def in_any_order(sizes, budget):
    taken = []
    for i, size in enumerate(sizes):
        taken.append(min(size, (budget - sum(taken)) / (len(sizes) - i)))
    return max(taken)


def documented(source):
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, KINDS)]
    return sum(ast.get_docstring(n) is not None for n in nodes) / len(nodes) if nodes else 1


def top_only(source):
    nodes = [n for n in ast.parse(source).body if isinstance(n, KINDS)]
    return sum(ast.get_docstring(n) is not None for n in nodes) / len(nodes) if nodes else 1


def with_the_module(source):
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (*KINDS, ast.Module))]
    return sum(ast.get_docstring(n) is not None for n in nodes) / len(nodes)


def by_quotes(source):
    n = source.count("def ") + source.count("class ")
    return min(1, source.count("'") / 2 / n) if n else 1


RIGHT = {1: is_permissive, 2: level, 3: documented}
WRONG = {
    1: [any_named, all_named, "MIT"],
    2: [equal_shares, in_any_order, 6],
    3: [top_only, with_the_module, by_quotes],
}
