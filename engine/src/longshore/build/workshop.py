"""What all builds of one daemon share: the cache, the folders of cache mounts, running steps, room to work in."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path

from longshore.build.cache import Cache, Record
from longshore.build.flights import Flights
from longshore.build.mount_store import MountStore
from longshore.core.engine import Engine
from longshore.errors import EngineError
from longshore.storage.trees import remove_tree

STEPS_AT_ONCE = max(2, os.cpu_count() or 2)  # RUN and COPY of all builds together


class Workshop:
    """One for the life of the daemon. `root` is on the disk of the images, `run` on a tmpfs, for secrets and sockets.

    What a daemon before this one left in both is removed.
    """

    def __init__(self, engine: Engine, root: Path, run: Path) -> None:
        self.engine = engine
        self._scratch, self._run = root / "scratch", run
        for folder in (self._scratch, self._run):
            remove_tree(folder)
            folder.mkdir(parents=True, mode=0o700)
        self.cache = Cache(engine.database, engine.images)
        self.mounts = MountStore(engine.database, root)
        self.flights: Flights[Record, object] = Flights()
        self.slots = asyncio.Semaphore(STEPS_AT_ONCE)
        engine.images.shelf.holders.append(self.cache)

    @property
    def scratch(self) -> Path:
        """For files without a name."""
        return self._scratch

    @contextlib.contextmanager
    def disk_folder(self) -> Generator[Path, None, None]:
        """A private folder on the disk of the images, gone afterwards whatever is in it."""
        yield from _folder(self._scratch)

    @contextlib.contextmanager
    def memory_folder(self) -> Generator[Path, None, None]:
        """The same on a tmpfs, where the daemon's run directory is one: for what must not reach a disk."""
        yield from _folder(self._run)

    async def restore(self) -> None:
        """At daemon start: the containers of builds that a daemon before this one was at. Twice is fine."""
        for container in self.engine.containers.list(all=True):
            if container.record.layers:
                with contextlib.suppress(EngineError):  # somebody else removes it
                    await self.engine.containers.remove(container, force=True, volumes=True)


def workshop_of(engine: Engine) -> Workshop:
    """The daemon's."""
    workshop = engine.kept[Workshop]
    assert isinstance(workshop, Workshop)
    return workshop


def _folder(parent: Path) -> Generator[Path, None, None]:
    folder = parent / secrets.token_hex(6)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)
