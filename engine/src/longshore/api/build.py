"""POST /build: the classic builder's door."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from longshore.api.build_lines import ClassicLines, farewell
from longshore.api.build_request import EventLines, event_line, extended, extension_of, secrets_of
from longshore.api.buildkit.contexts import contexts_of
from longshore.api.buildkit.routes import kit_of
from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.build import usage
from longshore.build.builder import Build, Builder
from longshore.build.export import store
from longshore.build.options import BuildOptions
from longshore.build.running import BuildFailed
from longshore.build.upload import Upload
from longshore.build.workshop import workshop_of
from longshore.core.engine import Engine
from longshore.core.model import Ulimit
from longshore.errors import EngineError, InvalidArgument
from longshore.registry.auth import decode_auth_config

T = TypeVar("T")


async def build(request: Request) -> AnyReply:
    """What is wrong with the request or the Dockerfile is told by status; what fails later, in the stream."""
    query = request.query
    if query.get("version") == "2":
        from longshore.api.buildkit import posted  # of BuildKit nothing is loaded before somebody asks for it

        return await posted.build(kit_of(request.engine), request)
    extension = extension_of(request.headers)
    options = extended(build_options(request), extension)
    secrets = secrets_of(extension)
    door = await _door(request, options)
    door.secrets = secrets
    door.agents = {id: Path(path) for id, path in extension.ssh.items()}
    try:
        prepared = await Builder(request.engine).prepare(options, door)
    except BaseException:
        door.close()
        raise
    if extension.check:
        return Stream(_findings(prepared, door))
    said = EventLines() if extension.events else ClassicLines()
    return Stream(_lines(request.engine, prepared, door, said, options, quiet=query.flag("q")))


async def _door(request: Request, options: BuildOptions) -> Upload:
    """The client's context: the body, or what `remote` names."""
    scratch = workshop_of(request.engine).scratch
    logins = decode_auth_config(request.headers.get("X-Registry-Config", ""))
    remote = request.query.get("remote", "")
    if remote and remote != "client-session":
        keep = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") == "1"
        return await Upload.fetch(remote, scratch, options.dockerfile, logins, keep_git_dir=keep)
    return await Upload.receive(request.body, scratch, options.dockerfile, logins)


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
        cpuset_mems=query.get("cpusetmems", ""),
        cgroup_parent=query.get("cgroupparent", ""),
        ulimits=tuple(_json(request, "ulimits", list[Ulimit], empty="[]")),
        security_options=tuple(_json(request, "securityopt", list[str], empty="[]")),
        squash=query.flag("squash"),
    )


def _json(request: Request, name: str, kind: type[T], *, empty: str = "{}") -> T:
    """A parameter that holds JSON; Go's clients write null for an empty list or map."""
    text = request.query.get(name) or empty
    try:
        return msgspec.json.decode(empty if text.strip() == "null" else text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument(f"invalid value of {name}", detail=str(cause)) from cause


async def _lines(
    engine: Engine,
    prepared: Build,
    door: Upload,
    said: "ClassicLines | EventLines",
    options: BuildOptions,
    *,
    quiet: bool,
) -> AsyncIterator[bytes]:
    events = prepared.run()
    try:
        async for event in events:
            for line in said.feed(event):
                if not quiet:
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


async def _findings(prepared: Build, door: Upload) -> AsyncIterator[bytes]:
    """What the linter says; nothing is built."""
    try:
        for warning in prepared.warnings:
            yield _encoded(event_line(warning))
    finally:
        await prepared.close()
        door.close()


def _encoded(line: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(line) + b"\r\n"


async def prune(request: Request) -> AnyReply:
    """POST /build/prune. Sizes are bytes; `reserved-space` is what 1.48 calls `keep-storage`."""
    query = request.query
    keep = query.integer("keep-storage", 0) or query.integer("reserved-space", 0) or 0
    workshop = workshop_of(request.engine)
    filters = query.filters()
    removed, freed = await usage.prune(workshop, filters, every=query.flag("all"), keep=keep)
    if not filters and not keep:
        contexts = contexts_of(request.engine)
        ids = [entry.id for entry in contexts.usage()]
        removed, freed = removed + ids, freed + contexts.forget(ids)
    return Reply(body={"CachesDeleted": removed, "SpaceReclaimed": freed})


ROUTES = [
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune),
]
