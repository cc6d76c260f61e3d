# plain system calls: these run several times per container and pathlib costs more than they do
# ruff: noqa: PTH106
"""The cgroup driver: one container's group in every hierarchy, whatever versions the machine mixes.

A layout is read from /proc once. In v1 and hybrid machines each controller lives in its hierarchy; in v2 there is
one. The cgroupfs driver makes folders; the systemd driver lets systemd make a scope, and sets in its files what
systemd has no words for.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from longshore.errors import Conflict, StartFailed, Unsupported
from longshore.kernel import cgroups as files
from longshore.kernel.descriptors import close_quietly
from longshore.oci.runtime_spec import Memory, Resources
from longshore.runtime.cgroup_devices import attach_device_policy
from longshore.runtime.cgroup_layout import Hierarchy, Layout, layout
from longshore.runtime.cgroup_make import make_group, try_write, write_all
from longshore.runtime.cgroup_names import PARENT, Scope
from longshore.runtime.cgroup_names import cgroup_path as cgroup_path
from longshore.runtime.cgroup_plan import (
    Write,
    ignored_v2,
    order_memory_v1,
    plan_devices_v1,
    plan_v1,
    plan_v2,
)
from longshore.runtime.cgroup_stats import Stats, read_stats
from longshore.runtime.cgroup_units import device_properties, limit_properties, scope_properties
from longshore.runtime.device_rules import Policy, policy_of
from longshore.runtime.steps import words

_REMOVE_DEADLINE = 3.0


# Making


@dataclass(frozen=True, slots=True)
class NewScope:
    """What the systemd driver needs more than the cgroupfs driver: systemd itself moves the process in."""

    scope: Scope
    pid: int
    description: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])


def systemd_runs() -> bool:
    """Whether this machine was booted with systemd, sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")  # noqa: PTH112


def create(
    cgroup: str, resources: Resources | None, *, scope: NewScope | None = None, occupied: bool = False
) -> list[str]:
    """Make the group in every hierarchy and set its limits; returns warnings.

    With a `scope` the group is systemd's, and the scope's process is in it on return. `occupied`: processes of others
    may be in it.
    Raises Conflict when it exists with processes in it, Unsupported for a limit whose controller this machine lacks,
    InvalidArgument, StartFailed when the kernel refuses; then nothing made here is left, but for a scope, which ends
    with its process.
    """
    where = layout()
    resources = resources or Resources()
    plan, policy = _plan(where, resources), policy_of(resources.devices)
    warnings = ignored_v2(resources) if where.pure_v2 else []
    needed = frozenset(write.controller for write in plan)
    made: list[str] = []
    if scope is not None:
        _start_scope(scope, plan, policy if where.find("devices") else None)
    try:
        fresh = True
        for hierarchy in where.used():
            fresh &= make_group(hierarchy, cgroup, needed, occupied=occupied or scope is not None)
            made.append(hierarchy.path(cgroup))
        if not where.pure_v2:
            plan += plan_devices_v1(policy)
        warnings += write_all(where, cgroup, plan)
        if where.pure_v2:
            path = where.hierarchies[0].path(cgroup)
            warnings += attach_device_policy(path, policy, replace=not fresh)
        return warnings
    except BaseException:
        for path in reversed(made):
            try:
                os.rmdir(path)
            except OSError:
                pass  # the first error is the one to tell
        raise


def _start_scope(new: NewScope, plan: list[Write], policy: Policy | None) -> None:
    if processes(new.scope.path):
        raise Conflict(f'cgroup "{new.scope.path}" is in use', detail=new.scope.unit)
    from longshore.runtime import systemd  # imported where systemd runs only: the D-Bus library costs memory

    text = new.description or f"Longshore container {new.scope.unit.removesuffix('.scope')}"
    properties = scope_properties(text, new.scope.slice, new.pid, plan, new.annotations)
    if policy is not None:
        properties += device_properties(policy)
    systemd.start_scope(new.scope.unit, properties)


def update(cgroup: str, resources: Resources) -> list[str]:
    """Change limits of a group that exists, but not its devices; returns warnings. Errors as in create.

    When the group is a scope of systemd, systemd is told too.
    """
    where = layout()
    plan = _plan(where, resources)
    memory = where.find("memory")
    if memory is not None and memory.version == 1 and resources.memory is not None:
        now = files.read(f"{memory.path(cgroup)}/memory.limit_in_bytes")
        plan = order_memory_v1(plan, int(now))
    elif memory is not None and resources.memory is not None:
        _check_usage(memory.path(cgroup), resources.memory)
    unit = cgroup.rsplit("/", 1)[-1]
    if unit.endswith(".scope") and systemd_runs() and (properties := limit_properties(plan)):
        from longshore.runtime import systemd

        systemd.set_properties(unit, properties)
    return [*(ignored_v2(resources) if where.pure_v2 else ()), *write_all(where, cgroup, plan)]


def _check_usage(path: str, memory: Memory) -> None:
    """Where the caller asks for it: v2 would rather kill than refuse a limit below what is used."""
    if not memory.check_before_update or not memory.limit or memory.limit < 0:
        return
    used = int(files.read(f"{path}/memory.current"))
    if used > memory.limit:
        raise StartFailed(f"rejecting memory limit {memory.limit} because of the usage {used}")


def _plan(where: Layout, resources: Resources) -> list[Write]:
    return plan_v2(resources) if where.pure_v2 else plan_v1(resources)


def join_self(cgroup: str) -> None:
    """Move the calling process in.

    In v1 by "0" into `tasks`: the migration of just the calling thread needs no global lock and so no RCU grace
    period (Linux cgroup_procs_write_start), 0.04 ms instead of 0.1 to 15 ms.
    """
    for hierarchy in layout().used():
        path = hierarchy.path(cgroup)
        try:
            files.write(f"{path}/tasks" if hierarchy.version == 1 else f"{path}/cgroup.procs", "0")
        except OSError as error:
            raise StartFailed(
                f'error joining cgroup "{path}": {words(error)}', errno=error.errno or 0
            ) from error


def open_to_join(cgroup: str, beside: int) -> list[int]:
    """Descriptors, one per hierarchy: a process that writes "0" into all of them has joined.

    `beside`: a process of the container, whose own v2 group is taken: the container may have divided its group, and
    a v2 group with children takes no processes (cgroups(7)).
    """
    opened: list[int] = []
    try:
        for hierarchy in layout().used():
            path = hierarchy.path(cgroup)
            if hierarchy.version == 2:
                path = hierarchy.path(_own_group(beside, cgroup))
            name = "tasks" if hierarchy.version == 1 else "cgroup.procs"
            try:
                opened.append(os.open(f"{path}/{name}", os.O_WRONLY | os.O_CLOEXEC))
            except OSError as error:
                raise StartFailed(
                    f'error joining cgroup "{path}": {words(error)}', errno=error.errno or 0
                ) from error
    except BaseException:
        close_quietly(*opened)
        raise
    return opened


def _own_group(pid: int, cgroup: str) -> str:
    """The v2 group of a process when it is the given one or below, cgroups(7); else the given one."""
    for line in files.read(f"/proc/{pid}/cgroup").splitlines():
        if line.startswith("0::"):
            path = line[3:]
            return path if path.startswith(f"{cgroup}/") else cgroup
    return cgroup


# Acting on the processes


def _primary(where: Layout) -> list[Hierarchy]:
    for controller in ("pids", "memory", "freezer", "devices"):
        if hierarchy := where.find(controller):
            return [hierarchy]
    return list(where.used())


def processes(cgroup: str) -> set[int]:
    """All processes in the group and below.

    One hierarchy answers for all: nobody without the host's own cgroups at hand can be in the group of only some.
    """
    found: set[int] = set()
    for hierarchy in _primary(layout()):
        for directory, _below, _files in os.walk(hierarchy.path(cgroup)):
            try:
                found.update(map(int, files.read(f"{directory}/cgroup.procs").split()))
            except OSError:
                continue  # ENOENT, ENODEV: removed meanwhile; EOPNOTSUPP: a threaded group, its parent lists it
    return found


def kill_all(cgroup: str, number: int = signal.SIGKILL) -> None:
    """Signal every process of the group. With SIGKILL none escapes by forking. A group that is gone is fine."""
    where = layout()
    if (
        where.pure_v2
        and number == signal.SIGKILL
        and try_write(f"{where.hierarchies[0].path(cgroup)}/cgroup.kill", "1")
    ):  # Linux 5.14
        return
    frozen = False
    for _round in range(50):
        pids = processes(cgroup)
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        if not pids or number != signal.SIGKILL:
            break
        if not frozen and _round > 10:  # forking faster than we kill
            freeze(cgroup)
            frozen = True
            continue
        if frozen:
            thaw(cgroup)
            frozen = False
        time.sleep(0.002)
    if frozen:
        thaw(cgroup)


def freeze(cgroup: str) -> None:
    """Stop all processes of the group; returns when they are stopped. Raises Unsupported, StartFailed."""
    _set_frozen(cgroup, True)


def thaw(cgroup: str) -> None:
    _set_frozen(cgroup, False)


def _set_frozen(cgroup: str, frozen: bool) -> None:
    where = layout()
    deadline = time.monotonic() + 2
    if where.pure_v2:
        path = where.hierarchies[0].path(cgroup)
        files.write(f"{path}/cgroup.freeze", str(int(frozen)))
        while files.read_pairs(f"{path}/cgroup.events").get("frozen") != int(frozen):
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        return
    hierarchy = where.find("freezer")
    if hierarchy is None:
        raise Unsupported("this machine has no freezer cgroup controller: containers cannot be paused")
    state, path = "FROZEN" if frozen else "THAWED", hierarchy.path(cgroup)
    while True:
        files.write(f"{path}/freezer.state", state)  # again each time: new children may have kept it FREEZING
        if files.read(f"{path}/freezer.state").strip() == state:
            return
        if time.monotonic() > deadline:
            files.write(f"{path}/freezer.state", "THAWED")
            raise StartFailed(f'cgroup "{cgroup}" cannot be frozen')
        time.sleep(0.001)


def oom_killed(cgroup: str) -> bool:
    """Whether the kernel killed a process of the group for memory. False when the group is gone."""
    where = layout()
    hierarchy = where.find("memory")
    if hierarchy is None:
        return False
    file = "memory.events" if hierarchy.version == 2 else "memory.oom_control"
    try:
        return files.read_pairs(f"{hierarchy.path(cgroup)}/{file}").get("oom_kill", 0) > 0
    except OSError:
        return False


def open_memory_events(cgroup: str) -> int | None:
    """A descriptor of a v2 group's memory.events that has POLLPRI from now on when something changed; else None.

    It must be read at each change. v1 counts in a group that only we remove, so looking at the end is enough there.
    """
    hierarchy = layout().find("memory")
    if hierarchy is None or hierarchy.version == 1:
        return None
    try:
        events = os.open(f"{hierarchy.path(cgroup)}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a threaded group; or the process is dead already
        return None
    os.pread(events, 4096, 0)
    return events


def tells_oom_kill(events: bytes) -> bool:
    """Whether this text of memory.events counts a process killed for memory."""
    return any(line.startswith(b"oom_kill ") and line != b"oom_kill 0" for line in events.splitlines())


def stats(cgroup: str) -> Stats:
    """What the group uses now. Raises NotFound when it is gone."""
    return read_stats(layout(), cgroup)


# Removing


def remove(cgroup: str) -> None:
    """Remove the group and all below it in every hierarchy. Twice is fine. Raises Conflict if something stays in it.

    The group of a scope is removed by systemd as soon as it is empty: only waited for, because systemd would not hear
    that a group has become empty that is gone before the kernel tells (cgroup.events), and would keep the scope.
    """
    deadline = time.monotonic() + _REMOVE_DEADLINE
    scope = cgroup.endswith(".scope") and systemd_runs()
    for hierarchy in layout().used():
        if scope and (hierarchy.version == 2 or "name=systemd" in hierarchy.controllers):
            _await_removal(hierarchy.path(cgroup), deadline)
        else:
            _remove_tree(hierarchy.path(cgroup), deadline)


def _await_removal(path: str, deadline: float) -> None:
    pause = 0.0005
    while os.path.isdir(path):  # noqa: PTH112
        if time.monotonic() > deadline:
            if _populated(path):
                raise Conflict(f'cgroup "{path}" cannot be removed', detail="it has processes")
            return  # systemd is busy; it will find the group empty
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _populated(path: str) -> bool:
    try:
        return bool(files.read(f"{path}/cgroup.procs").strip())
    except OSError:
        return False


def missing_parents(cgroup: str) -> list[str]:
    """Folders of the hierarchies that `create` would make above the group; the common parent is not one."""
    names = cgroup.strip("/").split("/")[:-1]
    above = ["/" + "/".join(names[: depth + 1]) for depth in range(len(names))]
    paths = [hierarchy.path(group) for hierarchy in layout().used() for group in above if group != PARENT]
    return [path for path in paths if not os.path.isdir(path)]  # noqa: PTH112


def remove_empty(paths: Iterable[str]) -> list[str]:
    """Remove groups that have neither processes nor children, the deepest first; returns those still there."""
    left: list[str] = []
    for path in sorted(paths, key=len, reverse=True):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:
            left.append(path)
    return left


def remove_parent() -> None:
    """Remove the common parent where no container, of whatever daemon, is below it. Twice is fine."""
    for hierarchy in layout().used():
        try:
            os.rmdir(hierarchy.mount + PARENT)
        except OSError:
            pass  # EBUSY or ENOTEMPTY: in use; ENOENT: not made


def _remove_tree(path: str, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
            if time.monotonic() > deadline:
                raise Conflict(f'cgroup "{path}" cannot be removed', detail=words(error)) from error
        try:
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        for child in below:
            _remove_tree(child, deadline)
        if not below:
            # A dying process leaves its group only after it has closed its files.
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
