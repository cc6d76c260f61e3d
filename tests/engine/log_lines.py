"""A log's lines one by one, for tests that look at each."""

from collections.abc import AsyncIterator
from typing import Any

from longshore.runtime.logfile import LogLine, read_batches


async def read_log(path: str, **options: Any) -> AsyncIterator[LogLine]:
    """`options` as `read_batches` has them."""
    async for batch in read_batches(path, **options):
        for line in batch:
            yield line
