"""The forked child: from the monitor's copy to the container's process. Never returns.

Messages to the parent over the SOCK_SEQPACKET channel, one letter and a body: NAMESPACES (two descriptors or none),
CONSOLE (one descriptor), WARNING text, ERROR "errno NUL what NUL detail NUL hint", EXECUTING.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import NoReturn

from longshore.errors import EngineError, StartFailed
from longshore.kernel import mounts as kernel_mounts
from longshore.kernel import namespaces as ns
from longshore.kernel import processes
from longshore.kernel.descriptors import send
from longshore.runtime import cgroups, program, rootfs
from longshore.runtime.cgroup_layout import Layout
from longshore.runtime.mounts import Mounter, Sources
from longshore.runtime.plan import ContainerPlan
from longshore.runtime.steps import Doing, words

NAMESPACES = b"N"
CONSOLE = b"T"
WARNING = b"W"
ERROR = b"E"

_OWN_MOMENT = ns.CLONE_NEWPID | ns.CLONE_NEWCGROUP


@dataclass(slots=True)
class InitJob:
    plan: ContainerPlan
    cgroup: str
    layout: Layout
    joins: tuple[tuple[int, int], ...]  # descriptor, kind
    stdio: tuple[int, ...]  # empty with a terminal
    channel: socket.socket
    seccomp: tuple[bytes, int] | None


def run_init(job: InitJob) -> NoReturn:
    try:
        keep = (job.channel.fileno(), *job.stdio, *(fd for fd, _kind in job.joins))
        program.become_child(keep)
        _start_init(job)
    except BaseException as error:  # the process ends here whatever it was; the parent gets the reason
        _report(job.channel, error)
    finally:
        os._exit(1)


def _start_init(job: InitJob) -> NoReturn:
    plan, channel = job.plan, job.channel
    warnings: list[str] = []
    _enter_namespaces(job)
    program.set_limits(plan.process, warnings)
    _tell(channel, warnings)
    root_fd, console, proc_fd = _build_root(job)
    if plan.hostname:
        with Doing("setting the hostname"):
            ns.sethostname(plan.hostname)
    if plan.domainname:
        with Doing("setting the domain name"):
            ns.setdomainname(plan.domainname)
    _own_keyring(plan.id)
    if plan.late_sysctls and proc_fd is not None:
        program.wait_for_permission(channel)
        rootfs.write_sysctls(proc_fd, plan.late_sysctls)
    program.finish(
        *(plan.process, root_fd, job.stdio, console, channel, job.seccomp, proc_fd),
        wait=not plan.late_sysctls,
    )


def _enter_namespaces(job: InitJob) -> None:
    plan = job.plan
    for fd, kind in job.joins:
        with Doing("joining a namespace"):
            ns.setns(fd, kind)
        os.close(fd)
    with Doing("creating the namespaces"):
        ns.unshare(plan.unshare & ~_OWN_MOMENT)
    if plan.new(ns.CLONE_NEWNET):
        # Before the monitor or the daemon could name it: the namespace and a socket born in it, netlink(7).
        netns = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        send(job.channel, NAMESPACES, (netns, netlink.fileno()))
        os.close(netns)
        netlink.close()
    else:
        send(job.channel, NAMESPACES)


def _join_cgroup(job: InitJob) -> None:
    """Late, so that the parent makes the group meanwhile; before the cgroup mounts, which show where we are."""
    if not job.channel.recv(1):  # the group exists now
        os._exit(1)
    cgroups.join_self(job.cgroup)
    if job.plan.new(ns.CLONE_NEWCGROUP):
        with Doing("creating the cgroup namespace"):
            ns.unshare(ns.CLONE_NEWCGROUP)


def _build_root(job: InitJob) -> tuple[int, int | None, int | None]:
    """Mount and enter the root: its descriptor, the slave of the console, a private procfs when one is needed."""
    plan = job.plan
    sources = Sources()
    sources.take(plan.mounts)
    with Doing("making the mounts private"):
        kernel_mounts.mount(None, "/", None, kernel_mounts.MS_REC | kernel_mounts.MS_PRIVATE)
    root_fd = rootfs.mount_root(plan.rootfs)
    _join_cgroup(job)
    cgroup_namespace = plan.new(ns.CLONE_NEWCGROUP) or any(
        kind == ns.CLONE_NEWCGROUP for _fd, kind in job.joins
    )
    mounter = Mounter(root_fd, sources, job.layout, job.cgroup, cgroup_namespace)
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
    mounter.finish()
    rootfs.finish_root(root_fd, plan)
    rootfs.enter_root(root_fd)
    return root_fd, console, proc_fd


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
