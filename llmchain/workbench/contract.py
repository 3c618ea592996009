"""What a notebook declares: its place in the chain, its parameters, and the rules for their values.

Read from the notebook file alone, with `json` and `ast`: nothing is executed, nothing heavy is
imported, so that a wrong parameter is refused before any kernel starts.
"""

import ast
import difflib
import io
import json
import os
import re
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PROFILES = ("smoke", "cpu", "gpu")
TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
NAME = re.compile(r"^(\d{2})_([a-z][a-z0-9_]*)$")
ARTIFACT = re.compile(r"^[a-z][a-z0-9_]*/[a-z][a-z0-9_]*$")
RANGE = re.compile(r"\(([^()]+?) to ([^()]+?)\)\s*$")
CHOICES = re.compile(r"\(one of: ([^()]+)\)\s*$")


class ContractError(ValueError):
    """A notebook, a parameter or a command breaks the contract; each problem is one line."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # help (rule)`."""

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def rule(self) -> str:
        """The rule in words, as it stands in the error messages."""
        if self.choices:
            return "one of: " + ", ".join(self.choices)
        if self.low is not None:
            return f"{self.low:g} to {self.high:g}"
        return "true or false" if self.type == "bool" else "any text"

    def check(self, value: Any, owner: str) -> Any:
        """`value` as this parameter's type; ContractError names owner, value and rule."""
        if isinstance(value, str) and self.type != "str":
            value = self._parse(value, owner)
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        right_type = isinstance(value, TYPES[self.type]) and (
            self.type == "bool" or not isinstance(value, bool)
        )
        # the comparison is false for NaN, which is thereby refused
        in_range = (
            self.low is None or self.high is None or (right_type and self.low <= value <= self.high)
        )
        if not right_type or not in_range or (self.choices and str(value) not in self.choices):
            raise self._wrong(value, owner)
        return value

    def _wrong(self, value: Any, owner: str) -> ContractError:
        return ContractError(
            f"{owner}: `{self.name}` must be {self.type}, {self.rule}; got {value!r}"
        )

    def _parse(self, text: str, owner: str) -> Any:
        try:
            if self.type == "bool":
                return {"true": True, "false": False}[text.strip().lower()]
            return TYPES[self.type](text.strip())
        except (KeyError, ValueError):
            raise self._wrong(text, owner) from None


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
    given = os.environ.get("LLMCHAIN_ROOT")
    for folder in [Path(given)] if given else [Path(__file__).parents[2], *_parents(Path.cwd())]:
        if (folder / "nbs").is_dir():
            return folder.resolve()
    where = f"LLMCHAIN_ROOT={given} holds no nbs/" if given else "no checkout with nbs/ found"
    raise FileNotFoundError(f"llmchain: {where}; run from a checkout or set LLMCHAIN_ROOT to one")


def _parents(folder: Path) -> list[Path]:
    return [folder, *folder.parents]


def read_parameters(source: str, owner: str) -> dict[str, Parameter]:
    """The parameters of a cell's source; ContractError lists every line that breaks the form."""
    found: dict[str, Parameter] = {}
    problems: list[str] = []
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body:
        line = f"{owner}: parameters, line {node.lineno}"
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            problems.append(f"{line}: expected `name: type = value  # help (rule)`")
            continue
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind not in TYPES:
            problems.append(f"{line}: `{name}` has type {kind}; allowed: {', '.join(TYPES)}")
            continue
        try:
            default = ast.literal_eval(node.value) if node.value else None
            parameter = _with_rule(name, kind, default, comments.get(node.end_lineno or 0, ""))
            parameter.check(default, owner)
            if name in found:
                problems.append(f"{line}: `{name}` is given twice")
            found[name] = parameter
        except (ContractError, ValueError) as error:
            problems.append(f"{line}: {error}")
    if problems:
        raise ContractError(problems)
    return found


def _with_rule(name: str, kind: str, default: Any, comment: str) -> Parameter:
    """A parameter with the rule read from the end of its comment."""
    if not comment:
        raise ContractError(f"`{name}` has no comment; write `# help (rule)`")
    if match := CHOICES.search(comment):
        choices = tuple(c.strip() for c in match[1].split(","))
        return Parameter(name, kind, default, comment[: match.start()].strip(), choices=choices)
    if match := RANGE.search(comment):
        try:
            low, high = float(match[1]), float(match[2])
        except ValueError:
            raise ContractError(
                f"`{name}`: cannot read the range ({match[1]} to {match[2]})"
            ) from None
        return Parameter(name, kind, default, comment[: match.start()].strip(), low, high)
    if kind in ("int", "float"):
        raise ContractError(f"`{name}` has no range; end its comment with (low to high)")
    return Parameter(name, kind, default, comment)


def read_chapter(path: Path) -> Chapter:
    """The declaration of one notebook; ContractError lists everything that is wrong with it."""
    owner = path.stem
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise ContractError(f"{owner}: not a notebook ({type(error).__name__}: {error})") from None
    if not NAME.fullmatch(owner):
        raise ContractError(f"{owner}: a chapter is called NN_name, as in 03_deduplicate")
    sources = [(c["cell_type"], "".join(c["source"]), c["metadata"].get("tags", [])) for c in cells]
    problems: list[str] = []
    declared = _front_matter([s for kind, s, _ in sources if kind == "raw"], owner, problems)
    tagged = [s for kind, s, tags in sources if kind == "code" and "parameters" in tags]
    parameters: dict[str, Parameter] = {}
    if len(tagged) != 1:
        problems.append(
            f"{owner}: {len(tagged)} code cells are tagged `parameters`; exactly one must be"
        )
    else:
        try:
            parameters = read_parameters(tagged[0], owner)
        except (ContractError, SyntaxError, tokenize.TokenError) as error:
            problems += getattr(error, "problems", [f"{owner}: parameters cell: {error}"])
    if problems:
        raise ContractError(problems)
    title, summary = _title([s for kind, s, _ in sources if kind == "markdown"])
    code = tuple(s for kind, s, _ in sources if kind == "code")
    module = next((m[1] for s in code if (m := re.match(r"#\|\s*default_exp:?\s+(\S+)", s))), "")
    return Chapter(
        owner, path, title, summary, module, parameters=parameters, code=code, **declared
    )


def _front_matter(raw: list[str], owner: str, problems: list[str]) -> dict[str, Any]:
    """The fields of the raw cell; what is wrong with them goes into `problems`."""
    cells = [s for s in raw if s.strip().startswith("---") and "chapter:" in s]
    if len(cells) != 1:
        problems.append(f"{owner}: {len(cells)} raw cells declare `chapter:`; exactly one must")
        return {}
    try:
        declared = yaml.safe_load(cells[0].strip().strip("-"))["chapter"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        problems.append(f"{owner}: front matter is not valid YAML: {str(error).splitlines()[0]}")
        return {}
    if not isinstance(declared, dict):
        problems.append(f"{owner}: front matter `chapter:` must hold fields")
        return {}
    if unknown := set(declared) - {"needs", "makes", "data", "cost", "key", "alone", "cores"}:
        problems.append(f"{owner}: front matter has unknown fields: {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {
        "key": str(declared.get("key") or ""),
        "alone": declared.get("alone", False) is True,
        "cores": declared.get("cores", "one"),
    }
    if fields["cores"] not in ("one", "half", "all"):
        problems.append(f"{owner}: front matter `cores` must be one, half or all")
    for key in ("needs", "makes", "data"):
        values = declared.get(key) or []
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            problems.append(f"{owner}: front matter `{key}` must be a list of names")
            values = []
        if len(set(values)) < len(values):
            problems.append(f"{owner}: front matter `{key}` names something twice")
        if key != "data":
            problems += [
                f"{owner}: artifact `{v}` in `{key}` is not called kind/name"
                for v in values
                if not ARTIFACT.fullmatch(v)
            ]
        fields[key] = tuple(values)
    try:
        fields["cost"] = {p: _cost(c) for p, c in (declared.get("cost") or {}).items()}
    except (ValueError, TypeError, AttributeError):
        problems.append(f"{owner}: front matter `cost` must read {{cpu: [90 s, 1 GB], …}}")
    return fields


def _cost(pair: list[str]) -> dict[str, float]:
    seconds, memory = pair
    if not (seconds.endswith(" s") and memory.endswith(" GB")):
        raise ValueError(pair)
    return {"seconds": float(seconds[:-2]), "gigabytes": float(memory[:-3])}


def _title(markdown: list[str]) -> tuple[str, str]:
    """`# Title` and `> summary` of the first markdown cell."""
    lines = markdown[0].splitlines() if markdown else []
    title = next((line[2:].strip() for line in lines if line.startswith("# ")), "")
    summary = next((line[2:].strip() for line in lines if line.startswith("> ")), "")
    return title, summary


def read_chapters(root: Path | None = None) -> dict[str, Chapter]:
    """Every chapter under nbs/, by id, in reading order; ContractError lists all problems."""
    folder = (root or project_root()) / "nbs"
    chapters: dict[str, Chapter] = {}
    problems: list[str] = []
    paths = [p for p in folder.glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb")]
    for path in sorted(paths, key=lambda p: p.stem):
        try:
            chapters[path.stem] = read_chapter(path)
        except ContractError as error:
            problems += error.problems
    numbers: dict[str, str] = {}
    for chapter in chapters.values():
        number = chapter.id[:2]
        if number in numbers:
            problems.append(f"{chapter.id}: number {number} is taken by {numbers[number]}")
        numbers[number] = chapter.id
    if problems:
        raise ContractError(problems)
    return chapters


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean `x`?`, or an empty string when nothing is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def find_chapters(words: Iterable[str], chapters: dict[str, Chapter]) -> list[str]:
    """The ids that `08`, `08_gpt`, `gpt` or a part such as `01_data` stand for; in reading order."""
    chosen: set[str] = set()
    problems: list[str] = []
    for word in words:
        hits = {
            c.id
            for c in chapters.values()
            if word in (c.id, c.name, c.part) or (word.isdigit() and c.id[:2] == word.zfill(2))
        }
        if not hits:
            known = [n for c in chapters.values() for n in (c.id, c.name)]
            problems.append(f"unknown chapter `{word}`{nearest(word, known)}")
        chosen |= hits
    if problems:
        raise ContractError(problems)
    return [c for c in chapters if c in chosen]


def check_parameters(
    chapters: dict[str, Chapter],
    profile: str,
    settings: dict[str, dict[str, str]],
    given: Iterable[str],
) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Values of all parameters of all chapters, and the ids of chapters that `given` changes.

    `settings` is {profile: {"08_gpt.n_steps": "30"}}, `given` the words of `-p`, `gpt.n_steps=3`.
    ContractError lists every unknown name (with the nearest), wrong type and value out of range."""
    values = {c.id: c.defaults() for c in chapters.values()}
    problems: list[str] = []
    changed: set[str] = set()
    if profile not in PROFILES:
        raise ContractError(f"unknown profile `{profile}`; one of: {', '.join(PROFILES)}")
    for name in PROFILES:  # a wrong line of another profile would only be found by a later reader
        for key, text in settings.get(name, {}).items():
            try:
                chapter, value = _assign(chapters, key, text, f"settings.ini [{name}]: ")
                if name == profile:
                    values[chapter.id][value[0]] = value[1]
            except ContractError as error:
                problems += error.problems
    for word in given:
        key, equals, text = word.partition("=")
        if not equals:
            problems.append(f"-p {word}: expected chapter.parameter=value")
            continue
        try:
            chapter, value = _assign(chapters, key.strip(), text)
            if values[chapter.id][value[0]] != value[1]:
                changed.add(chapter.id)
            values[chapter.id][value[0]] = value[1]
        except ContractError as error:
            problems += error.problems
    if problems:
        raise ContractError(problems)
    return values, changed


def _assign(
    chapters: dict[str, Chapter], key: str, text: str, where: str = ""
) -> tuple[Chapter, tuple[str, Any]]:
    """The chapter, name and checked value that `gpt.n_steps` = `3` stands for."""
    owner, dot, name = key.rpartition(".")
    if not dot:
        raise ContractError(f"{where}`{key}`: expected chapter.parameter")
    try:
        ids = find_chapters([owner], chapters)
    except ContractError as error:
        raise ContractError([where + p for p in error.problems]) from None
    if len(ids) != 1:
        raise ContractError(
            f"{where}`{owner}` is {len(ids)} chapters; name one of: {', '.join(ids)}"
        )
    chapter = chapters[ids[0]]
    try:
        return chapter, (name, known(chapter, name).check(text, chapter.id))
    except ContractError as error:
        raise ContractError([where + p for p in error.problems]) from None


def known(chapter: Chapter, name: str) -> Parameter:
    """The parameter called `name`; ContractError with the nearest name if there is none."""
    if name not in chapter.parameters:
        hint = nearest(name, chapter.parameters)
        raise ContractError(f"unknown parameter `{name}` of chapter {chapter.id}{hint}")
    return chapter.parameters[name]


def read_settings(root: Path) -> dict[str, dict[str, str]]:
    """settings.ini as {profile: {chapter.parameter: text}}; ContractError for unknown sections."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    path = root / "settings.ini"
    try:
        parser.read(path, encoding="utf-8")
    except configparser.Error as error:
        raise ContractError(f"settings.ini: {' '.join(str(error).split())}") from None
    if unknown := set(parser.sections()) - set(PROFILES):
        raise ContractError(
            f"settings.ini: unknown profile [{sorted(unknown)[0]}]; one of: {', '.join(PROFILES)}"
        )
    return {name: dict(parser[name]) for name in parser.sections()}
