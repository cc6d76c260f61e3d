"""Between the event loop and the threads that do the disk's work."""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from typing import ParamSpec, TypeVar

from longshore.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
_BLOCK = 1 << 20


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a cancelled caller waits for the thread: nothing goes on behind its back."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # somebody has looked at it
        raise


class ThreadSource:
    """An asynchronous stream as a blocking source for a thread, about 1 MiB at a time.

    The next block is on its way while the thread works on one: on a busy machine each of the two waits for its turn.
    """

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._chunks = aiter(chunks)
        self._pending: concurrent.futures.Future[bytes] | None = None
        self._closed = False

    def read(self, size: int, /) -> bytes:
        """Some bytes; b"" at the end. Only from another thread than the event loop's."""
        if self._closed:
            raise Unavailable("the stream was closed")
        pending = self._pending or self._ask()
        try:
            data = pending.result()
        except concurrent.futures.CancelledError as cause:
            raise Unavailable("the stream was closed") from cause
        self._pending = None if self._closed else self._ask()  # after the end it is empty again
        return data

    def _ask(self) -> concurrent.futures.Future[bytes]:
        return asyncio.run_coroutine_threadsafe(self._block(), self._loop)

    async def feed(self, function: Callable[["ThreadSource"], T]) -> T:
        """Run `function` in a thread with this source; a cancelled caller ends its reading."""
        task = asyncio.ensure_future(in_thread(function, self))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._close()
            await asyncio.wait([task])
            task.exception()
            raise
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._pending is not None:
            self._pending.cancel()

    async def _block(self) -> bytes:
        data = bytearray()
        async for chunk in self._chunks:
            data += chunk
            if len(data) >= _BLOCK:
                break
        return bytes(data)


async def from_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A blocking iterator as an asynchronous one, in pieces of about 1 MiB."""

    def block() -> bytes:
        data = bytearray()
        for piece in pieces:
            data += piece
            if len(data) >= _BLOCK:
                break
        return bytes(data)

    while data := await in_thread(block):
        yield data
