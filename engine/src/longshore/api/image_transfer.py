"""Images that come and go: pull, push, import, load, save, commit."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec

from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.api.progress import progress_stream
from longshore.api.references import join_tag
from longshore.core.images.model import Progress
from longshore.errors import Conflict, InvalidArgument
from longshore.oci.changes import apply_changes
from longshore.oci.descriptor import decode_platform
from longshore.oci.image_config import ContainerDefaults, ImageConfig, RootFS
from longshore.oci.reference import parse_reference
from longshore.registry.auth import decode_auth_header


async def create_image(request: Request) -> AnyReply:
    """Pull, or import the body as a one-layer image."""
    query, images = request.query, request.engine.images
    if source := query.get("fromSrc"):
        return await _import(request, source)
    name = query.get("fromImage", "").removesuffix(":")
    if not name:
        raise InvalidArgument("neither fromImage nor fromSrc is given")
    reference = join_tag(name, query.get("tag", ""))
    parsed = parse_reference(reference)
    decode_platform(query.get("platform", ""))
    auth = decode_auth_header(request.headers.get("X-Registry-Auth", ""))
    pull_some = images.transfer.pull if parsed.tag or parsed.digest else images.transfer.pull_all

    async def pull(progress: Progress) -> None:
        await pull_some(reference, platform=query.get("platform", ""), auth=auth, progress=progress)

    # The first message comes before the registry was asked: an unknown image gets its 404 this way.
    return await progress_stream(pull, peek=2)


async def _import(request: Request, source: str) -> AnyReply:
    query = request.query
    platform = decode_platform(query.get("platform", ""))
    name = query.get("repo", "")
    reference = join_tag(name, query.get("tag", "")) if name else ""
    if reference:
        parse_reference(reference)

    async def run(progress: Progress) -> None:
        chunks, message = request.body, query.get("message", "")
        if source != "-":
            url = source if "://" in source else f"http://{source}"
            progress({"status": f"Downloading from {url}"})
            chunks = request.engine.images.transfer.download(url)
            message = message or f"Imported from {url}"
        image = await request.engine.images.archives.import_(
            chunks, reference, query.all("changes"), message, platform
        )
        progress({"status": str(image.id)})

    return await progress_stream(run, peek=1 if source == "-" else 2)


async def load_images(request: Request) -> AnyReply:
    """A bad archive is told in the stream, behind status 200: docker-py and the CLI look for it there."""

    platform = decode_platform(request.query.get("platform", ""))
    quiet = request.query.flag("quiet", default=True)

    async def run(progress: Progress) -> None:
        def tell(message: dict[str, object]) -> None:
            if not (quiet and "id" in message):
                progress(message)

        await request.engine.images.archives.load(request.body, tell, platform)

    return await progress_stream(run, peek=0)


async def _archive(request: Request, names: list[str]) -> AnyReply:
    images = request.engine.images
    platform = decode_platform(request.query.get("platform", ""))
    for name in names:  # an unknown one is a 404, not a broken stream
        if platform:
            await images.of_platform(name, platform)
        else:
            images.get(name)
    chunks: AsyncIterator[bytes] = images.archives.save(names, platform)
    return Stream(chunks, content_type="application/x-tar")


async def save_image(request: Request) -> AnyReply:
    return await _archive(request, [request.parameters["name"]])


async def save_images(request: Request) -> AnyReply:
    names = request.query.all("names")
    if not names:
        raise InvalidArgument("no image names given")
    return await _archive(request, names)


async def push_image(request: Request) -> AnyReply:
    name, query = request.parameters["name"], request.query
    tag = query.get("tag", "")
    platform = decode_platform(query.get("platform", ""))
    auth = decode_auth_header(request.headers.get("X-Registry-Auth", ""))
    request.engine.images.transfer.to_push(name, tag)  # an unknown one is a 404

    async def push(progress: Progress) -> None:
        await request.engine.images.transfer.push(name, tag, platform=platform, auth=auth, progress=progress)

    return await progress_stream(push)


async def commit_container(request: Request) -> AnyReply:
    """A new image of a container's own layer; the body's fields and `changes` go before the container's."""
    query, engine = request.query, request.engine
    container = engine.containers.get(query.get("container", ""))
    reference = join_tag(query.get("repo", ""), query.get("tag", "")) if query.get("repo") else ""
    if reference:
        parse_reference(reference)
    own = msgspec.to_builtins(container.record.config) | {"Hostname": "", "Domainname": ""}
    given = await request.json(dict[str, Any])
    told = {name: value for part in (own, given) for name, value in part.items() if value is not None}
    try:
        defaults = msgspec.convert(told, ContainerDefaults)
    except msgspec.ValidationError as cause:
        raise InvalidArgument("invalid config in request body", detail=str(cause)) from cause
    defaults = apply_changes(defaults, query.all("changes"))
    parent = engine.images.get(container.record.image_id)
    base = parent.config
    config = ImageConfig(base.architecture, base.os, RootFS(), variant=base.variant, config=defaults)
    pauses = query.flag("pause", default=True) and container.state.status == "running"
    if pauses:
        try:
            await engine.containers.pause(container)
        except Conflict:
            pauses = False  # it has just ended
    try:
        image = await engine.images.commit(
            parent,
            engine.containers.upper(container),
            config,
            created_by=" ".join([container.record.path, *container.record.args]),
            comment=query.get("comment", ""),
            author=query.get("author", ""),
        )
    finally:
        if pauses:
            with suppress(Conflict):  # it was ended, or thawed by somebody else
                await engine.containers.unpause(container)
    if reference:
        engine.images.tag(str(image.id), reference)
    engine.containers.committed(container, str(image.id), reference)
    return Reply(201, {"Id": str(image.id)})


ROUTES = [
    Route("POST", "/images/create", create_image),
    Route("POST", "/images/load", load_images),
    Route("GET", "/images/get", save_images),
    Route("GET", "/images/{name:path}/get", save_image),
    Route("POST", "/images/{name:path}/push", push_image),
    Route("POST", "/commit", commit_container),
]
