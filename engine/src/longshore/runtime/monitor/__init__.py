"""The monitor: one process per run of a container. It owns the streams, the log and the exit record.

A single-threaded epoll loop without asyncio and without logging, forked from the warm zygote, so that an
idle container costs about one MB and no wake-ups.
"""

from longshore.runtime.monitor.monitor import run_monitor

__all__ = ["run_monitor"]
