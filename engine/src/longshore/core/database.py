"""The state database: SQLite in WAL mode, one writer (the daemon), documents as JSON.

`synchronous=NORMAL`: a commit survives `kill -9` of the daemon at any instruction, because the
page cache holds it; a power cut may lose the last commits but never the consistency
(https://www.sqlite.org/wal.html). What must survive a power cut, the exit records and the
blobs, is written with fsync outside of this database.

A full disk must not keep the daemon from writing down that a container ended or was removed. So a file beside the
database holds some space, which is given up when SQLite runs out of it, and taken again when there is room.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from longshore.errors import OutOfSpace

RESERVE = 8 << 20  # what a checkpoint of the log moves into the database (4 MiB), and some hundred changes
ENOUGH = 16 << 20  # free space at which the reserve is taken again
RETAKE_SECONDS = 1.0
# ENOSPC as SQLite calls it: for the database and its log, and for the log's index
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)

T = TypeVar("T")


class Reserve:
    """Disk space that is kept for the moment when there is no other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = path.exists() and path.stat().st_size >= RESERVE  # a daemon before us took it
        self._tried = 0.0
        self.take()

    def take(self) -> None:
        """Hold it again, if there is room; looks at the disk every few seconds only."""
        now = time.monotonic()
        if self._held or (self._tried and now - self._tried < RETAKE_SECONDS):
            return
        self._tried = now
        if shutil.disk_usage(self._path.parent).free < ENOUGH:
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, RESERVE)
            self._held = True
        except OSError:
            os.ftruncate(fd, 0)  # filled up in between, or a file system that cannot
        finally:
            os.close(fd)

    def give(self) -> bool:
        """Let go of it. False: it was given before."""
        if not self._held:
            return False
        self._held = False
        self._tried = time.monotonic()
        self._path.unlink(missing_ok=True)
        return True


class Database:
    """One connection, used from the daemon's event-loop thread only (writes cost about 50 us)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS schema (area TEXT PRIMARY KEY, version INTEGER NOT NULL)"
        )

    def migrate(self, area: str, steps: Sequence[str]) -> None:
        """Bring the tables of one area to the newest version.

        `steps[n]` is the SQL script that leads from version n to n+1; released steps never change.
        Calling it again does nothing.
        """
        row = self.one("SELECT version FROM schema WHERE area = ?", area)
        done = int(str(row["version"])) if row else 0
        for number in range(done, len(steps)):
            with self.transaction():
                for statement in filter(str.strip, steps[number].split(";")):
                    self._connection.execute(statement)
                self._connection.execute(
                    "INSERT INTO schema VALUES (?, ?) ON CONFLICT (area) DO UPDATE SET version = excluded.version",
                    (area, number + 1),
                )

    @contextmanager
    def transaction(self, *, urgent: bool = False) -> Generator[None, None, None]:
        """All statements inside happen or none does. Do not await inside; nesting joins the outer one.

        `urgent`: it notes what has happened or makes room, and may use the reserve. Raises OutOfSpace.
        """
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._with_space(lambda: self._connection.execute("COMMIT"), urgent=urgent)
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself rolls back after some errors
                self._connection.execute("ROLLBACK")
            raise

    def execute(self, sql: str, *values: object) -> int:
        """Run one statement; returns the number of rows it changed. All but an INSERT may use the reserve.

        Raises sqlite3.IntegrityError on a used key, OutOfSpace.
        """
        urgent = not sql.startswith("INSERT")
        changed = self._with_space(lambda: self._connection.execute(sql, values).rowcount, urgent=urgent)
        self._reserve.take()
        return changed

    def _with_space(self, work: Callable[[], T], *, urgent: bool) -> T:
        """Once more with the reserve when the disk is full. Raises OutOfSpace when that is spent too."""
        inside = self._connection.in_transaction
        try:
            return work()
        except sqlite3.OperationalError as cause:
            if cause.sqlite_errorcode not in _FULL:
                raise
            rolled_back = inside and not self._connection.in_transaction
            if urgent and self._reserve.give() and not rolled_back:
                return self._with_space(work, urgent=urgent)
            raise OutOfSpace(
                "no space left on device", detail=str(self._path), hint="free space or prune images"
            ) from cause

    def one(self, sql: str, *values: object) -> dict[str, object] | None:
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def all(self, sql: str, *values: object) -> list[dict[str, object]]:
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def check(self) -> list[str]:
        """SQLite's own findings about the file, none when it is sound. From any thread, and it may take a while."""
        reader = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            found = [str(row[0]) for row in reader.execute("PRAGMA quick_check(5)").fetchall()]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        finally:
            reader.close()
        return [text for text in found if text != "ok"]

    def close(self) -> None:
        self._connection.close()
