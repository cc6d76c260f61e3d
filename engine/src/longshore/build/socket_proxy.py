"""A Unix socket in front of another one, with an owner and a mode of its own: the ssh agent that RUN sees."""

import asyncio
import contextlib
import os
from pathlib import Path

_PIECE = 1 << 16


class SocketProxy:
    """Passes every connection on to `target` until it is closed."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path, uid: int, gid: int, mode: int) -> None:
        """Listen at `path`. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._serve, path)
        os.chown(path, uid, gid)
        path.chmod(mode)

    async def close(self) -> None:
        """Twice is fine. The socket's name is the caller's to remove."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            back, forth = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, forth), _copy(back, writer))
        finally:
            writer.close()
            forth.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
