"""Packing and unpacking tars inside a container's root, always by descriptor.

Python's tarfile reads and writes the format here; its extraction is never used. Each entry's folder is opened anew
inside the root, the last name is created without following anything.
"""

import errno
import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager

from longshore.core.containers.roots import closing
from longshore.core.userns import HOSTS_OWN, Owners
from longshore.errors import Conflict, InvalidArgument
from longshore.kernel.paths import clean, filesystem_magic, make_directories, openat2
from longshore.kernel.processes import filesystem_identity
from longshore.storage.content import space_errors

CHUNK = 1 << 20
_DEEPEST = 400  # two descriptors and two frames of Python's stack each; a container can nest without end
_XATTRS = ("security.capability", "user.")
_PAX_XATTR = "SCHILY.xattr."

Write = Callable[[bytes], None]
Read = Callable[[], bytes]


class _Sink(io.RawIOBase):
    def __init__(self, write: Write) -> None:
        self._write = write

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:  # tarfile gives bytes, the buffer around us memoryviews
        piece = bytes(data)  # type: ignore[call-overload, arg-type]
        self._write(piece)
        return len(piece)


class _Source(io.RawIOBase):
    def __init__(self, read: Read) -> None:
        self._read = read
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if not self._rest:
            self._rest = self._read()
        piece, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(piece)] = piece
        return len(piece)


def pack(fd: int, name: str, write: Write) -> None:
    """Write a tar of an open file or folder (O_PATH) under a name; the empty name packs a folder's content alone."""
    with (
        io.BufferedWriter(_Sink(write), CHUNK) as sink,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as archive,
    ):
        links: dict[tuple[int, int], str] = {}
        if name:
            _pack_entry(archive, fd, name, links, 0)
        else:
            _pack_children(archive, fd, "", links, 0)


def _pack_entry(
    archive: tarfile.TarFile, fd: int, name: str, links: dict[tuple[int, int], str], depth: int
) -> None:
    status = os.fstat(fd)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFSOCK:
        return  # has no place in a tar
    entry = tarfile.TarInfo(name)
    entry.mode, entry.uid, entry.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    entry.mtime = int(status.st_mtime)
    known = (
        links.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 and kind != stat.S_IFDIR else None
    )
    if known is not None:
        entry.type, entry.linkname = tarfile.LNKTYPE, known
        archive.addfile(entry)
        return
    links[status.st_dev, status.st_ino] = name
    if kind == stat.S_IFDIR:
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        _pack_children(archive, fd, f"{name}/", links, depth + 1)
    elif kind == stat.S_IFREG:
        _pack_file(archive, fd, entry, status)
    else:
        entry.type = {
            stat.S_IFLNK: tarfile.SYMTYPE,
            stat.S_IFIFO: tarfile.FIFOTYPE,
            stat.S_IFBLK: tarfile.BLKTYPE,
            stat.S_IFCHR: tarfile.CHRTYPE,
        }[kind]
        if kind == stat.S_IFLNK:
            entry.linkname = os.readlink("", dir_fd=fd)
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        archive.addfile(entry)


def _pack_file(archive: tarfile.TarFile, fd: int, entry: tarfile.TarInfo, status: os.stat_result) -> None:
    # Reopened through /proc: exactly this file, whatever its name means by now.
    with open(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC), "rb") as data:
        for name in os.listxattr(data.fileno()):
            if name.startswith(_XATTRS):
                value = os.getxattr(data.fileno(), name)
                entry.pax_headers = {
                    **entry.pax_headers,
                    f"{_PAX_XATTR}{name}": value.decode("utf-8", "surrogateescape"),
                }
        entry.size = status.st_size
        archive.addfile(entry, _Exactly(data, status.st_size))  # type: ignore[arg-type]


class _Exactly(io.RawIOBase):
    """A file that is being written to while we pack it still has the size that its header says."""

    def __init__(self, data: io.BufferedReader, size: int) -> None:
        self._data = data
        self._left = size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._data.read(wanted)
        data += b"\0" * (wanted - len(data))
        self._left -= wanted
        return data


def _pack_children(
    archive: tarfile.TarFile, fd: int, prefix: str, links: dict[tuple[int, int], str], depth: int
) -> None:
    if depth > _DEEPEST:
        raise InvalidArgument("folders are nested too deeply", detail=prefix[:200])
    with closing(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as listing:
        device = os.fstat(listing).st_dev
        for name in sorted(os.listdir(listing)):  # noqa: PTH208 - by descriptor
            try:
                below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=listing)
            except FileNotFoundError:
                continue  # deleted meanwhile
            with closing(below):
                if os.fstat(below).st_dev != device and _is_kernel_fs(below):
                    continue
                _pack_entry(archive, below, f"{prefix}{name}", links, depth)


_KERNEL_FS = frozenset({0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x1CD1, 0x19800202})
# proc, sysfs, cgroup, cgroup2, devpts, mqueue (statfs(2)): not files that anybody wants to copy


def _is_kernel_fs(fd: int) -> bool:
    return filesystem_magic(fd) in _KERNEL_FS


def unpack(
    root: int, base: str, read: Read, *, keep_kinds: bool, copy_owner: bool, owners: Owners = HOSTS_OWN
) -> None:
    """Unpack a tar, perhaps compressed, into the folder `base`. Names and hard links mean places below `base`,
    resolved inside the root.

    `owners`: whose the container's ids are outside, where `root` is a running container's own.
    Raises InvalidArgument (a bad archive), Conflict (kinds, read-only), OutOfSpace.
    """
    try:
        with (
            space_errors(base),
            as_root_of(owners),
            io.BufferedReader(_Source(read), CHUNK) as source,
            tarfile.open(fileobj=source, mode="r|*", bufsize=CHUNK) as archive,
        ):
            folders: list[tuple[str, tarfile.TarInfo]] = []
            for entry in archive:
                owner = owners.outside(entry.uid, entry.gid) if copy_owner else owners.outside(0, 0)
                _unpack_entry(root, base, archive, entry, folders, keep_kinds, owner)
            for path, entry in reversed(folders):  # after their contents, which change the times
                _finish_folder(root, path, entry)
    except (tarfile.TarError, EOFError, ValueError) as cause:
        raise InvalidArgument("invalid tar archive", detail=str(cause)) from cause
    except OSError as cause:
        if cause.errno == errno.EROFS:
            raise Conflict("the mount or container root is read-only", detail=base) from cause
        raise InvalidArgument("cannot unpack the archive", detail=str(cause)) from cause


@contextmanager
def as_root_of(owners: Owners) -> Generator[None]:
    """Make files as root of the container does."""
    if not owners:
        yield
        return
    with filesystem_identity(*owners.outside(0, 0)):
        yield


def _unpack_entry(
    root: int,
    base: str,
    archive: tarfile.TarFile,
    entry: tarfile.TarInfo,
    folders: list[tuple[str, tarfile.TarInfo]],
    keep_kinds: bool,
    owner: tuple[int, int],
) -> None:
    inside = clean(entry.name)  # "../x" and "/x" are x
    path = clean(f"{base}{inside}")
    if path == clean(base):
        if entry.isdir():
            folders.append((path, entry))
        return
    folder, name = posixpath.split(path)
    with closing(make_directories(root, folder)) as parent:
        _make_way(parent, name, entry, keep_kinds)
        if entry.isdir():
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
                os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                pass
            folders.append((path, entry))
        elif entry.isreg():
            _write_file(parent, name, archive, entry, owner)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        elif entry.islnk():
            _link(root, base, parent, name, entry)
        elif entry.isfifo() or entry.ischr() or entry.isblk():
            kind = stat.S_IFIFO if entry.isfifo() else stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(entry.devmajor, entry.devminor), dir_fd=parent)
            with closing(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)) as made:
                os.chown(f"/proc/self/fd/{made}", *owner)
                os.chmod(f"/proc/self/fd/{made}", entry.mode & 0o7777)  # noqa: PTH101
        else:
            raise InvalidArgument("invalid tar archive", detail=f"entry of unknown type {entry.type!r}")


def _make_way(parent: int, name: str, entry: tarfile.TarInfo, keep_kinds: bool) -> None:
    """Remove what stands in the entry's place; a folder stays for a folder."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder and entry.isdir():
        return
    if keep_kinds and is_folder != entry.isdir() and not stat.S_ISLNK(status.st_mode):
        kinds = ("directory", "non-directory") if is_folder else ("non-directory", "directory")
        raise InvalidArgument(f'cannot overwrite {kinds[0]} "{name}" with {kinds[1]} "{name}"')
    if is_folder:
        os.rmdir(name, dir_fd=parent)  # only an empty one gives way
    else:
        os.unlink(name, dir_fd=parent)


def _write_file(
    parent: int, name: str, archive: tarfile.TarFile, entry: tarfile.TarInfo, owner: tuple[int, int]
) -> None:
    data = archive.extractfile(entry)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(name, flags, 0o600, dir_fd=parent)) as fd:
        while data is not None and (piece := data.read(CHUNK)):
            os.write(fd, piece)
        os.fchown(fd, *owner)
        for key, value in entry.pax_headers.items():
            if key.startswith(_PAX_XATTR) and key.removeprefix(_PAX_XATTR).startswith(_XATTRS):
                os.setxattr(fd, key.removeprefix(_PAX_XATTR), value.encode("utf-8", "surrogateescape"))
        os.fchmod(fd, entry.mode & 0o7777)
        os.utime(fd, (entry.mtime, entry.mtime))


def _link(root: int, base: str, parent: int, name: str, entry: tarfile.TarInfo) -> None:
    with closing(openat2(root, clean(f"{base}{clean(entry.linkname)}"), os.O_PATH | os.O_NOFOLLOW)) as target:
        os.link(f"/proc/self/fd/{target}", name, dst_dir_fd=parent, follow_symlinks=True)


def _finish_folder(root: int, path: str, entry: tarfile.TarInfo) -> None:
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # a later entry or the container replaced it
    with closing(fd):
        os.fchmod(fd, entry.mode & 0o7777)
        os.utime(fd, (entry.mtime, entry.mtime))
