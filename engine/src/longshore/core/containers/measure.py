"""What a running container does: its processes (`top`) and its counters (`stats`)."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from longshore.core.clock import now
from longshore.core.containers.container import Container
from longshore.core.containers.launch import cgroup_of
from longshore.core.containers.parts import Parts
from longshore.errors import Conflict, EngineError, InvalidArgument, Unsupported
from longshore.runtime import cgroups
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroup_stats import IoEntry, Stats

PS_SECONDS = 10.0
_NO_TIME = "0001-01-01T00:00:00Z"


def filter_table(text: str, pids: frozenset[int]) -> tuple[list[str], list[list[str]]]:
    """The titles and those rows of ps's output whose PID is wanted. The last column may hold blanks. Pure.

    Raises InvalidArgument when there is no PID column.
    """
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows: list[list[str]] = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(fields)
    return titles, rows


class Measures:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def top(self, container: Container, arguments: str) -> dict[str, Any]:
        """The host's `ps`, filtered to the container's processes; a plain table from /proc where there is no ps."""
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        pids = frozenset(await asyncio.to_thread(cgroups.processes, cgroup_of(container)))
        words = arguments.split() or ["-ef"]
        if any(not set(word) <= _PS_LETTERS for word in words):
            raise InvalidArgument(f"invalid ps arguments {arguments!r}")
        try:
            text = await _ps(words)
        except FileNotFoundError:
            titles, rows = await asyncio.to_thread(_proc_table, sorted(pids))
        else:
            titles, rows = filter_table(text, pids)
        return {"Titles": titles, "Processes": rows}

    async def stats(self, container: Container) -> dict[str, Any]:
        base: dict[str, Any] = {
            "read": now() if container.running else _NO_TIME,
            "preread": _NO_TIME,
            "pids_stats": {},
            "blkio_stats": dict.fromkeys(_BLKIO),
            "num_procs": 0,
            "storage_stats": {},
            "cpu_stats": _NO_CPU,
            "precpu_stats": _NO_CPU,
            "memory_stats": {},
            "name": f"/{container.name}",
            "id": container.id,
        }
        if not container.running:
            return base
        shares_host = (
            container.record.host_config.network_mode == "host"
        )  # whose devices are not the container's
        pid = 0 if shares_host else container.state.pid
        try:
            return base | await asyncio.to_thread(_sample, cgroup_of(container), pid)
        except EngineError:
            return base  # it has just ended


_PS_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-,=_%:+")


async def _ps(words: Sequence[str]) -> str:
    """Raises FileNotFoundError without ps, InvalidArgument with its words when it refuses the arguments."""
    process = await asyncio.create_subprocess_exec(
        "ps",
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(PS_SECONDS):
            out, err = await process.communicate()
    except TimeoutError as cause:
        process.kill()
        raise Unsupported("ps does not end") from cause
    if process.returncode:
        raise InvalidArgument(f"ps: {err.decode(errors='replace').strip()[:300]}")
    return out.decode(errors="replace")


def _proc_table(pids: Sequence[int]) -> tuple[list[str], list[list[str]]]:
    rows: list[list[str]] = []
    for pid in pids:
        try:
            folder = Path(f"/proc/{pid}")
            stat = (folder / "stat").read_text(errors="replace")
            fields = stat[stat.rindex(")") + 2 :].split()
            command = (
                (folder / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
            )
            name = stat[stat.index("(") + 1 : stat.rindex(")")]
            ticks = (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")
            spent = f"{ticks // 3600:02}:{ticks // 60 % 60:02}:{ticks % 60:02}"
            rows.append([str(folder.stat().st_uid), str(pid), fields[1], spent, command or f"[{name}]"])
        except (OSError, ValueError):
            continue  # it has just ended
    return ["UID", "PID", "PPID", "TIME", "CMD"], rows


_BLKIO = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def view(counted: Stats, *, v2: bool, host_cpu: int, host_memory: int) -> dict[str, Any]:
    """The kernel's counters in Docker's form, which differs between cgroup v1 and v2. Pure.

    v1 alone has `percpu_usage`, `max_usage` and operations of block devices, with their names as the kernel writes them;
    v2 leaves the other lists of blkio null, v1 leaves them empty.
    """
    usage: dict[str, Any] = {
        "total_usage": counted.cpu_total or 0,
        "usage_in_kernelmode": counted.cpu_system or 0,
        "usage_in_usermode": counted.cpu_user or 0,
    }
    if counted.cpu_each and not v2:
        usage["percpu_usage"] = list(counted.cpu_each)
    memory: dict[str, Any] = {"usage": counted.memory_usage or 0, "stats": counted.memory}
    if not v2:
        memory["max_usage"] = counted.memory_peak or 0
    if counted.memory_failures:
        memory["failcnt"] = counted.memory_failures
    limit = counted.memory_limit or host_memory
    memory["limit"] = min(limit, host_memory)
    blkio: dict[str, Any] = dict.fromkeys(_BLKIO) if v2 else {name: [] for name in _BLKIO}
    blkio["io_service_bytes_recursive"] = _entries(counted.io_bytes) or (None if v2 else [])
    if not v2:
        blkio["io_serviced_recursive"] = _entries(counted.io_operations)
    pids = {"current": counted.pids or 0} | ({"limit": counted.pids_limit} if counted.pids_limit else {})
    return {
        "pids_stats": pids,
        "blkio_stats": blkio,
        "num_procs": 0,  # only Windows has it
        "cpu_stats": {
            "cpu_usage": usage,
            "system_cpu_usage": host_cpu,
            "online_cpus": os.cpu_count() or 1,
            "throttling_data": {
                "periods": counted.periods,
                "throttled_periods": counted.throttled_periods,
                "throttled_time": counted.throttled_time,
            },
        },
        "memory_stats": memory,
    }


def _entries(entries: Sequence[IoEntry]) -> list[dict[str, Any]]:
    return [
        {"major": entry.major, "minor": entry.minor, "op": entry.op, "value": entry.value}
        for entry in entries
    ]


def _sample(cgroup: str, pid: int) -> dict[str, Any]:
    """Raises EngineError when the container has just ended."""
    counted = cgroups.stats(cgroup)
    sample = view(counted, v2=layout().pure_v2, host_cpu=host_cpu(), host_memory=host_memory())
    if pid:
        try:
            with open(f"/proc/{pid}/net/dev") as file:
                networks = network_counters(file.read())
        except OSError:
            networks = {}  # it has just ended
        if networks:
            sample["networks"] = networks
    return sample


def host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def host_cpu() -> int:
    """Nanoseconds that all processors have spent, from /proc/stat, as the stats of Docker count them."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, fields)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def network_counters(text: str) -> dict[str, dict[str, int]]:
    """/proc/<pid>/net/dev as the API shows it, without the loopback. Pure."""
    result: dict[str, dict[str, int]] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        fields = [int(field) for field in rest.split()]
        if name.strip() != "lo" and len(fields) >= 12:
            result[name.strip()] = {
                "rx_bytes": fields[0],
                "rx_packets": fields[1],
                "rx_errors": fields[2],
                "rx_dropped": fields[3],
                "tx_bytes": fields[8],
                "tx_packets": fields[9],
                "tx_errors": fields[10],
                "tx_dropped": fields[11],
            }
    return result


async def sample_pairs(
    sample: Callable[[Container], Awaitable[dict[str, Any]]],
    container: Container,
    *,
    once: bool = False,
    first_alone: bool = False,
) -> AsyncGenerator[dict[str, Any], None]:
    """Samples with the one before as "preread" and "precpu_stats", one a second until the container is removed.

    `once`: the first sample alone, at once. `first_alone`: a stream, whose first sample has nothing before it.
    """
    before = await sample(container)
    if once or first_alone:
        yield before
    while not once and not container.removed:
        if not container.running and not first_alone:
            yield before
            return
        await asyncio.sleep(1)
        after = await sample(container)
        yield after | {"preread": before["read"], "precpu_stats": before["cpu_stats"]}
        before = after
