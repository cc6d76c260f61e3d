# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to the engine: HTTP/1.1 over a unix socket with nothing but the standard library. Private to the collection.

An *exchange* is a callable that carries one request to the engine and brings the raw reply back. Modules use
`socket_exchange` on the host; action plugins bring one that goes through the Ansible connection. What is above
an exchange is the same code on both roads.
"""

from __future__ import annotations

import json
import os
import socket as _socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

DEFAULT_SOCKET = "/run/longshore/longshore.sock"

SOCKET_ARGUMENT = {"socket": {"type": "str", "default": DEFAULT_SOCKET}}

# request, file on the host that follows it as the body or None -> raw reply
Exchange = Callable[[bytes, "str | None"], bytes]


class EngineError(Exception):
    """The engine refused, or could not be reached. `status` is 0 in the latter case."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"null")
        except ValueError as cause:
            raise EngineError(f"the engine sent no valid JSON: {self.body[:200]!r}") from cause

    def lines(self) -> list[dict[str, Any]]:
        """The objects of a stream of JSON lines."""
        try:
            return [json.loads(line) for line in self.body.splitlines() if line.strip()]
        except ValueError as cause:
            raise EngineError(f"the engine sent no valid JSON lines: {self.body[-200:]!r}") from cause


def socket_path(value: str) -> str:
    """Accept unix:// as docker's clients write it."""
    path = value.removeprefix("unix://")
    if not path.startswith("/"):
        raise EngineError(f"{value} is no path of a unix socket")
    return path


def encode_request(
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    kind: str = "application/json",
    length: int | None = None,
    last: bool = True,
) -> bytes:
    """The bytes of one request; `length` announces a body that somebody else appends.

    Not `last`: more requests follow on the same connection.
    """
    size = length if length is not None else len(body or b"")
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: longshore",
        f"Connection: {'close' if last else 'keep-alive'}",
        "User-Agent: longshore.fleet",
    ]
    if size or method in ("POST", "PUT"):
        head += [f"Content-Length: {size}", f"Content-Type: {kind}"]
    return "\r\n".join([*head, "", ""]).encode("ascii") + (body or b"")


def decode_response(data: bytes) -> Response:
    """Raises EngineError for a reply that was cut off; that is never taken for a short success."""
    return _take_response(data)[0]


def decode_responses(data: bytes, count: int) -> list[Response]:
    """The replies to requests that were sent together. After a refusal the rest may be missing, see `Client.batch`."""
    found: list[Response] = []
    while len(found) < count and (data or not found):
        response, data = _take_response(data)
        found.append(response)
    return found


def _take_response(data: bytes) -> tuple[Response, bytes]:
    """(the first reply, what follows it)."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ", 2)
    if not blank or not parts[0].startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
        raise EngineError(f"the engine's answer is not HTTP: {data[:200]!r}")
    headers = {}
    for line in lines[1:]:
        name, _colon, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    status = int(parts[1])
    if 100 <= status < 200 and status != 101:
        return _take_response(rest)
    if status in (204, 304):
        return Response(status, headers, b""), rest
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body, rest = _join_chunks(rest)
        return Response(status, headers, body), rest
    if "content-length" not in headers:
        return Response(status, headers, rest), b""
    length = int(headers["content-length"])
    if len(rest) < length:
        raise EngineError("the connection to the engine ended in the middle of its answer")
    return Response(status, headers, rest[:length]), rest[length:]


def _join_chunks(data: bytes) -> tuple[bytes, bytes]:
    """(the body, what follows it). Trailers are never sent by the engine."""
    pieces = []
    position = 0
    while True:
        end = data.find(b"\r\n", position)
        try:
            size = int(data[position:end].split(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            size = -1
        begin = end + 2
        if size < 0 or begin + size + 2 > len(data):
            raise EngineError("the connection to the engine ended in the middle of its answer")
        if size == 0:
            return b"".join(pieces), data[begin + 2 :]
        pieces.append(data[begin : begin + size])
        position = begin + size + 2


def explain_connect_error(path: str, error: int, text: str) -> EngineError:
    """What to do when the socket does not answer."""
    hint = {
        2: "is the engine installed and started? See playbooks/provision.yml of longshore.fleet",
        13: "only root may use it: set become to true",
        111: "the engine is installed but does not run: start longshored",
    }.get(error, "see 'longshore doctor' on the host")
    return EngineError(f"cannot reach the engine at {path}: {text} ({hint})")


def socket_exchange(path: str, timeout: float | None = None) -> Exchange:
    """The exchange of a module that runs on the host itself."""
    path = socket_path(path)

    def exchange(request: bytes, body_file: str | None = None) -> bytes:
        with _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout)
            try:
                channel.connect(path)
            except OSError as cause:
                raise explain_connect_error(path, cause.errno or 0, os.strerror(cause.errno or 0)) from cause
            try:
                try:
                    channel.sendall(request)
                    if body_file is not None:
                        with open(body_file, "rb") as source:
                            channel.sendfile(source)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # refused before all was sent: the answer says why
                pieces = []
                while piece := channel.recv(1 << 16):
                    pieces.append(piece)
            except OSError as cause:
                raise EngineError(f"lost the engine at {path}: {cause}") from cause
        return b"".join(pieces)

    return exchange


class Request(NamedTuple):
    """One call of the API. `value` is sent as JSON, `data` as it is, `body_file` is (path on the host, size)."""

    method: str
    path: str
    value: Any = None
    data: bytes | None = None
    body_file: tuple[str, int] | None = None
    query: Mapping[str, Any] | None = None
    kind: str = "application/json"
    accept: tuple[int, ...] = ()

    def encode(self, *, last: bool = True) -> bytes:
        target = quote(self.path, safe="/:@")
        if self.query:
            target += "?" + urlencode(self.query)
        body = json.dumps(self.value).encode() if self.value is not None else self.data
        length = self.body_file[1] if self.body_file else None
        return encode_request(self.method, target, body, kind=self.kind, length=length, last=last)

    def check(self, response: Response) -> Response:
        """Raises EngineError with the engine's words for a status of 400 and above that is not accepted."""
        if response.status >= 400 and response.status not in self.accept:
            raise EngineError(_message(response), response.status)
        return response


class Client:
    """The engine's API over an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def call(self, method: str, path: str, value: Any = None, **more: Any) -> Response:
        """One round; the other parameters are those of Request."""
        return self.batch([Request(method, path, value, **more)])[0]

    def batch(self, requests: list[Request]) -> list[Response]:
        """Several calls in one round, answered in their order; only the last one may have a body_file.

        Raises EngineError for the first one that is refused. Those after it may have been done or not.
        """
        *others, final = requests
        data = b"".join([*(request.encode(last=False) for request in others), final.encode()])
        raw = self._exchange(data, final.body_file[0] if final.body_file else None)
        responses = decode_responses(raw, len(requests))
        checked = [request.check(response) for request, response in zip(requests, responses, strict=False)]
        if len(checked) < len(requests):
            raise EngineError("the connection to the engine ended before all requests were answered")
        return checked

    def find(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON value of a GET, None when there is no such object."""
        response = self.call("GET", path, query=query, accept=(404,))
        return None if response.status == 404 else response.json()


def _message(response: Response) -> str:
    try:
        return str(json.loads(response.body)["message"])
    except (ValueError, KeyError, TypeError):
        text = response.body.decode("utf-8", "replace").strip()
        return f"the engine answered with status {response.status}: {text[:500]}"
