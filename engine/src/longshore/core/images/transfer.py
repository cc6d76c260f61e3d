"""Images and registries: pull, push, search, and what a registry says of an image."""

import asyncio
from collections.abc import (
    AsyncGenerator,
    Callable,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING

from longshore.core.images.catalog import blobs_of
from longshore.core.images.intake import Intake, Turns
from longshore.core.images.model import Image, Progress, Puller
from longshore.core.images.shelf import Shelf
from longshore.core.images.shipment import (
    Shipment,
    names_to_push,
    plan_shipment,
    pushed_messages,
    sources_for,
)
from longshore.core.images.streams import in_thread
from longshore.errors import Unavailable
from longshore.oci.descriptor import Platform
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import choose, variants
from longshore.registry.auth import Credentials
from longshore.storage.archive import Found

if TYPE_CHECKING:
    from longshore.registry.client import Described, Pulled
    from longshore.registry.listing import SearchResult

_Told = Callable[[Mapping[str, object]], None]


class Transfer:
    """Images on their way from and to registries."""

    def __init__(self, shelf: Shelf, registry: Puller | None) -> None:
        self._shelf = shelf
        self.registry = registry
        self._turns = Turns()

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

        async with self._shelf.operation(f"pull of {wanted.familiar}"):
            pulled = await self._fetch(registry, wanted, platform, auth, fetched)
            names = [wanted.canonical, f"{wanted.name}@{pulled.digest}"]
            known = self._shelf.catalog.by_name(names[0])
            kind = pulled.descriptor.media_type
            found = Found(pulled.config, pulled.layers, pulled.manifest, kind, target=pulled.index)
            image = await self._shelf.register(found, names, progress=unpacked)
        self._shelf.content.release(blobs_of(image))
        fresh = known is None or known.id != image.id
        progress({"status": f"Digest: {pulled.digest}"})
        words = "Downloaded newer image" if fresh else "Image is up to date"
        progress({"status": f"Status: {words} for {wanted.familiar}"})
        self._shelf.tell("pull", image, wanted.familiar_name, id=wanted.familiar)
        return image

    async def _fetch(
        self, registry: Puller, wanted: Reference, platform: str, auth: Credentials | None, told: "_Told"
    ) -> "Pulled":
        """The image's parts, with most of the layers unpacked by the time that the last one is here."""
        reason = f"pull of {wanted.familiar}, interrupted"
        intake: Intake | None = None
        try:
            async with asyncio.TaskGroup() as group:
                intake = Intake(self._shelf.content, self._shelf.layers, self._turns, group, told, reason)
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

    def to_push(self, name: str, tag: str = "") -> list[Reference]:
        """The names that a push of this one means. Raises NotFound, InvalidArgument."""
        return names_to_push(name, tag, self._shelf.catalog.names())

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
        image = self._shelf.catalog.find(reference.familiar)
        with self._shelf.content.lease(f"push of {reference.familiar}") as kept:
            kept.update(self._shelf.catalog.parts(reference.canonical) | blobs_of(image))
            shipment = await self._shipment(registry, image, reference, platform, auth)
            try:
                await registry.push(
                    reference,
                    shipment.cargo,
                    auth=auth,
                    content=self._shelf.content,
                    progress=lambda message: progress(dict(message)),
                )
            except (OSError, TimeoutError) as cause:
                raise Unavailable(
                    f"cannot reach the registry {reference.domain}", detail=str(cause)
                ) from cause
        pushed = shipment.target
        if self._shelf.catalog.by_id(image.id):  # else it was removed meanwhile
            self._shelf.catalog.name(f"{reference.name}@{pushed.digest}", image.id, pushed)
        for message in pushed_messages(str(reference.tag), shipment):
            progress(message)
        self._shelf.tell("push", image, reference.familiar_name, id=reference.familiar)

    async def _shipment(
        self,
        registry: Puller,
        image: Image,
        reference: Reference,
        platform: Platform | None,
        auth: Credentials | None,
    ) -> Shipment:
        target = self._shelf.catalog.target(reference.canonical)
        found = await in_thread(variants, target, self._shelf.content)
        sources = sources_for(reference, self._shelf.catalog.names(), self._shelf.catalog.parts)
        if platform is not None:
            one = choose(found, platform, reference.familiar)
            return plan_shipment(one.descriptor, (), one, (), sources)
        (own,) = await in_thread(variants, image.manifest, self._shelf.content)
        lacking = [v.descriptor for v in found if not v.available]
        lacked = await registry.lacks(reference, lacking, auth=auth) if lacking else []
        elsewhere = {one.digest for one in lacking} - {one.digest for one in lacked}
        return plan_shipment(target, found, own, elsewhere, sources)
