"""Walks over directory trees whose contents somebody else made: never through a link, any depth."""

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker that starts often imports this module
    from pathlib import Path

_FLAT = 32
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: "Path") -> None:
    """Delete a tree. Nothing happens when it is not there.

    A container may nest directories deeper than any path name, recursion limit or descriptor table. Below a
    depth of 32 a directory is therefore first moved up to the top of the tree.
    """
    try:
        parent = os.open(path.parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove_at(os.fsencode(path.name), parent)
    finally:
        os.close(parent)


def remove_at(name: bytes, parent: int) -> None:
    """Like `remove_tree` for an entry of an open directory; a link is removed, not followed."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass  # unlink(2) on Linux says EISDIR for a directory
    top = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        while _empty(top, top, 0):
            pass  # directories were moved up: once more
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _empty(top: int, directory: int, depth: int) -> bool:
    """Delete the entries of a directory; returns whether it moved some up to `top` instead."""
    moved = False
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            _unlink(name, directory)
        elif depth >= _FLAT:
            os.rename(name, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
            moved = True
        else:
            moved |= _remove_directory(top, name, directory, depth)
    return moved


def _remove_directory(top: int, name: str, parent: int, depth: int) -> bool:
    try:
        child = os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        return False
    try:
        moved = _empty(top, child, depth + 1)
    finally:
        os.close(child)
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    return moved


def _unlink(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass  # overlayfs cleans its work directory at the same time


def tree_size(path: "Path") -> int:
    """Sum of the sizes of the regular files in a tree, a hard-linked one counted once; 0 without a tree.

    Works on a tree that is being changed; what vanishes meanwhile does not count.
    """
    total, seen = 0, set[tuple[int, int]]()
    pending = [os.fspath(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    key = (status.st_dev, status.st_ino)
                    if stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or key not in seen):
                        seen.add(key)
                        total += status.st_size
        except OSError:  # gone meanwhile, or nested deeper than a path name can tell
            continue
    return total
