"""The order of chapters, from the names of the artifacts they take and make."""

from graphlib import CycleError, TopologicalSorter

from llmchain.workbench.contract import Chapter, ContractError


def makers(chapters: dict[str, Chapter]) -> dict[str, str]:
    """Artifact -> id of the chapter that makes it; ContractError if two make the same."""
    found: dict[str, str] = {}
    problems = []
    for chapter in chapters.values():
        for name in chapter.makes:
            if name in found:
                problems.append(f"{chapter.id}: `{name}` is already made by {found[name]}")
            found[name] = chapter.id
    if problems:
        raise ContractError(problems)
    return found


def dependencies(chapters: dict[str, Chapter]) -> dict[str, set[str]]:
    """Chapter -> the chapters whose artifacts it needs; ContractError if one is made by nobody."""
    by_artifact = makers(chapters)
    missing = [
        f"{c.id}: needs `{name}`, which no chapter makes"
        for c in chapters.values()
        for name in c.needs
        if name not in by_artifact
    ]
    if missing:
        raise ContractError(missing)
    return {c.id: {by_artifact[name] for name in c.needs} for c in chapters.values()}


def order(chapters: dict[str, Chapter]) -> list[str]:
    """Ids so that makers come before takers; among equals, reading order. ContractError: a cycle."""
    graph = dependencies(chapters)
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        raise ContractError(f"cycle of artifacts: {' → '.join(error.args[1])}") from None
    done: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        done += ready
        sorter.done(*ready)
    return done


def upstream(selected: list[str], chapters: dict[str, Chapter]) -> list[str]:
    """The selected chapters and all they rest on, in order."""
    graph = dependencies(chapters)
    wanted, stack = set(), list(selected)
    while stack:
        if (current := stack.pop()) not in wanted:
            wanted.add(current)
            stack += graph[current]
    return [c for c in order(chapters) if c in wanted]
