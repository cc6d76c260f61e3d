"""Resources to cgroup files: what to write, in which order. Pure, one planner per cgroup version.

The kernel's file names are visible here and in the tables of cgroup_units, which tell systemd the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import BlockIo, Cpu, DeviceRule, Memory, Resources, ThrottleDevice
from longshore.runtime.device_rules import Policy, describe

_LEAST_QUOTA = 1000  # the kernel's floor: 1 ms
_NO_LIMIT = -1
_SHARES = (2, 262144)  # MIN_SHARES and MAX_SHARES of kernel/sched/sched.h
DOMAIN_CONTROLLERS = frozenset({"memory", "io", "hugetlb", "rdma", "misc"})
"""Controllers that a threaded group of v2 cannot have, cgroups(7)."""


@dataclass(frozen=True, slots=True)
class Write:
    """One value for one file.

    `optional`: a kernel without this file gives a warning instead of an error; `quiet`: not even that.
    `otherwise`: what to write instead on a kernel without this file.
    `retry`: refused with EINVAL it is written again after all others, because it depends on one of them.
    """

    controller: str
    file: str
    value: str
    optional: bool = False
    quiet: bool = False
    retry: bool = False
    otherwise: Write | None = None

    def describe(self) -> str:
        return f"{self.file} = {self.value}"


def check_resources(resources: Resources) -> None:
    """Refuse values that no kernel takes, before anything is written. Raises InvalidArgument."""
    memory, cpu = resources.memory or Memory(), resources.cpu or Cpu()
    if memory.swap and memory.swap > 0 and memory.limit and memory.swap < memory.limit:
        raise InvalidArgument(f"memory and swap limit {memory.swap} is below the memory limit {memory.limit}")
    if memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
        raise InvalidArgument(f"memory swappiness {memory.swappiness} is not between 0 and 100")
    if cpu.quota is not None and 0 < cpu.quota < _LEAST_QUOTA:
        raise InvalidArgument(f"cpu quota of {cpu.quota} us is too small", hint="use 1000 or more")
    if cpu.period and not 1000 <= cpu.period <= 1_000_000:
        raise InvalidArgument(f"cpu period of {cpu.period} us is not between 1000 and 1000000")
    if cpu.idle not in (None, 0, 1):
        raise InvalidArgument(f"cpu idle {cpu.idle} is neither 0 nor 1")
    _check_io(resources.block_io or BlockIo())
    for name, value in resources.unified.items():
        bad = "/" in name or "." not in name or name.startswith((".", "cgroup.")) or "\n" in value
        if bad:
            raise InvalidArgument(f'cgroup file "{name}" cannot be set')


def _check_io(io: BlockIo) -> None:
    weights = [io.weight, io.leaf_weight]
    weights += [weight for each in io.weight_device for weight in (each.weight, each.leaf_weight)]
    for weight in weights:
        if weight and not 10 <= weight <= 1000:
            raise InvalidArgument(f"block io weight {weight} is not between 10 and 1000")


def plan_v1(resources: Resources) -> list[Write]:
    """The writes for cgroup v1, in order; devices apart. Raises InvalidArgument."""
    check_resources(resources)
    if resources.unified:
        raise InvalidArgument("unified resources need cgroup v2")
    return [
        *_memory_v1(resources.memory or Memory()),
        *_cpu_v1(resources.cpu or Cpu()),
        *_pids(resources),
        *_blkio_v1(resources.block_io or BlockIo()),
        *_hugetlb(resources, "limit_in_bytes"),
        *_rdma(resources),
        *_network_v1(resources),
    ]


def _memory_v1(memory: Memory) -> Iterator[Write]:
    swap = memory.swap
    if memory.limit == _NO_LIMIT and not swap:
        swap = _NO_LIMIT  # else a smaller memory and swap limit of before would refuse it
    if memory.limit:
        yield Write("memory", "memory.limit_in_bytes", str(memory.limit))
    if swap:
        # Without swap accounting in the kernel there is no such file.
        yield Write("memory", "memory.memsw.limit_in_bytes", str(swap), optional=True, quiet=swap < 0)
    if memory.reservation:
        yield Write("memory", "memory.soft_limit_in_bytes", str(memory.reservation))
    if memory.swappiness is not None:
        yield Write("memory", "memory.swappiness", str(memory.swappiness))
    if memory.disable_oom_killer:
        yield Write("memory", "memory.oom_control", "1")


def order_memory_v1(plan: list[Write], limit_now: int) -> list[Write]:
    """The plan for a group whose memory limit is `limit_now`: memory <= memory+swap must hold after each write.

    So memory+swap goes first when the present limit is below its new value, as in runc.
    """
    swaps = [write for write in plan if write.file == "memory.memsw.limit_in_bytes"]
    if not swaps or not (int(swaps[0].value) < 0 or limit_now < int(swaps[0].value)):
        return plan
    return [*swaps, *(write for write in plan if write not in swaps)]


def _cpu_v1(cpu: Cpu) -> Iterator[Write]:
    if cpu.shares:
        if not _SHARES[0] <= cpu.shares <= _SHARES[1]:
            word, bound = ("minimum", _SHARES[0]) if cpu.shares < _SHARES[0] else ("maximum", _SHARES[1])
            raise InvalidArgument(f"the {word} allowed cpu-shares is {bound}")
        yield Write("cpu", "cpu.shares", str(cpu.shares))
    if cpu.period:
        yield Write("cpu", "cpu.cfs_period_us", str(cpu.period), retry=bool(cpu.quota))
    if cpu.burst is not None:
        yield Write("cpu", "cpu.cfs_burst_us", str(cpu.burst), optional=True, retry=bool(cpu.quota))
    if cpu.quota:
        yield Write("cpu", "cpu.cfs_quota_us", str(cpu.quota))
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle))
    if cpu.realtime_period:
        yield Write("cpu", "cpu.rt_period_us", str(cpu.realtime_period), retry=bool(cpu.realtime_runtime))
    if cpu.realtime_runtime:
        yield Write("cpu", "cpu.rt_runtime_us", str(cpu.realtime_runtime))
    if cpu.mems:
        yield Write("cpuset", "cpuset.mems", cpu.mems)
    if cpu.cpus:
        yield Write("cpuset", "cpuset.cpus", cpu.cpus)


def _pids(resources: Resources) -> Iterator[Write]:
    if resources.pids is not None and resources.pids.limit:
        limit = resources.pids.limit
        yield Write("pids", "pids.max", "max" if limit < 0 else str(limit))


def _blkio_v1(io: BlockIo) -> Iterator[Write]:
    """The weights are those of BFQ where the kernel has it, of CFQ on older ones."""

    def weight(file: str, value: str) -> Write:
        plain = Write("blkio", f"blkio.{file}", value, optional=True)
        return Write("blkio", f"blkio.bfq.{file}", value, otherwise=plain)

    if io.weight:
        yield weight("weight", str(io.weight))
    if io.leaf_weight:
        yield Write("blkio", "blkio.leaf_weight", str(io.leaf_weight), optional=True)
    for device in io.weight_device:
        numbers = f"{device.major}:{device.minor}"
        if device.weight:
            yield weight("weight_device", f"{numbers} {device.weight}")
        if device.leaf_weight:
            value = f"{numbers} {device.leaf_weight}"
            yield Write("blkio", "blkio.leaf_weight_device", value, optional=True)
    for file, devices in (
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device),
    ):
        for throttle in devices:
            yield Write("blkio", file, f"{throttle.major}:{throttle.minor} {throttle.rate}")


def _hugetlb(resources: Resources, file: str) -> Iterator[Write]:
    """Pages in use, and where the kernel counts them (Linux 5.7) also pages reserved by mmap."""
    for huge in resources.hugepage_limits:
        prefix = f"hugetlb.{huge.page_size}"
        yield Write("hugetlb", f"{prefix}.{file}", str(huge.limit))
        yield Write("hugetlb", f"{prefix}.rsvd.{file}", str(huge.limit), optional=True, quiet=True)


def _rdma(resources: Resources) -> Iterator[Write]:
    for device, limits in resources.rdma.items():
        pairs = (("hca_handle", limits.hca_handles), ("hca_object", limits.hca_objects))
        words = [f"{key}={value}" for key, value in pairs if value is not None]
        if words:
            yield Write("rdma", "rdma.max", " ".join([device, *words]))


def _network_v1(resources: Resources) -> Iterator[Write]:
    network = resources.network
    if network is None:
        return
    if network.class_id is not None:
        yield Write("net_cls", "net_cls.classid", str(network.class_id))
    for entry in network.priorities:
        yield Write("net_prio", "net_prio.ifpriomap", f"{entry.name} {entry.priority}")


def plan_devices_v1(policy: Policy) -> list[Write]:
    """For a new group, which has what its parent has: so "everything" needs no write, and inside of a container
    the kernel would refuse that write.
    """

    def write(rule: DeviceRule, value: str) -> Write:
        return Write("devices", "devices.allow" if rule.allow else "devices.deny", value, optional=True)

    everything = [] if policy.allow else [write(DeviceRule(False), "a")]
    return [*everything, *(write(rule, describe(rule)) for rule in policy.exceptions)]


def plan_v2(resources: Resources) -> list[Write]:
    """The writes for cgroup v2, in order; devices are a program, see cgroup_devices. Raises InvalidArgument."""
    check_resources(resources)
    return [
        *_memory_v2(resources.memory or Memory()),
        *_cpu_v2(resources.cpu or Cpu()),
        *_pids(resources),
        *_io_v2(resources.block_io or BlockIo()),
        *_hugetlb(resources, "max"),
        *_rdma(resources),
        *(Write(name.split(".")[0], name, value.strip()) for name, value in resources.unified.items()),
    ]


def ignored_v2(resources: Resources) -> list[str]:
    """Warnings about limits that only v1 knows."""
    memory, cpu = resources.memory or Memory(), resources.cpu or Cpu()
    told = {
        "memory swappiness": memory.swappiness is not None,
        "switching off the OOM killer": bool(memory.disable_oom_killer),
        "realtime scheduling limits": bool(cpu.realtime_period or cpu.realtime_runtime),
        "network classes and priorities": resources.network is not None,
    }
    return [f"cgroup v2 does not know {what}: not set" for what, wanted in told.items() if wanted]


def _bytes_v2(value: int) -> str:
    return "max" if value == _NO_LIMIT else str(value)


def _memory_v2(memory: Memory) -> Iterator[Write]:
    swap = _swap_v2(memory)
    if swap:
        # Without swap accounting there is no such file; nothing and everything are the same then.
        yield Write("memory", "memory.swap.max", swap, optional=True, quiet=swap in ("0", "max"))
    if memory.limit:
        yield Write("memory", "memory.max", _bytes_v2(memory.limit))
    if memory.reservation:
        yield Write("memory", "memory.low", _bytes_v2(memory.reservation))


def _swap_v2(memory: Memory) -> str:
    """v1 counts memory and swap together, v2 swap alone. "" leaves it as it is."""
    if not memory.swap:
        return "max" if memory.limit == _NO_LIMIT else ""
    if memory.swap < 0:
        return "max"
    if not memory.limit or memory.limit < 0:
        raise InvalidArgument("unable to set swap limit without memory limit")
    return str(memory.swap - memory.limit)


def _cpu_v2(cpu: Cpu) -> Iterator[Write]:
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle))
    if cpu.shares:
        yield Write("cpu", "cpu.weight", str(cpu_weight(cpu.shares)))
    if cpu.burst is not None:
        yield Write("cpu", "cpu.max.burst", str(cpu.burst), retry=bool(cpu.quota))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        yield Write("cpu", "cpu.max", f"{quota} {cpu.period or 100_000}")
    if cpu.cpus:
        yield Write("cpuset", "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        yield Write("cpuset", "cpuset.mems", cpu.mems)


def cpu_weight(shares: int) -> int:
    """Shares 2..262144 on the line of weights 1..10000."""
    least, most = _SHARES
    return 1 + (min(max(shares, least), most) - least) * 9999 // (most - least)


def io_weight(weight: int) -> int:
    """blkio weights 10..1000 on the line of io weights 1..10000."""
    return 1 + (weight - 10) * 9999 // 990


def _io_v2(io: BlockIo) -> Iterator[Write]:
    """The weights are those of BFQ where the kernel has it; elsewhere those of io.cost."""
    pairs = [("default", io.weight)]
    pairs += [(f"{device.major}:{device.minor}", device.weight) for device in io.weight_device]
    for name, weight in pairs:
        if weight:
            cost = Write("io", "io.weight", f"{name} {io_weight(weight)}", optional=True)
            yield Write("io", "io.bfq.weight", f"{name} {weight}", otherwise=cost)
    keys: tuple[tuple[str, tuple[ThrottleDevice, ...]], ...] = (
        ("rbps", io.throttle_read_bps_device),
        ("wbps", io.throttle_write_bps_device),
        ("riops", io.throttle_read_iops_device),
        ("wiops", io.throttle_write_iops_device),
    )
    for key, devices in keys:
        for throttle in devices:
            yield Write("io", "io.max", f"{throttle.major}:{throttle.minor} {key}={throttle.rate}")
