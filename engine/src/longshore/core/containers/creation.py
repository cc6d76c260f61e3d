"""Making a container: judge, prepare folders and volumes, and only then let it exist, in one transaction.

What a crash leaves before that transaction has no row, and what has no row is swept at the next start.
"""

import asyncio
import os
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from longshore.core import cdi, logs
from longshore.core.clock import now
from longshore.core.containers.container import Container
from longshore.core.containers.create import plan_record
from longshore.core.containers.links import name_links
from longshore.core.containers.mounts import image_volume_paths, plan_mounts
from longshore.core.containers.parts import Parts
from longshore.core.containers.record import MountPoint, Record
from longshore.core.containers.roots import closing, in_thread, open_overlay
from longshore.core.copying import copy_tree
from longshore.core.devices import block_io
from longshore.core.fields import about
from longshore.core.limits import available_cpus
from longshore.core.machine_limits import check_realtime, warnings_of
from longshore.core.model import CreateRequest, EndpointSettings, VolumeRequest
from longshore.core.names import check_name, random_name
from longshore.core.spec import Surroundings, plan_spec
from longshore.core.userns import Owners, check_conflicts, owners_of
from longshore.core.validate import check_create, check_labels, check_volume_driver
from longshore.errors import InvalidArgument, NotFound
from longshore.kernel.paths import open_beneath, openat2
from longshore.oci.image_config import ContainerDefaults
from longshore.runtime import apparmor
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.messages import OverlayRoot

if TYPE_CHECKING:
    from longshore.core.images.model import Image


@dataclass(frozen=True, slots=True)
class BuildStep:
    """What a container of a build has beyond a request: a root of layers, mounts that no client could ask for.

    `secret_env` is given to the process and written down nowhere.
    """

    image: "Image"
    mounts: tuple[MountPoint, ...] = ()
    secret_env: tuple[str, ...] = ()


class Creator:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._copying = asyncio.Lock()  # two containers must not fill the same empty volume

    async def create(
        self, name: str, request: CreateRequest, *, platform: str, desired: Any, step: BuildStep | None = None
    ) -> Container:
        """A new container in the database. On failure nothing is left of it."""
        parts = self._parts
        request.host_config.runtime = request.host_config.runtime or request.runtime
        check_create(request, cpus=available_cpus())
        request.host_config.log_config = logs.complete(request.host_config.log_config, parts.defaults.log)
        with about("HostConfig.LogConfig"):
            logs.check(request.host_config.log_config)
        check_labels(request.host_config, apparmor=apparmor.enabled())
        block_io(request.host_config)  # what it would refuse at start is refused now
        host = request.host_config
        check_conflicts(
            host.userns_mode or self._parts.defaults.userns.mode,
            privileged=host.privileged,
            pid=host.pid_mode,
            network=host.network_mode,
            ipc=host.ipc_mode,
            uts=host.uts_mode,
        )
        check_realtime(request.host_config, layout())
        cdi.requested(request.host_config.device_requests, self._parts.defaults.cdi_spec_dirs)
        if not request.image:
            raise InvalidArgument("config cannot be empty in order to create a container", detail="Image")
        image = step.image if step else parts.images.get(request.image)
        _check_platform(platform, image)
        mounts = plan_mounts(
            request.host_config,
            [*image_volume_paths(request.volumes), *(image.config.defaults.volumes or ())]
            if not step
            else (),
            self._mounts_of(request),
        )
        if step:
            own = {mount.target for mount in step.mounts}
            mounts = [*(mount for mount in mounts if mount.target not in own), *step.mounts]
        if any(
            mount.type == "volume" for mount in mounts
        ):  # without one nobody asks for the driver, as in Docker
            check_volume_driver(request.host_config.volume_driver)
        id = secrets.token_hex(32)
        chosen = check_name(name) if name else random_name(parts.store.taken)
        parts.store.reserve(chosen, id)
        try:
            record = plan_record(
                id,
                chosen,
                now(),
                request,
                str(image.id),
                image.config.defaults or ContainerDefaults(),
                mounts,
                host_name=socket.gethostname(),
            )
            record.desired = desired
            record.layers = list(parts.images.rootfs(image)) if step else []
            self._name_networks(record)
            record.host_config.links = name_links(parts, chosen, request.host_config.links)
            plan_spec(record, Surroundings(systemd_cgroup=parts.defaults.systemd_cgroup))  # the same
            await parts.images.ensure_unpacked(image)
            container = await self._make(record, image)
            container.secret_env = step.secret_env if step else ()
            if record.host_config.network_mode == "host" and record.host_config.port_bindings:
                container.warnings.append("Published ports are discarded when using host network mode")
            container.warnings += warnings_of(request.host_config, layout())
        finally:
            parts.store.release(chosen)
        parts.announce(container, "create")
        return container

    def _mounts_of(self, request: CreateRequest) -> dict[str, list[MountPoint]]:
        names = [text.partition(":")[0] for text in request.host_config.volumes_from or ()]
        return {name: self._peer(name).record.mounts for name in names}

    def _peer(self, name: str) -> Container:
        """Another container that this one names. InvalidArgument, not NotFound: the docker CLI reads 404 of create
        as "pull the image first".
        """
        try:
            return self._parts.store.get(name)
        except NotFound as cause:
            raise InvalidArgument(str(cause)) from cause

    def _name_networks(self, record: Record) -> None:
        """Networks by their names, whatever the client used. Raises InvalidArgument for one that does not exist:
        the docker CLI reads 404 of create as "pull the image first".
        """
        asked = record.networking.endpoints_config or {}
        named: dict[str, EndpointSettings] = {}
        for name, settings in asked.items():
            try:
                network = self._parts.networks.get(name)
            except NotFound as cause:
                raise InvalidArgument(
                    str(cause), hint="docker network create, or see docker network ls"
                ) from cause
            named[network.name] = replace(settings, network_id=network.id)
        record.networking = replace(record.networking, endpoints_config=named)
        mode = record.host_config.network_mode
        if mode in asked:
            record.host_config.network_mode = next(iter(named))
        elif mode.startswith("container:"):
            peer = self._peer(mode.removeprefix("container:"))
            record.config.hostname = record.config.hostname or peer.record.config.hostname

    def _owners(self, mode: str) -> Owners:
        """The ids of the host that the container gets. Raises Conflict when no range is free."""
        parts, default = self._parts, self._parts.defaults.userns
        if not mode and default.owners:
            return default.owners
        taken = [
            (ids.host_id, ids.size)
            for container in parts.store
            for ids in (*container.record.owners.uids, *container.record.owners.gids)
        ]
        shared = [(ids.host_id, ids.size) for ids in (*default.owners.uids, *default.owners.gids)]
        return owners_of(mode or default.mode, default.pool, [*taken, *shared])

    async def _make(self, record: Record, image: "Image") -> Container:
        parts = self._parts
        with ExitStack() as undo:
            _make_folder(parts.paths.folder(record.id), undo)
            writable = parts.snapshots.create(record.id)
            undo.callback(parts.snapshots.remove, record.id)
            lowers = [str(parts.layers_dir / name) for name in parts.images.rootfs(image)]
            record.graph = {
                "LowerDir": ":".join(lowers),
                "UpperDir": str(writable.upper),
                "WorkDir": str(writable.work),
            }
            record.mounts = await self._prepare_mounts(record, image, undo)
            container = parts.store.revive(record)
            # From here on nothing waits, so nobody sees half of it.
            record.owners = self._owners(record.host_config.userns_mode)
            with parts.volumes.transaction():
                parts.rootfs(record)  # not removed while we prepared
                for mount in record.mounts:
                    if mount.type == "volume" and mount.name:
                        parts.volumes.create(
                            VolumeRequest(name=mount.name, labels=mount.labels), anonymous=mount.anonymous
                        )
                parts.store.insert(container)
            parts.store.remember(container)
            undo.pop_all()
        return container

    async def _prepare_mounts(self, record: Record, image: "Image", undo: ExitStack) -> list[MountPoint]:
        """Folders for volumes and for binds that name none yet; empty volumes get the image's content."""
        parts = self._parts
        ready: list[MountPoint] = []
        for mount in record.mounts:
            if mount.type == "volume" and not mount.source:
                name = mount.name or secrets.token_hex(32)
                path, fresh = parts.volumes.prepare(name)
                if fresh:
                    undo.callback(parts.volumes.unprepare, name)
                if mount.copy_up and not any(path.iterdir()):
                    await self._copy_up(image, mount.target, path)
                if mount.subpath:
                    _check_subpath(path, mount.subpath)
                mount = replace(mount, name=name, source=str(path), driver="local")
            elif mount.type == "image" and not mount.layers:
                source = self._mounted_image(mount.source)
                await parts.images.ensure_unpacked(source)
                mount = replace(mount, source=str(source.id))
            elif mount.type == "bind":
                _bind_source(mount, undo)
            ready.append(mount)
        return ready

    def _mounted_image(self, name: str) -> "Image":
        try:
            return self._parts.images.get(name)
        except NotFound as cause:  # the docker CLI reads 404 of create as "pull the image first"
            raise InvalidArgument(f'invalid mount config for type "image": {cause}') from cause

    async def _copy_up(self, image: "Image", target: str, volume: Path) -> None:
        root = OverlayRoot(str(self._parts.layers_dir), self._parts.images.rootfs(image))

        def work() -> None:
            if any(volume.iterdir()):
                return
            with closing(open_overlay(root)) as root_fd:
                try:
                    source = openat2(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
                except (FileNotFoundError, NotADirectoryError):
                    return  # the image has nothing there
                with closing(source):
                    copy_tree(source, volume)

        async with self._copying:
            await in_thread(work)


def _make_folder(folder: Path, undo: ExitStack) -> None:
    folder.mkdir(parents=True, mode=0o710)
    undo.callback(_remove_empty, folder)


def _remove_empty(folder: Path) -> None:
    folder.rmdir()


def _bind_source(mount: MountPoint, undo: ExitStack) -> None:
    """`-v /new:/x` makes the host's directory, as Docker does; `--mount type=bind` insists that it exists."""
    path = Path(mount.source)
    if path.exists():
        return
    if not mount.create_source:
        raise InvalidArgument(
            f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
        )
    missing = [path, *path.parents]
    made = [folder for folder in missing if not folder.exists()]
    try:
        for folder in reversed(made):
            folder.mkdir(mode=0o755, exist_ok=True)
            undo.callback(_rmdir_quietly, folder)
    except OSError as cause:
        raise InvalidArgument(
            f"error while creating mount source path '{mount.source}'", detail=cause.strerror or str(cause)
        ) from cause


def _rmdir_quietly(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # somebody put something there meanwhile


def _check_subpath(volume: Path, subpath: str) -> None:
    """Refused now rather than at the start, which looks it up anew: until then a container may have swapped it.

    Raises InvalidArgument.
    """
    try:
        os.close(open_beneath(str(volume), subpath))
    except OSError as cause:
        raise InvalidArgument(
            f"subpath {subpath!r} does not exist in the volume (or is a link)",
            detail=cause.strerror or str(cause),
        ) from cause


_ARCHITECTURES: dict[str, str] = {"x86_64": "amd64", "aarch64": "arm64", "armhf": "arm"}


def _check_platform(platform: str, image: "Image") -> None:
    """`--platform` must be what the image is. Raises NotFound-like InvalidArgument."""
    if not platform:
        return
    wanted = platform.split("/")
    have = [image.config.os or "linux", image.config.architecture]
    asked = [wanted[0], _ARCHITECTURES.get(wanted[1], wanted[1])] if len(wanted) > 1 else wanted[:1]
    if asked != have[: len(asked)]:
        raise InvalidArgument(
            f"image with reference {image.tags[0] if image.tags else image.id} was found but does not match the "
            f"specified platform: wanted {platform}, actual: {'/'.join(have)}"
        )
