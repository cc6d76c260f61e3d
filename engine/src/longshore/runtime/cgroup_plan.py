"""Resources to cgroup files: what to write, in which order. Pure, one planner per cgroup version.

The kernel's file names are visible here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import BlockIo, Cpu, DeviceRule, Memory, Resources, ThrottleDevice

_LEAST_QUOTA = 1000  # the kernel's floor: 1 ms
_NO_LIMIT = -1


@dataclass(frozen=True, slots=True)
class Write:
    """`optional`: a kernel without this file gives a warning instead of an error."""

    controller: str
    file: str
    value: str
    optional: bool = False

    def describe(self) -> str:
        return f"{self.file} = {self.value}"


def check_resources(resources: Resources) -> None:
    """Refuse values that no kernel takes, before anything is written. Raises InvalidArgument."""
    memory, cpu = resources.memory or Memory(), resources.cpu or Cpu()
    if memory.swap is not None and memory.swap > 0:
        if not memory.limit or memory.limit < 0:
            raise InvalidArgument("a memory and swap limit needs a memory limit")
        if memory.swap < memory.limit:
            raise InvalidArgument(
                f"memory and swap limit {memory.swap} is below the memory limit {memory.limit}"
            )
    if memory.swappiness is not None and not 0 <= memory.swappiness <= 100:
        raise InvalidArgument(f"memory swappiness {memory.swappiness} is not between 0 and 100")
    if cpu.quota is not None and 0 < cpu.quota < _LEAST_QUOTA:
        raise InvalidArgument(f"cpu quota of {cpu.quota} us is too small", hint="use 1000 or more")
    if cpu.period and not 1000 <= cpu.period <= 1_000_000:
        raise InvalidArgument(f"cpu period of {cpu.period} us is not between 1000 and 1000000")
    io = resources.block_io or BlockIo()
    if io.weight and not 10 <= io.weight <= 1000:
        raise InvalidArgument(f"block io weight {io.weight} is not between 10 and 1000")
    for name, value in resources.unified.items():
        if "/" in name or name.startswith((".", "cgroup.")) or "\n" in value:
            raise InvalidArgument(f'cgroup file "{name}" cannot be set')


def plan_v1(resources: Resources) -> list[Write]:
    """The writes for cgroup v1, in order. Raises InvalidArgument."""
    check_resources(resources)
    if resources.unified:
        raise InvalidArgument("unified resources need cgroup v2")
    return [
        *_memory_v1(resources.memory or Memory()),
        *_cpu_v1(resources.cpu or Cpu()),
        *_pids(resources),
        *_blkio_v1(resources.block_io or BlockIo()),
        *_hugetlb_v1(resources),
        *_network_v1(resources),
        *_devices_v1(resources.devices),
    ]


def _memory_v1(memory: Memory) -> Iterator[Write]:
    if memory.limit:
        yield Write("memory", "memory.limit_in_bytes", str(memory.limit))
    if memory.swap:
        # Without swap accounting in the kernel there is no such file.
        yield Write("memory", "memory.memsw.limit_in_bytes", str(memory.swap), optional=True)
    if memory.reservation:
        yield Write("memory", "memory.soft_limit_in_bytes", str(memory.reservation))
    if memory.swappiness is not None:
        yield Write("memory", "memory.swappiness", str(memory.swappiness))
    if memory.disable_oom_killer:
        yield Write("memory", "memory.oom_control", "1")


def _cpu_v1(cpu: Cpu) -> Iterator[Write]:
    if cpu.shares:
        yield Write("cpu", "cpu.shares", str(cpu.shares))
    if cpu.period:
        yield Write("cpu", "cpu.cfs_period_us", str(cpu.period))
    if cpu.quota:
        yield Write("cpu", "cpu.cfs_quota_us", str(cpu.quota))
    if cpu.burst is not None:
        yield Write("cpu", "cpu.cfs_burst_us", str(cpu.burst))
    if cpu.realtime_period:
        yield Write("cpu", "cpu.rt_period_us", str(cpu.realtime_period))
    if cpu.realtime_runtime:
        yield Write("cpu", "cpu.rt_runtime_us", str(cpu.realtime_runtime))
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle))
    if cpu.mems:
        yield Write("cpuset", "cpuset.mems", cpu.mems)
    if cpu.cpus:
        yield Write("cpuset", "cpuset.cpus", cpu.cpus)


def _pids(resources: Resources) -> Iterator[Write]:
    if resources.pids is not None and resources.pids.limit:
        limit = resources.pids.limit
        yield Write("pids", "pids.max", "max" if limit < 0 else str(limit))


def _blkio_v1(io: BlockIo) -> Iterator[Write]:
    if io.weight:
        yield Write("blkio", "blkio.bfq.weight", str(io.weight), optional=True)
    for device in io.weight_device:
        yield Write("blkio", "blkio.bfq.weight_device", f"{device.major}:{device.minor} {device.weight}")
    for file, devices in (
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", io.throttle_write_iops_device),
    ):
        for throttle in devices:
            yield Write("blkio", file, f"{throttle.major}:{throttle.minor} {throttle.rate}")


def _hugetlb_v1(resources: Resources) -> Iterator[Write]:
    for huge in resources.hugepage_limits:
        yield Write("hugetlb", f"hugetlb.{huge.page_size}.limit_in_bytes", str(huge.limit))


def _network_v1(resources: Resources) -> Iterator[Write]:
    network = resources.network
    if network is None:
        return
    if network.class_id is not None:
        yield Write("net_cls", "net_cls.classid", str(network.class_id))
    for entry in network.priorities:
        yield Write("net_prio", "net_prio.ifpriomap", f"{entry.name} {entry.priority}")


def _devices_v1(rules: tuple[DeviceRule, ...]) -> Iterator[Write]:
    for rule in simplify(with_defaults(rules)):
        if is_everything(rule):
            value = "a"
        else:
            numbers = ":".join("*" if number is None else str(number) for number in (rule.major, rule.minor))
            value = f"{rule.type} {numbers} {rule.access}"
        yield Write("devices", "devices.allow" if rule.allow else "devices.deny", value, optional=True)


def is_everything(rule: DeviceRule) -> bool:
    return rule.type == "a" and rule.major is None and rule.minor is None and set(rule.access) >= set("rwm")


# What every container may use whatever its policy: nodes that are made for it, terminals, and making nodes
# (a node alone opens nothing). The same as runc adds.
DEFAULT_DEVICE_RULES = (
    DeviceRule(True, "c", None, None, "m"),
    DeviceRule(True, "b", None, None, "m"),
    *(
        DeviceRule(True, "c", major, minor, "rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    ),
)


def with_defaults(rules: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    """The policy of a container: its rules, then the defaults that it does not have yet. No rules: no policy."""
    if not simplify(rules):
        return rules
    return (*rules, *(rule for rule in DEFAULT_DEVICE_RULES if rule not in rules))


def simplify(rules: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    """The rules after the last one that is about everything; before it nothing counts.

    A new group inherits "everything" from its parent, so a leading "allow everything" needs no write, and
    the kernel refuses that write in a nested group.
    """
    for index in range(len(rules) - 1, -1, -1):
        if is_everything(rules[index]):
            return rules[index + 1 :] if rules[index].allow else rules[index:]
    return rules


def plan_v2(resources: Resources) -> list[Write]:
    """The writes for cgroup v2, in order; devices are a program, see cgroup_devices. Raises InvalidArgument."""
    check_resources(resources)
    return [
        *_memory_v2(resources.memory or Memory()),
        *_cpu_v2(resources.cpu or Cpu()),
        *_pids(resources),
        *_io_v2(resources.block_io or BlockIo()),
        *(
            Write("hugetlb", f"hugetlb.{huge.page_size}.max", str(huge.limit))
            for huge in resources.hugepage_limits
        ),
        *(Write(name.split(".")[0], name, value) for name, value in resources.unified.items()),
    ]


def _bytes_v2(value: int) -> str:
    return "max" if value == _NO_LIMIT else str(value)


def _memory_v2(memory: Memory) -> Iterator[Write]:
    if memory.limit:
        yield Write("memory", "memory.max", _bytes_v2(memory.limit))
    if memory.swap:
        # v1 counts memory and swap together, v2 swap alone.
        value = "max" if memory.swap < 0 else str(memory.swap - (memory.limit or 0))
        yield Write("memory", "memory.swap.max", value, optional=True)
    if memory.reservation:
        yield Write("memory", "memory.low", _bytes_v2(memory.reservation))


def _cpu_v2(cpu: Cpu) -> Iterator[Write]:
    if cpu.idle is not None:
        yield Write("cpu", "cpu.idle", str(cpu.idle))
    if cpu.shares:
        yield Write("cpu", "cpu.weight", str(cpu_weight(cpu.shares)))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        yield Write("cpu", "cpu.max", f"{quota} {cpu.period or 100_000}")
    if cpu.burst is not None:
        yield Write("cpu", "cpu.max.burst", str(cpu.burst))
    if cpu.cpus:
        yield Write("cpuset", "cpuset.cpus", cpu.cpus)
    if cpu.mems:
        yield Write("cpuset", "cpuset.mems", cpu.mems)


def cpu_weight(shares: int) -> int:
    """Shares 2..262144 on the line of weights 1..10000."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def io_weight(weight: int) -> int:
    """blkio weights 10..1000 on the line of io weights 1..10000."""
    return 1 + (weight - 10) * 9999 // 990


def _io_v2(io: BlockIo) -> Iterator[Write]:
    if io.weight:
        yield Write("io", "io.weight", f"default {io_weight(io.weight)}", optional=True)
    for device in io.weight_device:
        if device.weight:
            yield Write(
                "io", "io.weight", f"{device.major}:{device.minor} {io_weight(device.weight)}", optional=True
            )
    keys: tuple[tuple[str, tuple[ThrottleDevice, ...]], ...] = (
        ("rbps", io.throttle_read_bps_device),
        ("wbps", io.throttle_write_bps_device),
        ("riops", io.throttle_read_iops_device),
        ("wiops", io.throttle_write_iops_device),
    )
    for key, devices in keys:
        for throttle in devices:
            yield Write("io", "io.max", f"{throttle.major}:{throttle.minor} {key}={throttle.rate}")
