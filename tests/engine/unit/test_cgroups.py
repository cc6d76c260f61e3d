"""Cgroup plans for each version, the layout of machines, and the device program, run by a tiny interpreter."""

import struct

import pytest

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import (
    BlockIo,
    Cpu,
    DeviceRule,
    HugepageLimit,
    Linux,
    Memory,
    Pids,
    Resources,
    Spec,
    ThrottleDevice,
)
from longshore.runtime.cgroup_devices import assemble
from longshore.runtime.cgroup_layout import parse_layout
from longshore.runtime.cgroup_plan import is_everything, plan_v1, plan_v2, simplify
from longshore.runtime.cgroup_stats import parse_blkio, parse_io_stat
from longshore.runtime.cgroups import cgroup_path

FULL = Resources(
    memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20, swappiness=10),
    cpu=Cpu(shares=1024, quota=50000, period=100000, cpus="0-1", mems="0"),
    pids=Pids(100),
    block_io=BlockIo(weight=500, throttle_read_bps_device=(ThrottleDevice(8, 0, 1000),)),
    hugepage_limits=(HugepageLimit("2MB", 4 << 20),),
)


def test_v1_files() -> None:
    assert [(write.file, write.value) for write in plan_v1(FULL)] == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "100663296"),
        ("memory.soft_limit_in_bytes", "33554432"),
        ("memory.swappiness", "10"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpuset.mems", "0"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "100"),
        ("blkio.bfq.weight", "500"),
        ("blkio.throttle.read_bps_device", "8:0 1000"),
        ("hugetlb.2MB.limit_in_bytes", "4194304"),
    ]


def test_v2_files() -> None:
    assert [(write.file, write.value) for write in plan_v2(FULL)] == [
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("memory.low", "33554432"),
        ("cpu.weight", "39"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 rbps=1000"),
        ("hugetlb.2MB.max", "4194304"),
    ]


def test_no_limits_write_nothing() -> None:
    empty = Resources(memory=Memory(), cpu=Cpu(), pids=Pids(0), block_io=BlockIo())
    assert plan_v1(empty) == plan_v2(empty) == []


def test_unlimited_words() -> None:
    free = Resources(memory=Memory(limit=-1, swap=-1), cpu=Cpu(quota=-1), pids=Pids(-1))
    assert [write.value for write in plan_v1(free)] == ["-1", "-1", "-1", "max"]
    assert [write.value for write in plan_v2(free)] == ["max", "max", "max 100000", "max"]


BAD = [
    Resources(memory=Memory(swap=1 << 20)),
    Resources(memory=Memory(limit=2 << 20, swap=1 << 20)),
    Resources(memory=Memory(swappiness=101)),
    Resources(cpu=Cpu(quota=999)),
    Resources(cpu=Cpu(period=999)),
    Resources(block_io=BlockIo(weight=5)),
    Resources(unified={"cgroup.procs": "1"}),
    Resources(unified={"../x": "1"}),
    Resources(unified={"memory.high": "1\n2"}),
]


@pytest.mark.parametrize("resources", BAD)
def test_bad_values_are_refused_before_any_write(resources: Resources) -> None:
    for planner in (plan_v1, plan_v2):
        with pytest.raises(InvalidArgument):
            planner(resources)


def test_unified_values_need_v2() -> None:
    resources = Resources(unified={"memory.high": "100"})
    assert [(write.controller, write.file) for write in plan_v2(resources)] == [("memory", "memory.high")]
    with pytest.raises(InvalidArgument):
        plan_v1(resources)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "/longshore/abc"),
        ("/docker/abc", "/docker/abc"),
        ("relative/abc", "/relative/abc"),
        ("/a/../../b", "/b"),
        ("system.slice:longshore:abc", "/system.slice/longshore-abc.scope"),
    ],
)
def test_group_names(path: str, expected: str) -> None:
    assert cgroup_path(Spec(linux=Linux(cgroups_path=path)), "abc") == expected


@pytest.mark.parametrize("path", ["/", "/..", "/a/..", "a\nb"])
def test_the_root_group_is_nobodys(path: str) -> None:
    with pytest.raises(InvalidArgument):
        cgroup_path(Spec(linux=Linux(cgroups_path=path)), "abc")


V1 = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
35 99 0:30 / /elsewhere/memory rw,relatime - cgroup cgroup rw,memory
"""
UNIFIED = "38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def test_layouts() -> None:
    v1 = parse_layout(V1, {})
    assert [each.name for each in v1.used()] == ["cpu,cpuacct", "memory", "systemd"]
    assert (v1.version, v1.pure_v2) == ("1", False)
    memory = v1.find("memory")
    assert memory is not None and memory.path("/longshore/x") == "/sys/fs/cgroup/memory/longshore/x"
    assert v1.find("pids") is None

    idle = parse_layout(V1 + UNIFIED, {"/sys/fs/cgroup/unified": ("hugetlb",)})
    assert [each.name for each in idle.used()] == ["cpu,cpuacct", "memory", "systemd"]
    mixed = parse_layout(V1 + UNIFIED, {"/sys/fs/cgroup/unified": ("pids",)})
    pids = mixed.find("pids")
    assert pids is not None and pids.version == 2 and not mixed.pure_v2

    v2 = parse_layout(V2, {"/sys/fs/cgroup": ("cpu", "memory")})
    assert (v2.version, v2.pure_v2) == ("2", True)


DENY = DeviceRule(allow=False)
NULL = DeviceRule(True, "c", 1, 3, "rwm")
MKNOD = DeviceRule(True, "c", None, None, "m")
NO_WRITE = DeviceRule(False, "c", 1, 3, "w")
DISK = DeviceRule(False, "b", None, None, "rwm")
PTS = DeviceRule(True, "c", 136, None, "rw")
ALL = DeviceRule(allow=True)


def test_rules_before_everything_do_not_count() -> None:
    assert simplify((NULL, DENY, PTS)) == (DENY, PTS)
    assert simplify((DENY, NULL, ALL)) == ()
    assert simplify((ALL, DISK)) == (DISK,)


def test_default_devices_follow_a_policy_and_only_a_policy() -> None:
    values = [write.value for write in plan_v1(Resources(devices=(DENY, PTS, NULL)))]
    assert values[:3] == ["a", "c 136:* rw", "c 1:3 rwm"]
    assert values.count("c 1:3 rwm") == 1 and "c 5:0 rwm" in values
    assert plan_v1(Resources(devices=(ALL,))) == plan_v1(Resources()) == []


def execute(program: bytes, kind: int, access: int, major: int, minor: int) -> int:
    """An interpreter for the few instructions that the assembler knows; follows linux/bpf.h."""
    context = struct.pack("<III", access << 16 | kind, major, minor)
    code = [struct.unpack_from("<BBhi", program, at) for at in range(0, len(program), 8)]
    registers: dict[int, int] = {1: 0}
    at = 0
    while True:
        opcode, pair, offset, value = code[at]
        target, source = pair & 15, pair >> 4
        at += 1
        match opcode:
            case 0x61:
                registers[target] = struct.unpack_from("<I", context, offset)[0]
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0xB4:
                registers[target] = value
            case 0xBC:
                registers[target] = registers[source]
            case 0x56:
                at += offset if registers[target] != value else 0
            case 0x16:
                at += offset if registers[target] == value else 0
            case 0x5E:
                at += offset if registers[target] != registers[source] else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(hex(opcode))


BLOCK, CHAR = 1, 2
M, R, W = 1, 2, 4
DECISIONS = [
    ((DENY, NULL), CHAR, R | W, 1, 3, 1),
    ((DENY, NULL), CHAR, R, 1, 5, 0),
    ((DENY, NULL), BLOCK, R, 1, 3, 0),
    ((DENY, MKNOD), CHAR, M, 10, 200, 1),
    ((DENY, MKNOD), CHAR, M | R, 10, 200, 0),
    ((DENY, MKNOD), BLOCK, M, 8, 0, 0),
    ((DENY, PTS), CHAR, R | W, 136, 7, 1),
    ((DENY, PTS), CHAR, M, 136, 7, 0),
    ((DENY, NULL, NO_WRITE), CHAR, R, 1, 3, 1),
    ((DENY, NULL, NO_WRITE), CHAR, R | W, 1, 3, 0),
    ((DENY, NULL, NO_WRITE), CHAR, W, 1, 3, 0),
    ((ALL, DISK), BLOCK, R, 8, 0, 0),
    ((ALL, DISK), CHAR, R | W | M, 8, 0, 1),
    ((DISK,), CHAR, R, 5, 0, 1),
]


@pytest.mark.parametrize(("rules", "kind", "access", "major", "minor", "expected"), DECISIONS)
def test_the_device_program(
    rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int, expected: int
) -> None:
    kept = simplify(rules)
    program = assemble(kept, default_allow=not (kept and is_everything(kept[0])))
    assert execute(program, kind, access, major, minor) == expected


def test_io_counters() -> None:
    v1 = parse_blkio("8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\nTotal 30\n")
    assert [(entry.major, entry.op, entry.value) for entry in v1] == [(8, "read", 10), (8, "write", 20)]
    sizes, counts = parse_io_stat("254:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n")
    assert [entry.value for entry in sizes] == [1, 2]
    assert [entry.value for entry in counts] == [3, 4]
