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
    NetworkResources,
    Pids,
    Rdma,
    Resources,
    Spec,
    ThrottleDevice,
    WeightDevice,
)
from longshore.runtime.cgroup_devices import assemble
from longshore.runtime.cgroup_layout import parse_layout
from longshore.runtime.cgroup_names import cgroup_path, cgroups_path_of, expand_slice, parse_scope
from longshore.runtime.cgroup_plan import ignored_v2, order_memory_v1, plan_devices_v1, plan_v1, plan_v2
from longshore.runtime.cgroup_stats import parse_blkio, parse_io_stat
from longshore.runtime.device_rules import DEFAULT_DEVICE_RULES, Policy, describe, policy_of

FULL = Resources(
    memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20, swappiness=10),
    cpu=Cpu(shares=1024, quota=50000, period=100000, cpus="0-1", mems="0"),
    pids=Pids(100),
    block_io=BlockIo(weight=500, throttle_read_bps_device=(ThrottleDevice(8, 0, 1000),)),
    hugepage_limits=(HugepageLimit("2MB", 4 << 20),),
    rdma={"mlx5_0": Rdma(2, 2000)},
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
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
        ("rdma.max", "mlx5_0 hca_handle=2 hca_object=2000"),
    ]


def test_v2_files() -> None:
    assert [(write.file, write.value) for write in plan_v2(FULL)] == [
        ("memory.swap.max", "33554432"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.weight", "39"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("io.bfq.weight", "default 500"),
        ("io.max", "8:0 rbps=1000"),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
        ("rdma.max", "mlx5_0 hca_handle=2 hca_object=2000"),
    ]


def test_no_limits_write_nothing() -> None:
    empty = Resources(memory=Memory(), cpu=Cpu(), pids=Pids(0), block_io=BlockIo())
    assert plan_v1(empty) == plan_v2(empty) == []


def test_unlimited_words() -> None:
    free = Resources(memory=Memory(limit=-1, swap=-1), cpu=Cpu(quota=-1), pids=Pids(-1))
    assert [write.value for write in plan_v1(free)] == ["-1", "-1", "-1", "max"]
    assert [write.value for write in plan_v2(free)] == ["max", "max", "max 100000", "max"]


ORDERED = [
    # the kernel's rule: memory <= memory+swap after each write; grown, shrunk, set free
    (Memory(limit=64 << 20, swap=96 << 20), 32 << 20, ["memsw.limit", "limit"]),
    (Memory(limit=32 << 20, swap=48 << 20), 64 << 20, ["limit", "memsw.limit"]),
    (Memory(limit=64 << 20, swap=-1), 128 << 20, ["memsw.limit", "limit"]),
    (Memory(limit=-1), 64 << 20, ["memsw.limit", "limit"]),
    (Memory(limit=64 << 20), 32 << 20, ["limit"]),
]


@pytest.mark.parametrize(("memory", "now", "expected"), ORDERED)
def test_memory_and_swap_of_v1_are_written_in_the_order_that_fits(
    memory: Memory, now: int, expected: list[str]
) -> None:
    plan = order_memory_v1(plan_v1(Resources(memory=memory)), now)
    assert [write.file.removeprefix("memory.").removesuffix("_in_bytes") for write in plan] == expected


def values_v2(**resources: object) -> dict[str, str]:
    return {write.file: write.value for write in plan_v2(Resources(**resources))}  # type: ignore[arg-type]


def test_swap_of_v2_is_without_the_memory() -> None:
    assert values_v2(memory=Memory(limit=64 << 20, swap=64 << 20))["memory.swap.max"] == "0"
    assert values_v2(memory=Memory(limit=-1)) == {"memory.swap.max": "max", "memory.max": "max"}
    assert values_v2(memory=Memory(limit=64 << 20, swap=-1))["memory.swap.max"] == "max"
    with pytest.raises(InvalidArgument, match="unable to set swap limit without memory limit"):
        plan_v2(Resources(memory=Memory(swap=1 << 20)))


def test_quota_period_burst_and_realtime() -> None:
    cpu = Cpu(quota=20000, period=50000, burst=5000, realtime_period=1_000_000, realtime_runtime=5000, idle=1)
    v1 = plan_v1(Resources(cpu=cpu))
    assert [(write.file.removeprefix("cpu."), write.value, write.retry) for write in v1] == [
        ("cfs_period_us", "50000", True),
        ("cfs_burst_us", "5000", True),
        ("cfs_quota_us", "20000", False),
        ("idle", "1", False),
        ("rt_period_us", "1000000", True),
        ("rt_runtime_us", "5000", False),
    ]
    assert values_v2(cpu=cpu) == {"cpu.idle": "1", "cpu.max.burst": "5000", "cpu.max": "20000 50000"}
    assert ignored_v2(Resources(cpu=cpu, memory=Memory(swappiness=0), network=NetworkResources(1))) == [
        "cgroup v2 does not know memory swappiness: not set",
        "cgroup v2 does not know realtime scheduling limits: not set",
        "cgroup v2 does not know network classes and priorities: not set",
    ]


def test_weights_of_disks_fall_back_to_what_the_kernel_has() -> None:
    io = BlockIo(weight=500, leaf_weight=300, weight_device=(WeightDevice(8, 0, 100, 200),))
    v1 = plan_v1(Resources(block_io=io))
    assert [(write.file, write.value, write.otherwise and write.otherwise.file) for write in v1] == [
        ("blkio.bfq.weight", "500", "blkio.weight"),
        ("blkio.leaf_weight", "300", None),
        ("blkio.bfq.weight_device", "8:0 100", "blkio.weight_device"),
        ("blkio.leaf_weight_device", "8:0 200", None),
    ]
    v2 = plan_v2(Resources(block_io=io))
    assert [(write.file, write.value, write.otherwise and write.otherwise.value) for write in v2] == [
        ("io.bfq.weight", "default 500", "default 4950"),
        ("io.bfq.weight", "8:0 100", "8:0 910"),
    ]


def test_shares_that_the_kernel_would_bend_are_refused_on_v1() -> None:
    for shares, text in (
        (1, "minimum allowed cpu-shares is 2"),
        (262145, "maximum allowed cpu-shares is 262144"),
    ):
        with pytest.raises(InvalidArgument, match=text):
            plan_v1(Resources(cpu=Cpu(shares=shares)))
    weights = [values_v2(cpu=Cpu(shares=shares))["cpu.weight"] for shares in (2, 1024, 262144)]
    assert weights == ["1", "39", "10000"]


BAD = [
    Resources(memory=Memory(limit=1 << 20, swap=1 << 19)),
    Resources(cpu=Cpu(idle=2)),
    Resources(unified={"memory": "1"}),
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
        (
            "system.slice:longshore:abc",
            "/system.slice:longshore:abc",
        ),  # only --systemd-cgroup makes it a scope
    ],
)
def test_group_names(path: str, expected: str) -> None:
    assert cgroup_path(Spec(linux=Linux(cgroups_path=path)), "abc") == expected


@pytest.mark.parametrize("path", ["/", "/..", "/a/..", "a\nb"])
def test_the_root_group_is_nobodys(path: str) -> None:
    with pytest.raises(InvalidArgument):
        cgroup_path(Spec(linux=Linux(cgroups_path=path)), "abc")


SCOPES = [
    ("", "/system.slice/longshore-abc.scope"),
    ("system.slice:docker:1234", "/system.slice/docker-1234.scope"),
    (":runc:1234", "/system.slice/runc-1234.scope"),
    ("machine.slice:libpod:1", "/machine.slice/libpod-1.scope"),
    ("web-blue.slice:x:1", "/web.slice/web-blue.slice/x-1.scope"),
    ("-.slice:x:1", "/x-1.scope"),
]


@pytest.mark.parametrize(("text", "expected"), SCOPES)
def test_scopes(text: str, expected: str) -> None:
    assert parse_scope(text, "abc").path == expected
    assert cgroup_path(Spec(linux=Linux(cgroups_path=text)), "abc", systemd=True) == expected


@pytest.mark.parametrize(
    "text", ["/a/b", "a:b", "a:b:c:d", "a.slice:x:", "a.slice:x:a/b", "a:x:1", "a--b.slice:x:1", ".slice:x:1"]
)
def test_no_scopes(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_scope(text, "abc")


def test_parents_of_the_two_drivers() -> None:
    assert cgroups_path_of("", "abc", systemd=False) == "/longshore/abc"
    assert cgroups_path_of("/web", "abc", systemd=False) == "/web/abc"
    assert cgroups_path_of("", "abc", systemd=True) == "system.slice:longshore:abc"
    assert cgroups_path_of("web.slice", "abc", systemd=True) == "web.slice:longshore:abc"
    with pytest.raises(InvalidArgument, match=r'should be a valid slice named as "xxx.slice"'):
        cgroups_path_of("/web", "abc", systemd=True)
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"


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
ALL = DeviceRule(allow=True)
TUN = DeviceRule(True, "c", 10, 200, "rw")
TUN_WRITE = DeviceRule(True, "c", 10, 200, "w")
TUN_READ = DeviceRule(True, "c", 10, 200, "r")
NO_TUN_WRITE = DeviceRule(False, "c", 10, 200, "w")
DISKS = DeviceRule(False, "b", None, None, "rwm")
LOOPS = DeviceRule(True, "b", 7, None, "rwm")
NO_LOOP = DeviceRule(False, "b", 7, 0, "w")
BOTH_KINDS = DeviceRule(True, "a", 10, 200, "r")


def texts(*rules: DeviceRule) -> list[str]:
    """Without the defaults, which come after."""
    return [describe(rule) for rule in policy_of(rules).exceptions if rule not in DEFAULT_DEVICE_RULES]


def test_rules_before_everything_do_not_count() -> None:
    assert texts(TUN, DENY, LOOPS) == ["b 7:* rwm"]
    assert policy_of((DENY, TUN, ALL)).everything
    assert policy_of((ALL, DISKS)) == Policy(True, (DeviceRule(False, "b", None, None, "rw"),))


def test_rules_about_one_device_add_up() -> None:
    assert texts(DENY, TUN_READ, TUN_WRITE) == ["c 10:200 rw"]
    assert texts(DENY, TUN, NO_TUN_WRITE) == ["c 10:200 r"]
    assert texts(DENY, BOTH_KINDS) == ["b 10:200 r", "c 10:200 r"]


def test_no_rules_are_a_policy_too() -> None:
    assert policy_of(()) == policy_of((DENY,)) == Policy(False, DEFAULT_DEVICE_RULES)


def test_a_hole_in_a_wider_rule_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"b 7:0 w: deny is not possible"):
        policy_of((DENY, LOOPS, NO_LOOP))
    with pytest.raises(InvalidArgument, match=r"b 7:\* rwm: allow is not possible"):
        policy_of((ALL, DISKS, LOOPS))


def test_the_devices_of_v1_are_written_for_a_new_group() -> None:
    writes = plan_devices_v1(policy_of((DENY, TUN)))
    assert [(write.file, write.value) for write in writes][:2] == [
        ("devices.deny", "a"),
        ("devices.allow", "c 10:200 rw"),
    ]
    assert plan_devices_v1(policy_of((ALL,))) == []
    assert [write.value for write in plan_devices_v1(policy_of((ALL, DISKS)))] == ["b *:* rw"]


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
    ((DENY, TUN), CHAR, R | W, 10, 200, 1),
    ((DENY, TUN), CHAR, R | W | M, 10, 200, 0),
    ((DENY, TUN), CHAR, M, 10, 200, 1),  # nodes of any number may be made
    ((DENY, TUN), CHAR, R, 10, 201, 0),
    ((DENY, TUN), BLOCK, R, 10, 200, 0),
    ((DENY, TUN_READ, TUN_WRITE), CHAR, R | W, 10, 200, 1),
    ((DENY, TUN, NO_TUN_WRITE), CHAR, R, 10, 200, 1),
    ((DENY, TUN, NO_TUN_WRITE), CHAR, R | W, 10, 200, 0),
    ((DENY,), CHAR, R | W, 1, 3, 1),
    ((DENY,), CHAR, R | W, 136, 7, 1),
    ((), CHAR, R, 10, 200, 0),
    ((DENY, LOOPS), BLOCK, R | W, 7, 3, 1),
    ((DENY, LOOPS), BLOCK, R | W, 8, 3, 0),
    ((ALL, DISKS), BLOCK, R, 8, 0, 0),
    ((ALL, DISKS), CHAR, R | W | M, 8, 0, 1),
    ((ALL, NO_TUN_WRITE), CHAR, R, 10, 200, 1),
    ((ALL, NO_TUN_WRITE), CHAR, R | W, 10, 200, 0),
    ((ALL, NO_TUN_WRITE), CHAR, W, 10, 200, 0),
]


@pytest.mark.parametrize(("rules", "kind", "access", "major", "minor", "expected"), DECISIONS)
def test_the_device_program(
    rules: tuple[DeviceRule, ...], kind: int, access: int, major: int, minor: int, expected: int
) -> None:
    program = assemble(policy_of(rules))
    assert execute(program, kind, access, major, minor) == expected


def test_io_counters() -> None:
    v1 = parse_blkio("8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\nTotal 30\n")
    assert [(entry.major, entry.op, entry.value) for entry in v1] == [
        (8, "Read", 10),
        (8, "Write", 20),
        (8, "Sync", 30),
    ]
    sizes, counts = parse_io_stat("254:1 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n")
    assert [entry.value for entry in sizes] == [1, 2]
    assert [entry.value for entry in counts] == [3, 4]
