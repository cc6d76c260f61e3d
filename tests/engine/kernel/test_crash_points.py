"""kill -9 at any moment: the process ends at each change of the disk or the database in turn, and starts again.

A child runs one operation and exits, without any clean-up, right before its n-th change (an audit hook sees opens for
writing, renames, removals, new folders and processes; statements of the database are counted where they are made).
Afterwards a new start must find a consistent store, and the operation must succeed.
"""

import asyncio
import os
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from layer_lab import Lab, chunks, entry, tar
from tests.engine.fake_registry import FakeRegistry, running
from tests.engine.images import docker_archive

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.core.images.why import Reasons
from longshore.core.storage_check import Stores
from longshore.core.storage_repair import Upkeep
from longshore.registry.client import RegistryClient
from longshore.storage.snapshots import Snapshots

CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "subprocess.Popen"})
KILLED, TOO_FAR, DEFECT = 9, 10, 11
EVERY = int(os.environ.get("LONGSHORE_CRASH_EVERY", "7"))  # 1: each point, as `make suites-chaos` does
LAYERS = [tar(entry("one", b"1" * 70_000), entry("d/two", b"2")), tar(entry("three", b"3" * 70_000))]


class World(Lab):
    def __init__(self, root: Path, registry: FakeRegistry | None) -> None:
        super().__init__(root)
        self.database = Database(root / "longshore.db")
        self.registry = registry
        events = EventBus()
        self.images = Images(self.database, self.content, self.layers, events, RegistryClient())
        stores = Stores(
            self.database,
            self.images.shelf,
            self.images.shelf.catalog,
            self.content,
            self.layers,
            Snapshots(root / "snapshots"),
        )
        reasons = Reasons(self.images, self.images.shelf.catalog, lambda _id: ())
        self.upkeep = Upkeep(root, self.images, stores, tuple, reasons)


async def load(world: World) -> None:
    await world.images.archives.load(chunks(docker_archive(LAYERS, "app:1", {})), lambda _m: None)


async def pull(world: World) -> None:
    assert world.registry is not None
    name = f"{world.registry.address}/app:1"
    image = await world.images.transfer.pull(name, platform="linux/amd64", progress=lambda _m: None)
    world.images.tag(str(image.id), "app:1")


async def remove(world: World) -> None:
    if any("app:1" in image.tags for image in world.images.list()):
        await world.images.remove("app:1")
    await world.images.shelf.collect()


async def commit(world: World) -> None:
    upper = world.root / "upper"
    upper.mkdir(exist_ok=True)
    (upper / "file").write_bytes(b"x" * 70_000)
    (image,) = await world.images.archives.load(chunks(docker_archive(LAYERS, "base:1", {})), lambda _m: None)
    made = await world.images.commit(image, upper, image.config)
    world.images.tag(str(made.id), "app:1")


Operation = Callable[[World], Awaitable[None]]


def run_until(point: int, root: Path, operation: Operation, registry: FakeRegistry | None) -> int:
    """In a child: the operation up to its change number `point`. Returns how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left, counting = point, False

    def change() -> None:
        nonlocal left
        if counting:
            left -= 1
            if left < 0:
                os._exit(KILLED)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_CREAT | os.O_WRONLY)
        ):
            change()

    async def act() -> None:
        nonlocal counting
        world = World(root, registry)
        counting = True
        await operation(world)

    execute = Database.execute

    def counted(self: Database, sql: str, *values: object) -> int:
        change()
        return execute(self, sql, *values)

    Database.execute = counted  # type: ignore[method-assign]
    sys.addaudithook(hook)
    try:
        asyncio.run(act())
        os._exit(TOO_FAR)
    except BaseException:
        traceback.print_exc()
        os._exit(DEFECT)


async def judged(root: Path, operation: Operation, registry: FakeRegistry | None, *, gone: bool) -> list[str]:
    """What is wrong after a new start, and after the operation has been done again."""
    world = World(root, registry)
    wrong: list[str] = []

    async def look(when: str) -> None:
        found = [check.detail for check in await world.upkeep.examine(deep=True) if check.status != "ok"]
        wrong.extend(f"{when}: {detail}" for detail in found)
        wrong.extend(f"{when}: {name} is left" for name in world.leftovers())

    await world.images.restore()
    await look("after the start")
    await operation(world)
    await look("after the next try")
    if gone == any("app:1" in image.tags for image in world.images.list()):
        wrong.append("the next try has not done it")
    await world.images.shelf.close()
    world.database.close()
    return wrong


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    with running() as registry:
        registry.image([(layer, layer) for layer in LAYERS], "1")
        yield registry


@pytest.mark.parametrize("operation", [load, pull, remove, commit], ids=lambda each: each.__name__)
async def test_killed_at_each_change(operation: Operation, registry: FakeRegistry) -> None:
    """Fails when a name is given before its content is there, or the database is told before the disk."""
    point, wrong, ended = 0, [], KILLED
    while ended == KILLED:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="crash") as folder:
            root = Path(folder)
            if operation is remove:
                before = World(root, None)
                await load(before)
                before.database.close()
            ended = await asyncio.to_thread(run_until, point, root, operation, registry)
            assert ended in (KILLED, TOO_FAR), f"at change {point}"
            found = await judged(root, operation, registry, gone=operation is remove)
            wrong += [f"killed before change {point}: {what}" for what in found]
        point += EVERY
    assert wrong == []
    assert point > 10, "the operation changes more than that"
