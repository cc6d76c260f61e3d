"""Statistics in the words of `runc events`."""

from __future__ import annotations

from typing import Any

from longshore.runtime import cgroups
from longshore.runtime.cgroup_stats import IoEntry, Stats


def statistics(cgroup: str) -> dict[str, Any]:
    """Raises NotFound when the group is gone."""
    stats = cgroups.stats(cgroup)
    return {
        "cpu": _cpu(stats),
        "memory": _memory(stats),
        "pids": {"current": stats.pids or 0, **({"limit": stats.pids_limit} if stats.pids_limit else {})},
        "blkio": {
            "ioServiceBytesRecursive": _entries(stats.io_bytes),
            "ioServicedRecursive": _entries(stats.io_operations),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _cpu(stats: Stats) -> dict[str, Any]:
    return {
        "usage": {
            "total": stats.cpu_total or 0,
            "kernel": stats.cpu_system or 0,
            "user": stats.cpu_user or 0,
        },
        "throttling": {
            "periods": stats.periods,
            "throttledPeriods": stats.throttled_periods,
            "throttledTime": stats.throttled_time,
        },
    }


def _memory(stats: Stats) -> dict[str, Any]:
    usage = {
        "limit": stats.memory_limit or 0,
        "usage": stats.memory_usage or 0,
        "max": stats.memory_peak or 0,
        "failcnt": stats.memory_failures,
    }
    return {
        "cache": stats.memory.get("cache", stats.memory.get("file", 0)),
        "usage": usage,
        "raw": stats.memory,
    }


def _entries(entries: tuple[IoEntry, ...]) -> list[dict[str, Any]]:
    return [
        {"major": each.major, "minor": each.minor, "op": each.op.capitalize(), "value": each.value}
        for each in entries
    ]
