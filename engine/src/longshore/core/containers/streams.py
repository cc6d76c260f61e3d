"""Log lines as the API sends them."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from longshore.core.containers.container import Container
from longshore.errors import Unsupported
from longshore.runtime.logfile import LogLine, read_log

STREAM_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


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
    return bytes((STREAM_NUMBERS[stream], 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def render(line: LogLine, options: LogOptions, *, tty: bool) -> bytes:
    """One log entry for the client. Pure."""
    data = line.data
    if options.details:
        data = b" " + data  # the place of attributes that log options would add
    if options.timestamps:
        data = line.time_text.encode() + b" " + data
    return data if tty else frame(line.stream, data)


async def read_logs(container: Container, options: LogOptions) -> AsyncGenerator[bytes, None]:
    """Chunks of rendered lines. Following ends when the container does (and does not restart)."""
    end: asyncio.Event | None = None
    gone = None
    if options.follow:
        end = asyncio.Event()
        gone = container.waiter("not-running")
        gone.add_done_callback(lambda _done: end.set())
    tty = container.record.config.tty
    try:
        lines = read_log(
            str(container.log_path),
            follow=end,
            since=options.since,
            until=options.until,
            tail=options.tail,
            stdout=options.stdout,
            stderr=options.stderr,
        )
        async for line in lines:
            yield render(line, options, tty=tty)
    finally:
        if gone:
            gone.cancel()


def check_readable(container: Container) -> None:
    """Raises Unsupported when nothing is logged."""
    if container.record.host_config.log_config.type == "none":
        raise Unsupported("configured logging driver does not support reading")
