"""Work that several builds want at the same time is done once: the others wait for it and hear what it says."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E")

Listener = Callable[[E], Awaitable[None]]
_REPEATED = 2000  # events that who comes later still hears


class _Flight(Generic[T, E]):
    def __init__(self) -> None:
        self.said: list[E] = []
        self.listeners: list[Listener[E]] = []
        self.task: asyncio.Task[T] | None = None
        self.waiting = 0

    async def say(self, event: E) -> None:
        """A listener that is slow makes the work wait."""
        if len(self.said) < _REPEATED:
            self.said.append(event)
        for listener in tuple(self.listeners):
            await listener(event)


class Flights(Generic[T, E]):
    """By key. Used from the event loop."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T, E]] = {}

    async def join(
        self, key: str, work: Callable[[Listener[E]], Awaitable[T]], listener: Listener[E]
    ) -> T:
        """The result of `work(say)`, begun by whoever comes first; the others hear what was said so far, and go on.

        When the last one is cancelled, so is the work. Raises what the work raises.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.listeners.append(listener)
            flight.task = asyncio.ensure_future(work(flight.say))
            flight.task.add_done_callback(lambda _done, begun=flight: self._landed(key, begun))
            heard = None
        else:
            heard = 0
        assert flight.task is not None
        flight.waiting += 1
        try:
            while heard is not None:
                if heard == len(flight.said):
                    flight.listeners.append(listener)
                    break
                heard += 1
                await listener(flight.said[heard - 1])
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if listener in flight.listeners:
                flight.listeners.remove(listener)
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                await asyncio.wait([flight.task])

    def _landed(self, key: str, flight: _Flight[T, E]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if flight.task is not None and not flight.task.cancelled():
            flight.task.exception()  # somebody has looked at it, should all have gone
