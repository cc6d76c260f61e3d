"""Where containers are kept and found: the table, and the live objects by id and name."""

import logging
import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from longshore.core.containers.container import Container
from longshore.core.containers.paths import Paths
from longshore.core.containers.record import Record
from longshore.core.database import Database
from longshore.errors import Conflict, InvalidArgument, NotFound, OutOfSpace

log = logging.getLogger(__name__)

_SCHEMA = (
    "CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, document TEXT NOT NULL) WITHOUT ROWID",
)


class ContainerStore:
    """Every change is in the database when the method returns."""

    def __init__(self, database: Database, paths: Paths) -> None:
        self._database = database
        self._paths = paths
        database.migrate("containers", _SCHEMA)
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._reserved: dict[str, str] = {}  # names of containers that are being made, to their ids
        for row in database.all("SELECT document FROM containers"):
            self.remember(self.revive(msgspec.json.decode(str(row["document"]), type=Record)))

    def revive(self, record: Record) -> Container:
        """The live object of a record; not stored yet."""
        return Container(record, self._paths.folder(record.id))

    def remember(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, name: str) -> Container:
        """By id, name or unique id prefix, in this order. Raises NotFound, InvalidArgument when ambiguous."""
        bare = name.removeprefix("/")
        found = self._by_id.get(bare) or self._by_name.get(bare)
        if found:
            return found
        if 0 < len(bare) < 64:
            matches = [container for id, container in self._by_id.items() if id.startswith(bare)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {bare}")
        raise NotFound(f"No such container: {name}")

    def find(self, id: str) -> Container | None:
        return self._by_id.get(id)

    def taken(self, name: str) -> bool:
        return name in self._by_name or name in self._reserved

    def reserve(self, name: str, id: str) -> None:
        """Hold a name while its container is being made. Raises Conflict with Docker's words."""
        owner = self._by_name.get(name)
        if owner or name in self._reserved:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{owner.id if owner else self._reserved[name]}". You have to remove (or rename) that container to be '
                "able to reuse that name."
            )
        self._reserved[name] = id

    def release(self, name: str) -> None:
        self._reserved.pop(name, None)

    def insert(self, container: Container) -> None:
        """Into the table only: `remember` it once the transaction around has succeeded."""
        record = container.record
        self._database.execute(
            "INSERT INTO containers (id, name, document) VALUES (?, ?, ?)",
            record.id,
            record.name,
            _encode(record),
        )

    def save(self, *containers: Container) -> None:
        """All or none. Nothing happens for a container that is removed already."""
        if len(containers) == 1:  # without a transaction, which a full disk would roll back
            self._update(containers[0])
            return
        with self._database.transaction(urgent=True):
            for container in containers:
                self._update(container)

    def _update(self, container: Container) -> None:
        record = container.record
        if record.id in self._by_id:
            self._database.execute(
                "UPDATE containers SET document = ? WHERE id = ?", _encode(record), record.id
            )

    def settle(self, container: Container) -> None:
        """Save what has happened already. With a full disk it stays in memory until the next save, and a daemon that
        starts again finds it in the exit record.
        """
        try:
            self.save(container)
        except OutOfSpace as error:
            log.error("container %s: its state is not saved: %s", container.name, error)

    def rename(self, container: Container, name: str) -> None:
        """`name` must be reserved by the caller."""
        old, container.record.name = container.record.name, name
        try:
            self._database.execute(
                "UPDATE containers SET name = ?, document = ? WHERE id = ?",
                name,
                _encode(container.record),
                container.id,
            )
        except (sqlite3.Error, OutOfSpace):
            container.record.name = old
            raise
        self._by_name.pop(old, None)
        self._by_name[name] = container

    def delete(self, container: Container) -> None:
        self._database.execute("DELETE FROM containers WHERE id = ?", container.id)
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.name) is container:
            del self._by_name[container.name]

    def users_of_volume(self, name: str) -> Sequence[str]:
        """Ids of the containers that mount the volume."""
        return [
            container.id
            for container in self._by_id.values()
            if any(mount.name == name and mount.type == "volume" for mount in container.record.mounts)
        ]

    def users_of_image(self, id: str, *, running: bool = False) -> list[str]:
        return [
            container.id
            for container in self._by_id.values()
            if container.record.image_id == id and (container.running or not running)
        ]


def _encode(record: Record) -> str:
    return msgspec.json.encode(record).decode()
