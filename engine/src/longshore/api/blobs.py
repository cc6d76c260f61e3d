"""Extension: images as blobs, so that only what a host lacks travels to it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import OCI_CONFIG, Descriptor
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.image_config import parse_image_config
from longshore.oci.manifest import MAX_MANIFEST
from longshore.oci.reference import parse_reference

PIECE = 1 << 20


class _Digests(msgspec.Struct):
    digests: list[str]


class _ContentsLayer(Descriptor, frozen=True, rename="camel", omit_defaults=True):
    diff_id: str = ""


class Contents(msgspec.Struct, frozen=True):
    """All blobs of an image, layers oldest first."""

    id: str
    config: Descriptor
    layers: list[_ContentsLayer]
    reference: str = ""
    manifest: Descriptor | None = None


async def image_contents(request: Request) -> AnyReply:
    name = request.parameters["name"]
    engine = request.engine
    image = engine.images.get(name)
    layers = [
        msgspec.to_builtins(layer.descriptor) | {"diffId": str(layer.diff_id)} for layer in image.layers
    ]
    config = Descriptor(media_type=OCI_CONFIG, digest=str(image.id), size=len(image.raw_config))
    body: dict[str, Any] = {
        "id": str(image.id),
        "reference": image.tags[0] if image.tags else "",
        "config": msgspec.to_builtins(config),
        "layers": layers,
    }
    if engine.images.content.has(image.manifest.blob):
        body["manifest"] = msgspec.to_builtins(image.manifest)
    return Reply(body=body)


async def register_image(request: Request) -> AnyReply:
    """Make an image of blobs that are here already. 404 names those that are not."""
    reference = parse_reference(request.parameters["name"])
    contents = await request.json(Contents)
    engine = request.engine
    if contents.config.digest != contents.id:
        raise InvalidArgument("the image's id is not the digest of its config", detail=contents.id)
    wanted = [contents.config, *contents.layers, *([contents.manifest] if contents.manifest else [])]
    with engine.images.content.lease():
        if missing := [part.digest for part in wanted if not engine.images.content.has(part.blob)]:
            raise NotFound("no such blobs", detail=", ".join(missing))
        config = await asyncio.to_thread(engine.images.content.read, contents.config.blob, MAX_MANIFEST)
        _check_layers(contents, config)
        layers = [msgspec.convert(layer, Descriptor, from_attributes=True) for layer in contents.layers]
        manifest = None
        if contents.manifest is not None:
            manifest = await asyncio.to_thread(
                engine.images.content.read, contents.manifest.blob, MAX_MANIFEST
            )
        image = await engine.images.add(
            config, layers, manifest, references=[reference.with_default_tag().canonical]
        )
    engine.images.content.release(part.blob for part in wanted)
    return Reply(201, {"id": str(image.id)})


def _check_layers(contents: Contents, config: bytes) -> None:
    told = [layer.diff_id for layer in contents.layers]
    if any(told) and told != parse_image_config(config).rootfs.diff_ids:
        raise InvalidArgument("the layers are not those of the image's config", detail=contents.id)


async def missing_blobs(request: Request) -> AnyReply:
    """Which of these are not here; those that are stay until their image comes."""
    asked = [parse_digest(text) for text in (await request.json(_Digests)).digests]
    content = request.engine.images.content
    missing: list[str] = []
    for digest in asked:
        if content.has(digest):
            content.hold(digest)
        else:
            missing.append(str(digest))
    return Reply(body={"missing": missing})


async def read_blob(request: Request) -> AnyReply:
    digest = parse_digest(request.parameters["digest"])
    size = request.engine.images.content.size(digest)
    headers = {"Content-Length": str(size), "Docker-Content-Digest": str(digest)}
    return Stream(_pieces(request, digest), content_type="application/octet-stream", headers=headers)


async def _pieces(request: Request, digest: Digest) -> AsyncIterator[bytes]:
    with request.engine.images.content.open(digest) as file:
        while data := await asyncio.to_thread(file.read, PIECE):
            yield data


async def write_blob(request: Request) -> AnyReply:
    """Store the body, which must have the digest that the path says. Twice is fine."""
    digest = parse_digest(request.parameters["digest"])
    content = request.engine.images.content
    if content.has(digest):
        content.hold(digest)
        async for _ in request.body:  # an early answer would break the sender's pipe
            pass
        return Reply(200)
    with content.writer(digest) as writer:
        pending = bytearray()
        async for data in request.body:
            pending += data
            if len(pending) >= PIECE:
                await asyncio.to_thread(writer.write, pending)
                pending = bytearray()
        await asyncio.to_thread(writer.write, pending)
        await asyncio.to_thread(writer.commit)
    content.hold(digest)
    return Reply(201)


ROUTES = [
    Route("POST", "/longshore/v1/blobs/missing", missing_blobs),
    Route("GET", "/longshore/v1/blobs/{digest}", read_blob),
    Route("HEAD", "/longshore/v1/blobs/{digest}", read_blob),
    Route("PUT", "/longshore/v1/blobs/{digest}", write_blob),
    Route("GET", "/longshore/v1/images/{name:path}/contents", image_contents),
    Route("PUT", "/longshore/v1/images/{name:path}", register_image),
]
