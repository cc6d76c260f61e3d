"""POST /grpc and POST /session: connections that change to HTTP/2.

Nothing of the protocol is imported before the first client asks for it: the daemon's start and its memory stay as
they are for those who do not build this way.
"""

from typing import TYPE_CHECKING

from longshore.api.http import AnyReply, ClientStream, Hijack, Request, Route
from longshore.core.engine import Engine
from longshore.errors import InvalidArgument

if TYPE_CHECKING:
    from longshore.api.buildkit.solving import Kit

PROTOCOL = "h2c"


def kit_of(engine: Engine) -> "Kit":
    """What the BuildKit services of this engine share; made by the first who asks."""
    from longshore.api.buildkit.contexts import contexts_of
    from longshore.api.buildkit.solving import Kit

    kit = engine.kept.get(Kit)
    if kit is None:
        kit = engine.kept[Kit] = Kit(engine, contexts_of(engine))
    return kit


async def grpc(request: Request) -> AnyReply:
    """The daemon is the gRPC server: Control, the gateway, health."""
    _need_upgrade(request)
    from longshore.api.buildkit.control import Control
    from longshore.api.buildkit.gateway import Gateway
    from longshore.api.buildkit.grpc import serve
    from longshore.api.buildkit.services import health

    kit = kit_of(request.engine)
    handlers = {**Control(kit).handlers(), **Gateway(kit).handlers(), **health()}

    async def run(wire: ClientStream) -> None:
        await serve(wire, handlers)

    return Hijack(run, content_type="")


async def session(request: Request) -> AnyReply:
    """The client is the gRPC server, for as long as the connection lives."""
    _need_upgrade(request)
    kit = kit_of(request.engine)
    kit.sessions.check(request.headers)

    async def run(wire: ClientStream) -> None:
        await kit.sessions.serve(request.headers, wire)

    return Hijack(run, content_type="")


def _need_upgrade(request: Request) -> None:
    wanted = request.headers.get("upgrade", "")
    if wanted.lower() != PROTOCOL:
        raise InvalidArgument(
            "no upgrade proto in request" if not wanted else f"protocol {wanted} not supported",
            hint=f"ask for Connection: Upgrade, Upgrade: {PROTOCOL}",
        )


ROUTES = [
    Route("POST", "/grpc", grpc),
    Route("POST", "/session", session),
]
