"""What a result depends on: everything that can change it, and nothing else."""

import json
from pathlib import Path

from conftest import Project, chapter
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.workbench.contract import Chapter, project_root, read_chapters
from llmchain.workbench.key import cache_key, code_of, imports, normalised
from llmchain.workbench.machine import cores

NAMES = st.text("abc", min_size=1, max_size=2)
VALUES = st.integers(-3, 3) | st.sampled_from([0.5, 1.0, 1e-9, True, False, "", "1", "a"])
SETTINGS = st.tuples(
    st.dictionaries(NAMES, VALUES, max_size=3),
    st.dictionaries(NAMES, st.sampled_from(["0a", "0b"]), max_size=2),
    st.sampled_from(["smoke", "cpu", "custom"]),
    st.sampled_from(["x = 1", "x = 2", "import json\nx = 1"]),
    st.sampled_from(["one", "all"]),
)


def key(setting: tuple) -> str:
    parameters, inputs, profile, code, cores = setting
    made = Chapter(
        *("01_x", Path("01_x.ipynb"), "", "", "", (), (), (), {}, "", False), cores, {}, (code,)
    )
    return cache_key(made, parameters, inputs, profile, Path("/nowhere"))


@settings(max_examples=300, deadline=None)
@given(SETTINGS, SETTINGS)
def test_keys_are_equal_exactly_when_all_is(a: tuple, b: tuple) -> None:
    def as_json(setting: tuple) -> str:  # in which 1, 1.0 and true are three values
        threads = cores() if setting[4] == "all" else 1
        return json.dumps([*setting[:4], threads], sort_keys=True)

    assert (key(a) == key(b)) == (as_json(a) == as_json(b))


LINES = st.lists(st.sampled_from(["x = 1", "y = 'a # b'", "def f():\n    return 2"]), min_size=1)
NOISE = st.lists(st.sampled_from(["", "# why", "   # so", "\n\n"]), min_size=9, max_size=9)


@given(LINES, NOISE)
def test_comments_and_lines_do_not_count_and_statements_do(lines: list, noise: list) -> None:
    plain = "\n".join(lines)
    noisy = "\n".join(f"{n}\n{line}  # {n!r}" for line, n in zip(lines, noise * 9, strict=False))
    assert normalised(noisy) == normalised(plain)
    assert normalised(plain + "\nz = 3") != normalised(plain)
    assert normalised(plain) != normalised("\n".join([*lines, lines[-1]]))


def test_docstrings_do_not_count_and_relative_imports_are_resolved() -> None:
    a = 'def f(x):\n    "doc"\n    return x + 1  # why'
    assert normalised(a) == normalised('def f( x ):\n    "other"\n\n    return x+1')
    assert normalised(a) != normalised('def f(x):\n    "doc"\n    return x + 2')
    assert imports("import a.b\nfrom c.d import e") == {"a.b", "c.d", "c.d.e"}
    assert imports("from ..a.b import c\nfrom .d import e", "x.y") == {
        "x.a.b", "x.a.b.c", "x.y.d", "x.y.d.e",
    }  # fmt: skip


def test_an_exported_function_reruns_exactly_what_imports_it(project: Project) -> None:
    """01 imports it, 02 through another module, 03 neither."""
    data = project.root / "llmchain" / "data"
    data.mkdir(parents=True)
    first = 'def f(x):\n    "doc"\n    return x + 1\n'
    (data / "dedup.py").write_text(first)
    (data / "clean.py").write_text("from .dedup import f\n")
    for name, makes, module in [
        ("01_first", "corpus/raw", "llmchain.data.dedup"),
        ("02_second", "corpus/clean", "llmchain.data.clean"),
        ("03_aside", "report/aside", "json"),
    ]:
        body = f'import {module}\nch.write("{makes}", [{{}}])'
        project.put(name, chapter(name, makes=makes, body=body))

    def rerun() -> set[str]:
        plan = json.loads(project.llmchain("plan", "--json").stdout)
        return {e["id"] for e in plan if e["action"] == "run"}

    assert rerun() == {"01_first", "02_second", "03_aside"}
    done = project.summary()
    assert done["code"] == 0, [c.get("error") for c in done["chapters"]]
    assert rerun() == set()
    (data / "dedup.py").write_text(first.replace("doc", "better words") + "\n# a remark\n")
    assert rerun() == set()
    (data / "dedup.py").write_text(first.replace("+ 1", "+ 2"))
    assert rerun() == {"01_first", "02_second"}
    (data / "dedup.py").write_text(first)
    (data / "clean.py").write_text("from .dedup import f\ng = f\n")
    assert rerun() == {"02_second"}


def test_a_chapter_depends_on_the_modules_of_the_chapters_it_imports() -> None:
    """01_collect is cut into several modules: a change in any that it uses makes its corpus anew."""
    root = project_root()
    parts, _ = code_of(read_chapters(root)["01_collect"], root)
    for name in ("rows", "reading"):
        assert any(part.startswith(f"llmchain.data.{name}Module(") for part in parts), name
    assert not any(part.startswith("llmchain.data.fetching") for part in parts)
