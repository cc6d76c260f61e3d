"""`doctor --repair`, `image why` and `system df` on real stores: each thing that can be missing or left over."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from layer_lab import Lab, chunks, entry, tar
from tests.engine.images import docker_archive

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.core.images.model import Image
from longshore.core.images.why import Reasons
from longshore.core.storage_check import Stores
from longshore.core.storage_repair import Upkeep
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.digest import Digest
from longshore.storage.snapshots import Snapshots

ONE, TWO = tar(entry("one", b"1")), tar(entry("two", b"22"))


class Cache:
    """Stands for the build cache: somebody else than images who needs blobs and layers."""

    def __init__(self, blobs: set[Digest], layers: set[Digest]) -> None:
        self.uses_blob, self.uses_layer = blobs.__contains__, layers.__contains__


class World(Lab):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.database = Database(root / "longshore.db")
        self.images = Images(self.database, self.content, self.layers, EventBus())
        self.snapshots = Snapshots(root / "snapshots")
        self.containers: list[str] = []
        stores = Stores(
            self.database,
            self.images.shelf,
            self.images.shelf.catalog,
            self.content,
            self.layers,
            self.snapshots,
        )
        reasons = Reasons(
            self.images,
            self.images.shelf.catalog,
            lambda id: [(name, "running") for name in self.images.shelf.in_use(id)],
        )
        self.upkeep = Upkeep(root, self.images, stores, lambda: self.containers, reasons)

    async def load(self, layers: list[bytes], name: str = "app:1") -> Image:
        (image,) = await self.images.archives.load(chunks(docker_archive(layers, name, {})), lambda _m: None)
        return image

    async def found(self, *, deep: bool = False) -> list[tuple[str, str]]:
        return [(check.status, check.detail) for check in await self.upkeep.examine(deep=deep)]

    async def mended(self, *, deep: bool = False) -> list[str]:
        return [mended.done or mended.error for mended in await self.upkeep.repair(deep=deep)]

    def held_by(self, name: str) -> list[tuple[str, str, str]]:
        return [(each.kind, each.name, each.detail) for each in self.upkeep.reasons.why(name).held_by]

    async def reopen(self) -> "World":
        await self.close()
        return World(self.root)

    async def close(self) -> None:
        await self.images.shelf.close()
        self.database.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


async def test_all_is_well(world: World) -> None:
    await world.load([ONE, TWO])
    ((status, words),) = await world.found(deep=True)
    assert status == "ok"
    assert words.startswith("1 images, 4 blobs (")
    assert await world.mended(deep=True) == []


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("config", "the config was written again"),
        ("manifest", "the manifest was written again"),
        ("unpacked", "the layer is unpacked again"),
    ],
)
async def test_what_is_missing_is_made_again(world: World, part: str, words: str) -> None:
    image = await world.load([ONE])
    if part == "unpacked":
        world.layers.delete(image.layers[0].diff_id)
    else:
        world.content.delete(image.id if part == "config" else image.manifest.blob)
    ((status, _),) = await world.found()
    assert status == "fail"
    assert words in await world.mended()
    assert (await world.found(deep=True))[0][0] == "ok"


async def test_a_layer_of_ours_is_packed_again(world: World) -> None:
    """The blob of a layer that was committed here comes out with the same digest."""
    (world.root / "upper").mkdir()
    (world.root / "upper/file").write_bytes(b"x" * 5000)
    base = await world.load([ONE])
    image = await world.images.commit(base, world.root / "upper", base.config)
    world.images.tag(str(image.id), "made:1")
    world.content.delete(image.layers[1].descriptor.blob)
    assert "the layer was packed again" in await world.mended()
    assert (await world.found(deep=True))[0][0] == "ok"


async def test_a_layer_of_others_is_pulled_again(world: World) -> None:
    image = await world.load([ONE])
    blob = image.layers[0].descriptor.blob
    world.content.path(blob).write_bytes(b"damaged")
    assert (await world.found())[0][0] == "ok"  # not without --deep
    ((status, words),) = await world.found(deep=True)
    assert (status, words) == ("fail", f"blob {blob.short} has other content than its digest")
    mended = await world.mended(deep=True)
    assert mended[0] == "the blob is deleted"
    assert mended[1].endswith("(longshore pull app:1)")
    assert world.images.get("app:1").id == image.id  # its containers can still run
    world.layers.delete(image.layers[0].diff_id)
    assert "the image was forgotten; longshore pull app:1" in await world.mended()
    assert world.images.list() == []
    assert (await world.found(deep=True))[0][0] == "ok"


async def test_an_image_whose_config_is_torn_is_forgotten(world: World) -> None:
    image = await world.load([ONE])
    world.content.path(image.id).write_bytes(b"torn")
    again = await world.reopen()
    assert ("fail", f"image {image.id.short}: its config is gone or damaged") in await again.found()
    assert "the image is forgotten" in await again.mended()
    assert (await again.found(deep=True))[0][0] == "ok"
    last = await again.reopen()
    assert (await last.found(deep=True))[0][0] == "ok"
    world.database = last.database


async def test_what_is_left_over_goes(world: World) -> None:
    await world.load([ONE])
    orphan = world.content.put(b"orphan")
    world.content.release([orphan])
    world.unpack(TWO)
    world.content.release(world.content.holds())
    world.snapshots.create("a" * 64)
    os.utime(world.snapshots.root / ("a" * 64), (time.time() - 100,) * 2)
    found = await world.found()
    assert {status for status, _ in found} == {"warn"}
    assert len(found) == 4  # two blobs, a layer, a container's files
    await world.mended()
    assert (await world.found())[0][0] == "ok"
    assert world.snapshots.list() == []


async def test_what_the_build_cache_needs_is_not_left_over(world: World) -> None:
    """Fails when a doctor's round empties the build cache."""
    world.unpack(TWO)
    world.content.release(world.content.holds())
    world.images.shelf.holders.append(Cache(set(world.content.list()), set(world.layers.list())))
    assert (await world.found())[0][0] == "ok"
    assert "build cache, unpacked" in {share.what for share in await world.upkeep.usage()}


async def test_what_is_coming_is_not_left_over(world: World) -> None:
    """Fails when a doctor's round takes what a running pull or a young container has just made."""
    with world.content.lease("pull"), world.layers.lease("pull"):
        world.unpack(TWO)
        world.snapshots.create("b" * 64)
        assert (await world.found())[0][0] == "ok"
        assert await world.mended() == []
        assert world.snapshots.list() == ["b" * 64]


async def test_a_container_without_files(world: World) -> None:
    world.containers.append("c" * 64)
    assert await world.found() == [("fail", "container cccccccccccc has lost its files")]
    assert await world.mended() == ["nothing can be done about it (remove the container)"]


async def test_a_damaged_database_is_told(world: World) -> None:
    await world.load([ONE])
    await world.close()
    path = world.root / "longshore.db"
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 4096):
        data[start : start + 4096] = b"x" * 4096
    world.database = Database(world.root / "longshore.db")
    path.write_bytes(data)
    assert world.database.check()


async def test_why(world: World) -> None:
    image = await world.load([ONE])
    child = await world.images.commit(image, None, image.config)
    world.images.tag(str(child.id), "child:1")
    world.images.shelf.in_use = lambda id: ["web"] if id == image.id else []
    assert world.held_by("app:1") == [
        ("tag", "app:1", ""),
        ("container", "web", "running"),
        ("child", str(child.id), "child:1"),
    ]
    assert world.upkeep.reasons.why(image.id.short).kind == "image"
    layer = image.layers[0]
    wanted = {("image", str(image.id), "layer 1 of app:1"), ("image", str(child.id), "layer 1 of child:1")}
    assert set(world.held_by(layer.descriptor.digest)) == wanted
    assert set(world.held_by(layer.diff_id.short)) == wanted
    assert world.held_by(image.manifest.digest) == [("image", str(image.id), "manifest of app:1")]
    layer_held = Cache({layer.descriptor.blob}, {layer.diff_id})
    world.images.shelf.holders.append(layer_held)
    assert ("build cache", "a step of a build", "longshore system prune frees it") in world.held_by(
        layer.descriptor.digest
    )
    held = world.content.put(b"held")
    assert world.held_by(str(held)) == [("hold", "just written", "for another 60 minutes")]
    with world.content.lease("pull of x"):
        world.content.has(held)
        assert ("operation", "pull of x", "") in world.held_by(str(held))
    with pytest.raises(RuntimeError), world.content.resume(Digest("sha256", "f" * 64), 9) as writer:
        writer.write(b"half")
        raise RuntimeError
    assert world.upkeep.reasons.why("ffffffff").kind == "partial"
    for name in ("nosuch:1", "abc", "0" * 64):
        with pytest.raises(NotFound):
            world.upkeep.reasons.why(name)
    with pytest.raises((NotFound, InvalidArgument)):
        world.upkeep.reasons.why("sha256:")


def du(root: Path) -> int:
    command = ["du", "-sx", "--block-size=1", root]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


async def test_every_byte_is_explained(world: World) -> None:
    """The sum is what du(1) says, whatever is in the data root."""
    await world.load([ONE, tar(entry("big", b"x" * 100_000))])
    world.content.put(b"held" * 5000)
    with pytest.raises(RuntimeError), world.content.resume(Digest("sha256", "0" * 64), 10_000) as writer:
        writer.write(b"half" * 2000)
        raise RuntimeError
    (world.snapshots.create("a" * 64).upper / "f").write_bytes(b"y" * 50_000)
    os.link(world.snapshots.root / ("a" * 64) / "upper/f", world.root / "linked")
    (world.root / "volumes/data/_data").mkdir(parents=True)
    (world.root / "volumes/data/_data/f").write_bytes(b"z" * 9000)
    *shares, total = await world.upkeep.usage()
    told_by_du = await asyncio.to_thread(du, world.root)
    assert total.size == told_by_du == sum(share.size for share in shares)
    told = {share.what: share for share in shares}
    assert told["halves of interrupted pulls"].free_by == "longshore image prune"
    assert told["blobs that are kept for an operation or a while"].count == 1
    assert told["images unpacked"].size >= 100_000
    assert told["volumes"].size >= 9000
    assert {"state database", "images as they came and are sent on"} <= told.keys()
