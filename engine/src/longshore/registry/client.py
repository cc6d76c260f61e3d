"""The client of registries: pulling here (OCI distribution specification 1.1, end-2 and end-3), pushing in `push`.

What a registry says is never trusted: every byte passes a writer that knows the digest it must end with,
media types are judged before anything is fetched, `urls` of foreign layers are not followed, and credentials go
to the host they were meant for, never along a redirect to another one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import aiohttp
import msgspec

from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound, OutOfSpace
from longshore.oci.descriptor import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    parse_platform,
)
from longshore.oci.digest import Digest, digest_like, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from longshore.oci.reference import DEFAULT_DOMAIN, Reference
from longshore.registry import listing
from longshore.registry.auth import Credentials
from longshore.registry.cargo import Cargo, scopes
from longshore.registry.download import download
from longshore.registry.hosts import PULL, PUSH, RESOLVE, Endpoint, RegistryRules
from longshore.registry.hosts_toml import plan_endpoints
from longshore.registry.patience import Pace, Patience, RetryError
from longshore.registry.progress import Progress, moving, standing
from longshore.registry.push import Content, lacks, push
from longshore.registry.transport import FOUND, RegistryHost, read_all

T = TypeVar("T")
log = logging.getLogger("longshore.registry")

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST_LIST, DOCKER_MANIFEST))
CHUNK = 1 << 20
PROGRESS = 64 << 10  # bytes that an attempt has to bring to count as none in vain
PARALLEL = 3  # layers, as dockerd's --max-concurrent-downloads


class BlobWriter(Protocol):
    @property
    def written(self) -> int: ...
    def write(self, data: bytes) -> object: ...
    def commit(self) -> Digest: ...


class Sink(Protocol):
    """Where an image goes. A writer refuses to commit other bytes than expected."""

    def has(self, digest: Digest) -> bool: ...

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        """Store a manifest or a config."""
        ...

    def expect(self, config: bytes, layers: Sequence[Descriptor]) -> None:
        """Told before the layers come. Raises EngineError for an image that is not wanted."""
        ...

    def download(self, layer: Descriptor) -> AbstractAsyncContextManager[BlobWriter]:
        """A writer for one layer, which may have some bytes already (`written`). Waits while another has it.

        Raises Conflict when it is there by then.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """A whole image in the sink: the platform's manifest, its config and its layers, oldest first."""

    manifest: bytes
    descriptor: Descriptor  # of the manifest
    config: bytes
    layers: tuple[Descriptor, ...]
    digest: Digest  # what the reference named: of the index, where there is one
    index: Descriptor | None = None  # the index that the manifest was chosen from; it is in the sink


@dataclass(frozen=True, slots=True)
class Described:
    """What a registry has under a name: the manifest or index, and the platforms it is for."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


class RegistryClient:
    """Stateless between pulls. What mirrors say of a digest is verified, what they say of a tag is believed."""

    def __init__(
        self,
        rules: RegistryRules | None = None,
        *,
        parallel: int = PARALLEL,
        patience: Patience | None = None,
        user_agent: str = "longshore",
    ) -> None:
        self._rules = rules or RegistryRules()
        self._parallel = parallel
        self._patience = patience or Patience()
        self._user_agent = user_agent

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: Credentials | None = None,
        sink: Sink,
        progress: Progress,
    ) -> Pulled:
        """Fetch what is missing in the sink.

        Raises NotFound (unknown image or platform), Unauthorized, Unavailable (the registry does not answer),
        InvalidArgument (it answers nonsense) or OutOfSpace.
        """
        return await self._ask(
            reference,
            auth,
            PULL if reference.digest else RESOLVE,
            lambda host, attempts: _Pull(
                host,
                reference,
                attempts,
                platform,
                sink=sink,
                progress=progress,
                gate=asyncio.Semaphore(self._parallel),
            ).run(),
        )

    async def describe(self, reference: Reference, *, auth: Credentials | None = None) -> Described:
        """What the registry has under this name; nothing is kept. Raises as `pull`."""
        return await self._ask(
            reference,
            auth,
            PULL if reference.digest else RESOLVE,
            lambda host, attempts: _Documents(host, reference, attempts).describe(),
        )

    async def push(
        self,
        reference: Reference,
        cargo: Cargo,
        *,
        auth: Credentials | None = None,
        content: Content,
        progress: Progress,
    ) -> None:
        """Send what the registry lacks of an image. Mirrors have no part in it. Raises as `push.push`."""
        async with self.session() as session:
            host = self._host(session, reference, auth, PUSH, scopes=scopes(reference, cargo))
            await push(host, reference, cargo, content=content, progress=progress)

    async def lacks(
        self, reference: Reference, manifests: Sequence[Descriptor], *, auth: Credentials | None = None
    ) -> list[Descriptor]:
        """Those of some manifests that the reference's repository does not have. Raises as `pull`."""
        async with self.session() as session:
            return await lacks(self._host(session, reference, auth, PUSH), manifests)

    async def tags(self, reference: Reference, *, auth: Credentials | None = None) -> list[str]:
        """All tags of a repository. Raises as `pull`."""
        return await self._ask(reference, auth, RESOLVE, lambda host, _attempts: listing.tags(host))

    async def search(
        self, term: str, *, limit: int, auth: Credentials | None = None
    ) -> list[listing.SearchResult]:
        """Docker Hub's answer, or the repositories of the term's registry that have the rest in their name.

        Raises NotFound (a registry without a catalogue), Unauthorized, Unavailable.
        """
        domain, text = listing.split_term(term)
        async with self.session() as session:
            if domain == DEFAULT_DOMAIN:
                return await listing.search_hub(session, text, limit)
            host = RegistryHost(session, self._own(domain), None, auth, patience=self._patience)
            names = await listing.repositories(host)
        found = [listing.SearchResult(f"{domain}/{name}") for name in names if text in name]
        return found[:limit]

    async def download(self, url: str) -> AsyncGenerator[bytes]:
        """See `download.download`."""
        async with self.session() as session:
            async for piece in download(session, url):
                yield piece

    async def login(self, credentials: Credentials) -> None:
        """Show a login to its registry, Docker Hub without an address. Raises Unauthorized, Unavailable."""
        name = credentials.server_address.partition("://")[2] or credentials.server_address
        name = name.partition("/")[0]
        if name in ("", "docker.io", "index.docker.io"):
            name = "docker.io"
        async with self.session() as session:
            host = RegistryHost(session, self._own(name), None, credentials.login, patience=self._patience)

            async def once() -> None:
                async with host.get(""):
                    pass

            await self._patience.persist(once, f"the answer of {host.name}", 1)

    def _own(self, domain: str) -> Endpoint:
        """The registry itself, no mirror of it."""
        found = [one for one in plan_endpoints(self._rules, domain, PULL) if not one.is_mirror]
        return found[-1] if found else self._rules.own(domain)

    def _host(
        self,
        session: aiohttp.ClientSession,
        reference: Reference,
        auth: Credentials | None,
        capability: str,
        scopes: Sequence[str] = (),
    ) -> RegistryHost:
        """The first host that a reference's images may be sent to."""
        endpoint = self.endpoints(reference, capability)[0]
        return RegistryHost(
            session, endpoint, reference, auth, patience=self._patience, verb="push", scopes=scopes
        )

    def session(self) -> aiohttp.ClientSession:
        """For the requests of one operation; the caller closes it."""
        return aiohttp.ClientSession(headers={"User-Agent": self._user_agent}, auto_decompress=False)

    def endpoints(self, reference: Reference, capability: str) -> list[Endpoint]:
        """The hosts to ask for this, in their order. Reads certs.d. Raises InvalidArgument."""
        return plan_endpoints(self._rules, reference.domain, capability)

    async def _ask(
        self,
        reference: Reference,
        auth: Credentials | None,
        capability: str,
        work: "Callable[[RegistryHost, int], Awaitable[T]]",
    ) -> T:
        """Of the mirrors in their order, and of the registry itself when none of them helps."""
        *mirrors, last = self.endpoints(reference, capability)
        async with self.session() as session:
            for endpoint in mirrors:
                host = RegistryHost(session, endpoint, reference, auth, patience=self._patience)
                try:
                    return await work(host, self._patience.mirror_attempts)
                except OutOfSpace:
                    raise
                except EngineError as cause:
                    log.info("the mirror %s does not help with %s: %s", endpoint.host, reference, cause)
            host = RegistryHost(session, last, reference, auth, patience=self._patience)
            return await work(host, self._patience.attempts)


def _tell_nobody(_message: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class _Documents:
    """Reads manifests and configs."""

    host: RegistryHost
    reference: Reference
    attempts: int

    async def describe(self) -> Described:
        data, kind = await self.document(f"manifests/{self.tag}", self.reference.digest)
        named = self.reference.digest or sha256_of(data)
        descriptor = Descriptor(media_type=kind, digest=str(named), size=len(data))
        parsed = self.parse(data, kind)
        if isinstance(parsed, Index):
            return Described(descriptor, tuple(m.platform for m in parsed.manifests if m.platform))
        config = parse_image_config(await self.small_blob(parsed.config))
        return Described(descriptor, (Platform(config.architecture, config.os, variant=config.variant),))

    @property
    def tag(self) -> str:
        return str(self.reference.digest or self.reference.tag or "latest")

    def parse(self, data: bytes, kind: str) -> Manifest | Index:
        """What the registry said; a message about nonsense tells whose it is."""
        try:
            return parse_manifest(data, kind)
        except InvalidArgument as cause:
            raise InvalidArgument(
                f"{self.reference.familiar} of {self.reference.domain}", detail=str(cause)
            ) from cause

    async def document(self, tail: str, expected: Digest | None) -> tuple[bytes, str]:
        """A manifest or index and its media type; refused when it is not what the digest says."""

        async def once() -> tuple[bytes, str]:
            async with self.host.get(tail, {"Accept": ACCEPT}) as answer:
                data = await read_all(answer, MAX_MANIFEST, self.host.patience)
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                return data, kind if kind in MANIFEST_TYPES | INDEX_TYPES else ""

        data, kind = await self.persist(once)
        if expected is not None and digest_like(expected, data) != expected:
            raise InvalidArgument("manifest verification failed for digest", detail=str(expected))
        return data, kind

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """An image config, verified."""
        if descriptor.size > MAX_MANIFEST:
            raise InvalidArgument("image config too large", detail=f"{descriptor.size} bytes")

        async def once() -> bytes:
            async with self.host.get(f"blobs/{descriptor.digest}") as answer:
                return await read_all(answer, descriptor.size, self.host.patience)

        data = await self.persist(once, descriptor)
        if digest_like(descriptor.blob, data) != descriptor.blob:
            raise InvalidArgument("config verification failed for digest", detail=descriptor.digest)
        return data

    async def persist(self, once: Callable[[], Awaitable[T]], blob: Descriptor | None = None) -> T:
        part = f"{blob.blob.short} of " if blob else ""
        what = f"{part}{self.reference} from {self.host.name}"
        return await self.host.patience.persist(once, what, self.attempts)


@dataclass(slots=True)
class _Pull(_Documents):
    platform: str
    sink: Sink = field(kw_only=True)
    progress: Progress = field(kw_only=True)
    gate: asyncio.Semaphore = field(kw_only=True)  # so many layers at once

    async def run(self) -> Pulled:
        data, kind = await self.document(f"manifests/{self.tag}", self.reference.digest)
        self.progress({"status": f"Pulling from {self.reference.path}", "id": self.tag})
        named = self.reference.digest or sha256_of(data)
        descriptor = Descriptor(media_type=kind, digest=str(named), size=len(data))
        parsed = self.parse(data, kind)
        index = None
        if isinstance(parsed, Index):
            index = msgspec.structs.replace(descriptor, media_type=kind or parsed.media_type or OCI_INDEX)
            self.sink.put(data)  # pushed again later, it has to be the same
            chosen = parsed.choose(parse_platform(self.platform))
            data, kind = await self.document(f"manifests/{chosen.digest}", chosen.blob)
            descriptor = msgspec.structs.replace(chosen, media_type=kind or chosen.media_type, size=len(data))
            parsed = self.parse(data, kind)
        if not isinstance(parsed, Manifest):
            raise InvalidArgument("invalid index", detail="it names another index for this platform")
        await asyncio.to_thread(self.sink.put, data, descriptor.blob)
        parts = (parsed.config, *parsed.layers)
        if all(self.sink.has(part.blob) for part in parts):  # up to date, or another name for the same
            self.progress = _tell_nobody
        config = await self.small_blob(parsed.config)
        await asyncio.to_thread(self.sink.put, config, parsed.config.blob)
        self.sink.expect(config, parsed.layers)
        await self.layers(parsed.layers)
        return Pulled(data, descriptor, config, tuple(parsed.layers), named, index)

    async def layers(self, layers: Sequence[Descriptor]) -> None:
        """In parallel; the first failure ends the others."""
        distinct = {layer.digest: layer for layer in layers}.values()
        for layer in distinct:
            if not self.sink.has(layer.blob):
                self.progress(standing("Pulling fs layer", layer.blob.short))

        async def fetch(layer: Descriptor) -> None:
            if self.gate.locked() and not self.sink.has(layer.blob):
                self.progress(standing("Waiting", layer.blob.short))
            async with self.gate:
                await self.layer(layer)

        try:
            async with asyncio.TaskGroup() as group:
                for layer in distinct:
                    group.create_task(fetch(layer))
        except ExceptionGroup as failures:  # not except*: what that raises is wrapped in a group again
            raise failures.exceptions[0] from None

    async def layer(self, descriptor: Descriptor) -> None:
        digest = descriptor.blob
        if self.sink.has(digest):
            self.progress(standing("Already exists", digest.short))
            return
        try:
            if not await self.download(descriptor):  # what an earlier try left was damaged, and is gone
                await self.download(descriptor)
        except Conflict:  # another pull has brought it meanwhile
            pass
        except NotFound as cause:
            if descriptor.urls:
                raise NotFound(
                    cause.what, detail="a foreign layer, whose URLs are not followed", hint=cause.hint
                ) from cause
            raise
        self.progress(standing("Download complete", digest.short))

    async def download(self, descriptor: Descriptor) -> bool:
        """False: the bytes that were there before this try make it wrong."""
        resumed = False
        try:
            async with self.sink.download(descriptor) as writer:
                resumed = writer.written > 0
                download = _Download(self.host, descriptor, writer, self.progress)
                if writer.written < descriptor.size:
                    await self.persist(download.once, descriptor)
                self.progress(standing("Verifying Checksum", descriptor.blob.short))
                await asyncio.to_thread(writer.commit)
        except InvalidArgument:
            if resumed:
                return False
            raise
        return True


@dataclass(slots=True)
class _Download:
    """One blob; a broken connection goes on where it ended (Range, RFC 9110 section 14)."""

    host: RegistryHost
    descriptor: Descriptor
    writer: BlobWriter
    progress: Progress

    async def once(self) -> None:
        before = self.writer.written
        headers = {"Range": f"bytes={before}-"} if before else {}
        try:
            tail = f"blobs/{self.descriptor.digest}"
            async with self.host.request("GET", tail, headers, good=FOUND | {416}) as answer:
                await self.body(answer, before)
        except (TimeoutError, aiohttp.ClientError, OSError) as cause:
            reason = str(cause) or type(cause).__name__
            raise RetryError(reason, progressed=self.writer.written >= before + PROGRESS) from cause
        if self.writer.written < self.descriptor.size:
            raise RetryError(
                f"the connection ended after {self.writer.written} of {self.descriptor.size} bytes",
                progressed=self.writer.written >= before + PROGRESS,
            )

    async def body(self, answer: aiohttp.ClientResponse, start: int) -> None:
        skip = start if answer.status == 200 else 0  # the server may not know ranges
        content_range = answer.headers.get("Content-Range", "")
        if answer.status == 416 or (answer.status == 206 and not content_range.startswith(f"bytes {start}-")):
            raise InvalidArgument(
                "the registry does not send the range it was asked for",
                detail=f"bytes {start}- of {self.descriptor.digest}: {answer.status} {content_range[:100]}",
            )
        pace = Pace(self.host.patience)
        async for chunk in answer.content.iter_chunked(CHUNK):
            pace.took(len(chunk))
            fresh = chunk[skip:]
            skip -= len(chunk) - len(fresh)
            await self.take(fresh)

    async def take(self, data: bytes) -> None:
        if self.writer.written + len(data) > self.descriptor.size:
            raise InvalidArgument(
                "the registry sends more than the manifest says", detail=f"blob {self.descriptor.digest}"
            )
        await asyncio.to_thread(self.writer.write, data)  # hashing a megabyte takes a millisecond
        self.progress(
            moving("Downloading", self.descriptor.blob.short, self.writer.written, self.descriptor.size)
        )
