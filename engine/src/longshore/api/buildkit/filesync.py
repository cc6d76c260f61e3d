"""Files between a client and us, in fsutil's packets: contexts to us (DiffCopy of FileSync), results to the client.

The sender tells every file (STAT), the receiver asks for the bytes of those that it has not (REQ), gets them (DATA;
empty at a file's end), and both say FIN. https://github.com/tonistiigi/fsutil/blob/master/receive.go
"""

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable
from urllib.parse import quote_plus

import msgspec

from longshore.api.buildkit import messages_session
from longshore.api.buildkit.contexts import BlobWriter, Contexts, Record, SyncedTree
from longshore.api.buildkit.grpc import ClientCall
from longshore.api.buildkit.messages_session import FIN, REQ, Packet
from longshore.api.buildkit.packets import Arrivals
from longshore.api.buildkit.session import Session
from longshore.errors import InvalidArgument

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
OUTSTANDING = 64  # files asked for at a time; each may have an open file here
GROWTH = 1 << 20  # a file may grow by this while it is sent

Progress = Callable[[int, bool], None]
"""Gets the bytes transferred so far and whether that was all."""


async def receive(
    session: Session,
    contexts: Contexts,
    name: str,
    *,
    paths: Iterable[str] = (),
    exclude: Iterable[str] = (),
    progress: Progress = lambda _bytes, _last: None,
) -> SyncedTree:
    """The client's folder `name`, without what the patterns exclude; with `paths` only those (links followed).

    Raises Unsupported when the client has no folders, InvalidArgument for a client that breaks the protocol, or the
    client's own error.
    """
    session.need(DIFF_COPY)
    paths, exclude = tuple(paths), tuple(patterns(exclude))
    metadata = [("dir-name", name)]
    metadata += _metadata("exclude-patterns", exclude) + _metadata("followpaths", paths)
    key = f"{name}:{session.shared_key or session.id}"
    hold, busy = contexts.hold()
    try:
        async with await session.channel.open(DIFF_COPY, metadata) as call:
            transfer = _Transfer(call, contexts, contexts.known(key), busy, progress)
            try:
                await transfer.run()
            finally:
                transfer.abort()
        if session.shared_key:
            # A build that wanted some paths says nothing about the others.
            kept = {**transfer.known, **transfer.records} if paths else transfer.records
            contexts.save(key, name, kept)
            if any(path not in kept for path in transfer.known) or transfer.received:
                contexts.sweep()
        return SyncedTree(contexts, hold, transfer.records)
    except BaseException:
        contexts.drop(hold)
        raise


def patterns(lines: Iterable[str]) -> list[str]:
    """Lines of .dockerignore as patterns: comments and blanks left out, paths clean and relative.

    https://github.com/moby/patternmatcher/blob/main/ignorefile/ignorefile.go
    """
    found: list[str] = []
    for line in lines:
        text = line.strip()
        if not text or line.startswith("#"):
            continue
        negated = text.startswith("!")
        pattern = os.path.normpath(text.removeprefix("!").strip() or ".")
        if len(pattern) > 1:
            pattern = pattern.lstrip("/")
        found.append(("!" if negated else "") + pattern)
    return found


def _metadata(name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    """Values as headers; where one of them is not ASCII all are encoded, as BuildKit does."""
    if all(value.isascii() for value in values):
        return [(name, value) for value in values]
    encoded = [(name, quote_plus(value.encode("utf-8", "surrogateescape"))) for value in values]
    return [*encoded, (name + "-encoded", "1")]


class _Transfer:
    """One DiffCopy. `run` returns when the client has said FIN."""

    def __init__(
        self,
        call: ClientCall,
        contexts: Contexts,
        known: dict[bytes, Record],
        busy: set[str],
        progress: Progress,
    ) -> None:
        self._call, self._contexts, self._busy, self._progress = call, contexts, busy, progress
        self.known = known
        self.received = 0  # files
        self._arrivals = Arrivals()
        self._links: list[Record] = []
        self._queue: deque[int] = deque()  # files to ask for
        self._wanted: dict[int, Record] = {}  # asked for or queued, by number
        self._open: dict[int, BlobWriter | None] = {}  # asked for
        self._told = self._finished = False
        self._bytes = 0

    @property
    def records(self) -> dict[bytes, Record]:
        return self._arrivals.records

    async def run(self) -> None:
        async for message in self._call:
            self._bytes += len(message)
            self._take(Packet.decode(message))
            self._progress(self._bytes, False)
            await self._ask()
        if not self._finished:
            raise InvalidArgument("the client broke off the transfer of its files")
        self._link()
        self._progress(self._bytes, True)

    def abort(self) -> None:
        """Remove files that were not received whole."""
        for writer in self._open.values():
            if writer is not None:
                writer.abort()

    def _take(self, packet: Packet) -> None:
        match packet.type:
            case messages_session.STAT:
                self._told_of(packet)
            case messages_session.DATA:
                self._got(packet.id, packet.data)
            case messages_session.FIN:
                if not self._finished:
                    raise InvalidArgument("the client ended the transfer of its files too early")
            case messages_session.ERR:
                raise InvalidArgument(
                    "the client cannot send its files", detail=packet.data.decode(errors="replace")[:1000]
                )
            case _:
                raise InvalidArgument(f"the client sent a packet of unknown type {packet.type}")

    def _told_of(self, packet: Packet) -> None:
        if self._told:
            raise InvalidArgument("the client sent a file after the end of its list")
        if packet.stat is None:
            self._told = True
            return
        number = self._arrivals.count
        record = self._arrivals.take(packet.stat)
        if not stat.S_ISREG(record.mode):
            return
        if record.link:
            self._links.append(record)
            return
        known = self.known.get(record.path)
        if known is not None and known.same_file(record):
            self._arrivals.records[record.path] = known
            self._busy.add(known.digest)
        else:
            self._wanted[number] = record
            self._queue.append(number)

    async def _ask(self) -> None:
        while self._queue and len(self._open) < OUTSTANDING:
            number = self._queue.popleft()
            self._open[number] = None
            await self._call.send(Packet(REQ, id=number).encode())
        if self._told and not self._wanted and not self._finished:
            self._finished = True
            await self._call.send(Packet(FIN).encode())

    def _got(self, number: int, data: bytes) -> None:
        if number not in self._open:
            raise InvalidArgument(f"the client sent file {number}, which nobody asked for")
        record = self._wanted[number]
        writer = self._open[number]
        if writer is None:
            writer = self._open[number] = self._contexts.writer()
        if data:
            if writer.size + len(data) > record.size + GROWTH:
                raise InvalidArgument(
                    f"the client sends more than the {record.size} bytes of {os.fsdecode(record.path)!r}"
                )
            writer.write(data)
            return
        digest = writer.commit()
        del self._open[number], self._wanted[number]
        self._busy.add(digest)
        self.received += 1
        self.records[record.path] = msgspec.structs.replace(record, digest=digest, size=writer.size)

    def _link(self) -> None:
        """Hard links become files with the bytes of the one they name: a layer's reader cannot tell."""
        for record in self._links:
            target = self.records[record.link]
            self.records[record.path] = msgspec.structs.replace(
                record, link=b"", digest=target.digest, size=target.size
            )
