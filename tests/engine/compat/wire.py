"""What the tests of single operations share: containers made by one call, connections read by hand."""

import contextlib
import http.client
import io
import json
import socket
import tarfile
import time
from collections.abc import Callable
from typing import Any

FRAME = 8
Made = Callable[..., str]


def ended(daemon: Any, id: str) -> int:
    return int(daemon.request("POST", f"/containers/{id}/wait")[1]["StatusCode"])


def logs(daemon: Any, id: str) -> bytes:
    """Both streams, frames taken off."""
    data, text = daemon.request("GET", f"/containers/{id}/logs?stdout=1&stderr=1")[1], b""
    while data:
        length = int.from_bytes(data[4:FRAME], "big")
        text, data = text + data[FRAME : FRAME + length], data[FRAME + length :]
    return text


def json_lines(daemon: Any, path: str) -> list[Any]:
    """The answer to a GET that streams one JSON value per line."""
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return [json.loads(line) for line in connection.getresponse().read().splitlines()]


def inspect(daemon: Any, id: str) -> Any:
    return daemon.request("GET", f"/containers/{id}/json")[1]


def until(check: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def archive(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Stream:
    """A hijacked connection, read by hand."""

    def __init__(self, daemon: Any, method: str, path: str, body: Any = None, **headers: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(daemon.socket)
        data = json.dumps(body).encode() if body is not None else b""
        fields = {"Host": "x", "Connection": "Upgrade", "Upgrade": "tcp", "Content-Length": str(len(data))}
        lines = [f"{name}: {value}" for name, value in (fields | headers).items()]
        self.sock.sendall("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + data)
        self.file = self.sock.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = http.client.parse_headers(self.file)

    def frame(self) -> tuple[int, bytes]:
        head = self.file.read(FRAME)
        return head[0], self.file.read(int.from_bytes(head[4:], "big"))

    def close(self) -> None:
        self.file.close()
        self.sock.close()
