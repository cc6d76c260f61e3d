"""Small helpers for asyncio: background tasks that nobody loses, and work that a leaving client must not cut in two."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_working: set["asyncio.Task[Any]"] = set()

log = logging.getLogger(__name__)


def spawn(
    work: Coroutine[Any, Any, None], name: str, owner: "set[asyncio.Task[None]]"
) -> "asyncio.Task[None]":
    """Run in the background; `owner` keeps it alive, an unexpected failure is logged with its trace."""
    task = asyncio.create_task(work, name=name)
    owner.add(task)
    task.add_done_callback(lambda done: _finished(done, owner))
    return task


def _finished(task: "asyncio.Task[None]", owner: "set[asyncio.Task[None]]") -> None:
    owner.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.error("%s failed", task.get_name(), exc_info=error)


async def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Like await, but a cancelled caller (its client went away) lets the work finish first and is cancelled then."""
    task = asyncio.ensure_future(work)
    _working.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_working.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(_retrieve)
        raise


def _retrieve(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.info("work of a client that went away failed: %s", error)
