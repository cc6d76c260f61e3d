"""Build contexts as clients have sent them, kept so that the next build is sent only what changed.

The bytes of files are stored by their digest and the tree is a list of records, so no name that a client chose ever
becomes a name on this host: there is no path to climb out of and no link to follow (attacks 7 and 16).
"""

import hashlib
import itertools
import logging
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from longshore.build.trees import Entry
from longshore.build.usage import Usage
from longshore.core.engine import Engine
from longshore.storage.content import space_errors

log = logging.getLogger("longshore.api.buildkit")

LOCAL, ID = "source.local", 25  # BuildKit's word for a context of a client; characters of an id
MAX_KEPT = 64  # contexts; the one not used for longest goes first
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Record(msgspec.Struct, array_like=True, frozen=True):
    """One file of a context. `mode` has the kind and the permissions as in stat(2)."""

    path: bytes  # relative, as the client's file system has it
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int  # nanoseconds
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    digest: str = ""  # hex, of a regular file's bytes

    def same_file(self, other: "Record") -> bool:
        """Whether a client that says so of a file means the file we have, as rsync judges it."""
        return msgspec.structs.replace(self, digest="") == msgspec.structs.replace(other, digest="")


class Index(msgspec.Struct, array_like=True):
    """What is on disk of one context. Nothing is synced to disk: after a crash of the machine it is void."""

    boot: str
    name: str
    records: list[Record]


class Contexts:
    """The folder of all contexts. Used from the event loop alone."""

    def __init__(self, root: Path) -> None:
        self._indices, self._blobs, self._partial = root / "indices", root / "blobs", root / "partial"
        for folder in (root, self._indices, self._blobs, self._partial):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._partial.iterdir():
            leftover.unlink()
        self._names = itertools.count()
        self._boot = BOOT_ID.read_text().strip()
        self._busy: dict[int, set[str]] = {}  # digests that a sync or an open tree needs
        self.sweep()  # what a daemon before this one, or another boot, has left

    def known(self, key: str) -> dict[bytes, Record]:
        """What is here of a context, by path; only files whose bytes are still there."""
        index = self._load(self._indices / _file_name(key))
        if index is None:
            return {}
        return {record.path: record for record in index.records if self._has(record)}

    def save(self, key: str, name: str, records: Mapping[bytes, Record]) -> None:
        """Remember a context. Raises OutOfSpace."""
        path = self._indices / _file_name(key)
        temporary = self._partial / f"index-{next(self._names)}"
        with space_errors(path.parent):
            temporary.write_bytes(msgspec.msgpack.encode(Index(self._boot, name, list(records.values()))))
            temporary.rename(path)

    def writer(self) -> "BlobWriter":
        return BlobWriter(self._partial / str(next(self._names)), self._blobs)

    def hold(self) -> tuple[int, set[str]]:
        """A set of digests that are kept until `drop`."""
        number = next(self._names)
        self._busy[number] = set()
        return number, self._busy[number]

    def drop(self, number: int) -> None:
        self._busy.pop(number, None)

    def path(self, digest: str) -> Path:
        return self._blobs / digest

    def usage(self) -> list[Usage]:
        """The contexts as entries of the build cache; a file that several of them have counts with the first."""
        found: list[Usage] = []
        seen: set[str] = set()
        for path in sorted(self._indices.iterdir()):
            index = self._load(path)
            if index is None:
                continue
            fresh = {record.digest: record.size for record in index.records if record.digest not in seen}
            seen.update(fresh)
            status = path.stat()
            size, used = status.st_size + sum(fresh.values()), status.st_mtime
            what = f"local source for {index.name}"
            found.append(Usage(path.name[:ID], "", LOCAL, what, False, False, size, used, used, 1))
        return found

    def forget(self, ids: Iterable[str]) -> int:
        """Remove contexts by their ids in `usage`; returns the bytes freed. What builds read now stays until then."""
        wanted = frozenset(ids)
        freed = 0
        for path in list(self._indices.iterdir()):
            if path.name[:ID] in wanted:
                freed += path.stat().st_size
                path.unlink()
        return freed + self.sweep()

    def sweep(self) -> int:
        """Remove what no context needs; returns the bytes freed."""
        kept = {digest for digests in self._busy.values() for digest in digests}
        paths = sorted(self._indices.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in paths[MAX_KEPT:]:
            path.unlink()
        for path in paths[:MAX_KEPT]:
            index = self._load(path)
            if index is None:
                path.unlink()
            else:
                kept.update(record.digest for record in index.records)
        freed = 0
        for blob in os.scandir(self._blobs):
            if blob.name not in kept:
                freed += blob.stat().st_size
                Path(blob.path).unlink()
        return freed

    def _load(self, path: Path) -> Index | None:
        try:
            index = msgspec.msgpack.decode(path.read_bytes(), type=Index)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return index if index.boot == self._boot else None

    def _has(self, record: Record) -> bool:
        if not stat.S_ISREG(record.mode):
            return True
        try:
            return self.path(record.digest).stat().st_size == record.size
        except FileNotFoundError:
            return False


def contexts_of(engine: Engine) -> Contexts:
    """The daemon's, beside its content store; made by the first who asks."""
    contexts = engine.kept.get(Contexts)
    if contexts is None:
        contexts = engine.kept[Contexts] = Contexts(engine.images.content.root.parent / "contexts")
    return contexts


class BlobWriter:
    """Takes the bytes of one file and gives them their digest as name."""

    def __init__(self, temporary: Path, blobs: Path) -> None:
        self._temporary, self._blobs = temporary, blobs
        self._file = temporary.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Raises OutOfSpace."""
        with space_errors(self._blobs):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)

    def commit(self) -> str:
        self._file.close()
        digest = self._hash.hexdigest()
        self._temporary.rename(self._blobs / digest)
        return digest

    def abort(self) -> None:
        """Remove what was written; fine after `commit`."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class SyncedTree:
    """A context as the builder reads it (longshore.build.ports.ContextFiles)."""

    def __init__(self, contexts: Contexts, hold: int, records: Mapping[bytes, Record]) -> None:
        self._contexts, self._hold = contexts, hold
        self._records = {"/" + os.fsdecode(path): record for path, record in records.items()}
        self._children: dict[str, list[str]] = {"/": []}
        for path in self._records:
            parent, name = posixpath.split(path)
            self._children.setdefault(parent, []).append(name)

    def entry(self, path: str) -> Entry | None:
        record = self._records.get(path)
        if record is None:
            return Entry("/", stat.S_IFDIR, 0o755, 0, 0, 0, 0.0) if path == "/" else None
        return Entry(
            path, stat.S_IFMT(record.mode), stat.S_IMODE(record.mode), record.uid, record.gid, record.size,
            record.mtime / 1e9, os.fsdecode(record.link), record.device,
            real=str(self._contexts.path(record.digest)) if record.digest else "",
        )  # fmt: skip

    def children(self, path: str) -> list[str]:
        return sorted(self._children.get(path, ()))

    def open(self, entry: Entry) -> BinaryIO:
        return open(entry.real, "rb")

    def files(self) -> Iterator[str]:
        """The paths of everything in it."""
        return iter(self._records)

    def close(self) -> None:
        """Twice is fine."""
        self._contexts.drop(self._hold)


def _file_name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
