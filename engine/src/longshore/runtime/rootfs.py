"""The container's root: made, filled and entered inside the container's own mount namespace.

Runs in the forked child. Every path below the root is opened by openat2(2) in that root, every mount is attached
by descriptor, so that links which an image or a neighbour plants lead nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from longshore.errors import StartFailed
from longshore.kernel import mounts, processes, terminals
from longshore.kernel.descriptors import close_quietly
from longshore.kernel.paths import (
    DEVPTS_SUPER_MAGIC,
    OVERLAYFS_SUPER_MAGIC,
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    filesystem_magic,
    is_null_device,
    make_directories,
    make_file,
    openat2,
)
from longshore.oci.runtime_spec import Device
from longshore.runtime.messages import OverlayRoot, PlainRoot
from longshore.runtime.plan import DEFAULT_LINKS, ContainerPlan
from longshore.runtime.steps import Doing

_PAGE = 4096
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


@dataclass(frozen=True, slots=True)
class Owners:
    """The mappings through which layers are seen: a user namespace that has them, and whom its root is outside."""

    namespace: int
    uid: int
    gid: int


def mount_root(rootfs: OverlayRoot | PlainRoot, owners: Owners | None = None) -> int:
    """Mount the root somewhere in this namespace and return an O_PATH descriptor of its top.

    `owners`: whose the files of an overlay's layers become.
    """
    if isinstance(rootfs, PlainRoot):
        with Doing(f'mounting the root "{rootfs.path}"'):
            return _attach_over(rootfs.path, mounts.open_tree(mounts.AT_FDCWD, rootfs.path, recursive=True))
    if not rootfs.upper and len(rootfs.lowers) == 1:
        # overlayfs wants two layers when nothing is writable.
        layer = f"{rootfs.layers_dir}/{rootfs.lowers[0]}"
        with Doing(f'mounting the root "{layer}"'):
            tree = _open_layer(layer, owners)
            mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY)
            return _attach_over(layer, tree)
    return _mount_overlay(rootfs) if owners is None else _mount_mapped_overlay(rootfs, owners)


def _open_layer(path: str, owners: Owners | None) -> int:
    """A detached copy of a layer's folder as a mount."""
    tree = mounts.open_tree(mounts.AT_FDCWD, path)
    if owners is not None:
        mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_IDMAP, user_namespace=owners.namespace)
    return tree


def _mount_mapped_overlay(rootfs: OverlayRoot, owners: Owners) -> int:
    """The overlay of id-mapped layers, so that nothing on disk is shifted (Linux 5.19).

    An overlay itself cannot be mapped, and takes layers by path only: a tmpfs over the layers' directory holds them
    under short names.
    """
    with Doing("mounting the overlay root with the mappings of a user namespace"):
        shared = os.path.dirname(rootfs.upper)  # noqa: PTH120
        if rootfs.upper and os.path.dirname(rootfs.work) != shared:  # noqa: PTH120
            raise StartFailed("the upper and the work directory lie in different folders")
        trees = [_open_layer(f"{rootfs.layers_dir}/{name}", owners) for name in rootfs.lowers]
        trees += [_open_layer(shared, owners)] if rootfs.upper else []
        base = mounts.new_filesystem("tmpfs", (("mode", "755"),), source="layers")
        _attach_over(rootfs.layers_dir, base)
        os.fchdir(base)
        for number, tree in enumerate(trees):
            os.mkdir(str(number), 0o755)  # noqa: PTH102
            place = os.open(str(number), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            mounts.move_mount(tree, place)
            close_quietly(tree, place)
        os.mkdir("root", 0o755)  # noqa: PTH102
        last = len(rootfs.lowers)
        names = tuple(map(str, range(last)))
        mapped = OverlayRoot(".", names)
        if rootfs.upper:
            upper, work = (f"{last}/{path[len(shared) + 1 :]}" for path in (rootfs.upper, rootfs.work))
            mapped = OverlayRoot(".", names, upper, work)
        # An overlay makes its own files as whoever mounted it, and the host's root has no id in the layers.
        with processes.filesystem_identity(owners.uid, owners.gid):
            mounts.mount("overlay", "root", "overlay", 0, overlay_options(mapped))
        processes.set_dumpable(False)  # the change of ids has put it to fs.suid_dumpable
        top = os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.close(base)
        return top


def open_image(
    layers_dir: str, lowers: tuple[str, ...], subpath: str, owners: Owners | None, scratch: str = ""
) -> int:
    """A detached mount of an image's files, or of a folder in them. In a private mount namespace only.

    Read-only without `scratch`, a folder with the directories upper and work that takes what is written.
    """
    place = f"{layers_dir}/{lowers[0]}" if len(lowers) == 1 and not scratch else layers_dir
    upper, work = (f"{scratch}/upper", f"{scratch}/work") if scratch else ("", "")
    top = mount_root(OverlayRoot(layers_dir, lowers, upper, work), owners)
    try:
        found = openat2(top, subpath, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH) if subpath else top
        tree = mounts.open_tree(found)
        if not scratch:
            mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY)
        if found != top:
            os.close(found)
        return tree
    finally:
        os.close(top)
        mounts.umount(place, mounts.MNT_DETACH)


def _attach_over(path: str, tree: int) -> int:
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.move_mount(tree, target)
    os.close(target)
    return tree


def attach_root(rootfs: OverlayRoot | PlainRoot, tree: int) -> None:
    """Attach a root that was mounted before a user namespace was entered: at its own place, where hooks look for it,
    or, where its new owner may not go there, over "/".
    """
    path = rootfs.path if isinstance(rootfs, PlainRoot) else "/"
    with Doing("attaching the root"):
        try:
            target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            target = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mounts.move_mount(tree, target)
        os.close(target)


def _escape(path: str) -> str:
    """Commas end an option and colons a layer, unless a backslash stands before them."""
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def overlay_options(rootfs: OverlayRoot) -> str:
    """The data for mount(2): lower names relative to the layers' directory, so that 120 fit into one page."""
    options = "lowerdir=" + ":".join(map(_escape, rootfs.lowers))
    if rootfs.upper:
        options += f",upperdir={_escape(rootfs.upper)},workdir={_escape(rootfs.work)}"
    options += ",index=off"  # upper directories may be copied with the data root
    if len(os.fsencode(options)) >= _PAGE:
        raise StartFailed(f"too many layers: {len(rootfs.lowers)} do not fit into one overlay mount")
    return options


def _mount_overlay(rootfs: OverlayRoot) -> int:
    options = overlay_options(rootfs)
    # mount(2), not fsopen(2): a parameter there may have 255 bytes before Linux 6.5. The layers' own directory
    # serves as the mount point: it exists, and nobody else sees what we put over it.
    try:
        os.chdir(rootfs.layers_dir)
        mounts.mount("overlay", ".", "overlay", 0, options)
        return os.open(rootfs.layers_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartFailed(
            "error mounting the overlay root",
            errno=error.errno or 0,
            detail=os.strerror(error.errno or 0).lower(),
            hint=_overlay_hint(rootfs, error),
        ) from error


def _overlay_hint(rootfs: OverlayRoot, error: OSError) -> str:
    for path in (rootfs.upper, rootfs.work, *(f"{rootfs.layers_dir}/{name}" for name in rootfs.lowers)):
        if path and not os.path.isdir(path):  # noqa: PTH112
            return f"{path} is missing"
    if error.errno == errno.EINVAL and rootfs.upper:
        fd = os.open(rootfs.upper, os.O_PATH)
        if filesystem_magic(fd) == OVERLAYFS_SUPER_MAGIC:
            return "the data root lies on an overlay itself; put it on a volume or another filesystem"
        return (
            "the filesystem of the data root may lack what overlayfs needs (d_type, xattrs, RENAME_WHITEOUT)"
        )
    return ""


def enter_root(root_fd: int, plan: ContainerPlan) -> None:
    """Make it "/" and let go of the host's tree, pivot_root(2), which takes no root that is shared already."""
    with Doing("switching to the root"):
        os.fchdir(root_fd)
        mounts.pivot_root(".", ".")
        mounts.umount(".", mounts.MNT_DETACH)
        os.chdir("/")
    if plan.propagation is not None:
        flag, recursive = plan.propagation
        with Doing("setting the propagation of the root"):
            mounts.mount_setattr(root_fd, propagation=flag, recursive=recursive)


def make_devices(root_fd: int, devices: tuple[Device, ...]) -> None:
    """Nodes in the container's /dev; where mknod(2) is refused the host's node is bound instead."""
    for device in devices:
        directory, _slash, name = device.path.rpartition("/")
        with Doing(f'creating device "{device.path}"'):
            parent = make_directories(root_fd, directory or "/")
            try:
                _make_device(root_fd, parent, name, device)
            finally:
                os.close(parent)


def _make_device(root_fd: int, parent: int, name: str, device: Device) -> None:
    mode = 0o666 if device.file_mode is None else device.file_mode
    number = os.makedev(device.major, device.minor)
    try:
        os.mknod(name, _KINDS[device.type] | mode & 0o7777, number, dir_fd=parent)
        if device.uid or device.gid:
            os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) != _KINDS[device.type] or found.st_rdev != number:
            raise
    except PermissionError:
        tree = mounts.open_tree(mounts.AT_FDCWD, device.path)  # the host's root is still "/"
        target = make_file(root_fd, device.path)
        try:
            mounts.move_mount(tree, target)
        finally:
            close_quietly(tree, target)


def make_links(root_fd: int) -> None:
    """The links that programs expect in /dev, and ptmx of the container's own devpts."""
    dev = make_directories(root_fd, "/dev")
    try:
        for path, target in (*DEFAULT_LINKS, ("/dev/ptmx", "pts/ptmx")):
            with Doing(f'creating link "{path}"'):
                try:
                    os.symlink(target, path[len("/dev/") :], dir_fd=dev)
                except FileExistsError:
                    pass  # a device or a mount of that name was asked for
    finally:
        os.close(dev)


def open_terminal(root_fd: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """A pair (master, slave) of the container's devpts, which must be one."""
    pts = openat2(root_fd, "/dev/pts", os.O_RDONLY | os.O_DIRECTORY)
    try:
        if filesystem_magic(pts) != DEVPTS_SUPER_MAGIC:
            raise StartFailed('"/dev/pts" of the container is not a devpts')
        master, slave = terminals.open_pair(pts)
    finally:
        os.close(pts)
    if size is not None:
        terminals.set_size(slave, *size)
    return master, slave


def open_console(root_fd: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """A terminal of the container's own devpts, bound on /dev/console by descriptor: (master, slave)."""
    with Doing("creating the console"):
        master, slave = open_terminal(root_fd, size)
        dev = make_directories(root_fd, "/dev")
        try:
            os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=dev))
        except FileExistsError:
            pass
        target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
        if stat.S_ISLNK(os.fstat(target).st_mode):
            raise StartFailed('error creating the console: "/dev/console" is a link')
        tree = mounts.open_tree(slave)
        mounts.move_mount(tree, target)
        close_quietly(tree, target, dev)
        return master, slave


class Masks:
    """Hides paths: files behind /dev/null, directories behind an empty read-only tmpfs."""

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._null = -1
        self._empty = -1

    def mask(self, top: int, path: str) -> None:
        """Hide a path below the directory `top`. One that does not exist needs no mask."""
        with Doing(f'masking "{path}"'):
            try:
                target = openat2(top, path, os.O_PATH)
            except FileNotFoundError:
                return
            try:
                kind = os.fstat(target).st_mode
                tree = self._directory() if stat.S_ISDIR(kind) else mounts.open_tree(self._null_node())
                mounts.move_mount(tree, target)
                os.close(tree)
            finally:
                os.close(target)

    def _directory(self) -> int:
        if self._empty < 0:
            attributes = mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV
            parameters = (("nr_blocks", "1"), ("nr_inodes", "1"))
            self._empty = mounts.new_filesystem(
                "tmpfs", parameters, attributes=attributes | 8, source="tmpfs"
            )
            return os.dup(self._empty)  # attach this one; later ones are copies of it
        return mounts.open_tree(self._empty)

    def _null_node(self) -> int:
        """The container's /dev/null by descriptor, and only if it is that device: a neighbour that shares
        the root may have put a link in its place.
        """
        if self._null < 0:
            fd = openat2(self._root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
            if not is_null_device(fd):
                os.close(fd)
                raise StartFailed('"/dev/null" of the container is not the null device')
            self._null = fd
        return self._null

    def close(self) -> None:
        close_quietly(self._null, self._empty)


def _inside(root_fd: int, path: str, kernels: Mapping[str, int]) -> tuple[int, str]:
    """A path of the container as a descriptor and a path below it."""
    for destination, fd in kernels.items():
        if path.startswith(f"{destination}/"):
            return fd, path.removeprefix(destination)
    return root_fd, path


def make_readonly(root_fd: int, path: str) -> None:
    """Bind the tree on itself, read-only. A path that does not exist is no error."""
    with Doing(f'making "{path}" read-only'):
        try:
            target = openat2(root_fd, path, os.O_PATH)
        except FileNotFoundError:
            return
        tree = mounts.open_tree(target, recursive=True)
        mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
        mounts.move_mount(tree, target)
        close_quietly(tree, target)


def private_procfs() -> int:
    """A procfs that is mounted nowhere: no image or neighbour can have put anything into it."""
    with Doing("opening a private procfs"):
        fd = mounts.new_filesystem("proc", source="proc")
        if filesystem_magic(fd) != PROC_SUPER_MAGIC:
            raise StartFailed("the private procfs is none")
        return fd


def write_proc(proc_fd: int, path: str, value: str) -> None:
    """Write below a private procfs; the file found must be of that very filesystem."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV
    if not path.startswith("thread-self/"):
        resolve |= RESOLVE_NO_SYMLINKS
    fd = openat2(proc_fd, path, os.O_WRONLY, resolve=resolve)
    try:
        if filesystem_magic(fd) != PROC_SUPER_MAGIC:
            raise StartFailed(f'"/proc/{path}" is not on procfs')
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write_sysctls(proc_fd: int, sysctls: tuple[tuple[str, str], ...]) -> None:
    for name, value in sysctls:
        with Doing(f'setting sysctl "{name}"'):
            write_proc(proc_fd, "sys/" + _sysctl_path(name), value)


def _sysctl_path(name: str) -> str:
    """net.ipv4.conf.eth0/100.forwarding: dots separate, a slash is a dot of the interface's name, sysctl(8)."""
    return name.translate({ord("."): "/", ord("/"): "."})


def finish_root(root_fd: int, plan: ContainerPlan, kernels: Mapping[str, int]) -> None:
    """Masks and read-only trees, last: nothing below them is needed any more.

    `kernels`: the procfs and sysfs of the container by destination. What is hidden in them is found from there: a
    neighbour that shares the root may have moved the mount point, CVE-2023-27561.
    """
    for path in plan.readonly_paths:
        make_readonly(*_inside(root_fd, path, kernels))
    masks = Masks(root_fd)
    for path in plan.masked:
        masks.mask(*_inside(root_fd, path, kernels))
    masks.close()
    close_quietly(*kernels.values())
    if plan.readonly:
        with Doing("making the root read-only"):
            mounts.mount_setattr(root_fd, attr_set=mounts.MOUNT_ATTR_RDONLY)
