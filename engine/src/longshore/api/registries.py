"""Extension: registries inside the daemon."""

from typing import Any

import msgspec

from longshore.api.http import Reply, Request, Route


class _Start(msgspec.Struct, forbid_unknown_fields=True):
    name: str = "default"
    config: dict[str, Any] = {}  # the registry's configuration
    settings: list[str] = []  # key=value, above it


async def start_registry(request: Request) -> Reply:
    wanted = await request.json(_Start)
    status = await request.engine.registries.start(wanted.name, wanted.config, wanted.settings)
    return Reply(201, status)


async def list_registries(request: Request) -> Reply:
    return Reply(200, request.engine.registries.list())


async def stop_registry(request: Request) -> Reply:
    await request.engine.registries.stop(request.parameters["name"])
    return Reply(204)


ROUTES = [
    Route("GET", "/longshore/v1/registries", list_registries),
    Route("POST", "/longshore/v1/registries", start_registry),
    Route("DELETE", "/longshore/v1/registries/{name}", stop_registry),
]
