"""A small epoll loop: descriptors and callbacks, no timers, no wake-ups without an event."""

import select
import time
from collections.abc import Callable

IN = select.EPOLLIN
URGENT = select.EPOLLPRI
OUT = select.EPOLLOUT
HUP = select.EPOLLHUP | select.EPOLLERR
EDGE = select.EPOLLET

Handler = Callable[[int], None]


class Loop:
    """Calls a descriptor's handler with the events that came (epoll_ctl(2)).

    Handlers must stand events that are not true any more: a descriptor number may have been closed and
    reused by another handler of the same round.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Watch a descriptor; hang-up and error are reported even with `events` 0."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        if fd in self._handlers:
            self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Stop watching; call it before closing the descriptor. Twice is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def step(self, seconds: float | None = None) -> None:
        """Wait for events, at most so long, and handle them."""
        for fd, events in self._epoll.poll(seconds):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)

    def run_until(self, done: Callable[[], bool], seconds: float | None = None) -> bool:
        """Handle events until `done()`; false when the time ran out first."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not done():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.step(left)
        return True
