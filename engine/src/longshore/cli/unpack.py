"""A container's tar onto this machine. The container wrote its names and links: nothing leads out of the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from longshore.errors import InvalidArgument

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Stream(io.RawIOBase):
    """Pieces as a file that tarfile reads forwards."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._rest or next(self._pieces, b"")
        size = min(len(data), len(buffer))
        buffer[:size], self._rest = data[:size], data[size:]
        return size


def unpack(
    pieces: Iterable[bytes], folder: Path, name: str, *, keep_owner: bool, whole: bool = False
) -> None:
    """Put the archive's only tree into `folder` as `name`; "" puts what is in it there. `whole`: all that it has.

    Existing files are replaced. A symbolic link is never followed on the way to a file. Raises InvalidArgument.
    """
    job = _Unpacking(folder, name, keep_owner=keep_owner, whole=whole)
    try:
        stream = cast("Any", io.BufferedReader(_Stream(pieces), 1 << 17))
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                job.add(tar, member)
        job.finish()
    except (OSError, tarfile.TarError) as cause:
        raise InvalidArgument(f"cannot unpack to {folder}", detail=str(cause)) from cause


class _Unpacking:
    def __init__(self, folder: Path, name: str, *, keep_owner: bool, whole: bool = False) -> None:
        self._root, self._name, self._keep_owner = folder, name, keep_owner
        self._top: str | None = "" if whole else None
        self._folders: list[tuple[list[str], tarfile.TarInfo]] = []  # their times change while they fill

    def _parts(self, text: str) -> list[str]:
        """Where a member goes, as names below the root. Raises InvalidArgument for one that leaves it."""
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidArgument(
                "the container's archive is not to be trusted", detail=f"{text!r} leads out of it"
            )
        if self._top is None:
            self._top = parts[0] if parts else ""
        if self._top:
            if parts[:1] != [self._top]:
                raise InvalidArgument("the container's archive has more than one tree", detail=repr(text))
            parts = parts[1:]
        return [self._name, *parts] if self._name else parts

    def _parent(self, parts: list[str]) -> int:
        """A descriptor of the folder that a member lies in."""
        current = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                below = os.open(part, _FOLDER, dir_fd=current)
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            raise
        return current

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.name)
        if not parts:
            return  # the folder itself, when only its contents are wanted
        parent = self._parent(parts)
        try:
            self._make(tar, member, parts, parent)
        finally:
            os.close(parent)

    def _make(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        leaf = parts[-1]
        if member.isdir():
            self._make_folder(member, parts, parent)
            return
        _clear(leaf, parent)
        if member.issym():
            os.symlink(member.linkname, leaf, dir_fd=parent)
        elif member.islnk():
            self._link(member, leaf, parent)
            return
        elif member.isreg():
            self._write(tar, member, leaf, parent)
        elif member.isfifo():
            os.mkfifo(leaf, 0o600, dir_fd=parent)
        else:
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(leaf, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
        self._attributes(member, leaf, parent)

    def _make_folder(self, member: tarfile.TarInfo, parts: list[str], parent: int) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode):
                raise
        self._folders.append((parts, member))

    def _link(self, member: tarfile.TarInfo, leaf: str, parent: int) -> None:
        target = self._parts(member.linkname)
        folder = self._parent(target)
        try:
            os.link(target[-1], leaf, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(folder)

    @staticmethod
    def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, leaf: str, parent: int) -> None:
        source = tar.extractfile(member)
        assert source is not None
        with source, open(os.open(leaf, _FRESH, 0o600, dir_fd=parent), "wb") as stream:
            while data := source.read(1 << 20):
                stream.write(data)

    def _attributes(self, member: tarfile.TarInfo, leaf: str, parent: int) -> None:
        if self._keep_owner:
            os.chown(leaf, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            # Set-id bits of a container's file would be those of another user here, unless owners are kept
            os.chmod(leaf, member.mode & (0o7777 if self._keep_owner else 0o1777), dir_fd=parent)
        os.utime(leaf, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Modes and times of the folders, the inner ones first."""
        for parts, member in reversed(self._folders):
            parent = self._parent(parts)
            try:
                self._attributes(member, parts[-1], parent)
            finally:
                os.close(parent)


def _clear(leaf: str, parent: int) -> None:
    try:
        os.unlink(leaf, dir_fd=parent)
    except FileNotFoundError:
        pass
