"""A blob on its way through: one download, any number of clients that read the growing file.

The last byte is sent only after the whole was compared with the digest, so a client never gets a complete wrong blob.
"""

import asyncio
import os

import aiohttp
from aiohttp import web

from longshore.errors import EngineError, Unavailable
from longshore.oci.digest import Digest
from longshore.registry.patience import RetryError
from longshore.registry.server.calls import Call, head
from longshore.registry.server.threads import in_thread
from longshore.registry.server.uploads import Upload
from longshore.registry.server.upstream import Upstream

_BLOCK = 1 << 20
_ATTEMPTS = 5  # in a row that bring nothing
_WAIT = 0.5


class Flight:
    """`size` is None until the other registry has answered."""

    def __init__(self, upload: Upload, digest: Digest) -> None:
        self.upload, self.digest = upload, digest
        self.size: int | None = None
        # Its own, because the file is renamed when it is whole; each client reads through a copy.
        self._fd = os.open(upload.path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._landed = False
        self._error: EngineError | None = None
        self._changed = asyncio.Event()

    def progress(self) -> None:
        """Wake those who wait."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Nobody joins any more; those who read go on."""
        os.close(self._fd)
        self.upload.close()

    def land(self) -> None:
        self._landed = True
        self.progress()

    def fail(self, error: EngineError) -> None:
        self._error = self._error or error
        self.progress()

    async def finished(self) -> None:
        """Until the blob is stored. Raises what it failed with."""
        while not self._landed:
            if self._error is not None:
                raise self._error
            await self._changed.wait()

    @property
    def _ready(self) -> int:
        """How many bytes may be sent."""
        if self._landed or self.size is None:
            return self.upload.size
        return min(self.upload.size, max(0, self.size - 1))

    async def send(self, call: Call, headers: dict[str, str]) -> web.StreamResponse:
        """The reply, as the bytes come. Raises what it failed with, as long as nothing was sent."""
        fd = os.dup(self._fd)
        try:
            while self.size is None:
                if self._error is not None:
                    raise self._error
                await self._changed.wait()
            if self._error is not None:
                raise self._error
            reply = head(headers, self.size)
            await reply.prepare(call.request)
            await self._follow(call, reply, fd)
            return reply
        finally:
            os.close(fd)

    async def _follow(self, call: Call, reply: web.StreamResponse, fd: int) -> None:
        sent, stall = 0, float(call.parts.settings.limits.stall)
        try:
            while sent < (self.size or 0):
                changed = self._changed
                if sent < self._ready:
                    data = await in_thread(os.pread, fd, min(_BLOCK, self._ready - sent), sent)
                    async with asyncio.timeout(stall):
                        await reply.write(data)
                    sent += len(data)
                elif self._error is not None:
                    raise ConnectionError("the blob did not come")
                else:
                    await changed.wait()
            call.tell("pull", str(self.digest), media_type=reply.content_type, size=sent)
        except (TimeoutError, ConnectionError):
            if call.request.transport is not None:
                call.request.transport.abort()  # an unfinished body tells the client that it is one


async def fly(flight: Flight, upstream: Upstream) -> None:
    """Download it; what breaks off goes on where it stopped. Raises EngineError."""
    vain = 0
    while flight.size is None or flight.upload.size < flight.size:
        before = flight.upload.size
        try:
            await _attempt(flight, upstream)
        except (RetryError, TimeoutError, aiohttp.ClientError, OSError) as failure:
            vain = 0 if flight.upload.size > before else vain + 1
            if vain >= _ATTEMPTS or (isinstance(failure, RetryError) and failure.final):
                raise Unavailable(f"failed to fetch {flight.digest}", detail=str(failure)) from failure
            await asyncio.sleep(_WAIT * vain)


async def _attempt(flight: Flight, upstream: Upstream) -> None:
    upload = flight.upload
    async with upstream.blob(upload.repository, flight.digest, upload.size) as (size, content):
        if flight.size is None:
            flight.size = size
            flight.progress()
        elif flight.size != size:
            raise Unavailable(f"{flight.digest} has another size now")
        async for block in content.iter_any():  # what is there, so that nobody waits for a full block
            await _append(flight, block)


async def _append(flight: Flight, data: bytes) -> None:
    if flight.size is not None and flight.upload.size + len(data) > flight.size:
        raise Unavailable(f"more bytes come than {flight.digest} has")
    if data:
        await in_thread(flight.upload.append, data)
        flight.progress()
