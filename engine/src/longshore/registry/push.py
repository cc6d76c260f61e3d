"""Push to a registry: OCI distribution specification 1.1, end-2 and end-4 to end-7, end-11 and end-13.

Blobs first, then manifests, then the index that names them: a registry never shows what it cannot give. A blob that
the repository has is not sent, one that another repository of the registry has is mounted, a broken upload goes on
where the registry says it ended.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, Protocol, TypeVar

import aiohttp
from yarl import URL

from longshore.errors import EngineError, NotFound, Unavailable
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest
from longshore.oci.manifest import MAX_MANIFEST
from longshore.oci.reference import Reference
from longshore.registry.cargo import MAX_MOUNTS, Blob, Cargo
from longshore.registry.patience import RetryError
from longshore.registry.progress import Progress, moving, standing
from longshore.registry.transport import RegistryHost

T = TypeVar("T")

PARALLEL = 5  # blobs, as dockerd's --max-concurrent-uploads
PIECE = 1 << 20
CHUNK = 64 << 20  # more than this is sent in several requests, and a broken one costs no more
_OCTETS = {"Content-Type": "application/octet-stream"}


class Content(Protocol):
    """Where the bytes are; the content store is one."""

    def open(self, digest: Digest) -> BinaryIO: ...
    def read(self, digest: Digest, limit: int) -> bytes: ...


async def push(
    host: RegistryHost, reference: Reference, cargo: Cargo, *, content: Content, progress: Progress
) -> None:
    """Send what is missing. Raises NotFound, Unauthorized, Unavailable, InvalidArgument. Twice is fine."""
    gate = asyncio.Semaphore(PARALLEL)
    for blob in cargo.blobs:
        if blob.shown:
            progress(standing("Preparing", blob.descriptor.blob.short))
    for blob in [blob for blob in cargo.blobs if blob.shown][PARALLEL:]:
        progress(standing("Waiting", blob.descriptor.blob.short))

    async def send(blob: Blob) -> None:
        async with gate:
            await _Upload(host, reference, blob, content, progress if blob.shown else _tell_nobody).run()

    try:
        async with asyncio.TaskGroup() as group:
            for blob in cargo.blobs:
                group.create_task(send(blob))
    except ExceptionGroup as failures:  # not except*: what that raises is wrapped in a group again
        raise failures.exceptions[0] from None
    for descriptor in cargo.manifests[:-1]:
        await _put_manifest(host, reference, descriptor, descriptor.digest, content)
    await _put_manifest(host, reference, cargo.manifests[-1], str(reference.tag or "latest"), content)


async def lacks(host: RegistryHost, manifests: Sequence[Descriptor]) -> list[Descriptor]:
    """Those of some manifests that the repository does not have."""

    async def once(descriptor: Descriptor) -> bool:
        headers = {"Accept": descriptor.media_type}
        tail = f"manifests/{descriptor.digest}"
        async with host.request("HEAD", tail, headers, good=_KNOWN_OR_NOT) as answer:
            return answer.status == 404

    return [
        descriptor
        for descriptor in manifests
        if await _persist(host, lambda one=descriptor: once(one), f"{descriptor.digest} to {host.name}")
    ]


_KNOWN_OR_NOT = frozenset({200, 404})
_ACCEPTED = frozenset({200, 201, 202, 204})


async def _persist(host: RegistryHost, once: Callable[[], Awaitable[T]], what: str) -> T:
    return await host.patience.persist(once, what, host.patience.attempts, verb="push")


async def _put_manifest(
    host: RegistryHost, reference: Reference, descriptor: Descriptor, name: str, content: Content
) -> None:
    data = await asyncio.to_thread(content.read, descriptor.blob, MAX_MANIFEST)
    headers = {"Content-Type": descriptor.media_type}

    async def once() -> None:
        async with host.request("PUT", f"manifests/{name}", headers, lambda: data, good=_ACCEPTED):
            pass

    await _persist(host, once, f"the manifest of {reference} to {host.name}")


def _tell_nobody(_message: object) -> None: ...


@dataclass(slots=True)
class _Upload:
    """One blob on its way out."""

    host: RegistryHost
    reference: Reference
    blob: Blob
    content: Content
    progress: Progress
    address: URL | None = None  # where the registry wants the next bytes; None: nothing has begun
    sent: int = 0  # bytes that the registry has
    chunk: int = CHUNK
    chunks: bool = True  # the registry has not refused them yet

    @property
    def size(self) -> int:
        return self.blob.descriptor.size

    @property
    def id(self) -> str:
        return self.blob.descriptor.blob.short

    async def run(self) -> None:
        what = f"{self.id} of {self.reference} to {self.host.name}"
        if await _persist(self.host, self.exists, what):
            self.progress(standing("Layer already exists", self.id))
        elif source := await self.mount():
            self.progress(standing(f"Mounted from {source}", self.id))
        else:
            await _persist(self.host, self.once, what)
            self.progress(standing("Pushed", self.id))

    async def exists(self) -> bool:
        tail = f"blobs/{self.blob.descriptor.digest}"
        async with self.host.request("HEAD", tail, good=_KNOWN_OR_NOT) as answer:
            return answer.status == 200

    async def mount(self) -> str:
        """The repository it came from, or "". The registry opens an upload where it cannot."""
        for source in self.blob.sources[:MAX_MOUNTS]:
            await self.forget()
            query = f"?mount={self.blob.descriptor.digest}&from={source.replace('/', '%2F')}"
            with suppress(EngineError, RetryError):  # a source we may not read, or that is gone: send it then
                if await self.begin(query):
                    return source
        return ""

    async def begin(self, query: str = "") -> bool:
        """Open an upload; True: it was mounted instead."""
        self.address, self.sent = None, 0
        tail, empty = f"blobs/uploads/{query}", {"Content-Length": "0"}
        async with self.host.request("POST", tail, empty, good=_ACCEPTED) as answer:
            if answer.status == 201:
                return True
            if "Location" not in answer.headers:
                raise Unavailable(f"the registry {self.host.name} does not say where to upload to")
            self.address = self.host.location(answer)
            least = answer.headers.get("OCI-Chunk-Min-Length", "")
            self.chunk = max(CHUNK, int(least) if least.isdigit() else 0)
        return False

    async def forget(self) -> None:
        """Let the registry drop an upload that is not needed; those that cannot drop it some day themselves."""
        if self.address is not None:
            with suppress(EngineError, RetryError):
                async with self.host.request("DELETE", self.address, good=_ACCEPTED):
                    pass
            self.address = None

    async def once(self) -> None:
        """One attempt; the next one goes on from `sent`."""
        before = self.sent
        try:
            if self.address is None:
                await self.begin()
            elif self.sent:
                await self.ask_where()
            while self.chunks and self.size > self.chunk and self.sent < self.size:
                await self.patch()
            await self.finish()
        except NotFound as cause:  # the registry has forgotten the upload
            self.address = None
            raise RetryError(str(cause)) from cause
        except RetryError as failure:
            failure.progressed = self.sent > before
            if not self.sent:
                await self.forget()
            raise

    async def patch(self) -> None:
        length = min(self.chunk, self.size - self.sent)
        headers = _OCTETS | {
            "Content-Length": str(length),
            "Content-Range": f"{self.sent}-{self.sent + length - 1}",
        }
        assert self.address is not None
        refused = frozenset({405, 501})
        body = lambda: self.pieces(length)  # noqa: E731  made again when the request is sent again
        good = _ACCEPTED | refused | {416}
        async with self.host.request("PATCH", self.address, headers, body, good=good) as answer:
            if answer.status == 416:
                await self.ask_where()
                raise RetryError("the registry expects another part of it")
            if answer.status in refused:
                self.chunks = False
            else:
                self.address = self.host.location(answer)
                self.sent = _acknowledged(answer, self.sent + length)

    async def finish(self) -> None:
        """The last bytes with the digest, which are all of them for a small blob."""
        assert self.address is not None
        length = self.size - self.sent
        query = f"digest={self.blob.descriptor.digest.replace(':', '%3A')}"
        joined = "&" if self.address.raw_query_string else "?"
        url = URL(f"{self.address}{joined}{query}", encoded=True)
        headers = _OCTETS | {"Content-Length": str(length)}
        body = (lambda: self.pieces(length)) if length else None
        async with self.host.request("PUT", url, headers, body, good=_ACCEPTED):
            pass

    async def ask_where(self) -> None:
        """How many bytes of the upload the registry has. Raises NotFound when it has none of it."""
        assert self.address is not None
        async with self.host.request("GET", self.address, good=_ACCEPTED) as answer:
            if "Location" in answer.headers:
                self.address = self.host.location(answer)
            self.sent = _acknowledged(answer, 0)

    async def pieces(self, length: int) -> AsyncIterator[bytes]:
        """The next bytes of the blob, told as they go."""
        start = self.sent
        with self.content.open(self.blob.descriptor.blob) as file:
            done = 0
            while done < length:
                data = await asyncio.to_thread(
                    os.pread, file.fileno(), min(PIECE, length - done), start + done
                )
                if not data:
                    raise aiohttp.ClientPayloadError("the blob ends too early")
                done += len(data)
                yield data
                self.progress(moving("Pushing", self.id, start + done, self.size))


def _acknowledged(answer: aiohttp.ClientResponse, otherwise: int) -> int:
    """`Range: 0-99` means 100 bytes. A registry with nothing says 0-0, like one with a single byte: send it again."""
    last = answer.headers.get("Range", "").removeprefix("bytes=").rpartition("-")[2]
    if not last.isdigit():
        return otherwise
    return int(last) + 1 if last != "0" else 0
