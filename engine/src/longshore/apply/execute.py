"""Runs a plan. What fails leaves the host as it was; containers are worked on in parallel."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from longshore.apply.compare import update_body
from longshore.apply.normalise import Options
from longshore.apply.plan import Step
from longshore.apply.ready import Watch, until_drained, until_ready
from longshore.apply.request import WantedNetwork, WantedVolume
from longshore.errors import Conflict, EngineError, Internal, Unavailable

NEXT, OLD = ".longshore-next", ".longshore-old"  # names of the two generations during a replacement
_PARALLEL = 8

Event = dict[str, Any]


class Host(Watch, Protocol):
    """What steps need of the engine. Containers are named by id; all raise EngineError."""

    async def pull(self, name: str, platform: str, progress: Callable[[str], None]) -> None: ...
    async def create_volume(self, wanted: WantedVolume) -> None: ...
    async def remove_volume(self, name: str) -> None: ...
    async def create_network(self, wanted: WantedNetwork) -> None: ...
    async def remove_network(self, name: str) -> None: ...

    def id_of(self, name: str) -> str | None: ...

    async def create(self, name: str, options: Options, *, successor_of: str = "") -> str:
        """Make a container that stores `options` as desired.

        A successor starts without the host ports that its predecessor holds: they wait for `hand_over`.
        """
        ...

    async def start(self, id: str) -> None:
        """Let it run; also when it is paused, and when it runs already."""
        ...

    async def stop(self, id: str) -> None: ...
    async def remove(self, id: str) -> None:
        """Whatever it does, with its anonymous volumes."""
        ...

    async def rename(self, id: str, name: str) -> None: ...
    async def update(self, id: str, body: Mapping[str, Any], options: Options) -> None: ...

    async def hand_over(self, old: str, new: str) -> None:
        """New connections to the host ports that `new` waits for go to it from now on. All or none; twice is fine."""
        ...

    async def tail(self, id: str) -> str:
        """The last lines it wrote."""
        ...


@dataclass(frozen=True, slots=True)
class Execution:
    """Objects of the request that steps refer to by name."""

    host: Host
    volumes: Mapping[str, WantedVolume]
    networks: Mapping[str, WantedNetwork]

    async def run(self, steps: Sequence[Step], report: Callable[[Event], None]) -> Event | None:
        """Run all steps; returns the first failure as a value, None when all worked.

        Steps of one container run in their order; containers side by side, after images, volumes and
        networks. After a failure no new step begins; those that run are finished.
        """
        numbered = [(index, step) for index, step in enumerate(steps) if step.changes]
        failures: list[Event] = []

        async def one(index: int, step: Step) -> None:
            if failures:
                return
            began = monotonic()
            report({"type": "step", "index": index, "status": "running"})

            def tell(message: str) -> None:
                report({"type": "step", "index": index, "status": "running", "message": message})

            try:
                message, status = await self._step(step, tell), "done"
            except EngineError as error:
                message, status = str(error), "failed"
                failures.append({"step": index, "kind": step.kind, "name": step.name, "message": message})
            seconds = round(monotonic() - began, 3)
            report({"type": "step", "index": index, "status": status, "seconds": seconds, "message": message})

        before = [(i, s) for i, s in numbered if s.kind != "container" and s.action != "remove"]
        after = [(i, s) for i, s in numbered if s.kind != "container" and s.action == "remove"]
        for index, step in before:
            await one(index, step)
        chains: dict[str, list[tuple[int, Step]]] = {}
        for index, step in numbered:
            if step.kind == "container":
                chains.setdefault(step.name, []).append((index, step))
        turn = asyncio.Semaphore(_PARALLEL)

        async def chain(members: list[tuple[int, Step]]) -> None:
            async with turn:
                for index, step in members:
                    await one(index, step)

        async with asyncio.TaskGroup() as group:
            for members in chains.values():
                group.create_task(chain(members))
        for index, step in after:
            await one(index, step)
        return failures[0] if failures else None

    async def _step(self, step: Step, tell: Callable[[str], None]) -> str:
        match step.kind, step.action:
            case "image", _:
                await self.host.pull(step.name, step.platform, tell)
            case "volume", "create":
                await self.host.create_volume(self.volumes[step.name])
            case "volume", _:
                await self.host.remove_volume(step.name)
            case "network", "create":
                await self.host.create_network(self.networks[step.name])
            case "network", _:
                await self.host.remove_network(step.name)
            case _:
                return await self._container(step)
        return ""

    async def _container(self, step: Step) -> str:
        if step.action == "create":
            return await create(self.host, step)
        id = self.host.id_of(step.name)
        if id is None:
            if step.action == "remove":
                return "was gone already"
            raise Conflict(f"cannot {step.action} container {step.name}", detail="it is gone")
        match step.action:
            case "replace":
                return await replace(self.host, step, id)
            case "update":
                await self.host.update(id, update_body(step.difference, step.options), step.options)
            case "start":
                await self.host.start(id)
                await _ready(self.host, id, step, strict=False)
            case "stop":
                await self.host.stop(id)
            case "remove":
                await self.host.remove(id)
            case _:
                raise Internal(f"no way to {step.action} a container")
        return ""


async def create(host: Host, step: Step) -> str:
    id = await host.create(step.name, step.options)
    if not step.start:
        return ""
    try:
        await host.start(id)
        await _ready(host, id, step, strict=False)
    except BaseException:
        await host.remove(id)
        raise
    return ""


async def replace(host: Host, step: Step, old: str) -> str:
    """Put a new container in the place of an old one.

    Until the new one is ready the old one keeps name and ports (start-first) or is only stopped
    (stop-first); a failure takes the new one away and the old one is as before.
    """
    was_running = host.condition(old).running
    side_by_side = step.start_first and was_running
    new = await host.create(step.name + NEXT, step.options, successor_of=old if side_by_side else "")
    stopped = False
    try:
        if was_running and not side_by_side:
            stopped = True
            await host.stop(old)
        if step.start:
            await host.start(new)
            await _ready(host, new, step, strict=side_by_side)
        await _take_over(host, step.name, old, new)
    except BaseException as cause:
        await host.remove(new)
        if stopped:
            await host.start(old)
        if isinstance(cause, EngineError):
            kept = "the old container runs on" if was_running else "the old container is kept"
            raise Conflict(f"cannot replace container {step.name}", detail=f"{cause}; {kept}") from cause
        raise
    return await retire(host, old, step)


async def _take_over(host: Host, name: str, old: str, new: str) -> None:
    """Name and ports go to the new one, or neither does."""
    await host.rename(old, name + OLD)
    try:
        await host.rename(new, name)
        try:
            await host.hand_over(old, new)
        except BaseException:
            await host.rename(new, name + NEXT)
            raise
    except BaseException:
        await host.rename(old, name)
        raise


async def retire(host: Host, old: str, step: Step) -> str:
    """Let open connections end, then stop and remove the old one."""
    left = 0
    if step.start_first and step.wanted is not None:
        ports = inner_ports(step.options)
        left = await until_drained(host, old, timeout=step.wanted.drain_timeout, ports=ports)
    await host.stop(old)
    await host.remove(old)
    return f"{left} connections were still open" if left else ""


async def recover(host: Host, name: str) -> None:
    """Finish or undo a replacement that the end of the daemon interrupted. Twice is fine."""
    current, unborn, old = host.id_of(name), host.id_of(name + NEXT), host.id_of(name + OLD)
    if current is None and old is not None:
        await host.rename(old, name)  # the new one had not got the name yet
        current, old = old, None
    if unborn is not None:
        await host.remove(unborn)
    if current is not None and old is not None:
        await host.hand_over(old, current)
        await host.stop(old)
        await host.remove(old)


async def _ready(host: Host, id: str, step: Step, *, strict: bool) -> None:
    wanted = step.wanted
    if wanted is None or not wanted.wait:
        return
    try:
        await until_ready(
            host, id, timeout=wanted.wait_timeout, ports=inner_ports(step.options), strict=strict
        )
    except Unavailable as cause:
        lines = (await host.tail(id)).strip()
        said = f"; it wrote: {lines}" if lines else ""
        raise Conflict(f"container {step.name} does not become ready", detail=f"{cause}{said}") from cause


def inner_ports(options: Options) -> tuple[int, ...]:
    """The container's side of published TCP ports."""
    bindings: Mapping[str, Any] = options.get("HostConfig.PortBindings", {})
    return tuple(int(port.partition("/")[0]) for port in bindings if port.endswith("/tcp"))
