"""What a container uses, read from its cgroups: the same values on v1, hybrid and v2."""

from __future__ import annotations

import msgspec

from longshore.errors import NotFound
from longshore.kernel import cgroups as files
from longshore.runtime.cgroup_layout import Layout

_NO_LIMIT = 1 << 62  # v1 says "no limit" with the largest number of pages


class IoEntry(msgspec.Struct, frozen=True):
    major: int
    minor: int
    op: str  # v1: Read, Write, Sync, Async, Discard, Total; v2: read, write
    value: int


class Stats(msgspec.Struct, frozen=True):
    """Times in nanoseconds, sizes in bytes. None: this machine does not count it, or there is no limit."""

    cpu_total: int | None = None
    cpu_user: int | None = None
    cpu_system: int | None = None
    cpu_each: tuple[int, ...] = ()  # per processor, v1 only
    throttled_periods: int = 0
    throttled_time: int = 0
    periods: int = 0
    memory_usage: int | None = None
    memory_limit: int | None = None
    memory_peak: int | None = None
    memory_failures: int = 0
    memory: dict[str, int] = {}  # memory.stat as the kernel names it
    pids: int | None = None
    pids_limit: int | None = None
    io_bytes: tuple[IoEntry, ...] = ()
    io_operations: tuple[IoEntry, ...] = ()


def read_stats(where: Layout, cgroup: str) -> Stats:
    """Raises NotFound when the container's group is gone."""
    return _read_v2(where.hierarchies[0].path(cgroup)) if where.pure_v2 else _read_v1(where, cgroup)


def _number(path: str) -> int | None:
    try:
        text = files.read(path).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _numbers(path: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, files.read(path).split()))
    except (OSError, ValueError):
        return ()


def _pairs(path: str) -> dict[str, int]:
    try:
        return files.read_pairs(path)
    except OSError:
        return {}


def _read_v1(where: Layout, cgroup: str) -> Stats:
    def path(controller: str) -> str:
        hierarchy = where.find(controller)
        return hierarchy.path(cgroup) if hierarchy else "/nonexistent"

    memory, pids, cpu, account, blkio = map(path, ("memory", "pids", "cpu", "cpuacct", "blkio"))
    throttling = _pairs(f"{cpu}/cpu.stat")
    total = _number(f"{account}/cpuacct.usage")
    usage = _number(f"{memory}/memory.usage_in_bytes")
    if total is None and usage is None:
        raise NotFound(f'cgroup "{cgroup}" does not exist')
    return Stats(
        cpu_total=total,
        cpu_user=_number(f"{account}/cpuacct.usage_user"),
        cpu_system=_number(f"{account}/cpuacct.usage_sys"),
        cpu_each=_numbers(f"{account}/cpuacct.usage_percpu"),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled_time=throttling.get("throttled_time", 0),
        periods=throttling.get("nr_periods", 0),
        memory_usage=usage,
        memory_limit=_number(f"{memory}/memory.limit_in_bytes"),
        memory_peak=_number(f"{memory}/memory.max_usage_in_bytes"),
        memory_failures=_number(f"{memory}/memory.failcnt") or 0,
        memory=_pairs(f"{memory}/memory.stat"),
        pids=_number(f"{pids}/pids.current"),
        pids_limit=_number(f"{pids}/pids.max"),
        io_bytes=_blkio(f"{blkio}/blkio.throttle.io_service_bytes_recursive"),
        io_operations=_blkio(f"{blkio}/blkio.throttle.io_serviced_recursive"),
    )


def _blkio(path: str) -> tuple[IoEntry, ...]:
    try:
        text = files.read(path)
    except OSError:
        return ()
    return parse_blkio(text)


def parse_blkio(text: str) -> tuple[IoEntry, ...]:
    """Lines like "254:0 Read 4096" of cgroup v1, the sums of each device ("Total") included. Pure."""
    entries: list[IoEntry] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2].isdigit():
            major, _colon, minor = words[0].partition(":")
            entries.append(IoEntry(int(major), int(minor), words[1], int(words[2])))
    return tuple(entries)


def parse_io_stat(text: str) -> tuple[tuple[IoEntry, ...], tuple[IoEntry, ...]]:
    """Bytes and operations from lines like "254:0 rbytes=1 wbytes=2 rios=3 wios=4" of cgroup v2. Pure."""
    sizes: list[IoEntry] = []
    counts: list[IoEntry] = []
    for line in text.splitlines():
        device, *values = line.split()
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        pairs = dict(value.split("=", 1) for value in values if "=" in value)
        for key, op, entries in (
            ("rbytes", "read", sizes),
            ("wbytes", "write", sizes),
            ("rios", "read", counts),
            ("wios", "write", counts),
        ):
            if key in pairs:
                entries.append(IoEntry(int(major), int(minor), op, int(pairs[key])))
    return tuple(sizes), tuple(counts)


def _read_v2(path: str) -> Stats:
    try:
        cpu = files.read_pairs(f"{path}/cpu.stat")
    except OSError as cause:
        raise NotFound(f'cgroup "{path}" does not exist') from cause
    try:
        io_bytes, io_operations = parse_io_stat(files.read(f"{path}/io.stat"))
    except OSError:
        io_bytes, io_operations = (), ()
    return Stats(
        cpu_total=cpu.get("usage_usec", 0) * 1000,
        cpu_user=cpu.get("user_usec", 0) * 1000,
        cpu_system=cpu.get("system_usec", 0) * 1000,
        throttled_periods=cpu.get("nr_throttled", 0),
        throttled_time=cpu.get("throttled_usec", 0) * 1000,
        periods=cpu.get("nr_periods", 0),
        memory_usage=_number(f"{path}/memory.current"),
        memory_limit=_number(f"{path}/memory.max"),
        memory_peak=_number(f"{path}/memory.peak"),
        memory_failures=_pairs(f"{path}/memory.events").get("max", 0),
        memory=_pairs(f"{path}/memory.stat"),
        pids=_number(f"{path}/pids.current"),
        pids_limit=_number(f"{path}/pids.max"),
        io_bytes=io_bytes,
        io_operations=io_operations,
    )
