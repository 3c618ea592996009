"""The data catalogue: tiers, hashes, and nothing silent."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

from llmchain.workbench import catalog


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder of local sets with a manifest, and a catalogue that names it."""
    base = tmp_path / "sets"
    (base / "small").mkdir(parents=True)
    content = b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'
    (base / "small" / "train.jsonl").write_bytes(content)
    entry = {"path": "small/train.jsonl", "sha256": hashlib.sha256(content).hexdigest()}
    (base / "MANIFEST.json").write_text(json.dumps([entry]))
    (tmp_path / "nbs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalog.toml").write_text(
        '[small]\ntask = "t"\nlicence = "MIT"\nlocal = { folder = "small" }\n'
    )
    monkeypatch.setenv("LLMCHAIN_ROOT", str(tmp_path))
    monkeypatch.setenv("LLMCHAIN_DATA", str(base))
    return base


def test_local_rows_are_checked_by_hash(local: Path) -> None:
    found = catalog.find("small")
    assert found.tier == "local" and len(found.rows("train")) == 2
    (local / "small" / "train.jsonl").write_bytes(b'{"text": "c"}\n')
    with pytest.raises(ValueError, match="train.jsonl differs from its SHA-256"):
        found.rows("train")


def test_paths_cannot_lead_out(local: Path) -> None:
    with pytest.raises(ValueError, match="leads out"):
        catalog.find("small").file("../MANIFEST.json")
    with pytest.raises(FileNotFoundError, match="no file `test.jsonl`"):
        catalog.find("small").rows("test")


def test_a_tier_that_is_not_there_is_an_error_not_another_tier(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="has no tier `hub`; it has: local"):
        catalog.find("small", "hub")
    with pytest.raises(KeyError, match="did you mean `small`"):
        catalog.find("smal")
    monkeypatch.delenv("LLMCHAIN_DATA")
    with pytest.raises(FileNotFoundError, match="set LLMCHAIN_DATA"):
        catalog.find("small", "local")
    monkeypatch.setenv("LLMCHAIN_DATA", str(local / "nowhere"))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        catalog.find("small")


def test_auto_is_local_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMCHAIN_ROOT", raising=False)
    monkeypatch.delenv("LLMCHAIN_DATA", raising=False)
    assert catalog.resolve_tier("sentiment_en", "auto", ROOT) == "embedded"
    monkeypatch.setenv("LLMCHAIN_DATA", "anything")
    assert catalog.resolve_tier("sentiment_en", "auto", ROOT) == "local"


def package(folder: Path, name: str, *lines: str) -> None:
    """What pip leaves of an installed package."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    told = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines]
    (info / "METADATA").write_text("\n".join(told) + "\n")


def forget() -> None:
    """What was read of the environment is read again."""
    catalog.course_packages.cache_clear()
    catalog.installed.cache_clear()


def test_what_the_reader_installs_besides_is_not_of_the_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needs of needs count, extras and markers as asked for; a peer of the benchmarks does not."""
    extras = "Provides-Extra: app", "Provides-Extra: bench"
    needs = "Requires-Dist: Near_By[big]", 'Requires-Dist: server; extra == "app"', 'Requires-Dist: peer; extra == "bench"'  # fmt: skip
    package(tmp_path, "llmchain", *extras, *needs)
    wanted = 'Requires-Dist: far; extra == "big"', 'Requires-Dist: unasked; extra == "small"'
    package(tmp_path, "near-by", "Requires-Dist: missing>=2", *wanted)
    package(tmp_path, "far", "Requires-Dist: llmchain", 'Requires-Dist: old; python_version < "3"')
    for name in ("server", "peer", "unasked", "old", "yours"):
        package(tmp_path, name)
    found = list(catalog.metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(catalog.metadata, "distributions", lambda: found)
    forget()
    try:
        assert catalog.course_packages() == {"near-by", "far", "server"}
        before = catalog.environment_fingerprint()
        found[:] = [d for d in found if d.metadata["Name"] != "yours"]
        forget()
        assert catalog.environment_fingerprint() == before
        found[:] = [d for d in found if d.metadata["Name"] not in ("llmchain", "far")]
        forget()
        assert catalog.course_packages() == {"near-by", "server", "peer", "unasked", "old"}
        assert catalog.environment_fingerprint() != before
    finally:
        forget()


def test_rated_sentences_of_the_source_distribution() -> None:
    found = catalog.find("sentiment_en", "embedded", ROOT)
    splits = {s: found.rows(s) for s in ("train", "validation", "test")}
    sizes = {s: len(r) for s, r in splits.items()}
    assert sizes["train"] > 7000 and min(sizes.values()) > 800
    texts = [r["text"].lower() for rows in splits.values() for r in rows]
    assert len(set(texts)) == len(texts), "no text stands in two splits"
    for rows in splits.values():
        assert all(r["label"] == int(r["rating"] > 0) and abs(r["rating"]) >= 0.5 for r in rows)
        assert 0.4 < sum(r["label"] for r in rows) / len(rows) < 0.6


def test_weights_with_a_wrong_hash_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = catalog.entries(ROOT)
    entry["weights/minilm"]["embedded"]["sha256"] = "0" * 64
    monkeypatch.setattr(catalog, "entries", lambda root=None: entry)
    with pytest.raises(
        ValueError, match="model.safetensors has SHA-256 53aa51172d14…, expected 000000000000"
    ):
        catalog.find("weights/minilm", "embedded", ROOT)


def test_hub_is_pinned_hash_checked_and_takes_no_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        (tmp_path / "model.safetensors").write_bytes(b"not the weights")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ValueError, match="not used"):
        catalog.find("weights/minilm", "hub", ROOT)
    assert len(str(asked["revision"])) == 40 and not any(
        "bin" in p for p in asked["allow_patterns"]
    )

    def unreachable(name: str, **options: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ConnectionError, match="no route to host"):
        catalog.find("weights/minilm", "hub", ROOT)


def test_an_archive_member_that_is_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link, io.BytesIO())
    with pytest.raises((ValueError, KeyError)):
        list(catalog._ratings(path, {"members": ["a.txt"], "neutral": 0.5}))


def test_an_authored_set_may_be_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    place = '{ kind = "authored", folder = "bugs", files = "list_*.py" }'
    entry = f'[bugs]\ntask = "t"\nlicence = "Apache-2.0"\nembedded = {place}\n'
    (tmp_path / "data" / "catalog.toml").write_text(entry)
    (tmp_path / "bugs").mkdir()
    (tmp_path / "bugs" / "list_a.py").write_text("A = 1\n")
    first = catalog.find("bugs", root=tmp_path).fingerprint
    (tmp_path / "bugs" / "other.py").write_text("")
    assert catalog.find("bugs", root=tmp_path).fingerprint == first, "not one of its files"
    (tmp_path / "bugs" / "list_a.py").write_text("A = 2\n")
    assert catalog.find("bugs", root=tmp_path).fingerprint != first
