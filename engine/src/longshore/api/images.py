"""Images: list, inspect, pull, import, load, save, tag, remove, prune, history."""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.api.progress import progress_stream
from longshore.core.containers.inspect import DRIVER
from longshore.core.images import Image, Progress
from longshore.errors import Conflict, InvalidArgument, Unsupported
from longshore.oci.changes import apply_changes
from longshore.oci.image_config import ContainerDefaults, ImageConfig, RootFS
from longshore.oci.reference import parse_reference
from longshore.registry.auth import decode_auth_header

# Docker shows every field, also those that an image config leaves out.
_CONFIG: dict[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def unix_time(text: str) -> int:
    """Seconds of an RFC 3339 time; 0 for none. Go writes nine digits of fraction, Python reads six."""
    if not text:
        return 0
    try:
        return int(datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp())
    except ValueError:
        return 0


def config_view(config: ContainerDefaults) -> dict[str, Any]:
    return _CONFIG | msgspec.to_builtins(config)


def summary_view(image: Image, version: tuple[int, int], containers: int = -1) -> dict[str, Any]:
    """One entry of the list."""
    view: dict[str, Any] = {
        "Containers": containers,
        "Created": unix_time(image.created),
        "Id": str(image.id),
        "Labels": image.config.defaults.labels,
        "ParentId": str(image.parent) if image.parent else "",
        "RepoDigests": list(image.digests),
        "RepoTags": list(image.tags),
        "SharedSize": -1,
        "Size": image.size,
    }
    if version < (1, 44):
        view["VirtualSize"] = image.size
    if version < (1, 43) and not image.tags:
        view["RepoTags"] = ["<none>:<none>"]
        view["RepoDigests"] = view["RepoDigests"] or ["<none>@<none>"]
    return view


def inspect_view(image: Image, version: tuple[int, int]) -> dict[str, Any]:
    config = image.config
    last = (config.history or [None])[-1]
    view: dict[str, Any] = {
        "Id": str(image.id),
        "RepoTags": list(image.tags),
        "RepoDigests": list(image.digests),
        "Parent": str(image.parent) if image.parent else "",
        "Comment": last.comment if last else "",
        "Created": image.created or "0001-01-01T00:00:00Z",
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": config_view(config.defaults),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": DRIVER},
        "RootFS": {"Type": "layers", "Layers": [str(layer.diff_id) for layer in image.layers]},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }
    if config.variant:
        view["Variant"] = config.variant
    if config.os_version:
        view["OsVersion"] = config.os_version
    if version < (1, 44):
        view["VirtualSize"] = image.size
    return view


def join_tag(name: str, tag: str) -> str:
    """`fromImage` and `tag` of the API as one reference; a digest may stand in place of the tag."""
    if not tag:
        return name
    return f"{name}@{tag}" if ":" in tag else f"{name}:{tag}"


async def list_images(request: Request) -> AnyReply:
    query = request.query
    images = request.engine.images.list(query.filters(), all=query.flag("all"))
    return Reply(body=[summary_view(image, request.version) for image in images])


async def inspect_image(request: Request) -> AnyReply:
    image = request.engine.images.get(request.parameters["name"])
    return Reply(body=inspect_view(image, request.version))


async def image_history(request: Request) -> AnyReply:
    return Reply(body=request.engine.images.history(request.parameters["name"]))


async def create_image(request: Request) -> AnyReply:
    """Pull, or import the body as a one-layer image."""
    query, images = request.query, request.engine.images
    if source := query.get("fromSrc"):
        return await _import(request, source)
    name = query.get("fromImage", "")
    if not name:
        raise InvalidArgument("neither fromImage nor fromSrc is given")
    reference = join_tag(name, query.get("tag", ""))
    parse_reference(reference)
    auth = decode_auth_header(request.headers.get("X-Registry-Auth", ""))

    async def pull(progress: Progress) -> None:
        await images.pull(reference, platform=query.get("platform", ""), auth=auth, progress=progress)

    # The first message comes before the registry was asked: an unknown image gets its 404 this way.
    return await progress_stream(pull, peek=2)


async def _import(request: Request, source: str) -> AnyReply:
    query = request.query
    if source != "-":
        raise Unsupported("import from a URL", hint="download it first and send it as the body")
    name = query.get("repo", "")
    reference = join_tag(name, query.get("tag", "")) if name else ""
    if reference:
        parse_reference(reference)

    async def run(progress: Progress) -> None:
        image = await request.engine.images.import_(
            request.body, reference, query.all("changes"), query.get("message", "")
        )
        progress({"status": str(image.id)})

    return await progress_stream(run)


async def load_images(request: Request) -> AnyReply:
    """A bad archive is told in the stream, behind status 200: docker-py and the CLI look for it there."""

    async def run(progress: Progress) -> None:
        await request.engine.images.load(request.body, progress)

    return await progress_stream(run, peek=0)


def _archive(request: Request, names: list[str]) -> AnyReply:
    images = request.engine.images
    for name in names:
        images.get(name)  # an unknown one is a 404, not a broken stream
    chunks: AsyncIterator[bytes] = images.save(names)
    return Stream(chunks, content_type="application/x-tar")


async def save_image(request: Request) -> AnyReply:
    return _archive(request, [request.parameters["name"]])


async def save_images(request: Request) -> AnyReply:
    names = request.query.all("names")
    if not names:
        raise InvalidArgument("no image names given")
    return _archive(request, names)


async def tag_image(request: Request) -> AnyReply:
    query = request.query
    reference = join_tag(query.get("repo", ""), query.get("tag", ""))
    request.engine.images.tag(request.parameters["name"], reference)
    return Reply(201)


async def remove_image(request: Request) -> AnyReply:
    query = request.query
    removed = await request.engine.images.remove(
        request.parameters["name"], force=query.flag("force"), prune=not query.flag("noprune")
    )
    return Reply(body=removed)


async def prune_images(request: Request) -> AnyReply:
    removed, freed = await request.engine.images.prune(request.query.filters())
    return Reply(body={"ImagesDeleted": removed or None, "SpaceReclaimed": freed})


async def push_image(request: Request) -> AnyReply:
    request.engine.images.get(request.parameters["name"])
    raise Unsupported(
        "pushing to a registry", detail="not implemented yet", hint="use save and load, or apply"
    )


async def search_images(request: Request) -> AnyReply:
    raise Unsupported("searching Docker Hub", detail="not implemented")


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
    Route("GET", "/images/json", list_images),
    Route("POST", "/images/create", create_image),
    Route("POST", "/images/load", load_images),
    Route("POST", "/images/prune", prune_images),
    Route("GET", "/images/get", save_images),
    Route("GET", "/images/search", search_images),
    Route("GET", "/images/{name:path}/json", inspect_image),
    Route("GET", "/images/{name:path}/history", image_history),
    Route("GET", "/images/{name:path}/get", save_image),
    Route("POST", "/images/{name:path}/tag", tag_image),
    Route("POST", "/images/{name:path}/push", push_image),
    Route("DELETE", "/images/{name:path}", remove_image),
    Route("POST", "/commit", commit_container),
]
