"""Results to the client: a tree of files in fsutil's packets, or one stream of bytes (FileSend.DiffCopy)."""

import asyncio
import stat
from collections.abc import AsyncIterable, Iterator

from longshore.api.buildkit.grpc import ClientCall
from longshore.api.buildkit.messages import BytesMessage
from longshore.api.buildkit.messages_session import DATA, ERR, FIN, REQ, STAT, Packet, Stat
from longshore.api.buildkit.packets import GO_DIRECTORY, go_mode
from longshore.api.buildkit.session import Session
from longshore.build.trees import Entry, Tree, walk
from longshore.errors import InvalidArgument

DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
PIECE = 1 << 18


def _metadata(exporter: int) -> list[tuple[str, str]]:
    """Which of the client's outputs is meant: its place among the exporters of the solve."""
    return [("buildkit-attachable-exporter-id", str(exporter))]


async def send_stream(session: Session, exporter: int, chunks: AsyncIterable[bytes]) -> int:
    """Send a file to the client, which knows where it goes; returns its bytes. Raises the client's error."""
    sent = 0
    async with await session.channel.open(session.need(DIFF_COPY), _metadata(exporter)) as call:
        async for chunk in chunks:
            for start in range(0, len(chunk), PIECE):
                await call.send(BytesMessage(chunk[start : start + PIECE]).encode())
            sent += len(chunk)
        await call.end()
        while await call.receive() is not None:
            pass
    return sent


async def send_trees(
    session: Session, exporter: int, trees: dict[str, Tree], *, epoch: int | None = None
) -> None:
    """Write trees into a folder of the client; each below its key, "" for the folder itself.

    Raises the client's error.
    """
    async with await session.channel.open(session.need(DIFF_COPY), _metadata(exporter)) as call:
        await _Sending(call, list(_files(trees)), epoch).run()


def _files(trees: dict[str, Tree]) -> Iterator[tuple[str, Entry, Tree]]:
    """Path, entry and tree of every file, in the order that the protocol wants."""
    for name, tree in sorted(trees.items()):
        top = tree.entry("/")
        assert top is not None  # every tree has a root
        for entry in walk(tree, top):
            path = f"{name}{entry.path}".strip("/")
            if path and entry.kind != stat.S_IFSOCK:
                yield path, entry, tree


class _Sending:
    def __init__(self, call: ClientCall, files: list[tuple[str, Entry, Tree]], epoch: int | None) -> None:
        self._call, self._files, self._epoch = call, files, epoch
        self._asked: asyncio.Queue[int] = asyncio.Queue()

    async def run(self) -> None:
        """Tell all files and send those that the client asks for, until it has them."""
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(self._send_files())
            tasks.create_task(self._tell())
            while (message := await self._call.receive()) is not None:
                packet = Packet.decode(message)
                if packet.type == REQ:
                    self._asked.put_nowait(packet.id)
                elif packet.type == ERR:
                    raise InvalidArgument(
                        "the client cannot take the files", detail=packet.data.decode(errors="replace")[:1000]
                    )
                elif packet.type == FIN:
                    await self._call.send(Packet(FIN).encode())
                    await self._call.end()
            sender.cancel()

    async def _tell(self) -> None:
        for path, entry, _ in self._files:
            await self._call.send(Packet(STAT, self._stat(path, entry)).encode())
        await self._call.send(Packet(STAT).encode())

    async def _send_files(self) -> None:
        while True:
            number = await self._asked.get()
            if not 0 <= number < len(self._files) or not self._files[number][1].is_file:
                raise InvalidArgument(f"the client asked for file {number}, which is none")
            _, entry, tree = self._files[number]
            with tree.open(entry) as stream:
                while data := stream.read(PIECE):
                    await self._call.send(Packet(DATA, id=number, data=data).encode())
            await self._call.send(Packet(DATA, id=number).encode())

    def _stat(self, path: str, entry: Entry) -> Stat:
        mtime = entry.mtime if self._epoch is None else self._epoch
        return Stat(
            path,
            go_mode(entry.kind | entry.mode),
            entry.uid,
            entry.gid,
            entry.size if entry.is_file else 0,
            int(mtime * 1_000_000_000),
            entry.link,
            *entry.device,
        )


def stat_of(entry: Entry) -> Stat:
    """A file as the gateway's calls describe it."""
    name = entry.path.rpartition("/")[2]
    size = entry.size if entry.is_file else 0
    mode = go_mode(entry.kind | entry.mode)
    return Stat(name, mode or GO_DIRECTORY, entry.uid, entry.gid, size, int(entry.mtime * 1e9), entry.link)
