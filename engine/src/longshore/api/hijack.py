"""Copying between a client's hijacked connection and a process's streams: detach keys, half-close, no deadlock."""

import asyncio
import re
from collections.abc import Callable

from longshore.api.http import ClientStream
from longshore.core.containers.streams import frame
from longshore.errors import InvalidArgument
from longshore.oci.frames import Demultiplexer

CHUNK = 1 << 16
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_detach_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" as bytes; empty gives the default. Raises InvalidArgument."""
    keys = bytearray()
    for word in (text or DEFAULT_DETACH_KEYS).split(","):
        match = re.fullmatch(r"ctrl-([a-zA-Z@\[\\\]^_])", word)
        if match:
            letter = match[1].lower()
            keys.append(_CONTROL[letter] if letter in _CONTROL else ord(letter) - ord("a") + 1)
        elif len(word) == 1 and word.isascii():
            keys.append(ord(word))
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class DetachFilter:
    """Holds back bytes that may begin the detach sequence; `detached` once it came. Pure."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held: bytes = b""
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What may pass on to the process."""
        if self.detached:
            return b""
        data = self._held + data
        if (place := data.find(self._keys)) >= 0:
            self.detached = True
            return data[:place]
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length]
        self._held = b""
        return data


def converter(*, framed: bool, wanted: bool) -> Callable[[bytes], bytes]:
    """What turns output with frames or without into what the client asked for."""
    if framed == wanted:
        return bytes  # as it is
    if wanted:
        return lambda data: frame("stdout", data)
    frames = Demultiplexer()
    return lambda data: b"".join(payload for _, payload in frames.feed(data))


async def copy_streams(
    client: ClientStream,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    stdin: bool,
    detach_keys: bytes = b"",
    detached: Callable[[], None] = lambda: None,
    convert: Callable[[bytes], bytes] = bytes,
) -> bool:
    """Copy both ways until the process's side ends, the client goes away or types the detach keys.

    Returns whether the output came to its end. The client's end of input is passed on as such; a client that only
    watches may close its writing half at once. `convert` puts output into frames or takes it out of them.
    """
    output = asyncio.create_task(_output(reader, client, convert))
    tasks: set[asyncio.Task[bool]] = {output}
    if stdin:
        filter = DetachFilter(detach_keys) if detach_keys else None
        tasks.add(asyncio.create_task(_input(client, writer, filter, detached)))
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is output:
                    return task.result()
                if task.result():  # detached
                    return False
        return True
    finally:
        for task in (output, *tasks):
            task.cancel()
        await asyncio.gather(output, *tasks, return_exceptions=True)
        writer.close()


async def _output(
    reader: asyncio.StreamReader, client: ClientStream, convert: Callable[[bytes], bytes]
) -> bool:
    try:
        while data := await reader.read(CHUNK):
            if data := convert(data):
                await client.write(data)
    except (ConnectionError, TimeoutError):
        return False  # the client or the process went away; the log has everything
    return True


async def _input(
    client: ClientStream,
    writer: asyncio.StreamWriter,
    filter: DetachFilter | None,
    detached: Callable[[], None],
) -> bool:
    """True when the client typed the detach keys."""
    try:
        while data := await client.read():
            writer.write(filter.feed(data) if filter else data)
            if filter and filter.detached:
                detached()
                return True
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except ConnectionError:
        pass  # the process closed its input, or the client went away: the output decides when we end
    return False
