"""What the logs of all containers may take together: the oldest rotated files go first."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.units import human_size, parse_size
from longshore.runtime import logrotate

LOOK_SECONDS = 30.0
LARGEST_SHARE = 4_000_000_000
"""A part of a large disk is still no reason to keep more, as in journald.conf(5)."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Log:
    """One container's log. `begin_anew` makes its writer start a new file; None: nobody writes it now."""

    path: str
    begin_anew: Callable[[], Awaitable[None]] | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a log. `written`: nanoseconds since the epoch."""

    log: str
    inode: int
    size: int
    written: int
    current: bool


def parse_budget(text: str, capacity: int) -> int:
    """ "4g", "10%" of the capacity (at most 4 GB) or "0" for no bound, in bytes. Raises InvalidArgument. Pure."""
    number, percent, rest = text.partition("%")
    if percent:
        if rest or not number.isdigit() or not 0 < int(number) <= 100:
            raise InvalidArgument(f"invalid log-budget {text!r}", hint="write a size, or a part such as 10%")
        return min(capacity * int(number) // 100, LARGEST_SHARE)
    try:
        return parse_size(text)
    except InvalidArgument as cause:
        raise InvalidArgument(
            f"invalid log-budget {text!r}", hint="write a size, or a part such as 10%"
        ) from cause


def budget_of(text: str, folder: str) -> int:
    """The bytes that a setting means for logs in this folder."""
    status = os.statvfs(folder)
    return parse_budget(text, status.f_blocks * status.f_frsize)


def plan_removals(pieces: Sequence[Piece], limit: int) -> list[Piece]:
    """What must go: rotated files, oldest first, and then the largest that are being written. Pure."""
    total = sum(piece.size for piece in pieces)
    rotated = sorted((piece for piece in pieces if not piece.current), key=lambda piece: piece.written)
    current = sorted((piece for piece in pieces if piece.current), key=lambda piece: -piece.size)
    doomed: list[Piece] = []
    for piece in (*rotated, *current):
        if total <= limit:
            break
        doomed.append(piece)
        total -= piece.size
    return doomed


def survey(paths: Sequence[str]) -> list[Piece]:
    """All files of the logs, on disk now; of each log the oldest first, also where clocks or file times say otherwise.

    Only from that end may files be removed: a gap in the numbers would end the log there.
    """
    pieces: list[Piece] = []
    for path in paths:
        written = 0
        for name in (*reversed(logrotate.names(path)), path):
            try:
                status = os.stat(name)  # noqa: PTH116 (a thousand logs in one look)
            except FileNotFoundError:
                continue
            written = max(written, status.st_mtime_ns)
            pieces.append(Piece(path, status.st_ino, status.st_size, written, name == path))
    return pieces


class LogBudget:
    """`logs` gives those that there are, each time anew."""

    def __init__(self, limit: int, logs: Callable[[], list[Log]]) -> None:
        self._limit = limit
        self._logs = logs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now and from time to time, unless there is no limit."""
        if self._limit:
            self._task = asyncio.create_task(self._watch(), name="log budget")

    async def close(self) -> None:
        """Twice is fine."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            try:
                await self.enforce()
            except OSError as error:
                log.warning("cannot look after the logs' budget: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def enforce(self) -> None:
        """Remove what is too much. A log that is being written begins a new file first."""
        logs = {each.path: each for each in self._logs()}
        pieces = await asyncio.to_thread(survey, list(logs))
        doomed = plan_removals(pieces, self._limit)
        if not doomed:
            return
        await self._begin_anew([piece for piece in doomed if piece.current], logs)
        freed = await asyncio.to_thread(self._remove, doomed, logs)
        log.warning(
            "logs took %s of %s: removed %s in %d files",
            human_size(sum(piece.size for piece in pieces)), human_size(self._limit), human_size(freed), len(doomed),
        )  # fmt: skip

    @staticmethod
    async def _begin_anew(pieces: Sequence[Piece], logs: dict[str, Log]) -> None:
        """Wait a moment for the writers; who takes longer is seen at the next look."""
        asked = [piece for piece in pieces if logs[piece.log].begin_anew]
        for piece in asked:
            if begin := logs[piece.log].begin_anew:
                await begin()
        for _ in range(40):
            if all(os.stat(piece.log).st_ino != piece.inode for piece in asked):  # noqa: PTH116
                return
            await asyncio.sleep(0.05)

    @staticmethod
    def _remove(doomed: Sequence[Piece], logs: dict[str, Log]) -> int:
        freed = 0
        for piece in doomed:
            if piece.current and logs[piece.log].begin_anew is None:
                os.truncate(piece.log, 0)
            elif not logrotate.forget(piece.log, piece.inode):
                continue
            freed += piece.size
        return freed
