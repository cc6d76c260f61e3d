"""Pulling and deleting blobs: end-2, end-10."""

from aiohttp import web

from longshore.oci.digest import Digest
from longshore.registry.server.bodies import send_file
from longshore.registry.server.calls import Call, empty, head
from longshore.registry.server.names import check_digest
from longshore.registry.server.ranges import parse_range
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.threads import in_thread

_OCTETS = "application/octet-stream"


async def get_blob(call: Call) -> web.StreamResponse:
    """GET and HEAD, with Range."""
    digest = check_digest(call.route.argument)
    store = call.parts.store
    size = store.records.blob_size(call.name, str(digest))
    if size is not None and call.is_head and call.parts.proxy is None:
        size = await in_thread(store.see_blob, call.name, digest)
    if size is None and call.parts.proxy is not None:
        return await call.parts.proxy.send_blob(call, digest)
    if size is None:
        raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}")
    if f'"{digest}"' in call.request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=blob_headers(digest))
    if call.is_head:
        return head(blob_headers(digest), size)
    return await send_stored(call, digest, size)


def blob_headers(digest: Digest) -> dict[str, str]:
    return {
        "Docker-Content-Digest": str(digest),
        "Content-Type": _OCTETS,
        "Accept-Ranges": "bytes",
        "Etag": f'"{digest}"',
        "Cache-Control": "max-age=31536000",  # a digest never means anything else
    }


async def send_stored(call: Call, digest: Digest, size: int) -> web.StreamResponse:
    """A blob from the disk, or the range of it that the client asks for. Raises Refused."""
    headers = {**call.parts.common, **blob_headers(digest)}
    asked = call.request.headers.get("Range", "")
    condition = call.request.headers.get("If-Range", "")
    if condition and condition != headers["Etag"]:
        asked = ""
    part = parse_range(asked, size) if asked else None
    first, length = part or (0, size)
    if part:
        headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
    try:
        file = call.parts.store.files.open(digest)
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
    if not await in_thread(call.parts.store.records.unlink, call.name, str(digest)):
        raise Refused(Code.BLOB_UNKNOWN, f"{digest} in {call.name}")
    call.tell("delete", str(digest), media_type=_OCTETS)
    return empty(202, {"Docker-Content-Digest": str(digest)})
