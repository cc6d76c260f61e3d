"""How long a registry is waited for, and how often it is asked again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from longshore.errors import Unavailable

T = TypeVar("T")


class RetryError(Exception):
    """This attempt failed in a way that may pass.

    `after`: seconds that the registry asks for. `final`: asking again is of no use. `progressed`: this attempt brought
    something, so that it does not count as one more in vain.
    """

    def __init__(
        self, reason: str, after: float = 0.0, *, final: bool = False, progressed: bool = False
    ) -> None:
        super().__init__(reason)
        self.after, self.final, self.progressed = after, final, progressed


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, unless it says otherwise."""

    attempts: int = 5  # in a row that bring nothing, as dockerd's --max-download-attempts
    mirror_attempts: int = 2  # the registry itself is waiting
    first_wait: float = 0.5  # doubles each time
    longest_wait: float = 30.0  # a Retry-After beyond it is cut
    silence: float = 60.0  # between two packets
    document: float = 60.0  # for a whole manifest, config or token
    window: float = 60.0  # over which a download must not be slower than
    slowest: int = 1024  # bytes per second

    async def persist(
        self, once: Callable[[], Awaitable[T]], what: str, attempts: int, *, verb: str = "fetch"
    ) -> T:
        """Try until it works: 0.5 s doubling, or what Retry-After asks for. Raises Unavailable in the end."""
        wait, vain = self.first_wait, 0
        while True:
            try:
                return await once()
            except RetryError as failure:
                if failure.progressed:
                    wait, vain = self.first_wait, 0
                vain += 1
                if vain >= attempts or failure.final:
                    raise Unavailable(
                        f"failed to {verb} {what}",
                        detail=str(failure),
                        hint="check the name, the network and the registry, then try again",
                    ) from failure
                await asyncio.sleep(min(max(wait, failure.after), self.longest_wait))
                wait *= 2


class Pace:
    """Notices a registry that keeps a connection open and sends next to nothing."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since, self._bytes = time.monotonic(), 0

    def took(self, size: int) -> None:
        """Raises RetryError when the last window brought less than the slowest download may."""
        self._bytes += size
        passed = time.monotonic() - self._since
        if passed < self._patience.window:
            return
        if self._bytes < passed * self._patience.slowest:
            raise RetryError(f"the registry sent {self._bytes} bytes in {passed:.0f} s")
        self._since, self._bytes = time.monotonic(), 0


def retry_after(text: str) -> float:
    """Seconds of a Retry-After header, a number or a date (RFC 9110, section 10.2.3); 0 for none."""
    if text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, TypeError):
        return 0.0
