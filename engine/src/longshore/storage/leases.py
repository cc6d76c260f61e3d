"""Who still needs what: leases of running operations, and holds with an end that outlive the process."""

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest, parse_digest

HOLD_SECONDS = 3600.0
RESUME_SECONDS = 24 * 3600.0  # how long an interrupted pull finds what it had


@dataclass(eq=False, slots=True)
class _Lease:
    reason: str
    kept: set[Digest] = field(default_factory=set[Digest])


@dataclass(frozen=True, slots=True)
class Hold:
    until: float  # seconds since the epoch
    reason: str


class Leases:
    """Protects what a store keeps from its own sweep. `lock` guards the store's check-and-delete too."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: list[_Lease] = []

    @contextmanager
    def open(self, reason: str = "") -> Generator[set[Digest], None, None]:
        """Everything touched while this is open stays until it is closed. Yields the growing set of it."""
        lease = _Lease(reason)
        with self.lock:
            self._open.append(lease)
        try:
            yield lease.kept
        finally:
            with self.lock:
                self._open.remove(lease)

    def touch(self, digest: Digest) -> bool:
        """Note a use for all open leases; tells whether there is one."""
        with self.lock:
            for lease in self._open:
                lease.kept.add(digest)
            return bool(self._open)

    def keeps(self, digest: Digest) -> bool:
        with self.lock:
            return any(digest in lease.kept for lease in self._open)

    def reasons(self, digest: Digest) -> list[str]:
        """Which running operations keep it, for people."""
        with self.lock:
            return [lease.reason or "a running operation" for lease in self._open if digest in lease.kept]


class Holds:
    """Promises to keep a blob until a time, one small file each: a restarted daemon knows them again.

    A file's name is the digest, its modification time the end, its content the reason.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self._root, self._clock = root, clock
        self._holds: dict[Digest, Hold] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in root.iterdir():
            try:
                digest = digest_of(path.name)
                self._holds[digest] = Hold(path.stat().st_mtime, path.read_text(errors="replace")[:300])
            except (InvalidArgument, FileNotFoundError):
                path.unlink(missing_ok=True)

    def hold(self, digest: Digest, seconds: float, reason: str) -> None:
        """Until `seconds` from now, or as long as an earlier hold lasts."""
        until = self._clock() + seconds
        known = self._holds.get(digest)
        if known is not None and known.until >= until:
            return
        path = self._root / file_name(digest)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(reason)
        os.utime(temporary, (until, until))
        temporary.rename(path)
        self._holds[digest] = Hold(until, reason)

    def release(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if self._holds.pop(digest, None) is not None:
                (self._root / file_name(digest)).unlink(missing_ok=True)

    def get(self, digest: Digest) -> Hold | None:
        """The hold that lasts; one that has ended is forgotten."""
        hold = self._holds.get(digest)
        if hold is not None and hold.until < self._clock():
            self.release([digest])
            return None
        return hold

    def all(self) -> dict[Digest, Hold]:
        return {digest: hold for digest in list(self._holds) if (hold := self.get(digest)) is not None}


def file_name(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"


def digest_of(name: str) -> Digest:
    """The digest that `file_name` wrote. Raises InvalidArgument."""
    return parse_digest(name.replace("-", ":", 1))
