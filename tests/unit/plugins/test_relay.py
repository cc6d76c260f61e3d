# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""HTTP over the relay: what is sent, what is understood, what is refused."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    Client,
    EngineError,
    Request,
    decode_response,
    encode_request,
    socket_exchange,
    socket_path,
)
from ansible_collections.longshore.fleet.plugins.plugin_utils._relay import relay_command, relay_reply


def test_a_request_announces_its_body() -> None:
    data = encode_request("POST", "/x", b"{}")
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x HTTP/1.1\r\n") and b"Content-Length: 2" in head and body == b"{}"
    assert b"Connection: close" in head
    assert b"Content-Length: 9" in encode_request("PUT", "/x", length=9)
    assert b"Content-Length" not in encode_request("GET", "/x")


@pytest.mark.parametrize(
    ("data", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}rest", 200, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            200,
            b"abc0123456789",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, b""),
    ],
)
def test_replies(data: bytes, status: int, body: bytes) -> None:
    reply = decode_response(data)
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_reply_that_was_cut_off_is_never_a_success(data: bytes) -> None:
    with pytest.raises(EngineError):
        decode_response(data)


def test_the_engines_words_reach_the_user() -> None:
    reply = b'HTTP/1.1 404 Not Found\r\nContent-Length: 37\r\n\r\n{"message":"No such container: web"}\n\n'
    client = Client(lambda request, body_file: reply)
    with pytest.raises(EngineError, match="No such container: web") as caught:
        client.call("GET", "/containers/web/json")
    assert caught.value.status == 404
    assert client.find("/containers/web/json") is None


def test_requests_that_travel_together_are_answered_in_order() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n2\r\n0\r\n\r\n"
    refused = b'HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 17\r\n\r\n{"message":"no"}\n'
    requests = [Request("PUT", "/a", data=b"x"), Request("GET", "/b"), Request("POST", "/c", {})]
    seen: list[bytes] = []

    def client(reply: bytes) -> Client:
        return Client(lambda request, body_file: (seen.append(request), reply)[1])

    assert [r.body for r in client(one + chunked + one).batch(requests)] == [b"1", b"2", b"1"]
    assert seen[0].count(b"Connection: keep-alive") == 2 and seen[0].count(b"Connection: close") == 1
    with pytest.raises(EngineError, match="no"):
        client(one + refused).batch(requests)
    with pytest.raises(EngineError, match="before all requests were answered"):
        client(one + chunked).batch(requests)


def test_names_are_quoted_in_paths_and_queries() -> None:
    seen: list[bytes] = []

    def exchange(request: bytes, body_file: str | None) -> bytes:
        seen.append(request)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    Client(exchange).call("GET", "/images/a/b:1 x/json", query={"q": "a&b"})
    assert seen[0].startswith(b"GET /images/a/b:1%20x/json?q=a%26b HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("output", "code", "errors", "says"),
    [
        (b"", 127, "sh: python3: not found", "python3: not found"),
        (b"", 1, "", "it printed nothing"),
        (b"LONGSHORE-RELAY 2 No such file or directory", 0, "", "is the engine installed"),
        (b"LONGSHORE-RELAY 13 Permission denied", 0, "", "become"),
        (b"LONGSHORE-RELAY 111 Connection refused", 0, "", "does not run"),
    ],
)
def test_a_relay_that_fails_says_what_to_do(output: bytes, code: int, errors: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        relay_reply("/run/x.sock", code, output, errors)


def test_what_shells_and_sudo_print_before_is_skipped() -> None:
    assert (
        relay_reply("/x", 0, b"Welcome!\nBECOME-SUCCESS-abc\nLONGSHORE-RELAY 0\nHTTP/1.1 200", "")
        == b"HTTP/1.1 200"
    )


def test_only_absolute_paths_are_sockets() -> None:
    assert socket_path("unix:///run/x.sock") == "/run/x.sock"
    with pytest.raises(EngineError):
        socket_path("tcp://host:2375")


@pytest.fixture
def engine(tmp_path: Path):
    """A server that takes one connection at a time, reads a whole request and answers with its body."""
    path = tmp_path / "engine.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            with channel:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += channel.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                length = next(
                    (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.startswith(b"Content-Length")), 0
                )
                while len(body) < length:
                    body += channel.recv(1 << 20)
                channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield str(path)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def run_relay(path: str, request: bytes, body_file: str | None = None) -> bytes:
    done = subprocess.run(
        ["/bin/sh", "-c", relay_command(sys.executable, path, body_file)],
        input=request,
        capture_output=True,
        timeout=20,
    )
    return relay_reply(path, done.returncode, done.stdout, done.stderr.decode())


def test_the_relay_carries_bytes_both_ways(engine: str, tmp_path: Path) -> None:
    body = bytes(range(256)) * 4096
    assert decode_response(run_relay(engine, encode_request("POST", "/", body))).body == body
    blob = tmp_path / "a blob's file"
    blob.write_bytes(body * 4)
    request = encode_request("PUT", "/", length=len(body) * 4)
    assert decode_response(run_relay(engine, request, str(blob))).body == body * 4


def test_both_roads_bring_the_same(engine: str) -> None:
    request = encode_request("POST", "/", "ä".encode())
    assert socket_exchange(engine)(request, None) == run_relay(engine, request)


def test_an_engine_that_is_not_there_is_told_alike_on_both_roads(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(EngineError) as relayed:
        run_relay(path, b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(EngineError) as direct:
        socket_exchange(path)(b"", None)
    assert str(relayed.value) == str(direct.value)
