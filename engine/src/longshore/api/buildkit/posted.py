"""POST /build?version=2: BuildKit as clients without buildx ask for it (Debian 12's docker CLI, plain HTTP).

Files and secrets come through a session as with buildx, or the context is the request's body. The reply is Docker's
JSON stream, whose lines carry Status messages in base64.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from typing import TypeVar

import msgspec

from longshore.api.buildkit.attachables import UPLOADED
from longshore.api.buildkit.control import Control
from longshore.api.buildkit.exporters import CONFIG_DIGEST
from longshore.api.buildkit.messages_control import (
    CacheOptions,
    CacheOptionsEntry,
    Exporter,
    SolveRequest,
    SolveResponse,
)
from longshore.api.buildkit.solving import Kit
from longshore.api.http import AnyReply, Reply, Request, Stream
from longshore.build.context import receive_context
from longshore.build.trees import TarTree
from longshore.core.model import Ulimit
from longshore.errors import EngineError, InvalidArgument, Unsupported
from longshore.registry.auth import decode_auth_config

T = TypeVar("T")

IN_SESSION, IN_UPLOAD = "client-session", "upload-request"  # values of `remote`


class Output(msgspec.Struct):
    type: str = msgspec.field(default="", name="Type")
    attrs: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="Attrs")


async def build(kit: Kit, request: Request) -> AnyReply:
    """Raises InvalidArgument for a parameter that cannot be; what fails later is told in the stream."""
    query = request.query
    upload = query.get("buildid", "").removeprefix(f"{IN_UPLOAD}:")
    if query.get("buildid", "").startswith(IN_UPLOAD):
        # Only the context, of a build that another request asks for.
        kit.upload(upload).set_result(await receive_context(request.body, kit.scratch))
        return Reply()
    wanted = solve_request(request)
    tree: TarTree | None = None
    if query.get("remote") == IN_UPLOAD:
        tree = await kit.upload(upload)
    elif not query.get("remote"):
        tree = await receive_context(request.body, kit.scratch)
    if tree is not None:
        wanted.frontend_attrs["context"] = f"{UPLOADED}{secrets.token_hex(8)}"
    kit.jobs.provide(wanted.ref, tree, decode_auth_config(request.headers.get("X-Registry-Config", "")))
    return Stream(_lines(kit, wanted, quiet=query.flag("q")))


def solve_request(request: Request) -> SolveRequest:
    """The request's parameters as a solve. Raises InvalidArgument, Unsupported."""
    query = request.query
    attributes = {
        "filename": query.get("dockerfile") or "Dockerfile",
        "target": query.get("target", ""),
        "platform": query.get("platform", ""),
        "shm-size": str(query.integer("shmsize", 0) or ""),
        "cgroup-parent": query.get("cgroupparent", ""),
        "image-resolve-mode": "pull" if query.flag("pull") else "default",
        "add-hosts": ",".join(host.replace(":", "=", 1) for host in query.all("extrahosts") if host),
    }
    if query.get("remote") not in (None, "", IN_SESSION, IN_UPLOAD):
        attributes["context"] = query["remote"]
    if query.get("networkmode") in ("host", "none"):
        attributes["force-network-mode"] = query["networkmode"]
    elif query.get("networkmode") not in (None, "", "default"):
        raise Unsupported(f"network mode {query['networkmode']!r} not supported by buildkit")
    if query.flag("nocache"):
        attributes["no-cache"] = ""
    arguments = _json(request, "buildargs", dict[str, str | None])
    attributes |= {f"build-arg:{name}": value for name, value in arguments.items() if value is not None}
    attributes |= {f"label:{name}": value for name, value in _json(request, "labels", dict[str, str]).items()}
    limits = _json(request, "ulimits", list[Ulimit])
    attributes["ulimit"] = ",".join(f"{limit.name}={limit.soft}:{limit.hard}" for limit in limits)
    attributes["cache-from"] = ",".join(_json(request, "cachefrom", list[str]))
    return SolveRequest(
        ref=secrets.token_hex(13),
        session=query.get("session", ""),
        frontend="dockerfile.v0",
        frontend_attrs=attributes,
        exporters=_exporters(request),
        cache=_cache(arguments),
    )


def _exporters(request: Request) -> list[Exporter]:
    outputs = _json(request, "outputs", list[Output])
    if len(outputs) > 1:
        raise InvalidArgument("multiple outputs not supported")
    found = [Exporter(output.type, output.attrs) for output in outputs] or [Exporter("moby")]
    for exporter in found:
        if exporter.type in ("moby", "image"):
            exporter.attrs["name"] = ",".join(tag for tag in request.query.all("t") if tag)
    return [exporter for exporter in found if exporter.type != "cacheonly"]


def _cache(arguments: dict[str, str | None]) -> CacheOptions:
    inline = arguments.get("BUILDKIT_INLINE_CACHE") in ("1", "true")
    return CacheOptions(exports=[CacheOptionsEntry("inline")] if inline else [])


async def _lines(kit: Kit, wanted: SolveRequest, *, quiet: bool) -> AsyncIterator[bytes]:
    task = asyncio.create_task(Control(kit).run(wanted))
    try:
        begun = asyncio.create_task(kit.jobs.get(wanted.ref))
        await asyncio.wait((begun, task), return_when=asyncio.FIRST_COMPLETED)
        if begun.done():
            async for message in begun.result().status():
                if not quiet:
                    yield _line({"id": "moby.buildkit.trace", "aux": base64.b64encode(message).decode()})
        begun.cancel()
        id = _image(await task)
        if id and quiet:
            yield _line({"stream": f"{id}\n"})
        elif id:
            yield _line({"id": "moby.image.id", "aux": {"ID": id}})
    except EngineError as error:
        yield _line({"errorDetail": {"message": str(error)}, "error": str(error)})
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _image(response: SolveResponse) -> str:
    return response.exporter_response.get(CONFIG_DIGEST, "")


def _line(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\r\n"


def _json(request: Request, name: str, kind: type[T]) -> T:
    """A parameter in JSON; what is missing or null, as Go writes an empty list, is the empty value."""
    try:
        return msgspec.json.decode(request.query.get(name) or "null", type=kind | None) or kind()
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument(f"invalid value of {name}", detail=str(cause)) from cause
