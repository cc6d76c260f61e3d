"""Packing an overlay's upper directory as an OCI layer tar: the same tree gives the same bytes.

The tree belongs to a container that may still run. Nothing is followed: each entry is opened with O_NOFOLLOW below
its directory's descriptor, judged by fstat(2), and never opened at all when it is a device or fifo.
"""

import os
import stat
from collections.abc import Iterator

from longshore.storage.apply import MAX_DEPTH, LayerError
from longshore.storage.tarstream import (
    BLOCKDEV,
    CHARACTER,
    CHUNK,
    DIRECTORY,
    END,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    Sink,
    encode_header,
    padding,
)
from longshore.storage.whiteouts import OPAQUE_NAME, OPAQUE_XATTR, OVERLAY_XATTRS, PREFIX, is_whiteout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should a fifo take the file's place between stat and open, open(2) does not wait for a writer
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {stat.S_IFCHR: CHARACTER, stat.S_IFBLK: BLOCKDEV, stat.S_IFIFO: FIFO}


class Packer:
    """Writes one tree. `sink.write` gets the tar in pieces."""

    def __init__(self, sink: Sink) -> None:
        self._write = sink.write
        self._links: dict[tuple[int, int], bytes] = {}  # first name of each file that has several

    def pack(self, root: int) -> None:
        """Everything below an open directory, in byte order of the names, without the directory itself.

        Raises LayerError for a tree that cannot be a layer.
        """
        self._children(root, b"", 0)
        self._write(END)

    def _children(self, directory: int, prefix: bytes, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise LayerError(f"path is deeper than {MAX_DEPTH} directories: {prefix[:200]!r}")
        if _is_opaque(directory) and depth:
            self._write(encode_header(Entry(prefix + OPAQUE_NAME, mode=0)))
        for name in sorted(map(os.fsencode, os.listdir(directory))):
            try:
                self._entry(directory, name, prefix + name, depth)
            except FileNotFoundError:
                continue  # the container deleted it just now

    def _entry(self, directory: int, name: bytes, path: bytes, depth: int) -> None:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if is_whiteout(status):
            head, _, tail = path.rpartition(b"/")
            deleted = head + b"/" + PREFIX + tail if head else PREFIX + tail
            self._write(encode_header(Entry(deleted, mode=0)))
        elif name.startswith(PREFIX):
            raise LayerError(f"file name is reserved in image layers: {path[:200]!r}")
        elif kind == stat.S_IFDIR:
            child = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                entry = _entry_of(path + b"/", DIRECTORY, os.fstat(child))
                entry.xattrs = _xattrs(child, path)
                self._write(encode_header(entry))
                self._children(child, path + b"/", depth + 1)
            finally:
                os.close(child)
        elif status.st_nlink > 1 and (first := self._links.get((status.st_dev, status.st_ino))):
            entry = _entry_of(path, HARDLINK, status)
            entry.linkname = first
            self._write(encode_header(entry))
        elif kind == stat.S_IFREG:
            self._regular(directory, name, path)
        elif kind == stat.S_IFLNK:
            entry = _entry_of(path, SYMLINK, status)
            entry.linkname = os.readlink(name, dir_fd=directory)
            self._remember(status, path)
            self._write(encode_header(entry))
        elif kind in _KINDS:
            entry = _entry_of(path, _KINDS[kind], status)
            if kind != stat.S_IFIFO:
                entry.device = (os.major(status.st_rdev), os.minor(status.st_rdev))
            self._remember(status, path)
            self._write(encode_header(entry))
        # what is left are sockets, which tar cannot hold and nobody listens on later

    def _regular(self, directory: int, name: bytes, path: bytes) -> None:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise LayerError(f"file changed its kind while it was read: {path[:200]!r}")
            entry = _entry_of(path, REGULAR, status)
            entry.stored = entry.size = status.st_size
            entry.xattrs = _xattrs(fd, path)
            self._remember(status, path)
            self._write(encode_header(entry))
            for piece in _exactly(fd, status.st_size):
                self._write(piece)
            self._write(padding(status.st_size))
        finally:
            os.close(fd)

    def _remember(self, status: os.stat_result, path: bytes) -> None:
        if status.st_nlink > 1:
            self._links[(status.st_dev, status.st_ino)] = path


def _exactly(fd: int, size: int) -> Iterator[bytes]:
    """A file's bytes; one that grows is cut, one that shrinks is filled up, because the header is out already."""
    while size > 0:
        data = os.read(fd, min(CHUNK, size)) or bytes(min(CHUNK, size))
        size -= len(data)
        yield data


def _entry_of(path: bytes, kind: bytes, status: os.stat_result) -> Entry:
    return Entry(
        path,
        kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )


def _xattrs(fd: int, path: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name in os.listxattr(fd):
        if name == "security.capability" or name.startswith("user."):
            found[os.fsencode(name)] = os.getxattr(fd, name)
        elif name in ("trusted.overlay.redirect", "trusted.overlay.metacopy"):
            # made only with mount options that our mounts do not have; the tree alone does not say what is in it
            raise LayerError(f"{OVERLAY_XATTRS.decode()}* refers to another layer: {path[:200]!r}")
    return found


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError:  # ENODATA, or a file system without attributes
        return False
