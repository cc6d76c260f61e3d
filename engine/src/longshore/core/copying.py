"""Copy a directory tree: the image's files into an empty volume.

Owners, modes, times, links, device nodes, extended attributes and hard links are kept. Both sides are walked by
descriptor and no link is followed: a running container that has the volume too may swap what we have just made.
"""

import os
import stat
from pathlib import Path

from longshore.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from longshore.storage.content import space_errors

_NOT_COPIED = ("trusted.overlay.", "user.overlay.")  # overlayfs's own bookkeeping
_DEEPEST = 400  # layers have at most 255


def copy_tree(source_fd: int, target: Path) -> None:
    """Copy the contents of the directory, and its own owner and mode, onto the existing directory `target`.

    Blocks. Raises OutOfSpace, OSError.
    """
    links: dict[tuple[int, int], str] = {}
    target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with space_errors(target):
            _copy_directory(source_fd, target_fd, target_fd, "", links, 0)
            _copy_status(os.fstat(source_fd), source_fd, target_fd)
    finally:
        os.close(target_fd)


def _copy_directory(
    source: int, target: int, top: int, prefix: str, links: dict[tuple[int, int], str], depth: int
) -> None:
    if depth > _DEEPEST:
        raise OSError("directories nested too deeply")
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        path = f"{prefix}{name}"
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
            try:
                _copy_directory(below, made, top, f"{path}/", links, depth + 1)
                _copy_status(status, below, made)
            finally:
                os.close(below)
                os.close(made)
            continue
        known = links.get((status.st_dev, status.st_ino))
        if status.st_nlink > 1 and known is not None:
            _link(top, known, target, name)
            continue
        links[status.st_dev, status.st_ino] = path
        if kind == stat.S_IFREG:
            _copy_file(source, target, name, status)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        elif kind != stat.S_IFSOCK:
            _make_node(target, name, status)


def _link(top: int, known: str, target: int, name: str) -> None:
    """Another name for what is at `known` now. Its folders may be links by now: EXDEV or ELOOP, never a way out."""
    resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    first = openat2(top, known, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)
    try:
        os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=target, follow_symlinks=True)
    finally:
        os.close(first)


def _make_node(target: int, name: str, status: os.stat_result) -> None:
    os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    try:
        # chmod(2) by name would follow a link that has taken the node's place.
        if stat.S_IFMT(os.fstat(made).st_mode) != stat.S_IFMT(status.st_mode):
            raise OSError(f"{name} was replaced while the volume was filled")
        os.chown(f"/proc/self/fd/{made}", status.st_uid, status.st_gid)
        os.chmod(f"/proc/self/fd/{made}", stat.S_IMODE(status.st_mode))  # noqa: PTH101
    finally:
        os.close(made)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            left = status.st_size
            while left and (done := os.copy_file_range(reader, writer, min(left, 1 << 30))):
                left -= done
            _copy_status(status, reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_status(status: os.stat_result, source: int, target: int) -> None:
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith(_NOT_COPIED):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))  # after chown, which clears setuid
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
