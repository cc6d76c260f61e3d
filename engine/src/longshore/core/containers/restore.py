"""Daemon start: the kernel and the exit records say what became of every container while nobody looked."""

import asyncio
import logging
from pathlib import Path

from longshore.core.clock import now
from longshore.core.containers.container import Container
from longshore.core.containers.lifecycle import Lifecycle
from longshore.core.containers.parts import Parts
from longshore.core.restart import starts_with_daemon
from longshore.core.tasks import spawn
from longshore.errors import EngineError
from longshore.runtime.client import read_exit, reconnect
from longshore.runtime.messages import Exited
from longshore.runtime.records import start_time
from longshore.storage.trees import remove_tree

log = logging.getLogger(__name__)

LOST = 255  # the exit code of a run whose end nobody recorded (the machine went down), as Docker's
PARALLEL = 8


class Restorer:
    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts = parts
        self._lifecycle = lifecycle
        self._was_running: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def restore(self) -> None:
        """Find again, settle, sweep; restart policies are applied in the background afterwards."""
        parts = self._parts
        containers = list(parts.store)
        found = asyncio.Semaphore(PARALLEL)

        async def one(container: Container) -> None:
            async with found:
                await self._find(container)

        await asyncio.gather(*(one(container) for container in containers))
        # Endpoints of everything that does not run are unknown to the manager now, and so swept by it.
        await parts.network.restore(
            [endpoint for container in parts.store for endpoint in container.record.endpoints.values()]
        )
        for container in containers:
            if container.state.status == "removing":
                await self._lifecycle.destroy(container, volumes=container.record.host_config.auto_remove)
        await asyncio.to_thread(self._sweep)
        parts.cgroup_parents.tidy()
        for container in containers:
            if container.running:
                self._lifecycle.adopt(container)
            elif not container.removed:
                self._after_end(container)

    async def _find(self, container: Container) -> None:
        """Bring the state in line with what runs. Not yet told to anybody, no policy applied."""
        parts, state = self._parts, container.state
        claimed = container.running or state.starting
        state_dir, exit_path = parts.paths.state(container.id), parts.paths.exit_record(container.id)
        if not claimed and not state_dir.exists():
            if container.record.endpoints:  # a start was cut off
                container.record.endpoints = {}
                parts.store.save(container)
            return
        try:
            monitor = await reconnect(container.id, str(state_dir), str(exit_path))
        except EngineError as error:
            # It is there but does not answer: leave its processes alone, show the container as it was last known
            log.error("container %s is out of control: %s", container.name, error)
            return
        if monitor is not None:
            container.monitor = monitor
            state.pid, state.pid_start = monitor.pid, start_time(monitor.pid) or 0
            state.started_at = monitor.started_at
            state.status = state.status if state.status == "paused" else "running"
            state.starting, state.ever_started = False, True
            parts.store.save(container)
            return
        container.record.endpoints = {}
        record = read_exit(str(exit_path))
        if record is None and (state.starting or not claimed):
            self._never_ran(container)  # the program never ran, and nobody was told that it does
            return
        self._ended(container, record or Exited(LOST, now()))

    def _never_ran(self, container: Container) -> None:
        state = container.state
        state.starting, state.pid = False, 0
        if container.running:
            state.status = "exited" if state.ever_started else "created"
        self._parts.store.save(container)

    def _ended(self, container: Container, record: Exited) -> None:
        state = container.state
        self._was_running.add(container.id)
        state.status, state.pid, state.starting, state.ever_started = "exited", 0, False, True
        state.exit_code, state.finished_at = record.code, record.finished_at
        state.oom_killed, state.error = record.oom_killed, record.error
        self._parts.store.save(container)
        self._parts.announce(container, "die", exitCode=str(record.code))

    def _after_end(self, container: Container) -> None:
        """Remove or start what does not run now."""
        state, host = container.state, container.record.host_config
        restarting = state.status == "restarting"
        if restarting:
            state.status = "exited"
            self._parts.store.save(container)
        if host.auto_remove and state.ever_started:
            spawn(self._remove(container), f"removal of {container.id[:12]}", self._background)
        elif state.ever_started and starts_with_daemon(
            host.restart_policy,
            was_running=restarting or container.id in self._was_running,
            code=state.exit_code,
            restarts=state.restart_count,
            stopped_by_user=state.stopped_by_user,
        ):
            state.stopped_by_user = False  # what keeps a policy from starting it
            spawn(
                self._lifecycle.start_by_policy(container),
                f"restart of {container.id[:12]}",
                self._background,
            )

    async def _remove(self, container: Container) -> None:
        try:
            await self._lifecycle.remove(container, force=False, volumes=True)
        except EngineError as error:
            log.warning("container %s is not removed: %s", container.name, error)

    async def close(self) -> None:
        """Stop what is still being restored; the next start of the daemon continues."""
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _sweep(self) -> None:
        """What belongs to no container: left by a crash between making it and the database. Blocks."""
        parts = self._parts
        known = {container.id for container in parts.store}
        for id in parts.snapshots.list():
            if id not in known:
                parts.snapshots.remove(id)
        for parent in (parts.paths.data / "containers", parts.paths.run / "containers"):
            for folder in _folders(parent):
                if folder.name not in known:
                    remove_tree(folder)
        parts.volumes.sweep()


def _folders(parent: Path) -> list[Path]:
    try:
        return list(parent.iterdir())
    except FileNotFoundError:
        return []
