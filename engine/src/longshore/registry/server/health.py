"""Whether the registry can do its work now."""

import os
import sqlite3
import time
import uuid

from longshore.registry.server.store import Store

_SECONDS = 5.0  # an answer is good for so long: whoever asks often costs nothing
_ENOUGH = 16 << 20  # free bytes below which pushes will soon fail


class Health:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: dict[str, str] = {}
        self._until = 0.0

    def problems(self) -> dict[str, str]:
        """{what: why}, empty when all is well; blocks for a write to the disk at most every few seconds."""
        if time.monotonic() >= self._until:
            self._found = {}
            self._look()
            self._until = time.monotonic() + _SECONDS
        return self._found

    def forget(self) -> None:
        self._until = 0.0

    def _look(self) -> None:
        probe = self._store.files.uploads / f".health-{uuid.uuid4().hex}"
        try:
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, b"probe")
            finally:
                os.close(fd)
                probe.unlink()
            if self._store.files.free() < _ENOUGH:
                self._found["space"] = f"less than {_ENOUGH >> 20} MiB are free"
        except OSError as error:
            self._found["storage"] = error.strerror or str(error)
        try:
            self._store.records.exists("health")
        except sqlite3.Error as error:
            self._found["database"] = str(error)
