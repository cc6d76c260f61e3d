# plain system calls: these run several times per container and pathlib costs more than they do
# ruff: noqa: PTH102
"""Making one container's group in one hierarchy, with the groups above it, and writing planned values into it."""

from __future__ import annotations

import errno
import os

from longshore.errors import Conflict, StartFailed, Unsupported
from longshore.kernel import cgroups as files
from longshore.runtime.cgroup_layout import Hierarchy, Layout
from longshore.runtime.cgroup_plan import DOMAIN_CONTROLLERS, Write
from longshore.runtime.steps import words

_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")


def make_group(
    hierarchy: Hierarchy, cgroup: str, needed: frozenset[str] = frozenset(), *, occupied: bool = False
) -> bool:
    """Make the group and what is missing above it; whether it is new.

    `needed`: the controllers whose values will be written. `occupied`: systemd has put a process into it already.
    Raises Conflict when somebody else is in it, StartFailed.
    """
    path = hierarchy.path(cgroup)
    fresh = True
    try:
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            _make_parents(hierarchy, cgroup)
            os.mkdir(path, 0o755)
    except FileExistsError:
        # Left by a run that was killed: taken over when nobody is in it.
        fresh = False
        if not occupied and _has_processes(path):
            raise Conflict(f'cgroup "{cgroup}" is in use', detail=path) from None
    except OSError as error:
        raise StartFailed(
            f'error creating cgroup "{path}": {words(error)}', errno=error.errno or 0
        ) from error
    if hierarchy.version == 2:
        if len(files.read(f"{path}/cgroup.controllers").split()) < len(hierarchy.controllers):
            _make_parents(hierarchy, cgroup)  # they exist, but have not given everything on
        _settle_type(path, needed)
    elif "cpuset" in hierarchy.controllers:
        _inherit_cpuset(path)
    return fresh


def _has_processes(path: str) -> bool:
    try:
        return bool(files.read(f"{path}/cgroup.procs").strip())
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # a threaded group lists threads only
            raise
        return bool(files.read(f"{path}/cgroup.threads").strip())


def _make_parents(hierarchy: Hierarchy, cgroup: str) -> None:
    path = hierarchy.mount
    if hierarchy.version == 2:
        _delegate(hierarchy, path)
    for name in cgroup.strip("/").split("/")[:-1]:
        path = f"{path}/{name}"
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            pass
        if hierarchy.version == 2:
            _settle_type(path, frozenset())
            _delegate(hierarchy, path)
        elif "cpuset" in hierarchy.controllers:
            _inherit_cpuset(path)


def _settle_type(path: str, needed: frozenset[str]) -> None:
    """A group below a threaded one, or below one with processes of its own, is "domain invalid": it can only become
    threaded, and then has no domain controllers, cgroups(7). Raises StartFailed when those are needed.
    """
    try:
        kind = files.read(f"{path}/cgroup.type").strip()
    except FileNotFoundError:  # the root of the machine
        return
    if kind == "domain":
        return
    if domain := sorted(needed & DOMAIN_CONTROLLERS):
        raise StartFailed(
            f'cannot enter cgroupv2 "{path}" with domain controllers ({", ".join(domain)}): it is {kind}',
            hint="choose a --cgroup-parent without processes and threaded groups above it",
        )
    if kind == "domain invalid":
        try:
            files.write(f"{path}/cgroup.type", "threaded")
        except OSError as error:
            raise StartFailed(f'cannot make cgroup "{path}" threaded: {words(error)}') from error


def _inherit_cpuset(path: str) -> None:
    """A v1 cpuset starts empty and takes no process until it has processors and memory nodes, cpuset(7).

    Groups above that others have made may be empty too; the hierarchy's root never is.
    """
    parent = path.rsplit("/", 1)[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not files.read(f"{path}/{file}").strip():
            given = files.read(f"{parent}/{file}").strip()
            if not given:
                _inherit_cpuset(parent)
                given = files.read(f"{parent}/{file}").strip()
            files.write(f"{path}/{file}", given)


def _delegate(hierarchy: Hierarchy, path: str) -> None:
    """Give all controllers to the children of a v2 group.

    One that cannot be given on (its processes, a threaded group) is reported when its limit is wanted.
    """
    enabled = files.read(f"{path}/cgroup.subtree_control").split()
    offered = files.read(f"{path}/cgroup.controllers").split()
    moved = path != hierarchy.mount
    for name in _V2_CONTROLLERS:
        if name not in offered or name in enabled:
            continue
        if _enable(path, name) == errno.EBUSY and not moved:
            _leave_root(hierarchy)
            moved = True
            _enable(path, name)


def _enable(path: str, controller: str) -> int:
    """0, or why not."""
    try:
        files.write(f"{path}/cgroup.subtree_control", f"+{controller}")
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _leave_root(hierarchy: Hierarchy) -> None:
    """Inside a container the namespace's root group has processes and so cannot give controllers to its
    children (no internal processes, cgroups(7)): they move to a leaf of their own.
    """
    leaf = f"{hierarchy.mount}/longshore.host"
    try:
        os.mkdir(leaf, 0o755)
    except FileExistsError:
        pass
    for pid in files.read(f"{hierarchy.mount}/cgroup.procs").split():
        try:
            files.write(f"{leaf}/cgroup.procs", pid)
        except OSError:
            pass  # a kernel thread, or gone


def write_all(where: Layout, cgroup: str, plan: list[Write]) -> list[str]:
    """Write the plan into the group; returns warnings. Raises Unsupported, StartFailed."""
    warnings: list[str] = []
    again: list[Write] = []
    for write in plan:
        warning, retry = _write(where, cgroup, write, last=False)
        warnings += warning
        again += retry
    for write in again:
        warnings += _write(where, cgroup, write, last=True)[0]
    return warnings


def _write(where: Layout, cgroup: str, write: Write, *, last: bool) -> tuple[list[str], list[Write]]:
    """Warnings, and what is to be written again later."""
    hierarchy = where.find(write.controller)
    if hierarchy is None:
        if not write.optional:
            raise Unsupported(
                f"cannot set {write.file}: this machine has no {write.controller} cgroup controller",
                hint="see `longshore doctor`",
            )
        text = f"this machine has no {write.controller} controller: {write.file} is not set"
        return [] if write.quiet else [text], []
    path = f"{hierarchy.path(cgroup)}/{write.file}"
    try:
        files.write(path, write.value)
    except FileNotFoundError:
        if write.otherwise is not None:
            return _write(where, cgroup, write.otherwise, last=last)
        if not write.optional:
            raise Unsupported(f"cannot set {write.file}: this kernel does not have it") from None
        return [] if write.quiet else [f"this kernel has no {write.file}: it is not set"], []
    except OSError as error:
        if write.retry and not last and error.errno == errno.EINVAL:
            return [], [write]
        # A group inside a container cannot be given devices that the container itself does not have.
        if write.file == "devices.allow" and error.errno == errno.EPERM:
            return [], []
        raise StartFailed(
            f"error setting {write.file} to {write.value}: {words(error)}{_why(path, error)}",
            errno=error.errno or 0,
        ) from error
    return [], []


def _why(path: str, error: OSError) -> str:
    """The kernel says only "busy" about a limit below what is in use."""
    if error.errno != errno.EBUSY or not path.endswith("/memory.limit_in_bytes"):
        return ""
    folder = path.rpartition("/")[0]
    used, peak = (files.read(f"{folder}/memory.{name}_in_bytes").strip() for name in ("usage", "max_usage"))
    return f" (current usage: {used}, peak usage: {peak})"


def try_write(path: str, value: str) -> bool:
    """Whether the kernel took it."""
    try:
        files.write(path, value)
        return True
    except OSError:
        return False
