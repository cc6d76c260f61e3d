"""Docker's managed plugins: there are none here. Drivers of this engine are Python entry points."""

from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.core.filters import check_filters
from longshore.errors import NotFound, Unsupported


async def list_plugins(request: Request) -> AnyReply:
    check_filters(request.query.filters(), ("capability", "enabled"))
    return Reply(body=[])


async def unknown(request: Request) -> AnyReply:
    raise NotFound("plugin not found", detail=request.parameters["name"])


async def refuse(request: Request) -> AnyReply:
    raise Unsupported("managed plugins are not served", hint="drivers are found by Python entry points")


ROUTES = [
    Route("GET", "/plugins", list_plugins),
    Route("GET", "/plugins/privileges", refuse),
    Route("POST", "/plugins/pull", refuse),
    Route("POST", "/plugins/create", refuse),
    Route("GET", "/plugins/{name:path}/json", unknown),
    *(
        Route("POST", f"/plugins/{{name:path}}/{action}", unknown)
        for action in ("enable", "disable", "upgrade", "push", "set")
    ),
    Route("DELETE", "/plugins/{name:path}", unknown),
]
