"""Writing a container's log file, in batches: one encoding and one write(2) per read of output.

The formats are in `logentries.py`, rotation and compression in `logrotate.py`. No asyncio and no pathlib here: the
monitor shares its memory with the zygote and stays small (`records.py`).
"""

import mmap
import os

from longshore.runtime import logrotate
from longshore.runtime.logentries import PARTIAL, format_of, format_time, now_text, plan_entries
from longshore.runtime.messages import LogTarget

__all__ = ["PARTIAL", "LogWriter", "format_time", "now_text", "open_log"]


def open_log(target: LogTarget) -> int:
    """Open a log for appending, creating it, and mend what a killed writer left. Raises OSError."""
    logrotate.tidy(target.path, target.max_files)
    fd = logrotate.open_append(target.path)
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")  # ends its torn last entry, which the reader skips
    return fd


class LogWriter:
    """Appends to one log and rotates it by size.

    `path` names a complete file at every instant; older ones are `path.1` (newest) to `path.<max_files - 1>`, with
    `.gz` when compressed. A full disk loses lines (counted in `lost`) but never leaves half an entry and never stops
    the container.
    """

    full = False  # a file always takes more

    def __init__(self, target: LogTarget, fd: int | None = None) -> None:
        """`fd`: from `open_log(target)`, when that was done elsewhere; owned from here on. Raises OSError."""
        self.path = target.path
        self.max_size = target.max_size
        self.max_files = max(target.max_files, 1)
        self.compress = target.compress and self.max_files > 1
        self.lost = 0
        self._format = format_of(target.format, target.attributes)
        self._pending: dict[str, bytes] = {}
        self._fd = open_log(target) if fd is None else fd
        self._size = os.fstat(self._fd).st_size
        self._compressor = 0
        if self.compress:
            self._done = mmap.mmap(-1, 1)  # shared with the compressor
        if self.compress and any(not name.endswith(".gz") for name in logrotate.names(self.path)):
            self._start_compressor()  # the last run ended too soon for it

    def write(self, stream: str, data: bytes) -> None:
        """Log what one read brought; an unfinished line waits for its end, as Docker does."""
        pending = self._pending.get(stream)
        batch, rest = plan_entries(self._format, pending + data if pending else data, stream, now_text())
        self._pending[stream] = rest
        if batch:
            self._write_batch(batch)

    def finish(self, stream: str) -> None:
        """The stream ended: log its unfinished last line. Twice is fine."""
        if rest := self._pending.pop(stream, b""):
            self._write_batch(self._format.part(rest, stream, now_text()))

    def close(self) -> None:
        """Write what is unfinished and close. A compressor goes on by itself."""
        for stream in list(self._pending):
            self.finish(stream)
        os.close(self._fd)

    def rotate(self) -> bool:
        """Start a new file now; false when that is not possible (a full disk): then the old one goes on."""
        try:
            fd = logrotate.rotate(self.path, self.max_files)
        except OSError:
            return False
        os.close(self._fd)
        self._fd, self._size = fd, 0
        if self.compress:
            self._start_compressor()
        return True

    def _start_compressor(self) -> None:
        """One at a time: it takes what is there until nothing is left."""
        try:
            # One that has seen the last file is about to end: no new one is to be missed by both
            if self._compressor and os.waitpid(self._compressor, 0 if self._done[0] else os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:  # somebody else of this process has reaped it
            pass
        try:
            self._compressor = logrotate.start_compressor(self.path, self._done)
        except OSError:  # no process to be had: the next rotation tries again
            self._compressor = 0

    def _write_batch(self, data: bytes) -> None:
        while self.max_size and self._size + len(data) > self.max_size:
            cut = data.rfind(b"\n", 0, max(self.max_size - self._size, 0)) + 1
            if not cut and (not self._size or not self.rotate()):
                cut = data.find(b"\n") + 1  # one entry that is larger than the limit, or a disk that is full
            self._append(data[:cut])
            data = data[cut:]
        if data:
            self._append(data)

    def _append(self, data: bytes) -> None:
        try:
            logrotate.write_all(self._fd, data)
        except OSError:  # ENOSPC, EDQUOT, EIO: the container is worth more than its log
            self.lost += data.count(b"\n")
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._size = os.fstat(self._fd).st_size
        else:
            self._size += len(data)
