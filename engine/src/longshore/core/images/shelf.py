"""What all parts of images share: blobs, layers and the catalogue. An image enters when everything it needs is there.

Until then leases protect the parts; when it fails, they are collected at once.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Callable,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from longshore.core.database import Database
from longshore.core.images.catalog import Catalog
from longshore.core.images.model import Holder, Image, Layer, Progress, Publisher
from longshore.core.images.streams import in_thread
from longshore.errors import InvalidArgument, Unsupported
from longshore.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor
from longshore.oci.digest import Digest, digest_like, parse_digest, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST, Manifest, build_manifest, parse_manifest
from longshore.storage.archive import Found
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore

if TYPE_CHECKING:
    pass

UNPACKED_AT_ONCE = 2
_SETTLE_AFTER = 5.0  # seconds: a build's layers are flushed together


class Shelf:
    """The blobs, layers and entries of all images, and how an image gets in and garbage gets out.

    Call from the event loop. Everything that blocks runs in threads or worker processes.
    """

    in_use: Callable[[Digest], Sequence[str]]
    """Ids of all containers of an image; core.containers sets it."""
    running: Callable[[Digest], Sequence[str]]
    """Ids of the running (or paused) ones among them."""
    holders: list[Holder]
    """Who else needs blobs and layers: the build cache."""

    def __init__(
        self, database: Database, content: ContentStore, layers: LayerStore, events: Publisher
    ) -> None:
        self.content = content
        self.layers = layers
        self.catalog = Catalog(database, content)
        self.events = events
        self.holders = []
        self.in_use = lambda _id: ()
        self.running = lambda _id: ()
        self._unpacking = asyncio.Semaphore(UNPACKED_AT_ONCE)
        self._collecting = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None

    def uses_blob(self, digest: Digest) -> bool:
        """Whether an image or one of the other holders needs it. From any thread."""
        return any(holder.uses_blob(digest) for holder in (self.catalog, *self.holders))

    def uses_layer(self, diff_id: Digest) -> bool:
        """Whether an image or one of the other holders needs it. From any thread."""
        return any(holder.uses_layer(diff_id) for holder in (self.catalog, *self.holders))

    @asynccontextmanager
    async def operation(self, reason: str) -> AsyncGenerator[None, None]:
        """Leases around what is being made, for a reason that people read; when it fails, nothing of it stays."""
        try:
            with self.content.lease(reason), self.layers.lease(reason):
                yield
        except BaseException:
            await self.collect()
            raise

    async def register(
        self,
        found: Found,
        references: Sequence[str],
        *,
        parent: Digest | None = None,
        progress: Progress = lambda _message: None,
    ) -> Image:
        """Check, unpack, store the documents, enter into the catalogue."""
        id = sha256_of(found.config)
        config = parse_image_config(found.config)
        if config.os != "linux":
            raise Unsupported(f"cannot run an image for operating system {config.os[:50]!r}", detail=str(id))
        diff_ids = [parse_digest(text) for text in config.rootfs.diff_ids]
        if len(diff_ids) != len(found.layers):
            raise InvalidArgument(
                "invalid image config", detail=f"{len(diff_ids)} diff ids for {len(found.layers)} layers"
            )
        known = self.catalog.by_id(id)
        if known is not None and found.manifest is None:
            # the manifest that came with the image stays: its digest is what others know
            found = Found(found.config, *_packed(known, self.content))
        manifest, manifest_type = _checked_manifest(found, id)
        pairs = list(zip(found.layers, diff_ids, strict=True))
        # Before thousands of new files: a file system's journal takes them along when it syncs the documents
        config_blob = _config_blob(manifest)
        for name in {id, config_blob}:
            await in_thread(self.content.put, found.config, name)
        digest = await in_thread(self.content.put, manifest)
        await self.unpack(pairs, progress)
        layers = tuple(Layer(blob, diff_id, self.layers.size(diff_id)) for blob, diff_id in pairs)
        image = Image(
            id=id,
            config=config,
            raw_config=found.config,
            layers=layers,
            manifest=Descriptor(manifest_type, str(digest), len(manifest)),
            size=sum(layer.size for layer in layers),
            created=config.created,
            parent=known.parent if known else parent,
            config_blob=config_blob if config_blob != id else None,
        )
        self.catalog.insert(image, references, found.target)
        self.settle_soon()
        return self.catalog.by_id(id) or image

    async def unpack(self, layers: Sequence[tuple[Descriptor, Digest]], progress: Progress) -> None:
        """All layers, a few at a time. The first failure ends it."""

        async def one(descriptor: Descriptor, diff_id: Digest) -> None:
            async with self._unpacking:
                short = descriptor.blob.short
                progress({"status": "Extracting", "progressDetail": {"total": descriptor.size}, "id": short})
                await in_thread(self.layers.unpack, descriptor.blob, diff_id)
                progress({"status": "Pull complete", "progressDetail": {}, "id": short})

        try:
            async with asyncio.TaskGroup() as group:
                for descriptor, diff_id in layers:
                    group.create_task(one(descriptor, diff_id))
        except ExceptionGroup as failures:  # not except*: what that raises is wrapped in a group again
            raise failures.exceptions[0] from None

    async def collect(self) -> int:
        """Remove blobs and layers that no image, lease or hold needs; returns the bytes freed."""
        async with self._collecting:
            for image in self.catalog.hidden():
                if not self.in_use(image.id):
                    self.catalog.delete(image.id)
            blobs = await in_thread(self.content.sweep, self.uses_blob)
            await in_thread(self.content.sweep_partials)
            layers = await in_thread(self.layers.sweep, self.uses_layer)
            return sum(blobs.values()) + sum(layers.values())

    async def close(self) -> None:
        """Flush what is new to the disk. Twice is fine."""
        if self._settling is not None:
            self._settling.cancel()
        await in_thread(self.layers.settle)

    def settle_soon(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        await asyncio.sleep(_SETTLE_AFTER)
        await in_thread(self.layers.settle)

    def tell(self, action: str, image: Image, name: str, *, id: str = "") -> None:
        labels = image.config.defaults.labels or {}
        self.events.publish("image", action, id or str(image.id), {**labels, "name": name})


def _checked_manifest(found: Found, id: Digest) -> tuple[bytes, str]:
    """The manifest to keep: the given one, which has to describe just this image, or a new one."""
    config = Descriptor(OCI_CONFIG, str(id), len(found.config))
    if found.manifest is None:
        return build_manifest(config, found.layers), OCI_MANIFEST
    manifest = parse_manifest(found.manifest, found.manifest_type)
    if not isinstance(manifest, Manifest):
        raise InvalidArgument("invalid manifest", detail="an index describes no single image")
    told = [layer.digest for layer in manifest.layers]
    is_config = digest_like(manifest.config.blob, found.config) == manifest.config.blob
    if not is_config or told != [layer.digest for layer in found.layers]:
        raise InvalidArgument("invalid manifest", detail="it describes another image")
    return found.manifest, found.manifest_type or manifest.media_type or OCI_MANIFEST


def _config_blob(manifest: bytes) -> Digest:
    parsed = parse_manifest(manifest)
    return parsed.config.blob if isinstance(parsed, Manifest) else sha256_of(b"")


def _packed(image: Image, content: ContentStore) -> tuple[tuple[Descriptor, ...], bytes, str]:
    layers = tuple(layer.descriptor for layer in image.layers)
    return layers, content.read(image.manifest.blob, MAX_MANIFEST), image.manifest.media_type
