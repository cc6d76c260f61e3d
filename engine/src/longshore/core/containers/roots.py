"""A container's file system as a descriptor, running or not, without a mount that anybody else could see.

Running: /proc/<pid>/root. Stopped: the overlay and the volumes are mounted by a thread in a mount namespace of its own
(mount_namespaces(7): they belong to threads), which hands out a detached copy of the whole tree (open_tree(2)) and ends.
Closing the descriptor unmounts.
"""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from longshore.core.containers.record import MountPoint, State
from longshore.errors import Conflict, EngineError, Internal
from longshore.kernel import mounts
from longshore.kernel.namespaces import CLONE_NEWNS, unshare
from longshore.kernel.paths import make_directories, make_file, open_beneath
from longshore.runtime.messages import OverlayRoot
from longshore.runtime.records import open_proc
from longshore.runtime.rootfs import mount_root

T = TypeVar("T")

CLONE_FS = 0x00000200  # a thread's own current directory and root, clone(2)


def in_private_namespace(work: Callable[[], T]) -> T:
    """Run `work` in a new thread with a mount namespace and current directory of its own. Blocks."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            unshare(CLONE_FS | CLONE_NEWNS)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            results.append(work())
        except BaseException as error:  # carried over to the caller, whoever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="private mounts", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def open_overlay(root: OverlayRoot, volumes: Sequence[MountPoint] = ()) -> int:
    """A descriptor of the mounted root with its volumes in place. The caller closes it, which unmounts. Blocks.

    Raises StartFailed when the overlay cannot be mounted. Nobody else may have the same upper directory mounted.
    """

    def work() -> int:
        root_fd = mount_root(root)
        try:
            for mount in volumes:
                if mount.type != "tmpfs":
                    _bind(root_fd, mount)
            return mounts.open_tree(root_fd, recursive=True)
        finally:
            os.close(root_fd)

    return in_private_namespace(work)


def _bind(root_fd: int, mount: MountPoint) -> None:
    try:
        source = (
            open_beneath(mount.source, mount.subpath) if mount.subpath else os.open(mount.source, os.O_PATH)
        )
    except OSError:
        return  # the host's folder is gone, or a container put a link into the subpath: nothing to see there
    with closing(source):
        tree = mounts.open_tree(source, recursive=True)
    try:
        make = make_directories if stat.S_ISDIR(os.fstat(tree).st_mode) else make_file
        target = make(root_fd, mount.target)
        try:
            if not mount.read_write:
                mounts.mount_setattr(tree, attr_set=mounts.MOUNT_ATTR_RDONLY, recursive=True)
            mounts.move_mount(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def open_running(state: State, name: str = "root") -> int:
    """The root (or another entry of /proc/<pid>) of a running container as its processes see it.

    The pid is never taken alone: of a process that got the number since, the root would be the host's.
    Raises Conflict when the container has just ended.
    """
    flags = os.O_PATH if name == "root" else os.O_RDONLY
    try:
        process = open_proc(state.pid, state.pid_start)
        if process is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        with closing(process):
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=process)
    except OSError as cause:
        raise Conflict("the container has just ended", detail=cause.strerror or "") from cause


@contextmanager
def closing(fd: int) -> Generator[int, None, None]:
    try:
        yield fd
    finally:
        os.close(fd)


async def in_thread(work: Callable[[], T]) -> T:
    """Blocking file work off the event loop; a plain OSError becomes an EngineError."""
    try:
        return await asyncio.to_thread(work)
    except EngineError:
        raise
    except OSError as cause:
        raise Internal("file access failed", detail=str(cause)) from cause
