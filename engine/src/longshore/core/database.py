"""The state database: SQLite in WAL mode, one writer (the daemon), documents as JSON.

`synchronous=NORMAL`: a commit survives `kill -9` of the daemon at any instruction, because the
page cache holds it; a power cut may lose the last commits but never the consistency
(https://www.sqlite.org/wal.html). What must survive a power cut, the exit records and the
blobs, is written with fsync outside of this database.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Database:
    """One connection, used from the daemon's event-loop thread only (writes cost about 50 us)."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    def transaction(self) -> Generator[None, None, None]:
        """All statements inside happen or none does. Do not await inside; nesting joins the outer one."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def execute(self, sql: str, *values: object) -> int:
        """Run one statement; returns the number of rows it changed. Raises sqlite3.IntegrityError on a used key."""
        return self._connection.execute(sql, values).rowcount

    def one(self, sql: str, *values: object) -> dict[str, object] | None:
        rows = self.all(sql, *values)
        return rows[0] if rows else None

    def all(self, sql: str, *values: object) -> list[dict[str, object]]:
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        self._connection.close()
