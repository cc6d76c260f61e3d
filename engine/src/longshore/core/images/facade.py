"""Images as users know them: looking, commit, tag, remove; `transfer` has pull and push, `archives` load and save.

An image is registered when everything it needs is there: blobs verified, layers unpacked. Until then leases
protect the parts; when it fails, they are collected at once.
"""

import logging
from collections.abc import (
    Callable,
    Mapping,
    Sequence,
)
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from longshore.core.database import Database
from longshore.core.images.archives import Archives
from longshore.core.images.catalog import blobs_of, chain_ids
from longshore.core.images.filters import before as created_before
from longshore.core.images.filters import filter_images, has_labels, history_of, truth
from longshore.core.images.model import Image, Layer, Progress, Publisher, Puller
from longshore.core.images.platforms import foreign_image, plan_drop
from longshore.core.images.removal import Surroundings, plan_removal
from longshore.core.images.shelf import Shelf
from longshore.core.images.streams import in_thread
from longshore.core.images.transfer import Transfer
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound
from longshore.oci.descriptor import Descriptor, Platform, host_platform
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import History, ImageConfig, RootFS
from longshore.oci.manifest import MAX_LAYERS
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Variant, attestations_of, choose, variants
from longshore.storage.archive import Found
from longshore.storage.content import ContentStore
from longshore.storage.layers import EMPTY_LAYER, LayerStore

if TYPE_CHECKING:
    pass

log = logging.getLogger("longshore.images")

__all__ = ["Image", "Images", "Layer", "Progress", "Puller"]

UNPACKED_AT_ONCE = 2
_SETTLE_AFTER = 5.0  # seconds: a build's layers are flushed together
_Images = list[Image]  # inside the class `list` is a method
_References = list[Reference]
_Variants = list[Variant]
_Attestations = list[tuple[str, Descriptor]]
_Records = list[dict[str, str]]


class Images:
    """Call from the event loop. Everything that blocks runs in threads or worker processes."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        layers: LayerStore,
        events: Publisher,
        registry: Puller | None = None,
    ) -> None:
        self.shelf = Shelf(database, content, layers, events)
        self.content = content
        self.layers = layers
        self.transfer = Transfer(self.shelf, registry)
        self.archives = Archives(self.shelf)
        self._catalog = self.shelf.catalog

    # Looking

    def get(self, name: str) -> Image:
        """By reference, id or unique id prefix. Raises NotFound("No such image: …")."""
        return self._catalog.find(name)

    def list(self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = True) -> _Images:
        """Newest first. Not `all`: without the steps of builds, which have no name but children."""
        images = filter_images(self._catalog.all(), filters or {}, self.get, datetime.now(UTC))
        return [image for image in images if all or image.references or not self._catalog.children(image.id)]

    async def history(self, name: str, platform: Platform | None = None) -> "_History":
        """Docker's history table, newest step first. Raises NotFound."""
        image = await self.of_platform(name, platform) if platform else self.get(name)
        return history_of(image, self._catalog.by_id)

    def rootfs(self, image: Image) -> tuple[str, ...]:
        """Names of the unpacked layers for OverlayRoot.lowers, newest first. Never empty."""
        names: dict[str, None] = {}
        for layer in reversed(image.layers):
            if layer.diff_id != EMPTY_LAYER:
                names[self.layers.name(layer.diff_id)] = None  # overlayfs takes no directory twice
            if self.layers.hides_below(layer.diff_id):
                break
        return tuple(names) or (self.layers.name(EMPTY_LAYER),)

    async def add(
        self,
        config: bytes,
        layers: Sequence[Descriptor],
        manifest: bytes | None = None,
        *,
        references: Sequence[str] = (),
    ) -> Image:
        """Register an image whose blobs are in the store. Raises NotFound naming missing blobs.

        `manifest` None: one is made. Twice is fine.
        """
        names = [parse_reference(name).with_default_tag().canonical for name in references]
        async with self.shelf.operation("registering an image"):
            missing = [layer.digest for layer in layers if not self.content.has(layer.blob)]
            if missing:
                raise NotFound("no such blobs", detail=", ".join(missing))
            image = await self.shelf.register(Found(config, tuple(layers), manifest), names)
        self.content.release(blobs_of(image))
        self.shelf.tell("load", image, str(image.id))
        return image

    def holds_layer(self, diff_id: Digest) -> bool:
        """Whether an image has this layer."""
        return self._catalog.uses_layer(diff_id)

    async def enter(
        self, config: bytes, layers: Sequence[Descriptor], *, parent: Digest | None = None
    ) -> Image:
        """Register an image that a build has made; its layers are in the store. Twice is fine."""
        known = self._catalog.by_id(sha256_of(config))
        if known is not None and not known.hidden:
            return known
        async with self.shelf.operation("registering a build"):
            return await self.shelf.register(Found(config, tuple(layers)), (), parent=parent)

    async def commit(
        self,
        parent: Image | None,
        upper: Path | None,
        config: ImageConfig,
        *,
        created_by: str = "",
        comment: str = "",
        author: str = "",
    ) -> Image:
        """A new image: the parent's layers and history, plus one layer (none when `upper` is None or empty).

        Of `config` counts everything but `rootfs` and `history`, which are computed here.
        """
        step = History(created_by=created_by, comment=comment, author=author)
        async with self.shelf.operation("commit"):
            layer = None if upper is None else await in_thread(self.layers.commit_upper, upper)
            return await self._commit(parent, layer, config, step)

    async def commit_tar(
        self,
        parent: Image | None,
        write_tar: Callable[[Callable[[bytes], object]], object],
        config: ImageConfig,
        *,
        created_by: str = "",
        comment: str = "",
        author: str = "",
    ) -> Image:
        """Like `commit`, with the layer as a plain tar that `write_tar(write)` writes, in a thread."""
        step = History(created_by=created_by, comment=comment, author=author)
        async with self.shelf.operation("commit"):
            layer = await in_thread(self.layers.commit_tar, write_tar)
            return await self._commit(parent, layer, config, step)

    async def _commit(
        self,
        parent: Image | None,
        layer: tuple[Descriptor, Digest] | None,
        config: ImageConfig,
        step: History,
    ) -> Image:
        if layer is not None and layer[1] == EMPTY_LAYER:
            layer = None  # nothing changed: no layer, as in Docker
        old = parent.layers if parent else ()
        if len(old) + (layer is not None) > MAX_LAYERS:
            raise InvalidArgument("max depth exceeded", detail=f"an image has at most {MAX_LAYERS} layers")
        created = config.created or _now()
        step = msgspec.structs.replace(step, created=created, empty_layer=layer is None)
        descriptors = [la.descriptor for la in old] + ([layer[0]] if layer else [])
        diff_ids = [str(la.diff_id) for la in old] + ([str(layer[1])] if layer else [])
        config = msgspec.structs.replace(
            config,
            created=created,
            rootfs=RootFS(diff_ids=diff_ids),
            history=[*((parent.config.history if parent else None) or ()), step],
        )
        found = Found(config.encode(), tuple(descriptors))
        return await self.shelf.register(found, (), parent=parent.id if parent else None)

    # Names

    def tag(self, name: str, reference: str) -> None:
        """Give an image one more name, which another image may lose. Raises NotFound, InvalidArgument."""
        image = self.get(name)
        target = parse_reference(reference).with_default_tag()
        if target.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference", detail=reference)
        self._catalog.name(target.canonical, image.id, self.target(image, name))
        self._catalog.note_tagged(image.id, _now())
        self.shelf.tell("tag", image, target.familiar)

    def target(self, image: Image, name: str) -> Descriptor:
        """What a name of an image stands for: an index, or a manifest; an id stands for the image's own manifest."""
        try:
            canonical = parse_reference(name).canonical
        except InvalidArgument:
            return image.manifest
        return self._catalog.target(canonical) if canonical in image.references else image.manifest

    async def remove(
        self, name: str, *, force: bool = False, prune: bool = True, platforms: Sequence[Platform] = ()
    ) -> _Records:
        """`docker rmi`: see removal. Only the content of some platforms, where they are named.

        Raises NotFound, Conflict.
        """
        image = self.get(name)
        if platforms:
            records = await self._drop(image, name, platforms)
        else:
            records = self._remove(image, name, force=force, prune=prune)
        await self.shelf.collect()
        return records

    async def _drop(self, image: Image, name: str, platforms: Sequence[Platform]) -> _Records:
        target = self.target(image, name)
        found = await in_thread(variants, target, self.content)
        gone = plan_drop(found, platforms, name, image.id)
        self._catalog.drop(target, gone)
        return [{"Deleted": digest} for digest in gone]

    async def variants(self, name: str) -> tuple[Image, _Variants]:
        """An image and the manifests behind this name of it, one for each platform. Raises NotFound."""
        image = self.get(name)
        return image, await in_thread(variants, self.target(image, name), self.content)

    async def attestations(self, name: str, platform: Platform | None = None) -> _Attestations:
        """What is attested of an image: descriptors whose bytes `content` has, by the kind of statement.

        Raises NotFound.
        """
        _, found = await self.variants(name)
        return attestations_of(found, choose(found, platform or host_platform(), name))

    async def of_platform(self, name: str, platform: Platform) -> Image:
        """What a name is on another platform; sizes are those of the packed layers where it was never unpacked.

        Raises NotFound.
        """
        image, found = await self.variants(name)
        one = choose(found, platform, name)
        known = self._catalog.by_id(one.image_id)
        return known or foreign_image(one, image)

    def _remove(self, image: Image, name: str, *, force: bool, prune: bool) -> _Records:
        around = Surroundings(
            self._catalog.children, self.shelf.in_use, self.shelf.running, self._catalog.by_id
        )
        plan = plan_removal(image, name, around, force=force, prune=prune)
        records: _Records = []
        for reference, id in plan.unname:
            self._catalog.unname(reference)
            records.append({"Untagged": parse_reference(reference).familiar})
            self.shelf.tell("untag", image, str(id), id=str(id))
        for id in plan.delete:
            gone = self._catalog.by_id(id)
            if gone is None:
                continue
            if self.shelf.in_use(id):
                self._catalog.hide(id)
            else:
                self._catalog.delete(id)
            left = self._catalog.chains()
            records.append({"Deleted": str(id)})
            records += [{"Deleted": str(chain)} for chain in reversed(chain_ids(gone)) if chain not in left]
            self.shelf.tell("delete", gone, str(id))
        return records

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> tuple[_Records, int]:
        """Remove images that no container uses: the nameless ones, or all with `dangling=false`."""
        filters = filters or {}
        if unknown := set(filters) - {"dangling", "label", "label!", "until"}:
            raise InvalidArgument(f"invalid filter '{min(unknown)}'")
        nameless = truth("dangling", filters["dangling"]) if filters.get("dangling") else True
        now, records = datetime.now(UTC), _Records()
        for image in self._catalog.all():
            fits = has_labels(image, filters) and created_before(image, filters.get("until", ()), now)
            if not fits or (nameless and image.tags) or self.shelf.in_use(image.id):
                continue
            for name in image.references or (str(image.id),):
                current = self._catalog.by_id(image.id)
                if current is None or (image.references and name not in current.references):
                    continue  # it went with the one before: digests go with a repository's last tag
                try:
                    records += self._remove(current, name, force=False, prune=True)
                except Conflict:
                    break  # children or containers need it, which is no failure here
        freed = await in_thread(self._forget_interrupted) + await self.shelf.collect()
        self.shelf.events.publish("image", "prune", "", {"reclaimed": str(freed)})
        return records, freed

    def _forget_interrupted(self) -> int:
        """What pulls left that were interrupted; returns the bytes of half blobs."""
        self.content.release(
            d for d, hold in self.content.holds().items() if hold.reason.startswith("pull of ")
        )
        return self.content.sweep_partials(all=True)

    # Upkeep

    async def ensure_unpacked(self, image: Image) -> None:
        """Unpack again what a power cut has taken. Raises as `add` does."""
        await self.shelf.unpack(
            [(layer.descriptor, layer.diff_id) for layer in image.layers], lambda _message: None
        )

    async def restore(self) -> None:
        """Once at daemon start, when `in_use` is set: complete what is missing, collect what is not needed."""
        for image in [*self._catalog.all(), *self._catalog.hidden()]:
            if not all(self.layers.has(layer.diff_id) for layer in image.layers):
                try:
                    await self.ensure_unpacked(image)
                except EngineError as error:  # no reason not to start; doctor tells of it, too
                    log.error("image %s cannot be unpacked: %s", image.id.short, error)
        await self.shelf.collect()


_History = list[dict[str, object]]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
