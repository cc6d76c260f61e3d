"""Attaching, by an upgraded connection and by websocket; see test_operations.py."""

import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.engine.compat.wire import Made, Stream, inspect


def test_container_attach(daemon: Any, make: Made, stream: Callable[..., Stream]) -> None:
    """Half-close: the container reads the end of its input, and its answer still arrives."""
    id = make("sh", "-c", "cat; echo done >&2", start=False, OpenStdin=True, StdinOnce=True)
    attached = stream("POST", f"/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1")
    assert attached.status == 101
    assert attached.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    daemon.request("POST", f"/containers/{id}/start")
    attached.sock.sendall(b"text\n")
    assert attached.frame() == (1, b"text\n")
    attached.sock.shutdown(socket.SHUT_WR)
    assert attached.frame() == (2, b"done\n")
    assert attached.file.read() == b""
    replayed = stream("POST", f"/containers/{id}/attach?logs=1&stdout=1")
    assert (replayed.frame(), replayed.file.read()) == ((1, b"text\n"), b"")


@pytest.mark.parametrize(("keys", "typed"), [("", b"\x10\x11"), ("ctrl-x,q", b"\x18q"), ("~", b"~")])
def test_container_attach_detaches_by_keys(
    daemon: Any, make: Made, stream: Callable[..., Stream], keys: str, typed: bytes
) -> None:
    id = make("cat", Tty=True, OpenStdin=True)
    attached = stream("POST", f"/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys={keys}")
    attached.sock.sendall(b"a\n")
    assert attached.file.read(6) == b"a\r\na\r\n"
    attached.sock.sendall(typed)
    assert attached.file.read() == b""
    assert inspect(daemon, id)["State"]["Running"]
    assert daemon.request("POST", f"/containers/{id}/attach?stream=1&detachKeys=ctrl-nosuch")[0] == 400


def masked(kind: int, payload: bytes, key: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A client's frame, RFC 6455 section 5.3."""
    body = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    return bytes((0x80 | kind, 0x80 | len(payload))) + key + body


def plain(file: Any) -> tuple[int, bytes]:
    kind, length = file.read(2)
    return kind & 15, file.read(length if length < 126 else int.from_bytes(file.read(2), "big"))


HANDSHAKE = {
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_container_attach_websocket(daemon: Any, make: Made, stream: Callable[..., Stream]) -> None:
    id = make("cat", start=False, OpenStdin=True)
    path = f"/containers/{id}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
    attached = stream("GET", path, Origin="http://x", **HANDSHAKE)  # as libraries send it
    assert attached.status == 101
    assert attached.headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3
    daemon.request("POST", f"/containers/{id}/start")
    attached.sock.sendall(masked(9, b"are you there") + masked(1, b"hello\n"))
    assert plain(attached.file) == (10, b"are you there")
    assert plain(attached.file) == (2, b"hello\n")  # binary since 1.28, and no frames of Docker's inside
    attached.sock.sendall(masked(8, b"\x03\xe8"))
    assert plain(attached.file) == (8, b"\x03\xe8")
    assert inspect(daemon, id)["State"]["Running"]  # it went away, as one does from POST attach
    old = stream("GET", f"/v1.41/containers/{id}/attach/ws?stream=1", **HANDSHAKE)
    old.sock.sendall(masked(2, b"old\n"))
    assert plain(old.file) == (2, b"old\n")  # all streams before 1.42
    foreign = stream("GET", path, Origin="http://evil.example", **HANDSHAKE)
    assert foreign.status == 403
    assert daemon.request("GET", path)[0] == 400


def test_container_attach_websocket_ends_with_the_container(
    daemon: Any, make: Made, stream: Callable[..., Stream]
) -> None:
    id = make("sh", "-c", "echo bye; echo err >&2", start=False)
    attached = stream("GET", f"/containers/{id}/attach/ws?stream=1&stdout=1", **HANDSHAKE)
    daemon.request("POST", f"/containers/{id}/start")
    assert plain(attached.file) == (2, b"bye\n")
    assert plain(attached.file) == (8, b"\x03\xe8")
    assert attached.file.read() == b""
    wrong = stream("GET", f"/containers/{id}/attach/ws?logs=1&stdout=1", **HANDSHAKE)
    assert plain(wrong.file) == (2, b"bye\n")
