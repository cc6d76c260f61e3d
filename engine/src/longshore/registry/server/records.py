"""What is where: repositories, tags, manifests, links to blobs. SQLite, one process, every change one transaction.

Reads run on the event loop's thread (a look-up costs some 20 us); changes take a lock and wait for the disk, so they
are called in a thread. `synchronous=FULL`: what a client was told is there survives a power cut.
"""

import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from longshore.errors import OutOfSpace

VERSION = 1
_TOUCH_SECONDS = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (digest TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (
  repository TEXT NOT NULL, digest TEXT NOT NULL REFERENCES blobs, touched REAL NOT NULL,
  PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS links_by_digest ON links (digest);
CREATE TABLE IF NOT EXISTS manifests (
  id INTEGER PRIMARY KEY, repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
  size INTEGER NOT NULL, subject TEXT NOT NULL, artifact_type TEXT NOT NULL, annotations BLOB NOT NULL,
  touched REAL NOT NULL, body BLOB NOT NULL, UNIQUE (repository, digest));
CREATE INDEX IF NOT EXISTS manifests_by_subject ON manifests (repository, subject, digest);
CREATE TABLE IF NOT EXISTS targets (
  manifest INTEGER NOT NULL REFERENCES manifests ON DELETE CASCADE, repository TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (manifest, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS targets_by_digest ON targets (repository, digest);
CREATE TABLE IF NOT EXISTS tags (
  repository TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, checked REAL NOT NULL,
  PRIMARY KEY (repository, name)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_by_digest ON tags (repository, digest);
"""


class ManifestRow(NamedTuple):
    digest: str
    media_type: str
    body: bytes


class ReferrerRow(NamedTuple):
    digest: str
    media_type: str
    size: int
    artifact_type: str
    annotations: bytes


class Records:
    """See the module. `clock` gives seconds since the epoch."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._write = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._write.execute("PRAGMA journal_mode=WAL")
        self._write.execute("PRAGMA synchronous=FULL")
        self._write.execute("PRAGMA foreign_keys=ON")
        self._write.executescript(_SCHEMA)
        self._write.execute(f"PRAGMA user_version={VERSION}")
        self._read = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._read.execute("PRAGMA query_only=ON")
        self.lock = threading.RLock()  # also held while files appear and vanish, see `store`

    def close(self) -> None:
        with self.lock:
            self._read.close()
            self._write.close()

    @contextmanager
    def change(self) -> Generator[sqlite3.Connection]:
        """One transaction, rolled back when the block raises. Raises OutOfSpace."""
        with self.lock:
            try:
                self._write.execute("BEGIN IMMEDIATE")
                try:
                    yield self._write
                    self._write.execute("COMMIT")
                except BaseException:
                    if self._write.in_transaction:
                        self._write.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as cause:
                if cause.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE):
                    raise OutOfSpace(
                        "no space left for the registry's database", hint="free space"
                    ) from cause
                raise

    # Looking

    def exists(self, repository: str) -> bool:
        """Whether anything was ever pushed there and is still kept."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM manifests WHERE repository=?1)"
            " OR EXISTS (SELECT 1 FROM links WHERE repository=?1)"
        )
        return bool(self._read.execute(query, (repository,)).fetchone()[0])

    def repositories(self, after: str, limit: int) -> list[str]:
        """Repositories that have manifests, in order; each costs one step in the index."""
        names: list[str] = []
        while len(names) < limit:
            row = self._read.execute(
                "SELECT repository FROM manifests WHERE repository>? ORDER BY repository LIMIT 1", (after,)
            ).fetchone()
            if row is None:
                break
            after = str(row[0])
            names.append(after)
        return names

    def tags(self, repository: str, after: str, limit: int) -> list[str]:
        query = "SELECT name FROM tags WHERE repository=? AND name>? ORDER BY name LIMIT ?"
        return [row[0] for row in self._read.execute(query, (repository, after, limit))]

    def tag(self, repository: str, name: str) -> str:
        """The digest behind a tag, "" for none."""
        row = self._read.execute(
            "SELECT digest FROM tags WHERE repository=? AND name=?", (repository, name)
        ).fetchone()
        return str(row[0]) if row else ""

    def tags_of(self, repository: str, digest: str) -> list[str]:
        query = "SELECT name FROM tags WHERE repository=? AND digest=? ORDER BY name"
        return [row[0] for row in self._read.execute(query, (repository, digest))]

    def manifest(self, repository: str, digest: str) -> ManifestRow | None:
        row = self._read.execute(
            "SELECT digest, media_type, body FROM manifests WHERE repository=? AND digest=?",
            (repository, digest),
        ).fetchone()
        return ManifestRow(*row) if row else None

    def manifest_size(self, repository: str, digest: str) -> int | None:
        row = self._read.execute(
            "SELECT size FROM manifests WHERE repository=? AND digest=?", (repository, digest)
        ).fetchone()
        return int(row[0]) if row else None

    def referrers(self, repository: str, subject: str, after: str, limit: int) -> list[ReferrerRow]:
        query = (
            "SELECT digest, media_type, size, artifact_type, annotations FROM manifests"
            " WHERE repository=? AND subject=? AND digest>? ORDER BY digest LIMIT ?"
        )
        return [ReferrerRow(*row) for row in self._read.execute(query, (repository, subject, after, limit))]

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Bytes of a blob of this repository; None when it has none such."""
        row = self._read.execute(
            "SELECT size FROM links JOIN blobs USING (digest) WHERE repository=? AND digest=?",
            (repository, digest),
        ).fetchone()
        return int(row[0]) if row else None

    def knows_blob(self, digest: str) -> bool:
        return self._read.execute("SELECT 1 FROM blobs WHERE digest=?", (digest,)).fetchone() is not None

    def holders(self, digest: str) -> Iterable[str]:
        """Repositories that have a blob."""
        return [
            row[0] for row in self._read.execute("SELECT repository FROM links WHERE digest=?", (digest,))
        ]

    def counts(self) -> dict[str, int]:
        """How many rows of each kind, and the bytes of all blobs. Reads indexes as a whole: not per request."""
        row = self._read.execute(
            "SELECT (SELECT COUNT(DISTINCT repository) FROM manifests), (SELECT COUNT(*) FROM manifests),"
            " (SELECT COUNT(*) FROM tags), COUNT(*), COALESCE(SUM(size), 0) FROM blobs"
        ).fetchone()
        return dict(zip(("repositories", "manifests", "tags", "blobs", "bytes"), row, strict=True))

    # Changing

    def touch_link(self, repository: str, digest: str) -> bool:
        """Somebody has seen that this blob is here and counts on it. False: it is gone by now."""
        with self.change() as db:
            cursor = db.execute(
                "UPDATE links SET touched=? WHERE repository=? AND digest=?",
                (self._clock(), repository, digest),
            )
            return cursor.rowcount > 0

    def link_age(self, repository: str, digest: str) -> float:
        """Seconds since the link was touched last."""
        row = self._read.execute(
            "SELECT touched FROM links WHERE repository=? AND digest=?", (repository, digest)
        ).fetchone()
        return self._clock() - row[0] if row else 0.0

    def touch_manifest(self, repository: str, digest: str, tag: str = "") -> None:
        """Somebody uses it, which keeps it in a pull-through cache. Written at most once an hour."""
        row = self._read.execute(
            "SELECT touched FROM manifests WHERE repository=? AND digest=?", (repository, digest)
        ).fetchone()
        now = self._clock()
        if row is None or now - row[0] < _TOUCH_SECONDS:
            return
        with self.change() as db:
            db.execute(
                "UPDATE manifests SET touched=? WHERE repository=? AND digest=?", (now, repository, digest)
            )
            db.execute("UPDATE tags SET checked=? WHERE repository=? AND name=?", (now, repository, tag))

    def unlink(self, repository: str, digest: str) -> bool:
        with self.change() as db:
            cursor = db.execute("DELETE FROM links WHERE repository=? AND digest=?", (repository, digest))
            return cursor.rowcount > 0

    def delete_tag(self, repository: str, name: str) -> bool:
        with self.change() as db:
            return (
                db.execute("DELETE FROM tags WHERE repository=? AND name=?", (repository, name)).rowcount > 0
            )

    def delete_manifest(self, repository: str, digest: str) -> bool:
        """A manifest and all tags that point to it."""
        with self.change() as db:
            db.execute("DELETE FROM tags WHERE repository=? AND digest=?", (repository, digest))
            cursor = db.execute("DELETE FROM manifests WHERE repository=? AND digest=?", (repository, digest))
            return cursor.rowcount > 0
