"""Blobs on their way in: written, hashed, compared, then published; and what follows one that still grows."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from longshore.errors import Conflict, InvalidArgument, OutOfSpace
from longshore.oci.digest import Digest

_BLOCK = 1 << 20
MORE, COMPLETE = b".", b"$"  # what a follower is told


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


class Follower:
    """A growing blob as a worker process reads it: the file, and a pipe that says when there is more of it.

    The pipe's last byte is COMPLETE once the blob was verified; a pipe that ends without it means that the blob
    will never be. Whoever made it closes it.
    """

    def __init__(self, path: Path) -> None:
        self.blob = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a position of its own, and no right to write
        self.pulse, self._tell = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._tell, False)

    def grown(self) -> None:
        """There is more. A full pipe already says so."""
        if self._tell >= 0:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(self._tell, MORE)

    def complete(self) -> None:
        """There will be no more, and all of it is true."""
        if self._tell >= 0:
            os.set_blocking(self._tell, True)  # what is in the pipe will be read
            with suppress(BrokenPipeError):
                os.write(self._tell, COMPLETE)
            self.end()

    def end(self) -> None:
        """There will be no more. Twice is fine."""
        if self._tell >= 0:
            os.close(self._tell)
            self._tell = -1

    def close(self) -> None:
        """Twice is fine."""
        self.end()
        for fd in (self.blob, self.pulse):
            if fd >= 0:
                os.close(fd)
        self.blob = self.pulse = -1


class BlobWriter:
    """One blob on its way in: write, then `commit()`. Leaving the `with` block without commit removes it.

    A `resumable` one begins with the bytes that are there already (`written` says how many), and stays for the
    next try, unless it was left by InvalidArgument (the bytes are wrong) or OutOfSpace.
    """

    def __init__(
        self,
        path: Path,
        publish: Callable[[Path, Digest], None],
        expected: Digest | None,
        size: int | None,
        *,
        resumable: bool = False,
    ) -> None:
        self._path, self._publish = path, publish
        self._expected, self._size, self._resumable = expected, size, resumable
        self._hash = hashlib.new(expected.algorithm if expected else "sha256")
        self._followers: list[Follower] = []
        self._lock = threading.RLock()  # a cancelled caller's thread may still write while it is closed
        self._done = False
        self.written = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if resumable else os.O_EXCL)
        with space_errors(path):
            self._fd = os.open(path, flags, 0o600)
        if resumable:
            self._rehash()

    def _rehash(self) -> None:
        """What an earlier try left counts as if it had been written now; too much of it cannot be right."""
        if self._size is not None and os.fstat(self._fd).st_size > self._size:
            os.ftruncate(self._fd, 0)
        while block := os.read(self._fd, _BLOCK):
            self._hash.update(block)
            self.written += len(block)

    def fileno(self) -> int:
        """The file, for a worker process that writes it for us; then finish with `commit_foreign()`."""
        return self._fd

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append. Raises OutOfSpace, and InvalidArgument once it is more than announced."""
        view = memoryview(data)
        total = self.written + len(view)
        if self._size is not None and total > self._size:
            raise InvalidArgument("blob is larger than announced", detail=f"more than {self._size} bytes")
        with self._lock:
            if self._fd < 0:
                raise Conflict("nobody is writing the blob any more", detail=str(self._expected))
            self._hash.update(view)
            with space_errors(self._path):
                while view:
                    view = view[os.write(self._fd, view) :]
            self.written = total
            for follower in self._followers:
                follower.grown()
        return len(data)

    def follow(self) -> Follower:
        """Read along from the first byte. Raises Conflict when the blob is complete or given up."""
        with self._lock:
            if self._done or self._fd < 0:
                raise Conflict("nobody is writing the blob any more", detail=str(self._expected))
            follower = Follower(self._path)
            follower.grown()
            self._followers.append(follower)
        return follower

    def commit(self) -> Digest:
        """Verify and publish; a blob that is there already is fine. Raises InvalidArgument on a mismatch."""
        actual = Digest(self._hash.name, self._hash.hexdigest())
        if self._size is not None and self.written != self._size:
            raise InvalidArgument("blob is incomplete", detail=f"{self.written} of {self._size} bytes")
        if self._expected is not None and self._expected != actual:
            raise InvalidArgument(
                "content does not match its digest", detail=f"wanted {self._expected}, got {actual}"
            )
        with self._lock:
            if self._fd < 0:
                raise Conflict("nobody is writing the blob any more", detail=str(self._expected))
            with space_errors(self._path):
                os.fsync(self._fd)
                self._publish(self._path, actual)
            self._done = True
        for follower in self._followers:
            follower.complete()
        return actual

    def commit_foreign(self) -> Digest:
        """Like `commit`, for bytes that another process wrote to `fileno()`: reads and hashes them here."""
        self._hash = hashlib.new(self._hash.name)
        self.written = 0
        while block := os.pread(self._fd, _BLOCK, self.written):
            self._hash.update(block)
            self.written += len(block)
        return self.commit()

    def abort(self, *, keep: bool = False) -> None:
        """Close, and remove what was written unless it is to be kept. Twice is fine."""
        with self._lock:
            for follower in self._followers:
                follower.end()
            if self._fd < 0:
                return
            os.close(self._fd)
            self._fd = -1
            if not self._done and not (keep and self._resumable and self.written):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort(keep=error is not None and not isinstance(error, (InvalidArgument, OutOfSpace)))
