"""Images as users know them: pull, load, save, import, commit, tag, remove, and the garbage they leave.

An image is registered when everything it needs is there: blobs verified, layers unpacked. Until then leases
protect the parts; when it fails, they are collected at once.
"""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from longshore.core.database import Database
from longshore.core.images_catalog import Catalog, blobs_of, chain_ids
from longshore.core.images_filters import before as created_before
from longshore.core.images_filters import filter_images, has_labels, history_of, truth
from longshore.core.images_model import Holder, Image, Layer, Progress, Publisher, Puller
from longshore.core.images_platforms import foreign_image, plan_drop
from longshore.core.images_pull import Intake, Turns
from longshore.core.images_push import Shipment, names_to_push, plan_shipment, pushed_messages, sources_for
from longshore.core.images_removal import Surroundings, plan_removal
from longshore.core.images_save import choose_images, plan_saved
from longshore.core.images_streams import ThreadSource, from_thread, in_thread
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound, Unavailable, Unsupported
from longshore.oci.changes import apply_changes
from longshore.oci.descriptor import OCI_CONFIG, OCI_MANIFEST, Descriptor, Platform, host_platform
from longshore.oci.digest import Digest, digest_like, parse_digest, sha256_of
from longshore.oci.image_config import ContainerDefaults, History, ImageConfig, RootFS, parse_image_config
from longshore.oci.manifest import MAX_LAYERS, MAX_MANIFEST, Manifest, build_manifest, parse_manifest
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Variant, attestations_of, choose, closure, variants
from longshore.registry.auth import Credentials
from longshore.registry.progress import moving
from longshore.storage.archive import Found, plan_archive, read_archive, write_archive
from longshore.storage.compression import CompressionError, decompressed
from longshore.storage.content import ContentStore
from longshore.storage.layers import EMPTY_LAYER, LayerStore
from longshore.storage.tarstream import CHUNK

if TYPE_CHECKING:
    from longshore.registry.client import Described, Pulled
    from longshore.registry.listing import SearchResult

log = logging.getLogger("longshore.images")

__all__ = ["Image", "Images", "Layer", "Progress", "Puller"]

UNPACKED_AT_ONCE = 2
_SETTLE_AFTER = 5.0  # seconds: a build's layers are flushed together
_Images = list[Image]  # inside the class `list` is a method
_References = list[Reference]
_Variants = list[Variant]
_Attestations = list[tuple[str, Descriptor]]
_Holders = list[Holder]
_Records = list[dict[str, str]]


class Images:
    """Call from the event loop. Everything that blocks runs in threads or worker processes."""

    in_use: Callable[[Digest], Sequence[str]]
    """Ids of all containers of an image; core.containers sets it."""
    running: Callable[[Digest], Sequence[str]]
    """Ids of the running (or paused) ones among them."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        layers: LayerStore,
        events: Publisher,
        registry: Puller | None = None,
    ) -> None:
        self.content = content
        self.layers = layers
        self.registry = registry
        self.in_use = lambda _id: ()
        self.running = lambda _id: ()
        self.holders: _Holders = []
        """Who else needs blobs and layers: what they use is not collected."""
        self._catalog = Catalog(database, content)
        self._events = events
        self._turns = Turns()
        self._unpacking = asyncio.Semaphore(UNPACKED_AT_ONCE)
        self._collecting = asyncio.Lock()
        self._settling: asyncio.Task[None] | None = None

    @property
    def catalog(self) -> Catalog:
        """For those who look after the store."""
        return self._catalog

    def uses_blob(self, digest: Digest) -> bool:
        """Whether an image or one of the other holders needs it. From any thread."""
        return any(holder.uses_blob(digest) for holder in (self._catalog, *self.holders))

    def uses_layer(self, diff_id: Digest) -> bool:
        """Whether an image or one of the other holders needs it. From any thread."""
        return any(holder.uses_layer(diff_id) for holder in (self._catalog, *self.holders))

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

    # Coming in

    async def pull(
        self,
        reference: str,
        *,
        platform: str = "",
        auth: Credentials | None = None,
        progress: Progress,
    ) -> Image:
        """Fetch from a registry, unpack, name. Raises what the registry client raises, and OutOfSpace."""
        wanted = parse_reference(reference).with_default_tag()
        registry = self._client(wanted)
        downloaded: set[object] = set()

        def fetched(message: Mapping[str, object]) -> None:
            if message.get("status") == "Download complete":
                downloaded.add(message["id"])
            if message.get("status") == "Pull complete":
                downloaded.discard(message["id"])
            progress(dict(message))

        def unpacked(message: dict[str, object]) -> None:
            if message.get("id") in downloaded:  # nothing more about what was here already, as in Docker
                progress(message)

        async with self._operation(f"pull of {wanted.familiar}"):
            pulled = await self._fetch(registry, wanted, platform, auth, fetched)
            names = [wanted.canonical, f"{wanted.name}@{pulled.digest}"]
            known = self._catalog.by_name(names[0])
            kind = pulled.descriptor.media_type
            found = Found(pulled.config, pulled.layers, pulled.manifest, kind, target=pulled.index)
            image = await self._register(found, names, progress=unpacked)
        self.content.release(blobs_of(image))
        fresh = known is None or known.id != image.id
        progress({"status": f"Digest: {pulled.digest}"})
        words = "Downloaded newer image" if fresh else "Image is up to date"
        progress({"status": f"Status: {words} for {wanted.familiar}"})
        self._tell("pull", image, wanted.familiar_name, id=wanted.familiar)
        return image

    async def _fetch(
        self, registry: Puller, wanted: Reference, platform: str, auth: Credentials | None, told: "_Told"
    ) -> "Pulled":
        """The image's parts, with most of the layers unpacked by the time that the last one is here."""
        reason = f"pull of {wanted.familiar}, interrupted"
        intake: Intake | None = None
        try:
            async with asyncio.TaskGroup() as group:
                intake = Intake(self.content, self.layers, self._turns, group, told, reason)
                return await registry.pull(wanted, platform=platform, auth=auth, sink=intake, progress=told)
        except ExceptionGroup as failures:
            cause = failures.exceptions[0]
            if intake is not None:
                intake.give_up(cause)
            if isinstance(cause, (OSError, TimeoutError)):
                raise Unavailable(f"cannot reach the registry {wanted.domain}", detail=str(cause)) from cause
            raise cause from None

    async def pull_all(
        self, name: str, *, platform: str = "", auth: Credentials | None = None, progress: Progress
    ) -> None:
        """Every tag of a repository, one after another. Raises as `pull`."""
        wanted = parse_reference(name)
        for tag in await self._client(wanted).tags(wanted, auth=auth):
            await self.pull(f"{wanted.name}:{tag}", platform=platform, auth=auth, progress=progress)

    def _client(self, subject: object) -> Puller:
        if self.registry is None:
            raise Unavailable("no registry client is configured", detail=str(subject))
        return self.registry

    async def search(
        self, term: str, *, limit: int, auth: Credentials | None = None
    ) -> "Sequence[SearchResult]":
        """Repositories of the term's registry, of Docker Hub where it names none."""
        return await self._client(term).search(term, limit=limit, auth=auth)

    def download(self, url: str) -> AsyncGenerator[bytes]:
        """The bytes behind a URL, to import. Raises InvalidArgument, Unavailable."""
        return self._client(url).download(url)

    async def describe(self, reference: str, auth: Credentials | None = None) -> "Described":
        """What the registry has under a name; nothing is fetched. Raises what the registry client raises."""
        wanted = parse_reference(reference).with_default_tag()
        return await self._client(wanted).describe(wanted, auth=auth)

    async def login(self, credentials: Credentials) -> None:
        """Show a login to its registry. Raises Unauthorized, Unavailable."""
        await self._client(credentials.server_address).login(credentials)

    async def load(
        self, chunks: AsyncIterable[bytes], progress: Progress, platform: Platform | None = None
    ) -> _Images:
        """All images of a `docker save` archive or OCI layout, compressed or not.

        Of an image with several platforms all are kept, or the named one.
        """
        loaded: _Images = []

        def unpacked(message: dict[str, object]) -> None:
            if "total" in (detail := cast("Mapping[str, int]", message["progressDetail"])):
                size = detail["total"]
                progress(moving("Loading layer", str(message["id"]), size, size))

        async with self._operation("load of an archive"):
            found = await ThreadSource(chunks).feed(
                lambda source: read_archive(source, self.content, platform)
            )
            for one in found:
                before = {name: self._catalog.by_name(name) for name in one.references}
                image = await self._register(one, one.references, progress=unpacked)
                loaded.append(image)
                self._tell("load", image, str(image.id))
                for name in one.references:
                    familiar = parse_reference(name).familiar
                    old = before[name]
                    if old and old.id != image.id:
                        progress({"stream": _renamed(familiar, old)})
                    progress({"stream": f"Loaded image: {familiar}\n"})
                if not one.references:
                    progress({"stream": f"Loaded image ID: {image.id}\n"})
        await self.collect()  # files of the archive that no image needs
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
        async with self._operation(f"import of {reference or 'a root directory'}"):
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
            image = await self._register(Found(config.encode(), (descriptor,)), names)
        self._tell("import", image, reference or str(image.id))
        return image

    def _import_layer(self, source: ThreadSource) -> tuple[Descriptor, Digest]:
        def write_tar(write: Callable[[bytes], object]) -> None:
            plain = decompressed(source)
            while data := plain.read(CHUNK):
                write(data)

        try:
            return self.layers.commit_tar(write_tar)
        except CompressionError as cause:
            raise InvalidArgument("invalid root directory archive", detail=str(cause)) from cause

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
        async with self._operation("registering an image"):
            missing = [layer.digest for layer in layers if not self.content.has(layer.blob)]
            if missing:
                raise NotFound("no such blobs", detail=", ".join(missing))
            image = await self._register(Found(config, tuple(layers), manifest), names)
        self.content.release(blobs_of(image))
        self._tell("load", image, str(image.id))
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
        async with self._operation("registering a build"):
            return await self._register(Found(config, tuple(layers)), (), parent=parent)

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
        async with self._operation("commit"):
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
        async with self._operation("commit"):
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
        return await self._register(found, (), parent=parent.id if parent else None)

    # Going out

    def to_push(self, name: str, tag: str = "") -> _References:
        """The names that a push of this one means. Raises NotFound, InvalidArgument."""
        return names_to_push(name, tag, self._catalog.names())

    async def push(
        self,
        name: str,
        tag: str = "",
        *,
        platform: Platform | None = None,
        auth: Credentials | None = None,
        progress: Progress,
    ) -> None:
        """To the registry that the name tells of; without a tag all of the repository's.

        What was pulled and is unchanged arrives with the digest it had. Raises what the registry client raises.
        """
        references = self.to_push(name, tag)
        progress({"status": f"The push refers to repository [{references[0].name}]"})
        for reference in references:
            await self._push(reference, platform, auth, progress)

    async def _push(
        self, reference: Reference, platform: Platform | None, auth: Credentials | None, progress: Progress
    ) -> None:
        registry = self._client(reference)
        image = self.get(reference.familiar)
        with self.content.lease(f"push of {reference.familiar}") as kept:
            kept.update(self._catalog.parts(reference.canonical) | blobs_of(image))
            shipment = await self._shipment(registry, image, reference, platform, auth)
            try:
                await registry.push(
                    reference,
                    shipment.cargo,
                    auth=auth,
                    content=self.content,
                    progress=lambda message: progress(dict(message)),
                )
            except (OSError, TimeoutError) as cause:
                raise Unavailable(
                    f"cannot reach the registry {reference.domain}", detail=str(cause)
                ) from cause
        pushed = shipment.target
        if self._catalog.by_id(image.id):  # else it was removed meanwhile
            self._catalog.name(f"{reference.name}@{pushed.digest}", image.id, pushed)
        for message in pushed_messages(str(reference.tag), shipment):
            progress(message)
        self._tell("push", image, reference.familiar_name, id=reference.familiar)

    async def _shipment(
        self,
        registry: Puller,
        image: Image,
        reference: Reference,
        platform: Platform | None,
        auth: Credentials | None,
    ) -> Shipment:
        target = self._catalog.target(reference.canonical)
        found = await in_thread(variants, target, self.content)
        sources = sources_for(reference, self._catalog.names(), self._catalog.parts)
        if platform is not None:
            one = choose(found, platform, reference.familiar)
            return plan_shipment(one.descriptor, (), one, (), sources)
        (own,) = await in_thread(variants, image.manifest, self.content)
        lacking = [v.descriptor for v in found if not v.available]
        lacked = await registry.lacks(reference, lacking, auth=auth) if lacking else []
        elsewhere = {one.digest for one in lacking} - {one.digest for one in lacked}
        return plan_shipment(target, found, own, elsewhere, sources)

    async def save(self, names: Sequence[str], platform: Platform | None = None) -> AsyncIterator[bytes]:
        """One archive for `docker load` and skopeo. A repository without a tag means all of its tags."""
        choices = choose_images(names, self._catalog.all(), self.get, self._catalog.target)
        with self.content.lease("save") as kept:
            for choice in choices:
                kept.update(closure(choice.target, self.content) | blobs_of(choice.image))
            saved = [await in_thread(plan_saved, choice, self.content, platform) for choice in choices]
            async for piece in from_thread(write_archive(plan_archive(saved), self.content)):
                yield piece
        for choice in choices:
            self._tell("save", choice.image, str(choice.image.id))

    # Names

    def tag(self, name: str, reference: str) -> None:
        """Give an image one more name, which another image may lose. Raises NotFound, InvalidArgument."""
        image = self.get(name)
        target = parse_reference(reference).with_default_tag()
        if target.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference", detail=reference)
        self._catalog.name(target.canonical, image.id, self.target(image, name))
        self._catalog.note_tagged(image.id, _now())
        self._tell("tag", image, target.familiar)

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
        """`docker rmi`: see images_removal. Only the content of some platforms, where they are named.

        Raises NotFound, Conflict.
        """
        image = self.get(name)
        if platforms:
            records = await self._drop(image, name, platforms)
        else:
            records = self._remove(image, name, force=force, prune=prune)
        await self.collect()
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
        around = Surroundings(self._catalog.children, self.in_use, self.running, self._catalog.by_id)
        plan = plan_removal(image, name, around, force=force, prune=prune)
        records: _Records = []
        for reference, id in plan.unname:
            self._catalog.unname(reference)
            records.append({"Untagged": parse_reference(reference).familiar})
            self._tell("untag", image, str(id), id=str(id))
        for id in plan.delete:
            gone = self._catalog.by_id(id)
            if gone is None:
                continue
            if self.in_use(id):
                self._catalog.hide(id)
            else:
                self._catalog.delete(id)
            left = self._catalog.chains()
            records.append({"Deleted": str(id)})
            records += [{"Deleted": str(chain)} for chain in reversed(chain_ids(gone)) if chain not in left]
            self._tell("delete", gone, str(id))
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
            if not fits or (nameless and image.tags) or self.in_use(image.id):
                continue
            for name in image.references or (str(image.id),):
                current = self._catalog.by_id(image.id)
                if current is None or (image.references and name not in current.references):
                    continue  # it went with the one before: digests go with a repository's last tag
                try:
                    records += self._remove(current, name, force=False, prune=True)
                except Conflict:
                    break  # children or containers need it, which is no failure here
        freed = await in_thread(self._forget_interrupted) + await self.collect()
        self._events.publish("image", "prune", "", {"reclaimed": str(freed)})
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
        await self._unpack(
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
        await self.collect()

    async def collect(self) -> int:
        """Remove blobs and layers that no image, lease or hold needs; returns the bytes freed."""
        async with self._collecting:
            for image in self._catalog.hidden():
                if not self.in_use(image.id):
                    self._catalog.delete(image.id)
            blobs = await in_thread(self.content.sweep, self.uses_blob)
            await in_thread(self.content.sweep_partials)
            layers = await in_thread(self.layers.sweep, self.uses_layer)
            return sum(blobs.values()) + sum(layers.values())

    async def close(self) -> None:
        """Flush what is new to the disk. Twice is fine."""
        if self._settling is not None:
            self._settling.cancel()
        await in_thread(self.layers.settle)

    @asynccontextmanager
    async def _operation(self, reason: str) -> AsyncGenerator[None, None]:
        """Leases around what is being made, for a reason that people read; when it fails, nothing of it stays."""
        try:
            with self.content.lease(reason), self.layers.lease(reason):
                yield
        except BaseException:
            await self.collect()
            raise

    async def _register(
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
        known = self._catalog.by_id(id)
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
        await self._unpack(pairs, progress)
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
        self._catalog.insert(image, references, found.target)
        self._settle_soon()
        return self._catalog.by_id(id) or image

    async def _unpack(self, layers: Sequence[tuple[Descriptor, Digest]], progress: Progress) -> None:
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

    def _settle_soon(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())

    async def _settle(self) -> None:
        await asyncio.sleep(_SETTLE_AFTER)
        await in_thread(self.layers.settle)

    def _tell(self, action: str, image: Image, name: str, *, id: str = "") -> None:
        labels = image.config.defaults.labels or {}
        self._events.publish("image", action, id or str(image.id), {**labels, "name": name})


_History = list[dict[str, object]]
_Told = Callable[[Mapping[str, object]], None]


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


def _renamed(familiar: str, old: Image) -> str:
    return f"The image {familiar} already exists, renaming the old one with ID {old.id} to empty string\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
