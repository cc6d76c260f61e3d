"""The content store: blobs by sha256 under `<root>/blobs/sha256/<hex>`, half-written ones in `<root>/ingest`.

A blob appears by rename after its bytes were hashed, compared and fsynced, so what has a name is complete and
true. All calls block on the disk: run them in a thread. Safe for use by several threads of one process.
"""

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from longshore.errors import InvalidArgument, NotFound, OutOfSpace, Unsupported
from longshore.oci.digest import Digest, parse_digest, sha256_of
from longshore.storage.leases import HOLD_SECONDS, Leases

_BLOCK = 1 << 20


@contextmanager
def space_errors(where: Path | str) -> Generator[None, None, None]:
    """Turn ENOSPC and EDQUOT into OutOfSpace with Docker's words."""
    try:
        yield
    except OSError as cause:
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfSpace(
            "no space left on device", detail=str(where), hint="free space or prune images"
        ) from cause


class BlobWriter:
    """One blob on its way in: write, then `commit()`. Leaving the `with` block without commit removes it."""

    def __init__(self, store: "ContentStore", expected: Digest | None, size: int | None) -> None:
        self._store = store
        self._expected = expected
        self._size = size
        self._hash = hashlib.sha256()
        self._path = store.ingest / secrets.token_hex(16)
        self._done = False
        self.written = 0
        with space_errors(store.root):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        """The file, for a worker process that writes it for us; then finish with `commit_foreign()`."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append. Raises OutOfSpace, and InvalidArgument once it is more than announced."""
        view = memoryview(data)
        total = self.written + len(view)
        if self._size is not None and total > self._size:
            raise InvalidArgument("blob is larger than announced", detail=f"more than {self._size} bytes")
        self._hash.update(view)
        with space_errors(self._store.root):
            while view:
                view = view[os.write(self._fd, view) :]
        self.written = total
        return len(data)

    def commit(self) -> Digest:
        """Verify and publish; a blob that is there already is fine. Raises InvalidArgument on a mismatch."""
        actual = Digest("sha256", self._hash.hexdigest())
        if self._size is not None and self.written != self._size:
            raise InvalidArgument("blob is incomplete", detail=f"{self.written} of {self._size} bytes")
        if self._expected is not None and self._expected != actual:
            raise InvalidArgument(
                "content does not match its digest", detail=f"wanted {self._expected}, got {actual}"
            )
        with space_errors(self._store.root):
            os.fsync(self._fd)
            self._store.publish(self._path, actual)
        self._done = True
        return actual

    def commit_foreign(self) -> Digest:
        """Like `commit`, for bytes that another process wrote to `fileno()`: reads and hashes them here."""
        self._hash = hashlib.sha256()
        self.written = 0
        while block := os.pread(self._fd, _BLOCK, self.written):
            self._hash.update(block)
            self.written += len(block)
        return self.commit()

    def abort(self) -> None:
        """Remove what was written. Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self._done:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class ContentStore:
    """See the module. One process owns a root; what a crash left in `ingest` is removed when it opens."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self.ingest = root / "ingest"
        self._blobs = root / "blobs" / "sha256"
        self._leases = Leases(clock)
        for directory in (root, self.ingest, self._blobs):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self.ingest.iterdir():
            leftover.unlink()

    def writer(self, expected: Digest | None = None, size: int | None = None) -> BlobWriter:
        """A context manager to write one blob, whose digest and size are checked where they are given."""
        if expected is not None:
            self.path(expected)
        return BlobWriter(self, expected, size)

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        """Store small content; nothing is written when it is there already."""
        digest = sha256_of(data)
        if self.has(digest) and expected in (None, digest):
            return digest
        with self.writer(expected, len(data)) as writer:
            writer.write(data)
            return writer.commit()

    def publish(self, temporary: Path, digest: Digest) -> None:
        """Give a finished file in `ingest` its name. For `BlobWriter`, which has verified it."""
        target = self.path(digest)
        with self._leases.lock:
            self._leases.touch(digest, hold=True)
            temporary.rename(target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be. Raises Unsupported for digests other than sha256."""
        if digest.algorithm != "sha256":
            raise Unsupported("unsupported digest algorithm", detail=digest.algorithm, hint="use sha256")
        return self._blobs / digest.hex

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

    def delete(self, digest: Digest) -> None:
        """Forget a blob, whoever uses it. Twice is fine."""
        self.path(digest).unlink(missing_ok=True)

    def list(self) -> list[Digest]:
        return [parse_digest(f"sha256:{name}") for name in sorted(e.name for e in self._blobs.iterdir())]

    def lease(self) -> AbstractContextManager[set[Digest]]:
        """While open, what is written, or found by `has`, is not collected. Yields the growing set."""
        return self._leases.open()

    def hold(self, digest: Digest, seconds: float = HOLD_SECONDS) -> None:
        """Keep a blob for a while though no image uses it yet: its image follows in another request.

        What is written outside any lease is held by itself.
        """
        self._leases.hold(digest, seconds)

    def release(self, digests: Iterable[Digest]) -> None:
        """End holds: an image owns these blobs now, or nobody wants them."""
        self._leases.release(digests)

    def sweep(self, is_used: Callable[[Digest], bool]) -> dict[Digest, int]:
        """Delete every blob that is neither leased nor held nor used; returns what went and its size.

        The lease is asked before `is_used`: whoever closes a lease has registered the blob's user before.
        """
        gone: dict[Digest, int] = {}
        for digest in self.list():
            with self._leases.lock:
                if self._leases.keeps(digest) or is_used(digest):
                    continue
                path = self.path(digest)
                try:
                    size = path.stat().st_size
                    path.unlink()
                except FileNotFoundError:  # another sweep was faster
                    continue
                gone[digest] = size
        return gone
