"""Images in files: load, save and import. What an archive holds is planned first, pure."""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from longshore.core.images.catalog import blobs_of
from longshore.core.images.model import Image, Progress
from longshore.core.images.shelf import Shelf
from longshore.core.images.streams import ThreadSource, from_thread, in_thread
from longshore.errors import InvalidArgument
from longshore.oci.changes import apply_changes
from longshore.oci.descriptor import OCI_CONFIG, Descriptor, Platform, host_platform
from longshore.oci.digest import Digest
from longshore.oci.image_config import ContainerDefaults, History, ImageConfig, RootFS
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Content, choose, closure, variants, walk
from longshore.registry.progress import moving
from longshore.storage.archive import Found, Saved, plan_archive, read_archive, write_archive
from longshore.storage.compression import CompressionError, decompressed
from longshore.storage.tarstream import CHUNK

if TYPE_CHECKING:
    pass


class Archives:
    """Images on their way from and to files."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def load(
        self, chunks: AsyncIterable[bytes], progress: Progress, platform: Platform | None = None
    ) -> list[Image]:
        """All images of a `docker save` archive or OCI layout, compressed or not.

        Of an image with several platforms all are kept, or the named one.
        """
        loaded: list[Image] = []

        def unpacked(message: dict[str, object]) -> None:
            if "total" in (detail := cast("Mapping[str, int]", message["progressDetail"])):
                size = detail["total"]
                progress(moving("Loading layer", str(message["id"]), size, size))

        async with self._shelf.operation("load of an archive"):
            found = await ThreadSource(chunks).feed(
                lambda source: read_archive(source, self._shelf.content, platform)
            )
            for one in found:
                before = {name: self._shelf.catalog.by_name(name) for name in one.references}
                image = await self._shelf.register(one, one.references, progress=unpacked)
                loaded.append(image)
                self._shelf.tell("load", image, str(image.id))
                for name in one.references:
                    familiar = parse_reference(name).familiar
                    old = before[name]
                    if old and old.id != image.id:
                        progress({"stream": _renamed(familiar, old)})
                    progress({"stream": f"Loaded image: {familiar}\n"})
                if not one.references:
                    progress({"stream": f"Loaded image ID: {image.id}\n"})
        await self._shelf.collect()  # files of the archive that no image needs
        return loaded

    async def import_(
        self,
        chunks: AsyncIterable[bytes],
        reference: str = "",
        changes: Sequence[str] = (),
        message: str = "",
        platform: Platform | None = None,
    ) -> Image:
        """An image of one layer from a root directory's tar, compressed or not."""
        names = [parse_reference(reference).with_default_tag().canonical] if reference else []
        defaults = apply_changes(ContainerDefaults(), changes)
        async with self._shelf.operation(f"import of {reference or 'a root directory'}"):
            descriptor, diff_id = await ThreadSource(chunks).feed(self._import_layer)
            of, now = platform or host_platform(), _now()
            config = ImageConfig(
                architecture=of.architecture,
                os=of.os,
                variant=of.variant,
                rootfs=RootFS(diff_ids=[str(diff_id)]),
                created=now,
                config=defaults,
                history=[History(created=now, comment=message or "Imported from -")],
            )
            image = await self._shelf.register(Found(config.encode(), (descriptor,)), names)
        self._shelf.tell("import", image, reference or str(image.id))
        return image

    def _import_layer(self, source: ThreadSource) -> tuple[Descriptor, Digest]:
        def write_tar(write: Callable[[bytes], object]) -> None:
            plain = decompressed(source)
            while data := plain.read(CHUNK):
                write(data)

        try:
            return self._shelf.layers.commit_tar(write_tar)
        except CompressionError as cause:
            raise InvalidArgument("invalid root directory archive", detail=str(cause)) from cause

    async def save(self, names: Sequence[str], platform: Platform | None = None) -> AsyncIterator[bytes]:
        """One archive for `docker load` and skopeo. A repository without a tag means all of its tags."""
        choices = choose_images(
            names, self._shelf.catalog.all(), self._shelf.catalog.find, self._shelf.catalog.target
        )
        with self._shelf.content.lease("save") as kept:
            for choice in choices:
                kept.update(closure(choice.target, self._shelf.content) | blobs_of(choice.image))
            saved = [await in_thread(plan_saved, choice, self._shelf.content, platform) for choice in choices]
            async for piece in from_thread(write_archive(plan_archive(saved), self._shelf.content)):
                yield piece
        for choice in choices:
            self._shelf.tell("save", choice.image, str(choice.image.id))


def _renamed(familiar: str, old: Image) -> str:
    return f"The image {familiar} already exists, renaming the old one with ID {old.id} to empty string\n"


@dataclass(slots=True)
class Choice:
    """One target with the names that it is saved under."""

    image: Image
    target: Descriptor
    names: dict[Reference, None] = field(default_factory=dict[Reference, None])


def choose_images(
    wanted: Iterable[str],
    images: Sequence[Image],
    get: Callable[[str], Image],
    target: Callable[[str], Descriptor],
) -> list[Choice]:
    """A repository without a tag means all of its tags. Raises what `get` raises."""
    found: dict[str, Choice] = {}
    for name in wanted:
        for image, tags in _named(name, images, get):
            document = target(tags[0].canonical) if tags else image.manifest
            choice = found.setdefault(document.digest, Choice(image, document))
            choice.names.update(dict.fromkeys(tags))
    return list(found.values())


def _named(
    name: str, images: Sequence[Image], get: Callable[[str], Image]
) -> list[tuple[Image, tuple[Reference, ...]]]:
    try:
        reference = parse_reference(name)
    except InvalidArgument:
        return [(get(name), ())]
    if not reference.tag and not reference.digest:
        parsed = [(image, parse_reference(tag)) for image in images for tag in image.tags]
        if found := [(image, (tag,)) for image, tag in parsed if tag.name == reference.name]:
            return found
    image = get(name)
    by_name = reference.canonical in image.references and not reference.digest
    return [(image, (reference.with_default_tag(),) if by_name else ())]


def plan_saved(choice: Choice, content: Content, platform: Platform | None) -> Saved:
    """Everything that is here of a target. Blocks. Raises NotFound for a platform that is not."""
    image, names = choice.image, tuple(choice.names)
    if platform is not None:
        shown = names[0].familiar if names else str(image.id)
        one = choose(variants(choice.target, content), platform, shown)
        return Saved(one.descriptor, one.parts[0], one.parts[1:], names)
    config = Descriptor(OCI_CONFIG, str(image.id), len(image.raw_config))
    layers = tuple(layer.descriptor for layer in image.layers)
    more = tuple(part for part in walk(choice.target, content) if content.has(part.blob))
    return Saved(choice.target, config, layers, names, more)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
