"""Attachments: a client's streams to a container, asked for before the container started or while it runs."""

import asyncio
from dataclasses import dataclass

from longshore.core.containers.container import Container

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Wanted:
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


class Attachment:
    """`docker run` attaches between create and start: such an attachment waits in the container and is handed to the
    monitor before the program starts, so that no byte is missed."""

    def __init__(self, container: Container, wanted: Wanted) -> None:
        self.container = container
        self.wanted = wanted
        self._streams: asyncio.Future[Streams | None] = asyncio.get_running_loop().create_future()

    async def open(self) -> Streams | None:
        """The streams, once there is something to attach to; None when the start failed or the container is gone.

        Raises Conflict when the container has just ended.
        """
        if self.container.running and self not in self.container.attachments and not self._streams.done():
            await self.connect()
        return await asyncio.shield(self._streams)

    async def connect(self) -> None:
        """Attach to the container's monitor now. Raises what the monitor's client raises."""
        monitor = self.container.monitor
        if monitor is None:
            self.close()
            return
        wanted = self.wanted
        streams = await monitor.attach(stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr)
        if self._streams.done():  # the client went away meanwhile
            streams[1].close()
        else:
            self._streams.set_result(streams)

    def close(self) -> None:
        """Give up: whoever waits in `open` gets None. Open streams are the caller's. Twice is fine."""
        if self in self.container.attachments:
            self.container.attachments.remove(self)
        if not self._streams.done():
            self._streams.set_result(None)
