"""Docker's multiplexed streams: how stdout and stderr share one connection when there is no terminal.

A frame is one byte for the stream (0 in, 1 out, 2 err), three zero bytes, the payload's length (big-endian) and
the payload (Docker Engine API, "Attach to a container", stream format). Pure; the one place that takes them apart.
"""

import struct
from collections.abc import Iterator

STDOUT, STDERR = 1, 2
HEADER = struct.Struct(">BxxxI")


class Demultiplexer:
    """Takes a byte stream apart, however it was cut on its way."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(stream, payload) of every frame that is whole now; the rest waits for the next call.

        The data is taken at once, also when nobody iterates to the end.
        """
        self._buffer += data
        return self._frames()

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(self._buffer) >= HEADER.size:
            stream, length = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield stream, payload


def text_of_frames(data: bytes) -> bytes:
    """All payloads in the order they came, whichever stream they belong to; an unfinished last one is left out."""
    return b"".join(payload for _, payload in Demultiplexer().feed(data))
