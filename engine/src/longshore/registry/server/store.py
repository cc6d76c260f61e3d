"""Content and records together: what has to be true of both at once.

Order of a blob's birth: bytes synced, file named, row committed, all under the records' lock; of its death: row
deleted and committed, file removed, under the same lock. So a row always has its file, and a file without a row is
rubbish of a crash. All calls that change something block: run them in a thread.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from longshore.errors import Conflict, Unavailable
from longshore.oci.digest import Digest
from longshore.registry.server.files import Files
from longshore.registry.server.manifests import Judged
from longshore.registry.server.records import Records
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.uploads import Upload, Uploads

TOUCH_SECONDS = 60.0  # a link touched less long ago is fresh enough: repeated HEADs cost no write


class Store:
    """One process owns a root. Raises Conflict when another one has it, Unavailable when it cannot be made."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.root, self.clock = root, clock
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise Unavailable(f"cannot use {root}", detail=cause.strerror or str(cause)) from cause
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            os.close(self._lock)
            raise Conflict(
                f"another registry serves {root}", hint="give this one another root directory"
            ) from cause
        self.files = Files(root)
        self.records = Records(root / "registry.db", clock)
        self.uploads = Uploads(self.files)

    def close(self) -> None:
        self.records.close()
        os.close(self._lock)

    # Blobs

    def finish_upload(self, upload: Upload, digest: Digest) -> None:
        """The upload becomes a blob of its repository. Raises Refused DIGEST_INVALID, OutOfSpace."""
        upload.seal(digest)
        with self.records.lock:
            if upload.cancelled:
                raise Refused(Code.BLOB_UPLOAD_UNKNOWN, "it was cancelled")
            self.files.publish(upload.path, digest)
            with self.records.change() as db:
                db.execute(
                    "INSERT INTO blobs VALUES (?, ?) ON CONFLICT DO NOTHING", (str(digest), upload.size)
                )
                self._link(db, upload.repository, digest)
        self.uploads.drop(upload)

    def _link(self, db: sqlite3.Connection, repository: str, digest: Digest) -> None:
        db.execute(
            "INSERT INTO links VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET touched=excluded.touched",
            (repository, str(digest), self.clock()),
        )

    def see_blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob, None for none; whoever has seen it may count on it, so its link becomes fresh."""
        size = self.records.blob_size(repository, str(digest))
        if size is None or self.records.link_age(repository, str(digest)) < TOUCH_SECONDS:
            return size
        return size if self.records.touch_link(repository, str(digest)) else None

    def mount(self, sources: Iterable[str], target: str, digest: Digest) -> str:
        """Link a blob of one of the `sources` into `target`; returns which one had it, "" when none does."""
        with self.records.change() as db:
            for source in sources:
                held = db.execute(
                    "SELECT 1 FROM links WHERE repository=? AND digest=?", (source, str(digest))
                ).fetchone()
                if held:
                    self._link(db, target, digest)
                    return source
        return ""

    # Manifests

    def put_manifest(
        self,
        repository: str,
        digest: Digest,
        data: bytes,
        judged: Judged,
        tags: Sequence[str] = (),
        *,
        whole: bool = True,
    ) -> None:
        """Store exactly these bytes and point the tags to them, all or nothing. Again is fine.

        `whole`: everything it names has to be in the repository, with the sizes it says. Raises Refused
        MANIFEST_BLOB_UNKNOWN or MANIFEST_INVALID.
        """
        with self.records.change() as db:
            if whole:
                self._check_targets(repository, judged)
            now = self.clock()
            annotations = msgspec.json.encode(judged.annotations) if judged.annotations else b""
            (row,) = db.execute(
                "INSERT INTO manifests (repository, digest, media_type, size, subject, artifact_type, annotations,"
                " touched, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, digest) DO UPDATE"
                " SET media_type=excluded.media_type, touched=excluded.touched RETURNING id",
                (
                    *(repository, str(digest), judged.media_type, len(data)),
                    *(judged.subject, judged.artifact_type, annotations, now, data),
                ),
            ).fetchone()
            db.executemany(
                "INSERT INTO targets VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(row, repository, str(target.digest)) for target in judged.targets],
            )
            db.executemany(
                "INSERT INTO tags VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET digest=?3, checked=?4",
                [(repository, tag, str(digest), now) for tag in tags],
            )

    def _check_targets(self, repository: str, judged: Judged) -> None:
        """Inside of the transaction: nothing of this can be collected before it ends."""
        missing: list[dict[str, str]] = []
        for target in judged.targets:
            if target.is_manifest:
                size = self.records.manifest_size(repository, str(target.digest))
            else:
                size = self.records.blob_size(repository, str(target.digest))
            if size is None:
                missing.append({"digest": str(target.digest)})
            elif size != target.size:
                why = f"{target.digest} has {size} bytes, the manifest says {target.size}"
                raise Refused(Code.MANIFEST_INVALID, why)
        if missing:
            names = ", ".join(each["digest"] for each in missing[:3])
            raise Refused(Code.MANIFEST_BLOB_UNKNOWN, names, detail=missing[:100])
