"""What a client says of its files, judged: fsutil's STAT packets become records. Pure.

The protocol asks the sender for paths in order, parents before children, and names as they are on disk
(https://github.com/tonistiigi/fsutil/blob/master/validator.go). A sender that does otherwise is refused: a session's
client is not trusted with paths.
"""

import os
import stat

from longshore.api.buildkit.contexts import Record
from longshore.api.buildkit.messages_session import Stat
from longshore.errors import InvalidArgument

MAX_FILES = 1_000_000
MAX_PATH, MAX_NAME = 4096, 255  # path_resolution(7)

# Go's os.FileMode (https://pkg.go.dev/io/fs#FileMode)
GO_DIRECTORY, GO_LINK, GO_DEVICE, GO_PIPE, GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
GO_SETUID, GO_SETGID, GO_CHARACTER, GO_STICKY, GO_IRREGULAR = 1 << 23, 1 << 22, 1 << 21, 1 << 20, 1 << 19
GO_TYPE = GO_DIRECTORY | GO_LINK | GO_DEVICE | GO_PIPE | GO_SOCKET | GO_CHARACTER | GO_IRREGULAR
_BITS = ((GO_SETUID, stat.S_ISUID), (GO_SETGID, stat.S_ISGID), (GO_STICKY, stat.S_ISVTX))


def mode_of(go: int) -> int:
    """Go's mode as stat(2) has it. Raises InvalidArgument for a kind that no image can hold."""
    mode = go & 0o777
    for bit, ours in _BITS:
        if go & bit:
            mode |= ours
    kinds = {
        0: stat.S_IFREG,
        GO_DIRECTORY: stat.S_IFDIR,
        GO_LINK: stat.S_IFLNK,
        GO_DEVICE: stat.S_IFBLK,
        GO_DEVICE | GO_CHARACTER: stat.S_IFCHR,
        GO_PIPE: stat.S_IFIFO,
    }
    kind = kinds.get(go & GO_TYPE)
    if kind is None:
        raise InvalidArgument("a file of the build context has an unknown kind", detail=f"mode {go:#o}")
    return kind | mode


def go_mode(mode: int) -> int:
    """A mode of stat(2) as Go has it; a socket counts as a file."""
    go = mode & 0o777
    for bit, ours in _BITS:
        if mode & ours:
            go |= bit
    kinds = {
        stat.S_IFDIR: GO_DIRECTORY,
        stat.S_IFLNK: GO_LINK,
        stat.S_IFBLK: GO_DEVICE,
        stat.S_IFCHR: GO_DEVICE | GO_CHARACTER,
        stat.S_IFIFO: GO_PIPE,
    }
    return go | kinds.get(stat.S_IFMT(mode), 0)


class Arrivals:
    """The STATs of one transfer in their order. `take` gives each its record; the number counts all of them."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.count = 0
        self._parents: list[bytes] = []  # directories from the root to where the sender is
        self._last = b""

    def take(self, given: Stat) -> Record:
        """Raises InvalidArgument for a path, an order or a number of files that no honest sender has."""
        self.count += 1
        if self.count > MAX_FILES:
            raise InvalidArgument(f"the build context has more than {MAX_FILES} files")
        path = os.fsencode(given.path)
        mode = mode_of(given.mode)
        self._judge_path(path)
        link = os.fsencode(given.linkname)
        if len(link) > MAX_PATH or b"\0" in link:
            raise _refused(path, "its link target is no path")
        if given.size < 0 or not 0 <= given.uid < 1 << 32 or not 0 <= given.gid < 1 << 32:
            raise _refused(path, "its size or owner is no number")
        device = (0, 0)
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            device = (given.devmajor & 0xFFF, given.devminor & 0xFFFFF)
        record = Record(
            path,
            mode,
            given.uid,
            given.gid,
            given.size if stat.S_ISREG(mode) else 0,
            given.mod_time,
            link,
            device,
        )
        if stat.S_ISREG(mode) and link and not self._is_file(link):
            raise _refused(path, f"it is a hard link to {os.fsdecode(link)}, which did not come before")
        if stat.S_ISDIR(mode):
            self._parents.append(path)
        self.records[path] = record
        return record

    def _judge_path(self, path: bytes) -> None:
        names = path.split(b"/")
        if not path or len(path) > MAX_PATH or b"\0" in path:
            raise _refused(path, "it is no path")
        if any(name in (b"", b".", b"..") or len(name) > MAX_NAME for name in names):
            raise _refused(path, "it is not a clean relative path")
        if self._last and names <= self._last.split(b"/"):
            raise _refused(path, "it is out of order")
        parent = path.rpartition(b"/")[0]
        while self._parents and self._parents[-1] != parent:
            self._parents.pop()
        if parent and not self._parents:
            raise _refused(path, "its directory did not come before")
        self._last = path

    def _is_file(self, path: bytes) -> bool:
        found = self.records.get(path)
        return found is not None and stat.S_ISREG(found.mode)


def _refused(path: bytes, why: str) -> InvalidArgument:
    return InvalidArgument(f"the client sent a wrong path: {os.fsdecode(path[:200])!r}", detail=why)
