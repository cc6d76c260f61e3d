"""Containers: create, list, inspect, their life, and what one asks while they run."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from longshore.api.http import AnyReply, Query, Reply, Request, Route, Stream
from longshore.api.views import summary
from longshore.core.clock import parse_moment
from longshore.core.containers import Container, LogOptions
from longshore.core.containers.inspect import inspect
from longshore.core.containers.measure import sample_pairs
from longshore.core.model import CreateRequest, UpdateRequest, decode
from longshore.errors import EngineError, InvalidArgument

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_NO_CONTENT = Reply(204)


def find(request: Request) -> Container:
    return request.engine.containers.get(request.parameters["id"])


def stream_type(container: Container, version: tuple[int, int]) -> str:
    """Since 1.42 the media type says whether frames follow; before, clients look at the container's tty."""
    return RAW if container.record.config.tty or version < (1, 42) else MULTIPLEXED


async def create(request: Request) -> AnyReply:
    body = decode(await request.read(), CreateRequest)
    container = await request.engine.containers.create(
        request.query.get("name", ""), body, platform=request.query.get("platform", "")
    )
    return Reply(201, {"Id": container.id, "Warnings": container.warnings})


async def list_containers(request: Request) -> AnyReply:
    query = request.query
    found = request.engine.containers.list(
        all=query.flag("all"), limit=query.integer("limit", 0) or 0, filters=query.filters()
    )
    with_size = query.flag("size")
    linked = request.engine.containers.linked_names()
    views: list[dict[str, Any]] = []
    names: dict[tuple[str, str], str] = {}  # a look-up parses the name, and a thousand have few
    for container in found:
        sizes = await request.engine.containers.sizes(container) if with_size else None
        key = (container.record.config.image, container.record.image_id)
        if (name := names.get(key)) is None:
            name = names[key] = image_name(request, container)
        views.append(summary(container, name, sizes, linked.get(container.name, ())))
    return Reply(body=views)


def image_name(request: Request, container: Container) -> str:
    """The name it was created by, while that name still means its image; the image's id otherwise."""
    record = container.record
    try:
        same = str(request.engine.images.get(record.config.image).id) == record.image_id
    except EngineError:
        same = False
    return record.config.image if same else record.image_id


async def show(request: Request) -> AnyReply:
    container = find(request)
    sizes = await request.engine.containers.sizes(container) if request.query.flag("size") else None
    old = request.version < (1, 45)
    return Reply(body=inspect(container, sizes=sizes, names_among_aliases=old))


async def start(request: Request) -> AnyReply:
    await request.engine.containers.start(find(request))
    return _NO_CONTENT


async def stop(request: Request) -> AnyReply:
    await request.engine.containers.stop(
        find(request), timeout=request.query.integer("t"), signal=request.query.get("signal", "")
    )
    return _NO_CONTENT


async def restart(request: Request) -> AnyReply:
    await request.engine.containers.restart(
        find(request), timeout=request.query.integer("t"), signal=request.query.get("signal", "")
    )
    return _NO_CONTENT


async def kill(request: Request) -> AnyReply:
    await request.engine.containers.kill(find(request), request.query.get("signal", ""))
    return _NO_CONTENT


async def pause(request: Request) -> AnyReply:
    await request.engine.containers.pause(find(request))
    return _NO_CONTENT


async def unpause(request: Request) -> AnyReply:
    await request.engine.containers.unpause(find(request))
    return _NO_CONTENT


async def rename(request: Request) -> AnyReply:
    await request.engine.containers.rename(find(request), request.query.get("name", ""))
    return _NO_CONTENT


async def update(request: Request) -> AnyReply:
    body = decode(await request.read(), UpdateRequest)
    return Reply(body={"Warnings": await request.engine.containers.update(find(request), body)})


async def remove(request: Request) -> AnyReply:
    if request.query.flag("link"):
        request.engine.containers.remove_link(request.parameters["id"])
        return _NO_CONTENT
    await request.engine.containers.remove(
        find(request), force=request.query.flag("force"), volumes=request.query.flag("v")
    )
    return _NO_CONTENT


async def wait(request: Request) -> AnyReply:
    """The headers go out at once, with the waiter registered: clients start the container when they see them."""
    condition = request.query.get("condition", "") or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidArgument(f'invalid condition: "{condition}"')
    waiter = request.engine.containers.waiter(find(request), condition)

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            status = await waiter
        finally:
            waiter.cancel()
        yield msgspec.json.encode({"StatusCode": status.code}) + b"\n"

    return Stream(chunks())


def log_options(query: Query) -> LogOptions:
    tail = query.get("tail", "all") or "all"
    options = LogOptions(
        stdout=query.flag("stdout"),
        stderr=query.flag("stderr"),
        follow=query.flag("follow"),
        timestamps=query.flag("timestamps"),
        details=query.flag("details"),
        since=parse_moment(query.get("since", ""), "since"),
        until=parse_moment(query.get("until", ""), "until"),
        tail=int(tail) if tail.isdigit() else None,  # "all", and "-1" as old clients write it
    )
    if not (options.stdout or options.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    return options


async def logs(request: Request) -> AnyReply:
    container, options = find(request), log_options(request.query)
    chunks = request.engine.containers.logs(container, options)
    if not options.follow:
        await request.engine.containers.let_it_speak(container)
    return Stream(chunks, content_type=stream_type(container, request.version))


async def resize(request: Request) -> AnyReply:
    height, width = size_of(request.query)
    await request.engine.containers.resize(find(request), height, width)
    return Reply(200)


def size_of(query: Query) -> tuple[int, int]:
    height, width = query.integer("h", 0) or 0, query.integer("w", 0) or 0
    if not (0 <= height < 65536 and 0 <= width < 65536):
        raise InvalidArgument(f"invalid terminal size: {height}x{width}")
    return height, width


async def top(request: Request) -> AnyReply:
    return Reply(body=await request.engine.containers.top(find(request), request.query.get("ps_args", "")))


async def stats(request: Request) -> AnyReply:
    container = find(request)
    containers = request.engine.containers
    if not request.query.flag("stream", default=True):
        pairs = sample_pairs(containers.stats, container, once=request.query.flag("one-shot"))
        try:
            return Reply(body=await anext(pairs))
        finally:
            await pairs.aclose()

    async def chunks() -> AsyncGenerator[bytes, None]:
        async for view in sample_pairs(containers.stats, container, first_alone=True):
            yield msgspec.json.encode(view) + b"\n"

    return Stream(chunks())


async def prune(request: Request) -> AnyReply:
    removed, freed = await request.engine.containers.prune(request.query.filters())
    return Reply(body={"ContainersDeleted": removed or None, "SpaceReclaimed": freed})


ROUTES = [
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_containers),
    Route("POST", "/containers/prune", prune),
    Route("GET", "/containers/{id}/json", show),
    Route("GET", "/containers/{id}/logs", logs),
    Route("GET", "/containers/{id}/top", top),
    Route("GET", "/containers/{id}/stats", stats),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/update", update),
    Route("POST", "/containers/{id}/resize", resize),
    Route("POST", "/containers/{id}/wait", wait),
    Route("DELETE", "/containers/{id:path}", remove),
]
