"""The forked child: from the monitor's copy to the container's process. Never returns.

Messages to the parent over the SOCK_SEQPACKET channel, one letter and a body: NAMESPACES (two descriptors or none),
OWNERS (a user namespace waits for its mappings), PROCESS pid, HOOKS (the parent's turn), CONSOLE (one descriptor),
those of program.py, ERROR "errno NUL what NUL detail NUL hint". The parent answers OWNERS, HOOKS, READY, LISTENER.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from longshore.errors import EngineError, StartFailed
from longshore.kernel import mounts as kernel_mounts
from longshore.kernel import namespaces as ns
from longshore.kernel import processes
from longshore.kernel.descriptors import send
from longshore.runtime import cgroups, program, rootfs
from longshore.runtime.cgroup_layout import Layout
from longshore.runtime.hooks import run_hooks
from longshore.runtime.mounts import Mounter, Sources
from longshore.runtime.plan import ContainerPlan
from longshore.runtime.program import WARNING, Entry, Filter
from longshore.runtime.steps import Doing, words

NAMESPACES = b"N"
OWNERS = b"U"
PROCESS = b"P"
HOOKS = b"H"
CONSOLE = b"T"
ERROR = b"E"

__all__ = ["CONSOLE", "ERROR", "HOOKS", "NAMESPACES", "OWNERS", "PROCESS", "WARNING"]

ROOT = -1  # in InitJob.idmaps: the layers of an overlay root
_OWN_MOMENT = ns.CLONE_NEWPID | ns.CLONE_NEWCGROUP | ns.CLONE_NEWTIME


@dataclass(slots=True)
class InitJob:
    plan: ContainerPlan
    cgroup: str
    layout: Layout
    joins: tuple[tuple[int, int], ...]  # descriptor, kind
    stdio: tuple[int, ...]  # empty with a terminal
    channel: socket.socket
    filter: Filter | None
    idmaps: Mapping[int, int] = field(default_factory=dict[int, int])  # index of a mount -> user namespace
    extra: tuple[int, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the state, for hooks
    gate: int = -1
    entry: Entry | None = None

    def descriptors(self) -> tuple[int, ...]:
        joins = (fd for fd, _kind in self.joins)
        return (self.channel.fileno(), *self.stdio, *joins, *self.idmaps.values(), *self.extra, self.gate)


def run_init(job: InitJob) -> NoReturn:
    try:
        program.become_child(job.descriptors())
        _start_init(job)
    except BaseException as error:  # the process ends here whatever it was; the parent gets the reason
        _report(job.entry.channel if job.entry else job.channel, error)
    finally:
        os._exit(1)


def _start_init(job: InitJob) -> NoReturn:
    plan, channel = job.plan, job.channel
    warnings = list(plan.process.warnings)
    if plan.other_user:
        root_fd, mounter = _enter_as_other_user(job, warnings)
    else:
        _enter_namespaces(job)
        program.set_limits(plan.process, warnings)
        root_fd, mounter = _enter_root(job)
    _tell(channel, warnings)
    console, proc_fd = _fill_root(job, root_fd, mounter)
    if plan.hostname:
        with Doing("setting the hostname"):
            ns.sethostname(plan.hostname)
    if plan.domainname:
        with Doing("setting the domain name"):
            ns.setdomainname(plan.domainname)
    _own_keyring(plan.id)
    entry = Entry(plan.process, channel, root_fd, job.stdio, console, job.filter, proc_fd, job.extra)
    entry.hooks, entry.told, entry.gate = plan.start_container, job.told, job.gate
    job.entry = entry
    entry.wait = not plan.late_sysctls
    if plan.late_sysctls and proc_fd is not None:
        entry.channel, entry.gate = program.wait_for_permission(channel, entry.gate), -1
        rootfs.write_sysctls(proc_fd, plan.late_sysctls)
    program.finish(entry)


def _enter_namespaces(job: InitJob) -> None:
    for fd, kind in job.joins:
        with Doing("joining a namespace"):
            ns.setns(fd, kind)
        os.close(fd)
    with Doing("creating the namespaces"):
        ns.unshare(job.plan.unshare & ~_OWN_MOMENT)
    _tell_namespaces(job)


def _tell_namespaces(job: InitJob) -> None:
    if not job.plan.new(ns.CLONE_NEWNET):
        send(job.channel, NAMESPACES)
        return
    # Before the monitor or the daemon could name it: the namespace and a socket born in it, netlink(7).
    netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    send(job.channel, NAMESPACES, (netns, netlink.fileno()))
    os.close(netns)
    netlink.close()


def _join_cgroup(job: InitJob) -> None:
    """Late, so that the parent makes the group meanwhile; before the cgroup mounts, which show where we are."""
    _await_parent(job.channel)  # the group exists now
    cgroups.join_self(job.cgroup)
    program.set_scheduling(job.plan.process)


def _await_parent(channel: socket.socket) -> None:
    if not channel.recv(1):
        os._exit(1)


def _new_cgroup_namespace(job: InitJob) -> None:
    if job.plan.new(ns.CLONE_NEWCGROUP):
        with Doing("creating the cgroup namespace"):
            ns.unshare(ns.CLONE_NEWCGROUP)


def _make_private() -> None:
    with Doing("making the mounts private"):
        kernel_mounts.mount(None, "/", None, kernel_mounts.MS_REC | kernel_mounts.MS_PRIVATE)


def _mounter(job: InitJob, root_fd: int, sources: Sources) -> Mounter:
    cgroup_namespace = job.plan.new(ns.CLONE_NEWCGROUP) or any(
        kind == ns.CLONE_NEWCGROUP for _fd, kind in job.joins
    )
    return Mounter(root_fd, sources, job.layout, job.cgroup, cgroup_namespace)


def _enter_root(job: InitJob) -> tuple[int, Mounter]:
    """Mount the root and join the cgroup: the root's descriptor, and who mounts in it."""
    sources = Sources()
    sources.take(job.plan.mounts, job.idmaps)
    _make_private()
    sources.take_images(job.plan.mounts)
    root_fd = rootfs.mount_root(job.plan.rootfs)
    _join_cgroup(job)
    _new_cgroup_namespace(job)
    return root_fd, _mounter(job, root_fd, sources)


def _enter_as_other_user(job: InitJob, warnings: list[str]) -> tuple[int, Mounter]:
    """The same with a user namespace, in two processes; returns in the second, which is the container's.

    What needs the host's privileges comes before it: limits, cgroup, sources of mounts, the root. The other
    namespaces come after it, so that they belong to it. A pid namespace takes only children, hence the fork; the
    parent is a subreaper meanwhile, so that the second process becomes its child, prctl(2).
    """
    plan, channel = job.plan, job.channel
    program.set_limits(plan.process, warnings)
    _join_cgroup(job)
    sources = Sources()
    sources.take(plan.mounts, job.idmaps)
    offsets = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC) if plan.time_offsets else -1
    with Doing("creating a mount namespace"):
        ns.unshare(ns.CLONE_NEWNS)
    _make_private()
    owners = rootfs.Owners(job.idmaps[ROOT], *map(_root_of, plan.user_maps)) if ROOT in job.idmaps else None
    sources.take_images(plan.mounts, owners)
    root_fd = rootfs.mount_root(plan.rootfs, owners)
    # Detached: a mount that comes along into a namespace of other owners is locked to its place.
    root = kernel_mounts.open_tree(root_fd, recursive=True)
    os.close(root_fd)
    for fd, kind in job.joins:
        with Doing("joining a namespace"):
            ns.setns(fd, kind)
        os.close(fd)
    if plan.new(ns.CLONE_NEWUSER):
        with Doing("creating the user namespace"):
            ns.unshare(ns.CLONE_NEWUSER)
        send(channel, OWNERS)
        _await_parent(channel)
    _become_root()
    with Doing("creating the namespaces"):
        ns.unshare(plan.unshare & ~(ns.CLONE_NEWUSER | ns.CLONE_NEWCGROUP))
    if offsets >= 0:
        with Doing("setting the offsets of the clocks"):
            os.write(offsets, plan.time_offsets.encode())
        os.close(offsets)
    if os.fork():
        os._exit(0)
    os.setsid()  # a terminal is for the leader of a session
    # The procfs is still the host's: it names us as our parent does.
    send(channel, PROCESS + os.readlink("/proc/self").encode())  # noqa: PTH115 (no pathlib after fork)
    _new_cgroup_namespace(job)
    _tell_namespaces(job)
    rootfs.attach_root(plan.rootfs, root)
    return root, _mounter(job, root, sources)


def _root_of(mappings: str) -> int:
    """The id outside of root inside, from the text of a uid_map or gid_map; who is nobody inside has none."""
    for line in mappings.splitlines():
        inside, outside, _size = line.split()
        if inside == "0":
            return int(outside)
    return 0


def _become_root() -> None:
    """Until the identity is taken: files made meanwhile need an owner that the namespace knows."""
    with Doing("becoming root of the user namespace"):
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    processes.set_dumpable(False)  # setresuid(2) has put it to fs.suid_dumpable


def _fill_root(job: InitJob, root_fd: int, mounter: Mounter) -> tuple[int | None, int | None]:
    """Everything in the root, and make it "/": the slave of the console, a private procfs when one is needed."""
    plan = job.plan
    mounter.attach_all(plan.mounts)
    if plan.own_dev:
        rootfs.make_devices(root_fd, plan.devices)
        rootfs.make_links(root_fd)
    proc_fd = None
    if plan.sysctls or plan.late_sysctls or plan.process.apparmor_profile:
        proc_fd = rootfs.private_procfs()
        rootfs.write_sysctls(proc_fd, plan.sysctls)
    console = None
    if plan.process.terminal:
        master, console = rootfs.open_console(root_fd, plan.process.size)
        send(job.channel, CONSOLE, (master,))
        os.close(master)
    _create_hooks(job, root_fd)
    mounter.finish()
    rootfs.finish_root(root_fd, plan, mounter.kernels)
    rootfs.enter_root(root_fd, plan)
    return console, proc_fd


def _create_hooks(job: InitJob, root_fd: int) -> None:
    """prestart and createRuntime by the parent, createContainer by us: in our namespaces, before the root is "/"."""
    if job.plan.host_hooks:
        send(job.channel, HOOKS)
        _await_parent(job.channel)
    if job.plan.create_container:
        os.fchdir(root_fd)
        run_hooks("createContainer", job.plan.create_container, {**job.told, "pid": os.getpid()})


def _own_keyring(container_id: str) -> None:
    """The session keyring is inherited and not namespaced: without this the container possesses the host's."""
    try:
        processes.join_session_keyring(f"longshore.{container_id}")
    except OSError:
        pass  # EDQUOT, or a kernel without keyrings


def _tell(channel: socket.socket, warnings: list[str]) -> None:
    for warning in warnings:
        send(channel, WARNING + warning.encode())


def _report(channel: socket.socket, error: BaseException) -> None:
    if isinstance(error, EngineError):
        number = error.errno if isinstance(error, StartFailed) else 0
        parts = (str(number), error.what, error.detail, error.hint)
    elif isinstance(error, OSError):
        call = f"{error.filename}: " if isinstance(error.filename, str) else ""
        parts = (str(error.errno or 0), f"error starting the process: {call}{words(error)}", "", "")
    else:
        parts = ("0", f"defect while starting the process: {type(error).__name__}: {error}", "", "")
    body = "\0".join(part.replace("\0", "") for part in parts).encode("utf-8", "surrogateescape")
    try:
        send(channel, ERROR + body[:60000])
    except OSError:
        pass  # nobody listens any more
