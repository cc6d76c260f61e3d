# plain system calls: these run several times per container and pathlib costs more than they do
# ruff: noqa: PTH102, PTH106
"""The cgroup driver: one container's group in every hierarchy, whatever versions the machine mixes.

A layout is read from /proc once. In v1 and hybrid machines each controller lives in its hierarchy; in v2 there is
one. Groups are made below "/longshore" unless the specification says otherwise.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable

from longshore.errors import Conflict, InvalidArgument, StartFailed, Unsupported
from longshore.kernel import cgroups as files
from longshore.kernel.descriptors import close_quietly
from longshore.kernel.paths import clean
from longshore.oci.runtime_spec import Resources, Spec
from longshore.runtime.cgroup_devices import attach_device_policy
from longshore.runtime.cgroup_layout import Hierarchy, Layout, layout
from longshore.runtime.cgroup_plan import Write, plan_v1, plan_v2
from longshore.runtime.cgroup_stats import Stats, read_stats
from longshore.runtime.steps import words

PARENT = "/longshore"
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")
_REMOVE_DEADLINE = 3.0


def cgroup_path(spec: Spec, container_id: str) -> str:
    """The group below each hierarchy's mount. Raises InvalidArgument for one that is the root itself."""
    path = spec.linux.cgroups_path
    if not path:
        return f"{PARENT}/{container_id}"
    if ":" in path:
        # The systemd driver's slice:prefix:name; the same names serve as folders here.
        slice_, prefix, name = [*path.split(":"), "", ""][:3]
        path = f"{slice_ or 'system.slice'}/{prefix}-{name}.scope"
    path = clean(path)
    if path == "/" or "\0" in path or "\n" in path:
        raise InvalidArgument(f'invalid cgroup path "{spec.linux.cgroups_path}"')
    return path


# Making


def create(cgroup: str, resources: Resources | None) -> list[str]:
    """Make the group in every hierarchy and set its limits; returns warnings.

    Raises Conflict when it exists with processes in it, Unsupported for a limit whose controller this machine lacks,
    StartFailed when the kernel refuses; then nothing made here is left.
    """
    where = layout()
    resources = resources or Resources()
    plan = _plan(where, resources)
    made: list[str] = []
    try:
        for hierarchy in where.used():
            made.append(_make(hierarchy, cgroup))
        warnings = _write_all(where, cgroup, plan)
        v2 = _device_hierarchy(where)
        if v2 is not None and resources.devices:
            warnings += attach_device_policy(v2.path(cgroup), resources.devices)
        return warnings
    except BaseException:
        for path in reversed(made):
            try:
                os.rmdir(path)
            except OSError:
                pass  # the first error is the one to tell
        raise


def update(cgroup: str, resources: Resources) -> list[str]:
    """Change limits of a group that exists; returns warnings. Errors as in create."""
    where = layout()
    plan = _plan(where, resources)
    memory = resources.memory
    if memory is not None and memory.limit and memory.swap and not where.pure_v2:
        # memory <= memory+swap must hold after each write, so the order depends on the direction.
        hierarchy = where.find("memory")
        if hierarchy is not None:
            now = int(files.read(f"{hierarchy.path(cgroup)}/memory.limit_in_bytes"))
            if memory.limit > now or memory.limit == -1:
                plan.sort(key=lambda write: not write.file.startswith("memory.memsw."))
    warnings = _write_all(where, cgroup, plan)
    v2 = _device_hierarchy(where)
    if v2 is not None and resources.devices:
        warnings += attach_device_policy(v2.path(cgroup), resources.devices, replace=True)
    return warnings


def _plan(where: Layout, resources: Resources) -> list[Write]:
    return plan_v2(resources) if where.pure_v2 else plan_v1(resources)


def _device_hierarchy(where: Layout) -> Hierarchy | None:
    return where.hierarchies[0] if where.pure_v2 else None


def _make(hierarchy: Hierarchy, cgroup: str) -> str:
    path = hierarchy.path(cgroup)
    try:
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            _make_parents(hierarchy, cgroup)
            os.mkdir(path, 0o755)
    except FileExistsError:
        # Left by a run that was killed: taken over when nobody is in it.
        if files.read(f"{path}/cgroup.procs").strip():
            raise Conflict(f'cgroup "{cgroup}" is in use', detail=path) from None
    except OSError as error:
        raise StartFailed(
            f'error creating cgroup "{path}": {words(error)}', errno=error.errno or 0
        ) from error
    if hierarchy.version == 2:
        if len(files.read(f"{path}/cgroup.controllers").split()) < len(hierarchy.controllers):
            _make_parents(hierarchy, cgroup)  # they exist, but have not given everything on
    elif "cpuset" in hierarchy.controllers:
        _inherit_cpuset(path)
    return path


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
            _delegate(hierarchy, path)
        elif "cpuset" in hierarchy.controllers:
            _inherit_cpuset(path)


def _inherit_cpuset(path: str) -> None:
    """A v1 cpuset starts empty and takes no process until it has processors and memory nodes, cpuset(7)."""
    parent = path.rsplit("/", 1)[0]
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not files.read(f"{path}/{file}").strip():
            files.write(f"{path}/{file}", files.read(f"{parent}/{file}").strip())


def _delegate(hierarchy: Hierarchy, path: str) -> None:
    """Give all controllers to the children of a v2 group."""
    enabled = files.read(f"{path}/cgroup.subtree_control").split()
    wanted = [
        name
        for name in _V2_CONTROLLERS
        if name in files.read(f"{path}/cgroup.controllers").split() and name not in enabled
    ]
    for attempt in range(2):
        try:
            for name in wanted:
                files.write(f"{path}/cgroup.subtree_control", f"+{name}")
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt or path != hierarchy.mount:
                return  # a controller that cannot be given on is reported when its limit is wanted
            _leave_root(hierarchy)


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


def _write_all(where: Layout, cgroup: str, plan: list[Write]) -> list[str]:
    warnings: list[str] = []
    for write in plan:
        hierarchy = where.find(write.controller)
        if hierarchy is None:
            if write.optional:
                warnings.append(f"this machine has no {write.controller} controller: {write.file} is not set")
                continue
            raise Unsupported(
                f"cannot set {write.file}: this machine has no {write.controller} cgroup controller",
                hint="see `longshore doctor`",
            )
        path = f"{hierarchy.path(cgroup)}/{write.file}"
        try:
            files.write(path, write.value)
        except FileNotFoundError:
            if write.file == "blkio.bfq.weight" and _try_write(
                f"{hierarchy.path(cgroup)}/blkio.weight", write.value
            ):
                continue
            if not write.optional:
                raise Unsupported(f"cannot set {write.file}: this kernel does not have it") from None
            warnings.append(f"this kernel has no {write.file}: it is not set")
        except OSError as error:
            if (
                write.controller == "devices"
                and write.optional
                and error.errno == errno.EPERM
                and _nested(write)
            ):
                continue
            raise StartFailed(
                f"error setting {write.file} to {write.value}: {words(error)}", errno=error.errno or 0
            ) from error
    return warnings


def _nested(write: Write) -> bool:
    """A group inside a container cannot be given devices that the container itself does not have."""
    return write.file == "devices.allow"


def _try_write(path: str, value: str) -> bool:
    try:
        files.write(path, value)
        return True
    except OSError:
        return False


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
        and _try_write(f"{where.hierarchies[0].path(cgroup)}/cgroup.kill", "1")
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


def stats(cgroup: str) -> Stats:
    """What the group uses now. Raises NotFound when it is gone."""
    return read_stats(layout(), cgroup)


# Removing


def remove(cgroup: str) -> None:
    """Remove the group and all below it in every hierarchy. Twice is fine. Raises Conflict if something stays in it."""
    deadline = time.monotonic() + _REMOVE_DEADLINE
    for hierarchy in layout().used():
        _remove_tree(hierarchy.path(cgroup), deadline)


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
