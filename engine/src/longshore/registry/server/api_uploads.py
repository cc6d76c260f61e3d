"""Pushing blobs: end-4, end-5, end-6, end-11, end-13, end-14."""

from collections.abc import Iterable

from aiohttp import web

from longshore.oci.digest import Digest
from longshore.registry.server.bodies import receive
from longshore.registry.server.calls import Call, empty
from longshore.registry.server.names import check_digest, check_name
from longshore.registry.server.ranges import parse_chunk_range
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.threads import in_thread
from longshore.registry.server.uploads import ALGORITHMS, Upload

_OCTETS = "application/octet-stream"


async def post_upload(call: Call) -> web.StreamResponse:
    """A session, a mount, or a whole blob in one request."""
    call.check_writable()
    if mount := call.query.get("mount", ""):
        digest = check_digest(mount)
        source = await in_thread(call.parts.store.mount, list(_sources(call, digest)), call.name, digest)
        if source:
            call.tell("mount", str(digest), media_type=_OCTETS, source=source)
            return _created(call, digest)
    if text := call.query.get("digest", ""):
        return await _monolithic(call, check_digest(text))
    algorithm = call.query.get("digest-algorithm", ALGORITHMS[0])
    upload = call.parts.store.uploads.start(call.name, algorithm)
    headers = _progress(call, upload)
    if minimum := call.parts.settings.limits.minchunk:
        headers["OCI-Chunk-Min-Length"] = str(minimum)
    return empty(202, {**headers, "Range": "0-0"})


def _sources(call: Call, digest: Digest) -> Iterable[str]:
    """Where a blob may be mounted from: only what this client may pull."""
    named = call.query.get("from", "")
    if named:
        try:
            names: Iterable[str] = [check_name(named)]
        except Refused:
            return []
    else:
        names = call.parts.store.records.holders(str(digest))
    return [name for name in names if call.principal.may("repository", name, "pull")]


async def _monolithic(call: Call, digest: Digest) -> web.StreamResponse:
    store = call.parts.store
    upload = store.uploads.start(call.name, digest.algorithm)
    try:
        with upload.claim():
            await _append(call, upload)
            await in_thread(store.finish_upload, upload, digest)
    finally:
        store.uploads.drop(upload)
    call.tell("push", str(digest), media_type=_OCTETS, size=upload.size)
    return _created(call, digest)


async def patch_upload(call: Call) -> web.StreamResponse:
    """The next chunk, or a stream of unknown length."""
    call.check_writable()
    upload = call.parts.store.uploads.find(call.name, call.route.argument)
    with upload.claim():
        await _append(call, upload)
    return empty(202, _progress(call, upload))


async def put_upload(call: Call) -> web.StreamResponse:
    """The last chunk, if there is one more, and the digest of the whole. A wrong one ends the session."""
    call.check_writable()
    store = call.parts.store
    upload = store.uploads.find(call.name, call.route.argument)
    digest = check_digest(call.query.get("digest", ""))
    with upload.claim():
        await _append(call, upload)
        try:
            await in_thread(store.finish_upload, upload, digest)
        except Refused:
            store.uploads.drop(upload)
            raise
    call.tell("push", str(digest), media_type=_OCTETS, size=upload.size)
    return _created(call, digest)


async def _append(call: Call, upload: Upload) -> None:
    """The request's body behind what is there. Raises Refused 416 when it belongs elsewhere."""
    limits = call.parts.settings.limits
    _check_place(call, upload)
    _check_space(call)
    await receive(call.request, upload, limit=limits.maxblobsize, idle=limits.idle)


def _check_place(call: Call, upload: Upload) -> None:
    header = call.request.headers.get("Content-Range", "")
    if not header:
        return
    first, length = parse_chunk_range(header)
    if first != upload.size:
        raise Refused(
            Code.BLOB_UPLOAD_INVALID,
            f"the next chunk begins at {upload.size}, not at {first}",
            status=416,
            headers=_progress(call, upload),
        )
    announced = call.request.content_length
    if announced is not None and announced != length:
        raise Refused(Code.SIZE_INVALID, f"Content-Range has {length} bytes, Content-Length is {announced}")


def _check_space(call: Call) -> None:
    """A blob that cannot fit is refused before it is sent."""
    announced = call.request.content_length or 0
    if announced > call.parts.settings.limits.spacecheck and announced > call.parts.store.files.free():
        raise Refused(Code.UNKNOWN, f"no space left for {announced} bytes", status=507)


async def get_upload(call: Call) -> web.StreamResponse:
    """How far an upload has come."""
    upload = call.parts.store.uploads.find(call.name, call.route.argument)
    return empty(204, _progress(call, upload))


async def delete_upload(call: Call) -> web.StreamResponse:
    call.check_writable()
    uploads = call.parts.store.uploads
    uploads.drop(uploads.find(call.name, call.route.argument))
    return empty(204, {"Docker-Upload-UUID": call.route.argument})


def _progress(call: Call, upload: Upload) -> dict[str, str]:
    return {
        "Location": call.url(f"/v2/{upload.repository}/blobs/uploads/{upload.id}"),
        "Range": f"0-{max(0, upload.size - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


def _created(call: Call, digest: Digest) -> web.Response:
    location = call.url(f"/v2/{call.name}/blobs/{digest}")
    return empty(201, {"Location": location, "Docker-Content-Digest": str(digest)})
