"""Limits that depend on the machine's cgroups: what is discarded with a warning, what is refused, real-time budgets."""

import os
import posixpath
from pathlib import Path

from longshore.core.limits import RT_PERIOD
from longshore.core.model import HostConfig, Resources
from longshore.errors import InvalidArgument
from longshore.runtime.cgroup_layout import Hierarchy, Layout


def warnings_of(host: HostConfig, where: Layout) -> list[str]:
    """What create answers in Warnings, in dockerd's words."""
    found: list[str] = []
    if host.kernel_memory or host.kernel_memory_tcp:
        found.append("Kernel memory limits are not supported by current kernels. Limitation discarded.")
    if host.memory_swappiness not in (None, -1) and where.pure_v2:
        found.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded."
        )
    if host.oom_kill_disable and where.pure_v2:
        found.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
    elif host.oom_kill_disable and not host.memory:
        found.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )
    return found


def check_realtime(limits: Resources, where: Layout) -> None:
    """Raises InvalidArgument in dockerd's words where the scheduler has no real-time groups."""
    if not limits.cpu_realtime_period and not limits.cpu_realtime_runtime:
        return
    cpu = where.find("cpu")
    if cpu is None or not Path(cpu.mount, "cpu.rt_runtime_us").exists():
        field = "period" if limits.cpu_realtime_period else "runtime"
        raise InvalidArgument(
            f"Your kernel does not support CPU real-time {field}",
            detail="in HostConfig.CpuRealtimeRuntime and CpuRealtimePeriod",
            hint="it needs cgroup v1 and CONFIG_RT_GROUP_SCHED",
        )


def lend_realtime(limits: Resources, cgroup: str, where: Layout) -> None:
    """Give the groups above `cgroup` as much real-time as all below them may ask for (sched-rt-group.rst).

    New groups have none, and a group cannot have more than its parent. Raises InvalidArgument when the root has
    no more to give. Twice is fine.
    """
    cpu = where.find("cpu")
    if not limits.cpu_realtime_runtime or cpu is None:
        return
    wanted = limits.cpu_realtime_runtime / (limits.cpu_realtime_period or RT_PERIOD)
    parents = [cgroup]
    while posixpath.dirname(parents[-1]) not in ("", "/"):
        parents.append(posixpath.dirname(parents[-1]))
    for path in reversed(parents[1:]):
        folder = Path(cpu.path(path))
        folder.mkdir(parents=True, exist_ok=True)
        others = sum(
            _share(child) for child in folder.iterdir() if child.is_dir() and child != _own(cpu, cgroup)
        )
        period = int(_read(folder / "cpu.rt_period_us") or RT_PERIOD)
        needed = round((wanted + others) * period)
        if int(_read(folder / "cpu.rt_runtime_us") or 0) >= needed:
            continue
        try:
            (folder / "cpu.rt_runtime_us").write_text(str(needed))
        except OSError as cause:
            raise InvalidArgument(
                f"CpuRealtimeRuntime {limits.cpu_realtime_runtime} is more than this machine has left",
                detail=f"{folder}: {os.strerror(cause.errno or 0).lower()}",
                hint="see /sys/fs/cgroup/cpu/cpu.rt_runtime_us and sysctl kernel.sched_rt_runtime_us",
            ) from cause


def _own(cpu: Hierarchy, cgroup: str) -> Path:
    return Path(cpu.path(cgroup))


def _share(folder: Path) -> float:
    period = int(_read(folder / "cpu.rt_period_us") or RT_PERIOD)
    return int(_read(folder / "cpu.rt_runtime_us") or 0) / period


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
