"""gRPC over HTTP/2: calls with messages in frames, statuses in trailers; both sides of it.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Messages are bytes here; who calls knows their kind.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from longshore import errors
from longshore.api.buildkit.http2 import Connection, Stream
from longshore.api.buildkit.messages import Any, RpcStatus
from longshore.api.http import ClientStream
from longshore.errors import EngineError, InvalidArgument, Unavailable

log = logging.getLogger("longshore.api.buildkit")

MAX_MESSAGE = 16 << 20  # containerd's limit, which BuildKit's sessions use
CANCELLED, UNKNOWN, UNIMPLEMENTED, INTERNAL = 1, 2, 12, 13
RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
PRINTABLE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # everything printable but %, by the protocol's own encoding
RESERVED = ("content-type", "te", "user-agent", "host", "grpc-")  # no metadata of the application

# https://grpc.io/docs/guides/status-codes/
CODES: dict[type[EngineError], int] = {
    errors.InvalidArgument: 3,
    errors.Unauthorized: 16,
    errors.Forbidden: 7,
    errors.NotFound: 5,
    errors.Conflict: 9,
    errors.Unavailable: 14,
    errors.Unsupported: UNIMPLEMENTED,
    errors.OutOfSpace: 8,
    errors.Internal: INTERNAL,
}
KINDS: dict[int, type[EngineError]] = {code: kind for kind, code in CODES.items()}


class CallFailed(EngineError):
    """A call that ended with a status: of the peer's, or of ours with details for it."""

    def __init__(self, message: str, *, code: int = UNKNOWN, details: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.code, self.details = code, details


def status_of(error: EngineError) -> RpcStatus:
    """What a peer is told. Only the code of a plain failure is UNKNOWN: Go shows others before the text."""
    if isinstance(error, CallFailed):
        return RpcStatus(error.code, str(error), list(error.details))
    known = (errors.Unsupported, errors.NotFound, errors.Unauthorized)
    code = next((CODES[kind] for kind in known if isinstance(error, kind)), UNKNOWN)
    return RpcStatus(code, str(error))


def failure(code: int, message: str) -> EngineError:
    """A peer's status as our error."""
    kind = KINDS.get(code)
    return kind(message) if kind is not None else CallFailed(message, code=code)


@dataclass(slots=True)
class Messages:
    """The messages of one direction of a stream."""

    stream: Stream
    buffer: bytearray

    async def next(self) -> bytes | None:
        """None at the end. Raises InvalidArgument for a message that is cut off, compressed or too large."""
        while (length := self._complete()) is None:
            data = await self.stream.receive()
            if not data:
                if self.buffer:
                    raise InvalidArgument("malformed gRPC message", detail="it is cut off")
                return None
            self.buffer += data
        message = bytes(memoryview(self.buffer)[5 : 5 + length])
        del self.buffer[: 5 + length]
        return message

    def _complete(self) -> int | None:
        """The length of the first message, None before all of it is there."""
        if len(self.buffer) < 5:
            return None
        if self.buffer[0]:
            raise InvalidArgument("malformed gRPC message", detail="compression was not agreed on")
        length = int.from_bytes(self.buffer[1:5], "big")
        if length > MAX_MESSAGE:
            raise CallFailed(f"message of {length} bytes is larger than {MAX_MESSAGE}", code=8)
        return length if len(self.buffer) >= 5 + length else None


async def send_message(stream: Stream, message: bytes) -> None:
    await stream.send(b"\0" + len(message).to_bytes(4, "big") + message)


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The application's metadata among the headers."""
    return {name: value for name, value in headers.items() if not name.startswith((":", *RESERVED))}


# As a server


class Call:
    """One call that a client makes of us."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages = Messages(stream, bytearray())
        self._begun = False
        self.method = stream.headers.get(":path", "")
        self.metadata = metadata_of(stream.headers)

    async def receive(self) -> bytes | None:
        """The next message, None when the client sends no more."""
        return await self._messages.next()

    async def send(self, message: bytes) -> None:
        await self.begin()
        await send_message(self._stream, message)

    async def begin(self) -> None:
        """Send the headers of the reply; twice is fine."""
        if not self._begun:
            self._begun = True
            await self._stream.send_head(RESPONSE)

    async def finish(self, status: RpcStatus) -> None:
        trailers = [("grpc-status", str(status.code))]
        if status.code:
            encoded = base64.b64encode(status.encode()).rstrip(b"=")
            trailers += [
                ("grpc-message", quote(status.message, safe=PRINTABLE)),
                ("grpc-status-details-bin", encoded.decode()),
            ]
        # Without a message before them they are all there is: "Trailers-Only".
        await self._stream.send_head(trailers if self._begun else [*RESPONSE, *trailers], end=True)


Handler = Callable[[Call], Awaitable[None]]


async def serve(wire: ClientStream, handlers: Mapping[str, Handler]) -> None:
    """Serve a hijacked connection until the client closes it; `handlers` by "/service/method"."""

    async def accept(stream: Stream) -> None:
        await answer(Call(stream), handlers)

    await Connection(wire, accept=accept).serve()


async def answer(call: Call, handlers: Mapping[str, Handler]) -> None:
    """Run one call; whatever it raises becomes its status."""
    handler = handlers.get(call.method)
    status = RpcStatus()
    try:
        if handler is None:
            raise CallFailed(f"unknown method {call.method}", code=UNIMPLEMENTED)
        await handler(call)
    except EngineError as error:
        log.debug("%s: %s", call.method, error)
        status = status_of(error)
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("defect in %s", call.method)
        status = RpcStatus(INTERNAL, f"internal error: {type(error).__name__}, see the daemon's log")
    await call.finish(status)


# As a client


class ClientCall:
    """One call that we make of a client's session. Used as a context manager: leaving it breaks the call off."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages = Messages(stream, bytearray())
        self._headed = False

    async def __aenter__(self) -> "ClientCall":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stream.cancel()

    async def send(self, message: bytes) -> None:
        """Nothing happens when the peer has ended the call: `receive` tells why."""
        if not (self._stream.ended and self._stream.closed):
            await send_message(self._stream, message)

    async def end(self) -> None:
        """We send no more."""
        await self._stream.end()

    async def receive(self) -> bytes | None:
        """The next message, None at a good end. Raises the peer's status as an EngineError."""
        if not self._headed:
            self._headed = True
            headers = await self._stream.head()
            if headers.get(":status") != "200":
                raise Unavailable(f"the client's session answered {headers.get(':status')}")
        message = await self._messages.next()
        if message is None:
            self._judge({**self._stream.headers, **self._stream.trailers})
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.receive()) is not None:
            yield message

    def _judge(self, trailers: Mapping[str, str]) -> None:
        try:
            code = int(trailers.get("grpc-status", str(UNKNOWN)))
        except ValueError:
            code = UNKNOWN
        if code:
            raise failure(code, unquote(trailers.get("grpc-message", "")) or "the client's session failed")


class Channel:
    """What calls go through: one connection on which the peer is the server."""

    def __init__(self, wire: ClientStream) -> None:
        self._connection = Connection(wire)

    async def serve(self) -> None:
        """Carry the calls until the connection ends."""
        await self._connection.serve()

    async def close(self) -> None:
        await self._connection.close()

    async def open(self, method: str, metadata: Sequence[tuple[str, str]] = ()) -> ClientCall:
        """Begin a call; a name of the metadata may come more than once."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "longshore"),
            *metadata,
        ]
        return ClientCall(await self._connection.open(headers))

    async def call(self, method: str, request: bytes, *, seconds: float = 60) -> bytes:
        """One request, one reply. Raises the peer's status as an EngineError, Unavailable after `seconds`."""
        try:
            async with asyncio.timeout(seconds), await self.open(method) as call:
                await call.send(request)
                await call.end()
                reply = await call.receive()
                if reply is None:
                    raise Unavailable("the client's session gave no answer")
                await call.receive()  # the status
                return reply
        except TimeoutError as cause:
            raise Unavailable(f"the client's session did not answer within {seconds:g} s") from cause
