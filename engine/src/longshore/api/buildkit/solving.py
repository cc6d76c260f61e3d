"""One build for a solve: attributes and a session in, a result that stays open until the job ends."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from longshore.api.buildkit.contexts import Contexts
from longshore.api.buildkit.door import SessionDoor
from longshore.api.buildkit.failures import explained
from longshore.api.buildkit.frontend import build_options, input_names
from longshore.api.buildkit.jobs import Job, Jobs
from longshore.api.buildkit.messages import Definition, Op
from longshore.api.buildkit.session import Session, Sessions, nobody
from longshore.build.builder import Builder
from longshore.build.export import store
from longshore.build.result import Result
from longshore.build.trees import TarTree
from longshore.core.engine import Engine
from longshore.errors import EngineError, InvalidArgument, Unsupported

BUILT = (
    "docker-image://longshore.invalid/build:"  # our references within a definition; no registry has the name
)


@dataclass(slots=True)
class Kit:
    """What the services of one daemon share."""

    engine: Engine
    contexts: Contexts
    sessions: Sessions = field(default_factory=Sessions)
    jobs: Jobs = field(default_factory=Jobs)
    uploads: dict[str, "asyncio.Future[TarTree]"] = field(
        default_factory=dict[str, "asyncio.Future[TarTree]"]
    )

    @property
    def scratch(self) -> Path:
        return Path(self.engine.images.content.ingest)

    async def session(self, job: Job) -> Session:
        """The session of the client that asked for the job; one that offers nothing where it named none.

        Raises NotFound.
        """
        if not job.request.session:
            return nobody()
        return await self.sessions.get(job.request.session)

    def upload(self, id: str) -> "asyncio.Future[TarTree]":
        """The context that one request brings for the build of another; whoever asks first waits or is waited for."""
        future = self.uploads.setdefault(id, asyncio.get_running_loop().create_future())
        future.add_done_callback(lambda _: self.uploads.pop(id, None))
        return future


async def solve(
    kit: Kit, job: Job, attributes: Mapping[str, str], inputs: Mapping[str, Definition]
) -> Result:
    """Build with the built-in Dockerfile frontend. Raises EngineError; nothing half-made stays."""
    options = build_options(attributes, job.cache_exports, await _inputs(kit, attributes, inputs))
    door = SessionDoor(await kit.session(job), kit.contexts, attributes, job, kit.scratch)
    job.open.callback(door.close)
    try:
        build = await Builder(kit.engine).prepare(options, door)
        job.open.push_async_callback(build.close)
        async with aclosing(build.run()) as events:
            async for event in events:
                job.tell(event)
    except EngineError as error:
        raise explained(error, job.rendering.source, job.rendering.failed_line) from error
    return build.result


async def _inputs(
    kit: Kit, attributes: Mapping[str, str], inputs: Mapping[str, Definition]
) -> dict[str, str]:
    """Contexts that are results of other solves (bake's `target:`): name -> image."""
    found: dict[str, str] = {}
    for name, key in input_names(attributes).items():
        if key not in inputs:
            raise InvalidArgument(f"invalid input {key} for {name}")
        _, reference = kit.jobs.find(reference_in(inputs[key]))
        if reference.result is None:
            raise Unsupported(f"the input {key} is no image that was built here")
        image = await store(kit.engine, reference.result)
        found[name] = f"docker-image://{image.id}"
    return found


def reference_in(definition: Definition) -> str:
    """The id of our reference in a definition that `definition_of` has made. Raises Unsupported for a foreign one."""
    for encoded in definition.ops:
        source = Op.decode(encoded).source
        if source is not None and source.identifier.startswith(BUILT):
            return source.identifier.removeprefix(BUILT)
    raise Unsupported(
        "graphs of operations (LLB) are not executed here", hint="build a Dockerfile, or use another builder"
    )
