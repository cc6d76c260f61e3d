"""From a specification to steps: what is planned and what is refused, without touching the machine."""

import resource

import msgspec
import pytest

from longshore.errors import EngineError, InvalidArgument, Unsupported
from longshore.kernel import mounts as kernel
from longshore.kernel import namespaces as ns
from longshore.oci.runtime_spec import (
    Capabilities,
    Cpu,
    CpuAffinity,
    Device,
    Hook,
    Hooks,
    IdMapping,
    IoPriority,
    Linux,
    Mount,
    Namespace,
    Personality,
    Process,
    Resources,
    Rlimit,
    Scheduler,
    Spec,
    TimeOffset,
    decode_spec,
    encode_spec,
)
from longshore.runtime.bundle import default_spec
from longshore.runtime.messages import Launch, OverlayRoot
from longshore.runtime.mount_options import plan_mount
from longshore.runtime.plan import ContainerPlan, plan_container, plan_process
from longshore.runtime.rootfs import overlay_options

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8


def plan(**linux: object) -> ContainerPlan:
    names = linux.pop("namespaces", ("pid", "mount", "network", "ipc", "uts", "cgroup"))
    spaces = tuple(Namespace(name) if isinstance(name, str) else name for name in names)  # type: ignore[union-attr]
    spec = Spec(process=Process(args=("true",)), linux=Linux(namespaces=spaces, **linux))  # type: ignore[arg-type]
    return plan_container(Launch("id", spec, OverlayRoot("/layers", ("a",)), "", ""))


def test_the_values_survive_the_wire() -> None:
    spec = default_spec()
    assert decode_spec(encode_spec(spec)) == spec
    assert b'"ociVersion"' in encode_spec(spec)


def test_wire_names_are_the_specifications() -> None:
    text = b"""{"ociVersion": "1.2.0", "process": {"args": ["a"], "cwd": "/", "noNewPrivileges": true,
        "oomScoreAdj": 5, "rlimits": [{"type": "RLIMIT_CORE", "soft": 1, "hard": 18446744073709551615}]},
        "linux": {"cgroupsPath": "/x", "resources": {"memory": {"disableOOMKiller": true, "kernelTCP": 1},
        "blockIO": {"throttleReadIOPSDevice": [{"major": 1, "minor": 2, "rate": 3}]}, "network": {"classID": 9}},
        "maskedPaths": ["/m"], "rootfsPropagation": "rslave", "unknown": 1}}"""
    spec = decode_spec(text)
    assert spec.process is not None and spec.process.no_new_privileges and spec.process.oom_score_adj == 5
    resources = spec.linux.resources
    assert resources is not None and resources.memory is not None and resources.block_io is not None
    assert (resources.memory.disable_oom_killer, resources.memory.kernel_tcp) == (True, 1)
    assert resources.block_io.throttle_read_iops_device[0].rate == 3
    assert resources.network is not None and resources.network.class_id == 9
    assert plan_process(spec.process).rlimits == ((resource.RLIMIT_CORE, 1, resource.RLIM_INFINITY),)


MOUNTS = [
    (("ro", "nosuid"), {"attr_set": RDONLY | NOSUID}),
    (("ro", "rw"), {"attr_set": 0, "attr_clr": RDONLY}),
    (("nodev", "dev", "noexec"), {"attr_set": NOEXEC, "attr_clr": NODEV}),
    (("rro", "rnoexec"), {"tree_set": RDONLY | NOEXEC}),
    (("noatime",), {"attr_set": kernel.MOUNT_ATTR_NOATIME, "attr_clr": kernel.MOUNT_ATTR__ATIME}),
    (("strictatime", "mode=755", "size=1m", "flag"), {"parameters": (("mode", "755"), ("size", "1m"), ("flag", None))}),
    (("rslave",), {"propagation": kernel.MS_SLAVE, "propagation_recursive": True}),
    (("shared",), {"propagation": kernel.MS_SHARED, "propagation_recursive": False}),
    (("defaults", "_netdev", "nofail"), {"parameters": ()}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), MOUNTS)
def test_option_words(options: tuple[str, ...], expected: dict[str, object]) -> None:
    planned = plan_mount(Mount("/a/../b", "tmpfs", "tmpfs", options))
    assert planned.destination == "/b"
    assert {name: getattr(planned, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("mount", "recursive"),
    [
        (Mount("/d", "bind", "/s"), True),
        (Mount("/d", "bind", "/s", ("bind",)), False),
        (Mount("/d", "none", "/s", ("rbind", "ro")), True),
        (Mount("/d", "", "/s", ("bind",)), False),
    ],
)
def test_binds(mount: Mount, recursive: bool) -> None:
    planned = plan_mount(mount)
    assert (planned.kind, planned.recursive) == ("bind", recursive)


@pytest.mark.parametrize(
    ("mount", "kind"),
    [
        (Mount("/", "tmpfs"), InvalidArgument),
        (Mount("", "tmpfs"), InvalidArgument),
        (Mount("/x/..", "tmpfs"), InvalidArgument),
        (Mount("/x", "bind"), InvalidArgument),
        (Mount("/x"), InvalidArgument),
        (Mount("/x", "bind", "/s", ("size=5",)), InvalidArgument),
        (Mount("/x\0y", "tmpfs"), InvalidArgument),
        (Mount("/x", "bind", "/s", ("idmap",)), InvalidArgument),
        (Mount("/x", "bind", "/s", ("remount",)), Unsupported),
        (Mount("/x", "ramfs", "", ("tmpcopyup",)), InvalidArgument),
    ],
)
def test_bad_mounts(mount: Mount, kind: type[EngineError]) -> None:
    with pytest.raises(kind):
        plan_mount(mount)


def test_namespaces_are_made_or_joined() -> None:
    planned = plan(namespaces=("mount", "uts", Namespace("network", "/proc/1/ns/net")))
    assert planned.unshare == ns.CLONE_NEWNS | ns.CLONE_NEWUTS
    assert [(join.kind, join.path) for join in planned.joins] == [(ns.CLONE_NEWNET, "/proc/1/ns/net")]


@pytest.mark.parametrize(
    ("namespaces", "kind"),
    [
        (("pid",), Unsupported),
        (("mount", "user"), InvalidArgument),
        (("mount", "pid", "pid"), InvalidArgument),
        (("mount", "nonsense"), Unsupported),
    ],
)
def test_bad_namespaces(namespaces: tuple[str, ...], kind: type[EngineError]) -> None:
    with pytest.raises(kind):
        plan(namespaces=namespaces)


def test_sysctls_wait_for_the_interface_they_belong_to() -> None:
    planned = plan(
        sysctl={
            "net.ipv4.ip_forward": "1",
            "net.ipv4.conf.all.rp_filter": "2",
            "net.ipv4.conf.eth0.rp_filter": "2",
            "net/ipv6/conf/eth0.100/forwarding": "1",
            "kernel.msgmax": "9000",
        }
    )
    assert [name for name, _value in planned.late_sysctls] == [
        "net.ipv4.conf.eth0.rp_filter",
        "net.ipv6.conf.eth0/100.forwarding",
    ]
    assert len(planned.sysctls) == 3


@pytest.mark.parametrize("name", ["net.core.somaxconn", "kernel.msgmax", "fs.mqueue.msg_max"])
def test_a_sysctl_needs_its_namespace(name: str) -> None:
    assert plan(sysctl={name: "1"}).sysctls == ((name, "1"),)
    with pytest.raises(InvalidArgument):
        plan(sysctl={name: "1"}, namespaces=("mount",))


def test_devices_are_made_only_in_a_dev_of_ours() -> None:
    extra = Device("/dev/fuse", "c", 10, 229)
    linux = Linux(namespaces=(Namespace("mount"),), devices=(extra, Device("/dev/null", "c", 1, 3, 0o600)))
    for mounts, count in (((Mount("/dev", "tmpfs"),), 7), ((Mount("/dev", "bind", "/dev"),), 0), ((), 0)):
        spec = Spec(process=Process(args=("x",)), mounts=mounts, linux=linux)
        planned = plan_container(Launch("id", spec, OverlayRoot("/l", ("a",)), "", ""))
        assert len(planned.devices) == count
        assert all(device.file_mode == 0o600 for device in planned.devices if device.path == "/dev/null")


BAD_PROCESSES = [
    {"args": ()},
    {"cwd": "relative"},
    {"args": ("a\0b",)},
    {"env": ("A=\0",)},
    {"rlimits": (Rlimit("RLIMIT_NOPE"),)},
    {"rlimits": (Rlimit("getrlimit"),)},
    {"rlimits": (Rlimit("RLIMIT_CORE", 2, 1),)},
    {"rlimits": (Rlimit("RLIMIT_CORE", 1, 1), Rlimit("RLIMIT_CORE", 2, 2))},
    {"oom_score_adj": 1001},
    {"scheduler": Scheduler("SCHED_NOPE")},
    {"scheduler": Scheduler("SCHED_BATCH", nice=20)},
    {"scheduler": Scheduler("SCHED_OTHER", priority=1)},
    {"scheduler": Scheduler("SCHED_OTHER", runtime=1)},
    {"scheduler": Scheduler("SCHED_OTHER", flags=("SCHED_FLAG_NOPE",))},
    {"io_priority": IoPriority("IOPRIO_CLASS_NOPE")},
    {"io_priority": IoPriority("IOPRIO_CLASS_BE", 8)},
    {"exec_cpu_affinity": CpuAffinity(initial="3-1")},
    {"exec_cpu_affinity": CpuAffinity(final="all")},
]


@pytest.mark.parametrize("change", BAD_PROCESSES)
def test_bad_processes(change: dict[str, object]) -> None:
    with pytest.raises(EngineError):
        plan_process(msgspec.structs.replace(Process(args=("true",)), **change))


def test_the_last_value_of_a_variable_wins() -> None:
    planned = plan_process(Process(args=("true",), env=("A=1", "B", "=x", "A=2=3")))
    assert planned.env == (("A", "2=3"),)


def test_unknown_capabilities_are_a_warning() -> None:
    planned = plan_process(
        Process(
            args=("true",),
            capabilities=Capabilities(bounding=("CAP_KILL", "CAP_NOPE"), ambient=("CAP_NOPE",)),
        )
    )
    assert planned.bounding == 1 << 5
    assert planned.warnings == ("unknown capability CAP_NOPE is ignored",)


REFUSED = [
    ({"hooks": Hooks(poststart=(Hook("bin/true"),))}, "hooks.poststart[0].path:"),
    ({"hooks": Hooks(create_runtime=(Hook("/a"), Hook("/a", timeout=0)))}, "hooks.createRuntime[1].timeout:"),
    ({"hostname": "box"}, "hostname:"),
    ({"domainname": "box"}, "domainname:"),
    ({"uid_mappings": (IdMapping(0, 1000, 1),)}, "linux.uidMappings:"),
    ({"gid_mappings": (IdMapping(0, 1000, 1),)}, "linux.gidMappings:"),
    ({"uid_mappings": (IdMapping(0, 1000, 0),)}, "linux.uidMappings[0]:"),
    ({"time_offsets": {"boottime": TimeOffset(1)}}, "linux.timeOffsets:"),
    ({"personality": Personality("MULTICS")}, "linux.personality.domain:"),
    ({"personality": Personality("LINUX", ("X",))}, "linux.personality.flags:"),
    ({"intel_rdt": {}}, "linux.intelRdt:"),
    ({"mount_label": "x"}, "linux.mountLabel:"),
    ({"devices": (Device("/dev/x", "q"),)}, "linux.devices[0]:"),
    ({"rootfs_propagation": "x"}, "linux.rootfsPropagation:"),
    ({"sysctl": {"vm.swappiness": "1"}}, "linux.sysctl:"),
    ({"namespaces": (Namespace("mount"), Namespace("ipc", "relative"))}, "linux.namespaces[1].path:"),
    ({"mounts": (Mount("/a", "tmpfs"), Mount("/b", "bind", "/s", ("wrong",)))}, "mounts[1].options:"),
    ({"mounts": (Mount("/b", "tmpfs", "", ("idmap",)),)}, "mounts[0]:"),
    ({"mounts": (Mount("/b", "bind", "/s", uid_mappings=(IdMapping(0, 1, 1),)),)}, "mounts[0]:"),
]


@pytest.mark.parametrize(("changes", "place"), REFUSED, ids=[place for _changes, place in REFUSED])
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, object], place: str) -> None:
    linux = Linux(namespaces=(Namespace("mount"),))
    spec = Spec(process=Process(args=("x",)))
    for name, value in changes.items():
        if name in Linux.__struct_fields__:
            linux = msgspec.structs.replace(linux, **{name: value})
        else:
            spec = msgspec.structs.replace(spec, **{name: value})
    spec = msgspec.structs.replace(spec, linux=linux)
    with pytest.raises(EngineError) as caught:
        plan_container(Launch("id", spec, OverlayRoot("/l", ("a",)), "", ""))
    assert caught.value.what.startswith(place)


def test_a_deadline_scheduler_contradicts_a_cpuset() -> None:
    linux = Linux(namespaces=(Namespace("mount"),), resources=Resources(cpu=Cpu(cpus="0")))
    process = Process(args=("x",), scheduler=Scheduler("SCHED_DEADLINE", runtime=1, deadline=2, period=2))
    with pytest.raises(InvalidArgument, match="AllowedCPUs"):
        plan_container(Launch("id", Spec(process=process, linux=linux), OverlayRoot("/l", ("a",)), "", ""))


def test_relative_sources_are_meant_from_the_bundle() -> None:
    linux = Linux(namespaces=(Namespace("mount"),))
    spec = Spec(process=Process(args=("x",)), mounts=(Mount("/b", "bind", "data"),), linux=linux)
    planned = plan_container(Launch("id", spec, OverlayRoot("/l", ("a",)), "", "", bundle="/bundle"))
    assert planned.mounts[0].source == "/bundle/data"


def test_overlay_options_are_escaped_and_fit_into_a_page() -> None:
    root = OverlayRoot("/l", ("b", "a"), "/u,p:p\\er", "/w")
    assert overlay_options(root) == "lowerdir=b:a,upperdir=/u\\,p\\:p\\\\er,workdir=/w,index=off"
    with pytest.raises(EngineError, match="too many layers"):
        overlay_options(OverlayRoot("/l", ("x" * 12,) * 400, "/u", "/w"))


def test_a_plan_can_be_read() -> None:
    lines = plan(masked_paths=("/proc/keys",), sysctl={"net.a": "1"}).describe()
    assert "mask /proc/keys" in lines and "sysctl net.a=1" in lines and lines[-1] == "execute true"
