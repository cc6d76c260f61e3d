"""The live object behind a record: its lock, its monitor while it runs, who waits for it."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longshore.core.containers.record import Record, State
from longshore.core.model import WaitCondition

if TYPE_CHECKING:
    from longshore.core.containers.attach import Attachment
    from longshore.runtime.client import Monitor


@dataclass(frozen=True, slots=True)
class ExitStatus:
    code: int
    error: str = ""


class Container:
    """One per container for the daemon's life; `record` is what the database holds.

    `lock` is held for every change of what the container is (start, end, update, rename, remove) but never while
    waiting for its process, so that a stuck container can still be asked, killed and listed.
    """

    def __init__(self, record: Record, folder: Path) -> None:
        self.record = record
        self.folder = folder  # its own below the data root
        self.exec_ids: list[str] = []  # of the running ones, newest last
        self.lock = asyncio.Lock()
        self.warnings: list[str] = []  # of create
        self.monitor: Monitor | None = None
        self.watcher: asyncio.Task[None] | None = None  # turns the process's end into the container's
        self.restarter: asyncio.Task[None] | None = None  # waits for the next try of the restart policy
        self.prober: asyncio.Task[None] | None = None  # health checks
        self.restart_delay = 0.0
        self.removed = False
        self.removing: asyncio.Task[None] | None = None
        self.attachments: list[Attachment] = []  # those that wait for a start
        self.secret_env: tuple[str, ...] = ()  # of its next start; never written down
        self._waiters: list[tuple[WaitCondition, asyncio.Future[ExitStatus]]] = []

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def running(self) -> bool:
        """Whether it has a process (also while paused)."""
        return self.state.status in ("running", "paused")

    @property
    def health(self) -> str:
        """none, starting, healthy or unhealthy."""
        return self.state.health.status if self.state.health else "none"

    def waiter(self, condition: WaitCondition) -> "asyncio.Future[ExitStatus]":
        """A future for the condition; done already where it holds now. "next-exit" always waits.

        As in Docker every end fulfils "not-running", also one that the restart policy follows up.
        """
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        over = not self.running and self.state.status != "restarting"
        now = {
            "not-running": over,
            "over": over,
            "next-exit": False,
            "removed": self.removed,
        }
        if now[condition]:
            future.set_result(self.exit_status())
        else:
            self._waiters.append((condition, future))
            future.add_done_callback(lambda _done: self._forget(future))
        return future

    def exit_status(self) -> ExitStatus:
        return ExitStatus(self.state.exit_code, self.state.error)

    def tell(self, *conditions: WaitCondition) -> None:
        """Wake those who wait for one of the conditions."""
        for condition, future in tuple(self._waiters):
            if condition in conditions and not future.done():
                future.set_result(self.exit_status())

    def _forget(self, future: "asyncio.Future[ExitStatus]") -> None:
        self._waiters = [pair for pair in self._waiters if pair[1] is not future]
