"""Blobs on their way in: sessions that outlive connections and the process, and end by commit, cancel or expiry.

An upload is two files, `<id>` with the bytes and `<id>.json` with whose it is. After a restart its bytes are still
there; only the running hash is lost, so the commit reads them once more.
"""

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from longshore.oci.digest import Digest
from longshore.registry.server.files import Files, space_errors
from longshore.registry.server.refusals import Code, Refused

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_BLOCK = 1 << 20
ALGORITHMS = ("sha256", "sha512")


class _Owner(msgspec.Struct):
    repository: str
    algorithm: str = "sha256"


class Upload:
    """One session. `append` and `seal` block; they are called by the one request that has `claim`ed it."""

    def __init__(self, path: Path, repository: str, algorithm: str) -> None:
        self.id = path.name
        self.path = path
        self.repository = repository
        self.algorithm = algorithm
        self.size = path.stat().st_size if path.exists() else 0
        self.touched = time.monotonic()
        self.cancelled = False
        self._claimed = False
        self._hash = hashlib.new(algorithm) if not self.size else None
        self._fd = -1

    @contextmanager
    def claim(self) -> Generator[None]:
        """For one request, while the block runs. Raises Refused when another one writes, or it was cancelled."""
        if self.cancelled:
            raise unknown(self.id)
        if self._claimed:
            raise Refused(Code.BLOB_UPLOAD_INVALID, "another request writes to this upload", status=409)
        self._claimed = True
        try:
            yield
        finally:
            self._claimed = False
            self.touched = time.monotonic()
            self.close()

    def close(self) -> None:
        """The file; `append` opens it again. Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def claimed(self) -> bool:
        return self._claimed

    def append(self, data: bytes | bytearray) -> None:
        """Raises OutOfSpace, and Refused BLOB_UPLOAD_UNKNOWN once it was cancelled."""
        if self.cancelled:
            raise unknown(self.id)
        with space_errors(self.path.parent):
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            view = memoryview(data)
            try:
                while view:
                    written = os.write(self._fd, view)
                    if self._hash is not None:
                        self._hash.update(view[:written])
                    self.size += written
                    view = view[written:]
            finally:
                view.release()
        self.touched = time.monotonic()

    def seal(self, expected: Digest) -> None:
        """Compare with the digest and sync. Raises Refused DIGEST_INVALID."""
        if self.cancelled:
            raise unknown(self.id)
        with space_errors(self.path.parent):
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                hashed = self._hash if expected.algorithm == self.algorithm else None
                actual = hashed.hexdigest() if hashed else _hash_file(fd, expected.algorithm)
                if actual != expected.hex:
                    raise Refused(
                        Code.DIGEST_INVALID,
                        f"wanted {expected}, got {expected.algorithm}:{actual} of {self.size} bytes",
                    )
                os.fsync(fd)
            finally:
                os.close(fd)

    def remove(self) -> None:
        """The files go; a writer at work notices. Twice is fine."""
        self.cancelled = True
        self.path.unlink(missing_ok=True)
        _owner_path(self.path).unlink(missing_ok=True)


def _hash_file(fd: int, algorithm: str) -> str:
    hashed, offset = hashlib.new(algorithm), 0
    while block := os.pread(fd, _BLOCK, offset):
        hashed.update(block)
        offset += len(block)
    return hashed.hexdigest()


def _owner_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def unknown(upload_id: str) -> Refused:
    return Refused(Code.BLOB_UPLOAD_UNKNOWN, f"no upload {upload_id[:60]!r} is under way here")


class Uploads:
    """All sessions of one registry, those of an earlier process included."""

    def __init__(self, files: Files) -> None:
        self._folder = files.uploads
        self._sessions: dict[str, Upload] = {}
        for path in self._folder.glob("*.json"):
            try:
                owner = msgspec.json.decode(path.read_bytes(), type=_Owner)
                found = Upload(path.with_suffix(""), owner.repository, owner.algorithm)
                self._sessions[found.id] = found
            except (msgspec.MsgspecError, ValueError):  # cut off by a power failure
                path.unlink()
        for path in self._folder.iterdir():
            if path.suffix != ".json" and path.name not in self._sessions:
                path.unlink()

    def __len__(self) -> int:
        return len(self._sessions)

    def start(self, repository: str, algorithm: str = "sha256") -> Upload:
        """A new session. Raises Refused DIGEST_INVALID for an unknown algorithm, and OutOfSpace."""
        if algorithm not in ALGORITHMS:
            raise Refused(
                Code.DIGEST_INVALID, f"algorithm {algorithm[:40]!r} is none of {', '.join(ALGORITHMS)}"
            )
        path = self._folder / str(uuid.uuid4())
        with space_errors(self._folder):
            _owner_path(path).write_bytes(msgspec.json.encode(_Owner(repository, algorithm)))
        upload = self._sessions[path.name] = Upload(path, repository, algorithm)
        return upload

    def find(self, repository: str, upload_id: str) -> Upload:
        """Raises Refused BLOB_UPLOAD_UNKNOWN, for another repository's upload too."""
        found = self._sessions.get(upload_id) if _ID.fullmatch(upload_id) else None
        if found is None or found.repository != repository or found.cancelled:
            raise unknown(upload_id)
        return found

    def drop(self, upload: Upload) -> None:
        """End a session, whatever its state. Twice is fine."""
        self._sessions.pop(upload.id, None)
        upload.remove()

    def expire(self, age: float, now: Callable[[], float] = time.monotonic) -> int:
        """Drop sessions that nobody has touched for `age` seconds; returns how many."""
        old = [each for each in self._sessions.values() if not each.claimed and now() - each.touched >= age]
        for upload in old:
            self.drop(upload)
        return len(old)
