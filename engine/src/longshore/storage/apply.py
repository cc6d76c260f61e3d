"""Applying a layer tar to an empty directory, entry by entry, for overlayfs to use as a lower directory.

The archive is hostile. Every name is walked component by component from a directory descriptor with
O_NOFOLLOW; a name never passes through a symbolic link, `..` is refused, and what stands in the way is removed, not
followed. (The worker that runs this has the directory as its root besides.)
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from longshore.storage.tarstream import (
    BLOCKDEV,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARDLINK,
    REGULAR,
    SYMLINK,
    Entry,
    TarReader,
)
from longshore.storage.trees import remove_at
from longshore.storage.whiteouts import OPAQUE_NAME, OPAQUE_XATTR, PREFIX, RESERVED, is_whiteout

_T = TypeVar("_T")

MAX_DEPTH = 255
_MAX_NAME = 255
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICE_BITS = {CHARACTER: stat.S_IFCHR, BLOCKDEV: stat.S_IFBLK, FIFO: stat.S_IFIFO}


class LayerError(Exception):
    """The layer asks for something that is refused, or breaks a limit."""


class Applier:
    """Applies entries below `root`, an open directory that stays the caller's."""

    def __init__(self, root: int, *, max_entries: int, max_size: int) -> None:
        self._root = root
        self._max_entries = max_entries
        self._max_size = max_size
        self.entries = 0
        self.size = 0  # bytes of regular files
        self._open: list[tuple[bytes, int]] = []  # the path walked last: archives come in tree order
        self._times: dict[tuple[bytes, ...], int] = {}  # set when a directory is left: its entries change it

    def apply(self, reader: TarReader) -> None:
        """Everything. Raises LayerError, TarError or OSError and leaves the rubble to the caller."""
        try:
            for entry in reader:
                self._count(entry)
                self._entry(entry, reader)
            self._leave(0)
        finally:
            for _, fd in self._open:
                os.close(fd)
            self._open.clear()
        if (mtime := self._times.get(())) is not None:
            os.utime(self._root, ns=(mtime, mtime))

    def _count(self, entry: Entry) -> None:
        self.entries += 1
        self.size += entry.size
        if self.entries > self._max_entries:
            raise LayerError(f"layer has more than {self._max_entries} entries")
        if self.size > self._max_size:
            raise LayerError(f"layer unpacks to more than {self._max_size} bytes")

    def _entry(self, entry: Entry, reader: TarReader) -> None:
        parts = components(entry.name)
        if not parts:  # "./", the root itself
            if entry.kind == DIRECTORY:
                self._leave(0)
                self._finish(self._root, entry)
                self._times[()] = entry.mtime_ns
            return
        parent = self._walk(parts[:-1])
        name = parts[-1]
        if name.startswith(PREFIX):
            self._whiteout(parent, name)
        elif entry.kind == DIRECTORY:
            self._directory(parent, name, entry)
            self._times[tuple(parts)] = entry.mtime_ns
        elif entry.kind == REGULAR:
            self._regular(parent, name, entry, reader)
        elif entry.kind == HARDLINK:
            self._hardlink(parent, name, entry, parts)
        elif entry.kind == SYMLINK:
            _make(parent, name, lambda: os.symlink(entry.linkname, name, dir_fd=parent))
            _finish_by_name(parent, name, entry, links=True)
        else:
            mode, device = _DEVICE_BITS[entry.kind] | 0o600, os.makedev(*entry.device)
            _make(parent, name, lambda: os.mknod(name, mode, device, dir_fd=parent))
            _finish_by_name(parent, name, entry, links=False)

    # The walk

    def _walk(self, parts: list[bytes], *, create: bool = True) -> int:
        """The descriptor of a directory below the root; it belongs to the stack of open ones."""
        common = 0
        while common < min(len(parts), len(self._open)) and self._open[common][0] == parts[common]:
            common += 1
        self._leave(common)
        for part in parts[common:]:
            self._open.append((part, self._descend(self._top(), part, create)))
        return self._top()

    def _top(self) -> int:
        return self._open[-1][1] if self._open else self._root

    def _descend(self, parent: int, name: bytes, create: bool) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as cause:
            if cause.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if not is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise LayerError(f"path passes through a link or file: {_show(name)}") from cause
        # A parent that the archive does not mention, or one that it first deletes from the layers below
        return self._make_directory(parent, name)

    def _make_directory(self, parent: int, name: bytes) -> int:
        _, was_deleted = _make(parent, name, lambda: os.mkdir(name, 0o755, dir_fd=parent))
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        if was_deleted:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        os.fchmod(fd, 0o755)
        return fd

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            mtime = self._times.get(tuple(name for name, _ in self._open))
            _, fd = self._open.pop()
            try:
                if mtime is not None:
                    os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)

    # The kinds of entries

    def _directory(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError as cause:
            if cause.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            fd = self._make_directory(parent, name)
        self._open.append((name, fd))  # most likely its entries come next
        self._finish(fd, entry)

    def _regular(self, parent: int, name: bytes, entry: Entry, reader: TarReader) -> None:
        mode = entry.mode & 0o777  # setuid comes when the contents are there
        fd = _make(parent, name, lambda: os.open(name, _CREATE, mode, dir_fd=parent))[0]
        try:
            for offset, data in reader.data():
                view = memoryview(data)
                while view:
                    written = os.pwrite(fd, view, offset)
                    view, offset = view[written:], offset + written
            if entry.sparse is not None:
                os.ftruncate(fd, entry.size)
            self._finish(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _hardlink(self, parent: int, name: bytes, entry: Entry, parts: list[bytes]) -> None:
        target = components(entry.linkname)
        if not target or target == parts:
            raise LayerError(f"hard link to itself or to the root: {_show(entry.name)}")
        held = os.dup(parent)  # walking to the target closes the stack's own
        try:
            source = self._walk(target[:-1], create=False)
            status = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
                raise LayerError(f"hard link to a directory or a deleted file: {_show(entry.name)}")
            last = target[-1]
            _make(
                held,
                name,
                lambda: os.link(last, name, src_dir_fd=source, dst_dir_fd=held, follow_symlinks=False),
            )
            # The walk to the target has left the directory, which the new name changes once more
            if (mtime := self._times.get(tuple(parts[:-1]))) is not None:
                os.utime(held, ns=(mtime, mtime))
        except FileNotFoundError as cause:
            raise LayerError(
                f"hard link target is not in the layer: {_show(entry.name)} -> {_show(entry.linkname)}"
            ) from cause
        finally:
            os.close(held)

    def _whiteout(self, parent: int, name: bytes) -> None:
        if name == OPAQUE_NAME:
            os.setxattr(parent, OPAQUE_XATTR, b"y")
            return
        if name.startswith(RESERVED):
            return
        deleted = name[len(PREFIX) :]
        if deleted in (b"", b".", b".."):
            raise LayerError(f"whiteout of nothing: {_show(name)}")
        try:
            os.mknod(deleted, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            # A whiteout speaks of the layers below: what this layer itself brings stays
            status = os.stat(deleted, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                fd = os.open(deleted, _DIRECTORY, dir_fd=parent)
                try:
                    os.setxattr(fd, OPAQUE_XATTR, b"y")
                finally:
                    os.close(fd)

    def _finish(self, fd: int, entry: Entry) -> None:
        """Owner before mode and attributes: chown(2) clears setuid bits and file capabilities.

        What is right already is left alone: each call writes the inode into the journal, which is a third of what
        a small file costs.
        """
        status = os.fstat(fd)
        owned = (status.st_uid, status.st_gid) == (entry.uid, entry.gid)
        if not owned:
            os.fchown(fd, entry.uid, entry.gid)
        if not owned or stat.S_IMODE(status.st_mode) != entry.mode:
            os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if _wanted(name):
                _setxattr(fd, name, value)


def components(name: bytes) -> list[bytes]:
    """The parts of a name below the root; a leading slash means the root. Raises LayerError."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise LayerError(f"path leaves the root: {_show(name)}")
    if len(parts) > MAX_DEPTH:
        raise LayerError(f"path is deeper than {MAX_DEPTH} directories: {_show(name)}")
    if any(len(part) > _MAX_NAME for part in parts):
        raise LayerError(f"file name is longer than {_MAX_NAME} bytes: {_show(name)}")
    return parts


def _make(parent: int, name: bytes, make: Callable[[], _T]) -> tuple[_T, bool]:
    """Make a new entry, removing what is there. Also tells whether that was a whiteout."""
    try:
        return make(), False
    except FileExistsError:
        was_deleted = is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False))
        remove_at(name, parent)
        return make(), was_deleted


def _finish_by_name(parent: int, name: bytes, entry: Entry, *, links: bool) -> None:
    """For what cannot be opened. Nobody else changes this tree, so the name still is what was just made."""
    os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
    if not links:
        os.chmod(name, entry.mode, dir_fd=parent)
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)


def _wanted(name: bytes) -> bool:
    """Never trusted.overlay.*: a layer could redirect a directory to another layer's."""
    return name == b"security.capability" or name.startswith(b"user.")


def _setxattr(fd: int, name: bytes, value: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # a file system without user attributes, as in Docker
            raise


def _show(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "replace"))
