"""What a result depends on, as one hash: code, parameters, inputs, data, packages, device, threads.

Prose, comments, layout and docstrings are not part of it."""

import ast
import functools
import hashlib
import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from llmchain.workbench import catalog
from llmchain.workbench.contract import Chapter, ContractError
from llmchain.workbench.machine import cores, device_class

KEY_VERSION = 1  # raised when a change of the workbench makes earlier results unusable


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all statements in it, without their expressions, which are most of a tree."""
    yield node
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for child in getattr(node, name, []):
            yield from _statements(child)


@functools.cache
def _tree(source: str) -> ast.Module:
    """The syntax tree of a source without docstrings; kept, because a run asks three times."""
    tree = ast.parse(source)
    for node in _statements(tree):
        body = getattr(node, "body", [])
        if len(body) > 1 and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body.pop(0)
    return tree


def normalised(source: str) -> str:
    """The syntax tree of a source without comments, layout and docstrings, as text."""
    return ast.dump(_tree(source))


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names of the modules that a source imports, `from a import b` giving a and a.b.

    `package` is where relative imports start: nbdev writes them into the exported modules."""
    found: set[str] = set()
    for node in _statements(_tree(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@functools.cache
def _module(root: Path, name: str) -> tuple[str, frozenset[str]] | None:
    """Normalised source and imports of a module of ours, or None if `name` is not one."""
    path = root / (name.replace(".", "/") + ".py")
    if not path.is_file():
        return None
    source = path.read_text(encoding="utf-8")
    return normalised(source), frozenset(imports(source, name.rpartition(".")[0]))


def code_of(chapter: Chapter, root: Path) -> tuple[list[str], set[str]]:
    """What the chapter executes, normalised, and what it imports from outside, by dotted names.

    The cells but the parameters (their values are part of the key by themselves) and every module
    of ours they reach; of the workbench only the ledger, which computes results."""
    cells = [c for c in chapter.code if not _is_parameters(c, chapter)]
    parts = [normalised(c) for c in cells]
    pending = sorted(set().union(*(imports(c) for c in cells)))
    seen: set[str] = set()
    outside: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.partition(".")[0] != "llmchain":
            outside.add(name)
        elif not name.startswith("llmchain.workbench") or name == "llmchain.workbench.ledger":
            if found := _module(root, name):
                parts.append(name + found[0])
                pending += sorted(found[1])
    return sorted(parts), outside


def _is_parameters(source: str, chapter: Chapter) -> bool:
    body = _tree(source).body
    names = [
        n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    ]
    return len(names) == len(body) and names == list(chapter.parameters)


@functools.cache
def _packages() -> dict[str, list[str]]:
    """Distributions by the name that is imported; read once, because it takes a second."""
    return dict(metadata.packages_distributions())


@functools.cache
def _versions(packages: frozenset[str]) -> dict[str, str]:
    by_import, versions = _packages(), catalog.installed()
    return {d: versions[d] for p in sorted(packages) for d in sorted(by_import.get(p, []))}


def threads(chapter: Chapter) -> int:
    """Threads a chapter computes with: its share of the cores, so that none is promised twice.

    Two chapters with two threads each on two cores take far longer than one after the other."""
    return {"one": 1, "half": max(1, cores() // 2), "all": cores()}[chapter.cores]


def data_fingerprints(chapter: Chapter, parameters: dict[str, Any]) -> dict[str, str]:
    """What the catalogue's sets of this chapter hold; ContractError if one asked for is not there."""
    found = {}
    wanted = parameters.get("tier", "auto")
    for name in chapter.data:
        entry = catalog.entries().get(name, {})
        explicit = wanted in ("local", "hub") and wanted in entry
        try:
            found[name] = catalog.find(name, wanted if explicit else "auto").fingerprint
        except (FileNotFoundError, ConnectionError, ValueError, KeyError) as error:
            if explicit:
                raise ContractError(f"{chapter.id}: {error}") from None
            found[name] = "absent"
        place = entry.get("embedded", {})
        if wanted in ("embedded", "both") or place.get("kind") == "authored":
            # what is written here may be read beside the local set, as the errata do
            found[name] += catalog.find(name, "embedded").fingerprint if place else ""
    return found


def cache_key(
    chapter: Chapter, parameters: dict[str, Any], inputs: dict[str, str], profile: str, root: Path
) -> str:
    """Hash of everything a chapter's result depends on (DESIGN: code, parameters, inputs, …)."""
    code, outside = code_of(chapter, root)
    depends = {
        "version": KEY_VERSION,
        "code": code,
        "parameters": parameters,
        "profile": profile,  # claims have bounds by profile
        "inputs": inputs,
        "data": data_fingerprints(chapter, parameters),
        "packages": _versions(frozenset(name.partition(".")[0] for name in outside)),
        "python": platform.python_version_tuple()[:2],
        "device": device_class(),
        "threads": threads(chapter),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
