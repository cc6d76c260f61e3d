"""Bytes between sockets and files. Nobody may hold a request for ever: each step has a deadline of its own."""

import asyncio
from typing import BinaryIO

from aiohttp import web

from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.threads import in_thread
from longshore.registry.server.uploads import Upload

BLOCK = 1 << 20  # of a body, written at once: a thread per megabyte costs nothing
SLICE = 8 << 20  # of a file, sent before the deadline begins anew


async def go_ahead(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body (RFC 9110, section 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def read_small(request: web.BaseRequest, limit: int, idle: float) -> bytes:
    """The whole body. Raises Refused 413 beyond the limit, 408 when nothing comes for `idle` seconds."""
    announced = request.content_length
    if announced is not None and announced > limit:
        raise too_large(limit)
    await go_ahead(request)
    data = bytearray()
    while block := await _next(request, idle):
        data += block
        if len(data) > limit:
            raise too_large(limit)
    return bytes(data)


def too_large(limit: int) -> Refused:
    return Refused(Code.SIZE_INVALID, f"the limit is {limit} bytes", status=413)


async def _next(request: web.BaseRequest, idle: float) -> bytes:
    try:
        async with asyncio.timeout(idle):
            return await request.content.readany()
    except TimeoutError as cause:
        raise Refused(Code.BLOB_UPLOAD_INVALID, f"nothing came for {idle:.0f} s", status=408) from cause
    except (web.RequestPayloadError, ConnectionError) as cause:
        raise Refused(Code.SIZE_INVALID, "the body ended before its announced length") from cause


async def receive(request: web.BaseRequest, upload: Upload, *, limit: int, idle: float) -> None:
    """Append the body to the upload, the next block while the last one is written.

    What came before a break stays: the client asks how far it got and goes on. `limit` of the whole blob, 0 for none.
    Raises Refused and OutOfSpace.
    """
    total = upload.size
    if limit and total + (request.content_length or 0) > limit:
        raise too_large(limit)
    await go_ahead(request)
    buffer = bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        while block := await _next(request, idle):
            total += len(block)
            if limit and total > limit:
                raise too_large(limit)
            buffer += block
            if len(buffer) < BLOCK:
                continue
            if writing is not None:
                await writing
            writing = asyncio.ensure_future(in_thread(upload.append, buffer))
            buffer = bytearray()
    finally:
        if writing is not None:
            await writing
        if buffer:
            await in_thread(upload.append, buffer)


async def send_file(
    request: web.BaseRequest, reply: web.StreamResponse, file: BinaryIO, first: int, length: int, stall: float
) -> None:
    """The reply's head and `length` bytes of the file, by sendfile(2) where there is no TLS; closes the file.

    A client that takes nothing for `stall` seconds, or goes away, loses its connection.
    """
    with file:
        await reply.prepare(request)
        loop = asyncio.get_running_loop()
        try:
            while length:
                if request.transport is None or request.transport.is_closing():
                    return
                step = min(length, SLICE)
                async with asyncio.timeout(stall):
                    await loop.sendfile(request.transport, file, first, step)
                first, length = first + step, length - step
        except (TimeoutError, ConnectionError, RuntimeError):
            if request.transport is not None:
                request.transport.abort()
