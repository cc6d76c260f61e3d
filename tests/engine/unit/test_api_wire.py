"""HTTP/1.1 as bytes: what is accepted, what is refused, however the bytes are cut."""

import pytest

from longshore.api import wire
from longshore.api.wire import (
    BadRequest,
    ChunkedDecoder,
    LengthDecoder,
    body_decoder,
    encode_head,
    parse_head,
)


def head(*lines: str) -> bytes:
    return "\r\n".join(lines).encode("latin-1")


def test_a_request_head_is_read() -> None:
    parsed = parse_head(head("POST /v1.47/build?t=a HTTP/1.1", "Host: docker", "X-Long:  a b ", "x-long: c"))
    assert (parsed.method, parsed.target) == ("POST", "/v1.47/build?t=a")
    assert parsed.headers["x-LONG"] == "a b, c"
    assert parsed.keep_alive
    assert not parsed.upgrade


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive"),
    [
        ("1.1", "", True),
        ("1.1", "close", False),
        ("1.1", "keep-alive, Close", False),
        ("1.0", "", False),
        ("1.0", "Keep-Alive", True),
    ],
)
def test_connection_header_and_version_decide_on_keep_alive(
    version: str, connection: str, keep_alive: bool
) -> None:
    lines = [f"GET / HTTP/{version}", "Host: x", *([f"Connection: {connection}"] if connection else [])]
    assert parse_head(head(*lines)).keep_alive is keep_alive


def test_an_upgrade_needs_both_headers() -> None:
    assert parse_head(head("POST / HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: tcp")).upgrade
    assert not parse_head(head("POST / HTTP/1.1", "Host: x", "Upgrade: tcp")).upgrade


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /",),
        ("GET  / HTTP/1.1", "Host: x"),
        ("GET / HTTP/2.0", "Host: x"),
        ("GET / HTTP/1.1",),
        ("GET / HTTP/1.1", "Host: x", "Bad Name: y"),
        ("GET / HTTP/1.1", "Host : x"),
        ("GET / HTTP/1.1", "Host: x", " folded"),
        ("GET / HTTP/1.1", "Host: x", "A: b\nC: d"),
        ("GET / HTTP/1.1", "Host: x", "nothing"),
        ("G\x00T / HTTP/1.1", "Host: x"),
    ],
)
def test_malformed_heads_are_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(BadRequest):
        parse_head(head(*lines))


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 3", "Transfer-Encoding: chunked"),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Content-Length: +3",),
        ("Content-Length: -1",),
        ("Content-Length: 0x10",),
        ("Content-Length: 1e3",),
        ("Content-Length: ٣",),
        ("Transfer-Encoding: gzip, chunked",),
    ],
)
def test_bodies_whose_end_is_in_doubt_are_refused(headers: tuple[str, ...]) -> None:
    lines = "\r\n".join(("POST / HTTP/1.1", "Host: x", *headers)).encode()
    with pytest.raises(BadRequest):
        body_decoder(parse_head(lines))


def test_a_repeated_equal_length_is_one_length() -> None:
    lines = head("POST / HTTP/1.1", "Host: x", "Content-Length: 3", "Content-Length: 3")
    decoder = body_decoder(parse_head(lines))
    assert decoder.feed(b"abcdef") == (b"abc", b"def")
    assert decoder.done


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_chunked_body_is_the_same_however_it_is_cut(size: int) -> None:
    raw = b"5;ext=1\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nNEXT"
    decoder, out, rest = ChunkedDecoder(), b"", b""
    for start in range(0, len(raw), size):
        payload, left = decoder.feed(raw[start : start + size])
        out += payload
        rest += left
        if decoder.done:
            rest += raw[start + size :]
            break
    assert decoder.done
    assert (out, rest) == (b"hello 0123456789", b"NEXT")


@pytest.mark.parametrize(
    "raw", [b"g\r\n", b"5\nhello", b"-1\r\n", b"\r\n", b"5\r\nhelloX\r\n", b"1" * 20 + b"\r\n", b"0 1\r\n"]
)
def test_malformed_chunks_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedDecoder().feed(raw)


def test_an_endless_size_line_is_refused() -> None:
    decoder = ChunkedDecoder()
    with pytest.raises(BadRequest):
        for _ in range(100):
            decoder.feed(b"1;" + b"x" * 1000)


def test_a_length_body_leaves_the_next_request_alone() -> None:
    decoder = LengthDecoder(4)
    assert decoder.feed(b"ab") == (b"ab", b"")
    assert not decoder.done
    assert decoder.feed(b"cdGET /") == (b"cd", b"GET /")
    assert decoder.done


def test_header_values_cannot_smuggle_headers() -> None:
    raw = encode_head(200, {"X-Name": "a\r\nEvil: 1"})
    assert b"\r\nEvil" not in raw
    assert raw.endswith(b"\r\n\r\n")


def test_the_status_line_of_a_hijack_is_dockers() -> None:
    assert encode_head(101, {}).startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert wire.chunk(b"abc") == b"3\r\nabc\r\n"
