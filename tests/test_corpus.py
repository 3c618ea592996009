"""What chapter 01_collect promises and a notebook cannot show well."""

import ast
import base64
import hashlib
import importlib.metadata
import struct
from collections import Counter
from email.message import Message
from pathlib import Path

import pytest

from llmchain.data import corpus, fetching, reading
from llmchain.data.rows import ADVICE, PASSED, licence_forbids, sorted_rows


class FakeDistribution:
    """A distribution in a folder, as importlib.metadata would present it."""

    version = "1.0"

    def __init__(self, root: Path, name: str = "Fake", record: str | None = None) -> None:
        self.root, self.record = root, record
        self.metadata = Message()
        self.metadata["Name"] = name
        self.metadata["License-Expression"] = "MIT"
        self.metadata.set_payload("A description of the package.")

    def read_text(self, name: str) -> str | None:
        if self.record is not None:
            return self.record
        files = sorted(p for p in self.root.rglob("*") if p.is_file() or p.is_symlink())
        rows = [f"{p.relative_to(self.root).as_posix()},,{p.lstat().st_size}" for p in files]
        return "\n".join(rows)

    def locate_file(self, path: str) -> Path:
        return self.root / path


@pytest.fixture
def package(tmp_path: Path) -> FakeDistribution:
    root = tmp_path / "site"
    (root / "fake").mkdir(parents=True)
    (root / "fake" / "a.py").write_text('"""Module a."""\ndef f():\n    """Do f."""\n')
    (root / "fake" / "README.md").write_text("# Fake\nA readme.")
    return FakeDistribution(root)


def test_documents_account_for_themselves(package: FakeDistribution) -> None:
    documents, skipped = corpus.gather(corpus.package_documents(package, 10_000))
    assert {d["id"] for d in documents} == {
        "Fake/fake/README.md",
        "Fake/fake/a.py",
        "Fake/fake/a.py#f",
    }
    assert all(d["licence"] == "MIT" and d["version"] == "1.0" for d in documents)
    assert not any(str(package.root) in str(d) for d in documents)
    assert skipped == Counter()


def test_nothing_is_executed(package: FakeDistribution, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    code = f'"""Innocent."""\nopen({str(trap)!r}, "w")\nraise SystemExit\n'
    (package.root / "fake" / "setup.py").write_text(code)
    documents, _ = corpus.gather(corpus.package_documents(package, 10_000))
    assert "Innocent." in {d["text"] for d in documents}
    assert not trap.exists()


def test_links_and_dots_do_not_lead_out(package: FakeDistribution, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret words")
    (package.root / "fake" / "link.md").symlink_to(tmp_path / "secret.md")
    (package.root / "fake" / "loop.md").symlink_to(package.root / "fake" / "loop.md")
    package.record = package.read_text("RECORD") + "\n../secret.md,,12\n/etc/README.md,,1"
    documents, skipped = corpus.gather(corpus.package_documents(package, 10_000))
    assert not any("secret" in d["text"] for d in documents)
    assert skipped["outside the package folder"] == 2
    assert skipped["missing or unreadable"] >= 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.md", b"words \xff\xfa", "not UTF-8"),
        ("cut.md", b"\xff\xfe\xfa", "broken UTF-16"),
        ("bad.py", b'"""x"""\ndef (:\n', "syntax error"),
        ("deep.py", b'"""x"""\n' + b"(" * 5000 + b")" * 5000, "syntax error"),
        ("nul.md", b"a\0b", "NUL byte"),
        ("empty.md", b" \n", "empty"),
        ("lone.py", b'"""\\ud800 half a pair"""\n', "lone surrogate"),
    ],
)
def test_bad_files_are_counted(
    package: FakeDistribution, name: str, content: bytes, reason: str
) -> None:
    (package.root / "fake" / name).write_bytes(content)
    documents, skipped = corpus.gather(
        corpus.package_documents(package, 100_000, max_file_bytes=20_000)
    )
    assert skipped[reason] == 1, skipped
    assert len(documents) == 3
    for document in documents:
        document["text"].encode()


def test_a_large_file_is_refused_not_cut(package: FakeDistribution) -> None:
    (package.root / "fake" / "big.md").write_bytes(b"x" * 3000)
    documents, skipped = corpus.gather(
        corpus.package_documents(package, 100_000, max_file_bytes=2000)
    )
    assert skipped["larger than the limit"] == 1
    assert len(documents) == 3


def test_no_record_is_no_crash(tmp_path: Path) -> None:
    package = FakeDistribution(tmp_path, record="")
    package.read_text = lambda name: None
    assert corpus.gather(corpus.package_documents(package, 1000)) == (
        [],
        Counter({"no list of files": 1}),
    )
    assert corpus.supply(package) == 0


def documents_of(packages: list[FakeDistribution], folder: Path) -> list[dict]:
    entries = corpus.collect(packages, 6000, folder)
    rows = sorted_rows([folder / f"{e['spool']}.rows" for e in entries], folder / "sort")
    return list(rows)


def test_water_fills_small_packages_first(tmp_path: Path) -> None:
    packages = []
    for name, n in (("Large", 400), ("Small", 3), ("Middle", 400)):
        root = tmp_path / name
        root.mkdir()
        lines = "\n".join(f"def f{i}():\n    '''{name} {i:>17}'''" for i in range(n))
        (root / "m.py").write_text(lines)
        packages.append(FakeDistribution(root, name))
    documents = documents_of(packages, tmp_path / "one")
    size = Counter()
    for document in documents:
        size[document["package"]] += len(document["text"].encode())
    assert size["Small"] < 100
    assert size["Large"] + size["Middle"] + size["Small"] <= 6000
    assert abs(size["Large"] - size["Middle"]) < 100
    assert size["Large"] > 2900
    assert documents == documents_of(packages[::-1], tmp_path / "two")


def test_twin_catalogues_count_once(package: FakeDistribution) -> None:
    folder = package.root / "fake" / "locale" / "zh_CN" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "fake.po").write_text('msgid "Open"\nmsgstr "打开"\n')
    (folder / "fake.mo").write_bytes(b"\xde\x12\x04\x95")
    documents, skipped = corpus.gather(corpus.package_documents(package, 10_000))
    assert [d["text"] for d in documents if d["kind"] == "message"] == ["打开"]
    assert skipped["twin of a .po file"] == 1


def test_read_mo_survives_any_numbers() -> None:
    for n, ids, texts in [(1, 28, 36), (2**32 - 1, 28, 28), (1, 2**32 - 1, 0), (0, 20, 20)]:
        content = b"\xde\x12\x04\x95" + struct.pack("<6I", 0, n, ids, texts, 0, 0) + b"\xff" * 16
        try:
            corpus.read_mo(content)
        except ValueError as error:
            assert "read_mo" in str(error) or "codec" in str(error)


def test_read_mo_agrees_with_gettext() -> None:
    import gettext

    checked = 0
    for distribution in importlib.metadata.distributions():
        for path in corpus.listed_files(distribution):
            if path.endswith(".mo") and "zh" in path and checked < 5:
                content = Path(distribution.locate_file(path)).read_bytes()
                with open(distribution.locate_file(path), "rb") as file:
                    reference = gettext.GNUTranslations(file)
                for message, translation in corpus.read_mo(content)[:50]:
                    if "\4" not in message and reference.gettext(message) != message:
                        assert reference.gettext(message) == translation
                checked += 1
    if not checked:
        pytest.skip("no compiled catalogue is installed")


def test_plural_forms_are_reduced_to_the_first() -> None:
    strings = [b"one file\0%d files", "一个文件\0%d 个文件".encode()]
    at = 28 + 16
    content = struct.pack("<7I", 0x950412DE, 0, 1, 28, 36, 0, 0)
    content += struct.pack("<4I", len(strings[0]), at, len(strings[1]), at + len(strings[0]) + 1)
    assert corpus.read_mo(content + b"\0".join(strings)) == [("one file", "一个文件")]


def test_names_decide_the_kind() -> None:
    assert corpus.kind_of("pkg/README") == "readme"
    assert corpus.kind_of("pkg/licenses.py") == "docstring"
    assert corpus.kind_of("pkg-1.dist-info/RECORD") == ""
    assert corpus.kind_of("pkg/METADATA") == ""


def test_docstrings_like_python_itself() -> None:
    import inspect
    import textwrap

    found = dict(corpus.docstrings(inspect.getsource(textwrap)))
    assert found["TextWrapper"] == inspect.getdoc(textwrap.TextWrapper)
    assert found["dedent"] == inspect.getdoc(textwrap.dedent)


def test_a_file_that_was_edited_is_not_the_version_it_says(package: FakeDistribution) -> None:
    good = package.root / "fake" / "README.md"
    digest = base64.urlsafe_b64encode(hashlib.sha256(good.read_bytes()).digest()).decode()
    package.record = f"fake/README.md,sha256={digest.rstrip('=')},16\nfake/a.py,sha256=AAAA,9"
    documents, reasons = corpus.gather(corpus.package_documents(package, 10_000))
    assert [d["path"] for d in documents] == ["fake/README.md"]
    assert documents[0]["sha256"] == hashlib.sha256(good.read_bytes()).hexdigest()
    assert reasons == Counter({"differs from its RECORD": 1})


def test_a_licence_that_forbids_costs_the_package(package: FakeDistribution) -> None:
    package.metadata.replace_header("License-Expression", "LicenseRef-Proprietary")
    notices = list(corpus.package_documents(package, 10_000))
    assert [n.reason for n in notices] == ["licence forbids use"]
    assert str(notices[0]).startswith("Fake: byte 0: licence forbids use; leave it out")


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("MIT", False),
        ("unknown", False),
        ("CC-BY-NC-SA-4.0", True),
        ("CC BY-ND 3.0", True),
        ("Other/Proprietary License", True),
        ("LicenseRef-Proprietary OR MIT", False),
        ("CC-BY-NC-4.0 OR CC-BY-ND-4.0", True),
        ("BSD-3-Clause AND MIT", False),
        ("Creative Commons Attribution Non-Commercial", True),
    ],
)
def test_licences_that_forbid(licence: str, forbids: bool) -> None:
    assert licence_forbids(licence) is forbids


def test_every_reason_has_an_advice() -> None:
    raised = set()
    sources = [Path(m.__file__).read_text(encoding="utf-8") for m in (corpus, fetching, reading)]
    sources.append(Path(corpus.__file__).with_name("rows.py").read_text(encoding="utf-8"))
    for call in (n for s in sources for n in ast.walk(ast.parse(s))):
        place = {"BadInput": 0, "Notice": 1, "no": 0}.get(
            getattr(getattr(call, "func", 0), "id", "")
        )
        if place is not None and len(call.args) > place:
            given = call.args[place]
            parts = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
            raised |= {p.value for p in parts if isinstance(p, ast.Constant)}
    assert len(raised) > 40
    assert raised - set(ADVICE) - set(PASSED) == set()


def test_the_datasheet_says_what_was_recorded(package: FakeDistribution, tmp_path: Path) -> None:
    (package.root / "fake" / "bad.md").write_bytes(b"\xff\xfa")
    entries = corpus.collect([package], 10_000, tmp_path / "spools")
    tally = corpus.Tally()
    for row in sorted_rows([tmp_path / "spools" / f"{entries[0]['spool']}.rows"], tmp_path):
        tally.add(row)
    sheet = corpus.datasheet(entries, tally, {"seed": 0})
    assert sheet == corpus.datasheet(entries, tally, {"seed": 0})
    assert "| docstring | 2 |" in sheet and "| MIT | 3 |" in sheet
    assert "- not UTF-8: 1 (save it as UTF-8" in sheet
