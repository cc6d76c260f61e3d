"""The server on a real unix socket with handlers of our own: streams, hijacks, keep-alive, clients that leave."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio

from longshore.api.http import AnyReply, ClientStream, Hijack, Reply, Request, Route, Stream
from longshore.api.server import Api, Server, bind_unix
from longshore.errors import Conflict, EngineError, OutOfSpace, Unavailable, Unsupported

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Handlers:
    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.received: list[bytes] = []
        self.refusal: EngineError = Conflict("no")

    async def ping(self, request: Request) -> AnyReply:
        return Reply(body=b"OK", headers={"Content-Type": "text/plain"})

    async def length(self, request: Request) -> AnyReply:
        size = 0
        async for data in request.body:
            size += len(data)
        return Reply(body={"size": size})

    async def refuse(self, request: Request) -> AnyReply:
        raise self.refusal

    async def defect(self, request: Request) -> AnyReply:
        raise KeyError("inside")

    async def stream(self, request: Request) -> AnyReply:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"one\n"
                await asyncio.sleep(60)
                yield b"two\n"
            finally:
                self.closed.set()

        return Stream(chunks(), content_type="text/plain")

    async def broken(self, request: Request) -> AnyReply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"{}\n"
            raise Conflict("half way")

        return Stream(chunks(), content_type=request.query.get("type", "application/json"))

    async def echo(self, request: Request) -> AnyReply:
        await request.read()

        async def serve(client: ClientStream) -> None:
            while data := await client.read():
                await client.write(data)
            await client.write(b"<end>")

        return Hijack(serve)

    async def report(self, request: Request) -> AnyReply:
        """A stream whose body is read while it is sent, as of a build."""

        async def chunks() -> AsyncIterator[bytes]:
            async for data in request.body:
                yield bytes(data)

        return Stream(chunks(), content_type="text/plain")

    async def injected(self, request: Request) -> AnyReply:
        return Reply(body=b"OK", headers={"X-Name": "a\r\nEvil: 1"})

    async def flood(self, request: Request) -> AnyReply:
        async def serve(client: ClientStream) -> None:
            for _ in range(1000):
                await client.write(b"x" * 65536)
                self.received.append(b"")

        return Hijack(serve)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest_asyncio.fixture
async def path(handlers: Handlers, tmp_path: Path) -> AsyncIterator[str]:
    routes = [
        Route("GET", "/_ping", handlers.ping),
        Route("HEAD", "/_ping", handlers.ping),
        Route("POST", "/length", handlers.length),
        Route("POST", "/refuse", handlers.refuse),
        Route("GET", "/defect", handlers.defect),
        Route("GET", "/stream", handlers.stream),
        Route("GET", "/broken", handlers.broken),
        Route("POST", "/echo", handlers.echo),
        Route("POST", "/flood", handlers.flood),
        Route("POST", "/report", handlers.report),
        Route("GET", "/injected", handlers.injected),
    ]
    server = Server(Api(cast(Any, None), routes))
    await server.listen_unix(bind_unix(str(tmp_path / "s"), None))
    yield str(tmp_path / "s")
    await server.close()


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (Conflict("no"), logging.DEBUG),
        (Unsupported("no"), logging.INFO),
        (Unavailable("no"), logging.INFO),
        (OutOfSpace("no"), logging.ERROR),
    ],
)
async def test_refusals_are_no_errors_in_the_log(
    path: str, handlers: Handlers, caplog: pytest.LogCaptureFixture, error: EngineError, level: int
) -> None:
    caplog.set_level(logging.DEBUG)
    handlers.refusal = error
    peer = await connect(path)
    await send(peer, "POST /refuse HTTP/1.1", "Host: x", "Content-Length: 0")
    await read_head(peer)
    peer[1].close()
    assert [record.levelno for record in caplog.records if "/refuse" in record.getMessage()] == [level]


async def connect(path: str) -> Peer:
    return await asyncio.open_unix_connection(path)


async def send(peer: Peer, *lines: str, body: bytes = b"") -> None:
    peer[1].write("\r\n".join((*lines, "", "")).encode() + body)
    await peer[1].drain()


async def read_head(peer: Peer) -> tuple[int, dict[str, str]]:
    async with asyncio.timeout(5):
        lines = (await peer[0].readuntil(b"\r\n\r\n")).decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}


async def exchange(peer: Peer, *lines: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    await send(peer, *lines, body=body)
    status, headers = await read_head(peer)
    return status, headers, await peer[0].readexactly(int(headers.get("content-length", 0)))


async def test_requests_share_a_connection_and_carry_dockers_headers(path: str) -> None:
    peer = await connect(path)
    for target in ("/_ping", "/v1.47/_ping", "/v1.24/_ping"):
        status, headers, body = await exchange(peer, f"GET {target} HTTP/1.1", "Host: d")
        assert (status, body, headers["api-version"], headers["ostype"]) == (200, b"OK", "1.47", "linux")
    assert headers["server"].startswith("Longshore/")
    await send(peer, "HEAD /_ping HTTP/1.1", "Host: d")
    status, headers = await read_head(peer)
    assert (status, headers["content-length"]) == (200, "2")  # and no body: the next head follows at once
    assert (await exchange(peer, "GET /_ping HTTP/1.1", "Host: d"))[0] == 200


async def test_pipelined_requests_are_answered_in_order(path: str) -> None:
    peer = await connect(path)
    await send(peer, "GET /_ping HTTP/1.1", "Host: d", "", "GET /none HTTP/1.1", "Host: d")
    assert (await read_head(peer))[0] == 200
    await peer[0].readexactly(2)
    assert (await read_head(peer))[0] == 404


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/nothing", 404, b'{"message":"page not found"}\n'),
        (
            "/v1.99/_ping",
            400,
            b'{"message":"client version 1.99 is too new. Maximum supported API version is 1.47"}\n',
        ),
        ("/defect", 500, b'{"message":"internal error: KeyError, see the daemon\'s log"}\n'),
    ],
)
async def test_failures_have_dockers_shape(path: str, target: str, status: int, body: bytes) -> None:
    peer = await connect(path)
    got = await exchange(peer, f"GET {target} HTTP/1.1", "Host: d")
    assert (got[0], got[2]) == (status, body)
    assert got[1]["content-type"] == "application/json"


POST = ("POST /length HTTP/1.1", "Host: x")
CHUNKED = (*POST, "Transfer-Encoding: chunked", "")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("rubbish",), 400),
        (("GET /_ping",), 400),
        (("GET  /_ping HTTP/1.1", "Host: x"), 400),
        (("G\x00T /_ping HTTP/1.1", "Host: x"), 400),
        (("GET /_ping HTTP/2.0", "Host: x"), 505),
        (("GET /_ping HTTP/1.1",), 400),
        (("GET /_ping HTTP/1.1", "Host: x", "Host: y"), 400),
        (("GET /_ping HTTP/1.1", "Host: x", "Bad Name: y"), 400),
        (("GET /_ping HTTP/1.1", "Host : x"), 400),
        (("GET /_ping HTTP/1.1", "Host: x", "A: b\rC: d"), 400),
        (("GET /_ping HTTP/1.1", "Host: x", "nothing"), 400),
        ((*POST, "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
        ((*POST, "Transfer-Encoding: chunked", "content-length: 3"), 400),
        ((*POST, "Content-Length: 3", "Content-Length: 4"), 400),
        ((*POST, "Content-Length: 3, 4"), 400),
        ((*POST, "Content-Length: +3"), 400),
        ((*POST, "Content-Length: -1"), 400),
        ((*POST, "Content-Length: 0x10"), 400),
        ((*POST, "Content-Length: 1e3"), 400),
        ((*POST, "Content-Length: ٣"), 400),
        ((*POST, "Transfer-Encoding: gzip, chunked"), 501),
        ((*POST, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501),
        ((*POST, "Transfer-Encoding: xchunked"), 501),
        (("POST /length HTTP/1.0", "Transfer-Encoding: chunked"), 400),
        ((*CHUNKED, "g"), 400),
        ((*CHUNKED, "-1"), 400),
        ((*CHUNKED, "0x5", "hello"), 400),
        ((*CHUNKED, "5\nhello"), 400),
        ((*CHUNKED, "5", "helloX"), 400),
        ((*CHUNKED, "1" * 30), 400),
        ((*CHUNKED, "0 1"), 400),
    ],
)
async def test_a_request_whose_meaning_is_in_doubt_is_refused_and_ends_the_connection(
    path: str, lines: tuple[str, ...], status: int
) -> None:
    """The second request in the same packet must not be served: it may be the first one's body."""
    peer = await connect(path)
    got, headers, body = await exchange(peer, *lines, "", "GET /_ping HTTP/1.1", "Host: x")
    assert (got, headers["content-type"]) == (status, "application/json")
    assert body.startswith(b'{"message":"')
    peer[1].write_eof()
    assert await peer[0].read() == b""


async def test_a_wrong_first_line_is_refused_before_the_head_is_complete(path: str) -> None:
    peer = await connect(path)
    peer[1].write(b"EHLO example.org\r\n")
    assert (await read_head(peer))[0] == 400


@pytest.mark.parametrize(("size", "status"), [(1_000_000, 200), (2_000_000, 431)])
async def test_a_head_may_be_as_large_as_the_logins_of_a_build(path: str, size: int, status: int) -> None:
    peer = await connect(path)
    await send(peer, "GET /_ping HTTP/1.1", "Host: d", "X-Registry-Config: " + "x" * size)
    assert (await read_head(peer))[0] == status


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        ("1.1", "x", True),
        ("1.1", "close", False),
        ("1.1", "keep-alive, Close", False),
        ("1.0", "x", False),
    ],
)
async def test_the_connection_header_and_the_version_decide_on_keeping_the_connection(
    path: str, version: str, connection: str, kept: bool
) -> None:
    peer = await connect(path)
    _, headers, _ = await exchange(peer, f"GET /_ping HTTP/{version}", "Host: d", f"Connection: {connection}")
    assert headers.get("connection") == (None if kept else "close")
    if kept:
        assert (await exchange(peer, "GET /_ping HTTP/1.1", "Host: d"))[0] == 200
    else:
        assert await peer[0].read() == b""


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_a_chunked_body_is_the_same_however_it_is_cut(path: str, size: int) -> None:
    raw = b"5;ext=1\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    raw += b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    peer = await connect(path)
    await send(peer, "POST /length HTTP/1.1", "Host: d", "Transfer-Encoding: chunked")
    for start in range(0, len(raw), size):
        peer[1].write(raw[start : start + size])
        await asyncio.sleep(0)
    _, headers = await read_head(peer)
    assert await peer[0].readexactly(int(headers["content-length"])) == b'{"size":16}\n'
    assert (await read_head(peer))[0] == 200


async def test_header_values_cannot_smuggle_headers(path: str) -> None:
    peer = await connect(path)
    await send(peer, "GET /injected HTTP/1.1", "Host: d")
    assert b"Evil" not in await peer[0].read()


async def test_a_large_chunked_body_streams_through(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /length HTTP/1.1", "Host: d", "Transfer-Encoding: chunked")
    block = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
    for _ in range(40):
        peer[1].write(block)
        await peer[1].drain()
    peer[1].write(b"0\r\n\r\n")
    status, headers = await read_head(peer)
    assert status == 200
    assert await peer[0].readexactly(int(headers["content-length"])) == b'{"size":%d}\n' % (40 << 20)


async def test_expect_100_continue_gets_its_go_ahead_before_the_body(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /length HTTP/1.1", "Host: d", "Content-Length: 3", "Expect: 100-continue")
    assert (await read_head(peer))[0] == 100
    peer[1].write(b"abc")
    assert (await read_head(peer))[0] == 200


async def test_a_stream_that_reads_the_body_gives_the_go_ahead_before_its_own_head(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /report HTTP/1.1", "Host: d", "Content-Length: 3", "Expect: 100-continue")
    assert (await read_head(peer))[0] == 100
    peer[1].write(b"abc")
    assert (await read_head(peer))[0] == 200
    assert await peer[0].readexactly(13) == b"3\r\nabc\r\n0\r\n\r\n"
    assert (await exchange(peer, "GET /_ping HTTP/1.1", "Host: d"))[0] == 200


async def test_a_refusal_spares_the_body_of_a_client_that_waits_for_the_go_ahead(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /refuse HTTP/1.1", "Host: d", "Content-Length: 3", "Expect: 100-continue")
    status, headers = await read_head(peer)
    assert (status, headers["connection"]) == (409, "close")


async def test_a_cut_off_body_is_an_error_of_the_client(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /length HTTP/1.1", "Host: d", "Content-Length: 9", body=b"abc")
    peer[1].write_eof()
    assert (await read_head(peer))[0] == 400


async def test_a_refusal_reaches_a_client_that_is_still_sending(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /refuse HTTP/1.1", "Host: d", "Content-Length: 90000000")
    for _ in range(50):
        peer[1].write(bytes(1 << 20))
        try:
            await asyncio.wait_for(peer[1].drain(), 0.2)
        except (TimeoutError, ConnectionError):
            break
    assert (await read_head(peer))[0] == 409


async def test_a_small_unread_body_does_not_cost_the_connection(path: str) -> None:
    peer = await connect(path)
    assert (await exchange(peer, "POST /refuse HTTP/1.1", "Host: d", "Content-Length: 3", body=b"abc"))[
        0
    ] == 409
    assert (await exchange(peer, "GET /_ping HTTP/1.1", "Host: d"))[0] == 200


async def test_a_stream_begins_at_once_and_ends_when_the_client_leaves(path: str, handlers: Handlers) -> None:
    peer = await connect(path)
    await send(peer, "GET /stream HTTP/1.1", "Host: d")
    status, headers = await read_head(peer)
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    assert await peer[0].readexactly(9) == b"4\r\none\n\r\n"
    assert not handlers.closed.is_set()
    peer[1].close()
    await asyncio.wait_for(handlers.closed.wait(), 2)


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(path: str) -> None:
    peer = await connect(path)
    await send(peer, "POST /report HTTP/1.0", "Content-Length: 3", body=b"abc")
    _, headers = await read_head(peer)
    assert "transfer-encoding" not in headers
    assert await peer[0].read() == b"abc"


async def test_a_failing_json_stream_ends_with_an_error_line(path: str) -> None:
    peer = await connect(path)
    await send(peer, "GET /broken HTTP/1.1", "Host: d", "Connection: close")
    await read_head(peer)
    raw = await peer[0].read()
    assert b'{"errorDetail":{"message":"half way"},"error":"half way"}' in raw
    assert raw.endswith(b"0\r\n\r\n")


async def test_a_failing_raw_stream_is_left_unfinished(path: str) -> None:
    peer = await connect(path)
    await send(peer, "GET /broken?type=application/x-tar HTTP/1.1", "Host: d")
    await read_head(peer)
    raw = await peer[0].read()
    assert raw == b"3\r\n{}\n\r\n"


@pytest.mark.parametrize(
    ("version", "wish", "first"),
    [
        ("1.1", ["Connection: Upgrade", "Upgrade: tcp"], b"HTTP/1.1 101 UPGRADED\r\n"),
        ("1.1", ["Upgrade: tcp"], b"HTTP/1.1 200 OK\r\n"),
        ("1.1", [], b"HTTP/1.1 200 OK\r\n"),
        ("1.0", [], b"HTTP/1.1 200 OK\r\n"),
    ],
)
async def test_a_hijack_keeps_early_bytes_and_half_close(
    path: str, version: str, wish: list[str], first: bytes
) -> None:
    peer = await connect(path)
    await send(peer, f"POST /echo HTTP/{version}", "Host: d", "Content-Length: 2", *wish, body=b"{}early,")
    assert await peer[0].readline() == first
    head = (await peer[0].readuntil(b"\r\n\r\n")).decode()
    assert "Content-Type: application/vnd.docker.raw-stream\r\n" in head
    assert ("Upgrade: tcp\r\n" in head) is (b"101" in first)
    assert "Transfer-Encoding" not in head
    peer[1].write(b"late")
    peer[1].write_eof()
    async with asyncio.timeout(5):
        assert await peer[0].read() == b"early,late<end>"


async def test_a_slow_reader_of_a_hijack_holds_the_writer_back(path: str, handlers: Handlers) -> None:
    peer = await connect(path)
    await send(peer, "POST /flood HTTP/1.1", "Host: d", "Content-Length: 0")
    await read_head(peer)
    await asyncio.sleep(0.3)
    stuck = len(handlers.received)
    assert stuck < 100  # 64 MB were to be written
    size = len(await peer[0].read())
    assert size == 1000 * 65536


async def test_a_living_socket_is_not_taken_over_and_a_dead_one_is(path: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another daemon"):
        bind_unix(path, None)
    dead = str(tmp_path / "dead")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(dead)
    bind_unix(dead, None).close()
    assert (tmp_path / "dead").stat().st_mode & 0o777 == 0o660


async def test_a_ping_costs_less_than_half_a_millisecond(path: str) -> None:
    peer = await connect(path)
    best = 1.0
    for _ in range(5):
        before = time.process_time()
        for _ in range(200):
            await exchange(peer, "GET /_ping HTTP/1.1", "Host: d")
        best = min(best, (time.process_time() - before) / 200)
    assert best < 0.001  # this process is client and server: half of it is ours
