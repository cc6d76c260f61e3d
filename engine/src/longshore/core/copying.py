"""Copy a directory tree between two places that a container may not influence: the image's files into a new volume.

Owners, modes, times, links, device nodes, extended attributes and hard links are kept. The source is walked by
descriptor without following links; the target is ours alone.
"""

import os
import stat
from pathlib import Path

from longshore.storage.content import space_errors

_NOT_COPIED = ("trusted.overlay.", "user.overlay.")  # overlayfs's own bookkeeping
_DEEPEST = 1000


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
            os.link(known, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
            continue
        links[status.st_dev, status.st_ino] = path
        if kind == stat.S_IFREG:
            _copy_file(source, target, name, status)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
        elif kind != stat.S_IFSOCK:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)


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
