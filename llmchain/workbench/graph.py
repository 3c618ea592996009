"""The order of chapters, from the names of the artifacts they take and make."""

from graphlib import CycleError, TopologicalSorter

from llmchain.workbench.contract import Chapter, ContractError, told_together


def makers(chapters: dict[str, Chapter]) -> dict[str, str]:
    """Artifact -> id of the chapter that makes it; ContractError if two make the same."""
    found: dict[str, str] = {}
    with told_together() as problems:
        for chapter in chapters.values():
            for name in chapter.makes:
                if (maker := found.setdefault(name, chapter.id)) != chapter.id:
                    problems.append(f"{chapter.id}: `{name}` is already made by {maker}")
    return found


def dependencies(chapters: dict[str, Chapter]) -> dict[str, set[str]]:
    """Chapter -> the chapters whose artifacts it needs; ContractError if one is made by nobody."""
    maker = makers(chapters)
    needs = [(c.id, name) for c in chapters.values() for name in c.needs]
    with told_together() as problems:
        problems += [
            f"{c}: needs `{n}`, which no chapter makes" for c, n in needs if n not in maker
        ]
    return {c.id: {maker[name] for name in c.needs} for c in chapters.values()}


def order(chapters: dict[str, Chapter]) -> list[str]:
    """Ids so that makers come before takers; among equals, reading order. ContractError: a cycle."""
    sorter = TopologicalSorter(dependencies(chapters))
    try:
        sorter.prepare()
    except CycleError as error:
        raise ContractError(f"cycle of artifacts: {' → '.join(error.args[1])}") from None
    done: list[str] = []
    place = {name: i for i, name in enumerate(chapters)}
    while ready := sorted(sorter.get_ready(), key=place.__getitem__):
        done += ready
        sorter.done(*ready)
    return done


def upstream(selected: list[str], chapters: dict[str, Chapter]) -> list[str]:
    """The selected chapters and all they rest on, in order."""
    graph, ordered, wanted = dependencies(chapters), order(chapters), set(selected)
    for name in reversed(ordered):  # takers before makers
        if name in wanted:
            wanted |= graph[name]
    return [name for name in ordered if name in wanted]
