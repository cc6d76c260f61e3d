"""Where a result goes: the image store, an archive, or a tree of files."""

import stat
from collections.abc import AsyncIterator, Iterator, Sequence

from longshore.build.copying import member
from longshore.build.result import Built, Result
from longshore.build.trees import LayersTree, Tree, walk
from longshore.core.engine import Engine
from longshore.core.images.model import Image
from longshore.core.images.streams import from_thread
from longshore.errors import InvalidArgument
from longshore.storage.tarstream import END


async def store(engine: Engine, result: Result, tags: Sequence[str] = ()) -> Image:
    """Register the image and give it its names, which other images may lose. Twice is fine.

    Raises InvalidArgument for a bad name or a result of several platforms.
    """
    built = result.only
    if len(result.built) > 1:
        raise InvalidArgument(
            "the image store takes one platform at a time",
            hint="export to an OCI layout, or build one platform",
        )
    image = await _registered(engine, built)
    for tag in tags:
        engine.images.tag(str(image.id), tag)
    return engine.images.get(str(image.id))


async def _registered(engine: Engine, built: Built) -> Image:
    descriptors = [layer.descriptor for layer in built.layers]
    return await engine.images.enter(built.raw_config, descriptors, parent=built.parent)


async def archive(engine: Engine, result: Result, names: Sequence[str] = ()) -> AsyncIterator[bytes]:
    """One tar that is both an OCI layout and what `docker load` reads; the image is in the store afterwards."""
    image = await store(engine, result, names)
    async for piece in engine.images.archives.save(list(names) or [str(image.id)]):
        yield piece


def tree_of(engine: Engine, built: Built) -> LayersTree:
    """The files of the image as a container would see them, read-only, valid while the build is open."""
    images = engine.images
    names = [images.layers.name(layer.diff_id) for layer in reversed(built.layers)]
    return LayersTree([images.layers.directory / name for name in names])


async def tree_tar(engine: Engine, built: Built, epoch: int | None = None) -> AsyncIterator[bytes]:
    """The same files as one plain tar: what `--output type=tar` gives and `type=local` unpacks."""
    async for piece in from_thread(write_tree(tree_of(engine, built), epoch)):
        yield piece


def write_tree(tree: Tree, epoch: int | None = None) -> Iterator[bytes]:
    """A plain tar of a whole tree, directories before their contents. Blocks while it is iterated."""
    root = tree.entry("/")
    assert root is not None  # every tree has one
    for entry in walk(tree, root):
        if entry.path != "/" and entry.kind != stat.S_IFSOCK:
            yield from member(entry.path, entry, tree, latest=epoch)
    yield END
