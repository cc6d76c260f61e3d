"""Builds: a Dockerfile becomes stages, the stages that the target needs run beside one another, the result is a value.

Every stage is one task that others wait for (longshore.build.stage_run); what they share is a `Work`. The cache is
keyed by content (longshore.build.cache). Nothing is registered as an image before a door stores the result.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from functools import partial
from typing import Any

from longshore.build.arguments import CONTROL, PREDEFINED, epoch_of
from longshore.build.chain import Snapshot
from longshore.build.dockerfile import Dockerfile, parse_dockerfile
from longshore.build.events import Event, Note, Planned, Step, Warned
from longshore.build.finish import finished
from longshore.build.lint import checks_of, lint
from longshore.build.options import BuildOptions
from longshore.build.ports import Door, DockerfileSource
from longshore.build.result import Result
from longshore.build.stage_run import StageRun
from longshore.build.stages import Plan, Stage, plan_build
from longshore.build.work import Work
from longshore.build.upload import Upload
from longshore.build.workshop import Workshop, workshop_of
from longshore.core.engine import Engine
from longshore.core.images.model import Image
from longshore.errors import EngineError, InvalidArgument, NotFound, Unsupported
from longshore.oci.descriptor import parse_platform
from longshore.oci.ignore import Ignore
from longshore.oci.reference import parse_reference

MAX_TEXT = 1 << 20  # bytes of a Dockerfile
_WAITING = 256  # events that a slow client may lag behind; then the build waits


class Builder:
    """The way into this package for doors. Cheap to make; the daemon's Workshop is behind it."""

    def __init__(self, engine: Engine) -> None:
        self._workshop = workshop_of(engine)

    async def prepare(self, options: BuildOptions, door: Door) -> "Build":
        """Judge the request and the Dockerfile before anything is said to the client.

        The caller ends the build with `Build.close`. Raises InvalidArgument for a missing or wrong Dockerfile, a bad
        tag, platform or target, and for findings of the linter that `# check=error=true` makes errors.
        """
        for tag in options.tags:
            parse_reference(tag)
        for platform in options.platforms:
            parse_platform(platform)
        check_cache(options)
        remote = await self._remote(options)
        try:
            source = await _dockerfile(door, remote)
            return self._judged(options, door, source, remote)
        except BaseException:
            if remote is not None:
                remote.close()
            raise

    async def _remote(self, options: BuildOptions) -> Upload | None:
        if not options.remote:
            return None
        keep = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") == "1"
        scratch = self._workshop.scratch
        return await Upload.fetch(options.remote, scratch, options.dockerfile, {}, keep_git_dir=keep)

    def _judged(
        self, options: BuildOptions, door: Door, source: DockerfileSource, remote: Upload | None
    ) -> "Build":
        dockerfile = parse_dockerfile(_text(source.data))
        plans = [
            plan_build(dockerfile, options.build_args, options.target, platform)
            for platform in options.platforms or ("",)
        ]
        ignore = (source.ignore or b"").decode(errors="replace")
        checks = checks_of(dockerfile, options.build_args)
        warnings = lint(dockerfile, plans[0].scope, checks, Ignore(ignore))
        if warnings and checks.error and not options.check:
            rules = ", ".join(sorted({warning.rule for warning in warnings}))
            first = warnings[0]
            raise InvalidArgument(
                f"lint violation found for rules: {rules}", detail=f"line {first.start}: {first.message}"
            )
        build = Build(self._workshop, options, door, dockerfile, ignore, plans, warnings)
        build.remote = remote
        return build


async def _dockerfile(door: Door, remote: Upload | None) -> DockerfileSource:
    """The door's own before that of a remote context."""
    if remote is None:
        return await door.dockerfile()
    try:
        return await door.dockerfile()
    except InvalidArgument:
        return await remote.dockerfile()


def check_cache(options: BuildOptions) -> None:
    """Raises Unsupported for caches that we cannot read or write.

    Inline needs nothing written: the history of an image that was built here tells which steps it was made of.
    """
    for entry in options.cache_imports:
        if entry.type not in ("registry", "inline"):
            raise Unsupported(f"cannot import a cache of type {entry.type!r}", hint="type=registry,ref=IMAGE")
    for entry in options.cache_exports:
        if entry.type != "inline":
            raise Unsupported(
                f"cannot export the cache as type {entry.type!r}", hint="type=inline, and push the image"
            )


def _text(data: bytes) -> str:
    if len(data) > MAX_TEXT:
        raise InvalidArgument(f"the Dockerfile is too large: {len(data)} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as cause:
        raise InvalidArgument("the Dockerfile is no UTF-8 text", detail=str(cause)) from cause


class Build:
    """One build: run it once, take `result`, close it. `warnings` are there from the beginning."""

    def __init__(
        self,
        workshop: Workshop,
        options: BuildOptions,
        door: Door,
        dockerfile: Dockerfile,
        ignore: str,
        plans: list[Plan],
        warnings: list[Warned],
    ) -> None:
        self.warnings = tuple(warnings)
        self.dockerfile = dockerfile
        self.remote: Upload | None = None  # the main context, where the client does not have it
        self._workshop, self._options, self._door = workshop, options, door
        self._ignore, self._plans = ignore, plans
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING)
        self._closing = ExitStack()  # leases; what is let go at the end
        self._stages: dict[tuple[int, int], asyncio.Task[Snapshot]] = {}
        self._works: list[Work] = []
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """What was built; only after `run` has ended without an error."""
        assert self._result is not None
        return self._result

    async def close(self) -> None:
        """Give back the contexts and what kept the layers. Twice is fine."""
        if self.remote is not None:
            self.remote.close()
        self._closing.close()

    async def run(self) -> AsyncGenerator[Event, None]:
        """Build, and tell about it. Closing the generator stops and removes the running steps.

        Raises EngineError when a step fails (BuildFailed when a command does); nothing half-made stays but the layers
        of steps that were done, for the next try.
        """
        images = self._workshop.engine.images
        self._closing.enter_context(images.content.lease("a build"))
        self._closing.enter_context(images.layers.lease("a build"))
        for warning in self.warnings:
            yield warning
        main = asyncio.ensure_future(self._main())
        try:
            while (event := await self._events.get()) is not None:
                yield event
            await main
        finally:
            await self._stop(main)
        for text in self._remarks():
            yield Note(text)

    async def _main(self) -> None:
        """The build, or the first failure of any stage; then the end of all events."""
        build = asyncio.ensure_future(self._build())
        try:
            await asyncio.wait([build, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if not build.done():
                self._failed.result()  # raises
            await build
        finally:
            build.cancel()
            await asyncio.wait([build])
            await self._events.put(None)

    async def _stop(self, main: "asyncio.Task[None]") -> None:
        """End whatever still runs and wait for it: containers are removed by then."""
        tasks: list[asyncio.Task[Any]] = [main, *self._stages.values()]
        tasks += [task for work in self._works for task in work.memory.values()]
        for task in tasks:
            task.cancel()
        while pending := [task for task in tasks if not task.done()]:
            while not self._events.empty():  # somebody may wait for room to tell
                self._events.get_nowait()
            await asyncio.wait(pending, timeout=0.05)
        for future in (*tasks, self._failed):
            if future.done() and not future.cancelled():
                future.exception()  # told by the step that failed
        for work in self._works:
            for close in work.closers:
                close()
            self._workshop.cache.settle(work.moments, work.used_keys)
            work.closers, work.moments, work.used_keys = [], {}, []

    async def _build(self) -> None:
        total, platforms = sum(plan.total for plan in self._plans), self._options.platforms
        steps: list[dict[int, Step]] = []
        for number, plan in enumerate(self._plans):
            shown = platforms[number] if len(platforms) > 1 else ""
            steps.append(plan.steps(before=sum(map(len, steps)), total=total, platform=shown))
        await self._events.put(Planned(tuple(step for one in steps for step in one.values())))
        sources = self._cache_images()
        imported = await self._imported()
        for number, plan in enumerate(self._plans):
            self._works.append(self._work(number, plan, steps[number], sources, imported))
        targets = (self._stage(number, plan.target) for number, plan in enumerate(self._plans))
        snapshots = await asyncio.gather(*targets)
        built = [await finished(work, snapshot) for work, snapshot in zip(self._works, snapshots, strict=True)]
        self._result = Result(tuple(built), self.warnings, self._options.annotations, self._works[0].epoch)

    def _work(
        self,
        number: int,
        plan: Plan,
        steps: dict[int, Step],
        sources: tuple[Image, ...] | None,
        imported: tuple[Image, ...],
    ) -> Work:
        options = self._options
        return Work(
            workshop=self._workshop,
            options=options,
            door=self._door,
            plan=plan,
            ignore=Ignore(self._ignore),
            ignore_lines=tuple(self._ignore.splitlines()),
            epoch=epoch_of(options.build_args, plan.scope),
            platform=options.platforms[number] if options.platforms else "",
            steps=steps,
            lines=self.dockerfile.lines,
            remote=self.remote,
            cache_images=sources,
            imported=imported,
            emit=self._events.put,
            stage=partial(self._stage, number),
        )

    async def _stage(self, number: int, stage: Stage) -> Snapshot:
        """The finished stage; built when somebody asks for the first time."""
        key = number, stage.number
        if key not in self._stages:
            task = asyncio.ensure_future(StageRun(self._works[number], stage).run())
            task.add_done_callback(self._stage_ended)
            self._stages[key] = task
        return await asyncio.shield(self._stages[key])

    def _stage_ended(self, task: "asyncio.Task[Snapshot]") -> None:
        """The first stage that fails ends the build, whatever the others are at."""
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    def _cache_images(self) -> tuple[Image, ...] | None:
        """The images of --cache-from that are here; None without the option."""
        if not self._options.cache_from:
            return None
        found: list[Image] = []
        for name in self._options.cache_from:
            try:
                found.append(self._workshop.engine.images.get(name))
            except (NotFound, InvalidArgument):
                continue
        return tuple(found)

    async def _imported(self) -> tuple[Image, ...]:
        """The images of --cache-from type=registry; one that cannot be had is no reason not to build."""
        images = self._workshop.engine.images
        found: list[Image] = []
        for entry in self._options.cache_imports:
            name = entry.attributes.get("ref", "")
            try:
                found.append(images.get(name))
                continue
            except (NotFound, InvalidArgument):
                pass
            try:
                reference = parse_reference(name).with_default_tag()
                credentials = await self._door.credentials(reference.domain)
                found.append(await images.transfer.pull(str(reference), auth=credentials, progress=lambda _message: None))
            except EngineError as error:
                await self._events.put(Note(f"importing cache from {name} failed: {error}"))
        return tuple(found)

    def _remarks(self) -> list[str]:
        used = {name for work in self._works for name in work.used_arguments}
        used |= {name for plan in self._plans for name in plan.scope.declared}
        unused = sorted(set(self._options.build_args) - used - PREDEFINED - CONTROL)
        return [f"[Warning] One or more build-args {unused} were not consumed"] if unused else []

