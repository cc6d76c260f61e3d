"""Paths inside a container's root: always by descriptor, never able to leave it.

openat2(2) with RESOLVE_IN_ROOT treats the descriptor as "/" for absolute names, links and "..",
and refuses /proc's magic links. EAGAIN means that something was renamed during the walk: it is tried again.
"""

import ctypes
import errno
import os
import posixpath
import stat

from longshore.kernel.libc import function, system_call

AT_FDCWD = -100
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_LINK_DEPTH = 40  # as many as the kernel follows, path_resolution(7)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_openat2 = system_call("openat2", ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_OpenHow), ctypes.c_size_t)
_fstatfs = function("fstatfs", ctypes.c_int, ctypes.c_char_p)


def openat2(fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """A new close-on-exec descriptor. ELOOP: a magic link, EXDEV: an escape from RESOLVE_BENEATH."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve | RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    for attempt in range(64):
        try:
            return _openat2(fd, name, ctypes.byref(how), ctypes.sizeof(how))
        except OSError as error:
            if error.errno == errno.EAGAIN and attempt < 63:
                continue
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None
    raise AssertionError("unreachable")


def open_beneath(top: str, path: str) -> int:
    """An O_PATH descriptor of `path` below the directory `top`, for a path whose parts somebody else owns.

    Raises OSError: ELOOP for a link anywhere in `path`, EXDEV for one that climbs out. `top` itself is trusted.
    """
    fd = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(fd, path, os.O_PATH, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    finally:
        os.close(fd)


def clean(path: str) -> str:
    """The path as seen from the root: absolute, without dot-dot, without doubled slashes."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def make_directories(root_fd: int, path: str, *, mode: int = 0o755, depth: int = 0) -> int:
    """Like mkdir -p inside the root; returns an O_PATH descriptor of the directory.

    A link that points nowhere gets its target made, as `/var/lock -> /run/lock` in many images needs.
    Raises OSError: ENOTDIR for a file in the way, ELOOP for too many links.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    path = clean(path)
    try:
        return openat2(root_fd, path, flags)
    except FileNotFoundError:
        if depth > _LINK_DEPTH or path == "/":
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
    parent, name = posixpath.split(path)
    parent_fd = make_directories(root_fd, parent, mode=mode, depth=depth)
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent_fd)
        except FileExistsError:
            target = _link_target(parent_fd, name)
            if target is not None:
                os.close(
                    make_directories(root_fd, posixpath.join(parent, target), mode=mode, depth=depth + 1)
                )
        return openat2(root_fd, path, flags)
    finally:
        os.close(parent_fd)


def make_file(root_fd: int, path: str, *, mode: int = 0o644, depth: int = 0) -> int:
    """An O_PATH descriptor of an existing file (of any kind), or of a new empty one, parents included."""
    path = clean(path)
    try:
        return openat2(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        if depth > _LINK_DEPTH:
            raise
    parent, name = posixpath.split(path)
    parent_fd = make_directories(root_fd, parent)
    try:
        try:
            # O_EXCL and the plain name: neither a link nor a FIFO that appears now is opened.
            os.close(
                os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, mode, dir_fd=parent_fd)
            )
        except FileExistsError:
            target = _link_target(parent_fd, name)
            if target is not None:
                os.close(make_file(root_fd, posixpath.join(parent, target), mode=mode, depth=depth + 1))
        return openat2(root_fd, path, os.O_PATH)
    finally:
        os.close(parent_fd)


def _link_target(parent_fd: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=parent_fd)
    except OSError:
        return None  # EINVAL: not a link; ENOENT: gone again, the caller's next open says so


def filesystem_magic(fd: int) -> int:
    """f_type of statfs(2), which names the filesystem behind an O_PATH descriptor too."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs has 120 bytes; f_type is its first long
    _fstatfs(fd, buffer)
    return int.from_bytes(buffer.raw[:4], "little")


PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
OVERLAYFS_SUPER_MAGIC = 0x794C7630
CGROUP2_SUPER_MAGIC = 0x63677270
NULL_DEVICE = os.makedev(1, 3)


def is_null_device(fd: int) -> bool:
    """Whether the descriptor is the real /dev/null: by its numbers, not by its name."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE
