"""`longshore image why ID`: what holds an image, a blob or a layer."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from longshore.core.images.catalog import Catalog, blobs_of
from longshore.core.images.facade import Images
from longshore.core.images.model import Image
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import INDEX_TYPES
from longshore.oci.digest import Digest
from longshore.oci.reference import parse_reference
from longshore.storage.content import ContentStore
from longshore.storage.layers import EMPTY_LAYER, LayerStore


@dataclass(frozen=True, slots=True)
class Holder:
    """`kind`: tag, digest, container, child, image, build cache, operation or hold."""

    kind: str
    name: str
    detail: str = ""


_CACHE = Holder("build cache", "a step of a build", "longshore system prune frees it")


@dataclass(frozen=True, slots=True)
class Why:
    """`kind`: image, blob, layer or partial. Nothing holds what has no holders: the next collection takes it."""

    id: str
    kind: str
    size: int
    held_by: Sequence[Holder]


Named = Callable[[Digest], Sequence[tuple[str, str]]]
"""Of an image: (name, detail) of each holder of a kind."""


class Reasons:
    """Call from the event loop. `containers` tells those of an image."""

    def __init__(
        self,
        images: Images,
        catalog: Catalog,
        containers: Named,
    ) -> None:
        self._images, self._catalog = images, catalog
        self._content: ContentStore = images.content
        self._layers: LayerStore = images.layers
        self._containers = containers

    def why(self, name: str) -> Why:
        """By name or id of an image, or by digest or its first characters. Raises NotFound, InvalidArgument."""
        try:
            image = self._images.get(name)
            return Why(str(image.id), "image", image.size, tuple(self._of_image(image)))
        except (NotFound, InvalidArgument):
            pass
        wanted = name.rpartition(":")[2].lower()
        if len(wanted) < 4 or not set(wanted) <= set("0123456789abcdef"):
            raise NotFound(f"No such image, blob or layer: {name}")
        found = {**self._blobs(wanted), **self._unpacked(wanted)}
        if not found:
            raise NotFound(f"No such image, blob or layer: {name}")
        if len(found) > 1:
            raise InvalidArgument(f"the prefix {wanted} fits {len(found)} blobs and layers")
        ((digest, why),) = found.items()
        return why(digest)

    def _blobs(self, wanted: str) -> dict[Digest, Callable[[Digest], Why]]:
        partials = {
            digest: self._partial for digest in self._content.partials() if digest.hex.startswith(wanted)
        }
        return partials | {
            digest: self._blob for digest in self._content.list() if digest.hex.startswith(wanted)
        }

    def _unpacked(self, wanted: str) -> dict[Digest, Callable[[Digest], Why]]:
        return {digest: self._layer for digest in self._layers.list() if digest.hex.startswith(wanted)}

    def _of_image(self, image: Image) -> Iterator[Holder]:
        yield from (Holder("tag", name) for name in image.tags)
        yield from (Holder("digest", name) for name in image.digests)
        yield from (Holder("container", name, detail) for name, detail in self._containers(image.id))
        yield from (Holder("child", str(id), self._tags(id)) for id in self._catalog.children(image.id))
        yield from self._operations(image.manifest.blob)

    def _tags(self, id: Digest) -> str:
        image = self._catalog.by_id(id)
        return ", ".join(image.tags) if image else ""

    def _blob(self, digest: Digest) -> Why:
        holders: list[Holder] = []
        for image in [*self._catalog.all(), *self._catalog.hidden()]:
            if digest in blobs_of(image):
                holders.append(Holder("image", str(image.id), f"{_part(image, digest)}{_called(image)}"))
        for name in self._catalog.names():
            target = self._catalog.target(name)
            if target.media_type in INDEX_TYPES and digest in self._catalog.parts(name):
                holders.append(Holder("tag", parse_reference(name).familiar, "part of its index"))
        if any(holder.uses_blob(digest) for holder in self._images.shelf.holders):
            holders.append(_CACHE)
        holders += self._operations(digest)
        return Why(str(digest), "blob", self._content.size(digest), tuple(holders))

    def _layer(self, digest: Digest) -> Why:
        holders: list[Holder] = []
        for image in [*self._catalog.all(), *self._catalog.hidden()]:
            numbers = [n for n, layer in enumerate(image.layers, 1) if layer.diff_id == digest]
            holders += [Holder("image", str(image.id), f"layer {n}{_called(image)}") for n in numbers[:1]]
        if any(holder.uses_layer(digest) for holder in self._images.shelf.holders):
            holders.append(_CACHE)
        if digest == EMPTY_LAYER:
            holders.append(Holder("operation", "always", "the one layer of images without layers"))
        holders += [Holder("operation", reason) for reason in self._layers.reasons(digest)]
        return Why(str(digest), "layer", self._layers.size(digest), tuple(holders))

    def _partial(self, digest: Digest) -> Why:
        size = self._content.partials().get(digest, 0)
        return Why(str(digest), "partial", size, (Holder("hold", "an interrupted download", "for a day"),))

    def _operations(self, digest: Digest) -> Iterator[Holder]:
        hold = self._content.holds().get(digest)
        for reason in self._content.reasons(digest):
            if hold and reason == hold.reason:
                minutes = max(0, round((hold.until - time.time()) / 60))
                yield Holder("hold", reason, f"for another {minutes} minutes")
            else:
                yield Holder("operation", reason)


def _part(image: Image, digest: Digest) -> str:
    if digest in (image.id, image.config_blob):
        return "config"
    if digest == image.manifest.blob:
        return "manifest"
    numbers = [n for n, layer in enumerate(image.layers, 1) if layer.descriptor.blob == digest]
    return f"layer {numbers[0]}" if numbers else "part"


def _called(image: Image) -> str:
    return f" of {', '.join(image.tags)}" if image.tags else " of an image without a name"
