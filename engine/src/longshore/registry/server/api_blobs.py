"""Pulling and deleting blobs: end-2, end-10."""

import asyncio

from aiohttp import web

from longshore.registry.server.bodies import send_file
from longshore.registry.server.calls import Call, empty, head
from longshore.registry.server.names import check_digest
from longshore.registry.server.ranges import parse_range
from longshore.registry.server.refusals import Code, Refused

_OCTETS = "application/octet-stream"


async def get_blob(call: Call) -> web.StreamResponse:
    """GET and HEAD, with Range."""
    digest = check_digest(call.route.argument)
    store = call.parts.store
    size = store.records.blob_size(call.name, str(digest))
    if size is not None and call.is_head and call.parts.proxy is None:
        size = await asyncio.to_thread(store.see_blob, call.name, digest)
    if size is None and call.parts.proxy is not None:
        return await call.parts.proxy.send_blob(call, digest)
    if size is None:
        raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}")
    headers = {
        **call.parts.common,
        "Docker-Content-Digest": str(digest),
        "Content-Type": _OCTETS,
        "Accept-Ranges": "bytes",
        "Etag": f'"{digest}"',
        "Cache-Control": "max-age=31536000",
    }
    if call.request.headers.get("If-None-Match", "") == f'"{digest}"':
        return web.Response(status=304, headers=headers)
    if call.is_head:
        return head(headers, size)
    return await _send(call, digest, size, headers)


async def _send(call: Call, digest: object, size: int, headers: dict[str, str]) -> web.StreamResponse:
    asked = call.request.headers.get("Range", "")
    condition = call.request.headers.get("If-Range", "")
    if condition and condition != headers["Etag"]:
        asked = ""
    part = parse_range(asked, size) if asked else None
    first, length = part or (0, size)
    if part:
        headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
    try:
        file = call.parts.store.files.open(check_digest(str(digest)))
    except FileNotFoundError as cause:  # deleted and collected since we looked
        raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}") from cause
    reply = head(headers, length, 206 if part else 200)
    await send_file(call.request, reply, file, first, length, call.parts.settings.limits.stall)
    call.tell("pull", str(digest), media_type=_OCTETS, size=size)
    return reply


async def delete_blob(call: Call) -> web.StreamResponse:
    """Takes the blob from this repository only; its bytes go when no repository has it."""
    call.check_deletable()
    digest = check_digest(call.route.argument)
    if not await asyncio.to_thread(call.parts.store.records.unlink, call.name, str(digest)):
        raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}")
    call.tell("delete", str(digest), media_type=_OCTETS)
    return empty(202, {"Docker-Content-Digest": str(digest)})
