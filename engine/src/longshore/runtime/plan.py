"""From a specification to the steps of starting a process. Pure: touches nothing, judges everything.

The forked child then only does; whatever can be wrong in a specification is found here, before anything exists.
"""

from __future__ import annotations

import posixpath
import re
import resource
from dataclasses import dataclass, replace

from longshore.errors import InvalidArgument, StartFailed, Unsupported
from longshore.kernel import capabilities
from longshore.kernel import namespaces as ns
from longshore.kernel.paths import clean
from longshore.oci.runtime_spec import (
    INIT_ANNOTATION,
    Capabilities,
    Device,
    Hook,
    Linux,
    Process,
    Spec,
    TimeOffset,
    User,
)
from longshore.runtime.hooks import check_hooks, hooks_of
from longshore.runtime.messages import Launch, OverlayRoot, PlainRoot
from longshore.runtime.mount_options import MountPlan, map_text, parse_propagation, plan_mount
from longshore.runtime.scheduling import (
    SCHED_DEADLINE,
    SchedulerPlan,
    plan_affinity,
    plan_io_priority,
    plan_scheduler,
)

KINDS = {
    "pid": ns.CLONE_NEWPID,
    "network": ns.CLONE_NEWNET,
    "mount": ns.CLONE_NEWNS,
    "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS,
    "cgroup": ns.CLONE_NEWCGROUP,
    "user": ns.CLONE_NEWUSER,
    "time": ns.CLONE_NEWTIME,
}

DEFAULT_DEVICES = tuple(
    Device(path=f"/dev/{name}", type="c", major=major, minor=minor, file_mode=0o666)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)
DEFAULT_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
)

_SYSCTL_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_:@-]+)+")
_IPC_SYSCTLS = re.compile(
    r"kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\..+"
)
_CLOCKS = {"monotonic": "monotonic", "boottime": "boottime"}
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}  # personality(2)
# Settings of one interface exist only after the network was plugged in.
_INTERFACE_SYSCTL = re.compile(r"net[./]ipv[46][./](conf|neigh)[./](?!(?:all|default|lo)[./])")


@dataclass(frozen=True, slots=True)
class Join:
    """A namespace that exists already."""

    kind: int
    path: str


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """How one process of the container becomes what it shall be."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    terminal: bool
    size: tuple[int, int] | None  # height, width
    user: User
    umask: int
    bounding: int
    effective: int
    permitted: int
    inheritable: int
    ambient: int
    rlimits: tuple[tuple[int, int, int], ...]  # number, soft, hard
    no_new_privileges: bool
    oom_score_adj: int | None
    apparmor_profile: str
    with_init: bool = False
    scheduler: SchedulerPlan | None = None
    io_priority: tuple[int, int] | None = None
    affinity: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())  # of an exec: initial, final
    personality: int | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    id: str
    unshare: int  # CLONE_ flags; pid, time, user and cgroup are taken at their own moments
    joins: tuple[Join, ...]
    rootfs: OverlayRoot | PlainRoot
    readonly: bool
    propagation: tuple[int, bool] | None
    mounts: tuple[MountPlan, ...]
    own_dev: bool  # /dev is a filesystem of ours: nodes and links are made in it
    devices: tuple[Device, ...]
    masked: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    sysctls: tuple[tuple[str, str], ...]
    late_sysctls: tuple[tuple[str, str], ...]
    hostname: str
    domainname: str
    process: ProcessPlan
    user_maps: tuple[str, str] = ("", "")  # texts for uid_map and gid_map of a new user namespace
    time_offsets: str = ""  # text for timens_offsets
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    host_hooks: bool = False  # the parent has some to run while we wait

    def new(self, kind: int) -> bool:
        return bool(self.unshare & kind)

    @property
    def other_user(self) -> bool:
        """The container's user namespace is not ours: what needs the host's privileges comes first."""
        return bool(self.unshare & ns.CLONE_NEWUSER) or any(
            join.kind == ns.CLONE_NEWUSER for join in self.joins
        )

    def describe(self) -> list[str]:
        """One line per step, for logs and dry runs."""
        lines = [f"join {join.path}" for join in self.joins]
        lines += [f"new {name} namespace" for name, kind in KINDS.items() if self.new(kind)]
        lines += [mount.describe() for mount in self.mounts]
        lines += [f"device {device.path}" for device in self.devices]
        lines += [f"mask {path}" for path in self.masked] + [
            f"read-only {path}" for path in self.readonly_paths
        ]
        lines += [f"sysctl {name}={value}" for name, value in (*self.sysctls, *self.late_sysctls)]
        return [*lines, f"execute {' '.join(self.process.args)}"]


def plan_container(launch: Launch) -> ContainerPlan:
    """Raises InvalidArgument or Unsupported, naming the field by its path in the configuration."""
    spec = launch.spec
    linux = spec.linux
    if spec.process is None:
        raise InvalidArgument("process: the specification has no process")
    check_hooks(spec.hooks)
    if linux.mount_label or spec.process.selinux_label:
        where = "linux.mountLabel" if linux.mount_label else "process.selinuxLabel"
        raise Unsupported(f"{where}: SELinux labels are not supported")
    if linux.intel_rdt is not None:
        raise Unsupported("linux.intelRdt: resource director technology is not supported")
    unshare, joins = _plan_namespaces(spec)
    sysctls = _plan_sysctls(spec, unshare, joins)
    if (spec.hostname or spec.domainname) and not _private(ns.CLONE_NEWUTS, unshare, joins):
        raise InvalidArgument(f"{'hostname' if spec.hostname else 'domainname'}: needs a uts namespace")
    user_maps = _plan_user(linux, unshare)
    owners: tuple[str, str] | str = user_maps if user_maps[0] else ""
    for join in joins:
        if join.kind == ns.CLONE_NEWUSER:
            owners = join.path
    mounts = tuple(
        plan_mount(mount, where=f"mounts[{index}]", bundle=launch.bundle, owners=owners)
        for index, mount in enumerate(spec.mounts)
    )
    own_dev = any(mount.destination == "/dev" and mount.kind != "bind" for mount in mounts)
    process = plan_process(spec.process, with_init=spec.annotations.get(INIT_ANNOTATION) == "true")
    cpu = linux.resources.cpu if linux.resources is not None else None
    if process.scheduler is not None and process.scheduler.policy == SCHED_DEADLINE and cpu and cpu.cpus:
        # The admission of SCHED_DEADLINE is for all processors at once, sched(7); as runc calls the cpuset.
        raise InvalidArgument(
            "process.scheduler.policy: process scheduler can't be used together with AllowedCPUs",
            detail=f'linux.resources.cpu.cpus is "{cpu.cpus}"',
        )
    return ContainerPlan(
        id=launch.id,
        unshare=unshare,
        joins=joins,
        rootfs=launch.rootfs,
        readonly=spec.root is not None and spec.root.readonly,
        propagation=parse_propagation(linux.rootfs_propagation) if linux.rootfs_propagation else None,
        mounts=mounts,
        own_dev=own_dev,
        devices=_plan_devices(linux.devices, own_dev),
        masked=tuple(map(clean, linux.masked_paths)),
        readonly_paths=tuple(map(clean, linux.readonly_paths)),
        sysctls=tuple(item for item in sysctls if not _INTERFACE_SYSCTL.match(item[0])),
        late_sysctls=tuple(item for item in sysctls if _INTERFACE_SYSCTL.match(item[0])),
        hostname=spec.hostname,
        domainname=spec.domainname,
        process=replace(process, personality=plan_personality(linux)),
        user_maps=user_maps,
        time_offsets=_plan_time(linux.time_offsets or {}, unshare),
        create_container=hooks_of(spec, "createContainer"),
        start_container=hooks_of(spec, "startContainer"),
        host_hooks=bool(hooks_of(spec, "prestart") or hooks_of(spec, "createRuntime")),
    )


def plan_process(process: Process, *, with_init: bool = False) -> ProcessPlan:
    """Raises InvalidArgument for what cannot be executed or limited."""
    if not process.args:
        raise StartFailed("no command specified")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f'process.cwd: working directory "{process.cwd}" is not absolute')
    if any("\0" in text for text in (*process.args, *process.env, process.cwd)):
        raise InvalidArgument("process: arguments and environment must not contain a NUL byte")
    sets = process.capabilities or Capabilities()
    size = process.console_size
    umask = 0o022 if process.user.umask is None else process.user.umask
    unknown: dict[str, None] = {}
    return ProcessPlan(
        args=process.args,
        env=tuple(dict(_pair(item) for item in process.env if "=" in item[1:]).items()),
        cwd=posixpath.normpath(process.cwd),
        terminal=process.terminal,
        size=(size.height, size.width) if size is not None and (size.height or size.width) else None,
        user=process.user,
        umask=umask & 0o777,
        bounding=_mask(sets.bounding, unknown),
        effective=_mask(sets.effective, unknown),
        permitted=_mask(sets.permitted, unknown),
        inheritable=_mask(sets.inheritable, unknown),
        ambient=_mask(sets.ambient, unknown),
        rlimits=_plan_rlimits(process),
        no_new_privileges=process.no_new_privileges,
        oom_score_adj=_plan_oom_score(process.oom_score_adj),
        apparmor_profile=process.apparmor_profile,
        with_init=with_init,
        scheduler=plan_scheduler(process.scheduler),
        io_priority=plan_io_priority(process.io_priority),
        affinity=plan_affinity(process.exec_cpu_affinity),
        warnings=tuple(f"unknown capability {name} is ignored" for name in unknown),
    )


def _pair(item: str) -> tuple[str, str]:
    name, _equals, value = item.partition("=")
    return name, value


def _mask(names: tuple[str, ...], unknown: dict[str, None]) -> int:
    """The bits. What this kernel's headers do not know is a warning, not an error (runtime-spec 1.2, config.md)."""
    known: list[str] = []
    for name in names:
        if name in capabilities.NUMBERS:
            known.append(name)
        else:
            unknown[name] = None
    return capabilities.mask(known)


def _plan_oom_score(score: int | None) -> int | None:
    if score is not None and not -1000 <= score <= 1000:
        raise InvalidArgument(f"process.oomScoreAdj: {score} is not between -1000 and 1000")
    return score


def _plan_namespaces(spec: Spec) -> tuple[int, tuple[Join, ...]]:
    unshare, joins, seen = 0, list[Join](), set[str]()
    for index, namespace in enumerate(spec.linux.namespaces):
        where = f"linux.namespaces[{index}]"
        kind = KINDS.get(namespace.type)
        if kind is None:
            raise Unsupported(f"{where}.type: {namespace.type} namespaces are not supported")
        if namespace.type in seen:
            raise InvalidArgument(f"{where}.type: namespace {namespace.type} is given twice")
        seen.add(namespace.type)
        if not namespace.path:
            unshare |= kind
        elif not namespace.path.startswith("/"):
            raise InvalidArgument(f'{where}.path: "{namespace.path}" is not absolute')
        else:
            joins.append(Join(kind, namespace.path))
    if not unshare & ns.CLONE_NEWNS:
        raise Unsupported("linux.namespaces: a container needs a mount namespace of its own")
    # A user namespace last: with it go the host's privileges, which joining the others needs.
    joins.sort(key=lambda join: join.kind == ns.CLONE_NEWUSER)
    return unshare, tuple(joins)


def _plan_user(linux: Linux, unshare: int) -> tuple[str, str]:
    """The texts of uid_map and gid_map. Raises InvalidArgument when mappings and namespace do not fit."""
    uids = map_text(linux.uid_mappings, "linux.uidMappings")
    gids = map_text(linux.gid_mappings, "linux.gidMappings")
    if unshare & ns.CLONE_NEWUSER:
        for name, text in (("uidMappings", uids), ("gidMappings", gids)):
            if not text:
                raise InvalidArgument(f"linux.{name}: a new user namespace needs mappings")
    elif uids or gids:
        name = "uidMappings" if uids else "gidMappings"
        raise InvalidArgument(f"linux.{name}: mappings need a new user namespace, one without a path")
    return uids, gids


def _plan_time(offsets: dict[str, TimeOffset], unshare: int) -> str:
    """The text of timens_offsets, time_namespaces(7)."""
    if offsets and not unshare & ns.CLONE_NEWTIME:
        raise InvalidArgument("linux.timeOffsets: offsets need a new time namespace")
    for clock, offset in offsets.items():
        if clock not in _CLOCKS:
            raise InvalidArgument(f"linux.timeOffsets.{clock}: only monotonic and boottime have offsets")
        if not 0 <= offset.nanosecs < 1_000_000_000 or not -(1 << 62) < offset.secs < 1 << 62:
            raise InvalidArgument(f"linux.timeOffsets.{clock}: not a number of seconds and nanoseconds")
    return "".join(f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in offsets.items())


def plan_personality(linux: Linux) -> int | None:
    """The argument of personality(2). Raises InvalidArgument."""
    if linux.personality is None:
        return None
    if linux.personality.flags:
        raise InvalidArgument("linux.personality.flags: no flags are known")
    domain = _DOMAINS.get(linux.personality.domain)
    if domain is None:
        raise InvalidArgument(f'linux.personality.domain: unknown domain "{linux.personality.domain}"')
    return domain


def _private(kind: int, unshare: int, joins: tuple[Join, ...]) -> bool:
    return bool(unshare & kind) or any(join.kind == kind for join in joins)


def _plan_sysctls(spec: Spec, unshare: int, joins: tuple[Join, ...]) -> list[tuple[str, str]]:
    """Only settings that belong to one of the container's own namespaces; everything else is the host's."""
    planned: list[tuple[str, str]] = []
    for name, value in spec.linux.sysctl.items():
        # net/ipv4/conf/eth0.100 and net.ipv4.conf.eth0/100 are the same: the first separator says which, sysctl(8).
        slashes = "." not in name.split("/", 1)[0] and "/" in name
        dotted = name.translate({ord("/"): ".", ord("."): "/"}) if slashes else name
        if not _SYSCTL_NAME.fullmatch(dotted.replace("/", "_")) or ".." in name:
            raise InvalidArgument(f'linux.sysctl: invalid sysctl name "{name}"')
        if any(ord(letter) < 32 and letter != "\t" for letter in value):
            raise InvalidArgument(f'linux.sysctl: invalid value of sysctl "{name}"')
        if dotted.startswith("net."):
            needed = ns.CLONE_NEWNET
        elif _IPC_SYSCTLS.fullmatch(dotted):
            needed = ns.CLONE_NEWIPC
        elif dotted == "kernel.domainname":
            needed = ns.CLONE_NEWUTS
        else:
            raise InvalidArgument(f'linux.sysctl: sysctl "{name}" is not in a separate kernel namespace')
        if not _private(needed, unshare, joins):
            raise InvalidArgument(f'linux.sysctl: sysctl "{name}" is not allowed in the host\'s namespace')
        planned.append((dotted, value))
    return planned


def _plan_devices(devices: tuple[Device, ...], own_dev: bool) -> tuple[Device, ...]:
    """Those to make. /dev/ptmx is none of them: it leads into the container's own devpts."""
    chosen = {device.path: device for device in DEFAULT_DEVICES}
    for index, device in enumerate(devices):
        path = clean(device.path)
        if device.type not in ("c", "b", "u", "p") or path == "/":
            raise InvalidArgument(
                f'linux.devices[{index}]: invalid device "{device.path}" of type "{device.type}"'
            )
        if path != "/dev/ptmx":
            chosen[path] = device
    return tuple(chosen.values()) if own_dev else ()


def _plan_rlimits(process: Process) -> tuple[tuple[int, int, int], ...]:
    planned: dict[int, tuple[int, int, int]] = {}
    for index, limit in enumerate(process.rlimits):
        where, kind = f"process.rlimits[{index}]", limit.type
        number = getattr(resource, kind, None) if kind.startswith("RLIMIT_") else None
        if not isinstance(number, int):
            raise InvalidArgument(f'{where}.type: unknown limit "{kind}"')
        if number in planned:
            raise InvalidArgument(f"{where}.type: {kind} is given twice")
        if not 0 <= limit.soft <= limit.hard < 1 << 64:
            raise InvalidArgument(
                f"{where}: {kind}: the soft limit {limit.soft} is above the hard limit {limit.hard}"
            )
        planned[number] = (number, _limit(limit.soft), _limit(limit.hard))
    return tuple(planned.values())


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value >= 1 << 63 else value
