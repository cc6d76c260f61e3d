"""Pulls into real stores: unpacked while they download, interrupted, resumed, on a full disk."""

import asyncio
import gzip
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from layer_lab import Lab, entry, tar
from tests.engine.fake_registry import Answer, Asked, FakeRegistry, digest, running

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.core.images.model import Image
from longshore.errors import InvalidArgument, OutOfSpace, Unavailable
from longshore.kernel import mounts
from longshore.oci.digest import parse_digest
from longshore.registry.client import RegistryClient
from longshore.registry.patience import Patience
from longshore.storage.layers import EMPTY_LAYER

QUICK = Patience(first_wait=0.01, longest_wait=0.02, silence=0.5, attempts=2)


class World(Lab):
    """The stores, and images that pull from a registry over HTTP."""

    def __init__(self, root: Path, registry: FakeRegistry) -> None:
        super().__init__(root)
        self.registry = registry
        self.database = Database(root / "db")
        self.images = Images(
            self.database, self.content, self.layers, EventBus(), RegistryClient(patience=QUICK)
        )
        self.said: list[str] = []

    async def pull(self, tag: str = "1") -> Image:
        def progress(message: dict[str, object]) -> None:
            self.said.append(str(message["status"]))

        name = f"{self.registry.address}/app:{tag}"
        return await self.images.transfer.pull(name, platform="linux/amd64", progress=progress)

    async def reopen(self) -> "World":
        await self.close()
        again = World(self.root, self.registry)
        await again.images.restore()
        return again

    async def close(self) -> None:
        await self.images.shelf.close()
        self.database.close()


def noise(name: str, size: int = 300_000) -> tuple[bytes, bytes]:
    """A layer of two files that do not compress: as a tar and packed."""
    plain = tar(entry(f"first-{name}", os.urandom(size)), entry(f"second-{name}", os.urandom(size)))
    return plain, gzip.compress(plain, 1)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with running() as registry:
        yield registry


@pytest.fixture
async def world(tmp_path: Path, registry: FakeRegistry) -> AsyncIterator[World]:
    world = World(tmp_path, registry)
    yield world
    await world.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # other processes and threads do it
            await asyncio.sleep(0.01)


async def test_a_layer_is_unpacked_while_it_downloads(world: World, registry: FakeRegistry) -> None:
    """Fails when unpacking waits for the end of the download."""
    layer = noise("a")
    registry.image([layer], "1")
    registry.first(99, digest(layer[1]), Answer(200, layer[1], cut=len(layer[1]) - 100_000, hang=True))
    pull = asyncio.create_task(world.pull())
    await until(lambda: list(world.layers.directory.glob(".new-*/first-a")))
    assert not world.content.has(parse_digest(digest(layer[1])))
    assert not world.layers.has(parse_digest(digest(layer[0])))
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert world.leftovers() == []
    registry.faults.clear()
    registry.asked.clear()
    image = await world.pull()
    assert [asked.headers.get("range") for asked in registry.paths(digest(layer[1]))] == [
        f"bytes={len(layer[1]) - 100_000}-"
    ]
    (name,) = world.images.rootfs(image)
    assert sorted(path.name for path in (world.layers.directory / name).iterdir()) == ["first-a", "second-a"]
    assert world.said[-3:-1] == ["Pull complete", f"Digest: {image.manifest.digest}"]


async def test_what_is_complete_is_not_fetched_again_after_a_restart(
    world: World, registry: FakeRegistry
) -> None:
    """Fails when a failed pull's whole layers are collected: the next try begins from nothing."""
    done, broken = noise("a"), noise("b")
    registry.image([done, broken], "1")
    registry.first(99, digest(broken[1]), Answer(503))
    with pytest.raises(Unavailable):
        await world.pull()
    again = await world.reopen()
    registry.faults.clear()
    registry.asked.clear()
    await again.pull()
    assert registry.paths(digest(done[1])) == []
    assert again.content.holds() == {}
    world.database = again.database


async def test_prune_forgets_interrupted_pulls(world: World, registry: FakeRegistry) -> None:
    done, broken = noise("a"), noise("b")
    registry.image([done, broken], "1")
    registry.first(99, digest(broken[1]), Answer(200, broken[1], cut=50_000, hang=True))
    with pytest.raises(Unavailable):
        await world.pull()
    assert world.content.partials()
    _, freed = await world.images.prune()
    assert freed > len(done[1])
    assert (world.content.list(), world.content.partials(), world.content.holds()) == ([], {}, {})


async def test_two_pulls_of_a_layer_fetch_it_once(world: World, registry: FakeRegistry) -> None:
    layer = noise("a")
    registry.image([layer], "1")
    registry.image([layer], "2", config={"Cmd": ["other"]})
    one, two = await asyncio.gather(world.pull("1"), world.pull("2"))
    assert one.id != two.id
    assert len(registry.paths(digest(layer[1]))) == 1


async def test_many_pulls_do_not_starve_each_other(world: World, registry: FakeRegistry) -> None:
    """Fails when workers that wait for a download take the threads that the download needs."""
    names = [str(number) for number in range(8)]
    for name in names:
        registry.image([noise(f"{name}{part}", 40_000) for part in range(3)], name)
    images = await asyncio.gather(*map(world.pull, names))
    assert all(world.layers.has(layer.diff_id) for image in images for layer in image.layers)


@pytest.mark.parametrize("wrong", ["diff id", "tar", "gzip"])
async def test_attack_21_a_layer_that_unpacks_to_something_else(
    world: World, registry: FakeRegistry, wrong: str
) -> None:
    """Fails when an unpacked layer counts before its digest was compared: all of this passes the blob's digest."""
    plain, packed = noise("a")
    bad = {"diff id": (plain + b"x", packed), "tar": (b"t" * 600, gzip.compress(b"t" * 600))}
    registry.image([bad.get(wrong, (plain, packed[:-20] + bytes(20)))], "1")
    with pytest.raises(InvalidArgument, match="invalid layer"):
        await world.pull()
    assert (world.content.list(), world.layers.list()) == ([], [EMPTY_LAYER])
    assert (world.leftovers(), world.content.partials(), world.content.holds()) == ([], {}, {})


async def test_a_disk_that_is_full_in_the_middle_of_an_unpack(registry: FakeRegistry, tmp_path: Path) -> None:
    """One clear error, nothing half-made, and the next try works once there is room."""
    small = tmp_path / "small"
    small.mkdir()
    mounts.mount("tmpfs", str(small), "tmpfs", 0, "size=24m")
    try:
        world = World(small, registry)
        wide = tar(entry("zeros", bytes(30 << 20)))  # packed it is little
        registry.image([(wide, gzip.compress(wide, 1)), noise("b")], "1")
        large = tar(entry("noise", os.urandom(30 << 20)))
        registry.image([(large, gzip.compress(large, 1))], "2")
        free = shutil.disk_usage(small).free
        for tag in ("1", "2"):
            with pytest.raises(OutOfSpace, match="no space left on device"):
                await world.pull(tag)
            assert (world.leftovers(), world.content.partials(), world.content.list()) == ([], {}, [])
            assert shutil.disk_usage(small).free > free - (1 << 20)
        registry.image([noise("c")], "3")
        await world.pull("3")
        await world.close()
    finally:
        mounts.umount(str(small))


async def test_a_blob_of_the_wrong_size_is_refused(world: World, registry: FakeRegistry) -> None:
    layer = noise("a")
    registry.image([layer], "1")

    def longer(asked: Asked) -> Answer | None:
        return Answer(200, layer[1] + b"x") if digest(layer[1]) in asked.path else None

    registry.faults.append(longer)
    with pytest.raises(InvalidArgument, match="more than the manifest says"):
        await world.pull()
    assert world.content.list() == []


async def test_prune_takes_a_pulled_image_that_others_are_made_of_by_all_its_names(
    world: World, registry: FakeRegistry
) -> None:
    """Fails when the digest, which goes with the tag, is looked for once more."""
    registry.image([noise("a", 1000)], "1")
    image = await world.pull()
    assert len(image.references) == 2
    child = await world.images.commit(image, None, image.config)
    world.images.tag(str(child.id), "child:1")
    world.images.shelf.in_use = lambda id: ["web"] if id == child.id else []
    records, _ = await world.images.prune({"dangling": ["false"]})
    assert [list(record) for record in records] == [["Untagged"], ["Untagged"]]
    assert world.images.get(str(image.id)).references == ()
