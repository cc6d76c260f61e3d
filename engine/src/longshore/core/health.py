"""Health checks: a command that is run inside the container again and again.

Docker's rules (https://docs.docker.com/reference/dockerfile/#healthcheck): exit code 0 is healthy at once; `retries`
failures in a row are unhealthy; failures during the start period do not count.

Beyond Docker a container that becomes unhealthy can be killed, restarted or stopped, as with Podman's
`--health-on-failure`: by `Healthcheck.OnFailure`, or by a label for clients that cannot send it.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from longshore.core.clock import now
from longshore.core.containers.container import Container
from longshore.core.containers.launch import own_capabilities
from longshore.core.containers.parts import Parts
from longshore.core.containers.record import Health, HealthResult
from longshore.core.model import Config, ExecRequest, HealthConfig
from longshore.core.spec import plan_exec
from longshore.core.tasks import spawn
from longshore.core.validate import ACTION_LABEL
from longshore.errors import EngineError
from longshore.oci.frames import text_of_frames
from longshore.runtime.messages import Exec

SECOND = 1_000_000_000
DEFAULT_INTERVAL, DEFAULT_TIMEOUT, DEFAULT_START_INTERVAL, DEFAULT_RETRIES = (
    30 * SECOND,
    30 * SECOND,
    5 * SECOND,
    3,
)
OUTPUT_LIMIT = 4096
RESULTS_KEPT = 5


def failure_action(config: Config) -> str:
    """What becomes of an unhealthy container: "none", "kill", "restart" or "stop"."""
    asked = config.healthcheck.on_failure if config.healthcheck else ""
    return asked or (config.labels or {}).get(ACTION_LABEL, "") or "none"


def probe_command(health: HealthConfig | None, shell: list[str] | None) -> list[str] | None:
    """What to run; None when there is no check."""
    test = health.test if health else None
    if not test or test[0] == "NONE" or len(test) < 2:
        return None
    if test[0] == "CMD-SHELL":
        return [*(shell or ["/bin/sh", "-c"]), test[1]]
    return test[1:]


def judge(health: Health, result: HealthResult, *, retries: int, in_start_period: bool) -> Health:
    """The health after one more result. Pure."""
    kept = [*health.log, result][-RESULTS_KEPT:]
    if result.exit_code == 0:
        return Health("healthy", 0, kept)
    if in_start_period and health.status == "starting":
        return Health("starting", health.failing_streak, kept)
    streak = health.failing_streak + 1
    return Health("unhealthy" if streak >= retries else health.status, streak, kept)


def output_of(frames: bytes) -> str:
    """The text inside Docker's stream frames, stdout and stderr in the order they came, cut at the limit."""
    return text_of_frames(frames)[:OUTPUT_LIMIT].decode(errors="replace")


class Prober:
    """Runs the checks of all containers, one task each while it runs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._background: set[asyncio.Task[None]] = set()
        self.act: Callable[[Container, str], Coroutine[Any, Any, None]] | None = (
            None  # on a container that is unhealthy
        )

    def begin(self, container: Container) -> None:
        """The container has started (or was found again). Not saved: the caller does."""
        self.end(container)
        config = container.record.config
        command = probe_command(config.healthcheck, config.shell)
        if command is None or config.healthcheck is None:
            container.state.health = None
            return
        container.state.health = Health()
        container.prober = spawn(
            self._run(container, config.healthcheck, command),
            f"health of {container.id[:12]}",
            self._background,
        )

    def end(self, container: Container) -> None:
        """The container has ended; the last result stays. Twice is fine."""
        if container.prober:
            container.prober.cancel()
            container.prober = None

    async def _run(self, container: Container, config: HealthConfig, command: list[str]) -> None:
        began = time.monotonic()
        while True:
            in_start = time.monotonic() - began < config.start_period / SECOND
            starting = container.health == "starting"
            pause = config.interval or DEFAULT_INTERVAL
            if in_start and starting:
                pause = min(pause, config.start_interval or DEFAULT_START_INTERVAL)
            await asyncio.sleep(pause / SECOND)
            if container.state.status != "running":
                continue  # paused
            result = await self._probe(container, command, (config.timeout or DEFAULT_TIMEOUT) / SECOND)
            in_start = time.monotonic() - began < config.start_period / SECOND
            self._settle(container, result, config.retries or DEFAULT_RETRIES, in_start)

    def _settle(
        self, container: Container, result: HealthResult, retries: int, in_start_period: bool
    ) -> None:
        before = container.state.health or Health()
        after = judge(before, result, retries=retries, in_start_period=in_start_period)
        container.state.health = after
        self._parts.store.save(container)
        if after.status != before.status:
            self._parts.announce(container, f"health_status: {after.status}")
            action = failure_action(container.record.config)
            if after.status == "unhealthy" and action != "none" and self.act:
                # A task of its own: the end of the container ends the one that probes
                spawn(self.act(container, action), f"{action} of {container.id[:12]}", self._background)

    async def _probe(self, container: Container, command: list[str], timeout: float) -> HealthResult:
        start = now()
        monitor = container.monitor
        if monitor is None:
            return HealthResult(start, now(), -1, "container is not running")
        process = plan_exec(container.record, ExecRequest(cmd=command), own_capabilities())
        output = bytearray()
        try:
            execution = await monitor.exec(Exec(secrets.token_hex(32), process))
        except EngineError as error:
            return HealthResult(start, now(), -1, str(error))
        try:
            async with asyncio.timeout(timeout):
                # Endless output is read on and dropped: a probe must neither block nor fill our memory.
                while execution.reader and (data := await execution.reader.read(65536)):
                    if len(output) < 2 * OUTPUT_LIMIT:
                        output += data[: 2 * OUTPUT_LIMIT]
                code = await execution.wait()
        except TimeoutError:
            self._kill(container, execution.pid)
            return HealthResult(start, now(), -1, f"Health check exceeded timeout ({timeout:g}s)")
        finally:
            if execution.writer:
                execution.writer.close()
        return HealthResult(start, now(), code, output_of(bytes(output)))

    def _kill(self, container: Container, pid: int) -> None:
        """Kill a probe that hangs. Its pid counts only in this container's pid namespace, or it is recycled."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # it has ended
        try:
            ours = Path(f"/proc/{container.state.pid}/ns/pid").stat().st_ino
            same = Path(f"/proc/{pid}/ns/pid").stat().st_ino == ours
            if same and pid != container.state.pid:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or the container has
        finally:
            os.close(pidfd)

    async def close(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
