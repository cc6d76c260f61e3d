"""Files of a container for clients: archive (docker cp), export, changes.

Everything works on a descriptor of the root (`roots.py`) and resolves names inside of it with openat2(2), so a
container that renames folders and links while we work can confuse only itself.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from longshore.core.clock import rfc3339
from longshore.core.containers import tarball
from longshore.core.containers.container import Container
from longshore.core.containers.parts import Parts
from longshore.core.containers.roots import closing, in_thread, open_overlay, open_running
from longshore.core.userns import HOSTS_OWN
from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.kernel.paths import clean, openat2
from longshore.runtime.messages import OverlayRoot
from longshore.storage.whiteouts import is_whiteout

T = TypeVar("T")

_QUEUED = 8  # chunks between the thread that packs and the client; more would only cost memory
_DEEPEST = 400  # a container can nest folders without end: each level costs a descriptor and a frame
_GO_DIRECTORY, _GO_LINK, _GO_DEVICE, _GO_PIPE, _GO_SOCKET = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24
_GO_SETUID, _GO_SETGID, _GO_CHARACTER, _GO_STICKY = 1 << 23, 1 << 22, 1 << 21, 1 << 20


def go_mode(mode: int) -> int:
    """A file's mode as Go's os.FileMode, which the path stat header carries."""
    kinds = {
        stat.S_IFDIR: _GO_DIRECTORY,
        stat.S_IFLNK: _GO_LINK,
        stat.S_IFBLK: _GO_DEVICE,
        stat.S_IFCHR: _GO_DEVICE | _GO_CHARACTER,
        stat.S_IFIFO: _GO_PIPE,
        stat.S_IFSOCK: _GO_SOCKET,
    }
    bits = kinds.get(stat.S_IFMT(mode), 0) | (mode & 0o777)
    bits |= _GO_SETUID if mode & stat.S_ISUID else 0
    bits |= _GO_SETGID if mode & stat.S_ISGID else 0
    return bits | (_GO_STICKY if mode & stat.S_ISVTX else 0)


def open_entry(root_fd: int, path: str) -> int:
    """O_PATH descriptor of a file; a link at the end is the link itself unless the path ends with a slash.

    Raises NotFound, InvalidArgument for a file in the middle of the path.
    """
    follow = path.endswith(("/", "/."))
    flags = os.O_PATH | (os.O_DIRECTORY if follow else os.O_NOFOLLOW)
    try:
        return openat2(root_fd, clean(path), flags)
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise NotFound(f"Could not find the file {path} in container") from cause
    except OSError as cause:
        raise InvalidArgument(f"cannot use the path {path}", detail=cause.strerror or str(cause)) from cause


def stat_entry(root_fd: int, path: str) -> dict[str, Any]:
    """Docker's ContainerPathStat of a path."""
    with closing(open_entry(root_fd, path)) as fd:
        return stat_of(fd, path)


def stat_of(fd: int, path: str) -> dict[str, Any]:
    """Docker's ContainerPathStat of an open file; a link also says where it leads to inside of the container."""
    status = os.fstat(fd)
    target = ""
    if stat.S_ISLNK(status.st_mode):
        text = os.readlink("", dir_fd=fd)
        target = clean(text if text.startswith("/") else f"{os.path.dirname(clean(path))}/{text}")  # noqa: PTH120
    return {
        "name": os.path.basename(clean(path)) or "/",  # noqa: PTH119
        "size": status.st_size,
        "mode": go_mode(status.st_mode),
        "mtime": rfc3339(status.st_mtime_ns),
        "linkTarget": target,
    }


class Files:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    @asynccontextmanager
    async def _root(self, container: Container) -> AsyncGenerator[int, None]:
        """A descriptor of the root. A container that does not run cannot start or go meanwhile."""
        if container.running:
            with closing(open_running(container.state)) as fd:
                yield fd
            return
        async with container.lock:
            if container.removed or container.state.status == "removing":
                raise NotFound(f"No such container: {container.id}")
            if container.running:
                with closing(open_running(container.state)) as fd:
                    yield fd
                return
            with closing(await in_thread(lambda: self._open_stopped(container))) as fd:
                yield fd

    def _open_stopped(self, container: Container) -> int:
        parts, record = self._parts, container.record
        writable = parts.snapshots.get(container.id)
        overlay = OverlayRoot(
            str(parts.layers_dir),
            parts.rootfs(record),
            str(writable.upper),
            str(writable.work),
        )
        return open_overlay(overlay, record.mounts)

    @asynccontextmanager
    async def _bare_root(self, container: Container) -> AsyncGenerator[int, None]:
        """The image and what the container changed, running or not, without what is mounted in it."""
        parts, record = self._parts, container.record
        upper = str(parts.snapshots.get(container.id).upper)
        lowers = parts.images.rootfs(parts.images.get(record.image_id))
        overlay = OverlayRoot(str(parts.layers_dir), (upper, *lowers))
        with closing(await in_thread(lambda: open_overlay(overlay))) as fd:
            yield fd

    async def stat(self, container: Container, path: str) -> dict[str, Any]:
        async with self._root(container) as root:
            return await in_thread(lambda: stat_entry(root, path))

    async def get(
        self, container: Container, path: str
    ) -> tuple[dict[str, Any], AsyncGenerator[bytes, None]]:
        """Errors come before the first chunk. The generator must be run to its end or closed."""
        stream = self._packing(self._root(container), path)
        found = await anext(stream)
        if not isinstance(found, dict):
            raise InvalidArgument("cannot pack", detail=path)
        return found, _chunks(stream)

    async def export(self, container: Container) -> AsyncGenerator[bytes, None]:
        stream = self._packing(self._bare_root(container), "/")
        await anext(stream)
        return _chunks(stream)

    async def _packing(
        self, opened: AbstractAsyncContextManager[int], path: str
    ) -> AsyncGenerator[dict[str, Any] | bytes, None]:
        """First the stat, then the tar, which a thread writes, never more than a few chunks ahead of the client.

        The name is resolved once: what is packed is what was found, whatever the container renames.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED)
        stopped = False

        def write(data: bytes) -> None:
            if stopped:
                raise BrokenPipeError("the client went away")
            asyncio.run_coroutine_threadsafe(queue.put(data), loop).result()

        async with opened as root:
            entry = await in_thread(lambda: open_entry(root, path))
            # "dir/." is what is in the folder: its entries are "./…", so that the client names the folder
            name = "." if path.endswith("/.") else os.path.basename(clean(path))  # noqa: PTH119

            async def work() -> None:
                try:
                    await in_thread(lambda: tarball.pack(entry, name, write))
                finally:
                    if not stopped:
                        await queue.put(None)

            try:
                yield stat_of(entry, path)
            except BaseException:
                os.close(entry)
                raise
            task = asyncio.create_task(work())
            try:
                while (data := await queue.get()) is not None:
                    yield data
                await task
            finally:
                stopped = True
                while not task.done():  # the thread uses `entry`: it has to end first
                    while not queue.empty():
                        queue.get_nowait()
                    await asyncio.wait([task], timeout=0.05)
                os.close(entry)
                if not task.cancelled():
                    task.exception()

    async def put(
        self,
        container: Container,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        keep_kinds: bool,
        copy_owner: bool,
    ) -> None:
        """`keep_kinds`: a folder is not replaced by a file nor the other way round.

        `copy_owner`: owners of the archive count; else everything belongs to root, as with Docker.
        Raises Conflict for a read-only root, InvalidArgument for a bad archive, NotFound.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUED)
        gone = False

        def read() -> bytes:
            if gone:
                raise InvalidArgument("the upload was cut off")
            data = asyncio.run_coroutine_threadsafe(queue.get(), loop).result()
            return data or b""

        async with self._root(container) as root:
            await in_thread(lambda: self._check_target(container, root, path))
            # The root of a stopped container is mounted without an id map
            owners = container.record.owners if container.running else HOSTS_OWN
            task = asyncio.create_task(
                in_thread(
                    lambda: tarball.unpack(
                        root, clean(path), read, keep_kinds=keep_kinds, copy_owner=copy_owner, owners=owners
                    )
                )
            )
            try:
                async for data in chunks:
                    if data and not await _put_or_done(queue, data, task):
                        break  # refused, or it has seen the end of the archive
                await _put_or_done(queue, None, task)
                await task
            finally:
                gone = True
                while not task.done():
                    if queue.empty():
                        queue.put_nowait(None)
                    await asyncio.wait([task], timeout=0.05)

    def _check_target(self, container: Container, root: int, path: str) -> None:
        try:
            os.close(openat2(root, clean(path), os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError as cause:
            raise NotFound(f"Could not find the file {path} in container {container.id}") from cause
        except NotADirectoryError as cause:
            raise InvalidArgument("extraction point is not a directory") from cause
        if container.record.host_config.readonly_rootfs and not any(
            mount.read_write and clean(path).startswith(mount.target) for mount in container.record.mounts
        ):
            raise Conflict("container rootfs is marked read-only")

    async def changes(self, container: Container) -> list[dict[str, Any]]:
        """What the container changed: kind 0 modified, 1 added, 2 deleted; sorted by path."""
        upper = self._parts.snapshots.get(container.id).upper
        parts, record = self._parts, container.record
        lowers = parts.rootfs(record)

        def work() -> list[dict[str, Any]]:
            image = open_overlay(OverlayRoot(str(parts.layers_dir), lowers))
            with closing(image), closing(os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
                found: list[tuple[str, int]] = []
                _compare(top, image, "", found)
            return [{"Path": path, "Kind": kind} for path, kind in sorted(found)]

        return await in_thread(work)


async def _put_or_done(
    queue: "asyncio.Queue[bytes | None]", data: bytes | None, task: "asyncio.Task[None]"
) -> bool:
    """Queue data for the thread; false when the thread has ended."""
    putting = asyncio.create_task(queue.put(data))
    try:
        await asyncio.wait([putting, task], return_when=asyncio.FIRST_COMPLETED)
        return putting.done() and not task.done()
    finally:
        putting.cancel()


async def _chunks(stream: AsyncGenerator[dict[str, Any] | bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for data in stream:
            if isinstance(data, bytes):
                yield data
    finally:
        await stream.aclose()


def _compare(upper: int, image: int, prefix: str, found: list[tuple[str, int]], depth: int = 0) -> bool:
    """Walk the upper directory; whether it holds mount points of ours and nothing else.

    Overlayfs: whiteouts are deleted files.
    """
    if depth > _DEEPEST:
        raise InvalidArgument("folders are nested too deeply", detail=f"{prefix[:200]}…")
    ours = others = False
    for name in os.listdir(upper):
        path = f"{prefix}/{name}"
        status = os.stat(name, dir_fd=upper, follow_symlinks=False)
        known = _exists(image, path)
        if is_whiteout(status):
            if known:
                found.append((path, 2))
                others = True
            continue
        if not known and is_mount_point(path, status):
            ours = True
            continue
        others = True
        place = len(found)
        found.append((path, 0 if known else 1))
        if stat.S_ISDIR(status.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            with closing(os.open(name, flags, dir_fd=upper)) as below:
                if _compare(below, image, path, found, depth + 1) and known:
                    del found[place]  # /etc, which a start has copied up for them
    return ours and not others


# What every start mounts something on. Where the image lacks them, init makes them in the container's own layer.
MOUNT_POINTS = frozenset({"/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})


def is_mount_point(path: str, status: os.stat_result) -> bool:
    """Whether an entry of the upper directory looks like a mount point made by a start, and not by the user."""
    return path in MOUNT_POINTS and (stat.S_ISDIR(status.st_mode) or status.st_size == 0)


def remove_mount_points(upper: Path) -> None:
    """Take the empty mount points out of an upper directory that is not mounted; the next start makes them again."""
    for path in MOUNT_POINTS:
        folder, _, name = path.rpartition("/")
        try:
            parent = os.open(
                upper / folder.lstrip("/"), os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError:
            continue
        with closing(parent):
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    os.rmdir(name, dir_fd=parent)
                elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                    os.unlink(name, dir_fd=parent)
            except OSError:
                pass  # not there, or the user has put something in


def _exists(image: int, path: str) -> bool:
    try:
        os.close(openat2(image, path, os.O_PATH | os.O_NOFOLLOW))
    except OSError:
        return False
    return True
