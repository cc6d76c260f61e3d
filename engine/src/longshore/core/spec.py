"""Record to runtime spec: the whole policy of a container's namespaces, mounts, rights and limits. Pure.

What must be looked up on the machine (device numbers, namespaces of other containers, our own capabilities) comes in
as `Surroundings`. Labels and annotations of images and clients never reach the spec's annotations: those configure
the runtime.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from longshore.core.cdi import Edits
from longshore.core.containers.record import MountPoint, Record
from longshore.core.model import ExecRequest, HostConfig
from longshore.core.model import Resources as Limits
from longshore.core.seccomp import parse_profile
from longshore.core.userns import Owners
from longshore.core.validate import CAPABILITIES, parse_capability, parse_security_option
from longshore.errors import InvalidArgument
from longshore.oci import runtime_spec as oci
from longshore.runtime.cgroup_names import cgroups_path_of
from longshore.runtime.mount_options import LOWERS, OF_PROCESS, SCRATCH, SUBPATH

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
ALL_CAPABILITIES = tuple(f"CAP_{name}" for name in CAPABILITIES)
CPU_PERIOD = 100_000  # the kernel's own default, 100 ms
_RESERVED_ANNOTATIONS = ("longshore.", "org.systemd.", "run.oci.")  # those configure runtimes
INFINITY = (1 << 64) - 1

# Null, zero, full, random, urandom, tty, console, ptmx and the pts: what every container may open. Nodes of any
# number may be made (CAP_MKNOD) but not opened.
_DEVICE_RULES = (
    oci.DeviceRule(allow=False, access="rwm"),
    oci.DeviceRule(allow=True, type="c", access="m"),
    oci.DeviceRule(allow=True, type="b", access="m"),
    *(
        oci.DeviceRule(allow=True, type="c", major=major, minor=minor, access="rwm")
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
    ),
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the machine and the other containers contribute.

    `files` maps /etc/hosts, /etc/resolv.conf and /etc/hostname to the files written for this container.
    `namespaces` has the paths to join for the modes `container:x`, by namespace type; `shm_of` is the process
    (pid, start time) whose /dev/shm is shared.
    """

    systemd_cgroup: bool = False
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    namespaces: Mapping[str, str] = field(default_factory=dict[str, str])
    shm_of: tuple[int, int] | None = None
    devices: Sequence[tuple[oci.Device, str]] = ()  # with the letters of rwm that are allowed
    block_io: oci.BlockIo | None = None  # limits on single disks
    edits: Edits = field(default_factory=Edits)  # of CDI devices
    env: Sequence[str] = ()  # of links
    layers_dir: str = ""
    images: Mapping[str, Sequence[str]] = field(
        default_factory=dict[str, Sequence[str]]
    )  # layers, newest first
    capabilities: Sequence[str] = ALL_CAPABILITIES  # what this machine can give
    architecture: str = "x86_64"


def plan_spec(record: Record, around: Surroundings) -> oci.Spec:
    """The spec of the container's first process. Raises InvalidArgument (a bad seccomp profile)."""
    host = record.host_config
    namespaces = _namespaces(host, around)
    owners = record.owners
    if owners:
        namespaces = (*namespaces, oci.Namespace("user"))
    private_uts = any(space.type == "uts" and not space.path for space in namespaces)
    capabilities = plan_capabilities(host, around.capabilities)
    annotations = {
        name: value
        for name, value in (host.annotations or {}).items()
        if not name.startswith(_RESERVED_ANNOTATIONS)
    }
    seccomp: oci.Seccomp | None = None
    profile = security_options(host).get("seccomp", "")
    if not host.privileged and profile in ("", "builtin"):
        annotations[oci.SECCOMP_ANNOTATION] = "default"
    elif profile not in ("", "builtin", "unconfined"):
        seccomp = parse_profile(profile, capabilities, around.architecture)
    if host.init:
        annotations[oci.INIT_ANNOTATION] = "true"
    return oci.Spec(
        process=_process(record, around, capabilities),
        root=oci.Root(path="rootfs", readonly=host.readonly_rootfs),
        hostname=record.config.hostname if private_uts else "",
        domainname=record.config.domainname if private_uts else "",
        mounts=tuple(_mounts(record, around)),
        annotations=annotations,
        hooks=around.edits.hooks_value(),
        linux=oci.Linux(
            namespaces=namespaces,
            uid_mappings=owners.uids,
            gid_mappings=owners.gids,
            devices=tuple(device for device, _ in around.devices),
            cgroups_path=cgroups_path_of(host.cgroup_parent, record.id, systemd=around.systemd_cgroup),
            resources=plan_resources(host, around.devices, around.block_io),
            rootfs_propagation=_root_propagation(record.mounts),
            seccomp=seccomp,
            sysctl=_sysctls(host, namespaces, owners),
            masked_paths=tuple(host.masked_paths or ()),
            readonly_paths=tuple(host.readonly_paths or ()),
        ),
    )


def security_options(host: HostConfig) -> dict[str, str]:
    return dict(parse_security_option(text) for text in host.security_opt or ())


def apparmor_profile(record: Record) -> str:
    """The profile that was asked for, else the engine's own, which privileged containers do not get; "" is none."""
    host = record.host_config
    profile = security_options(host).get("apparmor", "")
    if not profile:
        return "" if host.privileged else record.default_apparmor
    return "" if profile == "unconfined" else profile


def plan_capabilities(host: HostConfig, available: Sequence[str]) -> tuple[str, ...]:
    """Docker's arithmetic: ALL in add means everything but the dropped, ALL in drop only the added."""
    add = {parse_capability(name) for name in host.cap_add or ()}
    drop = {parse_capability(name) for name in host.cap_drop or ()}
    if host.privileged:
        wanted = set(ALL_CAPABILITIES)
    elif "ALL" in add:
        wanted = set(ALL_CAPABILITIES) - drop
    elif "ALL" in drop:
        wanted = add
    else:
        wanted = (set(DEFAULT_CAPABILITIES) - drop) | add
    return tuple(name for name in ALL_CAPABILITIES if name in wanted and name in available)


def plan_env(defaults: Iterable[str], *overrides: Iterable[str]) -> tuple[str, ...]:
    """Later entries replace earlier ones in place; an entry without "=" removes the variable."""
    result: dict[str, str] = {}
    for entry in (*defaults, *(entry for group in overrides for entry in group)):
        name, found, _ = entry.partition("=")
        if found:
            result[name] = entry
        else:
            result.pop(name, None)
    return tuple(result.values())


def container_env(record: Record, tty: bool, links: Iterable[str] = ()) -> tuple[str, ...]:
    defaults = [DEFAULT_PATH, f"HOSTNAME={record.config.hostname}"]
    return plan_env(defaults, ["TERM=xterm"] if tty else [], links, record.config.env or ())


def _process(record: Record, around: Surroundings, capabilities: tuple[str, ...]) -> oci.Process:
    config, host = record.config, record.host_config
    height, width = host.console_size
    return oci.Process(
        args=(record.path, *record.args),
        env=plan_env(container_env(record, config.tty, around.env), around.edits.env),
        cwd=config.working_dir or "/",
        terminal=config.tty,
        console_size=oci.Box(height, width) if config.tty and height and width else None,
        user=plan_user(config.user, host.group_add or (), around.edits.gids),
        capabilities=_capability_sets(capabilities),
        rlimits=plan_rlimits(host),
        no_new_privileges=security_options(host).get("no-new-privileges") == "true",
        apparmor_profile=apparmor_profile(record),
        oom_score_adj=host.oom_score_adj or None,
    )


def plan_exec(
    record: Record, request: ExecRequest, available: Sequence[str], links: Iterable[str] = ()
) -> oci.Process:
    """One more process in a running container; it gets what the container has unless the request says more."""
    host = record.host_config
    capabilities = (
        tuple(name for name in ALL_CAPABILITIES if name in available)
        if request.privileged
        else plan_capabilities(host, available)
    )
    height, width = request.console_size or (0, 0)
    return oci.Process(
        args=tuple(request.cmd or ()),
        env=plan_env(container_env(record, request.tty, links), request.env or ()),
        cwd=request.working_dir or record.config.working_dir or "/",
        terminal=request.tty,
        console_size=oci.Box(height, width) if request.tty and height and width else None,
        user=plan_user(request.user or record.config.user, host.group_add or ()),
        capabilities=_capability_sets(capabilities),
        rlimits=plan_rlimits(host),
        no_new_privileges=security_options(host).get("no-new-privileges") == "true",
        apparmor_profile=apparmor_profile(record),
        oom_score_adj=host.oom_score_adj or None,
    )


def plan_user(text: str, groups: Sequence[str], gids: Sequence[int] = ()) -> oci.User:
    """The text goes to init as it is, which looks it up inside the container; nobody means root, with its groups."""
    return oci.User(username=text or "0", additional_groups=tuple(groups), additional_gids=tuple(gids))


def _capability_sets(names: tuple[str, ...]) -> oci.Capabilities:
    # No inheritable ones: they would reach other programs through file capabilities (CVE-2022-24769).
    return oci.Capabilities(bounding=names, effective=names, permitted=names)


def plan_rlimits(host: Limits) -> tuple[oci.Rlimit, ...]:
    return tuple(
        oci.Rlimit(f"RLIMIT_{limit.name.upper()}", soft=limit.soft % (1 << 64), hard=limit.hard % (1 << 64))
        for limit in host.ulimits or ()
    )


def _namespaces(host: HostConfig, around: Surroundings) -> tuple[oci.Namespace, ...]:
    modes = {
        "pid": host.pid_mode,
        "network": host.network_mode,
        "ipc": host.ipc_mode,
        "uts": host.uts_mode,
        "cgroup": host.cgroupns_mode,
        "mount": "",
    }
    return tuple(
        oci.Namespace(kind, around.namespaces.get(kind, "") if mode.startswith("container:") else "")
        for kind, mode in modes.items()
        if mode != "host"
    )


def _sysctls(host: HostConfig, namespaces: Sequence[oci.Namespace], owners: Owners) -> dict[str, str]:
    """Low ports and ping for everybody inside a network namespace of its own, as Docker does since 20.10."""
    given = {name.replace("/", "."): value for name, value in (host.sysctls or {}).items()}
    if not any(space.type == "network" and not space.path for space in namespaces):
        return given
    # of a user namespace only groups that exist in it
    last = next((ids.size - 1 for ids in owners.gids if ids.container_id == 0), 2147483647)
    return {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": f"0 {last}",
        **given,
    }


def _base_mounts(host: HostConfig, around: Surroundings) -> list[oci.Mount]:
    readonly = () if host.privileged else ("ro",)
    cgroup = "rw" if host.privileged or "writable-cgroups" in security_options(host) else "ro"
    shm = oci.Mount(
        "/dev/shm",
        "tmpfs",
        "shm",
        ("nosuid", "noexec", "nodev", "mode=1777", f"size={host.shm_size}"),
    )
    mqueue = oci.Mount("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev"))
    if host.ipc_mode == "host":
        shm = oci.Mount("/dev/shm", "bind", "/dev/shm", ("rbind", "rprivate"))
    elif around.shm_of is not None:
        pid, start = around.shm_of
        shm = oci.Mount("/dev/shm", "bind", "/dev/shm", ("bind", "rprivate", f"{OF_PROCESS}{pid}:{start}"))
    return [
        oci.Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        oci.Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        oci.Mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        oci.Mount("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", *readonly)),
        oci.Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("nosuid", "noexec", "nodev", cgroup)),
        mqueue,
        *([] if host.ipc_mode == "none" else [shm]),
    ]


def _mounts(record: Record, around: Surroundings) -> Iterable[oci.Mount]:
    """Base mounts, then the user's and our three files, parents first; a user's mount replaces ours of that place."""
    taken = {mount.target for mount in record.mounts}
    yield from (mount for mount in _base_mounts(record.host_config, around) if mount.destination not in taken)
    access = ("ro",) if record.host_config.readonly_rootfs else ()
    owned = bool(record.owners)
    access = (*access, "idmap") if owned else access
    files = [
        oci.Mount(target, "bind", source, ("bind", "rprivate", *access))
        for target, source in around.files.items()
        if target not in taken
    ]
    own = [_user_mount(mount, around, owned) for mount in record.mounts]
    own += [mount for mount in around.edits.mounts if mount.destination not in taken]
    yield from sorted([*own, *files], key=lambda mount: mount.destination.count("/"))


def _user_mount(mount: MountPoint, around: Surroundings, owned: bool) -> oci.Mount:
    """`owned`: the container has other owners than the host; ours are shown to it through its mappings."""
    if mount.type == "tmpfs":
        return oci.Mount(mount.target, "tmpfs", "tmpfs", mount.options)
    recursive = mount.recursive_read_only and not mount.non_recursive
    if mount.type == "image":
        layers = ":".join(around.images.get(mount.source, ()))
        options = ("bind", "rw" if mount.scratch else "ro", f"{LOWERS}{layers}")
        if mount.scratch:
            options = (*options, f"{SCRATCH}{mount.scratch}")
        return oci.Mount(
            mount.target,
            "bind",
            around.layers_dir,
            (*options, f"{SUBPATH}{mount.subpath}") if mount.subpath else options,
        )
    access = "rw" if mount.read_write else ("rro" if recursive else "ro")
    bind = "bind" if mount.non_recursive else "rbind"
    options = (bind, mount.propagation or "rprivate", access)
    if mount.subpath:
        options = (*options, f"{SUBPATH}{mount.subpath}")
    if owned and mount.type == "volume":
        options = (*options, "idmap")
    return oci.Mount(mount.target, "bind", mount.source, options)


def _root_propagation(mounts: Iterable[MountPoint]) -> str:
    """A shared or slave bind needs a root that lets mounts through; everything else stays private."""
    kinds = {mount.propagation.removeprefix("r") for mount in mounts}
    return "shared" if "shared" in kinds else "slave" if "slave" in kinds else ""


def plan_resources(
    limits: HostConfig | Limits,
    devices: Sequence[tuple[oci.Device, str]] = (),
    block_io: oci.BlockIo | None = None,
) -> oci.Resources:
    """The cgroup limits; for `update` without the device rules' meaning."""
    memory = None
    if (
        limits.memory
        or limits.memory_swap
        or limits.memory_reservation
        or limits.memory_swappiness is not None
        or limits.oom_kill_disable
    ):
        memory = oci.Memory(
            limit=limits.memory or None,
            swap=limits.memory_swap or None,
            reservation=limits.memory_reservation or None,
            swappiness=None if limits.memory_swappiness in (None, -1) else limits.memory_swappiness,
            disable_oom_killer=limits.oom_kill_disable or None,
        )
    if limits.blkio_weight:
        block_io = replace(block_io or oci.BlockIo(), weight=limits.blkio_weight)
    return oci.Resources(
        devices=_device_rules(limits, devices),
        memory=memory,
        cpu=_cpu(limits),
        pids=oci.Pids(limits.pids_limit) if limits.pids_limit else None,
        block_io=block_io,
    )


def plan_update(host: HostConfig, request: Limits) -> oci.Resources:
    """The limits of a running container after an update. Taking the limit of pids away has to be said."""
    resources = plan_resources(host)
    return replace(resources, pids=oci.Pids(-1)) if (request.pids_limit or 0) < 0 else resources


def _device_rules(limits: Limits, devices: Sequence[tuple[oci.Device, str]]) -> tuple[oci.DeviceRule, ...]:
    if isinstance(limits, HostConfig) and limits.privileged:
        return (oci.DeviceRule(allow=True, access="rwm"),)
    own = tuple(
        oci.DeviceRule(allow=True, type=device.type, major=device.major, minor=device.minor, access=access)
        for device, access in devices
    )
    return (*_DEVICE_RULES, *own, *(parse_device_rule(text) for text in limits.device_cgroup_rules or ()))


def parse_device_rule(text: str) -> oci.DeviceRule:
    """ "c 13:* rwm". Raises InvalidArgument."""
    words = text.split()
    numbers = words[1].split(":") if len(words) == 3 else []
    good = len(numbers) == 2 and words[0] in ("a", "b", "c") and set(words[2]) <= set("rwm")
    if not good or not all(number == "*" or number.isdigit() for number in numbers):
        raise InvalidArgument(f"invalid device cgroup rule format: '{text}'")
    major, minor = (None if number == "*" else int(number) for number in numbers)
    return oci.DeviceRule(allow=True, type=words[0], major=major, minor=minor, access=words[2])


def _cpu(limits: Limits) -> oci.Cpu | None:
    quota, period = limits.cpu_quota or None, limits.cpu_period or None
    if limits.nano_cpus:
        period = CPU_PERIOD
        quota = max(1000, limits.nano_cpus * CPU_PERIOD // 10**9)  # the kernel's floor is 1 ms
    cpu = oci.Cpu(
        shares=limits.cpu_shares or None,
        quota=quota,
        period=period,
        cpus=limits.cpuset_cpus,
        mems=limits.cpuset_mems,
        realtime_period=limits.cpu_realtime_period or None,
        realtime_runtime=limits.cpu_realtime_runtime or None,
    )
    return cpu if cpu != oci.Cpu() else None
