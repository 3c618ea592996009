"""The exported functions and classes of a chapter as Markdown, read from its cells.

The comments beside parameters are fastcore's docments. They are read from the source and not from
the imported module, so that a page needs neither torch nor the optional extras of its chapter.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef
HEAD = ["| Name | Type | Default | Meaning |", "|:----|:-----|:---|:----------|"]
LONG = 88  # characters from which a signature takes a line for each parameter


def section(sources: list[str], module: str) -> str:
    "The section on what a chapter exports; empty if that is nothing."
    found = [text for source in sources for text in symbols(source)]
    names = [text.split("`", 2)[1] for text in found]
    index = ", ".join(f"[`{name}`](#api-{name})" for name in names)
    head = ["## Exported functions {#api}", f"From `llmchain.{module}`: {index}."]
    return "\n\n".join(head + found) if found else ""


def symbols(source: str) -> Iterator[str]:
    "One piece of Markdown for each public function and class of a cell."
    notes = {  # line -> the comment at its end
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            call, rows, methods = of_class(node, notes)
        else:
            call, rows, methods = signature(node), docments(node, notes), []
        text = [f"### `{node.name}` {{#api-{node.name}}}", f"```python\n{call}\n```"]
        text += [ast.get_docstring(node) or "", "\n".join(HEAD + rows) if rows else ""]
        yield "\n\n".join([*text, "\n".join(methods)]).strip()


def of_class(node: ast.ClassDef, notes: dict[int, str]) -> tuple[str, list[str], list[str]]:
    "(call, rows of its fields or of `__init__`, a list item for each public method)."
    call, rows, methods = f"class {node.name}", [], []
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            rows.append(row(ast.unparse(part.target), part.annotation, part.value, notes))
        elif isinstance(part, Function) and part.name == "__init__":
            call, rows = f"class {signature(part, node.name)}", docments(part, notes)
        elif isinstance(part, Function) and not part.name.startswith("_"):
            said = (ast.get_docstring(part) or "").partition("\n")[0]
            methods.append(f"- `{' '.join(signature(part).split())}` {said}")
    return call, rows, methods


def parameters(node: Function) -> list[tuple[str, ast.arg | None, ast.expr | None]]:
    "(name with its stars, parameter, default) in the order of the call; `/` and `*` have none."
    a = node.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
    found: list[tuple[str, ast.arg | None, ast.expr | None]]
    found = [(p.arg, p, d) for p, d in zip(plain, defaults, strict=True)]
    if a.posonlyargs:
        found.insert(len(a.posonlyargs), ("/", None, None))
    if a.vararg:
        found.append((f"*{a.vararg.arg}", a.vararg, None))
    elif a.kwonlyargs:
        found.append(("*", None, None))
    found += [(p.arg, p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    if a.kwarg:
        found.append((f"**{a.kwarg.arg}", a.kwarg, None))
    return [entry for entry in found if entry[0] not in ("self", "cls")]


def signature(node: Function, name: str = "") -> str:
    "The call as it is written in a chapter."
    inside = []
    for shown, parameter, default in parameters(node):
        kind = parameter.annotation if parameter else None
        shown += f": {ast.unparse(kind)}" if kind else ""
        inside.append(shown + (f" = {ast.unparse(default)}" if default else ""))
    name, result = name or node.name, f" -> {ast.unparse(node.returns)}" if node.returns else ""
    call = f"{name}({', '.join(inside)}){result}"
    if len(call) < LONG:
        return call
    return "\n    ".join([f"{name}(", *(f"{each}," for each in inside)]) + f"\n){result}"


def docments(node: Function, notes: dict[int, str]) -> list[str]:
    "The rows of a function's table: its parameters, then its result."
    rows = [row(n, p.annotation or p, d, notes) for n, p, d in parameters(node) if p]
    if node.returns and ast.unparse(node.returns) != "None":
        rows.append(row("", node.returns, None, notes))
    return rows


def row(name: str, kind: ast.AST, default: ast.AST | None, notes: dict[int, str]) -> str:
    "One parameter: its name, type, default and the comment at the end of its line."
    meaning = notes.get(getattr(default or kind, "end_lineno", 0), "")
    meaning = re.sub(r"([|*<@^~\[\]])", r"\\\1", meaning)
    cells = [f"`{name}`" if name else "*result*"]
    cells.append("" if isinstance(kind, ast.arg) else f"`{ast.unparse(kind)}`")
    cells += [f"`{ast.unparse(default)}`" if default else "", meaning]
    return f"| {' | '.join(cells)} |"
