"""Sessions: connections on which the client is the gRPC server, so that a build can ask it for what only it has.

`POST /session` opens one, Control.Session does so within a gRPC stream. The headers name the session and the methods
that the client offers (https://github.com/moby/buildkit/tree/master/session).
"""

import asyncio
import logging
from collections.abc import Mapping

from longshore.api.buildkit.grpc import Channel
from longshore.api.http import ClientStream
from longshore.errors import Conflict, InvalidArgument, NotFound, Unsupported

log = logging.getLogger("longshore.api.buildkit")

PREFIX = "x-docker-expose-session-"
WAIT_SECONDS = 10.0  # a client opens its session and starts its build at the same time


class Session:
    """One client. Its methods are called through `channel`; all calls fail once the client is gone."""

    def __init__(self, id: str, shared_key: str, methods: frozenset[str], channel: Channel) -> None:
        self.id, self.shared_key, self.channel = id, shared_key, channel
        self._methods = methods

    def offers(self, method: str) -> bool:
        """Whether the client has the method ("/moby.filesync.v1.FileSync/DiffCopy"); case does not count."""
        return method.lower() in self._methods

    def need(self, method: str) -> str:
        """The method again. Raises Unsupported when the client does not offer it."""
        if not self.offers(method):
            raise Unsupported(f"method {method} not supported by the client")
        return method


def nobody() -> Session:
    """The session of a client that has none: it offers nothing."""
    return Session("", "", frozenset(), Channel(_Closed()))


class _Closed:
    """A connection that is over (api.http.ClientStream)."""

    async def read(self) -> bytes:
        return b""

    async def write(self, data: bytes) -> None:
        raise ConnectionResetError("there is no client")

    async def write_eof(self) -> None:
        pass


class Sessions:
    """The sessions of this moment, by id."""

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}
        self._changed = asyncio.Event()

    async def serve(self, headers: Mapping[str, str], wire: ClientStream) -> None:
        """Keep a session until its client closes the connection. Raises InvalidArgument, Conflict."""
        session = Session(
            _checked_id(headers),
            headers.get(PREFIX + "sharedkey", ""),
            frozenset(
                method.strip().lower() for method in headers.get(PREFIX + "grpc-method", "").split(",")
            ),
            Channel(wire),
        )
        if session.id in self._known:
            raise Conflict(f"session {session.id} already exists")
        self._known[session.id] = session
        self._changed.set()
        try:
            await session.channel.serve()
        finally:
            del self._known[session.id]

    def check(self, headers: Mapping[str, str]) -> None:
        """What can be refused before the connection is upgraded. Raises InvalidArgument, Conflict."""
        if _checked_id(headers) in self._known:
            raise Conflict(f"session {_checked_id(headers)} already exists")

    async def get(self, id: str) -> Session:
        """The session, once it is there. Raises NotFound after WAIT_SECONDS."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while id not in self._known:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as cause:
            raise NotFound(
                f"no active session for {id}", hint="the client closed it or never came"
            ) from cause
        return self._known[id]


def _checked_id(headers: Mapping[str, str]) -> str:
    id = headers.get(PREFIX + "uuid", "")
    if not id or len(id) > 256:
        raise InvalidArgument("a session needs an id", detail="X-Docker-Expose-Session-Uuid")
    return id
