"""POST /build: the classic builder's door."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from longshore.api.build_lines import classic_lines, farewell
from longshore.api.buildkit.routes import kit_of
from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.build.builder import Build, Builder
from longshore.build.export import store
from longshore.build.options import BuildOptions
from longshore.build.running import BuildFailed
from longshore.build.upload import Upload
from longshore.core.engine import Engine
from longshore.errors import EngineError, InvalidArgument, Unsupported
from longshore.registry.auth import decode_auth_config

T = TypeVar("T")


async def build(request: Request) -> AnyReply:
    """What is wrong with the request or the Dockerfile is told by status; what fails later, in the stream."""
    query = request.query
    if query.get("version") == "2":
        from longshore.api.buildkit import posted  # of BuildKit nothing is loaded before somebody asks for it

        return await posted.build(kit_of(request.engine), request)
    if query.get("remote"):
        raise Unsupported(
            "building from a URL is not served yet", hint="download it and send it as the context"
        )
    options = build_options(request)
    scratch = Path(request.engine.images.content.ingest)
    logins = decode_auth_config(request.headers.get("X-Registry-Config", ""))
    door = await Upload.receive(request.body, scratch, options.dockerfile, logins)
    try:
        prepared = await Builder(request.engine, scratch).prepare(options, door)
    except BaseException:
        door.close()
        raise
    return Stream(_lines(request.engine, prepared, door, options, quiet=query.flag("q")))


def build_options(request: Request) -> BuildOptions:
    """Raises InvalidArgument that names the parameter."""
    query = request.query
    return BuildOptions(
        dockerfile=query.get("dockerfile") or "Dockerfile",
        tags=tuple(tag for tag in query.all("t") if tag),
        build_args=_json(request, "buildargs", dict[str, str | None]),
        labels=_json(request, "labels", dict[str, str]),
        target=query.get("target", ""),
        no_cache=query.flag("nocache"),
        cache_from=tuple(_json(request, "cachefrom", list[str], empty="[]")),
        pull=query.flag("pull"),
        remove=query.flag("rm", default=True),
        force_remove=query.flag("forcerm"),
        platforms=tuple(text for text in query.get("platform", "").split(",") if text),
        network_mode=query.get("networkmode", ""),
        extra_hosts=tuple(host for text in query.all("extrahosts") for host in text.split(",") if host),
        shm_size=query.integer("shmsize", 0) or 0,
        memory=query.integer("memory", 0) or 0,
        memory_swap=query.integer("memswap", 0) or 0,
        cpu_shares=query.integer("cpushares", 0) or 0,
        cpu_period=query.integer("cpuperiod", 0) or 0,
        cpu_quota=query.integer("cpuquota", 0) or 0,
        cpuset_cpus=query.get("cpusetcpus", ""),
    )


def _json(request: Request, name: str, kind: type[T], *, empty: str = "{}") -> T:
    try:
        return msgspec.json.decode(request.query.get(name) or empty, type=kind)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument(f"invalid value of {name}", detail=str(cause)) from cause


async def _lines(
    engine: Engine, prepared: Build, door: Upload, options: BuildOptions, *, quiet: bool
) -> AsyncIterator[bytes]:
    events = prepared.run()
    try:
        async for event in events:
            for line in () if quiet else classic_lines(event):
                yield _encoded(line)
        image = await store(engine, prepared.result, options.tags)
        for line in farewell(image, options.tags, quiet=quiet):
            yield _encoded(line)
    except EngineError as error:
        detail: dict[str, object] = {"message": str(error)}
        if isinstance(error, BuildFailed):
            detail["code"] = error.code
        yield _encoded({"errorDetail": detail, "error": str(error)})
    finally:
        await events.aclose()
        await prepared.close()
        door.close()


def _encoded(line: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(line) + b"\r\n"


async def prune(request: Request) -> AnyReply:
    """POST /build/prune: forget the cache, then remove what only the cache held."""
    rows = request.engine.database.all("SELECT image_id FROM build_cache") if _has_cache(request) else []
    if rows:
        request.engine.database.execute("DELETE FROM build_cache")
    _, freed = await request.engine.images.prune({"dangling": ["true"]})
    return Reply(body={"CachesDeleted": [str(row["image_id"]) for row in rows], "SpaceReclaimed": freed})


def _has_cache(request: Request) -> bool:
    return request.engine.database.one("SELECT 1 FROM sqlite_master WHERE name = 'build_cache'") is not None


ROUTES = [
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune),
]
