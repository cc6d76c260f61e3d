"""Several layers as one: what `docker build --squash` gives.

By the rules of overlayfs (https://docs.kernel.org/filesystems/overlayfs.html): the newest layer that has a name
decides; directories are merged until one is opaque. A deletion stays where something below would show otherwise.
"""

import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from longshore.build.copying import member
from longshore.build.trees import Entry, LayersTree, Tree
from longshore.storage.tarstream import END, encode_header
from longshore.storage.tarstream import Entry as Member
from longshore.storage.whiteouts import OPAQUE_NAME, OPAQUE_XATTR, PREFIX, is_whiteout


def write_squashed(folders: Sequence[Path], below: Tree, write: Callable[[bytes], object]) -> None:
    """One layer tar of unpacked layers (`folders`, newest first) that lie on the tree `below`. Blocks."""
    tree = LayersTree(folders)
    _directory("/", [str(folder) for folder in folders], tree, below, write)
    write(END)


def _directory(
    path: str, folders: Sequence[str], tree: LayersTree, below: Tree, write: Callable[[bytes], object]
) -> None:
    names = sorted({name for folder in folders for name in os.listdir(folder)})
    for name in names:
        target = posixpath.join(path, name)
        found = [f"{folder}/{name}" for folder in folders if os.path.lexists(f"{folder}/{name}")]  # noqa: PTH110
        status = os.lstat(found[0])
        if is_whiteout(status):
            if below.entry(target) is not None:
                head = os.fsencode(path.strip("/"))
                deleted = PREFIX + os.fsencode(name)
                write(encode_header(Member(head + b"/" + deleted if head else deleted, mode=0)))
            continue
        entry = tree.entry(target)
        if entry is None:
            continue
        _write_member(target, entry, tree, write)
        if stat.S_ISDIR(status.st_mode):
            merged, opaque = _merged(found)
            if opaque and below.entry(target) is not None:
                write(encode_header(Member(os.fsencode(target.strip("/")) + b"/" + OPAQUE_NAME, mode=0)))
            _directory(target, merged, tree, below, write)


def _merged(found: Sequence[str]) -> tuple[list[str], bool]:
    """The directories that together make this one, and whether they hide what lies below the layers."""
    merged: list[str] = []
    for path in found:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            return merged, True  # a deletion or a file between: what is older does not show
        merged.append(path)
        if _is_opaque(path):
            return merged, True
    return merged, False


def _is_opaque(path: str) -> bool:
    try:
        return os.getxattr(path, OPAQUE_XATTR, follow_symlinks=False) == b"y"
    except OSError:  # ENODATA, the usual case
        return False


def _write_member(path: str, entry: Entry, tree: Tree, write: Callable[[bytes], object]) -> None:
    for piece in member(path, entry, tree):
        write(piece)
