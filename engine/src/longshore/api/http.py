"""What a handler of the API sees: a request value in, a reply value out. No sockets here.

A handler is `async def name(request: Request) -> Reply`. Modules list theirs in a table `ROUTES`;
`longshore.api.server` collects the tables, matches paths (with and without the /v1.NN prefix) and turns
`EngineError` into the documented status.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from longshore.core.engine import Engine
from longshore.errors import InvalidArgument

T = TypeVar("T")

MIN_API_VERSION = (1, 24)
MAX_API_VERSION = (1, 47)


class Query(Mapping[str, str]):
    """Query parameters with Docker's notions of bool, list and `filters`."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._values = dict(reversed(pairs))  # the first of a repeated name wins, as in Go's url.Values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self._pairs if key == name]

    def flag(self, name: str, default: bool = False) -> bool:
        """Docker's boolValue: everything but "", 0, no, false, none is true (case-insensitive)."""
        if name not in self._values:
            return default
        return self._values[name].strip().lower() not in ("", "0", "no", "false", "none")

    def integer(self, name: str, default: int | None = None) -> int | None:
        text = self._values.get(name, "")
        if not text:
            return default
        try:
            return int(text)
        except ValueError as cause:
            raise InvalidArgument(f"invalid value of {name}", detail=f"{text!r} is not a number") from cause

    def filters(self) -> dict[str, list[str]]:
        """The `filters` parameter: {"status": ["running"]} or the older {"status": {"running": true}}."""
        text = self._values.get("filters", "")
        if not text:
            return {}
        try:
            value = msgspec.json.decode(text, type=dict[str, list[str] | dict[str, bool]])
        except (msgspec.MsgspecError, RecursionError) as cause:
            raise InvalidArgument("invalid filters", detail=str(cause)) from cause
        return {
            name: list(given) if isinstance(given, list) else [key for key, on in given.items() if on]
            for name, given in value.items()
        }


@dataclass(frozen=True, slots=True)
class Request:
    engine: Engine
    method: str
    path: str  # without the version prefix
    parameters: Mapping[str, str]  # named parts of the path
    query: Query
    headers: Mapping[str, str]  # case-insensitive
    version: tuple[int, int]
    body: AsyncIterable[bytes]

    async def read(self, limit: int = 16 << 20) -> bytes:
        """The whole body. Raises InvalidArgument beyond `limit` bytes."""
        data = bytearray()
        async for chunk in self.body:
            data += chunk
            if len(data) > limit:
                raise InvalidArgument("request body too large", detail=f"more than {limit} bytes")
        return bytes(data)

    async def json(self, kind: type[T]) -> T:
        """The body as a value; an empty body is `{}`. Raises InvalidArgument with the field's name."""
        data = await self.read()
        try:
            return msgspec.json.decode(data or b"{}", type=kind)
        except (msgspec.MsgspecError, RecursionError) as cause:
            raise InvalidArgument("invalid JSON in request body", detail=str(cause)) from cause


class ClientStream(Protocol):
    """The client's side of a hijacked connection."""

    async def read(self) -> bytes:
        """The next bytes; b"" once the client closed its writing half (or went away)."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reply:
    """`body`: None (no content), bytes (as they are) or anything msgspec encodes to JSON."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Stream:
    """A chunked reply. Closing the iterator is the sign that the client went away."""

    chunks: AsyncIterator[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Hijack:
    """Answer 101 (or 200 where the client did not ask to upgrade), then hand the connection to `serve`."""

    serve: Callable[[ClientStream], Awaitable[None]]
    content_type: str = "application/vnd.docker.raw-stream"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


AnyReply = Reply | Stream | Hijack
Handler = Callable[[Request], Awaitable[AnyReply]]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    pattern: str  # "/containers/{id}/json"; "{name:path}" also matches slashes
    handler: Handler
