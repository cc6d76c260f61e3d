"""From a record to a running process: what must exist on the machine before, and the order of the start.

    allocate -> record -> launch -> (plug beside the init's mounts) -> attach -> record -> proceed

Whoever acquires registers the undo: a start that fails at any step leaves no endpoint, monitor, cgroup or mount.
"""

import asyncio
import os
import platform
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path

from longshore.core import cdi, devices, logs, spec
from longshore.core.containers import links
from longshore.core.containers.container import Container
from longshore.core.containers.networking import (
    FILES,
    allocate_endpoints,
    release_endpoints,
    tell_linked,
    write_files,
)
from longshore.core.containers.parts import Parts
from longshore.core.containers.record import Record
from longshore.core.machine_limits import lend_realtime
from longshore.errors import Conflict, InvalidArgument, NotFound
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroups import cgroup_path
from longshore.runtime.client import Monitor
from longshore.runtime.messages import Launch, OverlayRoot
from longshore.runtime.records import open_proc, start_time


class Launcher:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def start(self, container: Container) -> Monitor:
        """Run the container; on return its program is executing. Raises StartFailed, Conflict, NotFound ….

        The caller holds the lock. On success the record says running and is saved; on failure it is as before,
        but for `endpoints`, which are gone.
        """
        parts, record = self._parts, container.record
        async with AsyncExitStack() as undo:
            undo.push_async_callback(release_endpoints, parts, container)
            allocate_endpoints(parts, record)
            parts.store.save(container)  # a daemon that dies from here on finds what to give back
            launch = self._plan(record, container.secret_env)
            undo.callback(_remove_if_empty, parts.paths.state(record.id))
            if (
                record.host_config.cgroup_parent and not launch.systemd_cgroup
            ):  # systemd tidies its slices itself
                parts.cgroup_parents.expect(cgroup_path(launch.spec, record.id))
                undo.callback(parts.cgroup_parents.tidy)
            if record.host_config.cpu_realtime_runtime:
                cgroup = cgroup_path(launch.spec, record.id)
                await asyncio.to_thread(lend_realtime, record.host_config, cgroup, layout())
            monitor = await parts.zygote.launch(launch)
            undo.push_async_callback(monitor.abandon)
            await self._connect(record, monitor)
            container.monitor = monitor
            undo.callback(setattr, container, "monitor", None)
            for attachment in tuple(container.attachments):
                container.attachments.remove(attachment)
                undo.callback(attachment.close)
                await attachment.connect()
            record.state.starting = True
            record.state.pid, record.state.pid_start = monitor.pid, start_time(monitor.pid) or 0
            parts.store.save(container)
            record.state.started_at = await monitor.start()
            undo.pop_all()
        tell_linked(parts, container)
        return monitor

    async def _connect(self, record: Record, monitor: Monitor) -> None:
        """Network into the new namespace, while the init mounts its root."""
        netns, netlink = monitor.take_descriptors()
        try:
            if netns is None:
                return
            if not record.endpoints and netlink is not None:
                await self._parts.network.loopback_up(netlink)
            for name, endpoint in record.endpoints.items():
                record.endpoints[name] = await self._parts.network.plug(endpoint, netns, netlink)
        finally:
            for fd in (netns, netlink):
                if fd is not None:
                    os.close(fd)

    def _plan(self, record: Record, secret_env: Sequence[str]) -> Launch:
        parts = self._parts
        record.default_apparmor = parts.defaults.apparmor
        folder = parts.paths.folder(record.id)
        files = self._files(record, folder)
        target = logs.plan_target(record, folder)
        logs.make_folder(target)
        exit_record = parts.paths.exit_record(record.id)
        exit_record.unlink(missing_ok=True)  # of the last run, which the database knows
        state = parts.paths.state(record.id)
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for mount in record.mounts:
            if mount.type == "bind" and not Path(mount.source).exists():
                raise InvalidArgument(
                    f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
                )
        writable = parts.snapshots.get(record.id)
        return Launch(
            id=record.id,
            spec=spec.plan_spec(record, self._surroundings(record, files, secret_env)),
            rootfs=OverlayRoot(
                layers_dir=str(parts.layers_dir),
                lowers=parts.rootfs(record),
                upper=str(writable.upper),
                work=str(writable.work),
            ),
            state_dir=str(state),
            exit_path=str(exit_record),
            log=target,
            stdin_open=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            systemd_cgroup=parts.defaults.systemd_cgroup,
        )

    def _files(self, record: Record, folder: Path) -> dict[str, str]:
        """hosts, resolv.conf and hostname; with `--network container:x` those of x."""
        mode = record.host_config.network_mode
        if mode.startswith("container:"):
            folder = self._peer(mode, "network").folder
        else:
            write_files(self._parts, record, folder)
        return {f"/etc/{name}": str(folder / name) for name in FILES}

    def _peer(self, mode: str, what: str) -> Container:
        """The running container of a mode `container:x`."""
        name = mode.removeprefix("container:")
        try:
            peer = self._parts.store.get(name)
        except NotFound as cause:
            raise NotFound(f"No such container: {name}", detail=f"its {what} namespace is wanted") from cause
        if what == "ipc" and peer.record.host_config.ipc_mode in ("none", "private"):
            raise InvalidArgument(
                f"cannot join IPC of container {name}: non-shareable IPC",
                hint="use IpcMode:shareable for the donor container",
            )
        if not peer.running:
            raise Conflict(
                f"cannot join {what} namespace of a non running container: container {name} is not running"
            )
        return peer

    def _surroundings(
        self, record: Record, files: dict[str, str], secret_env: Sequence[str]
    ) -> spec.Surroundings:
        host = record.host_config
        namespaces: dict[str, str] = {}
        shm_of: tuple[int, int] | None = None
        for kind, proc, mode in (
            ("network", "net", host.network_mode),
            ("pid", "pid", host.pid_mode),
            ("ipc", "ipc", host.ipc_mode),
        ):
            if mode.startswith("container:"):
                state = self._peer(mode, kind).state
                process = open_proc(state.pid, state.pid_start)
                if process is None:
                    raise Conflict(f"cannot join {kind} namespace: container {mode[10:]} has just ended")
                os.close(process)
                namespaces[kind] = f"/proc/{state.pid}/ns/{proc}"
                if kind == "ipc":
                    shm_of = state.pid, state.pid_start
        granted = devices.requested_devices(host.devices or ())
        if host.privileged:
            granted = [*devices.host_devices(), *granted]
        edits = cdi.requested(host.device_requests, self._parts.defaults.cdi_spec_dirs)
        return spec.Surroundings(
            systemd_cgroup=self._parts.defaults.systemd_cgroup,
            files=files,
            namespaces=namespaces,
            shm_of=shm_of,
            devices=[*granted, *edits.devices],
            edits=edits,
            layers_dir=str(self._parts.layers_dir),
            images=self._images(record),
            env=[
                *links.environment(record, links.find_links(self._parts, record, strict=True)),
                *secret_env,
            ],
            block_io=devices.block_io(host),
            capabilities=own_capabilities(),
            architecture=platform.machine(),
        )

    def _images(self, record: Record) -> dict[str, Sequence[str]]:
        """The layers of the images that are mounted. Raises NotFound when one has been removed meanwhile."""
        images = self._parts.images
        return {
            mount.source: mount.layers or images.rootfs(images.get(mount.source))
            for mount in record.mounts
            if mount.type == "image"
        }


def cgroup_of(container: Container) -> str:
    """The group of a running container below each hierarchy's mount. Raises Conflict when its monitor is unknown."""
    if container.monitor is None:
        raise Conflict(f"Container {container.id} is not running")
    return container.monitor.cgroup


@cache
def own_capabilities() -> tuple[str, ...]:
    """What this process could give away: its bounding set, capabilities(7)."""
    status = Path("/proc/self/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")), 16)
    return tuple(name for number, name in enumerate(spec.ALL_CAPABILITIES) if mask >> number & 1)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass  # the monitor removes it, or has already
