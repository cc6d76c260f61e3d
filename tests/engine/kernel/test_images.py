"""Images through their whole life: with the database, the stores and the workers, and skopeo as a peer."""

import asyncio
import gzip
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from layer_lab import Lab, chunks, entry, tar
from tests.engine.images import busybox_layer, busybox_tar, docker_archive

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.core.images.model import Image
from longshore.errors import Conflict, InvalidArgument, NotFound, Unavailable, Unsupported
from longshore.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor
from longshore.oci.digest import sha256_of
from longshore.oci.manifest import build_manifest
from longshore.oci.reference import Reference
from longshore.registry.auth import Credentials
from longshore.registry.client import Pulled
from longshore.storage.content import ContentStore
from longshore.storage.layers import EMPTY_LAYER

ONE, TWO = tar(entry("one", b"1")), tar(entry("two", b"22"))


class World(Lab):
    """Stores, database and images below one directory; `reopen` is a restart of the daemon."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events = EventBus()
        self.database = Database(root / "db")
        self.images = Images(self.database, self.content, self.layers, self.events)
        self.said: list[dict[str, object]] = []

    async def load(self, data: bytes) -> list[Image]:
        return await self.images.archives.load(chunks(data), self.hear)

    def hear(self, message: dict[str, object]) -> None:
        if "stream" in message:  # progress apart
            self.said.append(message)

    async def save(self, *names: str) -> bytes:
        return b"".join([piece async for piece in self.images.archives.save(names)])

    async def reopen(self) -> "World":
        await self.close()
        return World(self.root)

    async def close(self) -> None:
        await self.images.shelf.close()
        self.database.close()

    def assert_empty(self) -> None:
        assert self.images.list() == []
        assert self.content.list() == []
        assert self.layers.list() == [EMPTY_LAYER]
        assert self.leftovers() == []


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.close()


def skopeo(*arguments: object) -> str:
    command = ["skopeo", "--insecure-policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_load_makes_a_usable_image(world: World) -> None:
    (image,) = await world.load(gzip.compress(busybox_tar()))
    assert world.said == [{"stream": "Loaded image: busybox:latest\n"}]
    assert image.tags == ("busybox:latest",)
    assert image.config.defaults.cmd == ["sh"]
    assert sha256_of(image.raw_config) == image.id
    (lower,) = world.images.rootfs(image)
    assert (world.layers.directory / lower / "bin/busybox").stat().st_nlink > 100
    for name in (
        "busybox",
        "busybox:latest",
        str(image.id),
        image.id.hex,
        image.id.short,
        f"sha256:{image.id.short}",
    ):
        assert world.images.get(name).id == image.id


async def test_what_was_acknowledged_survives_a_restart(world: World) -> None:
    (image,) = await world.load(busybox_tar())
    world.images.tag("busybox", "again:1")
    reopened = await world.reopen()
    assert reopened.images.get("again:1") == world.images.get("busybox")
    assert reopened.images.get("again:1").id == image.id
    await reopened.images.restore()
    assert len(reopened.images.list()) == 1
    world.database = reopened.database


async def test_a_layer_that_a_power_cut_took_is_unpacked_again(world: World) -> None:
    (image,) = await world.load(busybox_tar())
    world.layers.delete(image.layers[0].diff_id)
    await world.images.restore()
    assert world.layers.has(image.layers[0].diff_id)


@pytest.mark.parametrize("source", ["docker-archive:{}:app:1", "oci-archive:{}:1"])
async def test_skopeo_reads_what_we_save(world: World, tmp_path: Path, source: str) -> None:
    (image,) = await world.load(docker_archive([ONE, TWO], "app:1", {"Cmd": ["x"]}))
    (tmp_path / "saved.tar").write_bytes(await world.save("app:1"))
    name = source.format(tmp_path / "saved.tar")
    seen = json.loads(skopeo("inspect", "--config", name))
    assert seen["config"] == {"Cmd": ["x"]}
    skopeo("copy", name, f"dir:{tmp_path / 'copy'}")
    raw = (tmp_path / "copy/manifest.json").read_bytes()
    if source.startswith("oci"):
        assert sha256_of(raw) == image.manifest.blob
    assert json.loads(raw)["config"]["digest"] == str(image.id)


@pytest.mark.parametrize("target", ["docker-archive:{}:app:2", "oci-archive:{}:localhost/app:2"])
async def test_we_read_what_skopeo_writes(world: World, tmp_path: Path, target: str) -> None:
    (tmp_path / "in.tar").write_bytes(busybox_tar())
    skopeo("copy", f"docker-archive:{tmp_path / 'in.tar'}", target.format(tmp_path / "out.tar"))
    (image,) = await world.load((tmp_path / "out.tar").read_bytes())
    assert image.tags[0].endswith("app:2")
    (lower,) = world.images.rootfs(image)
    assert (world.layers.directory / lower / "bin/sh").exists()


async def test_digests_survive_a_journey_through_skopeo(world: World, tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(busybox_tar())
    skopeo("copy", f"docker-archive:{tmp_path / 'in.tar'}", f"oci-archive:{tmp_path / 'a.tar'}:x.io/a:1")
    (image,) = await world.load((tmp_path / "a.tar").read_bytes())
    assert image.layers[0].descriptor.media_type.endswith("gzip")
    (tmp_path / "b.tar").write_bytes(await world.save("x.io/a:1"))
    skopeo("copy", f"oci-archive:{tmp_path / 'b.tar'}", f"dir:{tmp_path / 'dir'}")
    assert sha256_of((tmp_path / "dir/manifest.json").read_bytes()) == image.manifest.blob


async def test_another_packing_does_not_change_what_is_known_of_an_image(world: World) -> None:
    (image,) = await world.load(docker_archive([ONE], "app:1", {}))
    entries = [{"Config": "c", "RepoTags": ["app:packed"], "Layers": ["l"]}]
    packed = tar(
        entry("manifest.json", json.dumps(entries).encode()),
        entry("c", image.raw_config),
        entry("l", gzip.compress(ONE)),
    )
    (again,) = await world.load(packed)
    assert (again.id, again.manifest, again.layers) == (image.id, image.manifest, image.layers)
    assert again.tags == ("app:1", "app:packed")
    assert not world.content.has(sha256_of(gzip.compress(ONE)))  # nothing refers to the other packing


async def test_saving_a_repository_saves_all_of_its_tags(world: World) -> None:
    await world.load(docker_archive([ONE], "app:1", {}))
    await world.load(docker_archive([TWO], "app:2", {}))
    world.images.tag("app:1", "app:old")
    world.images.tag("app:1", "other:1")
    data = await world.save("app")
    for image in world.images.list():
        await world.images.remove(str(image.id), force=True)
    world.assert_empty()
    await world.load(data)
    assert sorted(tag for image in world.images.list() for tag in image.tags) == ["app:1", "app:2", "app:old"]


async def test_a_name_that_moves_is_announced(world: World) -> None:
    (old,) = await world.load(docker_archive([ONE], "app:1", {}))
    world.said.clear()
    await world.load(docker_archive([TWO], "app:1", {}))
    assert world.said == [
        {
            "stream": f"The image app:1 already exists, renaming the old one with ID {old.id} to empty string\n"
        },
        {"stream": "Loaded image: app:1\n"},
    ]
    assert world.images.get(str(old.id)).tags == ()


async def test_a_failed_load_leaves_nothing(world: World) -> None:
    good = docker_archive([ONE], "app:1", {})
    wrong = good.replace(b'"type": "layers"', b'"type": "laiers"')
    assert wrong != good
    for data in (wrong, good[: len(good) // 2], docker_archive([ONE, b"x" * 400_000], "app:1", {})):
        with pytest.raises(InvalidArgument):
            await world.load(data)
        world.assert_empty()


async def test_an_image_for_another_system_is_refused(world: World) -> None:
    data = docker_archive([ONE], "app:1", {}).replace(b'"os": "linux"', b'"os": "plan9"')
    with pytest.raises(Unsupported, match="operating system 'plan9'"):
        await world.load(data)
    world.assert_empty()


async def test_a_client_that_goes_away_leaves_nothing(world: World) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield busybox_tar()[:500_000]
        await asyncio.sleep(60)

    task = asyncio.create_task(world.images.archives.load(endless(), world.said.append))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    world.assert_empty()


async def test_the_loop_stays_responsive_while_a_large_image_comes_in(world: World) -> None:
    worst, last = 0.0, time.monotonic()
    data = docker_archive([tar(entry("big", bytes(100 << 20)))], "big:1", {})
    load = asyncio.create_task(world.load(data))
    while not load.done():
        last = time.monotonic()
        await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - last)
    assert load.result()[0].size == 100 << 20
    assert worst < 0.5  # 30 ms on an idle machine


async def test_import_applies_changes(world: World) -> None:
    image = await world.images.archives.import_(
        chunks(gzip.compress(busybox_layer())), "imp:1", ['CMD ["sh"]', "ENV A=b", "EXPOSE 80"], "from a test"
    )
    assert image.tags == ("imp:1",)
    assert image.config.defaults.cmd == ["sh"]
    assert image.config.defaults.exposed_ports == {"80/tcp": {}}
    assert (await world.images.history("imp:1"))[0]["Comment"] == "from a test"
    assert image.layers[0].diff_id == sha256_of(busybox_layer())
    with pytest.raises(InvalidArgument):
        await world.images.archives.import_(chunks(b"no tar" * 1000), "imp:2")
    with pytest.raises(InvalidArgument):
        await world.images.archives.import_(chunks(b""), "imp:3", ["RUN x"])
    await world.images.remove("imp:1")
    world.assert_empty()


async def test_commit_stacks_layers_and_history(world: World, tmp_path: Path) -> None:
    (base,) = await world.load(docker_archive([ONE], "base:1", {"Env": ["A=1"]}))
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "new").write_text("x")
    first = await world.images.commit(base, upper, base.config, created_by="RUN touch new")
    second = await world.images.commit(first, None, base.config, created_by="CMD x", author="me")
    (upper / "new").unlink()
    third = await world.images.commit(second, upper, base.config, created_by="RUN true")
    assert [len(i.layers) for i in (base, first, second, third)] == [1, 2, 2, 2]
    assert [step.empty_layer for step in third.config.history or ()] == [False, False, True, True]
    assert (third.parent, second.parent) == (second.id, first.id)
    assert len(world.images.rootfs(third)) == 2
    assert (world.layers.directory / world.images.rootfs(third)[0] / "new").read_text() == "x"
    world.images.tag(str(third.id), "app:1")
    assert {i.id for i in world.images.list(all=False)} == {base.id, third.id}
    records = await world.images.remove("app:1")
    assert [r["Deleted"] for r in records if "Deleted" in r][:3] == [
        str(i.id) for i in (third, second, first)
    ]
    assert [i.id for i in world.images.list()] == [base.id]
    assert set(world.layers.list()) == {EMPTY_LAYER, base.layers[0].diff_id}


async def test_an_image_without_layers_still_has_a_root(world: World) -> None:
    (base,) = await world.load(docker_archive([ONE], "base:1", {}))
    image = await world.images.commit(None, None, base.config, created_by="LABEL")
    (lower,) = world.images.rootfs(image)
    assert list((world.layers.directory / lower).iterdir()) == []


async def test_the_same_layer_twice_is_mounted_once(world: World) -> None:
    (image,) = await world.load(docker_archive([ONE, TWO, ONE], "app:1", {}))
    one, two = (world.layers.name(sha256_of(data)) for data in (ONE, TWO))
    assert world.images.rootfs(image) == (one, two)
    opaque = tar(entry(".wh..wh..opq"), entry("only", b""))
    (image,) = await world.load(docker_archive([ONE, opaque, TWO], "app:2", {}))
    assert world.images.rootfs(image) == (two, world.layers.name(sha256_of(opaque)))


async def test_too_many_layers_are_refused(world: World, tmp_path: Path) -> None:
    layers = [tar(entry(str(n), b"")) for n in range(125)]
    (image,) = await world.load(docker_archive(layers, "deep:1", {}))
    assert len(":".join(world.images.rootfs(image))) < 4096 - 512  # mount(2) takes one page of options
    (tmp_path / "u").mkdir()
    (tmp_path / "u/f").touch()
    with pytest.raises(InvalidArgument, match="max depth exceeded"):
        await world.images.commit(image, tmp_path / "u", image.config)
    with pytest.raises(InvalidArgument):
        await world.load(docker_archive([*layers, ONE], "deep:2", {}))


async def test_images_from_blobs_that_are_here(world: World) -> None:
    (image,) = await world.load(docker_archive([ONE], "app:1", {}))
    config, manifest = image.raw_config, world.content.read(image.manifest.blob, 1 << 20)
    await world.images.remove("app:1")
    world.assert_empty()
    descriptors = [layer.descriptor for layer in image.layers]
    with pytest.raises(NotFound, match=str(sha256_of(ONE))):
        await world.images.add(config, descriptors, manifest, references=["app:1"])
    world.assert_empty()
    world.content.put(ONE)
    await world.images.shelf.collect()  # shipped blobs wait for their image
    again = await world.images.add(config, descriptors, manifest, references=["app:1"])
    assert (again.id, again.manifest, again.tags) == (image.id, image.manifest, ("app:1",))
    with pytest.raises(InvalidArgument, match="describes another image"):
        other = build_manifest(Descriptor(OCI_CONFIG, str(sha256_of(b"other")), 5), descriptors)
        await world.images.add(config, descriptors, other)
    with pytest.raises(InvalidArgument, match="1 diff ids for 2 layers"):
        await world.images.add(config, [*descriptors, *descriptors], manifest)
    await world.images.remove("app:1")
    world.assert_empty()


async def test_removal_minds_containers(world: World) -> None:
    (image,) = await world.load(docker_archive([ONE], "app:1", {}))
    users = ["c" * 64]
    world.images.shelf.in_use = lambda id: users if id == image.id else []
    with pytest.raises(
        Conflict, match=f"container {'c' * 12} is using its referenced image {image.id.short}"
    ):
        await world.images.remove("app:1")
    await world.images.remove(str(image.id), force=True)
    assert world.images.list() == []
    with pytest.raises(NotFound, match="No such image: app:1"):
        world.images.get("app:1")
    # its stopped container can still be started
    assert world.images.rootfs(world.images.get(str(image.id)))
    assert world.layers.has(image.layers[0].diff_id)
    users.clear()
    await world.images.shelf.collect()
    world.assert_empty()


async def test_unknown_names(world: World) -> None:
    for name, shown in (
        ("nope", "nope:latest"),
        ("nope:1", "nope:1"),
        ("x" * 5, "xxxxx:latest"),
        ("0" * 64, "0" * 64),
    ):
        with pytest.raises(NotFound, match=f"No such image: {shown}"):
            world.images.get(name)
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        world.images.get("UPPER")


async def test_an_ambiguous_prefix(world: World) -> None:
    seen: dict[str, str] = {}
    for number in range(40):  # 40 images share a first hex digit for sure, and 17 would
        (image,) = await world.load(docker_archive([], f"app:{number}", {"Cmd": [str(number)]}))
        prefix = image.id.hex[:1]
        if prefix in seen:
            break
        seen[prefix] = image.id.hex
    with pytest.raises(NotFound, match=f"No such image: {prefix}: the prefix fits"):
        world.images.get(prefix)


async def test_tags(world: World) -> None:
    await world.load(docker_archive([ONE], "app:1", {}))
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        world.images.tag("app:1", "UPPER")
    with pytest.raises(InvalidArgument, match="refusing to create a tag with a digest"):
        world.images.tag("app:1", f"app@sha256:{'0' * 64}")
    with pytest.raises(NotFound):
        world.images.tag("nope", "app:2")


async def test_prune(world: World) -> None:
    await world.load(docker_archive([ONE], "app:1", {}))
    (nameless,) = await world.load(docker_archive([TWO], "app:2", {}))
    await world.load(docker_archive([tar(entry("3", b"3"))], "app:2", {}))
    records, freed = await world.images.prune()
    assert records[0] == {"Deleted": str(nameless.id)}
    assert freed > len(TWO)
    assert len(world.images.list()) == 2
    kept = world.images.get("app:1").id
    world.images.shelf.in_use = lambda id: ["c"] if id == kept else []
    await world.images.prune({"dangling": ["false"]})
    assert [image.id for image in world.images.list()] == [kept]
    with pytest.raises(InvalidArgument, match="invalid filter"):
        await world.images.prune({"x": ["y"]})


async def test_events_tell_what_happened(world: World) -> None:
    world.events.publish("daemon", "test", "")
    (image,) = await world.load(docker_archive([ONE], "app:1", {"Labels": {"a": "b"}}))
    world.images.tag("app:1", "app:2")
    await world.images.remove(str(image.id), force=True)
    told = [
        (event.action, event.id, dict(event.attributes))
        async for event in world.events.subscribe(since=1, until=time.time_ns())
        if event.type == "image"
    ]
    assert [action for action, _, _ in told] == ["load", "tag", "untag", "untag", "delete"]
    assert told[1][2] == {"a": "b", "name": "app:2"}
    assert told[4][1] == str(image.id)


class Registry:
    """Gives one image; the blobs go to the sink as a real client puts them there."""

    def __init__(self, layers: list[bytes], *, fail: Exception | None = None) -> None:
        archive = docker_archive(layers, "x", {"Cmd": ["pulled"]})
        start = archive.index(b'{"architecture"')
        self.config = archive[start : archive.index(b"\0", start)]
        self.layers, self.fail = layers, fail
        self.seen: list[tuple[str, str, str]] = []

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: Credentials | None = None,
        sink: ContentStore,
        progress: Callable[[Mapping[str, object]], None],
    ) -> Pulled:
        self.seen.append((str(reference), platform, auth.username if auth else ""))
        described = [Descriptor(OCI_LAYER, str(sink.put(data)), len(data)) for data in self.layers]
        if self.fail:
            raise self.fail
        config = Descriptor(OCI_CONFIG, str(sink.put(self.config)), len(self.config))
        manifest = build_manifest(config, described)
        digest = sink.put(manifest)
        progress({"status": "Pulling from x", "id": "1"})
        for layer in described:
            progress({"status": "Download complete", "id": layer.blob.short})
        return Pulled(
            manifest,
            Descriptor(OCI_MANIFEST, str(digest), len(manifest)),
            self.config,
            tuple(described),
            digest,
        )


async def test_pull(world: World) -> None:
    world.images.transfer.registry = registry = Registry([ONE, TWO])
    image = await world.images.transfer.pull("app:1", platform="linux/amd64", progress=world.said.append)
    assert registry.seen == [("docker.io/library/app:1", "linux/amd64", "")]
    assert image.tags == ("app:1",)
    assert image.digests == (f"app@{image.manifest.digest}",)
    assert world.images.get(f"app@{image.manifest.digest}").id == image.id
    statuses = [str(message["status"]) for message in world.said]
    assert statuses.count("Pull complete") == 2
    assert statuses[-2:] == [
        f"Digest: {image.manifest.digest}",
        "Status: Downloaded newer image for app:1",
    ]
    await world.images.transfer.pull("app:1", progress=world.said.append)
    assert world.said[-1] == {"status": "Status: Image is up to date for app:1"}
    await world.images.remove("app:1")
    world.assert_empty()


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (NotFound("manifest unknown"), NotFound, "manifest unknown"),
        (
            OSError(113, "No route to host"),
            Unavailable,
            "cannot reach the registry docker.io: .*No route to host",
        ),
        (TimeoutError(), Unavailable, "cannot reach the registry docker.io"),
    ],
)
async def test_a_failed_pull_leaves_nothing(
    world: World, failure: Exception, error: type[Exception], words: str
) -> None:
    world.images.transfer.registry = Registry([ONE], fail=failure)
    with pytest.raises(error, match=words):
        await world.images.transfer.pull("app:1", progress=world.said.append)
    world.assert_empty()


async def test_pull_without_a_registry(world: World) -> None:
    with pytest.raises(Unavailable, match="no registry client is configured"):
        await world.images.transfer.pull("app:1", progress=world.said.append)


async def test_collecting_never_takes_what_comes_in_meanwhile(world: World) -> None:
    async def collect() -> None:
        for _ in range(30):
            await world.images.shelf.collect()

    archives = [
        docker_archive([tar(entry(f"f{n}", b"x" * 300_000))], f"app:{n}", {"Cmd": [str(n)]}) for n in range(8)
    ]
    await asyncio.gather(collect(), *(world.load(data) for data in archives))
    for image in world.images.list():
        assert all(world.layers.has(layer.diff_id) for layer in image.layers)
        assert all(world.content.has(layer.descriptor.blob) for layer in image.layers)
    assert len(world.images.list()) == 8


async def test_a_damaged_image_does_not_stop_the_others(world: World) -> None:
    (bad,) = await world.load(docker_archive([ONE], "bad:1", {}))
    await world.load(docker_archive([TWO], "good:1", {}))
    world.content.path(bad.id).write_bytes(b"torn")
    reopened = await world.reopen()
    assert [image.tags for image in reopened.images.list()] == [("good:1",)]
    with pytest.raises(NotFound):
        reopened.images.get("bad:1")
    world.database = reopened.database
