"""Artifacts by name and content: written aside, hashed, then renamed into place.

    <runs>/store/artifacts/corpus+clean/<sha256>/   files, read-only, and manifest.json
    <runs>/store/results/03_deduplicate/<key>/      a finished chapter: record, notebook, figures
    <runs>/store/work/<key>/                        checkpoints of a chapter that is under way
    <runs>/store/locks/<key>                        held by the process that works on <key>

An artifact exists when its manifest verifies. The manifest is written last, inside a folder that
only then gets its final name, so nothing half-written can be found.
"""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmchain.workbench.contract import ARTIFACT, project_root

MANIFEST = "manifest.json"


def runs_folder() -> Path:
    """Where runs and the store lie: LLMCHAIN_RUNS, else runs/ of the checkout."""
    given = os.environ.get("LLMCHAIN_RUNS")
    return Path(given).expanduser().resolve() if given else project_root() / "runs"


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """`value` as JSON, complete or not at all: temporary file, fsync, rename.

    What is soon written again need not be `durable`: a power cut may then lose it, nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The JSON in `path`, or None if the file is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def hash_files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file but the manifest; ValueError at a link or other thing."""
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(
                f"store: {path.relative_to(folder)} is not a plain file; artifacts hold files"
            )
        if path.is_file() and path.name != MANIFEST:
            files[path.relative_to(folder).as_posix()] = sha256(path)
    return files


def digest_of(files: dict[str, str]) -> str:
    """The artifact's own hash: SHA-256 over its sorted (path, hash) pairs."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


class Store:
    """The artifacts and results under one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or runs_folder() / "store"

    def path(self, name: str, digest: str) -> Path:
        """Where artifact `name` with that hash lies; ValueError if the name is not kind/name."""
        if not ARTIFACT.fullmatch(name) or not digest.isalnum():
            raise ValueError(f"store: {name!r} is not an artifact name of the form kind/name")
        return self.folder / "artifacts" / name.replace("/", "+") / digest

    def fresh(self) -> Path:
        """An empty folder on the store's own file system, to be filled and published."""
        folder = self.folder / "tmp" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    def publish(self, name: str, folder: Path, facts: dict[str, Any]) -> str:
        """Move a filled folder into the store as artifact `name`; returns its hash.

        ValueError if it is empty or holds links. The folder is gone afterwards."""
        files = hash_files(folder)
        if not files:
            raise ValueError(f"store: `{name}` holds no file")
        digest = digest_of(files)
        target = self.path(name, digest)
        if self.problems(name, digest) == []:
            self._newest(target)
            shutil.rmtree(folder)
            return digest
        for path in folder.rglob("*"):
            if path.is_file():
                path.chmod(0o444)
                _fsync(path)
        manifest = {"name": name, "sha256": digest, "files": files, "made": time.time(), **facts}
        write_json(folder / MANIFEST, manifest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # damaged: set aside, never mixed with the new one
            target.rename(self.fresh() / "damaged")
        folder.rename(target)
        _fsync(target.parent)
        self._newest(target)
        return digest

    def _newest(self, target: Path) -> None:
        """Make an artifact the latest of its name; later than all others even if the clock went back."""
        others = [p.stat().st_mtime_ns for p in target.parent.glob(f"*/{MANIFEST}")]
        now = max([time.time_ns(), *(t + 1000 for t in others)])
        os.utime(target / MANIFEST, ns=(now, now))

    def problems(self, name: str, digest: str) -> list[str]:
        """What keeps the artifact from being used, one line each; empty when it verifies."""
        folder = self.path(name, digest)
        if folder.is_symlink():
            return [f"{name} {digest[:12]}: is a link; artifacts are folders of the store"]
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            return [f"{name} {digest[:12]}: no readable manifest"]
        try:
            files = hash_files(folder)
        except ValueError as error:
            return [f"{name} {digest[:12]}: {error}"]
        listed = manifest.get("files", {})
        wrong = [f for f in sorted({*files, *listed}) if files.get(f) != listed.get(f)]
        if digest_of(files) != digest and not wrong:
            wrong = [MANIFEST]
        return [f"{name} {digest[:12]}: {f} is missing, added or changed" for f in wrong]

    def manifest(self, name: str, digest: str) -> dict[str, Any]:
        """The manifest of an artifact; FileNotFoundError if it is not there."""
        found = read_json(self.path(name, digest) / MANIFEST)
        if found is None:
            raise FileNotFoundError(f"store: no artifact {name} {digest[:12]}")
        return found

    def latest(self, name: str) -> str | None:
        """Hash of the newest artifact of that name that verifies, or None."""
        folder = self.path(name, "x").parent
        found = [p for p in folder.glob(f"*/{MANIFEST}")]
        for path in sorted(found, key=lambda p: p.stat().st_mtime_ns, reverse=True):
            if not self.problems(name, path.parent.name):
                return path.parent.name
        return None

    def result(self, chapter: str, key: str) -> tuple[Path, dict[str, Any]] | None:
        """Folder and record of a finished chapter if it and all its outputs verify, else None."""
        folder = self.folder / "results" / chapter / key
        record = read_json(folder / "record.json")
        if record is None or not record.get("finished") or not (folder / "notebook.ipynb").exists():
            return None
        if any(self.problems(name, digest) for name, digest in record["outputs"].items()):
            return None
        return folder, record

    def keep_result(self, chapter: str, key: str, folder: Path) -> None:
        """Keep a copy of a finished chapter's run folder under its key, complete or not at all."""
        target = self.folder / "results" / chapter / key
        copy = self.fresh()
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tmp"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            target.rename(self.fresh() / "replaced")
        copy.rename(target)
        _fsync(target.parent)

    def work(self, key: str) -> Path:
        """The folder of checkpoints of the chapter run with that key."""
        folder = self.folder / "work" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def lock(self, key: str) -> Any:
        """A lock between processes: who comes second waits, then finds the result."""
        from filelock import FileLock

        path = self.folder / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)


def garbage(store: Store, recent: float = 3600.0, without: Collection[Path] = ()) -> list[Path]:
    """Folders of the store that no kept run needs and nobody has touched for `recent` seconds.

    A run is kept while its folder exists and is not in `without`. The newest artifact of each name
    stays, for notebooks that are opened by hand, and so do the checkpoints of a chapter that has not
    finished."""
    runs = store.folder.parent
    records = [read_json(p) or {} for p in runs.glob("interactive/*/record.json")]
    kept = [p.parent for p in runs.glob("*/summary.json") if p.parent not in without]
    for path in (folder / "summary.json" for folder in kept):
        records += (read_json(path) or {}).get("chapters", [])
    # a chapter that stopped before its summary was written has said in its own folder what it uses
    records += [
        read_json(p) or {} for p in runs.glob("*/*/job.json") if p.parent.parent not in without
    ]
    keys = {r.get("key") for r in records}
    used = {
        store.path(name, digest)
        for r in records
        for name, digest in [*(r.get("inputs") or {}).items(), *(r.get("outputs") or {}).items()]
    }
    names = {p.parent.name.replace("+", "/") for p in store.folder.glob("artifacts/*/*")}
    used |= {store.path(n, digest) for n in names if (digest := store.latest(n))}
    found = [p for p in store.folder.glob("artifacts/*/*") if p not in used]
    found += [p for p in store.folder.glob("results/*/*") if p.name not in keys]
    done = {p.name for p in store.folder.glob("results/*/*")}
    found += [p for p in store.folder.glob("work/*") if p.name in done]
    found += list(store.folder.glob("tmp/*"))
    now = time.time()
    return sorted(p for p in found if now - p.stat().st_mtime > recent)


def discard(folder: Path) -> None:
    """Delete a folder of the store. It is renamed first, so that a half-deleted one is never found."""
    aside = folder.with_name(f".{uuid.uuid4().hex}.gone")
    folder.rename(aside)
    shutil.rmtree(aside)


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(name: str, folder: Path, profile: str) -> str:
    """Publish a copy of `folder` as artifact `name` (for stand-ins made by hand)."""
    store = Store()
    copy = store.fresh()
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    return store.publish(name, copy, {"made_by": "by hand", "profile": profile})


if __name__ == "__main__":  # python -m llmchain.workbench.store put corpus/clean FOLDER
    import argparse

    parser = argparse.ArgumentParser(description="publish a folder as an artifact")
    parser.add_argument("action", choices=["put"])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--profile", default="cpu")
    arguments = parser.parse_args()
    print(put(arguments.name, arguments.folder, arguments.profile))
