"""The folders behind RUN --mount=type=cache: kept from build to build, shared as each mount says.

    <root>/mounts/<name>/      the files; what is in there is a container's, so nothing of it is ever resolved by path
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from longshore.build.run_mounts import Sharing
from longshore.core.database import Database
from longshore.storage.content import space_errors
from longshore.storage.trees import remove_tree, tree_size

SCHEMA = [
    """
    CREATE TABLE build_mounts (
        name TEXT PRIMARY KEY, description TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
        uses INTEGER NOT NULL
    )
    """
]


@dataclass(frozen=True, slots=True)
class CacheFolder:
    """One kept folder, for lists. `size` is 0 until somebody asks for it by `MountStore.size`."""

    name: str
    description: str
    created: float  # seconds since 1970, as `used`
    used: float
    uses: int


class _Users:
    """Who is in a folder: several who share it, or one who has locked it."""

    def __init__(self) -> None:
        self.condition = asyncio.Condition()
        self.shared = 0
        self.locked = False

    @property
    def free(self) -> bool:
        return not self.shared and not self.locked


class MountStore:
    """Used from the event loop; the disk's work is done in threads."""

    def __init__(self, database: Database, root: Path) -> None:
        database.migrate("build-mounts", SCHEMA)
        self._database, self._root = database, root / "mounts"
        self._users: dict[str, _Users] = {}
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = {str(row["name"]) for row in database.all("SELECT name FROM build_mounts")}
        for folder in self._root.iterdir():
            if folder.name not in known:  # a crash came before the row, or in the middle of a removal
                remove_tree(folder)

    @asynccontextmanager
    async def use(
        self,
        key: str,
        description: str,
        sharing: Sharing,
        owner: tuple[int, int, int],
        fill: Callable[[Path], None] | None = None,
    ) -> AsyncGenerator[Path, None]:
        """The folder of a key for the time of one RUN. `owner`: uid, gid and mode that a new one gets.

        shared: beside others; locked: waits until it is alone; private: a folder of its own while another is in use.
        `fill` puts the first files in, in a thread. Raises OutOfSpace.
        """
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        if sharing == "private":
            name = self._free_one(name)
        users = self._users.setdefault(name, _Users())
        async with users.condition:
            await users.condition.wait_for(lambda: users.free if sharing == "locked" else not users.locked)
            users.locked, users.shared = sharing == "locked", users.shared + (sharing != "locked")
        try:
            yield await self._prepare(name, description, owner, fill)
        finally:
            async with users.condition:
                users.locked, users.shared = False, users.shared - (sharing != "locked")
                users.condition.notify_all()

    def _free_one(self, name: str) -> str:
        number = 0
        while True:
            candidate = f"{name}-{number}" if number else name
            users = self._users.get(candidate)
            if users is None or users.free:
                return candidate
            number += 1

    async def _prepare(
        self,
        name: str,
        description: str,
        owner: tuple[int, int, int],
        fill: Callable[[Path], None] | None,
    ) -> Path:
        folder, now = self._root / name, time.time()
        if not folder.is_dir():
            await asyncio.to_thread(self._make, folder, owner, fill)
        self._database.execute(
            "INSERT INTO build_mounts VALUES (?, ?, ?, ?, 1)"
            " ON CONFLICT (name) DO UPDATE SET used = excluded.used, uses = uses + 1",
            name,
            description[:1024],
            now,
            now,
        )
        return folder

    def _make(
        self, folder: Path, owner: tuple[int, int, int], fill: Callable[[Path], None] | None
    ) -> None:
        """Under another name first, so that a folder that exists is whole."""
        uid, gid, mode = owner
        fresh = self._root / f".new-{secrets.token_hex(8)}"
        with space_errors(self._root):
            try:
                fresh.mkdir()
                if fill is not None:
                    fill(fresh)
                os.chown(fresh, uid, gid)
                fresh.chmod(mode)
                try:
                    fresh.rename(folder)
                except FileExistsError:
                    pass
            finally:
                remove_tree(fresh)

    # For users

    def folders(self) -> list[CacheFolder]:
        return [
            CacheFolder(
                str(row["name"]),
                str(row["description"]),
                float(str(row["created"])),
                float(str(row["used"])),
                int(str(row["uses"])),
            )
            for row in self._database.all("SELECT * FROM build_mounts ORDER BY created DESC")
        ]

    def in_use(self, name: str) -> bool:
        users = self._users.get(name)
        return users is not None and not users.free

    async def size(self, name: str) -> int:
        """Bytes of its files."""
        return await asyncio.to_thread(tree_size, self._root / name)

    async def remove(self, name: str) -> int:
        """Delete a folder that nobody uses; returns the bytes it had. Twice is fine."""
        if self.in_use(name):
            return 0
        users = self._users.setdefault(name, _Users())
        async with users.condition:
            await users.condition.wait_for(lambda: users.free)
            users.locked = True
        try:
            size = await self.size(name)
            self._database.execute("DELETE FROM build_mounts WHERE name = ?", name)
            await asyncio.to_thread(remove_tree, self._root / name)
            return size
        finally:
            async with users.condition:
                users.locked = False
                users.condition.notify_all()
