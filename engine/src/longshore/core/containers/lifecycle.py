"""Start, stop, kill, pause, end, restart and removal of containers."""

import asyncio
import logging
import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from longshore.core.clock import parse_rfc3339
from longshore.core.containers.container import Container, ExitStatus
from longshore.core.containers.launch import Launcher, cgroup_of
from longshore.core.containers.networking import release_endpoints
from longshore.core.containers.parts import Parts
from longshore.core.restart import next_delay, restarts_after_exit
from longshore.core.tasks import run_to_end, spawn
from longshore.core.validate import parse_signal
from longshore.errors import Conflict, EngineError, Internal, NotFound, NotModified, StartFailed
from longshore.runtime import cgroups
from longshore.runtime.messages import Exited
from longshore.storage.trees import remove_tree

if TYPE_CHECKING:
    from longshore.core.health import Prober

log = logging.getLogger(__name__)

STOP_SECONDS = 10  # until SIGKILL, unless the container or the request says otherwise
KILL_SECONDS = 30.0  # a process in uninterruptible sleep may take its time; then the request gives up
COMMAND_NOT_FOUND, COMMAND_NOT_RUNNABLE, ENGINE_FAILED = 127, 126, 128


class Lifecycle:
    def __init__(self, parts: Parts, prober: "Prober") -> None:
        self._parts = parts
        self._launcher = Launcher(parts)
        self._prober = prober
        self._background: set[asyncio.Task[None]] = set()
        self.closing = False

    # Start

    async def start(self, container: Container) -> None:
        """NotModified when it runs. A start that fails leaves the reason in the state and nothing on the machine."""
        await run_to_end(self._start(container, by_user=True))

    async def _start(self, container: Container, *, by_user: bool) -> None:
        async with container.lock:
            state = container.state
            if container.removed or state.status == "removing":
                raise Conflict(
                    f"container {container.id} is marked for removal and cannot be started"
                    if not container.removed
                    else f"No such container: {container.id}"
                )
            if container.state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if container.running:
                raise NotModified(f"container {container.id} is already running")
            if by_user:
                self._cancel_restart(container)
                container.restart_delay = 0.0
                state.restart_count = 0
                state.stopped_by_user = False
            elif state.stopped_by_user:
                raise NotModified(f"container {container.id} was stopped meanwhile")
            before = msgspec.structs.replace(state)
            try:
                await self._launcher.start(container)
            except BaseException as error:
                self._start_failed(container, before, error)
                raise
            state.status = "running"
            state.starting = state.oom_killed = False
            state.ever_started = True
            state.error, state.exit_code = "", 0
            self._prober.begin(container)
            self._parts.store.save(container)
            container.watcher = spawn(self._watch(container), f"end of {container.id[:12]}", self._background)
        self._announce_joined(container)
        self._parts.announce(container, "start")

    def _announce_joined(self, container: Container) -> None:
        """The networks and volumes that a start brought to the container."""
        parts = self._parts
        for name in container.record.endpoints:
            parts.networks.announce_member(name, "connect", container.id)
        for mount in container.record.mounts:
            if mount.type == "volume":
                attributes = {
                    "container": container.id,
                    "destination": mount.target,
                    "driver": mount.driver,
                    "propagation": mount.propagation,
                    "read/write": str(mount.read_write).lower(),
                }
                parts.events.publish("volume", "mount", mount.name, attributes)

    def _announce_left(self, container: Container, networks: Iterable[str]) -> None:
        parts = self._parts
        for name in networks:
            parts.networks.announce_member(name, "disconnect", container.id)
        for mount in container.record.mounts:
            if mount.type == "volume":
                attributes = {"container": container.id, "driver": mount.driver}
                parts.events.publish("volume", "unmount", mount.name, attributes)

    def _start_failed(self, container: Container, before: object, error: BaseException) -> None:
        """Docker's way: the state stays created (or exited), with the message and an exit code like a shell's."""
        state = container.state
        for name in state.__struct_fields__:
            setattr(state, name, getattr(before, name))
        state.starting, state.pid = False, 0
        if state.status == "restarting":
            state.status = "exited"
        state.error = str(error)
        state.exit_code = failure_code(error)
        self._parts.store.save(container)
        for attachment in tuple(container.attachments):
            attachment.close()
        container.tell("not-running", "next-exit", "over")
        if isinstance(error, EngineError) and container.record.host_config.auto_remove:
            spawn(self._remove_quietly(container), f"removal of {container.id[:12]}", self._background)

    # End

    def adopt(self, container: Container) -> None:
        """A running container was found again at daemon start: watch over it."""
        self._prober.begin(container)
        container.watcher = spawn(self._watch(container), f"end of {container.id[:12]}", self._background)

    async def _watch(self, container: Container) -> None:
        monitor = container.monitor
        if monitor is None:
            return
        record = await monitor.wait()
        async with container.lock:
            await self.ended(container, record)
        await monitor.close()

    async def ended(self, container: Container, record: Exited) -> None:
        """The container's process is gone: settle everything, then tell. The caller holds the lock."""
        state, parts = container.state, self._parts
        self._prober.end(container)
        container.monitor = None
        networks = list(container.record.endpoints)
        await release_endpoints(parts, container)
        parts.cgroup_parents.tidy()
        lasted = max(0, parse_rfc3339(record.finished_at) - parse_rfc3339(state.started_at)) / 1e9
        again = restarts_after_exit(
            container.record.host_config.restart_policy,
            code=record.code,
            restarts=state.restart_count,
            stopped_by_user=state.stopped_by_user,
        )
        state.status = "restarting" if again else "exited"
        state.pid = 0
        state.starting = False
        state.exit_code = record.code
        state.error = record.error
        state.oom_killed = record.oom_killed
        state.finished_at = record.finished_at
        parts.store.settle(container)
        if record.oom_killed:
            parts.announce(container, "oom")
        parts.announce(container, "die", exitCode=str(record.code), execDuration=str(int(lasted)))
        self._announce_left(container, networks)
        remove = container.record.host_config.auto_remove and not again
        if again:
            self._schedule_restart(container, lasted)
            container.tell("not-running", "next-exit")
        else:
            container.tell("not-running", "next-exit", "over")
        if remove and not self.closing:
            spawn(self._remove_quietly(container), f"removal of {container.id[:12]}", self._background)

    def _schedule_restart(self, container: Container, lasted: float) -> None:
        container.restart_delay = next_delay(container.restart_delay, lasted)
        container.restarter = spawn(
            self._restart_later(container), f"restart of {container.id[:12]}", self._background
        )

    async def _restart_later(self, container: Container) -> None:
        await asyncio.sleep(container.restart_delay)
        container.restarter = None
        container.state.restart_count += 1
        await self.start_by_policy(container)

    async def start_by_policy(self, container: Container) -> None:
        """Start without a user: a failure is logged and tried again as the policy says."""
        try:
            await run_to_end(self._start(container, by_user=False))
        except NotModified:
            return
        except EngineError as error:
            log.warning("container %s does not restart: %s", container.name, error)
            state = container.state
            policy = container.record.host_config.restart_policy
            if (
                not container.removed
                and not container.running
                and restarts_after_exit(
                    policy,
                    code=state.exit_code,
                    restarts=state.restart_count,
                    stopped_by_user=state.stopped_by_user,
                )
            ):
                state.status = "restarting"
                self._parts.store.settle(container)
                self._schedule_restart(container, 0.0)

    def _cancel_restart(self, container: Container) -> None:
        if container.restarter and container.restarter is not asyncio.current_task():
            container.restarter.cancel()
            container.restarter = None

    # Stop and signals

    async def stop(self, container: Container, *, timeout: int | None, signal_name: str) -> None:
        """The container's stop signal, then SIGKILL after `timeout` seconds (-1: never)."""
        number = parse_signal(signal_name or container.record.config.stop_signal or "TERM")
        if await self._gave_up_restart(container):
            return
        if not container.running:
            raise NotModified(f"container {container.id} is already stopped")
        configured = container.record.config.stop_timeout
        seconds = timeout if timeout is not None else STOP_SECONDS if configured is None else configured
        self._stopped_by_user(container)
        gone = container.waiter("next-exit")
        self._parts.announce(container, "kill", signal=str(number))
        await self._signal(container, number)
        if container.state.status == "paused":
            await self._thaw(container)
        if not await _done_within(gone, None if seconds < 0 else float(seconds)):
            await self._signal(container, signal.SIGKILL)
            await self._must_end(container, gone)
        self._parts.announce(container, "stop")

    async def act_on_unhealthy(self, container: Container, action: str) -> None:
        """kill (the restart policy goes on from there), restart or stop."""
        log.warning("container %s is unhealthy: %s", container.name, action)
        try:
            if action == "kill":
                await self.kill(container, "KILL", by_user=False)
            elif action == "stop":
                await self.stop(container, timeout=None, signal_name="")
            elif action == "restart":
                await self.restart(container, timeout=None, signal_name="")
        except (NotModified, Conflict):
            pass  # it has ended meanwhile
        except EngineError as error:
            log.error("container %s: %s because it is unhealthy: %s", container.name, action, error)

    async def kill(self, container: Container, signal_name: str, *, by_user: bool = True) -> None:
        """Send one signal. SIGKILL is followed by the end, which is waited for; others may do anything.

        `by_user`: its restart policy does not start it again.
        """
        number = parse_signal(signal_name or "KILL")
        if number == signal.SIGKILL and await self._gave_up_restart(container):
            return
        if not container.running:
            raise Conflict(
                f"cannot kill container: {container.name}: container {container.id} is not running"
            )
        stop_signal = parse_signal(container.record.config.stop_signal or "TERM")
        if by_user and number in (signal.SIGKILL, stop_signal):
            self._stopped_by_user(container)
        gone = container.waiter("next-exit")
        await self._signal(container, number)
        if container.state.status == "paused" and number in (signal.SIGKILL, stop_signal):
            await self._thaw(container)
        self._parts.announce(container, "kill", signal=str(number))
        if number == signal.SIGKILL:
            await self._must_end(container, gone)
        gone.cancel()

    async def restart(self, container: Container, *, timeout: int | None, signal_name: str) -> None:
        """Stop when it runs, then start."""
        if container.running:
            gone = container.waiter("next-exit")
            try:
                await self.stop(container, timeout=timeout, signal_name=signal_name)
            except NotModified:
                gone.cancel()
            async with container.lock:
                pass  # the end is being settled: ports and address are free afterwards
        else:
            await self._gave_up_restart(container)
        try:
            await self.start(container)
        except NotModified:
            pass
        self._parts.announce(container, "restart")

    def _stopped_by_user(self, container: Container) -> None:
        self._cancel_restart(container)
        container.state.stopped_by_user = True
        self._parts.store.settle(container)

    async def _gave_up_restart(self, container: Container) -> bool:
        """Whether the container was between two tries of its restart policy and is stopped by that now.

        A try that is under way is waited for: then the container may run.
        """
        if container.state.status != "restarting":
            return False
        self._stopped_by_user(container)
        async with container.lock:
            if container.state.status != "restarting":
                return False
            container.state.status = "exited"
            self._parts.store.save(container)
        container.tell("not-running", "next-exit", "over")
        self._parts.announce(container, "stop")
        return True

    async def _signal(self, container: Container, number: int) -> None:
        if container.monitor:
            await container.monitor.signal(number)

    async def _must_end(self, container: Container, gone: "asyncio.Future[ExitStatus]") -> None:
        if not await _done_within(gone, KILL_SECONDS):
            raise Internal(
                f"container {container.id} did not end within {KILL_SECONDS:.0f} seconds after SIGKILL",
                hint="its process hangs inside of the kernel; see `longshore top`",
            )

    async def pause(self, container: Container) -> None:
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            if not container.running:
                raise Conflict(f"Container {container.id} is not running")
            try:
                await asyncio.to_thread(cgroups.freeze, cgroup_of(container))
            except FileNotFoundError as cause:
                raise Conflict(
                    f"Container {container.id} is not running", detail="it has just ended"
                ) from cause
            container.state.status = "paused"
            self._parts.store.save(container)
        self._parts.announce(container, "pause")

    async def unpause(self, container: Container) -> None:
        async with container.lock:
            if container.state.status != "paused":
                raise Conflict(f"Container {container.id} is not paused")
            await self._thaw(container)
        self._parts.announce(container, "unpause")

    async def _thaw(self, container: Container) -> None:
        await asyncio.to_thread(cgroups.thaw, cgroup_of(container))
        if container.state.status == "paused":
            container.state.status = "running"
            self._parts.store.save(container)

    # Removal

    async def remove(self, container: Container, *, force: bool, volumes: bool) -> None:
        """Conflict while it runs, unless forced. Somebody else's removal that is under way is an error of its own."""
        if container.removed:
            raise NotFound(f"No such container: {container.id}")
        if container.state.status == "removing":
            raise Conflict(f"removal of container {container.id} is already in progress")
        if container.state.status == "restarting":
            if not force:
                raise Conflict(self._running_text(container, "restarting"))
            await self._gave_up_restart(container)
        if container.running:
            if not force:
                raise Conflict(self._running_text(container, container.state.status))
            await self.kill(container, "KILL")
        await run_to_end(self._remove(container, volumes=volumes or container.record.host_config.auto_remove))

    @staticmethod
    def _running_text(container: Container, status: str) -> str:
        what = {"paused": "unpause and then stop", "restarting": "stop"}.get(status, "stop")
        return (
            f'cannot remove container "/{container.name}": container is {status}: '
            f"{what} the container before removing or force remove"
        )

    async def _remove(self, container: Container, *, volumes: bool) -> None:
        async with container.lock:
            if container.removed:
                return
            if container.running:  # started again meanwhile
                raise Conflict(self._running_text(container, container.state.status))
            self._cancel_restart(container)
            container.state.status = "removing"
            self._parts.store.settle(container)  # removing makes the room that a full disk lacks
            await self.destroy(container, volumes=volumes)

    async def destroy(self, container: Container, *, volumes: bool) -> None:
        """Delete what belongs to a container that does not run. Twice is fine; the record goes last."""
        parts = self._parts
        await release_endpoints(parts, container)
        for attachment in tuple(container.attachments):
            attachment.close()
        await asyncio.to_thread(self._delete_files, container.id)
        parts.store.delete(container)
        container.removed = True
        container.state.status = "removing"
        if volumes:
            for mount in container.record.mounts:
                if mount.anonymous and mount.name:
                    await parts.volumes.discard(mount.name)
        parts.announce(container, "destroy")
        container.tell("not-running", "next-exit", "over", "removed")

    def _delete_files(self, id: str) -> None:
        self._parts.snapshots.remove(id)
        remove_tree(self._parts.paths.state(id))
        remove_tree(self._parts.paths.folder(id))

    async def _remove_quietly(self, container: Container) -> None:
        """Auto-remove: nobody is there to be told; a forced removal may have come first."""
        try:
            await self._remove(container, volumes=True)
        except EngineError as error:
            log.warning("container %s is not removed: %s", container.name, error)

    async def close(self) -> None:
        """Stop all timers and watchers; the containers go on."""
        self.closing = True
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)


def failure_code(error: BaseException) -> int:
    """127 command not found, 126 not executable, 128 anything else, as Docker's daemon records it."""
    text = str(error)
    if isinstance(error, StartFailed):
        if "not found" in text or "no such file or directory" in text.lower():
            return COMMAND_NOT_FOUND
        if "permission denied" in text.lower() or "is a directory" in text.lower():
            return COMMAND_NOT_RUNNABLE
    return ENGINE_FAILED


async def _done_within(future: "asyncio.Future[ExitStatus]", seconds: float | None) -> bool:
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
