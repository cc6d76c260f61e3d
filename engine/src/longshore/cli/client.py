"""The daemon's API from a command line's view: plain sockets, one connection per request.

http.client and urllib are left out on purpose: importing them costs more than a whole `longshore version`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, cast

from longshore import __version__
from longshore.errors import EngineError, Unavailable

DEFAULT_HOST = "unix:///run/longshore/longshore.sock"
_PIECE = 1 << 17
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class ApiError(EngineError):
    """The daemon said no (status 400 and above)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Unavailable):
    """There is no daemon to talk to; the text says where and what to do."""


class Tls:
    """Files of a TLS connection; without `verify` the daemon's certificate is not looked at."""

    __slots__ = ("ca", "certificate", "key", "verify")

    def __init__(self, ca: str, certificate: str, key: str, verify: bool = True) -> None:
        self.ca, self.certificate, self.key, self.verify = ca, certificate, key, verify


class Response:
    """A reply whose body is read on demand. Close it, or read it to its end."""

    def __init__(self, sock: socket.socket, reader: IO[bytes], *, bodiless: bool = False) -> None:
        """`bodiless`: the reply to a HEAD, whose length is that of the body left out."""
        self._socket, self._reader, self._bodiless = sock, reader, bodiless
        try:
            line = reader.readline(65536)
        except ConnectionResetError:
            line = b""
        except TimeoutError as cause:
            raise Unreachable("the daemon does not answer in time") from cause
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
            if self._bodiless or self.status in (204, 304):
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


class Upgraded:
    """A hijacked connection; `early` are bytes that came together with the reply's head."""

    __slots__ = ("early", "socket")

    def __init__(self, sock: socket.socket, early: bytes) -> None:
        self.socket, self.early = sock, early


class Client:
    def __init__(self, host: str, tls: Tls | None = None) -> None:
        self.host, self._tls = host, tls
        self.timeout: float | None = None  # seconds that a reply may take; None waits
        # The daemon checks that a TCP client calls it by a name of its own
        self._name = host.removeprefix("tcp://").rstrip("/") if host.startswith("tcp://") else "longshore"

    def connect(self) -> socket.socket:
        """A new connection. Raises Unreachable with what to do about it."""
        sock = self._connect()
        sock.settimeout(self.timeout)
        return sock

    def _connect(self) -> socket.socket:
        scheme, _, rest = self.host.partition("://")
        try:
            match scheme:
                case "unix":
                    return _connect_unix(rest)
                case "tcp":
                    return self._connect_tcp(rest)
                case "ssh":
                    from longshore.cli.ssh import connect_ssh

                    return connect_ssh(self.host)
                case _:
                    pass
        except OSError as cause:
            hint = "is longshored running?"
            if isinstance(cause, PermissionError):
                hint = "are you in the socket's group?"
            raise Unreachable(
                f"cannot connect to the daemon at {self.host}", detail=cause.strerror or str(cause), hint=hint
            ) from cause
        raise Unreachable(
            f"cannot use the host {self.host!r}",
            hint="write unix:///path, tcp://address:port or ssh://user@host",
        )

    def _connect_tcp(self, rest: str) -> socket.socket:
        address, _, port = rest.rstrip("/").rpartition(":")
        if not address or not port.isdigit():
            address, port = rest, "2376" if self._tls else "2375"
        address = address.strip("[]")
        sock = socket.create_connection((address, int(port)), timeout=20)
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
            response = Response(sock, reader, bodiless=method == "HEAD")
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
            _checked(Response(sock, reader))
        except BaseException:
            sock.close()
            raise
        sock.setblocking(False)
        try:
            early = bytes(reader.peek() or b"") + getattr(reader.raw, "rest", b"")
        except BlockingIOError:
            early = b""
        sock.setblocking(True)
        return Upgraded(sock, early)

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", path, query).json()

    def post(self, path: str, body: Any = None, **query: Any) -> Any:
        return self.request("POST", path, query, body).json()


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def quote(text: str, safe: str = "") -> str:
    """Percent-encoding (RFC 3986)."""
    keep = _PLAIN | frozenset(safe.encode())
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in keep else f"%{byte:02X}" for byte in data)


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
    asked = _query(query or {})
    target = f"{path}?{asked}" if asked else path
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
    # A daemon that refuses early answers and closes: the answer matters, not our broken pipe.
    try:
        sock.sendall("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + payload)
        if chunked:
            for data in cast("Iterable[bytes]", body):
                if data:
                    sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            sock.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass


def _query(values: Mapping[str, Any]) -> str:
    """None and "" are left out, lists repeat their name, maps are JSON, truth is 1 and 0."""
    pairs: list[str] = []
    for name, value in values.items():
        if value is None or value == "":
            continue
        for each in cast("list[Any]", value) if isinstance(value, list | tuple) else [value]:
            if isinstance(each, bool):
                each = "1" if each else "0"
            elif isinstance(each, dict):
                each = json.dumps(each)
            pairs.append(f"{quote(name)}={quote(str(each))}")
    return "&".join(pairs)


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
    if not host.startswith("tcp://") or not (verify or tls.get("tls")):
        return Client(host)
    folder = environment.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")  # noqa: PTH111  pathlib is slow to import
    names = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
    files = {flag: str(tls.get(flag) or f"{folder}/{name}") for flag, name in names.items()}
    return Client(host, Tls(files["tlscacert"], files["tlscert"], files["tlskey"], verify))
