"""The event stream: what happened to containers, images, volumes and networks, as `docker events` shows it.

Events are told after the change is in the database. The last ones are kept in memory for `since`;
a subscriber that does not read loses the oldest ones rather than holding the engine up.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

KEPT = 1024  # Docker keeps 256; a batch of one hundred starts makes 500
QUEUED = 8192  # per subscriber; about 4 MB at worst


@dataclass(frozen=True, slots=True)
class Event:
    type: str  # container, image, volume, network, daemon
    action: str  # "start", or "exec_start: sh -c true" with a detail behind the colon
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    scope: str = "local"
    nanoseconds: int = 0

    def wire(self) -> dict[str, object]:
        """Docker's JSON; `status`, `id` and `from` are the old names that only containers and images have."""
        old: dict[str, object] = {}
        if self.type in ("container", "image"):
            old = {"status": self.action, "id": self.id}
            if self.type == "container" and self.attributes.get("image"):
                old["from"] = self.attributes["image"]
        return old | {
            "Type": self.type,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": dict(self.attributes)},
            "scope": self.scope,
            "time": self.nanoseconds // 1_000_000_000,
            "timeNano": self.nanoseconds,
        }


class EventBus:
    """`publish` never waits and may be called from any task of the event loop."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._last = 0
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._subscribers: set[_Subscriber] = set()

    @property
    def listeners(self) -> int:
        return len(self._subscribers)

    def publish(
        self,
        type: str,
        action: str,
        id: str,
        attributes: Mapping[str, str] | None = None,
        *,
        scope: str = "local",
    ) -> Event:
        self._last = max(
            self._clock(), self._last + 1
        )  # strictly rising: `since` can continue at the last one seen
        event = Event(type, action, id, dict(attributes or {}), scope, self._last)
        self._kept.append(event)
        for subscriber in self._subscribers:
            subscriber.put(event)
        return event

    async def subscribe(
        self, *, since: int = 0, until: int = 0, matches: Callable[[Event], bool] = lambda _event: True
    ) -> AsyncGenerator[Event, None]:
        """Yield kept events from `since` on (0: none of them), then new ones up to `until`. Unix nanoseconds.

        `until` 0 goes on until the generator is closed; an `until` in the past ends after the kept ones.
        """
        subscriber = _Subscriber()
        kept = [event for event in self._kept if event.nanoseconds >= since] if since else []
        self._subscribers.add(subscriber)
        try:
            for event in kept:
                if (not until or event.nanoseconds <= until) and matches(event):
                    yield event
            while (event := await subscriber.get(until - self._clock() if until else None)) is not None:
                if until and event.nanoseconds > until:
                    return
                if matches(event):
                    yield event
        finally:
            self._subscribers.discard(subscriber)


class _Subscriber:
    def __init__(self) -> None:
        self._queue: deque[Event] = deque(maxlen=QUEUED)
        self._wake = asyncio.Event()

    def put(self, event: Event) -> None:
        self._queue.append(event)
        self._wake.set()

    async def get(self, nanoseconds: int | None) -> Event | None:
        """The next event, or None when `nanoseconds` passed without one."""
        if not self._queue:
            if nanoseconds is not None and nanoseconds <= 0:
                return None
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), None if nanoseconds is None else nanoseconds / 1e9)
            except TimeoutError:
                return None
        return self._queue.popleft()
