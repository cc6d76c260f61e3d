"""Streams of JSON lines that tell of a long job: pull, load, import."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from longshore.api.errors import error_line
from longshore.api.http import Stream
from longshore.errors import EngineError

log = logging.getLogger("longshore.api")

Message = dict[str, object]
Work = Callable[[Callable[[Message], None]], Awaitable[object]]
CROWDED = 1000  # messages that wait for a slow client; beyond it the moving bars are left out


def line(message: object) -> bytes:
    return msgspec.json.encode(message) + b"\r\n"


async def progress_stream(work: Work, *, peek: int = 1) -> Stream:
    """Run `work(progress)` and stream what it tells.

    A failure before message number `peek` is raised here, so that it gets a status of its own; a later one
    becomes the stream's last line. When the client goes away, the work is cancelled.
    """
    queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def tell(message: Message) -> None:
        if queue.qsize() < CROWDED or not message.get("progress"):
            queue.put_nowait(message)

    async def run() -> None:
        try:
            await work(tell)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(run())
    first: list[Message] = []
    try:
        while len(first) < peek and (message := await queue.get()) is not None:
            first.append(message)
        else:
            if len(first) < peek:
                await task
    except BaseException:
        task.cancel()
        raise
    return Stream(_lines(first, queue, task, ended=len(first) < peek))


async def _lines(
    first: list[Message], queue: "asyncio.Queue[Message | None]", task: "asyncio.Task[None]", *, ended: bool
) -> AsyncIterator[bytes]:
    try:
        for message in first:
            yield line(message)
        while not ended and (message := await queue.get()) is not None:
            yield line(message)
        try:
            await task
        except EngineError as error:
            yield error_line(str(error))
        except Exception:
            log.exception("defect in a job with progress")
            yield error_line("internal error, see the daemon's log")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
