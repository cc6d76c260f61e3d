"""Record to runtime spec."""

import json
from typing import Any

import msgspec
import pytest

from longshore.core.containers.create import plan_record
from longshore.core.containers.mounts import plan_mounts
from longshore.core.containers.record import Record
from longshore.core.model import CreateRequest, ExecRequest, decode
from longshore.core.spec import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    Surroundings,
    parse_device_rule,
    plan_exec,
    plan_spec,
)
from longshore.errors import InvalidArgument
from longshore.oci import runtime_spec as oci
from longshore.oci.image_config import ContainerDefaults

FILES = {name: f"/c{name}" for name in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")}


def record(host: dict[str, Any] | None = None, **config: Any) -> Record:
    body = decode(
        msgspec.json.encode({"Image": "x", "Cmd": ["sh"], **config, "HostConfig": host or {}}), CreateRequest
    )
    mounts = plan_mounts(body.host_config, [], {})
    return plan_record("a" * 64, "n", "t", body, "i", ContainerDefaults(), mounts, host_name="metal")


def spec(host: dict[str, Any] | None = None, around: Surroundings | None = None, **config: Any) -> oci.Spec:
    return plan_spec(record(host, **config), around or Surroundings(files=FILES))


def process(host: dict[str, Any] | None = None, **config: Any) -> oci.Process:
    found = spec(host, **config).process
    assert found is not None
    return found


def resources(host: dict[str, Any]) -> oci.Resources:
    found = spec(host).linux.resources
    assert found is not None
    return found


def mounts(host: dict[str, Any] | None = None) -> dict[str, oci.Mount]:
    return {mount.destination: mount for mount in spec(host).mounts}


def namespaces(host: dict[str, Any], around: Surroundings | None = None) -> dict[str, str]:
    return {space.type: space.path for space in spec(host, around).linux.namespaces}


def test_everything_is_private_by_default() -> None:
    assert namespaces({}) == dict.fromkeys(("pid", "network", "ipc", "uts", "cgroup", "mount"), "")


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("PidMode", "pid"),
        ("NetworkMode", "network"),
        ("IpcMode", "ipc"),
        ("UTSMode", "uts"),
        ("CgroupnsMode", "cgroup"),
    ],
)
def test_host_modes_leave_a_namespace_out(field: str, kind: str) -> None:
    assert kind not in namespaces({field: "host"})
    assert len(namespaces({field: "host"})) == 5


def test_container_modes_join() -> None:
    around = Surroundings(namespaces={"network": "/proc/7/ns/net", "ipc": "/proc/7/ns/ipc"}, shm_of=(7, 1234))
    host = {"NetworkMode": "container:b", "IpcMode": "container:b"}
    joined = namespaces(host, around)
    assert (joined["network"], joined["ipc"], joined["pid"]) == ("/proc/7/ns/net", "/proc/7/ns/ipc", "")
    found = {mount.destination: mount for mount in spec(host, around).mounts}
    assert found["/dev/shm"].source == "/dev/shm"
    assert "longshore.of=7:1234" in found["/dev/shm"].options


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({}, set(DEFAULT_CAPABILITIES)),
        (
            {"CapAdd": ["NET_ADMIN"], "CapDrop": ["CAP_CHOWN"]},
            {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"} - {"CAP_CHOWN"},
        ),
        ({"CapDrop": ["ALL"], "CapAdd": ["kill"]}, {"CAP_KILL"}),
        ({"CapAdd": ["ALL"], "CapDrop": ["SYS_ADMIN"]}, set(ALL_CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        ({"Privileged": True, "CapDrop": ["ALL"]}, set(ALL_CAPABILITIES)),
    ],
)
def test_capabilities(host: dict[str, Any], expected: set[str]) -> None:
    sets = process(host).capabilities
    assert sets is not None
    assert set(sets.bounding) == set(sets.effective) == set(sets.permitted) == expected
    assert sets.inheritable == sets.ambient == ()


def test_what_the_machine_lacks_is_not_asked_for() -> None:
    found = spec({"Privileged": True}, Surroundings(capabilities=("CAP_KILL",))).process
    assert found is not None
    assert found.capabilities is not None
    assert found.capabilities.bounding == ("CAP_KILL",)


def test_environment() -> None:
    env = process(Env=["A=1", "PATH=/x", "HOSTNAME", "A=2"], Tty=True).env
    assert env == ("PATH=/x", "TERM=xterm", "A=2")


def test_args_cwd_user_and_groups() -> None:
    found = process({"GroupAdd": ["7", "audio"]}, Entrypoint=["e", "f"], User="web:33")
    assert (found.args, found.cwd, found.user.username, found.user.additional_groups) == (
        ("e", "f", "sh"),
        "/",
        "web:33",
        ("7", "audio"),
    )
    assert process().user.username == "0"


@pytest.mark.parametrize(
    ("host", "limit", "swap"),
    [
        ({"Memory": 64 << 20}, 64 << 20, 128 << 20),
        ({"Memory": 64 << 20, "MemorySwap": -1}, 64 << 20, -1),
        ({"Memory": 64 << 20, "MemorySwap": 64 << 20}, 64 << 20, 64 << 20),
    ],
)
def test_memory(host: dict[str, Any], limit: int, swap: int) -> None:
    memory = resources(host).memory
    assert memory is not None
    assert (memory.limit, memory.swap) == (limit, swap)


def test_cpu() -> None:
    assert resources({"NanoCpus": 500_000_000}).cpu == oci.Cpu(quota=50_000, period=100_000)
    assert resources({"NanoCpus": 1_000_000}).cpu == oci.Cpu(quota=1000, period=100_000)
    assert resources({"CpuShares": 2, "CpusetCpus": "0"}).cpu == oci.Cpu(shares=2, cpus="0")
    assert resources({}).cpu is None


def test_pids_are_limited_unless_asked_otherwise() -> None:
    assert resources({}).pids == oci.Pids(4096)
    assert resources({"PidsLimit": 9}).pids == oci.Pids(9)
    assert resources({"PidsLimit": -1}).pids is None


def test_devices_are_denied_first() -> None:
    rules = resources({}).devices
    assert (rules[0].allow, rules[0].type, rules[0].access) == (False, "a", "rwm")
    allowed = {(rule.major, rule.minor) for rule in rules if rule.allow and rule.type == "c"}
    assert (1, 3) in allowed
    assert (1, 1) not in allowed  # /dev/mem
    assert resources({"Privileged": True}).devices == (oci.DeviceRule(allow=True, access="rwm"),)


def test_granted_devices_get_a_node_and_a_rule() -> None:
    around = Surroundings(devices=[(oci.Device("/dev/fuse", "c", 10, 229), "rw")])
    linux = spec({}, around).linux
    assert [device.path for device in linux.devices] == ["/dev/fuse"]
    assert linux.resources is not None
    assert linux.resources.devices[-1] == oci.DeviceRule(
        allow=True, type="c", major=10, minor=229, access="rw"
    )


def test_limits_on_disks_come_beside_the_weight() -> None:
    throttle = oci.ThrottleDevice(8, 0, 1000)
    around = Surroundings(block_io=oci.BlockIo(throttle_read_bps_device=(throttle,)))
    found = spec({"BlkioWeight": 300}, around).linux.resources
    assert found is not None
    assert found.block_io == oci.BlockIo(weight=300, throttle_read_bps_device=(throttle,))
    assert resources({}).block_io is None


def test_an_apparmor_profile_reaches_the_first_process_and_execs() -> None:
    host = {"SecurityOpt": ["apparmor=mine"]}
    assert process(host).apparmor_profile == "mine"
    assert plan_exec(record(host), ExecRequest(cmd=["sh"]), ALL_CAPABILITIES).apparmor_profile == "mine"
    assert process({"SecurityOpt": ["apparmor=unconfined"]}).apparmor_profile == ""


def test_device_cgroup_rules() -> None:
    assert parse_device_rule("c 13:* rw") == oci.DeviceRule(
        allow=True, type="c", major=13, minor=None, access="rw"
    )
    for bad in ("", "c 13 rw", "x 1:1 r", "c 1:1 q", "c a:1 r"):
        with pytest.raises(InvalidArgument):
            parse_device_rule(bad)


def test_mounts_of_kernel_file_systems() -> None:
    found = mounts()
    assert "ro" in found["/sys"].options
    assert "ro" in found["/sys/fs/cgroup"].options
    assert {"nosuid", "noexec", "nodev"} <= set(found["/proc"].options)
    assert f"size={64 << 20}" in found["/dev/shm"].options
    privileged = mounts({"Privileged": True})
    assert "ro" not in privileged["/sys"].options
    assert "rw" in privileged["/sys/fs/cgroup"].options
    assert "/dev/shm" not in mounts({"IpcMode": "none"})


def test_own_files_are_mounted_unless_the_user_mounts_there() -> None:
    assert mounts()["/etc/hosts"].source == "/c/etc/hosts"
    assert mounts({"Binds": ["/h:/etc/hosts"]})["/etc/hosts"].source == "/h"
    assert "ro" in mounts({"ReadonlyRootfs": True})["/etc/resolv.conf"].options


def test_parents_are_mounted_before_children() -> None:
    order = [mount.destination for mount in spec({"Binds": ["/a:/x/y/z", "/b:/x"]}).mounts]
    assert order.index("/x") < order.index("/x/y/z")
    assert order.index("/proc") < order.index("/x")


def test_propagation_reaches_the_root() -> None:
    assert spec().linux.rootfs_propagation == ""
    assert spec({"Binds": ["/a:/b:rslave"]}).linux.rootfs_propagation == "slave"
    assert spec({"Binds": ["/a:/b:rshared", "/c:/d:rslave"]}).linux.rootfs_propagation == "shared"


def test_sysctls() -> None:
    own = spec({"Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"}}).linux.sysctl
    assert own["net.ipv4.ip_unprivileged_port_start"] == "1024"
    assert "net.ipv4.ping_group_range" in own
    assert spec({"NetworkMode": "host"}).linux.sysctl == {}


@pytest.mark.parametrize(
    ("options", "annotation", "own"),
    [
        ([], "default", False),
        (["seccomp=unconfined"], None, False),
        (["seccomp=builtin"], "default", False),
        (['seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}'], None, True),
    ],
)
def test_seccomp(options: list[str], annotation: str | None, own: bool) -> None:
    found = spec({"SecurityOpt": options})
    assert found.annotations.get(oci.SECCOMP_ANNOTATION) == annotation
    assert (found.linux.seccomp is not None) == own
    assert spec({"Privileged": True, "SecurityOpt": options[:0]}).annotations == {}


def test_seccomp_conditions_follow_capabilities_and_kernel() -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        ],
    }

    def names(**host: Any) -> list[str]:
        seccomp = spec({"SecurityOpt": [f"seccomp={json.dumps(profile)}"], **host}).linux.seccomp
        assert seccomp is not None
        assert seccomp.architectures == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")
        return [name for rule in seccomp.syscalls for name in rule.names]

    assert names() == ["read", "clone"]
    assert names(CapAdd=["SYS_ADMIN"]) == ["read", "mount"]


def test_a_broken_seccomp_profile_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="seccomp"):
        spec({"SecurityOpt": ["seccomp={"]})


def test_attack_14_labels_and_annotations_never_reach_the_runtime() -> None:
    """Fails when annotations of the client or labels are passed on."""
    found = spec(
        {"Annotations": {"longshore.seccomp": "", "run.oci.keep_original_groups": "1"}},
        Labels={"longshore.init": "true", "io.containerd.image.mount": "/x"},
    )
    assert found.annotations == {oci.SECCOMP_ANNOTATION: "default"}


def test_init_no_new_privileges_rlimits_and_oom() -> None:
    host = {
        "Init": True,
        "SecurityOpt": ["no-new-privileges"],
        "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": -1}],
        "OomScoreAdj": 100,
        "CgroupParent": "/mine",
    }
    found = spec(host)
    assert found.annotations[oci.INIT_ANNOTATION] == "true"
    assert found.process is not None
    assert found.process.no_new_privileges
    assert found.process.rlimits == (oci.Rlimit("RLIMIT_NOFILE", soft=5, hard=2**64 - 1),)
    assert found.process.oom_score_adj == 100
    assert found.linux.cgroups_path == "/mine/" + "a" * 64
    assert spec().linux.cgroups_path == "/longshore/" + "a" * 64


def test_an_exec_has_what_its_container_has() -> None:
    base = record(
        {"CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]}, User="web", WorkingDir="/srv", Env=["A=1"]
    )
    found = plan_exec(base, ExecRequest(cmd=["id"], env=["B=2", "A=3"]), ALL_CAPABILITIES)
    assert (found.args, found.cwd, found.user.username, found.no_new_privileges) == (
        ("id",),
        "/srv",
        "web",
        True,
    )
    assert {"A=3", "B=2"} <= set(found.env)
    assert found.capabilities is not None
    assert found.capabilities.bounding == ()
    strong = plan_exec(base, ExecRequest(cmd=["id"], privileged=True, user="0", tty=True), ALL_CAPABILITIES)
    assert strong.capabilities is not None
    assert strong.capabilities.bounding == ALL_CAPABILITIES
    assert "TERM=xterm" in strong.env


def test_specs_survive_the_wire() -> None:
    found = spec({"Binds": ["/a:/b"], "Memory": 64 << 20})
    assert oci.decode_spec(oci.encode_spec(found)) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"defaultAction": "ALLOW"}, "defaultAction 'ALLOW'"),
        ({"architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}, "archMap"),
        ({"architectures": ["Z80"]}, "architecture 'Z80'"),
        ({"flags": ["FAST"]}, "flag 'FAST'"),
        ({"defaultErrnoRet": 5000}, "errnoRet"),
        ({"syscalls": [{"names": ["x"], "action": "SCMP_ACT_MAYBE"}]}, r"SCMP_ACT_MAYBE' of syscalls\[0\]"),
        ({"syscalls": [{"names": ["x"], "name": "y", "action": "SCMP_ACT_ALLOW"}]}, "both 'name' and 'names'"),
        ({"syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath"),
        (
            {"syscalls": [{"names": ["x"], "action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]},
            "argument 6",
        ),
        ({"syscalls": [{"names": ["x"], "action": 7}]}, r"\$\.syscalls\[0\]\.action"),
    ],
)  # fmt: skip
def test_a_seccomp_profile_that_makes_no_sense_is_refused_at_create(
    change: dict[str, Any], words: str
) -> None:
    profile = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **change})
    with pytest.raises(InvalidArgument, match=words):
        spec({"SecurityOpt": [f"seccomp={profile}"]})
