"""From a specification to the steps of starting a process. Pure: touches nothing, judges everything.

The forked child then only does; whatever can be wrong in a specification is found here, before anything exists.
"""

from __future__ import annotations

import posixpath
import re
import resource
from dataclasses import dataclass

from longshore.errors import InvalidArgument, StartFailed, Unsupported
from longshore.kernel import capabilities
from longshore.kernel import namespaces as ns
from longshore.kernel.paths import clean
from longshore.oci.runtime_spec import INIT_ANNOTATION, Capabilities, Device, Process, Spec, User
from longshore.runtime.messages import Launch, OverlayRoot, PlainRoot
from longshore.runtime.mount_options import MountPlan, parse_propagation, plan_mount

KINDS = {
    "pid": ns.CLONE_NEWPID,
    "network": ns.CLONE_NEWNET,
    "mount": ns.CLONE_NEWNS,
    "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS,
    "cgroup": ns.CLONE_NEWCGROUP,
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


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    id: str
    unshare: int  # CLONE_ flags; pid and cgroup are taken at their own moments
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

    def new(self, kind: int) -> bool:
        return bool(self.unshare & kind)

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
    """Raises InvalidArgument or Unsupported, naming the field."""
    spec = launch.spec
    linux = spec.linux
    if spec.process is None:
        raise InvalidArgument("the specification has no process")
    if spec.hooks is not None and spec.hooks != type(spec.hooks)():
        raise Unsupported("hooks are not supported")
    if linux.mount_label or spec.process.selinux_label:
        raise Unsupported("SELinux labels are not supported")
    unshare, joins = _plan_namespaces(spec)
    sysctls = _plan_sysctls(spec, unshare, joins)
    if (spec.hostname or spec.domainname) and not _private(ns.CLONE_NEWUTS, unshare, joins):
        raise InvalidArgument("a hostname needs a uts namespace")
    mounts = tuple(plan_mount(mount) for mount in spec.mounts)
    own_dev = any(mount.destination == "/dev" and mount.kind != "bind" for mount in mounts)
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
        process=plan_process(spec.process, with_init=spec.annotations.get(INIT_ANNOTATION) == "true"),
    )


def plan_process(process: Process, *, with_init: bool = False) -> ProcessPlan:
    """Raises InvalidArgument for what cannot be executed or limited."""
    if not process.args or not process.args[0]:
        raise StartFailed("no command specified")
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f'working directory "{process.cwd}" is not absolute')
    if any("\0" in text for text in (*process.args, *process.env, process.cwd)):
        raise InvalidArgument("arguments and environment must not contain a NUL byte")
    sets = process.capabilities or Capabilities()
    size = process.console_size
    umask = 0o022 if process.user.umask is None else process.user.umask
    return ProcessPlan(
        args=process.args,
        env=tuple(dict(_pair(item) for item in process.env if "=" in item[1:]).items()),
        cwd=posixpath.normpath(process.cwd),
        terminal=process.terminal,
        size=(size.height, size.width) if size is not None and (size.height or size.width) else None,
        user=process.user,
        umask=umask & 0o777,
        bounding=_mask(sets.bounding),
        effective=_mask(sets.effective),
        permitted=_mask(sets.permitted),
        inheritable=_mask(sets.inheritable),
        ambient=_mask(sets.ambient),
        rlimits=tuple(_plan_rlimit(limit.type, limit.soft, limit.hard) for limit in process.rlimits),
        no_new_privileges=process.no_new_privileges,
        oom_score_adj=process.oom_score_adj,
        apparmor_profile=process.apparmor_profile,
        with_init=with_init,
    )


def _pair(item: str) -> tuple[str, str]:
    name, _equals, value = item.partition("=")
    return name, value


def _mask(names: tuple[str, ...]) -> int:
    try:
        return capabilities.mask(names)
    except KeyError as unknown:
        raise InvalidArgument(f"unknown capability {unknown.args[0]}") from None


def _plan_namespaces(spec: Spec) -> tuple[int, tuple[Join, ...]]:
    unshare, joins, seen = 0, list[Join](), set[str]()
    for namespace in spec.linux.namespaces:
        kind = KINDS.get(namespace.type)
        if kind is None:
            raise Unsupported(f"{namespace.type} namespaces are not supported")
        if namespace.type in seen:
            raise InvalidArgument(f"namespace {namespace.type} is given twice")
        seen.add(namespace.type)
        if namespace.path:
            joins.append(Join(kind, namespace.path))
        else:
            unshare |= kind
    if not unshare & ns.CLONE_NEWNS:
        raise Unsupported("a container needs a mount namespace of its own")
    return unshare, tuple(joins)


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
            raise InvalidArgument(f'invalid sysctl name "{name}"')
        if any(ord(letter) < 32 and letter != "\t" for letter in value):
            raise InvalidArgument(f'invalid value of sysctl "{name}"')
        if dotted.startswith("net."):
            needed = ns.CLONE_NEWNET
        elif _IPC_SYSCTLS.fullmatch(dotted):
            needed = ns.CLONE_NEWIPC
        elif dotted == "kernel.domainname":
            needed = ns.CLONE_NEWUTS
        else:
            raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')
        if not _private(needed, unshare, joins):
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the host\'s namespace')
        planned.append((dotted, value))
    return planned


def _plan_devices(devices: tuple[Device, ...], own_dev: bool) -> tuple[Device, ...]:
    for device in devices:
        if device.type not in ("c", "b", "u", "p") or clean(device.path) == "/":
            raise InvalidArgument(f'invalid device "{device.path}" of type "{device.type}"')
    if not own_dev:
        return ()
    chosen = {device.path: device for device in DEFAULT_DEVICES}
    chosen.update({clean(device.path): device for device in devices})
    return tuple(chosen.values())


def _plan_rlimit(kind: str, soft: int, hard: int) -> tuple[int, int, int]:
    number = getattr(resource, kind, None) if kind.startswith("RLIMIT_") else None
    if not isinstance(number, int):
        raise InvalidArgument(f'unknown limit "{kind}"')
    if not 0 <= soft <= hard < 1 << 64:
        raise InvalidArgument(f"{kind}: the soft limit {soft} is above the hard limit {hard}")
    return number, _limit(soft), _limit(hard)


def _limit(value: int) -> int:
    return resource.RLIM_INFINITY if value >= 1 << 63 else value
