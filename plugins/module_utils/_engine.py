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
) -> bytes:
    """The bytes of one request; `length` announces a body that somebody else appends."""
    size = length if length is not None else len(body or b"")
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: longshore",
        "Connection: close",
        "User-Agent: longshore.fleet",
    ]
    if size or method in ("POST", "PUT"):
        head += [f"Content-Length: {size}", f"Content-Type: {kind}"]
    return "\r\n".join([*head, "", ""]).encode("ascii") + (body or b"")


def decode_response(data: bytes) -> Response:
    """Raises EngineError for a reply that was cut off; that is never taken for a short success."""
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
        return decode_response(rest)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, headers, _join_chunks(rest))
    if "content-length" in headers:
        length = int(headers["content-length"])
        if len(rest) < length:
            raise EngineError("the connection to the engine ended in the middle of its answer")
        rest = rest[:length]
    return Response(status, headers, rest)


def _join_chunks(data: bytes) -> bytes:
    pieces = []
    position = 0
    while True:
        end = data.find(b"\r\n", position)
        try:
            size = int(data[position:end].split(b";")[0], 16) if end >= 0 else -1
        except ValueError:
            size = -1
        begin = end + 2
        if size < 0 or begin + size > len(data):
            raise EngineError("the connection to the engine ended in the middle of its answer")
        if size == 0:
            return b"".join(pieces)
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


class Client:
    """The engine's API over an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def call(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        accept: tuple[int, ...] = (),
        data: bytes | None = None,
        body_file: tuple[str, int] | None = None,
        kind: str = "application/json",
    ) -> Response:
        """One round. A status of 400 and above that is not accepted raises EngineError with the engine's words."""
        target = quote(path, safe="/:@")
        if query:
            target += "?" + urlencode(query)
        body = json.dumps(value).encode() if value is not None else data
        length = body_file[1] if body_file else None
        raw = self._exchange(
            encode_request(method, target, body, kind=kind, length=length),
            body_file[0] if body_file else None,
        )
        response = decode_response(raw)
        if response.status >= 400 and response.status not in accept:
            raise EngineError(_message(response), response.status)
        return response

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
