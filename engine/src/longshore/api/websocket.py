"""The server's side of a WebSocket, RFC 6455: handshake answer, frames in and out. No sockets here.

Docker's `attach/ws` speaks it, for clients that cannot hijack a connection (browsers behind a proxy, docker-py with
`ws=True`).
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping

from longshore.api.http import ClientStream
from longshore.errors import InvalidArgument

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_FRAME = 1 << 20  # of a client; keys and pasted text are small


class ProtocolError(Exception):
    """The client broke a rule of RFC 6455; the connection ends with status 1002 or 1009."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


def accept_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """What the 101 carries, section 4.2.2. Raises InvalidArgument for a request that is no handshake."""
    words = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    if headers.get("upgrade", "").strip().lower() != "websocket" or "upgrade" not in words:
        raise InvalidArgument("not a websocket handshake", hint="use POST /containers/{id}/attach")
    if headers.get("sec-websocket-version", "").strip() != "13":
        raise InvalidArgument("unsupported websocket version", hint="Sec-WebSocket-Version: 13")
    key = headers.get("sec-websocket-key", "").strip()
    try:
        fits = len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        fits = False
    if not fits:
        raise InvalidArgument("invalid Sec-WebSocket-Key")
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return {"Sec-WebSocket-Accept": base64.b64encode(digest).decode()}


def encode(kind: int, payload: bytes) -> bytes:
    """One whole, unmasked frame, section 5.2."""
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | kind, length))
    elif length < 1 << 16:
        head = bytes((0x80 | kind, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 127)) + length.to_bytes(8, "big")
    return head + payload


class Decoder:
    """Takes a client's bytes apart, however they were cut on their way."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inside = False  # of a fragmented message

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind, payload) of every whole frame; TEXT and CONTINUATION come as BINARY. Raises ProtocolError."""
        self._buffer += data
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        kind, final, length, start = buffer[0] & 15, buffer[0] & 0x80, buffer[1] & 127, 2
        if buffer[0] & 0x70 or kind not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise ProtocolError(1002, "reserved bits or an unknown opcode")
        if not buffer[1] & 0x80:
            raise ProtocolError(1002, "a client's frames are masked")
        if kind >= CLOSE and (length > 125 or not final):
            raise ProtocolError(1002, "a control frame is short and whole")
        if length > 125:
            wide = 2 if length == 126 else 8
            if len(buffer) < start + wide:
                return None
            length, start = int.from_bytes(buffer[start : start + wide], "big"), start + wide
        if length > MAX_FRAME:
            raise ProtocolError(1009, "the frame is too large")
        end = start + 4 + length
        if len(buffer) < end:
            return None
        payload = _unmask(bytes(buffer[start + 4 : end]), bytes(buffer[start : start + 4]))
        del buffer[:end]
        if kind < CLOSE:
            if (kind == CONTINUATION) != self._inside:
                raise ProtocolError(1002, "fragments out of order")
            self._inside = not final
            kind = BINARY
        return kind, payload


def _unmask(payload: bytes, key: bytes) -> bytes:
    """Section 5.3, on the whole payload as one number."""
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(payload), "big")


class WebSocketStream:
    """A ClientStream whose bytes travel in frames; pings are answered, a close ends the reading."""

    def __init__(self, client: ClientStream, kind: int) -> None:
        self._client, self._kind = client, kind
        self._decoder = Decoder()
        self._pending: list[bytes] = []
        self._ended = self._closed = False

    async def read(self) -> bytes:
        while not self._pending and not self._ended:
            if not (data := await self._client.read()):
                self._ended = True
                break
            try:
                for kind, payload in self._decoder.feed(data):
                    await self._take(kind, payload)
            except ProtocolError as error:
                await self._close(error.status)
        return self._pending.pop(0) if self._pending else b""

    async def _take(self, kind: int, payload: bytes) -> None:
        if self._ended:
            return
        if kind == PING:
            await self._client.write(encode(PONG, payload))
        elif kind == CLOSE:
            await self._close(int.from_bytes(payload[:2], "big") if len(payload) > 1 else 1000)
        elif kind == BINARY and payload:
            self._pending.append(payload)

    async def write(self, data: bytes) -> None:
        if not self._closed:
            await self._client.write(encode(self._kind, data))

    async def write_eof(self) -> None:
        """Say goodbye: the container's output has ended. Twice is fine."""
        await self._close(1000)

    async def _close(self, status: int) -> None:
        self._ended = True
        if not self._closed:
            self._closed = True
            await self._client.write(encode(CLOSE, status.to_bytes(2, "big")))
