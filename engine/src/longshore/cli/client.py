"""The daemon's API from a command line's view: plain sockets, one connection per request.

http.client is left out on purpose: importing it costs more than a whole `longshore version`.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote, urlencode

from longshore import __version__

DEFAULT_HOST = "unix:///run/longshore/longshore.sock"
_PIECE = 1 << 17


class ApiError(Exception):
    """The daemon said no (status 400 and above)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """There is no daemon to talk to; the text says where and what to do."""


@dataclass(frozen=True, slots=True)
class Tls:
    ca: str
    certificate: str
    key: str
    verify: bool = True


class Response:
    """A reply whose body is read on demand. Close it, or read it to its end."""

    def __init__(self, sock: socket.socket, reader: IO[bytes]) -> None:
        self._socket, self._reader = sock, reader
        line = reader.readline(65536)
        if not line.startswith(b"HTTP/1."):
            raise Unreachable("the other side closed the connection or does not speak HTTP")
        self.status = int(line.split(None, 2)[1])
        self.headers: dict[str, str] = {}
        while (line := reader.readline(65536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.strip().lower()] = value.strip()

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes."""
        try:
            if self.status in (204, 304):
                return
            if self.headers.get("transfer-encoding") == "chunked":
                yield from self._chunked()
            elif "content-length" in self.headers:
                left = int(self.headers["content-length"])
                while left and (data := self._read(min(left, _PIECE))):
                    left -= len(data)
                    yield data
            else:
                while data := self._read(_PIECE):
                    yield data
        finally:
            self.close()

    def _read(self, limit: int) -> bytes:
        return cast("Any", self._reader).read1(limit)

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size = self._reader.readline(65536).partition(b";")[0].strip()
            if not size:
                raise Unreachable("the daemon ended the stream before its end")
            left = int(size, 16)
            if left == 0:
                return
            while left:
                data = self._read(min(left, _PIECE))
                if not data:
                    raise Unreachable("the daemon ended the stream before its end")
                left -= len(data)
                yield data
            self._reader.readline(16)

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def json(self) -> Any:
        data = self.read()
        return json.loads(data) if data.strip() else None

    def lines(self) -> Iterator[Any]:
        """A stream of JSON values, one per line."""
        rest = b""
        for data in self.chunks():
            *lines, rest = (rest + data).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if rest.strip():
            yield json.loads(rest)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


@dataclass(slots=True)
class Upgraded:
    """A hijacked connection; `early` are bytes that came together with the reply's head."""

    socket: socket.socket
    early: bytes
    content_type: str

    @property
    def multiplexed(self) -> bool:
        return "multiplexed" in self.content_type


class Client:
    def __init__(self, host: str, tls: Tls | None = None) -> None:
        self.host, self._tls = host, tls
        # The daemon checks that a TCP client calls it by a name of its own
        self._name = host.removeprefix("tcp://").rstrip("/") if host.startswith("tcp://") else "longshore"

    def connect(self) -> socket.socket:
        """A new connection. Raises Unreachable with what to do about it."""
        scheme, _, rest = self.host.partition("://")
        try:
            if scheme == "unix":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    sock.connect(rest)
                except OSError:
                    sock.close()
                    raise
                return sock
            if scheme == "tcp":
                return self._connect_tcp(rest)
        except OSError as cause:
            text = cause.strerror or str(cause)
            hint = "is longshored running?"
            if isinstance(cause, PermissionError):
                hint = "are you in the socket's group?"
            raise Unreachable(f"cannot connect to the daemon at {self.host}: {text} ({hint})") from cause
        raise Unreachable(f"cannot use the host {self.host!r}: write unix:///path or tcp://address:port")

    def _connect_tcp(self, rest: str) -> socket.socket:
        address, _, port = rest.rstrip("/").rpartition(":")
        if not address or not port.isdigit():
            address, port = rest, "2376" if self._tls else "2375"
        address = address.strip("[]")
        sock = socket.create_connection((address, int(port)), timeout=20)
        sock.settimeout(None)
        if self._tls is None:
            return sock
        from longshore.cli.tls import TlsSocket

        try:
            return cast("socket.socket", TlsSocket(sock, self._tls, address))
        except OSError:
            sock.close()
            raise

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request; `body` is bytes, a JSON value or an iterable of bytes (sent chunked).

        Raises ApiError for a status of 400 or more and Unreachable.
        """
        sock = self.connect()
        try:
            reader = cast("IO[bytes]", sock.makefile("rb", 1 << 16))
            _send(sock, self._name, method, path, query, body, {"Connection": "close", **(headers or {})})
            response = Response(sock, reader)
        except BaseException:
            sock.close()
            raise
        return _checked(response)

    def upgrade(
        self, path: str, query: Mapping[str, Any] | None = None, body: dict[str, Any] | None = None
    ) -> Upgraded:
        """POST that turns the connection into a byte stream (attach, exec). Raises as `request` does."""
        sock = self.connect()
        reader = cast("Any", sock.makefile("rb", 1 << 16))
        try:
            _send(sock, self._name, "POST", path, query, body, {"Connection": "Upgrade", "Upgrade": "tcp"})
            response = _checked(Response(sock, reader))
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        try:
            early = bytes(reader.peek() or b"") + getattr(reader.raw, "rest", b"")
        except BlockingIOError:
            early = b""
        sock.setblocking(True)
        return Upgraded(sock, early, response.headers.get("content-type", ""))

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, query).json()

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self.request("POST", path, query, body).json()


def segment(text: str) -> str:
    """A name as one part of a path (image names keep their slashes)."""
    return quote(text, safe="/:@")


def _send(
    sock: socket.socket,
    host: str,
    method: str,
    path: str,
    query: Mapping[str, Any] | None,
    body: Any,
    headers: Mapping[str, str],
) -> None:
    pairs = {name: _query_value(value) for name, value in (query or {}).items() if value not in (None, "")}
    target = f"{path}?{urlencode(pairs, doseq=True)}" if pairs else path
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"User-Agent: Longshore-CLI/{__version__}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    payload = b""
    if isinstance(body, dict | list):
        payload = json.dumps(body).encode()
        lines.append("Content-Type: application/json")
    elif isinstance(body, bytes):
        payload = body
    chunked = body is not None and not isinstance(body, dict | list | bytes)
    lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(payload)}")
    sock.sendall("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + payload)
    if chunked:
        # A daemon that refuses early answers and closes: the answer matters, not our broken pipe.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for data in cast("Iterable[bytes]", body):
                if data:
                    sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            sock.sendall(b"0\r\n\r\n")


def _query_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "1" if value else "0"
    return json.dumps(value) if isinstance(value, dict) else value


def _checked(response: Response) -> Response:
    if response.status < 400:
        return response
    text = response.read().decode("utf-8", "replace").strip()
    try:
        text = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        pass  # not Docker's shape: the text as it is
    raise ApiError(response.status, text or f"status {response.status} without a message")


def from_environment(host: str | None, tls: Mapping[str, Any]) -> Client:
    """Flags first, then LONGSHORE_HOST, DOCKER_HOST; certificates as docker's, DOCKER_CERT_PATH included."""
    environment = os.environ
    host = host or environment.get("LONGSHORE_HOST") or environment.get("DOCKER_HOST") or DEFAULT_HOST
    if "://" not in host:
        host = f"unix://{host}" if host.startswith("/") else f"tcp://{host}"
    verify = bool(tls.get("tlsverify") or environment.get("DOCKER_TLS_VERIFY"))
    if host.startswith("unix://") or not (verify or tls.get("tls")):
        return Client(host)
    folder = Path(environment.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    return Client(
        host,
        Tls(
            str(tls.get("tlscacert") or folder / "ca.pem"),
            str(tls.get("tlscert") or folder / "cert.pem"),
            str(tls.get("tlskey") or folder / "key.pem"),
            verify,
        ),
    )
