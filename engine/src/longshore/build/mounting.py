"""RUN --mount=…: from what is asked for to mounts of a container, and back to nothing when it has ended.

No mount is made on the host. Files of stages, images and contexts are layers, which nobody changes, and are looked up
in them by our own rules before; folders of cache mounts are whole directories of ours, and a path inside of one is
walked by descriptor without following links when the container's init makes the mount. Nothing is removed but folders
that we have made, never through a link (CVE-2024-9407, CVE-2024-23651, CVE-2024-23652).
"""

import asyncio
import os
import posixpath
import secrets
import stat
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from longshore.build.copying import Placed, digest_of, write_layer
from longshore.build.mount_store import MountStore
from longshore.build.run_mounts import RunMount, secret_id, target_of
from longshore.build.socket_proxy import SocketProxy
from longshore.build.trees import Entry, Tree, resolve, walk
from longshore.build.work import Origin, Work
from longshore.core.containers.record import MountPoint
from longshore.core.containers.roots import closing, in_thread, open_overlay
from longshore.core.copying import copy_tree
from longshore.errors import InvalidArgument, NotFound
from longshore.kernel.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2
from longshore.oci.digest import Digest
from longshore.runtime.messages import OverlayRoot

MAX_SECRET = 500 << 10  # as BuildKit
_SSH_TARGET = "/run/buildkit/ssh_agent"


@dataclass(frozen=True, slots=True)
class Asked:
    """One mount with what it reads found. `key` is its part in the step's cache key."""

    mount: RunMount
    target: str
    key: str
    origin: Origin | None = None
    path: str = "/"  # below the origin, links followed
    placed: tuple[Placed, ...] = ()  # of a context: what it shows


@dataclass(slots=True)
class Made:
    """What the container gets."""

    mounts: list[MountPoint] = field(default_factory=list[MountPoint])
    env: list[str] = field(default_factory=list[str])
    secret_env: list[str] = field(default_factory=list[str])


def find(mount: RunMount, origin: Origin | None, directory: str) -> Asked:
    """Look up what a mount reads. Blocks: contents of a context are hashed. Raises InvalidArgument, NotFound."""
    target = target_of(mount, directory)
    plain = (mount.kind, target, mount.readonly, mount.id, mount.sharing, mount.size, mount.mode, mount.uid, mount.gid)
    if mount.kind in ("tmpfs", "secret", "ssh"):
        return Asked(mount, target, repr((plain, mount.source, mount.env, mount.required)))
    if origin is None:  # a cache mount that begins empty; its contents are no part of the key
        return Asked(mount, target, repr((plain, mount.source)))
    path = resolve(origin.tree, posixpath.normpath("/" + mount.source))
    entry = origin.tree.entry(path)
    if entry is None:
        raise NotFound(f'failed to compute cache key: "{path}": not found', detail=f"in {origin.name}")
    if origin.snapshot is not None:
        return Asked(mount, target, repr((plain, origin.snapshot.root(), path)), origin, path)
    placed = tuple(_below(origin.tree, entry))
    return Asked(mount, target, repr((plain, digest_of(placed))), origin, path, placed)


def _below(tree: Tree, top: Entry) -> list[Placed]:
    """A part of a context under short names: a folder's contents at the root, or the one file as /file."""
    if not top.is_directory:
        return [Placed("/file", top, tree)]
    prefix = len(top.path.rstrip("/"))
    return [Placed(entry.path[prefix:], entry, tree) for entry in walk(tree, top) if entry.path != top.path]


async def make(work: Work, asked: Sequence[Asked], stack: AsyncExitStack) -> Made:
    """Make the mounts ready; the stack takes them back. Raises EngineError."""
    made = Made()
    maker = _Maker(work, stack, made)
    for number, one in enumerate(asked):
        match one.mount.kind:
            case "bind":
                await maker.bind(one)
            case "cache":
                await maker.cache(one)
            case "tmpfs":
                maker.tmpfs(one)
            case "secret":
                await maker.secret(one, number)
            case "ssh":
                await maker.ssh(one, number)
    return made


class _Maker:
    def __init__(self, work: Work, stack: AsyncExitStack, made: Made) -> None:
        self.work, self.stack, self.made = work, stack, made
        self.folder: Path | None = None

    def private(self) -> Path:
        """A folder in memory for secrets and sockets of this step."""
        if self.folder is None:
            self.folder = self.stack.enter_context(self.work.workshop.memory_folder())
            self.folder.chmod(0o711)
        return self.folder

    async def bind(self, asked: Asked) -> None:
        """Read-only, or with a scratch folder that takes what is written and is thrown away."""
        layers, path = await self._layers(asked)
        scratch = ""
        if not asked.mount.readonly:
            folder = self.stack.enter_context(self.work.workshop.disk_folder())
            for name in ("upper", "work"):
                (folder / name).mkdir(mode=0o755)
            scratch = str(folder)
        self.made.mounts.append(
            MountPoint(
                "image",
                f"build-{secrets.token_hex(8)}",
                asked.target,
                read_write=bool(scratch),
                subpath=path.lstrip("/"),
                layers=layers,
                scratch=scratch,
            )
        )

    async def _layers(self, asked: Asked) -> tuple[tuple[str, ...], str]:
        """Names of the layers that hold the files, and the path in them."""
        images = self.work.workshop.engine.images
        origin = asked.origin
        assert origin is not None  # only tmpfs, secrets, ssh and empty caches have none
        if origin.snapshot is not None:
            return images.rootfs(origin.snapshot.image()), asked.path

        def store() -> Digest:
            return images.layers.commit_tar(lambda write: write_layer(_rooted(asked.placed), write))[1]

        diff_id = await asyncio.to_thread(store)
        single = len(asked.placed) == 1 and asked.placed[0].target == "/file"
        single = single and asked.placed[0].entry.is_file
        return (images.layers.name(diff_id),), "/file" if single else "/"

    async def cache(self, asked: Asked) -> None:
        mount = asked.mount
        namespace = self.work.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") or ""
        id = mount.id or asked.target
        owner = (mount.uid or 0, mount.gid or 0, 0o755 if mount.mode is None else mount.mode)
        first = (asked.key if asked.origin else "", *owner)
        description = f"cached mount {asked.target}" + (f' with id "{mount.id}"' if mount.id else "")
        fill = None
        if asked.origin is not None:
            layers, path = await self._layers(asked)
            fill = _filler(self.work.workshop.engine.images.layers.directory, layers, path)
        store: MountStore = self.work.workshop.mounts
        folder = await self.stack.enter_async_context(
            store.use(repr((namespace, id, first)), description, mount.sharing, owner, fill)
        )
        subpath = "" if asked.origin else posixpath.normpath("/" + mount.source).lstrip("/")
        self.made.mounts.append(
            MountPoint(
                "bind",
                str(folder),
                asked.target,
                read_write=not mount.readonly,
                propagation="rprivate",
                subpath=subpath,
            )
        )

    def tmpfs(self, asked: Asked) -> None:
        options = ["nosuid", "nodev", *([f"size={asked.mount.size}"] if asked.mount.size else [])]
        self.made.mounts.append(MountPoint("tmpfs", "", asked.target, options=tuple(options)))

    async def secret(self, asked: Asked, number: int) -> None:
        """A file in memory, or a variable of the process; neither is written to the disk or the database."""
        mount, id = asked.mount, secret_id(asked.mount)
        data = await self.work.door.secret(id)
        if data is None:
            if mount.required:
                raise NotFound(f"secret {id}: not found", hint=f"give it: --secret id={id},src=FILE")
            return
        if len(data) > MAX_SECRET:
            raise InvalidArgument(f"secret {id} is too large", detail=f"more than {MAX_SECRET} bytes")
        if mount.env is not None:
            self.made.secret_env.append(f"{mount.env or id}={data.decode(errors='surrogateescape')}")
        if mount.env is not None and not mount.target:
            return
        path = self.private() / f"secret-{number}"
        mode = 0o400 if mount.mode is None else mount.mode
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchown(fd, mount.uid or 0, mount.gid or 0)
            os.fchmod(fd, mode)
        self.made.mounts.append(
            MountPoint("bind", str(path), asked.target, read_write=False, propagation="rprivate")
        )

    async def ssh(self, asked: Asked, number: int) -> None:
        mount = asked.mount
        id = mount.id or "default"
        agent = await self.stack.enter_async_context(self.work.door.ssh(id))
        if agent is None:
            if mount.required:
                raise NotFound(f"no SSH key {id!r} forwarded from the client", hint=f"give it: --ssh {id}")
            return
        target = asked.target or f"{_SSH_TARGET}.{number}"
        path = self.private() / f"ssh-{number}"
        proxy = SocketProxy(agent)
        await proxy.start(path, mount.uid or 0, mount.gid or 0, 0o600 if mount.mode is None else mount.mode)
        self.stack.push_async_callback(proxy.close)
        self.made.mounts.append(
            MountPoint("bind", str(path), target, read_write=True, propagation="rprivate")
        )
        self.made.env.append(f"SSH_AUTH_SOCK={target}")


def _rooted(placed: Sequence[Placed]) -> list[Placed]:
    """In the order of a tar, owned by root: whose the files are on the client's machine says nothing."""
    from dataclasses import replace

    return [
        replace(item, entry=replace(item.entry, uid=0, gid=0))
        for item in sorted(placed, key=lambda item: item.target)
        if item.entry.kind != stat.S_IFSOCK
    ]


def _filler(directory: Path, layers: tuple[str, ...], path: str):  # noqa: ANN202  a callable for MountStore.use
    def fill(folder: Path) -> None:
        with closing(open_overlay(OverlayRoot(str(directory), layers))) as root:
            source = openat2(
                root,
                path.lstrip("/") or ".",
                os.O_RDONLY | os.O_DIRECTORY,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            )
            with closing(source):
                copy_tree(source, folder)

    return fill


# Afterwards


async def clean_up(upper: Path, targets: Sequence[str], image: Tree) -> None:
    """Take empty mount points out of a step's files: those that its image does not have.

    The upper directory is a container's: every name is opened below it without following links.
    """
    await in_thread(lambda: _clean(upper, targets, image))


def _clean(upper: Path, targets: Sequence[str], image: Tree) -> None:
    root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with closing(root):
        for target in sorted(targets, reverse=True):
            path = resolve(image, target)
            while path != "/" and _remove_if_made(root, path, image):
                path = posixpath.dirname(path)


def _remove_if_made(root: int, path: str, image: Tree) -> bool:
    """Whether nothing is left of it in the layer: an empty directory or file that the image has not, or has the same."""
    parent, name = posixpath.split(path)
    try:
        folder = openat2(
            root,
            parent.lstrip("/") or ".",
            os.O_RDONLY | os.O_DIRECTORY,
            resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
        )
    except OSError:
        return True  # not in the layer
    with closing(folder):
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            there = image.entry(path)
            if stat.S_ISDIR(status.st_mode):
                same = there is not None and there.is_directory
                same = same and there is not None and _owner_of(there) == _owner_of_status(status)
                if there is not None and not same:
                    return False
                os.rmdir(name, dir_fd=folder)
                return True
            if there is None and stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(name, dir_fd=folder)
                return True
        except FileNotFoundError:
            return True
        except OSError:
            pass  # the step has put something in
    return False


def _owner_of(entry: Entry) -> tuple[int, int, int]:
    return entry.mode, entry.uid, entry.gid


def _owner_of_status(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
