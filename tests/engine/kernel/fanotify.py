"""Who opened what: every open(2) and execve(2) of files from a table, as fanotify(7) tells it.

Files are known by device and inode: names differ between mount namespaces, and what a process in another one opens has
a name that means nothing here. O_PATH is no opening: nothing can be read through it.
"""

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

FAN_CLOEXEC, FAN_NONBLOCK, FAN_UNLIMITED_QUEUE = 0x1, 0x2, 0x10
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_OPEN, FAN_OPEN_EXEC, FAN_Q_OVERFLOW = 0x20, 0x1000, 0x4000
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata


class Opened:
    """What was opened so far: `files` and, of those, `executed` by the names of the table."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.executed: set[str] = set()


def inodes(root: Path | str) -> dict[tuple[int, int], str]:
    """Every regular file below a folder by (device, inode), as the path below it."""
    table: dict[tuple[int, int], str] = {}
    for folder, _names, files in os.walk(root):
        for name in files:
            status = os.lstat(f"{folder}/{name}")
            table[status.st_dev, status.st_ino] = os.path.relpath(f"{folder}/{name}", root)
    return table


@contextmanager
def watching(table: dict[tuple[int, int], str], places: Iterable[Path | str]) -> Iterator[Opened]:
    """Collect openings on the file systems of `places` until the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE
    fd = libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    opened = Opened()
    try:
        for place in places:
            mask = ctypes.c_uint64(FAN_OPEN | FAN_OPEN_EXEC)
            marks = FAN_MARK_ADD | FAN_MARK_FILESYSTEM
            done = libc.fanotify_mark(fd, marks, mask, -100, os.fsencode(place))
            assert done == 0, os.strerror(ctypes.get_errno())
        yield opened
        _read(fd, table, opened)
    finally:
        os.close(fd)


def _read(fd: int, table: dict[tuple[int, int], str], opened: Opened) -> None:
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        while data:
            length, _version, _reserved, _size, mask, file, _pid = _EVENT.unpack_from(data)
            data = data[length:]
            assert not mask & FAN_Q_OVERFLOW
            if file < 0:
                continue
            status = os.fstat(file)
            os.close(file)
            name = table.get((status.st_dev, status.st_ino))
            if name is not None:
                opened.files.add(name)
                if mask & FAN_OPEN_EXEC:
                    opened.executed.add(name)
