"""The content store: blobs by digest.

    <root>/blobs/<algorithm>/<hex>     complete and true: a blob appears by rename after its bytes were hashed,
                                       compared and fsynced
    <root>/ingest/<random>             being written; gone when the store opens
    <root>/partial/<algorithm>-<hex>   half a download, for the next try; gone after a day
    <root>/holds/<algorithm>-<hex>     a promise to keep a blob, see leases.Holds

All calls block on the disk: run them in a thread. Safe for use by several threads of one process.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.oci.digest import ALGORITHMS, Digest, sha256_of
from longshore.storage.blob_writer import BlobWriter, space_errors
from longshore.storage.leases import (
    HOLD_SECONDS,
    RESUME_SECONDS,
    Hold,
    Holds,
    Leases,
    digest_of,
    file_name,
)

__all__ = ["BlobWriter", "ContentStore", "space_errors"]

_BLOCK = 1 << 20


class ContentStore:
    """See the module. One process owns a root; what a crash left in `ingest` is removed when it opens."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.ingest = root / "ingest"
        self.partial = root / "partial"
        self._blobs = {name: root / "blobs" / name for name in ALGORITHMS}
        self._clock = clock
        for directory in (root, self.ingest, self.partial, *self._blobs.values()):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._leases = Leases()
        self._holds = Holds(root / "holds", clock)
        self._coming: set[Digest] = set()
        for leftover in self.ingest.iterdir():
            leftover.unlink()
        self.sweep_partials()

    # Coming in

    def writer(self, expected: Digest | None = None, size: int | None = None) -> BlobWriter:
        """A context manager to write one blob, whose digest and size are checked where they are given."""
        return BlobWriter(self.ingest / secrets.token_hex(16), self.publish, expected, size)

    def resume(self, expected: Digest, size: int, reason: str = "") -> BlobWriter:
        """Like `writer`, going on where an earlier try was interrupted; `written` says how much is there.

        The finished blob is held for a day: if its image does not come, the next try finds it. `reason` says
        for whom. Raises Conflict while another writer has this blob.
        """
        path = self.partial / file_name(expected)
        with self._leases.lock:
            if expected in self._coming:
                raise Conflict("the blob is being written already", detail=str(expected))
            self._coming.add(expected)
        try:
            return _Resumed(self, path, expected, size, reason)
        except BaseException:
            self.settled(expected)
            raise

    def settled(self, digest: Digest) -> None:
        """For the writers that `resume` gives: another one may come."""
        with self._leases.lock:
            self._coming.discard(digest)

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        """Store small content; nothing is written when it is there already. Without `expected` by its sha256."""
        digest = expected or sha256_of(data)
        if self.has(digest) and hashlib.new(digest.algorithm, data).hexdigest() == digest.hex:
            return digest
        with self.writer(digest, len(data)) as writer:
            writer.write(data)
            return writer.commit()

    def publish(self, temporary: Path, digest: Digest) -> None:
        """Give a finished file its name. For `BlobWriter`, which has verified it."""
        target = self.path(digest)
        with self._leases.lock:
            if not self._leases.touch(digest):
                self._holds.hold(digest, HOLD_SECONDS, "just written")
            temporary.rename(target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    # Looking

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        return self._blobs[digest.algorithm] / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there; if so, every open lease keeps it from now on."""
        with self._leases.lock:
            if not self.path(digest).exists():
                return False
            self._leases.touch(digest)
            return True

    def open(self, digest: Digest) -> BinaryIO:
        """The blob's bytes; the caller closes. Raises NotFound."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as cause:
            raise NotFound("no such blob", detail=str(digest)) from cause

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob as a whole. Raises NotFound, and InvalidArgument beyond `limit` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise InvalidArgument("document too large", detail=f"{digest} has more than {limit} bytes")
        return data

    def size(self, digest: Digest) -> int:
        """Bytes on disk. Raises NotFound."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as cause:
            raise NotFound("no such blob", detail=str(digest)) from cause

    def is_true(self, digest: Digest) -> bool:
        """Read all of a blob and compare. Raises NotFound."""
        hashed = hashlib.new(digest.algorithm)
        with self.open(digest) as file:
            while block := file.read(_BLOCK):
                hashed.update(block)
        return hashed.hexdigest() == digest.hex

    def list(self) -> list[Digest]:
        return [
            Digest(algorithm, name)
            for algorithm, folder in self._blobs.items()
            for name in sorted(e.name for e in folder.iterdir())
        ]

    def partials(self) -> dict[Digest, int]:
        """Halves of downloads and their sizes, those that grow now included."""
        found: dict[Digest, int] = {}
        for path in sorted(self.partial.iterdir()):
            try:
                found[digest_of(path.name)] = path.stat().st_size
            except (InvalidArgument, FileNotFoundError):
                continue
        return found

    # Keeping and forgetting

    def lease(self, reason: str = "") -> AbstractContextManager[set[Digest]]:
        """While open, what is written, or found by `has`, is not collected. Yields the growing set."""
        return self._leases.open(reason)

    def hold(self, digest: Digest, seconds: float = HOLD_SECONDS, reason: str = "sent blob by blob") -> None:
        """Keep a blob for a while though no image uses it yet: its image follows in another request.

        What is written outside any lease is held by itself. A restart of the daemon does not end it.
        """
        with self._leases.lock:
            self._holds.hold(digest, seconds, reason)

    def release(self, digests: Iterable[Digest]) -> None:
        """End holds: an image owns these blobs now, or nobody wants them."""
        with self._leases.lock:
            self._holds.release(digests)

    def holds(self) -> dict[Digest, Hold]:
        with self._leases.lock:
            return self._holds.all()

    def reasons(self, digest: Digest) -> "list[str]":
        """What keeps a blob besides images: running operations and holds, for people."""
        with self._leases.lock:
            hold = self._holds.get(digest)
            return self._leases.reasons(digest) + ([hold.reason] if hold else [])

    def keeps(self, digest: Digest) -> bool:
        with self._leases.lock:
            return self._leases.keeps(digest) or self._holds.get(digest) is not None

    def delete(self, digest: Digest) -> None:
        """Forget a blob, whoever uses it. Twice is fine."""
        self.path(digest).unlink(missing_ok=True)

    def sweep(self, is_used: Callable[[Digest], bool]) -> dict[Digest, int]:
        """Delete every blob that is neither leased nor held nor used; returns what went and its size.

        The lease is asked before `is_used`: whoever closes a lease has registered the blob's user before.
        """
        gone: dict[Digest, int] = {}
        for digest in self.list():
            with self._leases.lock:
                if self.keeps(digest) or is_used(digest):
                    continue
                path = self.path(digest)
                try:
                    size = path.stat().st_size
                    path.unlink()
                except FileNotFoundError:  # another sweep was faster
                    continue
                gone[digest] = size
        return gone

    def forget_partials(self, digests: Iterable[Digest]) -> None:
        """Delete halves of downloads that do not grow now. Twice is fine."""
        for digest in digests:
            with self._leases.lock:
                if digest not in self._coming:
                    (self.partial / file_name(digest)).unlink(missing_ok=True)

    def sweep_partials(self, *, all: bool = False) -> int:
        """Delete halves of downloads that nobody resumed for a day, or all that do not grow now; bytes freed."""
        freed = 0
        oldest = self._clock() - RESUME_SECONDS
        for path in self.partial.iterdir():
            try:
                digest = digest_of(path.name)
            except InvalidArgument:
                digest = None
            with self._leases.lock:
                if digest in self._coming:
                    continue
                try:
                    status = path.stat()
                    if all or digest is None or status.st_mtime < oldest:
                        path.unlink()
                        freed += status.st_size
                except FileNotFoundError:
                    continue
        return freed


class _Resumed(BlobWriter):
    """Holds what it publishes, and lets the next writer in when it ends."""

    def __init__(self, store: ContentStore, path: Path, expected: Digest, size: int, reason: str) -> None:
        self._store, self._digest, self._reason = store, expected, reason
        super().__init__(path, self._publish_held, expected, size, resumable=True)

    def _publish_held(self, temporary: Path, digest: Digest) -> None:
        self._store.hold(digest, RESUME_SECONDS, self._reason or "an interrupted download")
        self._store.publish(temporary, digest)

    def abort(self, *, keep: bool = False) -> None:
        """See BlobWriter."""
        super().abort(keep=keep)
        self._store.settled(self._digest)
