"""Framing of the messages in `messages.py`: a 4-byte big-endian length, then JSON.

Pure bytes in, bytes out, plus two thin doors to sendmsg(2) and recvmsg(2). Used by the monitor (epoll)
and by the daemon (asyncio) alike, therefore nothing here waits.
"""

import array
import socket
import struct
from collections.abc import Sequence

import msgspec

from longshore.errors import Internal
from longshore.runtime.messages import Launch, ToMonitor

HEADER = struct.Struct(">I")

MAX_MESSAGE = 64 << 20
"""A longer message is a broken peer: nothing of ours comes near (a seccomp profile is about 50 KiB)."""

MAX_DESCRIPTORS = 16

# Built once: a decoder compiles its types, which costs more than decoding a message
launch_decoder = msgspec.json.Decoder(Launch)
request_decoder = msgspec.json.Decoder[ToMonitor](ToMonitor)
_encoder = msgspec.json.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """The frame of one message."""
    return frame(_encoder.encode(message))


def encode_body(message: msgspec.Struct) -> bytes:
    """One message without its frame, for what keeps messages apart itself."""
    return _encoder.encode(message)


def frame(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


class Splitter:
    """Cuts a byte stream into message bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        """The next complete body, or None until more was fed. Raises Internal on an absurd length."""
        if len(self._buffer) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise Internal(f"message of {length} bytes is refused", detail=f"the limit is {MAX_MESSAGE}")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return body

    def rest(self) -> bytes:
        """What was fed after the last message: the first bytes of the stream that follows. Empties the buffer."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> int:
    """Send what fits, with descriptors beside the first byte; returns how many bytes went.

    The descriptors travel exactly once: send the remaining bytes without them.
    """
    if not descriptors:
        return connection.send(data)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    return connection.sendmsg([data], [rights])


def receive(connection: socket.socket, size: int = 1 << 16) -> tuple[bytes, list[int]]:
    """One recvmsg(2): the bytes (empty at the end of the stream) and the descriptors that came along.

    A stream socket never merges bytes across two sets of descriptors (unix(7)), so descriptors arrive
    with the first byte of their message or after it in order: a queue of them fits the queue of messages.
    All are close-on-exec.
    """
    space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, _, _ = connection.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    received = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
    return data, received.tolist()
