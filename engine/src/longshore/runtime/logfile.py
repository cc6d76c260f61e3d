"""Reading log files (see `logentries.py` for the formats): the last lines, a span of time, and following.

The reader needs nothing from the writer but the files: it survives rotation, compression, a restart of the daemon
and of the monitor, and skips lines that a killed writer left broken.
"""

import asyncio
import os
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path

from longshore.runtime import logrotate
from longshore.runtime.logentries import LogLine, decoder_of, format_time
from longshore.runtime.logwatch import MODIFIED, NEW_NAMES, subscribed
from longshore.runtime.logwriter import LogWriter

__all__ = ["LogLine", "LogWriter", "format_time", "read_batches"]

BLOCK = 1 << 18
POLL_SECONDS = 0.25
"""Between two looks at a log that cannot be watched."""


async def read_batches(
    path: str,
    *,
    follow: asyncio.Event | None = None,
    since: int = 0,
    until: int = 0,
    tail: int | None = None,
    stdout: bool = True,
    stderr: bool = True,
    format: str = "json",
) -> AsyncGenerator[list[LogLine]]:
    """The entries of a log, oldest first, across rotated and compressed files, as many at once as one read brings.

    `follow`: wait for more until the event is set (the container has ended), then read what is left and end.
    `since` and `until`: nanoseconds since the epoch, both inclusive, 0 for no bound. Following ends at `until`.
    `tail`: start with the last so many entries of both streams, as Docker counts. A missing file is an empty log.
    """
    streams = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
    first = format_time(since) if since else ""
    last = format_time(until) if until else ""
    decode = decoder_of(format)
    with _Reader(path, follow, until) as reader:
        if tail is not None:
            await reader.seek_tail(tail)
        elif since:
            reader.seek_time(since)
        while (block := await reader.block()) is not None:
            batch = decode(block)
            over = bool(last and batch and max(batch[0].time_text, batch[-1].time_text) > last)
            if over or first or len(streams) < 2:
                # Texts of equal length compare like the times
                over = any(last and line.time_text > last for line in batch)
                batch = [
                    line
                    for line in batch
                    if line.time_text >= first
                    and (not last or line.time_text <= last)
                    and line.stream in streams
                ]
            if batch:
                yield batch
            if over:
                return
            await asyncio.sleep(0)  # a long log must not hold up the daemon's other work


class _File:
    """One file of a log, open: nobody else gets its inode number meanwhile."""

    def __init__(self, name: str) -> None:
        self.fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        self._inflater = zlib.decompressobj(31) if name.endswith(".gz") else None
        self.compressed = self._inflater is not None
        self._status = os.fstat(self.fd)
        self._original = logrotate.original_inode(self.fd) if self.compressed else 0
        self._offset = 0
        self._skip = 0  # lines

    @property
    def modified(self) -> int:
        """Nanoseconds since the epoch; of a compressed file the time of its original."""
        return os.fstat(self.fd).st_mtime_ns

    def is_file(self, status: os.stat_result) -> bool:
        """Whether this is that very file."""
        return os.path.samestat(self._status, status)

    def continues_in(self, other: "_File") -> bool:
        """Whether the other is the same file or what a compressor has made of it since."""
        return self.is_file(other._status) or (not self.compressed and self._status.st_ino == other._original)

    def close(self) -> None:
        os.close(self.fd)

    def read(self) -> bytes:
        """The next bytes; empty at the end, which a file that is being written does not have for ever."""
        while self._skip:
            data = self._read()
            if not data:
                return b""
            count = data.count(b"\n")
            if count < self._skip:
                self._skip -= count
                continue
            start = 0
            for _ in range(self._skip):
                start = data.index(b"\n", start) + 1
            self._skip = 0
            if rest := data[start:]:
                return rest
        return self._read()

    def _read(self) -> bytes:
        if self._inflater is None:
            data = os.pread(self.fd, BLOCK, self._offset)
            self._offset += len(data)
            return data
        while not self._inflater.eof:
            packed = self._inflater.unconsumed_tail
            if not packed:
                packed = os.pread(self.fd, BLOCK // 4, self._offset)
                self._offset += len(packed)
                if not packed:
                    return b""
            try:
                data = self._inflater.decompress(packed, BLOCK)
            except zlib.error:  # somebody else's file; what came before is right
                return b""
            if data:
                return data
        return b""

    async def seek_tail(self, lines: int) -> int:
        """Skip all but the last `lines` complete lines; how many (at most `lines`) there are."""
        if self._inflater is None:
            self._offset, found = _tail_offset(self.fd, lines)
            return found
        count = 0
        while data := self._read():
            count += data.count(b"\n")
            await asyncio.sleep(0)
        self._inflater, self._offset = zlib.decompressobj(31), 0
        self._skip = max(0, count - lines)
        return count - self._skip


class _Reader:
    """Walks through the files of one log, from the oldest to the newest and on to those that come."""

    def __init__(self, path: str, end: asyncio.Event | None, until: int) -> None:
        self._path = path
        self._end = end
        self._until = until
        self._undo = ExitStack()
        self._changed = asyncio.Event()
        self._files: deque[_File] = deque()  # the first one is being read
        self._rest = b""
        self._watched: _File | None = None
        self._blind = False  # nobody tells of changes

    def __enter__(self) -> "_Reader":
        with ExitStack() as undo:
            undo.callback(self._close_files)
            if self._end is not None:
                waiter = asyncio.create_task(self._wait_for_end(self._end))
                undo.callback(waiter.cancel)
                # Watched before the first look: no change falls between. New names appear at a rotation
                folder = str(Path(self._path).parent)
                self._blind = not undo.enter_context(subscribed(folder, NEW_NAMES, self._changed))
            self._files.extend(_open_generations(self._path))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _close_files(self) -> None:
        while self._files:
            self._files.popleft().close()

    async def _wait_for_end(self, end: asyncio.Event) -> None:
        await end.wait()
        self._changed.set()

    async def seek_tail(self, lines: int) -> None:
        """Before the first block: skip all but the last `lines` entries."""
        for number in range(len(self._files) - 1, -1, -1):
            found = await self._files[number].seek_tail(lines)
            lines -= found
            if lines <= 0:
                for _ in range(number):
                    self._files.popleft().close()
                return

    def seek_time(self, since: int) -> None:
        """Before the first block: leave files alone that were written last before `since`."""
        while len(self._files) > 1 and self._files[0].modified < since:
            self._files.popleft().close()

    async def block(self) -> bytes | None:
        """Some more complete lines, possibly none; None at the end."""
        ended = self._end is None or self._end.is_set()  # asked before reading: then everything is there
        self._find_successors()  # likewise: a file that has one is complete
        self._watch_file()
        if self._files and (data := self._files[0].read()):
            cut = data.rfind(b"\n") + 1
            if not cut:
                self._rest += data
                return b""
            block = self._rest + data[:cut] if self._rest else data[:cut]
            self._rest = data[cut:]
            return block
        if len(self._files) > 1:
            self._files.popleft().close()
            self._rest = b""
            return b""
        if ended or not await self._wait():
            return None
        return b""

    def _find_successors(self) -> None:
        """Look whether the newest known file has been rotated away, and open what came after it."""
        if self._end is None or len(self._files) > 1:
            return
        try:
            newest = Path(self._path).stat()
        except FileNotFoundError:
            return
        current = self._files[0] if self._files else None
        if current and current.is_file(newest):
            return
        files = _open_generations(self._path)
        # The newest that fits: older ones may carry the number of an inode that has been used again
        known = [n for n, file in enumerate(files) if current and current.continues_in(file)]
        newer = files[known[-1] + 1 :] if known else files  # not there: it has been rotated out of existence
        for file in files[: len(files) - len(newer)]:
            file.close()
        self._files.extend(newer)

    def _watch_file(self) -> None:
        if self._end is None or not self._files or self._files[0] is self._watched:
            return
        # By descriptor: the name may mean another file already. Older watches tell nothing any more, they end with us
        self._watched = self._files[0]
        path = f"/proc/self/fd/{self._watched.fd}"
        if not self._undo.enter_context(subscribed(path, MODIFIED, self._changed)):
            self._blind = True

    async def _wait(self) -> bool:
        """Until something changed; false when `until` is over."""
        left = (self._until - time.time_ns()) / 1e9 if self._until else None
        if left is not None and left <= 0:
            return False
        patience = POLL_SECONDS if left is None else min(left, POLL_SECONDS)
        try:
            async with asyncio.timeout(patience if self._blind else left):
                await self._changed.wait()
        except TimeoutError:
            return self._blind  # asked again: then nothing may be left of the time
        self._changed.clear()
        return True


def _open_generations(path: str) -> list[_File]:
    """All files of a log as they stood at one instant, oldest first. The caller closes them."""
    files: list[_File] = []
    try:
        locked = logrotate.lock(path, shared=True)
    except OSError:
        return files
    try:
        for name in (path, *logrotate.names(path)):
            try:
                files.insert(0, _File(name))
            except FileNotFoundError:
                continue  # not yet, or a holder of the lock was killed
    finally:
        os.close(locked)
    return files


def _tail_offset(fd: int, lines: int) -> tuple[int, int]:
    """Where the last `lines` complete lines of a file start, and how many (at most `lines`) there are."""
    position = os.fstat(fd).st_size
    found = -1  # the first newline from the end ends the last line, it does not start one
    while position:
        start = max(0, position - BLOCK)
        data = os.pread(fd, position - start, start)
        count = data.count(b"\n")
        if found + count >= lines:
            end = len(data)
            for _ in range(lines - found):
                end = data.rfind(b"\n", 0, end)
            return start + end + 1, lines
        found += count
        position = start
    return 0, max(found + 1, 0)
