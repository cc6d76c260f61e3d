"""Pull from a registry: the client half of the OCI distribution specification 1.1 (pull: end-2, end-3).

What a registry says is never trusted: every byte passes a writer that knows the digest it must end with,
media types are judged before anything is fetched, `urls` of foreign layers are not followed, and credentials go
to the host they were meant for, never along a redirect to another one.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import aiohttp
import msgspec

from longshore.errors import (
    EngineError,
    InvalidArgument,
    OutOfSpace,
)
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
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from longshore.oci.reference import DEFAULT_DOMAIN, Reference
from longshore.registry.auth import Credentials
from longshore.registry.hosts import Mirror, may_be_plain
from longshore.registry.progress import Progress, moving, standing
from longshore.registry.transport import ATTEMPTS, RegistryHost, RetryError, persist, read_all

T = TypeVar("T")
log = logging.getLogger("longshore.registry")
HUB = "registry-1.docker.io"  # Docker Hub's API lives under another name than its references

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST_LIST, DOCKER_MANIFEST))
CHUNK = 1 << 20
MIRROR_ATTEMPTS = 2  # the registry itself is waiting
PARALLEL = 3  # layers, as dockerd's --max-concurrent-downloads


class BlobWriter(Protocol):
    def write(self, data: bytes) -> object: ...
    def commit(self) -> Digest: ...


class Sink(Protocol):
    """Where blobs go; the content store is one. `writer` refuses to commit other bytes than expected."""

    def has(self, digest: Digest) -> bool: ...
    def put(self, data: bytes) -> Digest: ...
    def writer(
        self, expected: Digest | None = None, size: int | None = None
    ) -> AbstractContextManager[BlobWriter]: ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """A whole image in the sink: the platform's manifest, its config and its layers, oldest first."""

    manifest: bytes
    descriptor: Descriptor  # of the manifest
    config: bytes
    layers: tuple[Descriptor, ...]
    digest: Digest  # what the reference named: of the index, where there is one


@dataclass(frozen=True, slots=True)
class Described:
    """What a registry has under a name: the manifest or index, and the platforms it is for."""

    descriptor: Descriptor
    platforms: tuple[Platform, ...]


class RegistryClient:
    """Stateless between pulls.

    `insecure`: hosts, with or without port, that may be spoken to without TLS. `mirrors` are asked in their
    order for images of docker.io, before Docker Hub; what they say of a digest is verified, what they say of
    a tag is believed.
    """

    def __init__(
        self, *, insecure: Sequence[str] = (), mirrors: Sequence[Mirror] = (), user_agent: str = "longshore"
    ) -> None:
        self._insecure = frozenset(insecure)
        self._mirrors = tuple(mirrors)
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
            lambda host, attempts: _Pull(
                host, reference, attempts, platform, sink=sink, progress=progress
            ).run(),
        )

    async def describe(self, reference: Reference, *, auth: Credentials | None = None) -> Described:
        """What the registry has under this name; nothing is kept. Raises as `pull`."""
        return await self._ask(
            reference, auth, lambda host, attempts: _Documents(host, reference, attempts).describe()
        )

    async def login(self, credentials: Credentials) -> None:
        """Show a login to its registry, Docker Hub without an address. Raises Unauthorized, Unavailable."""
        name = credentials.server_address.partition("://")[2] or credentials.server_address
        name = name.partition("/")[0]
        if name in ("", "docker.io", "index.docker.io"):
            name = HUB
        async with self._session() as session:
            schemes = ["https", "http"] if may_be_plain(name, self._insecure) else ["https"]
            host = RegistryHost(session, None, name, schemes, credentials.login)

            async def once() -> None:
                async with host.get(""):
                    pass

            await persist(once, f"the answer of {name}", 1)

    def _session(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
        return aiohttp.ClientSession(
            timeout=timeout, headers={"User-Agent": self._user_agent}, auto_decompress=False
        )

    async def _ask(
        self,
        reference: Reference,
        auth: Credentials | None,
        work: "Callable[[RegistryHost, int], Awaitable[T]]",
    ) -> T:
        """Of the mirrors in their order, and of the registry itself when none of them helps."""
        async with self._session() as session:
            for mirror in self._mirrors if reference.domain == DEFAULT_DOMAIN else ():
                host = RegistryHost(session, reference, mirror.host, [mirror.scheme], prefix=mirror.prefix)
                try:
                    return await work(host, MIRROR_ATTEMPTS)
                except OutOfSpace:
                    raise
                except EngineError as cause:
                    log.info("the mirror %s does not help with %s: %s", mirror.host, reference, cause)
            name = HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
            schemes = ["https", "http"] if may_be_plain(reference.domain, self._insecure) else ["https"]
            return await work(RegistryHost(session, reference, name, schemes, auth), ATTEMPTS)


def _tell_nobody(_message: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class _Documents:
    """Reads manifests and configs."""

    host: RegistryHost
    reference: Reference
    attempts: int = ATTEMPTS

    async def describe(self) -> Described:
        data, kind = await self.document(f"manifests/{self.tag}", self.reference.digest)
        descriptor = Descriptor(media_type=kind, digest=str(sha256_of(data)), size=len(data))
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
                data = await read_all(answer, MAX_MANIFEST)
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                return data, kind if kind in MANIFEST_TYPES | INDEX_TYPES else ""

        data, kind = await self.persist(once)
        if expected is not None and expected.algorithm == "sha256" and sha256_of(data) != expected:
            raise InvalidArgument("manifest verification failed for digest", detail=str(expected))
        return data, kind

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        """An image config, verified."""
        if descriptor.size > MAX_MANIFEST:
            raise InvalidArgument("image config too large", detail=f"{descriptor.size} bytes")

        async def once() -> bytes:
            async with self.host.get(f"blobs/{descriptor.digest}") as answer:
                return await read_all(answer, descriptor.size)

        data = await self.persist(once, descriptor)
        if f"{descriptor.blob.algorithm}:{hashlib.new(descriptor.blob.algorithm, data).hexdigest()}" != str(
            descriptor.blob
        ):
            raise InvalidArgument("config verification failed for digest", detail=descriptor.digest)
        return data

    async def persist(self, once: Callable[[], Awaitable[T]], blob: Descriptor | None = None) -> T:
        part = f"{blob.blob.short} of " if blob else ""
        return await persist(once, f"{part}{self.reference} from {self.host.name}", self.attempts)


@dataclass(slots=True)
class _Pull(_Documents):
    platform: str = ""
    sink: Sink = field(kw_only=True)
    progress: Progress = field(kw_only=True)

    async def run(self) -> Pulled:
        data, kind = await self.document(f"manifests/{self.tag}", self.reference.digest)
        self.progress({"status": f"Pulling from {self.reference.path}", "id": self.tag})
        named = sha256_of(data)
        descriptor = Descriptor(media_type=kind, digest=str(named), size=len(data))
        parsed = self.parse(data, kind)
        if isinstance(parsed, Index):
            chosen = parsed.choose(parse_platform(self.platform))
            data, kind = await self.document(f"manifests/{chosen.digest}", chosen.blob)
            descriptor = msgspec.structs.replace(chosen, media_type=kind or chosen.media_type, size=len(data))
            parsed = self.parse(data, kind)
        if not isinstance(parsed, Manifest):
            raise InvalidArgument("invalid index", detail="it names another index for this platform")
        self.sink.put(data)
        parts = (parsed.config, *parsed.layers)
        if all(self.sink.has(part.blob) for part in parts):  # up to date, or another name for the same
            self.progress = _tell_nobody
        config = await self.config(parsed.config)
        await self.layers(parsed.layers)
        return Pulled(data, descriptor, config, tuple(parsed.layers), named)

    async def config(self, descriptor: Descriptor) -> bytes:
        data = await self.small_blob(descriptor)
        with self.sink.writer(descriptor.blob, descriptor.size) as writer:
            writer.write(data)
            writer.commit()
        return data

    async def layers(self, layers: Sequence[Descriptor]) -> None:
        """In parallel; the first failure ends the others."""
        gate = asyncio.Semaphore(PARALLEL)
        distinct = {layer.digest: layer for layer in layers}.values()
        for layer in distinct:
            if not self.sink.has(layer.blob):
                self.progress(standing("Pulling fs layer", layer.blob.short))

        async def fetch(layer: Descriptor) -> None:
            async with gate:
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
        with self.sink.writer(digest, descriptor.size) as writer:
            download = _Download(self.host, descriptor, writer, self.progress)
            await self.persist(download.once, descriptor)
            self.progress(standing("Verifying Checksum", digest.short))
            await asyncio.to_thread(writer.commit)
        self.progress(standing("Download complete", digest.short))


@dataclass(slots=True)
class _Download:
    """One blob; a broken connection goes on where it ended (Range, RFC 9110 section 14)."""

    host: RegistryHost
    descriptor: Descriptor
    writer: BlobWriter
    progress: Progress
    done: int = 0

    async def once(self) -> None:
        headers = {"Range": f"bytes={self.done}-"} if self.done else {}
        async with self.host.get(f"blobs/{self.descriptor.digest}", headers) as answer:
            skip = self.done if answer.status == 200 else 0  # the server may not know ranges
            try:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    fresh = chunk[skip:]
                    skip -= len(chunk) - len(fresh)
                    await self.take(fresh)
            except (TimeoutError, aiohttp.ClientError, OSError) as cause:
                raise RetryError(str(cause) or type(cause).__name__) from cause
        if self.done < self.descriptor.size:
            raise RetryError(f"the connection ended after {self.done} of {self.descriptor.size} bytes")

    async def take(self, data: bytes) -> None:
        if self.done + len(data) > self.descriptor.size:
            raise InvalidArgument(
                "the registry sends more than the manifest says", detail=f"blob {self.descriptor.digest}"
            )
        await asyncio.to_thread(self.writer.write, data)  # hashing a megabyte takes a millisecond
        self.done += len(data)
        self.progress(moving("Downloading", self.descriptor.blob.short, self.done, self.descriptor.size))
