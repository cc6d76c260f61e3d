"""Sockets, TLS and the guard of each connection."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import RequestHandler

from longshore.errors import InvalidArgument, Unavailable
from longshore.registry.server.settings import Limits, Tls, parse_address

_MAX_HEADER = 64 << 10  # bytes of one header: a token that names many repositories is long
_LOOK = 0.05  # seconds between two looks at who is still busy when the registry ends
_quiet = logging.getLogger("longshore.registry.http")
_quiet.setLevel(logging.CRITICAL)  # a request that is no HTTP is the client's matter, and no traceback

_VERSIONS = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {
    "require-and-verify-client-cert": ssl.CERT_REQUIRED,
    "verify-client-cert-if-given": ssl.CERT_OPTIONAL,
}


def _without_traceback(record: logging.LogRecord) -> bool:
    """A request that is no HTTP gets its 400; whoever sends it does not fill our log."""
    if record.exc_info and isinstance(record.exc_info[1], BadHttpMessage):
        record.exc_info = None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


logging.getLogger("aiohttp.server").addFilter(_without_traceback)


def bind(address: str) -> list[socket.socket]:
    """Bound sockets of `host:port`, IPv4 and IPv6 for an empty host. Raises Unavailable."""
    host, port = parse_address(address)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as cause:
        raise Unavailable(f"cannot listen on {address}", detail=cause.strerror or str(cause)) from cause
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((place[0], sockets[0].getsockname()[1] if port == 0 and len(sockets) > 1 else port))
    except OSError as cause:
        for sock in sockets:
            sock.close()
        raise Unavailable(f"cannot listen on {address}", detail=cause.strerror or str(cause)) from cause
    return sockets


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """None without a certificate. Raises InvalidArgument when the files do not do."""
    if not tls.certificate:
        return None
    if tls.minimumtls not in _VERSIONS or tls.clientauth not in _CLIENTS:
        raise InvalidArgument(
            "http.tls: unknown minimumtls or clientauth",
            hint=f"{', '.join(_VERSIONS)}; {', '.join(_CLIENTS)}",
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimumtls]
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        for path in tls.clientcas:
            context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as cause:
        raise InvalidArgument("cannot use the certificates of http.tls", detail=str(cause)) from cause
    if tls.clientcas:
        context.verify_mode = _CLIENTS[tls.clientauth]
    return context


class GuardedHandler(RequestHandler):
    """A connection that has to send its first whole head in time, one of a limited number."""

    __slots__ = ("_guard", "_limits")

    def __init__(self, manager: web.Server, limits: Limits, **more: Any) -> None:
        super().__init__(manager, **more)
        self._limits = limits
        self._guard: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        manager = self._manager
        if manager is not None and len(manager.connections) > self._limits.maxconnections:
            self.force_close()
            return
        self._guard = asyncio.get_running_loop().call_later(self._limits.head, self._late)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._guard is not None and (self._messages or self._current_request is not None):
            self._guard.cancel()
            self._guard = None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._guard is not None:
            self._guard.cancel()
        super().connection_lost(exc)

    @property
    def busy(self) -> bool:
        return bool(self._messages) or self._current_request is not None

    def _late(self) -> None:
        self._guard = None
        self.force_close()


class GuardedServer(web.Server):
    """aiohttp's, but for its end: aiohttp throws away what still comes of a request's body when it shuts down."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: Limits
    ) -> None:
        super().__init__(handler)
        self._limits = limits

    def pre_shutdown(self) -> None:
        for connection in self.connections:
            if not (isinstance(connection, GuardedHandler) and connection.busy):
                connection.close()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Requests under way have `timeout` seconds; connections that have become idle are closed meanwhile."""
        try:
            async with asyncio.timeout(timeout):
                while any(isinstance(each, GuardedHandler) and each.busy for each in self.connections):
                    await asyncio.sleep(_LOOK)
                    self.pre_shutdown()
        except TimeoutError:
            pass  # they had their time
        await super().shutdown(0)

    def __call__(self) -> RequestHandler:
        return GuardedHandler(
            self,
            self._limits,
            loop=asyncio.get_running_loop(),
            access_log=None,
            logger=_quiet,
            max_field_size=_MAX_HEADER,
            max_line_size=_MAX_HEADER,
            auto_decompress=False,  # a digest is that of the bytes on the wire
            keepalive_timeout=75.0,
            lingering_time=float(self._limits.linger),
            read_bufsize=1 << 18,
        )
