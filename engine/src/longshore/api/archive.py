"""Files of containers: docker cp, export, diff."""

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from longshore.api.containers import find
from longshore.api.http import AnyReply, Reply, Request, Route, Stream
from longshore.errors import InvalidArgument

TAR = "application/x-tar"


def _path(request: Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidArgument("missing required query parameter: path")
    if "\0" in path:
        raise InvalidArgument("invalid path: a NUL character")
    return path


def _stat_header(status: Mapping[str, Any]) -> dict[str, str]:
    return {"X-Docker-Container-Path-Stat": base64.b64encode(msgspec.json.encode(status)).decode()}


async def head(request: Request) -> AnyReply:
    status = await request.engine.containers.archive_stat(find(request), _path(request))
    return Reply(headers=_stat_header(status))


async def get(request: Request) -> AnyReply:
    status, chunks = await request.engine.containers.archive_get(find(request), _path(request))
    return Stream(chunks, content_type=TAR, headers=_stat_header(status))


async def put(request: Request) -> AnyReply:
    await request.engine.containers.archive_put(
        find(request),
        _path(request),
        request.body,
        no_overwrite_dir_non_dir=request.query.flag("noOverwriteDirNonDir"),
        copy_uid_gid=request.query.flag("copyUIDGID"),
    )
    return Reply(200)


async def export(request: Request) -> AnyReply:
    chunks = await request.engine.containers.export(find(request))
    return Stream(chunks, content_type="application/octet-stream")


async def changes(request: Request) -> AnyReply:
    return Reply(body=await request.engine.containers.changes(find(request)))


ROUTES = [
    Route("HEAD", "/containers/{id}/archive", head),
    Route("GET", "/containers/{id}/archive", get),
    Route("PUT", "/containers/{id}/archive", put),
    Route("GET", "/containers/{id}/export", export),
    Route("GET", "/containers/{id}/changes", changes),
]
