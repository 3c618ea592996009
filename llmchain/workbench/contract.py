"""What a notebook declares: its place in the chain, its parameters, and the rules for their values.

Read from the notebook file alone, with `json` and `ast`: nothing is executed, nothing heavy is
imported, so that a wrong parameter is refused before any kernel starts.
"""

import ast
import configparser
import contextlib
import copy
import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Settings = dict[str, dict[str, str]]  # profile -> {chapter.parameter: text}
PROFILES = ("smoke", "cpu", "gpu")
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
NAME = re.compile(r"^(\d{2})_([a-z][a-z0-9_]*)$")
ARTIFACT = re.compile(r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
RULE = re.compile(r"\((?:one of: (?P<choices>[^()]+)|(?P<low>[^()]+?) to (?P<high>[^()]+?))\)\s*$")
DIVIDES = re.compile(r"\bdivides (?!it\b)(\w+)|\b(\w+) divides it\b")
# the fields of the front matter, with what holds where one is not written
FIELDS = dict(needs=[], makes=[], data=[], cost={}, key="", alone=False, cores="one")


class ContractError(ValueError):
    """A notebook, a parameter or a command breaks the contract; each problem is one line."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@contextlib.contextmanager
def told_together() -> Iterator[list[str]]:
    """A list for all that is wrong; ContractError at the end if something was put into it."""
    problems: list[str] = []
    yield problems
    if problems:
        raise ContractError(problems)


@contextlib.contextmanager
def noted(problems: list[str], before: str = "") -> Iterator[None]:
    """Put the lines of a ContractError into `problems`, each with `before` in front, and go on."""
    try:
        yield
    except ContractError as error:
        problems += [before + problem for problem in error.problems]


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # help (rule)`."""

    name: str
    type: str
    default: Any
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The rule in words, as it stands in the error messages."""
        if self.choices:
            return "one of: " + ", ".join(self.choices)
        words = {"bool": "true or false", "str": "any text"}
        return words.get(self.type, f"{self.low:g} to {self.high:g}")

    def quotient(self) -> tuple[str, str] | None:
        """(whole, part) if the help says that this one divides another parameter, or another this."""
        if not (match := DIVIDES.search(self.help)):
            return None
        return (match[1], self.name) if match[1] else (self.name, match[2])

    def check(self, value: Any, owner: str) -> Any:
        """`value` as this parameter's type; ContractError names owner, value and rule."""
        kind = TYPES[self.type]
        with contextlib.suppress(KeyError, ValueError, OverflowError):  # stays as it is: refused
            if isinstance(value, str) and kind is bool:
                value = {"true": True, "false": False}[value.strip().lower()]
            elif isinstance(value, str) or (kind is float and type(value) is int):
                value = kind(value)
        good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if kind is not str:
            good = good and self.low <= value <= self.high  # false for NaN
        if not good or (self.choices and str(value) not in self.choices):
            raise ContractError(
                f"{owner}: `{self.name}` must be {self.type}, {self.rule}; got {value!r}"
            )
        return value


@dataclass(frozen=True)
class Chapter:
    """A notebook as the workbench sees it."""

    id: str  # 03_deduplicate
    path: Path
    title: str
    summary: str
    module: str  # data.dedup, or "" for a chapter that exports nothing
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    data: tuple[str, ...]
    cost: dict[str, dict[str, float]]  # profile -> {"seconds", "gigabytes"}
    key: str  # the metric that stands for the chapter in a summary, or ""
    alone: bool  # measures speed, so nothing else may run beside it
    cores: str  # one, half or all of the cores: what it computes with and is given
    parameters: dict[str, Parameter]
    code: tuple[str, ...] = field(repr=False)  # sources of the code cells

    @property
    def name(self) -> str:
        """The chapter's name without its number: deduplicate."""
        return self.id.partition("_")[2]

    @property
    def part(self) -> str:
        """The folder it lies in: 01_data."""
        return self.path.parent.name

    def defaults(self) -> dict[str, Any]:
        """The values written in the notebook, which are those of profile cpu."""
        return {p.name: p.default for p in self.parameters.values()}


def project_root() -> Path:
    """The folder that holds nbs/: LLMCHAIN_ROOT, else the checkout this package was installed from.

    FileNotFoundError if there is none."""
    given, here = os.environ.get("LLMCHAIN_ROOT"), Path.cwd()
    for folder in [Path(given)] if given else [Path(__file__).parents[2], here, *here.parents]:
        if (folder / "nbs").is_dir():
            return folder.resolve()
    where = f"LLMCHAIN_ROOT={given} holds no nbs/" if given else "no checkout with nbs/ found"
    raise FileNotFoundError(f"llmchain: {where}; run from a checkout or set LLMCHAIN_ROOT to one")


def read_parameters(source: str, owner: str) -> dict[str, Parameter]:
    """The parameters of a cell's source; ContractError lists every line that breaks the form."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ContractError(f"{owner}: parameters cell: {error}") from None
    found: dict[str, Parameter] = {}
    lines = source.encode().split(b"\n")  # the tree counts columns in bytes
    with told_together() as problems:
        for node in statements:
            with noted(problems, f"{owner}: parameters, line {node.lineno}: "):
                behind = lines[(node.end_lineno or 0) - 1][node.end_col_offset :].decode()
                parameter = _parameter(node, behind.strip().lstrip("# "))
                parameter.check(parameter.default, owner)
                if parameter.name in found:
                    raise ContractError(f"`{parameter.name}` is given twice")
                found[parameter.name] = parameter
        if not problems:
            with noted(problems):
                check_quotients(found, {n: p.default for n, p in found.items()}, owner)
    return found


def _parameter(node: ast.stmt, comment: str) -> Parameter:
    """What one line declares, with the rule that ends its comment."""
    if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
        raise ContractError("expected `name: type = value  # help (rule)`")
    name, kind = node.target.id, ast.unparse(node.annotation)
    if kind not in TYPES:
        raise ContractError(f"`{name}` has type {kind}; allowed: {', '.join(TYPES)}")
    if not comment:
        raise ContractError(f"`{name}` has no comment; write `# help (rule)`")
    try:
        default = ast.literal_eval(node.value) if node.value else None
    except ValueError:
        raise ContractError(f"`{name}` must be given a plain value, no call or name") from None
    match = RULE.search(comment)
    rule: dict[str, Any] = {}
    if match and match["choices"]:
        rule = {"choices": tuple(c.strip() for c in match["choices"].split(","))}
    elif match:
        try:
            rule = {"low": float(match["low"]), "high": float(match["high"])}
        except ValueError:
            raise ContractError(f"`{name}`: cannot read the range {match[0]}") from None
    elif kind in ("int", "float"):
        raise ContractError(f"`{name}` has no range; end its comment with (low to high)")
    return Parameter(name, kind, default, RULE.sub("", comment).strip(), **rule)


def check_quotients(parameters: dict[str, Parameter], values: dict[str, Any], owner: str) -> None:
    """ContractError if one value does not divide another as the parameters' help says it must."""
    with told_together() as problems:
        for whole, part in filter(None, (p.quotient() for p in parameters.values())):
            if unknown := {whole, part} - set(values):
                problems.append(f"{owner}: `{unknown.pop()}` is to divide, and is no parameter")
            elif not values[part] or values[whole] % values[part]:
                told = f"`{part}` must divide `{whole}`; got {values[part]} and {values[whole]}"
                problems.append(f"{owner}: {told}")


def read_chapter(path: Path) -> Chapter:
    """The declaration of one notebook; ContractError lists everything that is wrong with it."""
    owner = path.stem
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ContractError(f"{owner}: not a notebook ({type(error).__name__}: {error})") from None
    if not NAME.fullmatch(owner):
        raise ContractError(f"{owner}: a chapter is called NN_name, as in 03_deduplicate")

    def sources(kind: str, tag: str = "") -> list[str]:
        found = [c for c in cells if c["cell_type"] == kind]
        tagged = [c for c in found if not tag or tag in c["metadata"].get("tags", [])]
        return ["".join(c["source"]) for c in tagged]

    with told_together() as problems:
        with noted(problems):
            raw = [s for s in sources("raw") if s.strip().startswith("---") and "chapter:" in s]
            declared = _front_matter(_only(raw, owner, "raw cells declare `chapter:`"), owner)
        with noted(problems):
            told = "code cells are tagged `parameters`"
            parameters = read_parameters(_only(sources("code", "parameters"), owner, told), owner)
    opening, code = "".join(sources("markdown")[:1]), tuple(sources("code"))
    title, summary = _line("# (.*)", opening), _line("> (.*)", opening)
    module = _line(r"#\|\s*default_exp:?\s+(\S+)", "\n".join(code))
    return Chapter(
        owner, path, title, summary, module, parameters=parameters, code=code, **declared
    )


def _only(found: list[str], owner: str, told: str) -> str:
    """The one cell that was found; ContractError if there is none or another."""
    if len(found) != 1:
        raise ContractError(f"{owner}: {len(found)} {told}; there must be exactly one")
    return found[0]


def _line(pattern: str, text: str) -> str:
    """What the first line that begins with `pattern` holds, or nothing."""
    found = re.search(f"^{pattern}", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _front_matter(raw: str, owner: str) -> dict[str, Any]:
    """The fields of the raw cell; ContractError lists all that is wrong with them."""
    place = f"{owner}: front matter"
    try:
        fields: dict[str, Any] = FIELDS | yaml.safe_load(raw.strip().strip("-"))["chapter"]
    except yaml.YAMLError as error:
        raise ContractError(f"{place} is not valid YAML: {str(error).splitlines()[0]}") from None
    except (TypeError, KeyError):
        raise ContractError(f"{place} `chapter:` must hold fields") from None
    with told_together() as problems:
        if unknown := sorted(map(str, fields.keys() - FIELDS.keys())):
            problems.append(f"{place} has unknown fields: {', '.join(unknown)}")
        if fields["cores"] not in ("one", "half", "all"):
            problems.append(f"{place} `cores` must be one, half or all")
        for name in ("needs", "makes", "data"):
            values = fields[name] or []
            if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                problems.append(f"{place} `{name}` must be a list of names")
                continue
            if len(set(values)) < len(values):
                problems.append(f"{place} `{name}` names something twice")
            for value in values:
                if name != "data" and not ARTIFACT.fullmatch(value):
                    problems.append(f"{place} `{name}`: `{value}` is not called kind/name")
            fields[name] = tuple(values)
        try:
            fields["cost"] = {p: _cost(*c) for p, c in (fields["cost"] or {}).items()}
        except (ValueError, TypeError, AttributeError):
            problems.append(f"{place} `cost` must read {{cpu: [90 s, 1 GB], …}}")
    return fields | {"key": str(fields["key"] or ""), "alone": fields["alone"] is True}


def _cost(seconds: str, memory: str) -> dict[str, float]:
    if not (seconds.endswith(" s") and memory.endswith(" GB")):
        raise ValueError("expected seconds and gigabytes")
    return {"seconds": float(seconds[:-2]), "gigabytes": float(memory[:-3])}


def read_chapters(root: Path | None = None) -> dict[str, Chapter]:
    """Every chapter under nbs/, by id, in reading order: by part, then by number.

    ContractError lists all problems."""
    chapters: dict[str, Chapter] = {}
    numbers: dict[str, Path] = {}
    paths = ((root or project_root()) / "nbs").glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb")
    with told_together() as problems:
        for path in sorted(paths):
            with noted(problems):
                chapters[path.stem] = read_chapter(path)
                number = path.stem[:2]
                if (other := numbers.setdefault(number, path)) != path:
                    problems.append(f"{path.stem}: number {number} is taken by {other.stem}")
    return chapters


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean `x`?`, or an empty string when nothing is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def find_chapters(words: Iterable[str], chapters: dict[str, Chapter]) -> list[str]:
    """The ids that `08`, `08_gpt`, `gpt` or a part such as `01_data` stand for; in reading order."""
    names = {c.id: {c.id, c.name, c.part, c.id[:2], str(int(c.id[:2]))} for c in chapters.values()}
    chosen: set[str] = set()
    with told_together() as problems:
        for word in words:
            hits = {name for name, called in names.items() if word in called}
            if not hits:
                known = [n for c in chapters.values() for n in (c.id, c.name)]
                problems.append(f"unknown chapter `{word}`{nearest(word, known)}")
            chosen |= hits
    return [c for c in chapters if c in chosen]


def check_parameters(
    chapters: dict[str, Chapter], profile: str, settings: Settings, given: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Values of all parameters of all chapters, and the ids of chapters that `given` changes.

    `settings` is {profile: {"08_gpt.n_steps": "30"}}, `given` the words of `-p`, `gpt.n_steps=3`.
    ContractError lists every unknown name (with the nearest), wrong type and value out of range."""
    if profile not in PROFILES:
        raise ContractError(f"unknown profile `{profile}`; one of: {', '.join(PROFILES)}")
    usual = {name: {c.id: c.defaults() for c in chapters.values()} for name in PROFILES}
    with told_together() as problems:
        for name in PROFILES:  # a wrong line of another would only be found by a later reader
            for key, text in settings.get(name, {}).items():
                with noted(problems, f"settings.ini [{name}]: "):
                    _assign(usual[name], chapters, key, text)
            for c in [] if problems else chapters.values():
                with noted(problems, f"settings.ini [{name}]: "):
                    check_quotients(c.parameters, usual[name][c.id], c.id)
        values = copy.deepcopy(usual[profile])
        for word in given:
            key, equals, text = word.partition("=")
            with noted(problems):
                if not equals:
                    raise ContractError(f"-p {word}: expected chapter.parameter=value")
                _assign(values, chapters, key.strip(), text)
        for c in [] if problems else chapters.values():
            with noted(problems):
                check_quotients(c.parameters, values[c.id], c.id)
    return values, {c for c in chapters if values[c] != usual[profile][c]}


def _assign(
    values: dict[str, dict[str, Any]], chapters: dict[str, Chapter], key: str, text: str
) -> None:
    """Put what `gpt.n_steps` = `3` says into `values`, checked."""
    owner, dot, name = key.rpartition(".")
    if not dot:
        raise ContractError(f"`{key}`: expected chapter.parameter")
    ids = find_chapters([owner], chapters)
    if len(ids) != 1:
        raise ContractError(f"`{owner}` is {len(ids)} chapters; name one of: {', '.join(ids)}")
    values[ids[0]][name] = known(chapters[ids[0]], name).check(text, ids[0])


def known(chapter: Chapter, name: str) -> Parameter:
    """The parameter called `name`; ContractError with the nearest name if there is none."""
    if name not in chapter.parameters:
        hint = nearest(name, chapter.parameters)
        raise ContractError(f"unknown parameter `{name}` of chapter {chapter.id}{hint}")
    return chapter.parameters[name]


def read_settings(root: Path) -> Settings:
    """settings.ini as {profile: {chapter.parameter: text}}; ContractError for unknown sections."""
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read(root / "settings.ini", encoding="utf-8")
    except configparser.Error as error:
        raise ContractError(f"settings.ini: {' '.join(str(error).split())}") from None
    if unknown := sorted({*parser.sections()} - {*PROFILES}):
        known = ", ".join(PROFILES)
        raise ContractError(f"settings.ini: unknown profile [{unknown[0]}]; one of: {known}")
    return {name: dict(parser[name]) for name in parser.sections()}
