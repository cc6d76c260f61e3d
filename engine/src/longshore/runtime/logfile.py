"""Reading json-file logs (see `logwriter.py` for the format): the last lines, a span of time, and following.

The reader needs nothing from the writer but the files: it survives rotation, a restart of the daemon
and of the monitor, and skips lines that a killed writer left broken.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import msgspec

from longshore.kernel import inotify
from longshore.runtime.logwriter import LogWriter, format_time

__all__ = ["LogLine", "LogWriter", "format_time", "read_log"]

_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry: a line with its `\\n`, or a part of a long or unfinished one without."""

    stream: str
    time_text: str
    data: bytes


class _Entry(msgspec.Struct):
    log: str
    stream: str
    time: str


_decoder = msgspec.json.Decoder(_Entry)


async def read_log(
    path: str,
    *,
    follow: asyncio.Event | None = None,
    since: int = 0,
    until: int = 0,
    tail: int | None = None,
    stdout: bool = True,
    stderr: bool = True,
) -> AsyncIterator[LogLine]:
    """The entries of a log, oldest first, across rotated files.

    `follow`: wait for more until the event is set (the container has ended), then read what is left and end.
    `since` and `until`: nanoseconds since the epoch, both inclusive, 0 for no bound. Following ends at `until`.
    `tail`: start with the last so many entries of both streams, as Docker counts. A missing file is an empty log.
    """
    streams = {name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted}
    first = format_time(since) if since else ""
    last = format_time(until) if until else ""
    with _Reader(path, follow, until) as reader:
        reader.seek_tail(tail)
        while (batch := await reader.batch()) is not None:
            for entry in batch:
                # Texts of equal length compare like the times
                if last and entry.time > last:
                    return
                if entry.time >= first and entry.stream in streams:
                    yield LogLine(entry.stream, entry.time, entry.log.encode())
            await asyncio.sleep(0)  # a long log must not hold up the daemon's other work


class _Reader:
    """Walks through the files of one log, from the oldest to the newest and on to those that come."""

    def __init__(self, path: str, end: asyncio.Event | None, until: int) -> None:
        self._path = path
        self._end = end
        self._until = until
        self._undo = ExitStack()
        self._changed = asyncio.Event()
        self._files: deque[int] = deque()  # the first one is being read
        self._offset = 0
        self._rest = b""
        self._watched = -1

    def __enter__(self) -> "_Reader":
        with ExitStack() as undo:
            undo.callback(self._close_files)
            if self._end is not None:
                waiter = asyncio.create_task(self._wait_for_end(self._end))
                undo.callback(waiter.cancel)
                # Watched before the first look: no change falls between. New names appear at a rotation
                undo.enter_context(_subscribed(str(Path(self._path).parent), _NEW_NAMES, self._changed))
            self._files.extend(_open_generations(self._path))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _close_files(self) -> None:
        while self._files:
            os.close(self._files.popleft())

    async def _wait_for_end(self, end: asyncio.Event) -> None:
        await end.wait()
        self._changed.set()

    def seek_tail(self, lines: int | None) -> None:
        """Before the first batch: skip all but the last `lines` entries."""
        if lines is None or not self._files:
            return
        last = len(self._files) - 1
        for number in range(last, -1, -1):
            offset, found = _tail_offset(self._files[number], lines)
            if found >= lines or number == 0:
                for _ in range(number):
                    os.close(self._files.popleft())
                self._offset = offset
                return
            lines -= found

    async def batch(self) -> list[_Entry] | None:
        """Some more entries, possibly none; None at the end."""
        ended = self._end is None or self._end.is_set()  # asked before reading: then everything is there
        self._find_successors()  # likewise: a file that has one is complete
        self._watch_file()
        if self._files and (data := os.pread(self._files[0], _BLOCK, self._offset)):
            self._offset += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            return _decode(lines)
        if len(self._files) > 1:
            os.close(self._files.popleft())
            self._offset, self._rest = 0, b""
            return []
        if ended or not await self._wait():
            return None
        return []

    def _find_successors(self) -> None:
        """Look whether the newest known file has been rotated away, and open what came after it."""
        if self._end is None or len(self._files) > 1:
            return
        try:
            newest = Path(self._path).stat()
        except FileNotFoundError:
            return
        if self._files and os.path.samestat(newest, os.fstat(self._files[0])):
            return
        files = _open_generations(self._path)
        current = os.fstat(self._files[0]) if self._files else None
        known = [n for n, fd in enumerate(files) if current and os.path.samestat(os.fstat(fd), current)]
        newer = files[known[0] + 1 :] if known else files  # not there: it has been rotated out of existence
        for fd in files[: len(files) - len(newer)]:
            os.close(fd)
        self._files.extend(newer)

    def _watch_file(self) -> None:
        if self._end is None or not self._files or self._files[0] == self._watched:
            return
        # By descriptor: the name may mean another file already. Older watches tell nothing any more, they end with us
        self._watched = self._files[0]
        path = f"/proc/self/fd/{self._watched}"
        self._undo.enter_context(_subscribed(path, inotify.IN_MODIFY, self._changed))

    async def _wait(self) -> bool:
        """Until something changed; false when `until` is over."""
        left = (self._until - time.time_ns()) / 1e9 if self._until else None
        if left is not None and left <= 0:
            return False
        try:
            async with asyncio.timeout(left):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


def _decode(lines: list[bytes]) -> list[_Entry]:
    entries: list[_Entry] = []
    for line in lines:
        try:
            entries.append(_decoder.decode(line))
        except msgspec.MsgspecError:  # a killed writer's half line, or what a full disk left
            continue
    return entries


def _open_generations(path: str) -> list[int]:
    """All files of a log as they stood at one instant, oldest first. The caller closes them.

    The writer keeps `path.new` while it renames, and replaces `path` last; that tells a torn look.
    """
    for attempt in range(50):
        files = _try_generations(path)
        seen = {(status.st_dev, status.st_ino) for status in map(os.fstat, files)}
        try:
            newest = Path(path).stat()
            whole = bool(files) and len(seen) == len(files) and os.path.samestat(newest, os.fstat(files[-1]))
        except FileNotFoundError:
            whole = not files
        if (whole and not Path(f"{path}.new").exists()) or attempt == 49:  # at last: left by a killed writer
            return files
        for fd in files:
            os.close(fd)
        time.sleep(0.0002)
    return []


def _try_generations(path: str) -> list[int]:
    files: list[int] = []
    name = path
    while True:
        try:
            files.insert(0, os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return files
        name = f"{path}.{len(files)}"


def _tail_offset(fd: int, lines: int) -> tuple[int, int]:
    """Where the last `lines` complete lines of a file start, and how many (at most `lines`) there are."""
    position = os.fstat(fd).st_size
    found = -1  # the first newline from the end ends the last line, it does not start one
    while position:
        start = max(0, position - _BLOCK)
        data = os.pread(fd, position - start, start)
        count = data.count(b"\n")
        if found + count >= lines:
            end = len(data)
            for _ in range(lines - found):
                end = data.rfind(b"\n", 0, end)
            return start + end + 1, lines
        found += count
        position = start
    return 0, found + 1


# One inotify instance per event loop: there are only fs.inotify.max_user_instances (128) per user

_NEW_NAMES = inotify.IN_MOVED_TO | inotify.IN_CREATE


class _Hub:
    """Sets events when files change."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = inotify.inotify_init()
        self._events: dict[int, list[asyncio.Event]] = {}
        loop.add_reader(self._fd, self._on_readable)

    def subscribe(self, path: str, mask: int, event: asyncio.Event) -> int:
        # The same inode gives the same number (inotify_add_watch(2)), the masks are joined
        watch = inotify.inotify_add_watch(self._fd, path, mask | inotify.IN_MASK_ADD)
        self._events.setdefault(watch, []).append(event)
        return watch

    def unsubscribe(self, watch: int, event: asyncio.Event) -> None:
        events = self._events.get(watch, [])
        if event in events:
            events.remove(event)
            if not events:
                del self._events[watch]
                inotify.inotify_rm_watch(self._fd, watch)

    def close_if_unused(self) -> bool:
        if self._events:
            return False
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        return True

    def _on_readable(self) -> None:
        for watch, mask, _ in inotify.read_events(self._fd):
            # IN_Q_OVERFLOW has no watch: everybody looks
            told = self._events.values() if mask & inotify.IN_Q_OVERFLOW else [self._events.get(watch, [])]
            for event in (event for events in told for event in events):
                event.set()


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = WeakKeyDictionary()


@contextmanager
def _subscribed(path: str, mask: int, event: asyncio.Event) -> Generator[None, None, None]:
    """Set the event whenever the file or folder changes. A missing one never does."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = _Hub(loop)
    try:
        watch = hub.subscribe(path, mask, event)
    except FileNotFoundError:
        watch = -1
    try:
        yield
    finally:
        hub.unsubscribe(watch, event)
        if hub.close_if_unused():
            _hubs.pop(loop, None)
