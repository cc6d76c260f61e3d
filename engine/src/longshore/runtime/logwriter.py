"""The monitor's side of a container's log: Docker's json-file format, written in batches.

One entry per line of output, at most 16 KiB of it, with the time of the read that brought it:
`{"log":"hello\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`
(https://docs.docker.com/engine/logging/drivers/json-file/). A longer line becomes several entries of which only the last one
ends with `\\n`. Bytes that are not UTF-8 become U+FFFD, one per byte, and `<`, `>`, `&`, U+2028 and U+2029 are
written as escapes, as Go's encoding/json does by default.

No asyncio and no pathlib here: the monitor shares its memory with the zygote and stays small (`records.py`).
"""
# ruff: noqa: PTH104

import codecs
import os
import time

import msgspec

from longshore.runtime.messages import LogTarget
from longshore.runtime.records import remove_file

PARTIAL = 16 * 1024
"""Docker's limit for one entry; tools that join partial entries expect it."""


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits of fraction: texts of equal length, so they compare like the times."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09d}Z"


def now_text() -> str:
    return format_time(time.time_ns())


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Go replaces every undecodable byte; Python's own "replace" makes one mark of a truncated sequence."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


_GO_ERRORS = "longshore-go"
codecs.register_error(_GO_ERRORS, _replace_each_byte)

# What encoding/json escapes beyond JSON's own needs. Plain byte replacement is safe: none of these occurs in an escape
_GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def entries(texts: list[str], stream: str, stamp: str, *, ended: bool) -> bytes:
    """Log entries for texts without their line ends; `ended`: give each the `\\n` it had.

    All texts are encoded as one JSON array and the quotes between its elements are then replaced by the
    rest of an entry: `","` cannot occur inside an element, because a quote inside is always written `\\"`.
    That keeps the work per line in C.
    """
    if not texts:
        return b""
    encoded = msgspec.json.encode(texts)
    for raw, escape in _GO_ESCAPES:
        encoded = encoded.replace(raw, escape)
    tail = b'%s","stream":"%s","time":"%s"}\n' % (b"\\n" if ended else b"", stream.encode(), stamp.encode())
    return b'{"log":"' + encoded[2:-2].replace(b'","', tail + b'{"log":"') + tail


def plan_entries(data: bytes, stream: str, stamp: str) -> tuple[bytes, bytes]:
    """The entries for a stretch of output and its unfinished rest, which is shorter than `PARTIAL`."""
    end = data.rfind(b"\n")
    complete, rest = data[: max(end, 0)], data[end + 1 :]
    result = b""
    if end >= 0:
        texts = complete.decode("utf-8", _GO_ERRORS).split("\n")
        # A character has at most four bytes: only then can a line be too long
        if max(map(len, texts)) > PARTIAL // 4 and max(map(len, complete.split(b"\n"))) >= PARTIAL:
            result = b"".join(_long_entries(line, stream, stamp) for line in complete.split(b"\n"))
        else:
            result = entries(texts, stream, stamp, ended=True)
    if len(rest) >= PARTIAL:
        *parts, rest = _cut_long(rest)
        result += entries([part.decode("utf-8", _GO_ERRORS) for part in parts], stream, stamp, ended=False)
    return result, rest


def _long_entries(line: bytes, stream: str, stamp: str) -> bytes:
    *parts, last = [part.decode("utf-8", _GO_ERRORS) for part in _cut_long(line)]
    return entries(parts, stream, stamp, ended=False) + entries([last], stream, stamp, ended=True)


def _cut_long(line: bytes) -> list[bytes]:
    """Pieces of `PARTIAL` bytes and a shorter last one; no UTF-8 sequence is cut where that can be avoided."""
    pieces: list[bytes] = []
    start = 0
    while len(line) - start >= PARTIAL:
        end = start + PARTIAL
        for back in range(
            4 if end < len(line) else 0
        ):  # at most three continuation bytes, 10xxxxxx, follow a first one
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        pieces.append(line[start:end])
        start = end
    pieces.append(line[start:])
    return pieces


def open_log(target: LogTarget) -> int:
    """Open a log for appending, creating it, and mend what a killed writer left. Raises OSError."""
    remove_file(f"{target.path}.new")  # it was rotating
    fd = _open(target.path)
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        os.write(fd, b"\n")  # ends its torn last entry, which the reader skips
    return fd


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


class LogWriter:
    """Appends to one json-file log and rotates it by size.

    `path` names a complete file at every instant; older ones are `path.1` (newest) to `path.<max_files - 1>`.
    A full disk loses lines (counted in `lost`) but never leaves half an entry and never stops the container.
    """

    def __init__(self, target: LogTarget, fd: int | None = None) -> None:
        """`fd`: from `open_log(target)`, when that was done elsewhere; owned from here on. Raises OSError."""
        self.path = target.path
        self.max_size = target.max_size
        self.max_files = max(target.max_files, 1)
        self.lost = 0
        self._pending: dict[str, bytes] = {}
        self._fd = open_log(target) if fd is None else fd
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Log what one read brought; an unfinished line waits for its end, as Docker does."""
        pending = self._pending.get(stream)
        batch, rest = plan_entries(pending + data if pending else data, stream, now_text())
        self._pending[stream] = rest
        if batch:
            self._write_batch(batch)

    def finish(self, stream: str) -> None:
        """The stream ended: log its unfinished last line. Twice is fine."""
        if rest := self._pending.pop(stream, b""):
            self._write_batch(entries([rest.decode("utf-8", _GO_ERRORS)], stream, now_text(), ended=False))

    def close(self) -> None:
        """Write what is unfinished and close."""
        for stream in list(self._pending):
            self.finish(stream)
        os.close(self._fd)

    def _write_batch(self, data: bytes) -> None:
        if not self.max_size or self._size + len(data) <= self.max_size:
            self._append(data)
            return
        for entry in data.splitlines(keepends=True):  # \r and the like are escaped inside entries
            if self._size and self._size + len(entry) > self.max_size:
                self._rotate()
            self._append(entry)

    def _append(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:  # ENOSPC, EDQUOT, EIO: the container is worth more than its log
            self.lost += data.count(b"\n")
            try:
                os.ftruncate(self._fd, self._size)
            except OSError:
                self._size = os.fstat(self._fd).st_size
        else:
            self._size += len(data)

    def _rotate(self) -> None:
        """Move the files up by one and start a new one. Readers that hold a file open keep reading it."""
        fresh = f"{self.path}.new"
        try:
            remove_file(fresh)
            fd = _open(fresh)
            if self.max_files > 1:
                for number in range(self.max_files - 1, 1, -1):
                    try:
                        os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
                    except FileNotFoundError:
                        continue
                # rename over an existing hard link of the same file does nothing (rename(2)), so clear the name first
                remove_file(f"{self.path}.1")
                os.link(self.path, f"{self.path}.1")
            os.rename(fresh, self.path)
        except OSError:
            return  # cannot rotate now (disk full): the file grows beyond its limit until it can
        os.close(self._fd)
        self._fd, self._size = fd, 0
