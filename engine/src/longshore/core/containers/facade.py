"""`Containers`: every use case of a container, one method each. Methods take the `Container` that `get` returned."""

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from longshore.core import logs
from longshore.core.clock import parse_moment, parse_rfc3339
from longshore.core.containers import links, query, streams, succession
from longshore.core.containers.attach import Attachment, Wanted
from longshore.core.containers.container import Container, ExitStatus
from longshore.core.containers.creation import BuildStep, Creator
from longshore.core.containers.files import Files, remove_mount_points
from longshore.core.containers.launch import cgroup_of
from longshore.core.containers.lifecycle import Lifecycle
from longshore.core.containers.measure import Measures
from longshore.core.containers.networking import Joiner
from longshore.core.containers.parts import Parts
from longshore.core.containers.restore import Restorer
from longshore.core.containers.streams import LogOptions
from longshore.core.filters import check_filters, label_filter
from longshore.core.health import Prober
from longshore.core.limits import available_cpus, check_resources
from longshore.core.log_budget import Log
from longshore.core.machine_limits import check_realtime, lend_realtime
from longshore.core.model import CreateRequest, UpdateRequest, WaitCondition
from longshore.core.names import check_name
from longshore.core.restart import check_policy
from longshore.core.spec import plan_update
from longshore.core.tasks import run_to_end
from longshore.core.update import merge_update
from longshore.errors import Conflict, EngineError, InvalidArgument
from longshore.runtime import cgroups
from longshore.runtime.cgroup_layout import layout

_PRUNE_FILTERS = frozenset({"until", "label", "label!"})


class Containers:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._prober = Prober(parts)
        self._lifecycle = Lifecycle(parts, self._prober)
        self._prober.act = self._lifecycle.act_on_unhealthy
        self._creator = Creator(parts)
        self._files = Files(parts)
        self._measures = Measures(parts)
        self._restorer = Restorer(parts, self._lifecycle)
        parts.volumes.users = parts.store.users_of_volume
        parts.networks.connector = Joiner(parts)
        parts.images.shelf.in_use = lambda id: parts.store.users_of_image(str(id))
        parts.images.shelf.running = lambda id: parts.store.users_of_image(str(id), running=True)

    async def create(
        self,
        name: str,
        request: CreateRequest,
        *,
        platform: str = "",
        desired: Any = None,
        step: BuildStep | None = None,
    ) -> Container:
        """Make a container; `name` may be empty. `container.warnings` has what create answers beside the id.

        `step`: it carries out a step of a build, on layers that are no image yet. Raises InvalidArgument,
        NotFound("No such image: x"), Conflict (the name). On failure nothing is left.
        """
        return await self._creator.create(name, request, platform=platform, desired=desired, step=step)

    def get(self, name: str) -> Container:
        """By id, name (with or without "/") or unique id prefix. NotFound("No such container: x")."""
        return self._parts.store.get(name)

    def list(
        self, *, all: bool = False, limit: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> "builtins.list[Container]":
        """Newest first."""
        return query.select(
            list(self._parts.store),
            filters,
            all=all,
            limit=limit,
            lookup=self._parts.store.get,
            image_ids=self._descendants,
        )

    def _descendants(self, name: str) -> set[str]:
        """The image and everything made from it, by layers: what the filter `ancestor` means. Unknown: none."""
        try:
            root = self._parts.images.get(name)
        except EngineError:
            return set()
        layers = tuple(layer.diff_id for layer in root.layers)
        return {
            str(image.id)
            for image in self._parts.images.list()
            if tuple(layer.diff_id for layer in image.layers[: len(layers)]) == layers
            and (image.id == root.id or len(image.layers) > len(layers) or image.parent == root.id)
        }

    async def start(self, container: Container) -> None:
        """NotModified when it runs already. StartFailed and others leave nothing of the try but `state.error`."""
        await self._lifecycle.start(container)

    async def stop(self, container: Container, *, timeout: int | None = None, signal: str = "") -> None:
        """NotModified when it does not run. `timeout` seconds until SIGKILL; -1 waits for ever."""
        await run_to_end(self._lifecycle.stop(container, timeout=timeout, signal_name=signal))

    async def kill(self, container: Container, signal: str = "KILL") -> None:
        """Conflict when it does not run. Does not wait for the end."""
        await self._lifecycle.kill(container, signal)

    async def restart(self, container: Container, *, timeout: int | None = None, signal: str = "") -> None:
        await run_to_end(self._lifecycle.restart(container, timeout=timeout, signal_name=signal))

    async def pause(self, container: Container) -> None:
        await self._lifecycle.pause(container)

    async def unpause(self, container: Container) -> None:
        await self._lifecycle.unpause(container)

    def waiter(
        self, container: Container, condition: WaitCondition = "not-running"
    ) -> "asyncio.Future[ExitStatus]":
        """Registered at once, so that nothing is missed between an answer's headers and its body."""
        return container.waiter(condition)

    async def wait(self, container: Container, condition: WaitCondition = "not-running") -> ExitStatus:
        return await container.waiter(condition)

    async def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None:
        """`volumes`: its anonymous ones too. Conflict while it runs, unless `force`."""
        await run_to_end(self._lifecycle.remove(container, force=force, volumes=volumes))

    def linked_names(self) -> "Mapping[str, builtins.list[str]]":
        """The further names that links give, by container name."""
        return links.linked_names(self._parts.store)

    def remove_link(self, name: str) -> None:
        """Forget the link "child/alias"; both containers stay. Raises InvalidArgument, NotFound."""
        links.remove_link(self._parts, name)

    async def rename(self, container: Container, name: str) -> None:
        if not name:
            raise InvalidArgument("Neither old nor new names may be empty")
        chosen = check_name(name)
        async with container.lock:
            if chosen == container.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            self._parts.store.reserve(chosen, container.id)
            old = container.name
            try:
                self._parts.store.rename(container, chosen)
            finally:
                self._parts.store.release(chosen)
        self._parts.announce(container, "rename", oldName=f"/{old}")

    async def update(self, container: Container, request: UpdateRequest) -> "builtins.list[str]":
        """Change limits and restart policy, of a running container at once. Returns warnings."""
        host = merge_update(container.record.host_config, request)
        check_resources(host, cpus=available_cpus())
        check_policy(host.restart_policy)
        if host.auto_remove and host.restart_policy.name not in ("", "no"):
            raise InvalidArgument(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
            )
        check_realtime(host, layout())
        warnings: list[str] = []
        async with container.lock:
            if container.running:
                cgroup = cgroup_of(container)
                await asyncio.to_thread(lend_realtime, host, cgroup, layout())
                warnings = await asyncio.to_thread(cgroups.update, cgroup, plan_update(host, request))
            container.record.host_config = host
            self._parts.store.save(container)
        self._parts.announce(container, "update")
        return warnings

    async def set_desired(self, container: Container, desired: Any) -> None:
        """Replace what `apply` keeps with the container."""
        async with container.lock:
            container.record.desired = desired
            self._parts.store.save(container)

    def succeed(self, container: Container, predecessor: Container) -> None:
        """From its next start on `container` waits with the host ports that `predecessor` holds; see `hand_over`."""
        succession.succeed(self._parts, container, predecessor)

    async def hand_over(self, old: Container, new: Container) -> None:
        """New connections to the host ports that `new` waits for go to it from now on. All or none; twice is fine."""
        await succession.hand_over(self._parts, old, new)

    async def resize(self, container: Container, height: int, width: int) -> None:
        """Remembered for the first start; at once while it runs."""
        if container.monitor is None or not container.running:
            raise Conflict(f"Container {container.id} is not running")
        await container.monitor.resize(height, width)
        self._parts.announce(container, "resize", height=str(height), width=str(width))

    def logs(self, container: Container, options: LogOptions) -> AsyncGenerator[bytes, None]:
        """Ready for the client: raw lines with a tty, Docker's 8-byte frames without. Raises Unsupported at once."""
        return streams.read_logs(container, options)

    async def let_it_speak(self, container: Container) -> None:
        """Return when the container has ended or ran for a moment; at once for nearly every container."""
        await streams.let_it_speak(container)

    def log_files(self) -> "builtins.list[Log]":
        """Every log that is a file in a container's folder."""
        found: list[Log] = []
        for container in self._parts.store:
            if plan := logs.file_plan(container.record):
                monitor = container.monitor if container.running else None
                path = str(container.folder / plan.name)
                found.append(Log(path, monitor.rotate_log if monitor else None))
        return found

    def attach(
        self, container: Container, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> Attachment:
        """Registered at once, also before the container starts; `Attachment.open` gives the streams."""
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is paused, unpause the container before attach.")
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        attachment = Attachment(container, Wanted(stdin, stdout, stderr))
        if not container.running:
            container.attachments.append(attachment)
        self._parts.announce(container, "attach")
        return attachment

    def detached(self, container: Container) -> None:
        """A client left by its detach keys."""
        self._parts.announce(container, "detach")

    async def top(self, container: Container, arguments: str = "-ef") -> dict[str, Any]:
        table = await self._measures.top(container, arguments)
        self._parts.announce(container, "top")
        return table

    async def stats(self, container: Container) -> dict[str, Any]:
        """One sample in Docker's form, without the "pre" parts of a stream. A container that does not run: zeros."""
        return await self._measures.stats(container)

    async def sizes(self, container: Container) -> tuple[int, int]:
        """(bytes it has written, bytes of everything it sees)."""
        written = await asyncio.to_thread(self._parts.snapshots.size, container.id)
        try:
            return written, written + self._parts.images.get(container.record.image_id).size
        except EngineError:
            return written, written

    async def changes(self, container: Container) -> "builtins.list[dict[str, Any]]":
        return await self._files.changes(container)

    async def export(self, container: Container) -> AsyncIterator[bytes]:
        """The whole root as a tar."""
        stream = await self._files.export(container)
        self._parts.announce(container, "export")
        return stream

    async def archive_stat(self, container: Container, path: str) -> dict[str, Any]:
        """What the header X-Docker-Container-Path-Stat carries."""
        return await self._files.stat(container, path)

    async def archive_get(
        self, container: Container, path: str
    ) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """The stat, and a tar with the file or folder under its own name."""
        result = await self._files.get(container, path)
        self._parts.announce(container, "archive-path")
        return result

    async def archive_put(
        self,
        container: Container,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack a tar (perhaps compressed) into a folder of the container."""
        await self._files.put(
            container,
            path,
            chunks,
            keep_kinds=no_overwrite_dir_non_dir,
            copy_owner=copy_uid_gid,
        )
        self._parts.announce(container, "extract-to-dir")

    def upper(self, container: Container) -> Path:
        """The container's own layer, for commit and build (`images.commit(parent, upper, config)`).

        Of a container that does not run, without the empty mount points that its starts have made.
        """
        upper = self._parts.snapshots.get(container.id).upper
        if not container.running:
            remove_mount_points(upper)
        return upper

    def committed(self, container: Container, image: str, reference: str) -> None:
        """An image was made of the container: tell it."""
        self._parts.announce(container, "commit", imageID=image, imageRef=reference)

    async def prune(
        self, filters: Mapping[str, Sequence[str]] | None = None
    ) -> "tuple[builtins.list[str], int]":
        """Remove what does not run. (ids, bytes freed)."""
        given = check_filters(filters, _PRUNE_FILTERS)
        before = min((parse_moment(value, "until") for value in given.get("until", ())), default=0)
        removed: list[str] = []
        freed = 0
        for container in list(self._parts.store):
            labels = container.record.config.labels or {}
            if container.record.layers:  # a build is at it, between two of its steps
                continue
            if container.running or container.state.status in ("restarting", "removing", "paused"):
                continue
            if before and parse_rfc3339(container.record.created) > before:
                continue
            if not label_filter(given.get("label", ()), labels):
                continue
            if given.get("label!") and label_filter(given["label!"], labels):
                continue
            try:
                size = await asyncio.to_thread(self._parts.snapshots.size, container.id)
                await self._lifecycle.remove(container, force=False, volumes=False)
            except Conflict:
                continue  # started or removed meanwhile
            removed.append(container.id)
            freed += size
        self._parts.events.publish("container", "prune", "", {"reclaimed": str(freed)})
        return removed, freed

    async def restore(self) -> None:
        """At daemon start, once: find the running ones again, apply restart policies, sweep leftovers."""
        await self._restorer.restore()

    async def close(self) -> None:
        """Let go of everything; containers keep running."""
        await self._restorer.close()
        await self._prober.close()
        await self._lifecycle.close()
        for container in self._parts.store:
            if container.monitor:
                await container.monitor.close()
