"""What systemd is told about a container: limits, devices, annotations."""

import pytest

from longshore.errors import InvalidArgument
from longshore.oci.runtime_spec import BlockIo, Cpu, DeviceRule, Memory, Pids, Resources
from longshore.runtime.cgroup_plan import plan_v1, plan_v2
from longshore.runtime.cgroup_units import (
    annotation_properties,
    bits_of,
    device_properties,
    limit_properties,
    parse_variant,
    scope_properties,
)
from longshore.runtime.device_rules import policy_of

INFINITY = 2**64 - 1
LIMITS = Resources(
    memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20),
    cpu=Cpu(shares=1024, quota=12345, period=50000, cpus="0-1", mems="0"),
    pids=Pids(100),
    block_io=BlockIo(weight=500),
)


def test_the_limits_of_v2() -> None:
    assert dict(limit_properties(plan_v2(LIMITS))) == {
        "MemoryMax": ("t", 64 << 20),
        "MemorySwapMax": ("t", 32 << 20),
        "MemoryLow": ("t", 32 << 20),
        "CPUWeight": ("t", 39),
        "CPUQuotaPeriodUSec": ("t", 50000),
        "CPUQuotaPerSecUSec": ("t", 250000),  # 24.69 % of a processor, as whole percents
        "AllowedCPUs": ("ay", b"\x03"),
        "AllowedMemoryNodes": ("ay", b"\x01"),
        "TasksMax": ("t", 100),
        "IOWeight": ("t", 4950),
    }


def test_the_limits_of_v1() -> None:
    assert dict(limit_properties(plan_v1(LIMITS))) == {
        "MemoryLimit": ("t", 64 << 20),
        "CPUShares": ("t", 1024),
        "CPUQuotaPeriodUSec": ("t", 50000),
        "CPUQuotaPerSecUSec": ("t", 250000),
        "TasksMax": ("t", 100),
        "BlockIOWeight": ("t", 500),
    } | {"AllowedCPUs": ("ay", b"\x03"), "AllowedMemoryNodes": ("ay", b"\x01")}


def test_unlimited_and_unified_values() -> None:
    unified = {
        "memory.high": " 100 ",
        "memory.min": "max",
        "cpu.idle": "1",
        "cpu.weight": "7",
        "io.max": "8:0 rbps=1",
    }
    assert dict(limit_properties(plan_v2(Resources(unified=unified)))) == {
        "MemoryHigh": ("t", 100),
        "MemoryMin": ("t", INFINITY),
        "CPUWeight": ("t", 0),
    }
    free = Resources(memory=Memory(limit=-1), cpu=Cpu(quota=-1), pids=Pids(-1))
    assert dict(limit_properties(plan_v2(free))) == {
        "MemoryMax": ("t", INFINITY),
        "MemorySwapMax": ("t", INFINITY),
        "CPUQuotaPeriodUSec": ("t", 100000),
        "CPUQuotaPerSecUSec": ("t", INFINITY),
        "TasksMax": ("t", INFINITY),
    }
    with pytest.raises(InvalidArgument, match='"lots" is not a number'):
        limit_properties(plan_v2(Resources(unified={"memory.high": "lots"})))


def test_a_scope() -> None:
    found = dict(
        scope_properties(
            "container x", "web.slice", 7, [], {"org.systemd.property.TimeoutStopSec": "uint64 5"}
        )
    )
    assert found["PIDs"] == ("au", [7]) and found["Slice"] == ("s", "web.slice")
    assert found["Delegate"] == ("b", True) and found["CollectMode"] == ("s", "inactive-or-failed")
    assert found["TasksMax"] == ("t", INFINITY)  # not systemd's own default
    assert found["TimeoutStopUSec"] == ("t", 5_000_000)
    limited = dict(scope_properties("x", "a.slice", 7, plan_v2(Resources(pids=Pids(5))), {}))
    assert limited["TasksMax"] == ("t", 5)


@pytest.mark.parametrize(
    ("text", "expected"), [("0", b"\1"), ("0-2,7", b"\x87"), ("8", b"\0\1"), ("1, 3-4\n", b"\x1a")]
)
def test_sets_of_processors(text: str, expected: bytes) -> None:
    assert bits_of(text) == expected


@pytest.mark.parametrize("text", ["", "x", "3-1", "-1", "0-", "99999999"])
def test_no_sets_of_processors(text: str) -> None:
    with pytest.raises(InvalidArgument):
        bits_of(text)


def test_devices() -> None:
    deny, block = DeviceRule(allow=False), DeviceRule(True, "b", 7, None, "rw")
    policy, entries = device_properties(policy_of((deny, block)))
    assert policy == ("DevicePolicy", ("s", "strict"))
    signature, values = entries[1]
    assert entries[0] == "DeviceAllow" and signature == "a(ss)" and isinstance(values, list)
    assert {("block-7", "rw"), ("char-*", "m"), ("/dev/char/1:3", "rwm"), ("char-136", "rwm")} <= set(values)
    assert device_properties(policy_of((DeviceRule(allow=True),))) == []


VARIANTS = [
    ("true", ("b", True)),
    ("5", ("i", 5)),
    ("-0x10", ("i", -16)),
    ("uint64 5", ("t", 5)),
    ("@t 5", ("t", 5)),
    ("1.5", ("d", 1.5)),
    ("'it\\'s'", ("s", "it's")),
    ('"text"', ("s", "text")),
    ("['a.service', 'b.service']", ("as", ["a.service", "b.service"])),
    ("@as []", ("as", [])),
    ("[byte 1, 2]", ("ay", b"\1\2")),
    ("objectpath '/a'", ("o", "/a")),
]


@pytest.mark.parametrize(("text", "expected"), VARIANTS)
def test_values_of_annotations(text: str, expected: tuple[str, object]) -> None:
    assert parse_variant(text) == expected


@pytest.mark.parametrize(
    "text", ["", "yes", "5 6", "[1", "[]", "[1 2]", "'open", "uint64 'x'", "{'a': 1}", "0x"]
)
def test_no_values_of_annotations(text: str) -> None:
    with pytest.raises(ValueError):
        parse_variant(text)


@pytest.mark.parametrize(
    ("key", "value"), [("Ab", "true"), ("Kill Mode", "true"), ("KillMode", "oops"), ("TimeoutStopSec", "'x'")]
)
def test_bad_annotations_are_named(key: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=key):
        annotation_properties({f"org.systemd.property.{key}": value, "other": "x"})


def test_other_annotations_are_not_for_systemd() -> None:
    assert annotation_properties({"longshore.init": "true", "org.systemd.propertyX": "1"}) == []
