"""Who still needs what: leases of running operations and holds with an end, for things keyed by digest."""

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from longshore.oci.digest import Digest

HOLD_SECONDS = 3600.0


class Leases:
    """Protects what a store keeps from its own sweep. `lock` guards the store's check-and-delete too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.RLock()
        self._clock = clock
        self._open: dict[object, set[Digest]] = {}
        self._holds: dict[Digest, float] = {}

    @contextmanager
    def open(self) -> Generator[set[Digest], None, None]:
        """Everything touched while this is open stays until it is closed. Yields the growing set of it."""
        token, kept = object(), set[Digest]()
        with self.lock:
            self._open[token] = kept
        try:
            yield kept
        finally:
            with self.lock:
                del self._open[token]

    def touch(self, digest: Digest, *, hold: bool = False) -> None:
        """Note a use for all open leases. `hold`: without any lease, keep it for an hour."""
        with self.lock:
            for kept in self._open.values():
                kept.add(digest)
            if hold and not self._open:
                self.hold(digest, HOLD_SECONDS)

    def hold(self, digest: Digest, seconds: float) -> None:
        with self.lock:
            self._holds[digest] = self._clock() + seconds

    def release(self, digests: Iterable[Digest]) -> None:
        with self.lock:
            for digest in digests:
                self._holds.pop(digest, None)

    def keeps(self, digest: Digest) -> bool:
        with self.lock:
            if any(digest in kept for kept in self._open.values()):
                return True
            until = self._holds.get(digest)
            if until is not None and until < self._clock():
                del self._holds[digest]
                return False
            return until is not None
