"""The API on its sockets: collects the routes, turns heads into requests and errors into replies."""

import asyncio
import importlib
import importlib.util
import ipaddress
import logging
import os
import platform
import socket
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from urllib.parse import parse_qsl

from longshore import __version__
from longshore.api import tls
from longshore.api.connection import Body, Connection
from longshore.api.errors import error_reply
from longshore.api.heads import Head
from longshore.api.http import MAX_API_VERSION, AnyReply, Query, Reply, Request, Route
from longshore.api.routes import EXTENSION, Router, check_version, split_target
from longshore.core.engine import Engine
from longshore.errors import EngineError, Forbidden

log = logging.getLogger("longshore.api")

MODULES = (
    "system",
    "upkeep",
    "usage",
    "containers",
    "execs",
    "archive",
    "images",
    "image_transfer",
    "volumes",
    "networks",
    "events",
    "build",
    "buildkit.routes",
    "blobs",
    "apply",
    "registry",
    "registries",
    "swarm",
    "plugins",
)


def common_headers(*, experimental: bool = False) -> dict[str, str]:
    """What every reply carries; clients read the API version from it."""
    return {
        "Api-Version": "{}.{}".format(*MAX_API_VERSION),
        "Docker-Experimental": "true" if experimental else "false",
        "Ostype": "linux",
        "Server": f"Longshore/{__version__} ({platform.system().lower()})",
    }


def collect_routes(modules: Iterable[str] = MODULES) -> list[Route]:
    """The tables of all modules of the API."""
    routes: list[Route] = []
    for name in modules:
        qualified = f"longshore.api.{name}"
        if importlib.util.find_spec(qualified) is not None:
            routes += importlib.import_module(qualified).ROUTES
    return routes


class Api:
    """Turns a request head into a reply; knows nothing of sockets."""

    def __init__(self, engine: Engine, routes: Iterable[Route], *, experimental: bool = False) -> None:
        self.headers = common_headers(experimental=experimental)
        self._engine = engine
        self._router = Router(routes)
        self.names: Container[str] = frozenset[str]()  # DNS names that TCP clients may call us by

    async def dispatch(self, head: Head, body: Body, tcp: bool) -> AnyReply:
        """Never raises an ordinary exception: a defect is a 500 whose traceback goes to the log."""
        try:
            refuse_browsers(head.headers, self.names if tcp else None)
            given, path, raw_query = split_target(head.target)
            version = check_version(None if path.startswith(EXTENSION) else given)
            found = self._router.find(head.method, path)
            if found is None:
                return Reply(404, {"message": "page not found"})
            pairs = parse_qsl(raw_query, keep_blank_values=True)
            request = Request(
                self._engine, head.method, path, found.parameters, Query(pairs), head.headers, version, body
            )
            reply = await found.route.handler(request)
            log.debug("%s %s", head.method, head.target)
            return reply
        except EngineError as error:
            reply = error_reply(error)
            log.log(_level(reply.status), "%s %s: %d %s", head.method, head.target, reply.status, error)
            return reply
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("defect in %s %s", head.method, head.target)
            return Reply(500, {"message": f"internal error: {type(error).__name__}, see the daemon's log"})


def _level(status: int) -> int:
    """A refusal is no error of ours; what this engine or its machine cannot do is worth knowing."""
    if status in (501, 503):
        return logging.INFO
    return logging.ERROR if status >= 500 else logging.DEBUG


def refuse_browsers(headers: Mapping[str, str], names: Container[str] | None) -> None:
    """No web page may drive the engine, not even through a name that it points at us (DNS rebinding).

    `names` are the DNS names of this server, None on a unix socket, where clients put anything into Host.
    """
    if ("origin" in headers and not _own_websocket(headers)) or "sec-fetch-site" in headers:
        raise Forbidden("requests from web pages are refused", detail="the request has an Origin")
    if names is None:
        return
    host = headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name in names:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError as cause:
        raise Forbidden(
            f"the server does not go by the name {name!r}", hint="use a name of its certificate"
        ) from cause


def _own_websocket(headers: Mapping[str, str]) -> bool:
    """Whether it is a websocket handshake that names this very server: libraries send an Origin with each."""
    own = f"://{headers.get('host', '')}"
    return (
        headers.get("upgrade", "").lower() == "websocket" and headers["origin"].endswith(own) and len(own) > 3
    )


class Server:
    """The listeners of one daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._headers = api.headers
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []

    async def listen_unix(self, sock: socket.socket) -> None:
        """Serve a bound and listening unix socket."""
        loop = asyncio.get_running_loop()
        self._listeners.append(
            await loop.create_unix_server(lambda: self._connection(tcp=False), sock=sock, backlog=1024)
        )

    async def listen_tls(self, sock: socket.socket, ca: str, certificate: str, key: str) -> None:
        """Serve a bound TCP socket with mutual TLS; there is no TCP without (attack 11)."""
        context = tls.server_context(ca, certificate, key)
        self._api.names = tls.certificate_names(certificate)
        loop = asyncio.get_running_loop()
        self._listeners.append(
            await loop.create_server(
                lambda: tls.TlsProtocol(context, self._connection(tcp=True)), sock=sock, backlog=1024
            )
        )

    def _connection(self, *, tcp: bool) -> Connection:
        return Connection(self._api.dispatch, self._headers, self._connections, tcp=tcp)

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, end streams and idle connections, give requests in flight `grace` seconds."""
        for listener in self._listeners:
            listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.shutdown()
        tasks = [asyncio.create_task(connection.ended()) for connection in connections]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)


def bind_unix(path: str, group: int | None) -> socket.socket:
    """A listening unix socket of mode 0660 at `path`; a stale one is replaced, a living one is an error.

    The socket gets its rights before its name: bound under a temporary name, then renamed.
    """
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError:
        pass  # nobody listens: absent or left behind by a killed daemon
    else:
        raise OSError(98, f"another daemon listens on {path}")
    finally:
        probe.close()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{path}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(temporary))
        temporary.chmod(0o660)
        if group is not None:
            os.chown(temporary, -1, group)
        sock.listen(1024)
        temporary.rename(path)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
