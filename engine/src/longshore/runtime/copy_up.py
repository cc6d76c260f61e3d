"""Copying a directory of the container's root into a fresh tmpfs ("tmpcopyup"). Runs in the forked child.

Everything is opened by descriptor and without following links: the root belongs to the image.
"""

from __future__ import annotations

import os
import stat

_BLOCK = 1 << 20
_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(source: int, target: int) -> None:
    """The content of one directory into another: mode, owner, times and extended attributes included.

    `source` may be an O_PATH descriptor. Sockets are left out.
    """
    found = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    into = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        for name in os.listdir(found):  # noqa: PTH208 (a descriptor)
            _copy(found, into, name)
    finally:
        os.close(found)
        os.close(into)


def _copy(source: int, target: int, name: str) -> None:
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        return
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _PLAIN, dir_fd=source)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | _PLAIN, dir_fd=target)
        copy_tree(below, made)
    elif kind == stat.S_IFREG:
        below = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _PLAIN, dir_fd=source)
        made = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _PLAIN, 0o600, dir_fd=target)
        while os.sendfile(made, below, None, _BLOCK):
            pass
    elif kind == stat.S_IFSOCK:
        return
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        return
    try:
        os.fchown(made, status.st_uid, status.st_gid)
        for attribute in os.listxattr(below):
            try:
                os.setxattr(made, attribute, os.getxattr(below, attribute))
            except OSError:
                pass  # EOPNOTSUPP, EPERM: a tmpfs takes fewer kinds than the image's filesystem
        os.fchmod(made, stat.S_IMODE(status.st_mode))  # after the owner, whose change takes the setid bits
        os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(below)
        os.close(made)
