"""Manifests and tags: end-3, end-7, end-9."""

import hashlib

from aiohttp import web
from multidict import CIMultiDict

from longshore.oci.digest import Digest, parse_digest
from longshore.registry.server.bodies import read_small
from longshore.registry.server.calls import Call, empty, head
from longshore.registry.server.manifests import MAX_MANIFEST, judge
from longshore.registry.server.names import check_reference, is_tag
from longshore.registry.server.refusals import Code, Refused
from longshore.registry.server.threads import in_thread

MAX_TAGS = 100  # of one push by digest; spec.md asks for ten


async def get_manifest(call: Call) -> web.StreamResponse:
    """GET and HEAD by tag or digest; the bytes and the media type that were pushed."""
    reference = check_reference(call.route.argument, writing=False)
    if call.parts.proxy is not None:
        await call.parts.proxy.refresh_manifest(call.name, reference)
    records = call.parts.store.records
    is_digest = isinstance(reference, Digest)
    digest = str(reference) if is_digest else records.tag(call.name, reference)
    row = records.manifest(call.name, digest) if digest else None
    if row is None:
        raise Refused(Code.MANIFEST_UNKNOWN, f"{reference} in {call.name}")
    etag = f'"{row.digest}"'
    headers = {"Docker-Content-Digest": row.digest, "Content-Type": row.media_type, "Etag": etag}
    if etag in call.request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    if call.is_head:
        return head(headers, len(row.body))
    tag = "" if is_digest else str(reference)
    call.tell("pull", row.digest, media_type=row.media_type, size=len(row.body), tag=tag)
    return web.Response(body=row.body, headers=headers)


async def put_manifest(call: Call) -> web.StreamResponse:
    """By tag, or by digest with any number of `tag` parameters."""
    call.check_writable()
    reference = check_reference(call.route.argument, writing=True)
    tags = _tags(call, reference)
    data = await read_small(call.request, MAX_MANIFEST, call.parts.settings.limits.idle)
    digest = _digest_of(data, reference)
    judged = judge(data, call.request.headers.get("Content-Type", ""))
    whole = call.parts.settings.validation.manifests.indexes.platforms != "none" or not any(
        target.is_manifest for target in judged.targets
    )
    await in_thread(call.parts.store.put_manifest, call.name, digest, data, judged, tags, whole=whole)
    for tag in tags or [""]:
        call.tell("push", str(digest), media_type=judged.media_type, size=len(data), tag=tag)
    headers = CIMultiDict(
        {
            "Location": call.url(f"/v2/{call.name}/manifests/{digest}"),
            "Docker-Content-Digest": str(digest),
            "Content-Length": "0",
        }
    )
    if judged.subject:
        headers["OCI-Subject"] = judged.subject
    if isinstance(reference, Digest):
        for tag in tags:
            headers.add("OCI-Tag", tag)
    return web.Response(status=201, headers=headers)


def _tags(call: Call, reference: Digest | str) -> list[str]:
    """Raises Refused: 414 for too many, MANIFEST_INVALID for what is no tag."""
    if isinstance(reference, str):
        return [reference]
    tags = list(dict.fromkeys(call.request.rel_url.query.getall("tag", [])))
    if len(tags) > MAX_TAGS:
        raise Refused(Code.MANIFEST_INVALID, f"at most {MAX_TAGS} tags at once", status=414)
    for tag in tags:
        if not is_tag(tag):
            raise Refused(Code.MANIFEST_INVALID, f"{tag[:140]!r} cannot be a tag")
    return tags


def _digest_of(data: bytes, reference: Digest | str) -> Digest:
    """The digest under which it is stored. Raises Refused DIGEST_INVALID when it is not the one in the path."""
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    digest = parse_digest(f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}")
    if isinstance(reference, Digest) and digest != reference:
        raise Refused(Code.DIGEST_INVALID, f"wanted {reference}, got {digest}")
    return digest


async def delete_manifest(call: Call) -> web.StreamResponse:
    """A tag, or a manifest with all its tags."""
    call.check_deletable()
    reference = check_reference(call.route.argument, writing=False)
    records = call.parts.store.records
    if isinstance(reference, str):
        digest, tag = records.tag(call.name, reference), reference
        gone = await in_thread(records.delete_tag, call.name, reference)
    else:
        digest, tag = str(reference), ""
        gone = await in_thread(records.delete_manifest, call.name, digest)
    if not gone:
        raise Refused(Code.MANIFEST_UNKNOWN, f"{reference} in {call.name}")
    call.tell("delete", digest, tag=tag)
    return empty(202, {"Docker-Content-Digest": digest})
