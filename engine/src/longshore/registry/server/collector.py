"""Garbage collection while serving: mark by the records, sweep under the lock that every birth takes too.

What is kept: every blob that a manifest of the same repository names, and every link to a blob that was pushed,
mounted or looked at within the grace period. The latter is the lease of a push under way: a client that found a blob
there, by HEAD, mount or its own upload, will name it in a manifest soon.
"""

import logging
from dataclasses import dataclass

from longshore.oci.digest import parse_digest
from longshore.registry.server.store import Store

log = logging.getLogger("longshore.registry.server")
_BATCH = 200  # blobs per transaction: pushes wait for no more


@dataclass(slots=True)
class Collected:
    manifests: int = 0
    links: int = 0
    blobs: int = 0
    bytes: int = 0
    strays: int = 0  # files without a row: what a crash left


def collect(store: Store, *, grace: float, delete_untagged: bool = False, ttl: float = 0.0) -> Collected:
    """One run; blocks. `grace` and `ttl` in seconds; `ttl`, of a pull-through cache, ends unused manifests too."""
    done = Collected()
    limit = store.clock() - grace
    if ttl:
        done.manifests += _drop_unused(store, store.clock() - ttl)
    if delete_untagged:
        done.manifests += _drop_untagged(store, limit)
    with store.records.change() as db:
        done.links = db.execute(
            "DELETE FROM links WHERE touched<=? AND NOT EXISTS (SELECT 1 FROM targets"
            " WHERE targets.repository=links.repository AND targets.digest=links.digest)",
            (limit,),
        ).rowcount
    _sweep_blobs(store, done)
    _sweep_strays(store, done)
    if done.blobs or done.manifests or done.strays:
        log.info(
            "garbage collected: %d manifests, %d blobs, %d bytes", done.manifests, done.blobs, done.bytes
        )
    return done


def _drop_untagged(store: Store, limit: float) -> int:
    """Manifests that no tag, no index and no present subject holds; what they held follows in the next round."""
    total = 0
    while True:
        with store.records.change() as db:
            gone = db.execute(
                "DELETE FROM manifests WHERE touched<=? AND NOT EXISTS (SELECT 1 FROM tags"
                " WHERE tags.repository=manifests.repository AND tags.digest=manifests.digest)"
                " AND NOT EXISTS (SELECT 1 FROM targets"
                " WHERE targets.repository=manifests.repository AND targets.digest=manifests.digest)"
                " AND NOT EXISTS (SELECT 1 FROM manifests AS held WHERE manifests.subject!=''"
                " AND held.repository=manifests.repository AND held.digest=manifests.subject)",
                (limit,),
            ).rowcount
        if not gone:
            return total
        total += gone


def _drop_unused(store: Store, limit: float) -> int:
    with store.records.change() as db:
        db.execute(
            "DELETE FROM tags WHERE checked<=?1 AND EXISTS (SELECT 1 FROM manifests"
            " WHERE manifests.repository=tags.repository AND manifests.digest=tags.digest AND touched<=?1)",
            (limit,),
        )
        return db.execute(
            "DELETE FROM manifests WHERE touched<=? AND NOT EXISTS (SELECT 1 FROM tags"
            " WHERE tags.repository=manifests.repository AND tags.digest=manifests.digest)",
            (limit,),
        ).rowcount


def _sweep_blobs(store: Store, done: Collected) -> None:
    """Rows go first: a crash in between leaves a stray file, never a row without its file."""
    while True:
        with store.records.lock:
            with store.records.change() as db:
                gone = db.execute(
                    "DELETE FROM blobs WHERE digest IN (SELECT digest FROM blobs WHERE NOT EXISTS"
                    " (SELECT 1 FROM links WHERE links.digest=blobs.digest) LIMIT ?) RETURNING digest, size",
                    (_BATCH,),
                ).fetchall()
            for digest, size in gone:
                store.files.remove(parse_digest(digest))
                done.blobs += 1
                done.bytes += size
        if len(gone) < _BATCH:
            return


def _sweep_strays(store: Store, done: Collected) -> None:
    for digest in store.files.all():
        if store.records.knows_blob(str(digest)):
            continue
        with store.records.lock:  # a birth names the file and commits the row under it
            if not store.records.knows_blob(str(digest)):
                store.files.remove(digest)
                done.strays += 1
