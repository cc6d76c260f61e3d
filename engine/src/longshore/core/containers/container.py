"""The live object behind a record: its lock, its monitor while it runs, who waits for it."""

import asyncio
from dataclasses import dataclass
from typing import Literal

from longshore.core.containers.record import Record, State
from longshore.core.model import WaitCondition


@dataclass(frozen=True, slots=True)
class ExitStatus:
    code: int
    error: str = ""


class Container:
    """One per container for the daemon's life; `record` is what the database holds."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.warnings: list[str] = []  # of create
        self.removed = False
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
    def health(self) -> Literal["none", "starting", "healthy", "unhealthy"]:
        health = self.state.health
        return health.status if health else "none"  # type: ignore[return-value]
