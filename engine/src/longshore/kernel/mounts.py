"""The mount interface of Linux with the kernel's names: descriptors where it offers them."""

import ctypes
import os

from longshore.kernel.libc import function, system_call

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_SILENT = 32, 4096, 16384, 32768
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2

# mount_setattr(2)
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MOUNT_ATTR_IDMAP = 0x100000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_mount = function("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = function("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = system_call("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_open_tree = system_call("open_tree", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_move_mount = system_call(
    "move_mount", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_fsopen = system_call("fsopen", ctypes.c_char_p, ctypes.c_uint)
_fsconfig = system_call(
    "fsconfig", ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int
)
_fsmount = system_call("fsmount", ctypes.c_int, ctypes.c_uint, ctypes.c_uint)
_mount_setattr = system_call(
    "mount_setattr", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(_MountAttr), ctypes.c_size_t
)


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2), for what the descriptor interface cannot say on older kernels. Data: at most one page."""
    _mount(_name(source), os.fsencode(target), _name(kind), flags, _name(data))


def umount(target: str, flags: int = 0) -> None:
    _umount2(os.fsencode(target), flags)


def pivot_root(new: str, old: str) -> None:
    """Swap the root mount; with "." and "." the old root ends up on top of the new one, pivot_root(2)."""
    _pivot_root(os.fsencode(new), os.fsencode(old))


def open_tree(fd: int, path: str = "", *, clone: bool = True, recursive: bool = False) -> int:
    """A descriptor of the mount at fd/path, by default of a detached copy (a bind mount to be)."""
    flags = OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    if clone:
        flags |= OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0)
    return _open_tree(fd, os.fsencode(path), flags)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what target_fd (O_PATH) is."""
    _move_mount(mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def new_filesystem(
    kind: str, parameters: tuple[tuple[str, str | None], ...] = (), *, attributes: int = 0, source: str = ""
) -> int:
    """A detached mount of a new filesystem. A parameter without a value is a flag. Values: at most 255 bytes."""
    context = _fsopen(kind.encode(), FSOPEN_CLOEXEC)
    try:
        if source:
            _fsconfig(context, FSCONFIG_SET_STRING, b"source", os.fsencode(source), 0)
        for key, value in parameters:
            if value is None:
                _fsconfig(context, FSCONFIG_SET_FLAG, key.encode(), None, 0)
            else:
                _fsconfig(context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)
        _fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _fsmount(context, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def mount_setattr(
    fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    user_namespace: int = 0,
) -> None:
    """Change a mount (its whole tree when recursive) at once or not at all.

    `user_namespace`: with MOUNT_ATTR_IDMAP the descriptor of the one whose mappings the owners of files go through;
    only for a mount that is attached nowhere yet.
    """
    attributes = _MountAttr(attr_set, attr_clr, propagation, user_namespace)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _mount_setattr(fd, b"", flags, ctypes.byref(attributes), ctypes.sizeof(attributes))


def _name(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)
