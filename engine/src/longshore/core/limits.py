"""Limits of create and update, judged with Docker's texts. Pure."""

import os
import re

from longshore.core.fields import about
from longshore.core.model import Resources
from longshore.errors import InvalidArgument

MIB = 1 << 20
SMALLEST_MEMORY = 6 * MIB  # Docker's floor: less does not start anything
MOST_PIDS = 4_194_304  # PID_MAX_LIMIT of 64-bit kernels; pids.max takes no more
RT_PERIOD = 1_000_000  # the kernel's own, sched(7)
_MOST_SHARES = 262_144  # what the kernel clamps to; runc refuses more

_ULIMITS = frozenset(
    {
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    }
)
_CPUSET = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))


def check_resources(limits: Resources, *, cpus: int) -> None:
    """Raises InvalidArgument naming the field."""
    _check_memory(limits)
    _check_cpu(limits, cpus)
    with about("HostConfig.CpusetCpus"):
        _check_cpuset(limits.cpuset_cpus, "CpusetCpus", cpus)
    with about("HostConfig.CpusetMems"):
        _check_cpuset(limits.cpuset_mems, "CpusetMems", 1024)
    if limits.pids_limit is not None and not -1 <= limits.pids_limit <= MOST_PIDS:
        raise InvalidArgument(f"invalid PidsLimit: {limits.pids_limit}")
    with about("HostConfig.Ulimits"):
        _check_ulimits(limits)
    _check_devices(limits)
    _check_disks(limits)
    parent = limits.cgroup_parent
    if ".." in parent.split("/") or re.search(r"[\0\n]", parent) or len(parent) > 1024:
        raise InvalidArgument(f"invalid CgroupParent {parent!r}")
    for field in ("cpu_count", "cpu_percent", "io_maximum_iops", "io_maximum_bandwidth"):
        if getattr(limits, field) < 0:
            raise InvalidArgument(f"invalid {field.replace('_', '')}: {getattr(limits, field)}")


def _check_cpu(limits: Resources, cpus: int) -> None:
    with about("HostConfig.NanoCpus"):
        if limits.nano_cpus < 0 or limits.nano_cpus > cpus * 10**9:
            raise InvalidArgument(
                f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )
        if limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
            other = "Period" if limits.cpu_period else "Quota"
            raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set.")
    with about("HostConfig.CpuPeriod"):
        if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
            raise InvalidArgument(
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
            )
    with about("HostConfig.CpuQuota"):
        if 0 < limits.cpu_quota < 1000:
            raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
        if limits.cpu_quota > 1 << 44:  # the kernel counts in nanoseconds, shifted by 20 bits
            raise InvalidArgument(f"CPU cfs quota {limits.cpu_quota} is too large")
    if not 0 <= limits.cpu_shares <= _MOST_SHARES:
        raise InvalidArgument(f"invalid CpuShares: {limits.cpu_shares}", hint=f"0 to {_MOST_SHARES}")
    period, runtime = limits.cpu_realtime_period, limits.cpu_realtime_runtime
    with about("HostConfig.CpuRealtimePeriod"):
        if period and not 1 <= period <= 1 << 31:
            raise InvalidArgument(f"invalid cpu real-time period {period}")
    with about("HostConfig.CpuRealtimeRuntime"):
        if runtime < 0:
            raise InvalidArgument(f"invalid cpu real-time runtime {runtime}")
        if runtime > (period or RT_PERIOD):
            raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_ulimits(limits: Resources) -> None:
    seen: set[str] = set()
    for ulimit in limits.ulimits or ():
        if ulimit.name not in _ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {ulimit.name}")
        if ulimit.name in seen:
            raise InvalidArgument(f"ulimit {ulimit.name} is given twice")
        seen.add(ulimit.name)
        if ulimit.hard < -1 or ulimit.soft < -1:
            raise InvalidArgument(f"invalid ulimit {ulimit.name}: {ulimit.soft}:{ulimit.hard}")
        if ulimit.hard != -1 and (ulimit.soft > ulimit.hard or ulimit.soft == -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )


def _check_devices(limits: Resources) -> None:
    with about("HostConfig.Devices"):
        for device in limits.devices or ():
            inside = device.path_in_container
            if not device.path_on_host.startswith("/") or "\0" in device.path_on_host:
                raise InvalidArgument(f"invalid device path {device.path_on_host!r}")
            if inside and (not inside.startswith("/") or "\0" in inside or ".." in inside.split("/")):
                raise InvalidArgument(f"invalid device path {inside!r}")
            if not set(device.cgroup_permissions) <= set("rwm"):
                raise InvalidArgument(f"invalid device permissions {device.cgroup_permissions!r}")
    with about("HostConfig.DeviceRequests"):
        for request in limits.device_requests or ():
            if request.count < -1:
                raise InvalidArgument(f"invalid device request: Count {request.count}")
            if request.count and request.device_ids:
                raise InvalidArgument("cannot set both Count and DeviceIDs on device request")


def _check_disks(limits: Resources) -> None:
    with about("HostConfig.BlkioWeight"):
        if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
            raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    with about("HostConfig.BlkioWeightDevice"):
        for weight in limits.blkio_weight_device or ():
            if not _is_path(weight.path) or not 10 <= weight.weight <= 1000:
                raise InvalidArgument(f"invalid weight for device: {weight.path}:{weight.weight}")
    for field, throttles in (
        ("BlkioDeviceReadBps", limits.blkio_device_read_bps),
        ("BlkioDeviceWriteBps", limits.blkio_device_write_bps),
        ("BlkioDeviceReadIOps", limits.blkio_device_read_iops),
        ("BlkioDeviceWriteIOps", limits.blkio_device_write_iops),
    ):
        for throttle in throttles or ():
            most = (1 << 32) - 1 if field.endswith("IOps") else (1 << 63) - 1
            if not _is_path(throttle.path) or not 0 < throttle.rate <= most:
                raise InvalidArgument(f"invalid rate for device in {field}: {throttle.path}:{throttle.rate}")


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text


def _check_memory(limits: Resources) -> None:
    memory, swap, reservation = limits.memory, limits.memory_swap, limits.memory_reservation
    with about("HostConfig.Memory"):
        if memory and memory < SMALLEST_MEMORY:
            raise InvalidArgument("Minimum memory limit allowed is 6MB")
    with about("HostConfig.MemorySwap"):
        if swap < -1:
            raise InvalidArgument(f"invalid MemorySwap: {swap}")
        if swap > 0 and not memory:
            raise InvalidArgument(
                "You should always set the Memory limit when using Memoryswap limit, see usage"
            )
        if 0 < swap < memory:
            raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    with about("HostConfig.MemoryReservation"):
        if reservation and reservation < SMALLEST_MEMORY:
            raise InvalidArgument("Minimum memory reservation allowed is 6MB")
        if reservation and memory and memory < reservation:
            raise InvalidArgument(
                "Minimum memory limit can not be less than memory reservation limit, see usage"
            )
    swappiness = limits.memory_swappiness
    with about("HostConfig.MemorySwappiness"):
        if swappiness is not None and not -1 <= swappiness <= 100:
            raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if limits.kernel_memory < 0 or limits.kernel_memory_tcp < 0:
        raise InvalidArgument("invalid KernelMemory or KernelMemoryTCP: less than 0")


def _check_cpuset(text: str, field: str, count: int) -> None:
    if not text:
        return
    if not _CPUSET.fullmatch(text):
        raise InvalidArgument(f"Invalid value {text} for cpuset {field}")
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if field == "CpusetCpus" and max(numbers) >= count:
        raise InvalidArgument(
            f"Requested CPUs are not available - requested {text}, available: 0-{count - 1}"
        )
    if field == "CpusetMems" and max(numbers) >= count:
        raise InvalidArgument(f"Requested memory nodes are not available - requested {text}")
    for first, last in re.findall(r"(\d+)-(\d+)", text):
        if int(first) > int(last):
            raise InvalidArgument(f"Invalid value {text} for cpuset {field}")
