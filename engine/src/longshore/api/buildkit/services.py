"""From typed functions to handlers of gRPC calls."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from longshore.api.buildkit.grpc import Call, Handler
from longshore.api.buildkit.messages import Empty, HealthResponse
from longshore.api.buildkit.wire import Message

M = TypeVar("M", bound=Message)
SERVING = 1
BUILD_ID = "buildkit-controlapi-buildid"  # names the job that a call of the gateway belongs to


def unary(kind: type[M], function: Callable[[Call, M], Awaitable[Message]]) -> Handler:
    """One message in, one out."""

    async def handle(call: Call) -> None:
        reply = await function(call, kind.decode(await call.receive() or b""))
        await call.send(reply.encode())

    return handle


def streaming(kind: type[M], function: Callable[[Call, M], AsyncIterator[bytes]]) -> Handler:
    """One message in, encoded messages out."""

    async def handle(call: Call) -> None:
        request = kind.decode(await call.receive() or b"")
        await call.begin()
        async for reply in function(call, request):
            await call.send(reply)

    return handle


def health() -> dict[str, Handler]:
    """grpc.health.v1.Health: a daemon that answers serves."""

    async def check(call: Call, request: Empty) -> HealthResponse:
        return HealthResponse(SERVING)

    return {"/grpc.health.v1.Health/Check": unary(Empty, check)}
