"""Where a solve's result goes, as `--output` names it: the image store, an archive, a tar, a folder."""

import base64
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from longshore.api.buildkit.filesend import send_stream, send_trees
from longshore.api.buildkit.jobs import Job
from longshore.api.buildkit.messages_control import Exporter
from longshore.api.buildkit.session import Session
from longshore.build.events import Done, Failed, Started, Step, Transfer
from longshore.build.export import archive, store, tree_of, tree_tar
from longshore.build.result import Result
from longshore.core.engine import Engine
from longshore.errors import EngineError, InvalidArgument, Unsupported
from longshore.oci.reference import parse_reference

IMAGE_DIGEST, CONFIG_DIGEST = "containerimage.digest", "containerimage.config.digest"
DESCRIPTOR = "containerimage.descriptor"


@dataclass(frozen=True, slots=True)
class Export:
    """What one exporter has to do with."""

    engine: Engine
    session: Callable[[], Awaitable[Session]]
    job: Job
    result: Result
    number: int  # place among the solve's exporters, by which the client tells its outputs apart
    attrs: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """Canonical ("docker.io/library/web:latest"). Raises InvalidArgument."""
        given = filter(None, self.attrs.get("name", "").split(","))
        return [str(parse_reference(name).with_default_tag()) for name in given]

    @property
    def epoch(self) -> int | None:
        text = self.attrs.get("source-date-epoch", "")
        try:
            return int(text) if text else self.result.epoch
        except ValueError as cause:
            raise InvalidArgument(f"invalid SOURCE_DATE_EPOCH: {text}") from cause


def check(exporters: list[Exporter]) -> None:
    """Refuse before anything is built what cannot be exported. Raises InvalidArgument, Unsupported."""
    for exporter in exporters:
        if exporter.type not in EXPORTERS:
            raise InvalidArgument(f"exporter {exporter.type!r} could not be found")
        if exporter.type in ("oci", "docker") and exporter.attrs.get("tar", "true").lower() in ("false", "0"):
            raise Unsupported(
                f"the {exporter.type} exporter gives one file here",
                hint="leave tar=false out, and unpack the file",
            )
        if exporter.attrs.get("push", "").lower() in ("true", "1") and exporter.type == "image":
            raise Unsupported("the image exporter does not push", hint="build, then docker push")


async def export(
    engine: Engine, session: Callable[[], Awaitable[Session]], job: Job, result: Result
) -> dict[str, str]:
    """Run the solve's exporters in turn; returns what the client is told of the result."""
    response: dict[str, str] = {}
    for number, exporter in enumerate(job.request.exporters):
        task = Export(engine, session, job, result, number, exporter.attrs)
        title, run = EXPORTERS[exporter.type]
        async with _vertex(job, number, title) as step:
            response |= await run(task, step)
    return response


@asynccontextmanager
async def _vertex(job: Job, number: int, title: str) -> AsyncGenerator[Step, None]:
    step = Step("sha256:" + hashlib.sha256(f"{job.ref}\0{number}\0{title}".encode()).hexdigest(), title)
    job.tell(Started(step))
    try:
        yield step
    except EngineError as error:
        job.tell(Failed(step.id, error))
        raise
    job.tell(Done(step.id))


async def _image(task: Export, step: Step) -> dict[str, str]:
    """Into the image store, under its names."""
    _row(task, step, "exporting layers", done=False)
    image = await store(task.engine, task.result, task.names)
    _row(task, step, "exporting layers")
    _row(task, step, f"writing image {image.id}")
    for name in task.names:
        _row(task, step, f"naming to {name}")
    # As dockerd's own exporter: without a manifest to name, the image's id is the digest.
    response = {IMAGE_DIGEST: str(image.id), CONFIG_DIGEST: str(image.id)}
    return response | ({"image.name": ",".join(task.names)} if task.names else {})


async def _archive(task: Export, step: Step) -> dict[str, str]:
    """One tar that is an OCI layout and what `docker load` reads."""
    _row(task, step, "sending tarball", done=False)
    chunks = archive(task.engine, task.result, task.names)
    sent = await send_stream(await task.session(), task.number, chunks)
    _row(task, step, "sending tarball", current=sent)
    image = task.engine.images.get(str(task.result.only.id))
    descriptor = base64.b64encode(msgspec.json.encode(image.manifest)).decode()
    response = {IMAGE_DIGEST: image.manifest.digest, CONFIG_DIGEST: str(image.id), DESCRIPTOR: descriptor}
    return response | ({"image.name": ",".join(task.names)} if task.names else {})


async def _tar(task: Export, step: Step) -> dict[str, str]:
    """The files of the image as a plain tar."""
    _row(task, step, "sending tarball", done=False)
    chunks = tree_tar(task.engine, task.result.only, task.epoch)
    sent = await send_stream(await task.session(), task.number, chunks)
    _row(task, step, "sending tarball", current=sent)
    return {}


async def _local(task: Export, step: Step) -> dict[str, str]:
    """The files of the image into a folder of the client; several platforms in folders of their own."""
    _row(task, step, "copying files", done=False)
    built = task.result.built
    trees = {
        item.platform.replace("/", "_") if len(built) > 1 else "": tree_of(task.engine, item)
        for item in built
    }
    await send_trees(await task.session(), task.number, dict(trees), epoch=task.epoch)
    _row(task, step, "copying files")
    return {}


def _row(task: Export, step: Step, name: str, *, current: int = 0, done: bool = True) -> None:
    task.job.tell(Transfer(step.id, name, "done" if done else "", current, done=done))


Runner = Callable[[Export, Step], Awaitable[dict[str, str]]]
EXPORTERS: dict[str, tuple[str, Runner]] = {
    "moby": ("exporting to image", _image),
    "image": ("exporting to image", _image),
    "docker": ("exporting to docker image format", _archive),
    "oci": ("exporting to oci image format", _archive),
    "tar": ("exporting to client tarball", _tar),
    "local": ("exporting to client directory", _local),
}
