"""Threads for what blocks on the disk or hashes.

Not the event loop's own: inside the daemon a flood of pushes must not keep containers waiting for a thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_pool = ThreadPoolExecutor(16, "registry")  # they start when they are needed


async def in_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As asyncio.to_thread. Raises what `work` raises."""
    return await asyncio.get_running_loop().run_in_executor(_pool, partial(work, *arguments, **named))
