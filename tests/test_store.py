"""The store: complete or not there, and damage is seen."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmchain.workbench.store import Store, read_json, write_json


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def publish(store: Store, files: dict[str, bytes], name: str = "a/b") -> str:
    folder = store.fresh()
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return store.publish(name, folder, {"profile": "cpu"})


def test_same_content_same_hash_whatever_the_facts(store: Store) -> None:
    first = publish(store, {"x": b"1", "d/y": b"2"})
    assert publish(store, {"d/y": b"2", "x": b"1"}) == first
    assert publish(store, {"x": b"1", "d/z": b"2"}) != first
    assert store.problems("a/b", first) == []
    assert not list((store.folder / "tmp").iterdir()), "nothing is left behind"


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.binary(max_size=20), min_size=1, max_size=4
    )
)
def test_what_is_published_comes_back(store: Store, files: dict[str, bytes]) -> None:
    digest = publish(store, files)
    folder = store.path("a/b", digest)
    assert {n: (folder / n).read_bytes() for n in files} == files
    assert store.latest("a/b") == digest


def test_a_flipped_byte_an_extra_and_a_missing_file_are_seen(store: Store) -> None:
    digest = publish(store, {"x": b"1234", "y": b"5"})
    folder = store.path("a/b", digest)
    (folder / "x").chmod(0o644)
    (folder / "x").write_bytes(b"1235")
    assert "x is missing, added or changed" in store.problems("a/b", digest)[0]
    assert store.latest("a/b") is None
    assert publish(store, {"x": b"1234", "y": b"5"}) == digest, "published again, it is whole again"
    assert store.problems("a/b", digest) == []
    (folder / "z").write_bytes(b"")
    assert len(store.problems("a/b", digest)) == 1
    (folder / "z").unlink()
    (folder / "y").unlink()
    assert len(store.problems("a/b", digest)) == 1


def test_a_torn_manifest_is_no_artifact_and_the_older_one_is_used(store: Store) -> None:
    older = publish(store, {"x": b"1"})
    newer = publish(store, {"x": b"2"})
    os.utime(store.path("a/b", older) / "manifest.json", (1, 1))
    assert store.latest("a/b") == newer
    (store.path("a/b", newer) / "manifest.json").write_text('{"name": "a/b", "fil')
    assert store.latest("a/b") == older


def test_a_manifest_that_lists_other_content_is_refused(store: Store) -> None:
    first, second = publish(store, {"x": b"1"}), publish(store, {"x": b"2"})
    a, b = store.path("a/b", first), store.path("a/b", second)
    (a / "x").chmod(0o644)
    (a / "x").write_bytes(b"2")
    (a / "manifest.json").write_text((b / "manifest.json").read_text())
    assert store.problems("a/b", first), "consistent in itself, but not what its name says"


def test_links_and_empty_folders_are_refused(store: Store, tmp_path: Path) -> None:
    folder = store.fresh()
    (folder / "secret").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="secret is not a plain file"):
        store.publish("a/b", folder, {})
    with pytest.raises(ValueError, match="holds no file"):
        store.publish("a/b", store.fresh(), {})


@pytest.mark.parametrize("name", ["../x", "a", "a/b/c", "A/b", "a/../b", "", "a/b\n"])
def test_names_cannot_lead_out(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="artifact name"):
        store.path(name, "0" * 64)
    with pytest.raises(ValueError, match="artifact name"):
        store.path("a/b", "../../x")


def test_json_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert read_json(tmp_path / "none.json") is None
    path.write_bytes(b"\xff\xfe")
    assert read_json(path) is None


def test_a_result_counts_only_while_its_outputs_verify(store: Store, tmp_path: Path) -> None:
    digest = publish(store, {"x": b"1"})
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "record.json", {"finished": True, "outputs": {"a/b": digest}})
    (folder / "notebook.ipynb").write_text("{}")
    store.keep_result("01_x", "k", folder)
    assert store.result("01_x", "k")
    (store.path("a/b", digest) / "x").chmod(0o644)
    (store.path("a/b", digest) / "x").write_bytes(b"0")
    assert store.result("01_x", "k") is None
