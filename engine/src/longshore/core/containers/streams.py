"""Log lines as the API sends them."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from urllib.parse import quote_plus

from longshore.core import logs
from longshore.core.clock import parse_rfc3339
from longshore.core.containers.container import Container
from longshore.oci.frames import HEADER
from longshore.runtime.logdrivers import Wanted
from longshore.runtime.logfile import LogLine

STREAM_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}

YOUNG = 0.3  # seconds


@dataclass(frozen=True, slots=True)
class LogOptions:
    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since: int = 0  # Unix nanoseconds; 0: no bound
    until: int = 0
    tail: int | None = None  # None: all


def frame(stream: str, data: bytes) -> bytes:
    """Docker's frame: number of the stream, three zeros, length, data."""
    return HEADER.pack(STREAM_NUMBERS[stream], len(data)) + data


def render(line: LogLine, options: LogOptions, *, tty: bool) -> bytes:
    """One log entry for the client. Pure."""
    data = line.data
    if options.details:
        data = details(line.attributes or {}) + b" " + data
    if options.timestamps:
        data = line.time_text.encode() + b" " + data
    return data if tty else frame(line.stream, data)


def details(attributes: Mapping[str, str]) -> bytes:
    """What log options added to each entry, as Docker writes it: sorted, quoted as in a URL. Pure."""
    return ",".join(f"{quote_plus(key)}={quote_plus(attributes[key])}" for key in sorted(attributes)).encode()


def render_all(lines: list[LogLine], options: LogOptions, *, tty: bool) -> bytes:
    """Several entries at once; the common case without a call per line. Pure."""
    if options.details or options.timestamps:
        return b"".join([render(line, options, tty=tty) for line in lines])
    if tty:
        return b"".join([line.data for line in lines])
    return b"".join([HEADER.pack(STREAM_NUMBERS[line.stream], len(line.data)) + line.data for line in lines])


def read_logs(container: Container, options: LogOptions) -> AsyncGenerator[bytes, None]:
    """Chunks of rendered lines. Following ends when the container does (and does not restart).

    Raises Unsupported at once where nothing can be read.
    """
    end = asyncio.Event() if options.follow else None
    wanted = Wanted(end, options.since, options.until, options.tail, options.stdout, options.stderr)
    return _render(container, logs.read(container.record, container.folder, wanted), end, options)


async def _render(
    container: Container,
    batches: AsyncGenerator[list[LogLine]],
    end: asyncio.Event | None,
    options: LogOptions,
) -> AsyncGenerator[bytes, None]:
    gone = None
    if end is not None:
        gone = container.waiter("over")
        gone.add_done_callback(lambda _done: end.set())
    try:
        async for batch in batches:
            yield render_all(batch, options, tty=container.record.config.tty)
    finally:
        if gone:
            gone.cancel()
        await batches.aclose()


async def let_it_speak(container: Container) -> None:
    """Wait for the end of a container that has just started, or until it ran as long as Docker needs for a start.

    Clients written against Docker start a short command and read its log at once, docker-py's own suite among them.
    """
    if not container.running:
        return
    ran = (time.time_ns() - parse_rfc3339(container.state.started_at)) / 1e9
    if 0 <= ran < YOUNG:
        over = container.waiter("over")
        try:
            await asyncio.wait([over], timeout=YOUNG - ran)
        finally:
            over.cancel()
