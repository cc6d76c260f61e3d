"""Who the container's process is: USER texts resolved against the container's own passwd and group files.

The files belong to the image and are read as such: inside the root only, regular files only, never blocking,
a bounded number of bytes. Numbers are numbers: "1000" is the uid 1000 even when an entry is *named* 1000.
Names in the files are bytes; nothing is decoded.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longshore.errors import StartFailed
from longshore.kernel.paths import openat2

_MOST_BYTES = 16 << 20
_LONGEST_LINE = 1 << 20
_LARGEST_ID = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Numbers for setuid(2) and friends. `groups` are all supplementary groups; `home` may be empty."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: bytes = b""


def resolve_user(root_fd: int, text: str, more_groups: Sequence[str] = ()) -> Identity:
    """Resolve "", "name", "uid", "name:group", "uid:gid" as the Docker Engine does.

    `more_groups` are names or numbers to add (--group-add). Raises StartFailed for names without entry and
    numbers out of range.
    """
    user_text, colon, group_text = text.partition(":")
    user, number = os.fsencode(user_text), _number(user_text)
    uid, gid, name, home = number or 0, 0, b"", b""
    for fields in _entries(root_fd, "/etc/passwd", 6):
        entry_uid, entry_gid = _field(fields[2]), _field(fields[3])
        if entry_uid is None or entry_gid is None:
            continue
        if (entry_uid == uid) if (number is not None or not user) else (fields[0] == user):
            uid, gid, name, home = entry_uid, entry_gid, fields[0], fields[5]
            break
    else:
        if user and number is None:
            raise StartFailed(f"unable to find user {user_text}: no matching entries in passwd file")
    groups: list[int] = []
    wanted = [*([group_text] if colon and group_text else []), *more_groups]
    names = {os.fsencode(group): group for group in wanted if _number(group) is None}
    found: dict[bytes, int] = {}
    member_of: list[int] = []
    if names or name:
        for fields in _entries(root_fd, "/etc/group", 3):
            entry_gid = _field(fields[2])
            if entry_gid is None:
                continue
            if fields[0] in names:
                found.setdefault(fields[0], entry_gid)
            if name and len(fields) > 3 and name in fields[3].split(b","):
                member_of.append(entry_gid)
    numbers: list[int] = []
    for group in wanted:
        as_number = _number(group)
        if as_number is None:
            as_number = found.get(os.fsencode(group))
        if as_number is None:
            raise StartFailed(f"unable to find group {group}: no matching entries in group file")
        numbers.append(as_number)
    if colon and group_text:
        gid = numbers.pop(0)  # an explicit group replaces what the group file says about the user
    else:
        groups.extend(member_of)
    groups = [gid, *groups, *numbers]
    return Identity(uid, gid, tuple(dict.fromkeys(groups)), home)


def home_of(root_fd: int, uid: int) -> bytes:
    """The home directory of a uid in the container's passwd file; empty when there is none."""
    for fields in _entries(root_fd, "/etc/passwd", 6):
        if _field(fields[2]) == uid:
            return fields[5]
    return b""


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text) if len(text) < 20 else _LARGEST_ID + 1
    if value > _LARGEST_ID:
        raise StartFailed("uids and gids must be in range 0-2147483647", detail=text[:40])
    return value


def _field(text: bytes) -> int | None:
    """A number of a passwd or group line; a line with anything else is no entry."""
    if not text.isdigit() or len(text) > 10:
        return None
    value = int(text)
    return value if value <= _LARGEST_ID else None


def _entries(root_fd: int, path: str, at_least: int) -> Iterator[list[bytes]]:
    try:
        # O_NONBLOCK: a FIFO in the file's place must not stop us before we can look at its kind.
        fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return  # no file, a link loop or a directory on the way: an image without users
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return
    with os.fdopen(fd, "rb") as file:
        left = _MOST_BYTES
        while left > 0:
            line = file.readline(min(left, _LONGEST_LINE))
            if not line:
                return
            left -= len(line)
            fields = line.strip().split(b":")
            if len(fields) >= at_least and not line.startswith(b"#"):
                yield fields
