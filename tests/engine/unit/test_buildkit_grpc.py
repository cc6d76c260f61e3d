"""gRPC over HTTP/2 in memory: both sides ours, and peers that break the rules."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated
from tests.engine.unit.buildkit_peer import connected, pair

from longshore.api.buildkit.grpc import MAX_MESSAGE, Call, CallFailed, serve
from longshore.api.buildkit.http2 import WINDOW
from longshore.errors import InvalidArgument, NotFound, Unavailable, Unsupported


def run(test: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


def test_messages_go_both_ways_beyond_every_window() -> None:
    async def test() -> None:
        payload = bytes(range(256)) * 4096  # 1 MiB
        count = 3 * WINDOW // len(payload)
        async with connected({"/echo": echo}) as channel, await channel.open("/echo") as call:
            sender = asyncio.create_task(_send(call, payload, count))
            for _ in range(count):
                assert await call.receive() == payload
            await sender
            assert await call.receive() is None

    run(test())


async def _send(call, payload: bytes, count: int) -> None:  # type: ignore[no-untyped-def]
    for _ in range(count):
        await call.send(payload)
    await call.end()


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (NotFound("no such thing: ünder"), NotFound),
        (Unsupported("not here"), Unsupported),
        (InvalidArgument("line 1\nline 2 100%"), CallFailed),
        (ValueError("a defect"), Exception),
    ],
)
def test_errors_arrive_with_code_and_text(raised: Exception, seen: type[Exception]) -> None:
    async def test() -> None:
        async def fail(call: Call) -> None:
            raise raised

        async with connected({"/fail": fail}) as channel:
            with pytest.raises(seen) as caught:
                await channel.call("/fail", b"")
            if seen is not Exception:
                assert str(raised) in str(caught.value)
            else:
                assert "a defect" not in str(caught.value)

    run(test())


def test_an_unknown_method_is_said_to_be_unknown() -> None:
    async def test() -> None:
        async with connected({}) as channel:
            with pytest.raises(Unsupported, match="unknown method /nothing"):
                await channel.call("/nothing", b"")

    run(test())


def test_leaving_a_call_cancels_the_one_who_serves_it() -> None:
    async def test() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def wait(call: Call) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with connected({"/wait": wait}) as channel:
            async with await channel.open("/wait"):
                await begun.wait()
            await cancelled.wait()

    run(test())


def test_a_peer_that_goes_away_ends_every_call() -> None:
    async def test() -> None:
        async def wait(call: Call) -> None:
            await asyncio.Event().wait()

        ours, theirs = pair()
        from longshore.api.buildkit.grpc import Channel

        channel = Channel(ours)
        tasks = [asyncio.create_task(serve(theirs, {"/wait": wait})), asyncio.create_task(channel.serve())]
        call = asyncio.create_task(channel.call("/wait", b""))
        await asyncio.sleep(0.01)
        await theirs.write_eof()
        with pytest.raises(Unavailable):
            await call
        with pytest.raises(Unavailable):
            await channel.call("/wait", b"")
        await ours.write_eof()
        await asyncio.gather(*tasks)

    run(test())


def _request(peer: H2Connection, number: int = 1) -> None:
    peer.send_headers(
        number,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/echo"),
            (":authority", "x"),
            ("te", "trailers"),
        ],
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x01\0\0\0\x01x", "compression"),
        (b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"), "larger than"),
        (b"\0\0\0\0\x05ab", "cut off"),
    ],
)
def test_broken_frames_are_refused_with_a_status(body: bytes, words: str) -> None:
    async def test() -> None:
        ours, theirs = pair()
        server = asyncio.create_task(serve(theirs, {"/echo": echo}))
        peer = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        peer.initiate_connection()
        _request(peer)
        peer.send_data(1, body, end_stream=True)
        await ours.write(peer.data_to_send())
        message = ""
        while not message:
            for event in peer.receive_data(await ours.read()):
                headers = dict(getattr(event, "headers", None) or [])
                message = headers.get("grpc-message", message)
                assert not isinstance(event, ConnectionTerminated)
        assert words in message
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)

    run(test())


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 60]
)
def test_what_is_no_http2_ends_the_connection(data: bytes) -> None:
    async def test() -> None:
        ours, theirs = pair()
        await ours.write(data)
        await ours.write_eof()
        await serve(theirs, {"/echo": echo})

    run(test())


def test_more_streams_than_agreed_are_refused() -> None:
    async def test() -> None:
        served = 0

        async def wait(call: Call) -> None:
            nonlocal served
            served += 1
            await asyncio.Event().wait()

        ours, theirs = pair()
        server = asyncio.create_task(serve(theirs, {"/echo": wait}))
        peer = H2Connection(H2Configuration(client_side=True))
        peer.initiate_connection()
        await ours.write(peer.data_to_send())
        while not peer.open_outbound_streams and peer.remote_settings.max_concurrent_streams > 1000:
            peer.receive_data(await ours.read())
        await ours.write(peer.data_to_send())  # the acknowledgement: from here on the limit holds
        await asyncio.sleep(0)
        peer.remote_settings.update({3: 10_000})
        peer.remote_settings.acknowledge()
        for number in range(1, 801, 2):
            _request(peer, number)
        await ours.write(peer.data_to_send())
        await server  # it ends the connection
        assert served <= 200

    run(test())


def test_nothing_of_it_is_loaded_before_a_client_asks() -> None:
    """The daemon's start and idle memory are those of before."""
    code = (
        "import sys; from longshore.api.server import collect_routes; collect_routes();"
        "print([n for n in sys.modules if n.partition('.')[0] in ('h2', 'hpack') or n.endswith('buildkit.grpc')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
