"""Rows that are read when they are asked for are the rows of the file."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmchain.workbench.rows import Rows


def written(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


@given(st.lists(st.text(max_size=20)))
def test_rows_are_those_of_the_file_in_any_order(tmp_path_factory, texts):
    rows = [{"text": text, "number": i} for i, text in enumerate(texts)]
    found = Rows(written(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows))
    assert list(found) == rows
    assert [found[i] for i in reversed(range(len(rows)))] == rows[::-1]
    assert found[1:3] == rows[1:3] and len(found) == len(rows)
    assert list(found.column("text")) == texts
    assert list(found.column("text", range(0, len(rows), 2))) == texts[::2]
    assert found.column("text", range(len(rows)))[:2] == texts[:2]


def test_lines_end_at_line_feeds_alone_and_each_look_begins_anew(tmp_path):
    rows = [{"id": f"é{i}", "text": "\u2028 a\r\x85 b\n" * (i % 5)} for i in range(60)]
    found = Rows(written(tmp_path / "rows.jsonl", rows))
    assert list(found) == rows and found[7:50:9] == rows[7:50:9]
    assert next(iter(found)) == next(iter(found)) == rows[0]
    assert list(Rows(written(tmp_path / "none.jsonl", []))) == []


def test_negative_and_missing_rows(tmp_path):
    found = Rows(written(tmp_path / "rows.jsonl", [{"a": 1}, {"a": 2}]))
    assert found[-1] == {"a": 2}
    with pytest.raises(IndexError, match="row 2 of 2 in rows.jsonl"):
        found[2]
    with pytest.raises(IndexError, match="row -3"):
        found[-3]


@pytest.mark.parametrize("line, told", [("{", "line 2 is no JSON"), ("[1]", "no JSON object")])
def test_a_bad_line_is_named(tmp_path, line, told):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=told):
        list(Rows(path))
    with pytest.raises(ValueError, match=told):
        Rows(path)[1]


def test_memory_does_not_hold_the_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as out:
        for i in range(2000):
            out.write(json.dumps({"text": f"{i} " * 20_000}) + "\n")
    code = (
        "import sys; from pathlib import Path; from llmchain.workbench.rows import Rows\n"
        "rows = Rows(Path(sys.argv[1])); print(sum(len(t) for t in rows.column('text')))\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    size, peak = map(int, done.stdout.split())
    assert size > 150e6 and peak * 1024 < 60e6
