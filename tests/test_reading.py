"""Bad input to chapter 44_read: each fault is one notice, and what is good beside it stays."""

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from llmchain.data import reading
from llmchain.data.rows import BadInput, Notice, decode

ROOT = Path(__file__).parents[1]
ORIGIN = dict(source="file", package="mine", version="1", licence="CC0-1.0", url="", time="")
LINES = b"".join(json.dumps({"text": f"Row {i}.", "id": i}).encode() + b"\n" for i in range(500))


def read(name: str, content: bytes, max_bytes: int = 100_000) -> tuple[list[dict], list[Notice]]:
    """The documents and the notices of one file."""
    items = list(reading.file_documents(io.BytesIO(content), name, ORIGIN, max_bytes))
    return [i for i in items if isinstance(i, dict)], [i for i in items if isinstance(i, Notice)]


def reasons(notices: list[Notice]) -> list[str]:
    return [n.reason for n in notices]


# ── bytes and text ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "reason", "offset"),
    [
        (b"", "empty", 0),
        (b" \r\n\t", "empty", 0),
        (b"caf\xe9", "not UTF-8", 3),
        ("好".encode()[:2], "not UTF-8", 0),
        (b"\xff\xfea\0b", "broken UTF-16", 4),
        (b"text\0more", "NUL byte", 4),
        (b"\0" * 100, "NUL byte", 0),
        (b"x" * 100_001, "larger than the limit", 100_000),
    ],
)
def test_no_text(content: bytes, reason: str, offset: int) -> None:
    documents, notices = read("a.txt", content)
    assert documents == []
    assert [(n.reason, n.offset) for n in notices] == [(reason, offset)]
    assert str(notices[0]).startswith(f"a.txt: byte {offset:,}: {reason}; ")
    assert "\n" not in str(notices[0])


@pytest.mark.parametrize(
    "codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_unicode_is_read_whatever_its_form(codec: str) -> None:
    text = "Words of the naïve, in several lines,\nmostly Latin. 你好\n"
    documents, notices = read("a.txt", text.encode(codec))
    assert [d["text"] for d in documents] == [text]
    assert all(n.kept for n in notices)
    assert documents[0]["sha256"] == hashlib.sha256(text.encode(codec)).hexdigest()


@pytest.mark.parametrize(
    ("content", "remarks"),
    [
        (b"a\nb\nc\n", []),
        (b"a\r\nb\r\nc\r\n", []),
        (b"a\rb\rc\r", ["mixed newlines"]),
        (b"a\r\nb\nc\r\n", ["mixed newlines"]),
        (b"a\nb\rc\n", ["mixed newlines"]),
    ],
)
def test_newlines_become_one_kind(content: bytes, remarks: list[str]) -> None:
    documents, notices = read("a.txt", content)
    assert documents[0]["text"] == "a\nb\nc\n"
    assert reasons(notices) == remarks and all(n.kept for n in notices)


@pytest.mark.parametrize(
    ("declared", "content", "expected"),
    [
        ("iso-8859-1", "“quoted” café".encode("cp1252"), ("“quoted” café", "declared charset")),
        ("gb2312", "数据集".encode("gb18030"), ("数据集", "declared charset")),
        ("Shift_JIS", "日本語".encode("shift_jis"), ("日本語", "declared charset")),
        ("iso-8859-1", "naïve café".encode(), ("naïve café", "wrong charset")),
        ("utf-8", "数据".encode(), ("数据", "")),
        ("nonsense", b"plain", ("plain", "")),
    ],
)
def test_declared_charsets(declared: str, content: bytes, expected: tuple[str, str]) -> None:
    assert decode(content, declared) == expected


@pytest.mark.parametrize(
    "declared", ["nonsense", "zlib", "unicode_escape", "utf-7", "x\0y", "idna"]
)
def test_charsets_that_nobody_should_obey(declared: str) -> None:
    with pytest.raises(BadInput, match="not UTF-8"):
        decode(b"caf\xe9", declared)


# ── lines and tables ──────────────────────────────────────────────────────────────────────────────


def test_one_long_line_does_not_enter_memory() -> None:
    class Endless(io.RawIOBase):
        left = 200_000_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            n = min(len(buffer), self.left)
            self.left -= n
            buffer[:n] = b"x" * n
            return n

    import tracemalloc

    file = io.BufferedReader(Endless())
    tracemalloc.start()
    found = list(reading.bounded_lines(file, 1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(0, None)]
    assert peak < 2_000_000


def test_bad_lines_cost_themselves() -> None:
    bad = [
        b'{"text": 5}',
        b"[1]",
        b'{"text": "cut',
        b'{"text": "\\ud800"}',
        b"\xff",
        b'{"text": " "}',
    ]
    bad += [b'{"text": "' + b"y" * 2000 + b'"}', b'{"text": "z\\u0000"}', b"[" * 400 + b"]" * 400]
    content = b"\n".join([b'{"text": "first"}', *bad, b"", b'{"text": "last"}\r'])
    documents, notices = read("a.jsonl", content, 1000)
    assert "cut" in notices[2].excerpt and "\\xff" in notices[4].excerpt  # a person can find it
    assert [d["text"] for d in documents] == ["first", "last"]
    expected = "no text,no text,not JSON,lone surrogate,not UTF-8,empty,line longer than the limit"
    assert reasons(notices)[:7] == expected.split(",")
    assert reasons(notices)[7] == "NUL byte" and reasons(notices)[8] in ("no text", "not JSON")
    starts = [content.index(b) for b in bad]
    assert all(0 <= n.offset - start < 20 for n, start in zip(notices, starts, strict=True))


def test_lines_in_utf16_are_told_once() -> None:
    for codec in ("utf-16", "utf-16-le"):
        documents, notices = read("a.jsonl", LINES.decode().encode(codec))
        assert documents == [] and reasons(notices) == ["UTF-16 lines"]


def test_a_row_may_state_its_licence_and_id() -> None:
    rows = [{"text": "a", "id": "x", "licence": "MIT"}, {"text": "b", "license": "CC-BY-NC-4.0"}]
    documents, notices = read("a.jsonl", b"\n".join(json.dumps(r).encode() for r in rows))
    assert (documents[0]["id"], documents[0]["licence"]) == ("mine/a.jsonl#x", "MIT")
    assert reasons(notices) == ["licence forbids use"]
    assert notices[0].excerpt == ""  # what may not be used is not kept either


def parquet(rows: list[dict], **more) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, **more)
    return file.getvalue()


def test_parquet_good_and_bad() -> None:
    rows = [{"text": f"Row {i}. " * 50, "id": i, "licence": None} for i in range(300)]
    whole = parquet(rows, row_group_size=50, compression="none", use_dictionary=False)
    documents, notices = read("a.parquet", whole)
    assert [d["text"] for d in documents] == [r["text"] for r in rows] and notices == []
    assert documents[7]["licence"] == "CC0-1.0"
    for cut in (whole[:-4], whole[: len(whole) // 2], whole[:10], b"PAR1"):
        documents, notices = read("a.parquet", cut)
        assert documents == [] and reasons(notices) == ["damaged Parquet"]
        assert notices[0].offset == len(cut)
    documents, notices = read("a.parquet", parquet([{"words": "no such column"}]))
    assert documents == [] and set(reasons(notices)) == {"no text"}
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 3000] = b"\xff" * 3000
    documents, notices = read("a.parquet", bytes(damaged))
    assert 0 < len(documents) < 300 and notices  # what came before the damage stays


# ── gzip, WARC, archives ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cut", [1, 8, 9, 400])
def test_truncated_gzip_keeps_what_came_before(cut: int) -> None:
    packed = gzip.compress(LINES, mtime=0)
    documents, notices = read("a.jsonl.gz", packed[:-cut])
    assert reasons(notices)[-1] == "truncated gzip" and 0 < notices[-1].offset <= len(packed)
    assert len(documents) > 200
    assert all(d["text"] == f"Row {i}." for i, d in enumerate(documents))


def test_damaged_gzip_and_bombs() -> None:
    assert reasons(read("a.txt.gz", b"not gzip")[1]) == ["damaged gzip"]
    packed = bytearray(gzip.compress(b"words " * 100, mtime=0))
    packed[-6] ^= 255  # the checksum
    assert reasons(read("a.txt.gz", bytes(packed))[1]) == ["damaged gzip"]
    bomb = gzip.compress(b"0" * 50_000_000, mtime=0)
    assert reasons(read("a.jsonl.gz", bomb)[1]) == ["decompression bomb"]
    assert reasons(read("a.txt.gz", bomb)[1]) == ["larger than the limit"]


def warc(
    n: int, packed: bool, status: str = "200 OK", body: bytes = b"<p>hello</p>" * 500
) -> bytes:
    file = io.BytesIO()
    writer = WARCWriter(file, gzip=packed)
    for i in range(n):
        kind = [("Content-Type", "text/html; charset=utf-8")]
        headers = StatusAndHeaders(status, kind, protocol="HTTP/1.1")
        more = {"WARC-Date": "2026-01-01T00:00:00Z", "WARC-Record-ID": f"<urn:x:{i}>"}
        address = f"http://example.org/{i}"
        writer.write_record(
            writer.create_warc_record(
                address,
                "response",
                payload=io.BytesIO(body),
                http_headers=headers,
                warc_headers_dict=more,
            )
        )
    return file.getvalue()


def test_warc_gives_pages_with_address_and_time() -> None:
    for packed, name in ((True, "a.warc.gz"), (False, "a.warc")):
        documents, notices = read(name, warc(3, packed))
        assert notices == [] and len({d["id"] for d in documents}) == 3
        assert [d["url"] for d in documents] == [f"http://example.org/{i}" for i in range(3)]
        assert {d["time"] for d in documents} == {"2026-01-01T00:00:00Z"}
        assert {d["media_type"] for d in documents} == {"text/html"}
        assert all(d["html"] == "<p>hello</p>" * 500 and "text" not in d for d in documents)
        assert documents[0]["sha256"] == hashlib.sha256(b"<p>hello</p>" * 500).hexdigest()


def test_warc_that_was_packed_as_a_whole() -> None:
    assert len(read("a.warc.gz", gzip.compress(warc(3, False)))[0]) == 3


@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_warc_is_not_an_end(packed: bool) -> None:
    whole = warc(3, packed)
    name = "a.warc.gz" if packed else "a.warc"
    ends = [len(warc(n, packed)) for n in range(4)]
    for cut in range(1, len(whole), 37 if packed else 997):
        if min(abs(cut - e) for e in ends) < 5:
            continue  # at the border of two records nothing is missing, or its last line break
        documents, notices = read(name, whole[:cut])
        assert notices and reasons(notices)[-1] in (
            "truncated gzip",
            "truncated WARC",
            "damaged WARC",
        ), cut
        assert all(d["html"] == "<p>hello</p>" * 500 for d in documents)
        complete = sum(e <= cut for e in ends[1:])
        assert len(documents) in (
            complete,
            complete + 1,
        )  # the last one may lack its checksum alone


def test_warc_damage_is_seen_by_its_digest() -> None:
    whole = warc(2, False).replace(b"hello", b"hallo", 1)
    documents, notices = read("a.warc", whole)
    assert reasons(notices) == ["damaged WARC"] and len(documents) == 1


def test_warc_of_noise_and_of_what_is_no_page() -> None:
    assert reasons(read("a.warc", b"this is no archive\n" * 9)[1]) == ["damaged WARC"]
    documents, notices = read("a.warc", warc(2, False, "404 Not Found"))
    assert documents == [] and set(reasons(notices)) == {"not a page"}
    assert reasons(read("a.warc", warc(1, False), max_bytes=100)[1]) == ["larger than the limit"]


def test_names_that_leave_an_archive(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("../up.txt", "a/../../up.txt", "/root.txt", "C:\\x.txt", "..\\up.txt"):
            archive.writestr(name, "bad")
        archive.writestr("good/a.txt", "good")
        archive.writestr("inner.zip", b"PK")
        archive.writestr("zeros.txt", b"0" * 5_000_000, zipfile.ZIP_DEFLATED)
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    documents, notices = read("a.zip", content.getvalue())
    assert [d["path"] for d in documents] == ["a.zip!good/a.txt"]
    expected = ["path leads out"] * 5
    expected += ["archive in an archive", "decompression bomb", "link or device"]
    assert reasons(notices) == expected
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, kind in (
            ("../up.txt", tarfile.REGTYPE),
            ("hard.txt", tarfile.LNKTYPE),
            ("soft.txt", tarfile.SYMTYPE),
            ("pipe.txt", tarfile.FIFOTYPE),
            ("good/a.txt", tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            info.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"good"))
    for name in ("a.tar.gz", "a.tgz"):
        documents, notices = read(name, content.getvalue())
        assert [d["text"] for d in documents] == ["good"]
        assert reasons(notices) == ["path leads out"] + ["link or device"] * 3


def test_cut_archives() -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 3000
            archive.addfile(info, io.BytesIO(b"words " * 500))
    documents, notices = read("a.tar", content.getvalue()[:5000])
    assert len(documents) == 1 and reasons(notices) == ["damaged archive"]
    assert reasons(read("a.zip", b"PK\3\4 cut")[1]) == ["damaged archive"]
    assert reasons(read("a.tar", b"no tar at all")[1]) == ["damaged archive"]


def test_an_archive_may_hold_tables() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl.gz", gzip.compress(LINES))
        archive.writestr("b.parquet", parquet([{"text": "from a table"}]))
        archive.writestr("c.html", "<html lang='zh'><p>x</p></html>")
    documents, notices = read("a.zip", content.getvalue())
    assert notices == [] and len(documents) == 502
    assert documents[-1]["lang"] == "zh" and documents[-1]["kind"] == "page"


def test_random_damage_is_always_a_notice() -> None:
    """Bytes changed, cut out, put in, cut off: never an exception, never a hang."""
    rows = [{"text": f"Row {i}.", "id": i} for i in range(50)]
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.jsonl", LINES[:2000])
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 700
            archive.addfile(info, io.BytesIO(b"words x" * 100))
    whole = {"a.jsonl": LINES[:2000], "a.jsonl.gz": gzip.compress(LINES, mtime=0)}
    whole |= {"a.warc": warc(2, False), "a.warc.gz": warc(2, True), "a.parquet": parquet(rows)}
    whole |= {"a.zip": zipped.getvalue(), "a.tar": tarred.getvalue()}
    draw = random.Random(0)
    for name, content in whole.items():
        noticed = 0
        for _ in range(60):
            at = draw.randrange(len(content))
            middle = (b"", draw.randbytes(1), draw.randbytes(9), content[at : at + 9])[
                draw.randrange(4)
            ]
            tail = b"" if draw.random() < 0.2 else content[at + draw.randrange(9) :]
            noticed += bool(read(name, content[:at] + middle + tail)[1])
        assert noticed > 10, name


# ── folders and lists ─────────────────────────────────────────────────────────────────────────────


def test_folders_with_rings_and_closed_doors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/one.txt", "b/two.txt", "closed/three.txt", "d/deep/four.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "a" / "ring").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "out.txt").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe.txt")  # reading it would wait for ever
    scandir = os.scandir

    def guarded(path: Path):  # a mode of 000 does not stop root
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(reading.os, "scandir", guarded)
    items = list(reading.folder_documents(tmp_path, ORIGIN))
    assert [i["path"] for i in items if isinstance(i, dict)] == [
        "a/one.txt",
        "b/two.txt",
        "d/deep/four.txt",
    ]
    notices = sorted((n.file, n.reason) for n in items if isinstance(n, Notice))
    links = [(name, "link or device") for name in ("a/ring", "out.txt", "pipe.txt", "self")]
    assert notices == sorted([*links, ("closed", "no permission")])
    assert [n.reason for n in reading.folder_documents(tmp_path / "none", ORIGIN)] == [
        "missing or unreadable"
    ]


def test_a_list_of_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    right = hashlib.sha256(b"words").hexdigest()
    text = "".join(
        f'[[source]]\npath = "{path}"\nlicence = "{licence}"\nsha256 = "{digest}"\n'
        for path, licence, digest in (
            ("a.txt", "MIT", right),
            ("a.txt", "MIT", "0" * 64),
            ("a.txt", "Proprietary", right),
            ("none.txt", "MIT", right),
        )
    )
    (tmp_path / "sources.toml").write_text(text)
    entries = reading.listed_sources(tmp_path / "sources.toml")
    items = [i for e in entries for i in reading.source_documents(tmp_path, e)]
    assert items[0]["text"] == "words" and items[0]["licence"] == "MIT"
    expected = ["wrong sha256", "licence forbids use", "missing or unreadable"]
    assert [n.reason for n in items[1:]] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source = [", "sources.toml: not TOML"),
        ('[[source]]\npath = "a"\nlicence = "MIT"', "source 1 lacks sha256"),
        ('[[source]]\npath = "../a"\nlicence = "MIT"\nsha256 = "0"', "source 1: ../a leads out"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sources.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        reading.listed_sources(tmp_path / "sources.toml")


# ── memory ────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import re, sys
from pathlib import Path
from llmchain.data.corpus import Tally
from llmchain.data.reading import folder_documents
from llmchain.data.rows import sorted_rows, spool, write_shards

folder, form = Path(sys.argv[1]), sys.argv[2]
origin = dict(source="file", package="p", version="", licence="MIT", url="", time="")
entry = spool("all", folder_documents(folder / "in", origin), folder / "spools")
files = [folder / "spools" / f"{entry['spool']}.rows"]
tally = Tally()

def counted():
    for row in sorted_rows(files, folder / "pieces", 1 << 21):
        tally.add(row)
        yield row

index = write_shards(counted(), folder / form, form, 1 << 20)
print(entry["documents"], sum(s["rows"] for s in index), len(index))
# not ru_maxrss: a child inherits that of its parent
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, form: str) -> None:
    """Resident memory at 4 MB and at 40 MB: it must differ by far less than the 36 MB of text."""
    peaks = []
    for scale in (1, 10):
        folder = tmp_path / f"{scale}"
        (folder / "in").mkdir(parents=True)
        with (folder / "in" / "a.jsonl").open("w") as file:
            for i in range(400 * scale):
                name = hashlib.sha256(str(i).encode()).hexdigest()
                file.write(json.dumps({"id": name, "text": f"{name} {i} " * 140}) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), form],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        counts, peak = done.stdout.splitlines()
        read_, written, shards = map(int, counts.split())
        assert read_ == written == 400 * scale and shards > 2 * scale
        peaks.append(float(peak))
    print(f"peak {peaks[0]:.0f} MB at 4 MB of text, {peaks[1]:.0f} MB at 40 MB ({form})")
    assert peaks[1] - peaks[0] < 12, peaks
