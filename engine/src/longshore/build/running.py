"""RUN: one command in a container of the image so far, its output as it comes, its changes as a layer."""

from collections.abc import AsyncGenerator, Mapping, Sequence

from longshore.build.options import BuildOptions
from longshore.core.containers import Container, Containers
from longshore.core.images import Image
from longshore.core.model import CreateRequest, HostConfig
from longshore.errors import EngineError
from longshore.oci.frames import Demultiplexer
from longshore.oci.image_config import ContainerDefaults

_PIECE = 1 << 16


class BuildFailed(EngineError):
    """A RUN ended with another code than 0; the client shows the code."""

    def __init__(self, command: str, code: int) -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}")
        self.code, self.command = code, command


def container_request(
    image: Image,
    config: ContainerDefaults,
    command: Sequence[str],
    arguments: Mapping[str, str],
    options: BuildOptions,
    network: str = "",
) -> CreateRequest:
    """The container of one RUN. `arguments` are build arguments; the image does not keep them."""
    return CreateRequest(
        image=str(image.id),
        cmd=list(command),
        entrypoint=[""],  # none, also not the image's
        env=[*(config.env or []), *(f"{name}={value}" for name, value in arguments.items())],
        user=config.user,
        working_dir=config.working_dir,
        attach_stdout=True,
        attach_stderr=True,
        host_config=HostConfig(
            network_mode=network or options.network_mode or "default",
            extra_hosts=list(options.extra_hosts) or None,
            shm_size=options.shm_size,
            memory=options.memory,
            memory_swap=options.memory_swap,
            cpu_shares=options.cpu_shares,
            cpu_period=options.cpu_period,
            cpu_quota=options.cpu_quota,
            cpuset_cpus=options.cpuset_cpus,
        ),
    )


async def run_container(
    containers: Containers, container: Container, command: str
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Start it and yield its output as (stream, bytes) until it ends.

    Raises BuildFailed for another code than 0.
    """
    attachment = containers.attach(container)
    await containers.start(container)
    streams = await attachment.open()
    if streams is not None:
        reader, writer = streams
        try:
            frames = Demultiplexer()
            while data := await reader.read(_PIECE):
                for stream, output in frames.feed(data):
                    yield stream, output
        finally:
            writer.close()
    status = await containers.wait(container)
    if status.code != 0:
        raise BuildFailed(command, status.code)
