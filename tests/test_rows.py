"""What chapter 45_rows promises: rows on disk, sorted and in shards, in a memory that stays small."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmchain.data.rows import (
    Notice,
    batches,
    dump,
    raw_document,
    read_shards,
    sorted_rows,
    spool,
    write_shards,
)


def test_an_interrupted_collection_reads_only_the_rest(tmp_path: Path) -> None:
    asked = []

    def source(name: str, n: int):
        for i in range(n):
            asked.append(name)
            yield {"id": f"{name}/{i}", "text": "words", "path": "", "package": name}
            if name == "second" and len(asked) == 5:
                raise KeyboardInterrupt

    spool("first", source("first", 3), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        spool("second", source("second", 4), tmp_path)
    asked.clear()
    entries = [spool(n, source(n, k), tmp_path) for n, k in (("first", 3), ("second", 4))]
    assert asked == ["second"] * 4  # the complete one was not asked
    rows = list(sorted_rows([tmp_path / f"{e['spool']}.rows" for e in entries], tmp_path))
    assert [r["id"] for r in rows] == [f"first/{i}" for i in range(3)] + [
        f"second/{i}" for i in range(4)
    ]
    with (tmp_path / f"{entries[0]['spool']}.rows").open("a") as file:
        file.write("torn")  # the size differs from the one that was noted: read it again
    spool("first", source("first", 3), tmp_path)
    assert asked == ["second"] * 4 + ["first"] * 3


@pytest.mark.parametrize("piece_bytes", [1, 200, 1 << 20])
def test_sorting_on_disk_is_sorting(tmp_path: Path, piece_bytes: int) -> None:
    ids = [f"{(i * 7919) % 101:03d}/é{i}" for i in range(300)]
    rows = [{"id": i, "text": "\u2028 a\nb", "path": "p", "package": "x"} for i in ids]
    (tmp_path / "a").write_text("".join(map(dump, rows)), encoding="utf-8")
    found = list(sorted_rows([tmp_path / "a"], tmp_path / "pieces", piece_bytes))
    assert found == sorted(rows, key=lambda r: r["id"])
    assert not list(tmp_path.glob("pieces/*"))
    (tmp_path / "b").write_text(dump(rows[0]), encoding="utf-8")
    twice = list(sorted_rows([tmp_path / "a", tmp_path / "b"], tmp_path / "pieces", piece_bytes))
    notices = [n for n in twice if isinstance(n, Notice)]
    assert [n.reason for n in notices] == ["identifier occurs twice"] and len(twice) == 301


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_shards_hold_the_rows_and_repeat(tmp_path: Path, form: str) -> None:
    origin = dict(source="file", package="p", version="", licence="MIT", url="", time="")
    rows = [
        raw_document(origin, "a", f"#{i:03d}", f"row {i}\n\u2028é" * 9, "0" * 64) for i in range(50)
    ]
    rows.append(raw_document(origin, "b.html", "", "<p>x</p>", "0" * 64, "text/html"))
    one = write_shards(iter(rows), tmp_path / "one", form, 1000)
    two = write_shards(iter(rows), tmp_path / "two", form, 1000)
    assert len(one) > 2 and one == two
    assert list(read_shards(tmp_path / "one")) == rows
    victim = tmp_path / "one" / one[1]["file"]
    victim.write_bytes(victim.read_bytes()[:-4])
    items = list(read_shards(tmp_path / "one"))
    assert [i.reason for i in items if isinstance(i, Notice)] == ["wrong sha256"]
    assert sum(isinstance(i, dict) for i in items) == len(rows) - one[1]["rows"]


BODY = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
)
MIXED = st.lists(st.tuples(st.integers(0, 30), BODY, st.booleans()), max_size=40)


@settings(max_examples=60, deadline=None)
@given(MIXED, st.integers(1, 400), st.integers(1, 400), st.sampled_from(["jsonl", "parquet"]))
def test_the_rows_do_not_depend_on_pieces_shards_or_spools(
    documents: list[tuple[int, str, bool]], piece_bytes: int, shard_bytes: int, form: str
) -> None:
    """Any sizes give the rows of one piece and one shard: no row lost, none twice, all in order."""
    origin = dict(source="file", package="p", version="", licence="MIT", url="", time="")
    rows = [
        raw_document(origin, f"{n}", "", body, "0" * 64, "text/html" if page else "text/plain")
        for n, body, page in documents
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = [spool(f"{k}", rows[k::3], folder / "spools") for k in range(3)]
        files = [folder / "spools" / f"{e['spool']}.rows" for e in entries]

        def collected(pieces: int, shards: int) -> list[dict]:
            found = sorted_rows(files, folder / "pieces", pieces)
            kept = (row for row in found if isinstance(row, dict))
            write_shards(kept, folder / f"{pieces}-{shards}", form, shards)
            return list(read_shards(folder / f"{pieces}-{shards}"))

        small, whole = collected(piece_bytes, shard_bytes), collected(1 << 20, 1 << 20)
    assert small == whole
    assert [r["id"] for r in small] == sorted({r["id"] for r in rows})
    assert all(row in rows for row in small)


def test_a_batch_keeps_every_row() -> None:
    rows = [{"text": "x" * n} for n in (5, 0, 0, 30, 0, 1)]
    assert list(batches(iter(rows), 20)) == [rows[:4], rows[4:]]
