"""RUN: one command in a container of the files so far, its output as it comes, its changes as a layer."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from longshore.build import mounting
from longshore.build.chain import Snapshot
from longshore.build.events import Output, Running
from longshore.build.flights import Listener
from longshore.build.mounting import Asked
from longshore.build.retime import clamped
from longshore.build.work import Work
from longshore.core.containers import Container, Containers
from longshore.core.containers.creation import BuildStep
from longshore.core.containers.record import MountPoint
from longshore.core.images.model import Layer
from longshore.core.model import CreateRequest, HostConfig
from longshore.errors import EngineError
from longshore.oci.digest import Digest
from longshore.oci.descriptor import Descriptor
from longshore.oci.frames import Demultiplexer
from longshore.storage.layers import EMPTY_LAYER

_PIECE = 1 << 16


class BuildFailed(EngineError):
    """A RUN ended with another code than 0; the client shows the code."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}")
        self.code, self.command = code, command


@dataclass(frozen=True, slots=True)
class Command:
    """A RUN with everything worked out. `env`: of the image and of build arguments."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    network: str
    mounts: tuple[Asked, ...] = ()
    script: tuple[str, bytes] | None = None  # a here-document with an interpreter: name and text

    def key(self, root: str, snapshot: Snapshot, work: Work) -> str:
        """What the result depends on, as text."""
        config = snapshot.config
        return repr(
            (
                "run",
                root,
                self.argv,
                sorted(self.env),
                config.user,
                config.working_dir,
                self.network,
                tuple(asked.key for asked in self.mounts),
                self.script,
                work.options.extra_hosts,
                work.options.hostname,
                work.epoch if work.options.rewrite_timestamp else None,
            )
        )


def container_request(snapshot: Snapshot, command: Command, work: Work, env: Sequence[str]) -> CreateRequest:
    """The container of one RUN."""
    options = work.options
    return CreateRequest(
        image=snapshot.id,
        cmd=list(command.argv),
        entrypoint=[""],  # none, also not the image's
        env=[*command.env, *env],
        user=snapshot.config.user,
        working_dir=snapshot.config.working_dir,
        hostname=options.hostname,
        attach_stdout=True,
        attach_stderr=True,
        host_config=HostConfig(
            network_mode=command.network or "default",
            extra_hosts=list(options.extra_hosts) or None,
            shm_size=options.shm_size,
            memory=options.memory,
            memory_swap=options.memory_swap,
            cpu_shares=options.cpu_shares,
            cpu_period=options.cpu_period,
            cpu_quota=options.cpu_quota,
            cpuset_cpus=options.cpuset_cpus,
            cpuset_mems=options.cpuset_mems,
            cgroup_parent=options.cgroup_parent,
            ulimits=list(options.ulimits) or None,
            security_opt=list(options.security_options) or None,
        ),
    )


async def run(work: Work, snapshot: Snapshot, command: Command, say: "Listener[object]") -> Layer | None:
    """Carry it out; returns the layer, None when no file has changed. Nothing of it is left otherwise.

    `say` gets Running and Output with an empty step, because several builds may listen. Raises BuildFailed for another
    code than 0, and EngineError.
    """
    containers = work.workshop.engine.containers
    async with AsyncExitStack() as stack:
        made = await mounting.make(work, command.mounts, stack)
        if command.script is not None:
            made.mounts.append(_script(work, stack, *command.script))
        request = container_request(snapshot, command, work, made.env)
        step = BuildStep(snapshot.image(), tuple(made.mounts), tuple(made.secret_env))
        container = await containers.create("", request, step=step)
        stack.push_async_callback(_remove, containers, container)
        await say(Running("", container.id))
        async for stream, data in _output(containers, container):
            await say(Output("", stream, data))
        status = await containers.wait(container)
        if status.code != 0:
            raise BuildFailed(" ".join(command.argv), status.code)
        upper = containers.upper(container)
        targets = [mount.target for mount in made.mounts]
        if targets:
            await mounting.clean_up(upper, targets, work.tree(snapshot))
        layer = await asyncio.to_thread(work.workshop.engine.images.layers.commit_upper, upper)
        return await _stored(work, *layer)


async def _stored(work: Work, descriptor: Descriptor, diff_id: Digest) -> Layer | None:
    layers = work.workshop.engine.images.layers
    if diff_id == EMPTY_LAYER:
        return None
    if work.options.rewrite_timestamp and work.epoch is not None:
        content, epoch = work.workshop.engine.images.content, work.epoch
        descriptor, diff_id = await asyncio.to_thread(
            layers.commit_tar, lambda write: clamped(content, descriptor.blob, epoch, write)
        )
    return Layer(descriptor, diff_id, layers.size(diff_id))


async def _remove(containers: Containers, container: Container) -> None:
    await containers.remove(container, force=True, volumes=True)


def _script(work: Work, stack: AsyncExitStack, name: str, text: bytes) -> MountPoint:
    """A here-document that names its interpreter stands as a file in /dev/pipes, as with BuildKit."""
    folder = stack.enter_context(work.workshop.disk_folder())
    folder.chmod(0o755)
    path = folder / name
    path.write_bytes(text)
    path.chmod(0o755)
    return MountPoint("bind", str(folder), "/dev/pipes", read_write=False, propagation="rprivate")


async def _output(containers: Containers, container: Container) -> AsyncGenerator[tuple[int, bytes], None]:
    """Start it and yield what it writes as (stream, bytes) until it ends."""
    attachment = containers.attach(container)
    await containers.start(container)
    streams = await attachment.open()
    if streams is None:
        return
    reader, writer = streams
    try:
        frames = Demultiplexer()
        while data := await reader.read(_PIECE):
            for stream, output in frames.feed(data):
                yield stream, output
    finally:
        writer.close()
