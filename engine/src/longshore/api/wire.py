"""HTTP/1.1 as bytes and values, no sockets: request heads, bodies, response heads (RFC 9112).

Strict where leniency lets two readers disagree about where a message ends (both length headers, folded lines,
odd white space, signs in numbers); a Docker client never sends such things. Why not a library: see
docs/decisions/0001-own-http-server.md.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

MAX_HEAD = 1 << 20  # Go's default too; X-Registry-Config of `docker build` carries every known login
MAX_LINE = 1 << 16  # a longer request line is judged when the head is complete
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}")
_REASONS = {int(status): status.phrase for status in HTTPStatus} | {101: "UPGRADED"}


class BadRequest(Exception):
    """The peer does not speak HTTP/1.1 as we read it; the connection cannot go on."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class Headers(Mapping[str, str]):
    """Header fields; names in any case, repeated fields joined by a comma (RFC 9110, section 5.3)."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._values: dict[str, str] = {}
        for name, value in pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class Head:
    method: str
    target: str
    headers: Headers
    keep_alive: bool
    upgrade: bool
    http_1_0: bool = False


def check_beginning(data: bytes) -> None:
    """Refuse what is no HTTP as soon as its first line shows it: who speaks something else never ends a head.

    Raises BadRequest.
    """
    text = data[:MAX_LINE].lstrip(b"\r\n").decode("latin-1")
    line, ended, _ = text.partition("\n")
    bad_line = ended and _REQUEST_LINE.fullmatch(line.removesuffix("\r")) is None
    if bad_line or (text and _TOKEN.match(text) is None):
        raise BadRequest("malformed request line")


def parse_head(data: bytes) -> Head:
    """A request head without its closing empty line. Raises BadRequest."""
    lines = data.decode("latin-1").split("\r\n")
    matched = _REQUEST_LINE.fullmatch(lines[0])
    if matched is None:
        raise BadRequest("malformed request line")
    method, target, minor = matched.groups()
    pairs: list[tuple[str, str]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or _TOKEN.fullmatch(name) is None:
            raise BadRequest("malformed header line")
        value = value.strip(" \t")
        if "\x00" in value or "\n" in value or "\r" in value:
            raise BadRequest("control character in a header")
        pairs.append((name, value))
    headers = Headers(pairs)
    if minor == "1" and "host" not in headers:
        raise BadRequest("missing required Host header")
    connection = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    keep_alive = "close" not in connection and (minor == "1" or "keep-alive" in connection)
    return Head(
        method, target, headers, keep_alive, "upgrade" in connection and "upgrade" in headers, minor == "0"
    )


class Decoder(Protocol):
    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(payload, what is left behind the body's end). Raises BadRequest."""
        ...


class LengthDecoder:
    """A body of a known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        if len(data) <= self._left:
            self._left -= len(data)
            self.done = self._left == 0
            return data, b""
        payload, rest = data[: self._left], data[self._left :]
        self._left, self.done = 0, True
        return payload, rest


class ChunkedDecoder:
    """A chunked body (RFC 9112, section 7.1); extensions and trailers are read and dropped."""

    def __init__(self) -> None:
        self.done = False
        self._line = b""  # an incomplete size line, trailer line or line end
        self._left = 0  # bytes of the current chunk still to come
        self._state = "size"

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        out: list[bytes] = []
        position = 0
        while position < len(data) and not self.done:
            if self._state == "data":
                piece = data[position : position + self._left]
                out.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if self._left == 0:
                    self._state = "end"
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > 16384:
                raise BadRequest("chunk header too long")
            if end >= 0:
                line, self._line = self._line, b""
                self._take_line(line)
        return b"".join(out), data[position:]

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise BadRequest("malformed chunked encoding")
        line = line[:-2]
        if self._state == "end":
            if line:
                raise BadRequest("malformed chunked encoding")
            self._state = "size"
        elif self._state == "trailer":
            self.done = not line
        else:
            digits = line.partition(b";")[0].strip(b" \t")
            if _HEX.fullmatch(digits) is None:
                raise BadRequest("malformed chunk size")
            self._left = int(digits, 16)
            self._state = "data" if self._left else "trailer"


def body_decoder(head: Head) -> Decoder:
    """How the body of this request is framed; no length header means an empty body."""
    coding = head.headers.get("transfer-encoding", "").strip().lower()
    length = head.headers.get("content-length", "")
    if coding:
        if length or head.http_1_0:
            raise BadRequest("both Transfer-Encoding and Content-Length")
        if coding != "chunked":
            raise BadRequest(f"unsupported transfer encoding {coding!r}", 501)
        return ChunkedDecoder()
    if not length:
        return LengthDecoder(0)
    given = {part.strip() for part in length.split(",")}
    text = given.pop()
    if given or not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest("bad Content-Length")
    return LengthDecoder(int(text))


def encode_head(status: int, headers: Mapping[str, str], reason: str = "") -> bytes:
    """A response head with its empty line. Line breaks in values become spaces: no smuggled headers."""
    lines = [f"HTTP/1.1 {status} {reason or _REASONS.get(status, 'Unknown')}"]
    for name, value in headers.items():
        if "\n" in value or "\r" in value:
            value = " ".join(value.split())
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
