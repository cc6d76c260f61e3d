"""Ping, version, info, login check."""

from longshore.api.http import AnyReply, Reply, Request, Route

# Builder-Version 2 is BuildKit: the docker CLI then builds with buildx or, before it had that, a session.
_PING = {
    "Builder-Version": "2",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": "text/plain; charset=utf-8",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}


async def ping(request: Request) -> AnyReply:
    return Reply(body=b"OK", headers=_PING)


async def version(request: Request) -> AnyReply:
    return Reply(body=request.engine.system.version())


async def info(request: Request) -> AnyReply:
    view = request.engine.system.info()
    view["Warnings"] = [*(view.get("Warnings") or []), *request.engine.doctor.warnings()] or None
    return Reply(body=view)


ROUTES = [
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
]
