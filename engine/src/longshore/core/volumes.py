"""Volumes as users know them: names, labels and who uses them, over the store of folders.

A volume is a row in the database and a folder; the folder is made first and removed last, folders without a row are
swept at start.
"""

import asyncio
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from longshore.core.clock import now
from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.filters import check_filters, label_filter
from longshore.core.model import VolumeRequest
from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.storage.volumes import VolumeStore

_SCHEMA = ("CREATE TABLE volumes (name TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID",)
_FILTERS = frozenset({"name", "label", "driver", "dangling"})
_PRUNE_FILTERS = frozenset({"label", "label!", "all"})
ANONYMOUS_LABEL = "com.docker.volume.anonymous"  # clients tell anonymous volumes by it


class Volume(msgspec.Struct):
    name: str
    created: str
    driver: str = "local"
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    anonymous: bool = False
    mountpoint: str = ""


class Volumes:
    """`users` answers who mounts a volume (ids of containers); core.containers sets it."""

    def __init__(self, database: Database, store: VolumeStore, events: EventBus) -> None:
        self._database = database
        self._store = store
        self._events = events
        self.users: Callable[[str], Sequence[str]] = lambda _name: ()
        database.migrate("volumes", _SCHEMA)
        self._volumes: dict[str, Volume] = {}
        for row in database.all("SELECT document FROM volumes"):
            volume = msgspec.json.decode(str(row["document"]), type=Volume)
            self._volumes[volume.name] = volume

    def create(self, request: VolumeRequest, *, anonymous: bool = False) -> Volume:
        """Twice with the same name gives the same volume. Without a name: a random one.

        Raises InvalidArgument for a bad name, an unknown driver or options we cannot honour.
        """
        if request.driver not in ("", "local"):
            raise NotFound(
                f'error looking up volume plugin {request.driver}: plugin "{request.driver}" not found'
            )
        if request.driver_opts:
            raise InvalidArgument(
                f"invalid volume options: {', '.join(sorted(request.driver_opts))}",
                hint="the local driver takes no options here",
            )
        name = request.name or secrets.token_hex(32)
        if found := self._volumes.get(name):
            return found
        labels = dict(request.labels or {})
        if anonymous:
            labels[ANONYMOUS_LABEL] = ""
        path = self._store.create(name)
        volume = Volume(
            name=name,
            created=now(),
            labels=labels or None,
            anonymous=anonymous or not request.name,
            mountpoint=str(path),
        )
        self._database.execute(
            "INSERT INTO volumes (name, document) VALUES (?, ?)", name, msgspec.json.encode(volume).decode()
        )
        self._volumes[name] = volume
        self._events.publish("volume", "create", name, {"driver": "local"})
        return volume

    def prepare(self, name: str) -> tuple[Path, bool]:
        """The folder for a volume that is to be created with its first container; whether it is new.

        Until `create` it has no row, so a crash leaves nothing but what `sweep` removes.
        """
        fresh = name not in self._volumes
        return self._store.create(name), fresh

    def unprepare(self, name: str) -> None:
        """Undo `prepare`, unless somebody created the volume meanwhile."""
        if name not in self._volumes:
            self._store.remove(name)

    @contextmanager
    def transaction(self) -> Generator[None, None, None]:
        """Volumes created inside exist only if the whole transaction succeeds. No awaits inside."""
        before = dict(self._volumes)
        try:
            with self._database.transaction():
                yield
        except BaseException:
            self._volumes = before
            raise

    def get(self, name: str) -> Volume:
        """Raises NotFound("get x: no such volume")."""
        try:
            return self._volumes[name]
        except KeyError as cause:
            raise NotFound(f"get {name}: no such volume") from cause

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> "list[Volume]":
        """By name. Filters: name (part of it), label, driver, dangling."""
        given = check_filters(filters, _FILTERS)
        dangling = {value.lower() in ("1", "true") for value in given.get("dangling", ())}
        return [
            volume
            for name, volume in sorted(self._volumes.items())
            if (not given.get("name") or any(part in name for part in given["name"]))
            and (not given.get("driver") or volume.driver in given["driver"])
            and label_filter(given.get("label", ()), volume.labels or {})
            and (not dangling or (not self.users(name)) in dangling)
        ]

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Conflict while a container, also a stopped one, uses it. `force`: no error when there is none."""
        if name not in self._volumes and force:
            return
        self.get(name)
        if users := self.users(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        await self._delete(name)

    async def discard(self, name: str) -> None:
        """Remove an anonymous volume with its container, unless another one uses it. Twice is fine."""
        if name in self._volumes and not self.users(name):
            await self._delete(name)

    async def _delete(self, name: str) -> None:
        volume = self._volumes.pop(name)
        self._database.execute("DELETE FROM volumes WHERE name = ?", name)
        await asyncio.to_thread(self._store.remove, name)
        self._events.publish("volume", "destroy", name, {"driver": volume.driver})

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> tuple["list[str]", int]:
        """Remove unused volumes: anonymous ones, all of them with the filter all=true. (names, bytes freed)."""
        given = check_filters(filters, _PRUNE_FILTERS)
        everything = any(value.lower() in ("1", "true") for value in given.get("all", ()))
        removed: list[str] = []
        freed = 0
        for volume in self.list():
            labels = volume.labels or {}
            unwanted = given.get("label!", ())
            if not (everything or volume.anonymous) or self.users(volume.name):
                continue
            if not label_filter(given.get("label", ()), labels):
                continue
            if unwanted and label_filter(unwanted, labels):
                continue
            freed += await asyncio.to_thread(self._store.size, volume.name)
            if volume.name in self._volumes and not self.users(volume.name):
                await self._delete(volume.name)
                removed.append(volume.name)
        self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def size(self, name: str) -> int:
        return await asyncio.to_thread(self._store.size, name)

    def sweep(self) -> None:
        """At daemon start: remove folders without a row, which a crash left; make those anew that are missing."""
        for name in self._store.list():
            if name not in self._volumes:
                self._store.remove(name)
        for name in self._volumes:
            self._store.create(name)
