"""The engine as the executor sees it, and the state of the host as the planner wants it."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from longshore.apply.execute import NEXT, OLD, Host
from longshore.apply.normalise import Options, create_body, flatten
from longshore.apply.plan import ActualContainer, ActualHost, in_scope
from longshore.apply.ready import Condition
from longshore.apply.request import ApplyRequest, WantedNetwork, WantedVolume
from longshore.apply.values import text_of
from longshore.core.containers import Container, LogOptions
from longshore.core.engine import Engine
from longshore.core.model import CreateRequest, UpdateRequest, VolumeRequest, from_mapping
from longshore.core.networks import NetworkRequest
from longshore.errors import Conflict, NotFound, NotModified
from longshore.oci.frames import text_of_frames

DESIRED_VERSION = 1  # of what is stored as a container's `desired`
_TAIL_LINES, _TAIL_BYTES = 10, 2000


def observe(engine: Engine, request: ApplyRequest) -> ActualHost:
    """What is there of what the request speaks of. Reads only, in one go of the event loop."""
    named = {wanted.name for wanted in request.containers}
    containers = {
        container.name: _actual(container)
        for container in engine.containers.list(all=True)
        if container.name in named
        or (request.scope and in_scope(container.record.config.labels or {}, request.scope.label))
    }
    names = {image.name for image in request.images}
    for wanted in request.containers:
        name = wanted.image or (wanted.config or {}).get("Image")
        if name:
            names.add(str(name))
    images = {name: id for name in names if (id := _image_id(engine, name))}
    volumes = {volume.name for volume in request.volumes if _exists(engine.volumes.get, volume.name)}
    networks = {network.name for network in request.networks if _exists(engine.networks.get, network.name)}
    return ActualHost(images, frozenset(volumes), frozenset(networks), containers)


def _exists(get: Callable[[str], object], name: str) -> bool:
    try:
        get(name)
    except NotFound:
        return False
    return True


def _image_id(engine: Engine, name: str) -> str:
    try:
        return str(engine.images.get(name).id)
    except NotFound:
        return ""


def _actual(container: Container) -> ActualContainer:
    record = container.record
    stored: Any = record.desired
    ours = isinstance(stored, dict) and cast("dict[str, Any]", stored).get("version") == DESIRED_VERSION
    return ActualContainer(
        name=container.name,
        id=container.id,
        image=record.config.image,
        image_id=record.image_id,
        running=container.running or container.state.status == "restarting",
        options=cast("Options", stored["options"])
        if ours
        else flatten(_body(record.config, record.host_config)),
        ours=ours,
        labels=record.config.labels or {},
        paused=container.state.status == "paused",
    )


def _body(config: Any, host_config: Any) -> dict[str, Any]:
    """The record as a create body, to compare with containers that `docker run` made."""
    return {**msgspec.to_builtins(config), "HostConfig": msgspec.to_builtins(host_config)}


class EngineHost(Host):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _get(self, id: str) -> Container:
        return self._engine.containers.get(id)

    # Images, volumes, networks

    async def pull(self, name: str, platform: str, progress: Callable[[str], None]) -> None:
        told: set[str] = set()

        def tell(event: dict[str, Any]) -> None:
            status = str(event.get("status", ""))
            if status and status not in told and "progressDetail" not in event:
                told.add(status)
                progress(status)

        await self._engine.images.transfer.pull(name, platform=platform, progress=tell)

    async def create_volume(self, wanted: WantedVolume) -> None:
        labels = {key: text_of(value) for key, value in (wanted.labels or {}).items()}
        self._engine.volumes.create(
            VolumeRequest(name=wanted.name, driver=wanted.driver, labels=labels or None)
        )

    async def remove_volume(self, name: str) -> None:
        await self._engine.volumes.remove(name)

    async def create_network(self, wanted: WantedNetwork) -> None:
        labels = {key: text_of(value) for key, value in (wanted.labels or {}).items()}
        await self._engine.networks.create(
            NetworkRequest(
                name=wanted.name, driver=wanted.driver, internal=wanted.internal, labels=labels or None
            )
        )

    async def remove_network(self, name: str) -> None:
        await self._engine.networks.remove(name)

    # Containers

    def id_of(self, name: str) -> str | None:
        for container in self._engine.containers.list(all=True):
            if container.name == name:
                return container.id
        return None

    def condition(self, id: str) -> Condition:
        try:
            container = self._get(id)
        except NotFound:  # removed by somebody else, or by itself
            return Condition(running=False)
        state = container.state
        output = state.health.log[-1].output if state.health and state.health.log else ""
        return Condition(
            running=container.running,
            health=container.health,
            pid=state.pid,
            exit_code=state.exit_code,
            restarts=state.restart_count + (state.status == "restarting"),
            output=output,
        )

    async def create(self, name: str, options: Options, *, successor_of: str = "") -> str:
        request = from_mapping(create_body(options), CreateRequest)
        container = await self._engine.containers.create(name, request, desired=desired_value(options))
        if successor_of:
            self._engine.containers.succeed(container, self._get(successor_of))
        return container.id

    async def start(self, id: str) -> None:
        container = self._get(id)
        try:
            if container.state.status == "paused":
                await self._engine.containers.unpause(container)
            else:
                await self._engine.containers.start(container)
        except NotModified:
            pass  # it runs: what was wanted

    async def stop(self, id: str) -> None:
        try:
            await self._engine.containers.stop(self._get(id))
        except (NotModified, NotFound):
            pass  # stopped already, or gone because of auto-remove

    async def remove(self, id: str) -> None:
        try:
            await self._engine.containers.remove(self._get(id), force=True, volumes=True)
        except NotFound:
            pass  # gone: what was wanted

    async def rename(self, id: str, name: str) -> None:
        await self._engine.containers.rename(self._get(id), name)

    async def update(self, id: str, body: Mapping[str, Any], options: Options) -> None:
        container = self._get(id)
        await self._engine.containers.update(container, from_mapping(body, UpdateRequest))
        await self._engine.containers.set_desired(container, desired_value(options))

    async def hand_over(self, old: str, new: str) -> None:
        await self._engine.containers.hand_over(self._get(old), self._get(new))

    async def tail(self, id: str) -> str:
        try:
            container = self._get(id)
        except NotFound:
            return ""
        data = bytearray()
        async for piece in self._engine.containers.logs(container, LogOptions(tail=_TAIL_LINES)):
            data += piece
        text = bytes(data) if container.record.config.tty else text_of_frames(bytes(data))
        return text[-_TAIL_BYTES:].decode(errors="replace")


def desired_value(options: Options) -> dict[str, Any]:
    return {"version": DESIRED_VERSION, "options": options}


def check_names(request: ApplyRequest) -> None:
    """The names of a replacement's two generations are ours. Raises Conflict."""
    for wanted in request.containers:
        if wanted.name.endswith((NEXT, OLD)):
            raise Conflict(f"the name {wanted.name} is reserved for replacements")
