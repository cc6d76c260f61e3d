"""What does not fit together between the database and the disk: missing, left over or damaged. Changes nothing.

A finding carries its repair as a name; `storage_repair` knows what the names mean. What running operations hold
is no finding.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from longshore.core.database import Database
from longshore.core.images.catalog import Catalog, blobs_of
from longshore.core.images.model import Image
from longshore.errors import EngineError
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.units import human_size
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore
from longshore.storage.snapshots import Snapshots

YOUNG = 60.0  # seconds in which what has no owner yet may get one


class Repair(Enum):
    """What `doctor --repair` does about a finding."""

    FORGET_IMAGE = "the image is forgotten"
    RESTORE_BLOB = "the blob is made again from what is left, or the image is to be pulled again"
    UNPACK = "the layer is unpacked again"
    DELETE_BLOB = "the blob is deleted"
    DELETE_LAYER = "the layer is deleted"
    DELETE_SNAPSHOT = "the files are deleted"
    NONE = "remove the container"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject`: a digest, or the id of an image or container. `grave`: something does not work because of it."""

    what: str
    repair: Repair
    subject: str
    image: str = ""  # the image that suffers
    grave: bool = True


class Users(Protocol):
    def uses_blob(self, digest: Digest) -> bool: ...
    def uses_layer(self, diff_id: Digest) -> bool: ...


@dataclass(frozen=True, slots=True)
class Stores:
    """Everything that is looked at. `users`: core.images.Images, which knows who needs what."""

    database: Database
    users: Users
    catalog: Catalog
    content: ContentStore
    layers: LayerStore
    snapshots: Snapshots


@dataclass(frozen=True, slots=True)
class Picture:
    """What the event loop knows at one moment; the disk is looked at in a thread."""

    images: Sequence[Image]
    damaged: Sequence[str]  # ids of images whose config cannot be read
    containers: frozenset[str]  # ids


def find(stores: Stores, picture: Picture, *, deep: bool = False) -> list[Finding]:
    """All findings, the grave ones first. `deep` reads and compares every blob. Blocks."""
    found = [
        *_database(stores.database),
        *_damaged(picture),
        *_missing(stores, picture),
        *(_wrong(stores) if deep else ()),
        *_left_over(stores),
        *_snapshots(stores.snapshots, picture),
    ]
    return sorted(found, key=lambda finding: not finding.grave)


def summary(stores: Stores, picture: Picture) -> str:
    """One line for the case that nothing is found. Blocks."""
    blobs = stores.content.list()
    size = sum(_size(stores.content, digest) for digest in blobs)
    partials = stores.content.partials()
    waiting = f", {human_size(sum(partials.values()))} of interrupted pulls" if partials else ""
    return (
        f"{len(picture.images)} images, {len(blobs)} blobs ({human_size(size)}), {len(stores.layers.list()) - 1} "
        f"layers, {len(stores.snapshots.list())} containers: all there{waiting}"
    )


def _size(content: ContentStore, digest: Digest) -> int:
    try:
        return content.size(digest)
    except EngineError:
        return 0


def _database(database: Database) -> Iterator[Finding]:
    for row in database.check():
        yield Finding(f"the state database is damaged: {row}", Repair.NONE, "longshore.db")


def _damaged(picture: Picture) -> Iterator[Finding]:
    for id in picture.damaged:
        yield Finding(f"image {_short(id)}: its config is gone or damaged", Repair.FORGET_IMAGE, id, id)


def _missing(stores: Stores, picture: Picture) -> Iterator[Finding]:
    for image in picture.images:
        name = image.tags[0] if image.tags else image.id.short
        for digest in sorted(blobs_of(image)):
            if not stores.content.path(digest).exists():
                yield Finding(
                    f"image {name}: blob {digest.short} is missing",
                    Repair.RESTORE_BLOB,
                    str(digest),
                    str(image.id),
                )
        for layer in image.layers:
            if not stores.layers.has(layer.diff_id):
                yield Finding(
                    f"image {name}: layer {layer.diff_id.short} is not unpacked",
                    Repair.UNPACK,
                    str(layer.diff_id),
                    str(image.id),
                )


def _wrong(stores: Stores) -> Iterator[Finding]:
    for digest in stores.content.list():
        try:
            true = stores.content.is_true(digest)
        except (EngineError, OSError) as error:
            if stores.content.path(digest).exists():
                yield Finding(f"blob {digest.short} cannot be read: {error}", Repair.DELETE_BLOB, str(digest))
            continue
        if not true:
            yield Finding(
                f"blob {digest.short} has other content than its digest", Repair.DELETE_BLOB, str(digest)
            )


def _left_over(stores: Stores) -> Iterator[Finding]:
    for digest in stores.content.list():
        if not (stores.content.keeps(digest) or stores.users.uses_blob(digest)):
            yield Finding(
                f"blob {digest.short} belongs to no image", Repair.DELETE_BLOB, str(digest), grave=False
            )
    for diff_id in stores.layers.list():
        if not (stores.layers.keeps(diff_id) or stores.users.uses_layer(diff_id)):
            yield Finding(
                f"layer {diff_id.short} belongs to no image", Repair.DELETE_LAYER, str(diff_id), grave=False
            )


def _snapshots(snapshots: Snapshots, picture: Picture) -> Iterator[Finding]:
    there = set(snapshots.list())
    for id in sorted(there - picture.containers):
        if _age(snapshots.root / id) > YOUNG:
            yield Finding(
                f"files of container {id[:12]}, which does not exist", Repair.DELETE_SNAPSHOT, id, grave=False
            )
    for id in sorted(picture.containers - there):
        yield Finding(f"container {id[:12]} has lost its files", Repair.NONE, id)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _short(id: str) -> str:
    try:
        return parse_digest(id).short
    except EngineError:
        return id[:12]
