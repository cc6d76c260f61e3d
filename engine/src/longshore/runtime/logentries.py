"""How a line of output looks in a log file: Docker's json-file format and the Kubernetes CRI format.

json-file (https://docs.docker.com/engine/logging/drivers/json-file/), one JSON value per line:
`{"log":"hello\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`. Bytes that are not UTF-8 become
U+FFFD, one per byte, and `<`, `>`, `&`, U+2028 and U+2029 are written as escapes, as Go's encoding/json does.

cri (the driver `local`; kubelet's documentation on container logs), bytes as they came, `P` for a part and `F` for
the last part or the whole of a line: `2026-01-02T03:04:05.000000006Z stdout F hello`.

An entry has at most 16 KiB of a line; a longer line becomes several entries of which only the last one is marked as
ended. All work per line is done by C: a batch is encoded as one text.
"""

import codecs
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

PARTIAL = 16 * 1024
"""Docker's limit for one entry; tools that join partial entries expect it."""


class Format(Protocol):
    """How entries are written. `stamp` is the time, as `format_time` gives it."""

    def lines(self, block: bytes, stream: str, stamp: str) -> bytes:
        """Entries for complete lines, none of which is too long."""
        ...

    def part(self, piece: bytes, stream: str, stamp: str) -> bytes:
        """The entry for a piece of a line without its end."""
        ...


class LogLine(msgspec.Struct, frozen=True):
    """One entry: a line with its `\\n`, or a part of a long or unfinished one without."""

    stream: str
    time_text: str
    data: bytes
    attributes: dict[str, str] | None = None


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits of fraction: texts of equal length, so they compare like the times."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09d}Z"


def now_text() -> str:
    return format_time(time.time_ns())


def cut_long(line: bytes) -> list[bytes]:
    """Pieces of `PARTIAL` bytes and a shorter last one; no UTF-8 sequence is cut where that can be avoided."""
    pieces: list[bytes] = []
    start = 0
    while len(line) - start >= PARTIAL:
        end = start + PARTIAL
        # At most three continuation bytes, 10xxxxxx, follow a first one
        for back in range(4 if end < len(line) else 0):
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        pieces.append(line[start:end])
        start = end
    pieces.append(line[start:])
    return pieces


def has_long_line(block: bytes) -> bool:
    """Whether a block of complete lines has one that must be cut. A few look-ups, not one per line."""
    start = 0
    while len(block) - start > PARTIAL:
        newline = block.rfind(b"\n", start, start + PARTIAL)
        if newline < 0:
            return True
        start = newline + 1
    return False


def plan_entries(form: Format, data: bytes, stream: str, stamp: str) -> tuple[bytes, bytes]:
    """The entries for a stretch of output and its unfinished rest, which is shorter than `PARTIAL`."""
    end = data.rfind(b"\n") + 1
    complete, rest = (data[:end], data[end:]) if end < len(data) else (data, b"")
    result = b""
    if complete:
        if has_long_line(complete):
            for line in complete[:-1].split(b"\n"):
                *parts, last = cut_long(line)
                result += b"".join(form.part(piece, stream, stamp) for piece in parts)
                result += form.lines(last + b"\n", stream, stamp)
        else:
            result = form.lines(complete, stream, stamp)
    if len(rest) >= PARTIAL:
        *parts, rest = cut_long(rest)
        result += b"".join(form.part(piece, stream, stamp) for piece in parts)
    return result, rest


# json-file


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Go replaces every undecodable byte; Python's own "replace" makes one mark of a truncated sequence."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


_GO_ERRORS = "longshore-go"
codecs.register_error(_GO_ERRORS, _replace_each_byte)

# What encoding/json escapes beyond JSON's own needs. Plain byte replacement is safe: none of these occurs in an escape
_GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
)
_GO_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))

_MARK = b"\x7f"
"""Stands for a line's end while a batch is encoded: a character that JSON does not escape and output hardly has."""


def _encode(block: bytes) -> bytes:
    """The inside of a JSON string."""
    text = block.decode("utf-8", _GO_ERRORS)
    encoded = msgspec.json.encode(text)[1:-1]
    for raw, escape in _GO_ESCAPES:
        encoded = encoded.replace(raw, escape)
    if not text.isascii():
        for raw, escape in _GO_SEPARATORS:
            encoded = encoded.replace(raw, escape)
    return encoded


class JsonFormat:
    """Entries as json-file writes them; `attributes` are in each, under "attrs"."""

    def __init__(self, attributes: dict[str, str] | None = None) -> None:
        self._extra = b'"attrs":' + msgspec.json.encode(attributes) + b"," if attributes else b""

    def lines(self, block: bytes, stream: str, stamp: str) -> bytes:
        tail = self._tail(stream, stamp)
        if _MARK in block:
            return b"".join(b'{"log":"' + _encode(line) + b"\\n" + tail for line in block[:-1].split(b"\n"))
        encoded = _encode(block[:-1].replace(b"\n", _MARK))
        return b'{"log":"' + encoded.replace(_MARK, b"\\n" + tail + b'{"log":"') + b"\\n" + tail

    def part(self, piece: bytes, stream: str, stamp: str) -> bytes:
        return b'{"log":"' + _encode(piece) + self._tail(stream, stamp)

    def _tail(self, stream: str, stamp: str) -> bytes:
        return b'","stream":"%s",%s"time":"%s"}\n' % (stream.encode(), self._extra, stamp.encode())


class JsonEntry(msgspec.Struct):
    log: str
    stream: str
    time: str
    attrs: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(JsonEntry)


def decode_json(block: bytes) -> list[LogLine]:
    """The entries of complete lines; what a killed writer or a full disk left broken is skipped."""
    try:
        entries = _decoder.decode_lines(block)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        entries = list[JsonEntry]()
        for line in block.split(b"\n"):
            try:
                entries.append(_decoder.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
    return [LogLine(entry.stream, entry.time, entry.log.encode(), entry.attrs) for entry in entries]


# cri


class CriFormat:
    """Entries in the CRI format."""

    def lines(self, block: bytes, stream: str, stamp: str) -> bytes:
        head = b"%s %s F " % (stamp.encode(), stream.encode())
        return head + block[:-1].replace(b"\n", b"\n" + head) + b"\n"

    def part(self, piece: bytes, stream: str, stamp: str) -> bytes:
        return b"%s %s P %s\n" % (stamp.encode(), stream.encode(), piece)


def decode_cri(block: bytes) -> list[LogLine]:
    """The entries of complete lines; broken ones are skipped."""
    entries: list[LogLine] = []
    for line in block.split(b"\n"):
        fields = line.split(b" ", 3)
        if len(fields) == 4 and len(fields[0]) == 30 and fields[1] in (b"stdout", b"stderr"):
            data = fields[3] if fields[2] == b"P" else fields[3] + b"\n"
            entries.append(LogLine(fields[1].decode(), fields[0].decode("ascii", "replace"), data))
    return entries


def format_of(name: str, attributes: dict[str, str]) -> Format:
    """json or cri."""
    return CriFormat() if name == "cri" else JsonFormat(attributes)


def decoder_of(name: str) -> Callable[[bytes], list[LogLine]]:
    return decode_cri if name == "cri" else decode_json
