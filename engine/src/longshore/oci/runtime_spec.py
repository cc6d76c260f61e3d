"""Values of the OCI runtime specification 1.2 (config.json), as far as Linux containers need them.

Wire names are the specification's camelCase, fields here are snake_case; unknown wire fields are ignored.
Everything is frozen: make variants with `msgspec.structs.replace`. Lists are tuples.

Three things go beyond the specification and are documented here because the specification leaves room for them:

- `User.username` may carry the text of an image's USER ("www-data", "1000:staff"). When it is not empty, the
  container's init resolves it against the container's own /etc/passwd and /etc/group *after* the root switch,
  `uid` and `gid` are then ignored, `additional_gids` are added to what the group file says. A user that is not root
  starts without effective and permitted capabilities, as after execve(2) of a plain program.
- the annotation `longshore.seccomp` = "default" asks for the engine's built-in profile (which depends on the
  capabilities) without shipping 400 names in every message. `Linux.seccomp` wins when both are there.
- the annotation `longshore.init` = "true" puts a tiny reaping init in front of the program (docker run --init).
"""

from typing import Any

import msgspec

SECCOMP_ANNOTATION = "longshore.seccomp"
INIT_ANNOTATION = "longshore.init"

VERSION = "1.2.0"


class _Wire(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Common settings of all structs here."""


class User(_Wire, frozen=True):
    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    additional_groups: tuple[str, ...] = ()  # names or numbers, resolved like `username`
    username: str = ""


class Box(_Wire, frozen=True):
    """Size of a terminal."""

    height: int = 0
    width: int = 0


class Capabilities(_Wire, frozen=True):
    """Names like CAP_CHOWN."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(_Wire, frozen=True):
    """Names like RLIMIT_NOFILE; 2**64-1 is RLIM_INFINITY."""

    type: str
    soft: int = 0
    hard: int = 0


class Scheduler(_Wire, frozen=True):
    """Names like SCHED_BATCH and SCHED_FLAG_RESET_ON_FORK; times of SCHED_DEADLINE in nanoseconds."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class IoPriority(_Wire, frozen=True):
    """Names like IOPRIO_CLASS_BE; 0 is the highest priority, 7 the lowest."""

    class_: str = msgspec.field(default="", name="class")
    priority: int = 0


class CpuAffinity(_Wire, frozen=True):
    """Lists like 0-2,7: where an exec runs while it is prepared, and its program."""

    initial: str = ""
    final: str = ""


class Process(_Wire, frozen=True):
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    terminal: bool = False
    console_size: Box | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    io_priority: IoPriority | None = None
    exec_cpu_affinity: CpuAffinity | None = msgspec.field(default=None, name="execCPUAffinity")


class Root(_Wire, frozen=True):
    path: str = "rootfs"
    readonly: bool = False


class IdMapping(_Wire, frozen=True):
    container_id: int = msgspec.field(default=0, name="containerID")
    host_id: int = msgspec.field(default=0, name="hostID")
    size: int = 0


class Mount(_Wire, frozen=True):
    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class Hook(_Wire, frozen=True):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(_Wire, frozen=True):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(_Wire, frozen=True):
    """`type` is one of pid, network, mount, ipc, uts, user, cgroup, time. With a `path` it is joined."""

    type: str
    path: str = ""


class Device(_Wire, frozen=True):
    """A node to make: `type` is c, b, u or p."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int = 0
    gid: int = 0


class DeviceRule(_Wire, frozen=True):
    """One rule of the device cgroup; None for major or minor is any. `access` is letters of rwm."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Memory(_Wire, frozen=True):
    """Bytes; -1 is no limit. `swap` is memory plus swap, as in cgroup v1."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = msgspec.field(default=None, name="kernelTCP")
    swappiness: int | None = None
    disable_oom_killer: bool | None = msgspec.field(default=None, name="disableOOMKiller")
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(_Wire, frozen=True):
    """Times in microseconds; `cpus` and `mems` are lists like 0-2,7."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class Pids(_Wire, frozen=True):
    """-1 or 0 is no limit."""

    limit: int = 0


class WeightDevice(_Wire, frozen=True):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(_Wire, frozen=True):
    major: int
    minor: int
    rate: int


class BlockIo(_Wire, frozen=True):
    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleReadIOPSDevice"
    )
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = msgspec.field(
        default=(), name="throttleWriteIOPSDevice"
    )


class HugepageLimit(_Wire, frozen=True):
    """`page_size` like 2MB."""

    page_size: str
    limit: int


class InterfacePriority(_Wire, frozen=True):
    name: str
    priority: int


class NetworkResources(_Wire, frozen=True):
    class_id: int | None = msgspec.field(default=None, name="classID")
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(_Wire, frozen=True):
    """Limits of one RDMA device."""

    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(_Wire, frozen=True):
    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIo | None = msgspec.field(default=None, name="blockIO")
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SyscallArgument(_Wire, frozen=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class SyscallRule(_Wire, frozen=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArgument, ...] = ()


class Seccomp(_Wire, frozen=True):
    """Actions and operators are libseccomp's names, SCMP_ACT_ERRNO and SCMP_CMP_EQ."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SyscallRule, ...] = ()


class TimeOffset(_Wire, frozen=True):
    secs: int = 0
    nanosecs: int = 0


class Personality(_Wire, frozen=True):
    """`domain` is LINUX or LINUX32; the specification knows no flags yet."""

    domain: str
    flags: tuple[str, ...] = ()


class Linux(_Wire, frozen=True):
    namespaces: tuple[Namespace, ...] = ()
    time_offsets: dict[str, TimeOffset] | None = None
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources | None = None
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: dict[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    personality: Personality | None = None
    intel_rdt: dict[str, Any] | None = None


class Spec(_Wire, frozen=True):
    oci_version: str = VERSION
    process: Process | None = None
    root: Root | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux = Linux()


def decode_spec(data: bytes | str) -> Spec:
    """Read a config.json. Raises msgspec.ValidationError with the path of the wrong field."""
    return msgspec.json.decode(data, type=Spec)


def encode_spec(spec: Spec) -> bytes:
    """Compact JSON; fields that have their default value are left out, except what decoders insist on."""
    plain: dict[str, Any] = msgspec.to_builtins(spec)
    plain["ociVersion"] = spec.oci_version
    return msgspec.json.encode(plain)
