"""Unpacked layers by diff id, made and read by confined worker processes.

    <root>/unpacked/<name>/   the layer's files, a lower directory for overlayfs
    <root>/meta/<name>        what is known about it; written first, so a layer without it does not exist
    <root>/unpacked/.new-*    being unpacked; .gone-*: being deleted. Both go when the store opens

Two images with a layer in common share its directory. Each layer is unpacked by itself, without those below.
"""

import base64
import os
import secrets
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from longshore.errors import NotFound, OutOfSpace
from longshore.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from longshore.oci.digest import Digest, parse_digest, sha256_of
from longshore.storage.blob_writer import Follower, space_errors
from longshore.storage.compression import LayerSink
from longshore.storage.content import ContentStore
from longshore.storage.jobs import run_worker
from longshore.storage.leases import Leases
from longshore.storage.trees import remove_tree
from longshore.storage.whiteouts import OPAQUE_XATTR

_NAME_BYTES = 18  # 144 bits of the digest: 24 characters, so that 125 of them fit into mount(2)'s one page
# of a tar without entries: two zero blocks
EMPTY_LAYER = sha256_of(bytes(1024))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may unpack to: `ratio` times the packed size, but `floor` always and `size` at most."""

    entries: int = 1_000_000
    size: int = 64 << 30
    ratio: int = 200
    floor: int = 1 << 30

    def max_size(self, packed: int) -> int:
        return min(self.size, max(self.floor, packed * self.ratio))


class _Meta(msgspec.Struct, frozen=True):
    diff_id: str
    size: int
    entries: int
    boot: str
    settled: bool = False  # known to be on the disk, not only in the page cache


class LayerStore:
    """All calls block: run them in a thread. Safe for several threads of one process."""

    def __init__(self, root: Path, content: ContentStore, limits: Limits | None = None) -> None:
        self._content = content
        self._limits = limits or Limits()
        self._unpacked = root / "unpacked"
        self._meta = root / "meta"
        self._leases = Leases()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._lock = threading.Lock()
        for directory in (root, self._unpacked, self._meta):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._boot = _BOOT_ID.read_text().strip()
        self._clean()
        self._make_empty_layer()

    @property
    def directory(self) -> Path:
        """Where the layers are; the names below are relative to it (OverlayRoot.layers_dir)."""
        return self._unpacked

    def name(self, diff_id: Digest) -> str:
        """The layer's directory relative to `directory`: 24 characters, none of them special to mount(2)."""
        return base64.urlsafe_b64encode(bytes.fromhex(diff_id.hex)[:_NAME_BYTES]).decode()

    def has(self, diff_id: Digest) -> bool:
        return self._read_meta(diff_id) is not None and (self._unpacked / self.name(diff_id)).is_dir()

    def size(self, diff_id: Digest) -> int:
        """Bytes of the unpacked regular files. Raises NotFound."""
        meta = self._read_meta(diff_id)
        if meta is None:
            raise NotFound("no such layer", detail=str(diff_id))
        return meta.size

    def hides_below(self, diff_id: Digest) -> bool:
        """Whether the layer replaces everything below it; overlayfs ignores the attribute on a root directory."""
        try:
            return os.getxattr(self._unpacked / self.name(diff_id), OPAQUE_XATTR) == b"y"
        except OSError:
            return False

    def unpack(self, blob: Digest, diff_id: Digest) -> None:
        """Make the layer's directory from a blob. Twice is fine. Compression is detected from the bytes.

        Raises InvalidArgument (bad tar, wrong diff id, limits), NotFound, OutOfSpace; nothing is left then.
        """
        with self._exclusive(diff_id):
            self._leases.touch(diff_id)
            if self.has(diff_id):
                return
            with self._content.open(blob) as file, self._new_directory() as directory:
                max_size = self._limits.max_size(self._content.size(blob))
                entries, size = run_worker(
                    directory, file.fileno(), "unpack", diff_id, self._limits.entries, max_size
                )
                self._publish(directory, diff_id, entries=int(entries), size=int(size))

    def unpack_growing(self, follower: Follower, packed: int, diff_id: Digest) -> None:
        """Like `unpack`, for a blob of `packed` bytes that is still being written: ends after its writer's commit.

        Waits as long as the writer does, so it belongs in a thread of its own. Twice, also at once, is fine.
        Raises what `unpack` raises, and Unavailable when the writer gives up.
        """
        self._leases.touch(diff_id)
        if self.has(diff_id):
            return
        with self._new_directory() as directory:
            parameters = (diff_id, self._limits.entries, self._limits.max_size(packed))
            entries, size = run_worker(directory, follower.blob, "unpack", *parameters, pulse=follower.pulse)
            with self._exclusive(diff_id):  # not before: a slow download keeps nobody waiting
                if not self.has(diff_id):
                    self._publish(directory, diff_id, entries=int(entries), size=int(size))

    def commit_upper(self, upper: Path) -> tuple[Descriptor, Digest]:
        """Store an overlay's upper directory as a layer, packed and unpacked; `upper` is only read.

        The unpacked layer is made from the blob, not from `upper`, so it is what every other host will see.
        """
        with self._content.writer() as writer:
            (diff_id,) = run_worker(upper, writer.fileno(), "pack")
            digest = writer.commit_foreign()
            size = writer.written
        return self._unpacked_layer(digest, size, parse_digest(diff_id))

    def commit_tar(
        self, write_tar: Callable[[Callable[[bytes], object]], object]
    ) -> tuple[Descriptor, Digest]:
        """Store a plain tar as a layer, packed and unpacked: `write_tar(write)` writes it piece by piece."""
        with self._content.writer() as writer:
            sink = LayerSink(writer)
            write_tar(sink.write)
            diff_id = parse_digest(sink.finish())
            digest = writer.commit()
            size = writer.written
        return self._unpacked_layer(digest, size, diff_id)

    def _unpacked_layer(self, digest: Digest, size: int, diff_id: Digest) -> tuple[Descriptor, Digest]:
        self.unpack(digest, diff_id)
        return Descriptor(OCI_LAYER_GZIP, str(digest), size), diff_id

    def lease(self, reason: str = "") -> AbstractContextManager[set[Digest]]:
        """While open, what is unpacked, or found unpacked by `unpack`, is not swept."""
        return self._leases.open(reason)

    def keeps(self, diff_id: Digest) -> bool:
        """Whether a running operation needs the layer."""
        return diff_id == EMPTY_LAYER or self._leases.keeps(diff_id)

    def reasons(self, diff_id: Digest) -> "list[str]":
        """Which running operations keep it, for people."""
        return self._leases.reasons(diff_id)

    def sweep(self, is_used: Callable[[Digest], bool]) -> dict[Digest, int]:
        """Delete every layer that is neither leased nor used; returns what went and its size."""
        gone: dict[Digest, int] = {}
        for diff_id in self.list():
            with self._exclusive(diff_id):
                if self.keeps(diff_id) or is_used(diff_id) or not self.has(diff_id):
                    continue
                gone[diff_id] = self.size(diff_id)
                trash = self._retire(diff_id)
            remove_tree(trash)
        return gone

    def delete(self, diff_id: Digest) -> None:
        """Twice is fine. A container that has the layer mounted keeps what it sees open."""
        with self._exclusive(diff_id):
            trash = self._retire(diff_id)
        remove_tree(trash)

    def _retire(self, diff_id: Digest) -> Path:
        """At once gone for everybody; the files follow."""
        name = self.name(diff_id)
        trash = self._unpacked / f".gone-{secrets.token_hex(8)}"
        try:
            (self._unpacked / name).rename(trash)
        except FileNotFoundError:
            pass
        (self._meta / name).unlink(missing_ok=True)
        return trash

    def list(self) -> list[Digest]:
        """The diff ids of all unpacked layers."""
        metas = (self._load(path) for path in sorted(self._meta.iterdir()))
        return [parse_digest(meta.diff_id) for meta in metas if meta]

    def settle(self) -> None:
        """Flush new layers to the disk and note that.

        Unpacking does not wait for the disk, because a layer can always be unpacked again from its blob, which is
        synced. After a power cut the layers that were not settled are dropped.
        """
        fresh = [path for path in self._meta.iterdir() if (meta := self._load(path)) and not meta.settled]
        if not fresh:
            return
        os.sync()
        try:
            with space_errors(self._meta):
                for path in fresh:
                    if meta := self._load(path):
                        self._save(path, msgspec.structs.replace(meta, settled=True))
        except OutOfSpace:
            pass  # noted the next time, at the latest when the daemon ends

    def _publish(self, directory: Path, diff_id: Digest, *, entries: int, size: int) -> None:
        name = self.name(diff_id)
        meta = _Meta(str(diff_id), size, entries, self._boot)
        with space_errors(self._unpacked):
            self._save(self._meta / name, meta)
            directory.rename(self._unpacked / name)

    @contextmanager
    def _new_directory(self) -> Generator[Path, None, None]:
        """A directory to unpack into, gone again unless it was renamed."""
        directory = self._unpacked / f".new-{secrets.token_hex(8)}"
        with space_errors(self._unpacked):
            directory.mkdir()
        try:
            directory.chmod(0o755)
            yield directory
        finally:
            remove_tree(directory)

    @contextmanager
    def _exclusive(self, diff_id: Digest) -> Generator[None, None, None]:
        """One thread at a time works on a layer; the others then find it done."""
        with self._lock:
            lock, users = self._locks.get(diff_id.hex, (threading.Lock(), 0))
            self._locks[diff_id.hex] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._locks.pop(diff_id.hex)
                if users > 1:
                    self._locks[diff_id.hex] = (lock, users - 1)

    def _make_empty_layer(self) -> None:
        """The one lower directory of an image without layers."""
        if not self.has(EMPTY_LAYER):
            with self._new_directory() as directory:
                self._publish(directory, EMPTY_LAYER, entries=0, size=0)

    def _clean(self) -> None:
        """Remove what a crash or a power cut left."""
        for leftover in self._meta.glob(".*"):
            leftover.unlink()
        for path in self._meta.iterdir():
            meta = self._load(path)
            lost = meta is None or (meta.boot != self._boot and not meta.settled)
            if lost or not (self._unpacked / path.name).is_dir():
                path.unlink()
        for directory in self._unpacked.iterdir():
            if not (self._meta / directory.name).exists():
                remove_tree(directory)

    def _save(self, path: Path, meta: _Meta) -> None:
        temporary = path.with_name(f".{path.name}")
        temporary.write_bytes(msgspec.json.encode(meta))
        temporary.rename(path)

    def _load(self, path: Path) -> _Meta | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Meta)
        except (FileNotFoundError, msgspec.MsgspecError):  # a power cut may leave an empty file
            return None

    def _read_meta(self, diff_id: Digest) -> _Meta | None:
        meta = self._load(self._meta / self.name(diff_id))
        return meta if meta and meta.diff_id == str(diff_id) else None
