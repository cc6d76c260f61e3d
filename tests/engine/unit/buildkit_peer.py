"""Two ends of a connection in memory, and a BuildKit client of a few lines for the tests of the protocol."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from longshore.api.buildkit.grpc import Call, Channel, Handler, serve
from longshore.api.buildkit.messages_session import Packet, Stat
from longshore.api.buildkit.session import Session


class End:
    """One end (api.http.ClientStream)."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.other: End = self
        self.sent = 0

    async def read(self) -> bytes:
        return await self.inbox.get()

    async def write(self, data: bytes) -> None:
        self.sent += len(data)
        self.other.inbox.put_nowait(data)

    async def write_eof(self) -> None:
        self.other.inbox.put_nowait(b"")


def pair() -> tuple[End, End]:
    one, two = End(), End()
    one.other, two.other = two, one
    return one, two


@asynccontextmanager
async def connected(handlers: dict[str, Handler]) -> AsyncIterator[Channel]:
    """A channel to a server with these handlers."""
    ours, theirs = pair()
    channel = Channel(ours)
    tasks = [asyncio.create_task(serve(theirs, handlers)), asyncio.create_task(channel.serve())]
    try:
        yield channel
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def session_with(handlers: dict[str, Handler], shared_key: str = "key") -> AsyncIterator[Session]:
    async with connected(handlers) as channel:
        yield Session("id", shared_key, frozenset(name.lower() for name in handlers), channel)


async def packets(call: Call, *told: Stat | None, ends: bool = True) -> None:
    """Send STATs as an fsutil sender does."""
    for stat in told:
        await call.send(Packet(0, stat).encode())
    if ends:
        await call.send(Packet(0).encode())
