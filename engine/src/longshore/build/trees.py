"""What COPY and ADD read from and look into: the build context (a tar) and the layers of an image.

Neither is ever unpacked or mounted: the context stays a tar file with an index, an image is read through its
layer folders by the rules of overlayfs. So no path of the context or the image is resolved by the host's kernel
beyond one component at a time, and a link in either leads nowhere outside.
"""

import io
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from longshore.errors import InvalidArgument
from longshore.oci.ignore import Ignore

MAX_LINKS = 40  # as the kernel, path_resolution(7)
OPAQUE = "trusted.overlay.opaque"
_PAX = "SCHILY.xattr."


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree. `path` is absolute inside the tree, with links in its parents resolved."""

    path: str
    kind: int  # stat.S_IFREG, S_IFDIR, S_IFLNK …
    mode: int  # permission bits
    uid: int
    gid: int
    size: int
    mtime: float
    link: str = ""  # target of a symbolic link
    device: tuple[int, int] = (0, 0)
    real: str = ""  # where the bytes are: a file of the host, or the member's name in the context
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # security.capability and user.*

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        return self.kind == stat.S_IFREG


class Tree(Protocol):
    def entry(self, path: str) -> Entry | None:
        """The file at an absolute, already resolved path; no link is followed."""
        ...

    def children(self, path: str) -> list[str]:
        """Names in the directory at a resolved path, sorted."""
        ...

    def open(self, entry: Entry) -> BinaryIO: ...


def resolve(tree: Tree, path: str) -> str:
    """Follow every link of a path inside the tree, which is its own root; what does not exist stays as written.

    Raises InvalidArgument after 40 links.
    """
    todo = [part for part in reversed(path.split("/")) if part]
    done, links = "/", 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            done = posixpath.dirname(done)
            continue
        found = tree.entry(posixpath.join(done, part))
        if found is not None and found.kind == stat.S_IFLNK:
            links += 1
            if links > MAX_LINKS:
                raise InvalidArgument(f"too many links in {path}")
            if found.link.startswith("/"):
                done = "/"
            todo.extend(piece for piece in reversed(found.link.split("/")) if piece)
            continue
        done = posixpath.join(done, part)
    return done


def walk(tree: Tree, top: Entry) -> Iterator[Entry]:
    """The entry and, for a directory, everything below, parents before children."""
    pending = [top]
    while pending:
        entry = pending.pop()
        yield entry
        if entry.is_directory:
            for name in reversed(tree.children(entry.path)):
                child = tree.entry(posixpath.join(entry.path, name))
                if child is not None:
                    pending.append(child)


class TarTree:
    """An uncompressed tar file and an index of it. Later entries replace earlier ones, as tar does."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises InvalidArgument for what is no tar. The file is the tree's from now on."""
        self._file = file
        try:
            self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  closed by close()
            self._members: dict[str, tarfile.TarInfo] = {self._name(member): member for member in self._tar}
        except tarfile.TarError as cause:
            raise InvalidArgument("the build context is no tar archive", detail=str(cause)) from cause
        try:
            self._fd = file.fileno()
        except OSError:  # in memory
            self._fd = -1
        self._children: dict[str, set[str]] = {"/": set()}
        for path in self._members:
            self._add_to_parents(path)

    def _add_to_parents(self, path: str) -> None:
        while path != "/":
            parent, _, name = path.rpartition("/")
            path = parent or "/"
            self._children.setdefault(path, set()).add(name)

    @staticmethod
    def _name(member: tarfile.TarInfo) -> str:
        # Rooted first, so that leading ".." lead nowhere.
        return posixpath.normpath("/" + member.name.lstrip("/"))

    def entry(self, path: str) -> Entry | None:
        member = self._members.get(path)
        if member is None:
            implied = path in self._children
            return Entry(path, stat.S_IFDIR, 0o755, 0, 0, 0, 0.0, real=path) if implied else None
        kind = _kind_of(member)
        if member.islnk():
            # A hard link within the context: the file it names.
            target = self._members.get(posixpath.normpath("/" + member.linkname.lstrip("/")))
            if target is None or target.islnk():
                raise InvalidArgument("the build context is broken", detail=f"{member.name} links to nothing")
            member = target
        return Entry(
            path, kind, stat.S_IMODE(member.mode), member.uid, member.gid, member.size if member.isreg() else 0,
            float(member.mtime), member.linkname if member.issym() else "",
            (member.devmajor, member.devminor), real=self._name(member),
            xattrs=tuple(
                (name, os.fsencode(value))
                for key, value in sorted(member.pax_headers.items())
                if key.startswith(_PAX) and _carried(name := os.fsencode(key.removeprefix(_PAX)))
            ),
        )  # fmt: skip

    def children(self, path: str) -> list[str]:
        return sorted(self._children.get(path, ()))

    def open(self, entry: Entry) -> BinaryIO:
        """A reader of its own: several threads may read the tree at once."""
        member = self._members[entry.real]
        if member.sparse is not None or self._fd < 0:
            stream = self._tar.extractfile(member)
            assert stream is not None  # only regular files are opened
            return io.BytesIO(stream.read())
        return cast(BinaryIO, _Slice(self._fd, member.offset_data, member.size))

    def close(self) -> None:
        self._tar.close()
        self._file.close()  # tarfile leaves it to whoever opened it


class _Slice(io.RawIOBase):
    """A part of a file, read by pread(2); whoever has the file closes it."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        super().__init__()
        self._fd, self._start, self._size, self._at = fd, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = os.pread(self._fd, min(len(buffer), max(0, self._size - self._at)), self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _kind_of(member: tarfile.TarInfo) -> int:
    if member.isdir():
        return stat.S_IFDIR
    if member.issym():
        return stat.S_IFLNK
    if member.isfifo():
        return stat.S_IFIFO
    if member.ischr():
        return stat.S_IFCHR
    if member.isblk():
        return stat.S_IFBLK
    return stat.S_IFREG


@dataclass(frozen=True, slots=True)
class WithoutIgnored:
    """A tree less what .dockerignore leaves out; a directory stays as long as something in it does."""

    tree: Tree
    ignore: Ignore

    def entry(self, path: str) -> Entry | None:
        found = self.tree.entry(path)
        if found is None or path == "/" or not self.ignore.excludes(path.lstrip("/")):
            return found
        return found if found.is_directory and self._holds(path) else None

    def children(self, path: str) -> list[str]:
        names = self.tree.children(path)
        return [name for name in names if self.entry(posixpath.join(path, name)) is not None]

    def open(self, entry: Entry) -> BinaryIO:
        return self.tree.open(entry)

    def _holds(self, path: str) -> bool:
        return not self.ignore.prunes(path.lstrip("/")) and bool(self.children(path))


class LayersTree:
    """The merged view of unpacked layers, newest first: whiteouts hide, opaque directories cut off.

    https://docs.kernel.org/filesystems/overlayfs.html, "whiteouts and opaque directories". The layers do not change
    while they are in use, so a directory seen once can be remembered.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self._directories: dict[str, tuple[str, ...]] = {"/": tuple(map(str, layers))}

    def entry(self, path: str) -> Entry | None:
        found = self._find(path)
        if found is None:
            # FROM scratch has a root all the same.
            return Entry("/", stat.S_IFDIR, 0o755, 0, 0, 0, 0.0) if path == "/" else None
        real, status = found
        kind = stat.S_IFMT(status.st_mode)
        return Entry(
            path, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_size,
            status.st_mtime, str(Path(real).readlink()) if kind == stat.S_IFLNK else "",
            (os.major(status.st_rdev), os.minor(status.st_rdev)), real=real,
            xattrs=_xattrs(real) if kind in (stat.S_IFREG, stat.S_IFDIR) else (),
        )  # fmt: skip

    def children(self, path: str) -> list[str]:
        """Names that a lower layer has and an upper one hides are left out."""
        names: set[str] = set()
        for directory in self._layers_of(path):
            names.update(item.name for item in os.scandir(directory))
        return sorted(name for name in names if self._find(posixpath.join(path, name)) is not None)

    def open(self, entry: Entry) -> BinaryIO:
        return os.fdopen(
            os.open(entry.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        )

    def _layers_of(self, path: str) -> tuple[str, ...]:
        """The folders that together make the directory at `path`; empty when it is none."""
        known = self._directories.get(path)
        if known is not None:
            return known
        parent, name = posixpath.split(path)
        folders: list[str] = []
        for directory in self._layers_of(parent):
            real = f"{directory}/{name}"
            status = _status(real)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break  # a whiteout, or a file that covers the directories below
            folders.append(real)
            if _opaque(real):
                break
        self._directories[path] = tuple(folders)
        return tuple(folders)

    def _find(self, path: str) -> tuple[str, os.stat_result] | None:
        if path == "/":
            layers = self._directories["/"]
            return (layers[0], os.lstat(layers[0])) if layers else None
        parent, name = posixpath.split(path)
        for directory in self._layers_of(parent):
            real = f"{directory}/{name}"
            status = _status(real)
            if status is not None:
                return None if _whiteout(status) else (real, status)
        return None


def _carried(name: bytes) -> bool:
    """Whether an extended attribute belongs into an image."""
    return name == b"security.capability" or name.startswith(b"user.")


def _xattrs(path: str) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = sorted(filter(_carried, map(os.fsencode, os.listxattr(path, follow_symlinks=False))))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    except OSError:  # a file system without attributes
        return ()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _opaque(path: str) -> bool:
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:  # ENODATA, the usual case
        return False
