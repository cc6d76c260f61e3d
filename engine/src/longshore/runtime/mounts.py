"""The mounts of a specification, made and attached by descriptor. Runs in the forked child."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from longshore.errors import StartFailed
from longshore.kernel import mounts
from longshore.kernel.descriptors import close_quietly
from longshore.kernel.namespaces import CLONE_NEWNS, setns
from longshore.kernel.paths import make_directories, make_file, open_beneath, openat2
from longshore.runtime.cgroup_layout import Layout
from longshore.runtime.copy_up import copy_tree
from longshore.runtime.mount_options import MountPlan
from longshore.runtime.records import open_proc
from longshore.runtime.rootfs import Owners, open_image
from longshore.runtime.steps import words

_Result = TypeVar("_Result")

# A link in their place would put the kernel's own files where the container can reach around the masks.
_ON_DIRECTORIES_ONLY = frozenset({"proc", "sysfs"})


@dataclass(slots=True)
class Sources:
    """Detached copies of what the host gives, taken before propagation is cut: so a shared one stays shared."""

    trees: dict[int, int] = field(default_factory=dict[int, int])  # index of the mount -> descriptor

    def take(self, plans: tuple[MountPlan, ...], idmaps: Mapping[int, int]) -> None:
        """`idmaps`: index of the mount -> descriptor of the user namespace whose mappings it gets."""
        for index, plan in enumerate(plans):
            if plan.kind == "bind" and not plan.lowers:
                owners = idmaps.get(index, -1)
                self.trees[index] = _guarded(plan, lambda plan, owners=owners: _clone(plan, owners))

    def take_images(self, plans: tuple[MountPlan, ...], owners: Owners | None = None) -> None:
        """The same for images. They are put together by mounting, which the host must not see: after propagation is
        cut. `owners`: whose they become.
        """
        for index, plan in enumerate(plans):
            if plan.lowers:
                self.trees[index] = _guarded(
                    plan,
                    lambda plan: open_image(plan.source, plan.lowers, plan.subpath, owners, plan.scratch),
                )


@dataclass(slots=True)
class Mounter:
    root_fd: int
    sources: Sources
    layout: Layout
    cgroup: str  # path of the container's cgroup below each hierarchy
    cgroup_namespace: bool
    # read-only is set on a tmpfs after everything that has to be made below it exists
    late: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    # the procfs and sysfs, by destination: what is hidden in them is looked up from here, not by names of the root
    kernels: dict[str, int] = field(default_factory=dict[str, int])

    def attach_all(self, plans: tuple[MountPlan, ...]) -> None:
        for index, plan in enumerate(plans):
            if plan.kind == "bind":
                tree = self.sources.trees[index]
            elif plan.kind in ("cgroup", "cgroup2"):
                _guarded(plan, self._attach_cgroup)
                continue
            else:
                tree = _guarded(plan, self._new)
            _guarded(plan, lambda plan, tree=tree: self._attach(plan, tree))

    def finish(self) -> None:
        """Set what was put off."""
        for tree, destination in self.late:
            try:
                mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY)
            except OSError as error:
                raise StartFailed(f'error making "{destination}" read-only: {words(error)}') from error
            os.close(tree)
        self.late.clear()

    def _new(self, plan: MountPlan) -> int:
        attributes = plan.attr_set | plan.tree_set
        if plan.kind == "tmpfs":
            return self._new_tmpfs(plan, attributes)
        return mounts.new_filesystem(
            plan.kind, plan.parameters, attributes=attributes, source=plan.source or plan.kind
        )

    def _new_tmpfs(self, plan: MountPlan, attributes: int) -> int:
        """Without a mode of its own it has that of the directory below, as a tmpfs over /tmp needs."""
        parameters = plan.parameters
        below = -1
        try:
            below = openat2(self.root_fd, plan.destination, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            pass  # it will be made
        if below >= 0 and not any(name == "mode" for name, _value in parameters):
            parameters = (*parameters, ("mode", f"{stat.S_IMODE(os.fstat(below).st_mode):o}"))
        late = attributes & mounts.MOUNT_ATTR_RDONLY
        tree = mounts.new_filesystem(
            "tmpfs", parameters, attributes=attributes & ~late, source=plan.source or plan.kind
        )
        if plan.copy_up and below >= 0:
            copy_tree(below, tree)
        close_quietly(below)
        if late:
            self.late.append((os.dup(tree), plan.destination))
        return tree

    def _ordinary_directory(self, plan: MountPlan) -> int:
        """The place of a procfs or sysfs: opened without following what a neighbour may put there meanwhile."""
        folder, _slash, name = plan.destination.rpartition("/")
        parent = make_directories(self.root_fd, folder or "/")
        try:
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                pass
            return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except NotADirectoryError:
            raise StartFailed(
                f'filesystem "{plan.kind}" must be mounted on ordinary directory',
                detail=f'"{plan.destination}" is a link or a file',
            ) from None
        finally:
            os.close(parent)

    def _attach(self, plan: MountPlan, tree: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        make = make_directories if is_directory else make_file
        kernel = plan.kind in _ON_DIRECTORIES_ONLY
        target = self._ordinary_directory(plan) if kernel else make(self.root_fd, plan.destination)
        try:
            mounts.move_mount(tree, target)
            if kernel:
                self.kernels[plan.destination] = os.dup(tree)
            if plan.propagation and plan.kind != "bind":
                mounts.mount_setattr(tree, propagation=plan.propagation, recursive=plan.propagation_recursive)
        finally:
            close_quietly(tree, target)

    def _attach_cgroup(self, plan: MountPlan) -> None:
        """What the container sees of the cgroups: its own part of every hierarchy."""
        readonly = plan.attr_set & mounts.MOUNT_ATTR_RDONLY
        flags = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
        target = make_directories(self.root_fd, plan.destination)
        try:
            if self.layout.pure_v2:
                tree = self._hierarchy(0, flags | readonly)
                mounts.move_mount(tree, target)
                os.close(tree)
                return
            base = mounts.new_filesystem("tmpfs", (("mode", "755"),), attributes=flags, source="tmpfs")
            mounts.move_mount(base, target)
            for index, hierarchy in enumerate(self.layout.hierarchies):
                if not hierarchy.used:
                    continue  # the container has no group of its own there and would see the host's
                os.mkdir(hierarchy.name, 0o755, dir_fd=base)
                below = os.open(hierarchy.name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=base)
                tree = self._hierarchy(index, flags | readonly)
                mounts.move_mount(tree, below)
                close_quietly(tree, below)
                for controller in hierarchy.controllers:
                    name = controller.removeprefix("name=")
                    if name != hierarchy.name and hierarchy.version == 1:
                        try:
                            os.symlink(hierarchy.name, name, dir_fd=base)
                        except FileExistsError:
                            pass
            if readonly:
                mounts.mount_setattr(base, attr_set=mounts.MOUNT_ATTR_RDONLY)
            os.close(base)
        finally:
            os.close(target)

    def _hierarchy(self, index: int, attributes: int) -> int:
        hierarchy = self.layout.hierarchies[index]
        if not self.cgroup_namespace:
            path = hierarchy.path(self.cgroup) if hierarchy.used else hierarchy.mount
            tree = mounts.open_tree(mounts.AT_FDCWD, path)
            mounts.mount_setattr(tree, attr_set=attributes, propagation=mounts.MS_PRIVATE)
            return tree
        if hierarchy.version == 2:
            return mounts.new_filesystem("cgroup2", attributes=attributes, source="cgroup")
        parameters: list[tuple[str, str | None]] = []
        for controller in hierarchy.controllers:
            if controller.startswith("name="):
                parameters += [("none", None), ("name", controller.removeprefix("name="))]
            else:
                parameters.append((controller, None))
        return mounts.new_filesystem("cgroup", tuple(parameters), attributes=attributes, source="cgroup")


def _clone(plan: MountPlan, owners: int) -> int:
    tree = _open_source(plan)
    if owners >= 0:
        mounts.mount_setattr(
            tree, attr_set=mounts.MOUNT_ATTR_IDMAP, recursive=plan.idmap_recursive, user_namespace=owners
        )
    # A detached copy is nobody's yet: no moment in which it is visible without its restrictions.
    propagation, tree_wide = (
        plan.propagation or mounts.MS_PRIVATE,
        plan.propagation_recursive or not plan.propagation,
    )
    mounts.mount_setattr(tree, propagation=propagation, recursive=tree_wide and plan.recursive)
    if plan.attr_set | plan.attr_clr:
        mounts.mount_setattr(tree, attr_set=plan.attr_set, attr_clr=plan.attr_clr)
    if plan.tree_set | plan.tree_clr:
        mounts.mount_setattr(tree, attr_set=plan.tree_set, attr_clr=plan.tree_clr, recursive=True)
    return tree


def _open_source(plan: MountPlan) -> int:
    """A detached copy of the source. What a container can change of its path is walked without following links."""
    if plan.owner is not None:
        return _open_source_of(plan, *plan.owner)
    if not plan.subpath:
        return mounts.open_tree(mounts.AT_FDCWD, plan.source, recursive=plan.recursive)
    found = open_beneath(plan.source, plan.subpath)
    try:
        return mounts.open_tree(found, recursive=plan.recursive)
    finally:
        os.close(found)


def _open_source_of(plan: MountPlan, pid: int, start: int) -> int:
    """The source as that process has it. Only a member of its mount namespace may copy its mounts, open_tree(2)."""
    process = open_proc(pid, start)
    if process is None:
        raise StartFailed(f'error mounting "{plan.source}" of process {pid}: it has ended')
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    theirs = -1
    try:
        theirs = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
        setns(theirs, CLONE_NEWNS)
        try:
            found = open_beneath("/", plan.source.lstrip("/"))
            try:
                return mounts.open_tree(found, recursive=plan.recursive)
            finally:
                os.close(found)
        finally:
            setns(ours, CLONE_NEWNS)
    finally:
        close_quietly(process, ours, theirs)


def _guarded(plan: MountPlan, step: Callable[[MountPlan], _Result]) -> _Result:
    try:
        return step(plan)
    except OSError as error:
        raise StartFailed(
            f'error mounting "{plan.source or plan.kind}" to rootfs at "{plan.destination}": {words(error)}',
            errno=error.errno or 0,
            hint=_hint(plan, error),
        ) from error


def _hint(plan: MountPlan, error: OSError) -> str:
    if error.errno == errno.ENOTDIR:
        return "are you trying to mount a directory onto a file (or vice-versa)?"
    if error.errno == errno.ENODEV:
        return f"this kernel has no filesystem {plan.kind}"
    return ""
