"""Build an image from a Dockerfile, step by step, as the classic builder does.

Every step gives an image, so that the next build can begin where something changed. The cache holds only what was
built here, by parent, instruction and contents; images that were pulled or loaded never enter it (CVE-2024-24557).
COPY and ADD write their layer straight from the context or from another stage's layers: no container, no mount.
"""

import asyncio
import hashlib
import posixpath
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from longshore.build.cache import SCHEMA, StepCache
from longshore.build.context import decompressed
from longshore.build.copying import Placed, Request, digest_of, plan_copy, plan_directory, write_layer
from longshore.build.dockerfile import parse_dockerfile
from longshore.build.events import (
    Cached,
    Done,
    Event,
    Failed,
    Note,
    Output,
    Planned,
    Running,
    Started,
    Step,
    Transfer,
)
from longshore.build.fetch import with_remote_files
from longshore.build.options import BuildOptions
from longshore.build.owners import OwnerLookup, parse_owner
from longshore.build.ports import ContextFiles, Door, Wanted
from longshore.build.result import Built, Result
from longshore.build.running import BuildFailed, container_request, run_container
from longshore.build.stages import Plan, Stage, declared_arguments, plan_stages
from longshore.build.trees import LayersTree, Tree, WithoutIgnored, resolve
from longshore.core.engine import Engine
from longshore.core.images import Image
from longshore.errors import EngineError, InvalidArgument, NotFound
from longshore.oci.changes import DEFAULT_SHELL, command_of, configure, environment, history_words
from longshore.oci.descriptor import host_platform
from longshore.oci.dockerfile_instruction import Instruction, parse_instruction
from longshore.oci.dockerfile_words import expand, expand_words
from longshore.oci.ignore import Ignore
from longshore.oci.image_config import ContainerDefaults, ImageConfig, RootFS
from longshore.oci.reference import parse_reference

MAX_TEXT = 1 << 20  # of /etc/passwd, /etc/group and the Dockerfile

# Build arguments that work without ARG (Dockerfile reference, "Predefined ARGs"); they leave no trace in the image.
PREDEFINED = frozenset(
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
)


@dataclass(slots=True)
class State:
    """Where a stage stands: the image so far, the configuration for the next one."""

    stage: Stage
    image: Image | None = None
    config: ContainerDefaults = field(default_factory=ContainerDefaults)
    arguments: dict[str, str] = field(default_factory=dict[str, str])
    cmd_set: bool = False
    cached: bool = True  # one miss ends the use of the cache in this stage

    @property
    def variables(self) -> dict[str, str]:
        return self.arguments | environment(self.config)  # ENV always overrides ARG


class Builder:
    def __init__(self, engine: Engine, scratch: Path) -> None:
        """`scratch`: a folder on the disk of the images, for the context."""
        self._engine, self._scratch = engine, scratch
        engine.database.migrate("build", SCHEMA)

    async def prepare(self, options: BuildOptions, door: Door) -> "Build":
        """Judge the request and the Dockerfile before anything is said to the client.

        The caller ends the build with `Build.close`. Raises InvalidArgument for a missing or wrong Dockerfile, a bad
        tag or target.
        """
        for tag in options.tags:
            parse_reference(tag)
        source = await door.dockerfile()
        dockerfile = parse_dockerfile(_text(source.data))
        plan = plan_stages(dockerfile, options.build_args, options.target)
        ignore = Ignore((source.ignore or b"").decode(errors="replace"))
        return Build(self._engine, self._scratch, options, door, ignore, plan, dockerfile.escape)


def _text(data: bytes) -> str:
    if len(data) > MAX_TEXT:
        raise InvalidArgument(f"the Dockerfile is too large: {len(data)} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as cause:
        raise InvalidArgument("the Dockerfile is no UTF-8 text", detail=str(cause)) from cause


class Build:
    """One build: run it once, take `result`, close it."""

    def __init__(
        self,
        engine: Engine,
        scratch: Path,
        options: BuildOptions,
        door: Door,
        ignore: Ignore,
        plan: Plan,
        escape: str,
    ) -> None:
        self._engine, self._options, self._plan, self._escape = engine, options, plan, escape
        self._door, self._ignore, self._scratch = door, ignore, scratch
        self._context: ContextFiles | None = None
        self._finished: dict[int, State] = {}
        self._used: set[str] = set()
        self._cache = StepCache(engine, options.cache_from)
        self._steps = _plan_steps(plan)
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """What was built; only after `run` has ended without an error."""
        assert self._result is not None
        return self._result

    async def close(self) -> None:
        """Give back the context. Twice is fine."""
        if self._context is not None:
            self._context.close()
            self._context = None

    async def run(self) -> AsyncGenerator[Event, None]:
        """Build, and tell about it. Closing the generator stops and removes the running step.

        Raises EngineError when a step fails (BuildFailed when a command does); nothing half-made stays.
        """
        yield Planned(tuple(self._steps.values()))
        state: State | None = None
        for stage in self._plan.stages:
            state = State(stage)
            async for event in self._stage(state):
                yield event
            self._finished[stage.number] = state
        assert state is not None  # a plan has at least one stage
        if self._options.labels:
            await self._labels(state)
        if state.image is None:
            raise InvalidArgument("No image was generated. Is your Dockerfile empty?")
        unused = sorted(set(self._options.build_args) - self._used - PREDEFINED)
        if unused:
            yield Note(f"[Warning] One or more build-args {unused} were not consumed")
        self._result = Result((_built(state.image),))

    # Stages and steps

    async def _stage(self, state: State) -> AsyncGenerator[Event, None]:
        source = self._steps[state.stage.source.line]
        yield Started(source)
        async for event in self._from(state):
            yield event
        yield Done(source.id, str(state.image.id) if state.image else "")
        triggers = [parse_instruction(state.stage.source.line, text) for text in state.config.on_build or []]
        if triggers:
            state.config = msgspec.structs.replace(state.config, on_build=None)
            yield Note(f"# Executing {len(triggers)} build triggers")
        for trigger in triggers:
            async for event in self._step(state, trigger, source):
                yield event
        for instruction in state.stage.steps:
            step = self._steps[instruction.line]
            yield Started(step)
            try:
                async for event in self._step(state, instruction, step):
                    yield event
            except EngineError as error:
                yield Failed(step.id, error)
                raise

    async def _files(self) -> Tree:
        """The build context without what .dockerignore leaves out."""
        if self._context is None:
            self._context = await self._door.context("", Wanted())
        return WithoutIgnored(self._context, self._ignore)

    async def _from(self, state: State) -> AsyncGenerator[Event, None]:
        base = self._stage_named(state.stage.base, state.stage.number)
        if base is not None:
            state.image, state.config = base.image, base.config
        elif state.stage.base != "scratch":
            async for event in self._fetch_base(state, state.stage.base):
                yield event
        if state.image is not None:
            state.config = base.config if base else state.image.config.defaults

    async def _fetch_base(self, state: State, name: str) -> AsyncGenerator[Event, None]:
        """The local image, or a pulled one whose progress goes to the client."""
        images = self._engine.images
        if not self._options.pull:
            try:
                state.image = images.get(name)
                return
            except NotFound:
                pass
        lines: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()
        step = self._steps[state.stage.source.line].id
        reference = parse_reference(name).with_default_tag()
        platform = state.stage.platform or self._options.platform
        credentials = await self._door.credentials(reference.domain)

        async def pull() -> Image:
            try:
                return await images.pull(
                    str(reference), platform=platform, auth=credentials, progress=lines.put_nowait
                )
            finally:
                lines.put_nowait(None)

        task = asyncio.create_task(pull())
        try:
            while (line := await lines.get()) is not None:
                yield Transfer(step, str(line.get("id", "")), str(line.get("status", "")), message=line)
            state.image = await task
        finally:
            task.cancel()

    def _stage_named(self, name: str, before: int) -> State | None:
        for number, state in sorted(self._finished.items(), reverse=True):
            if number < before and (state.stage.name == name.lower() or str(number) == name):
                return state
        return None

    async def _step(self, state: State, instruction: Instruction, step: Step) -> AsyncGenerator[Event, None]:
        """One instruction; ends with Done or Cached, except for triggers of ONBUILD, which are no steps."""
        match instruction.keyword:
            case "ARG":
                self._declare(state, instruction)
                cached = False
            case "RUN":
                async for event in self._run(state, instruction, step):
                    yield event
                return
            case "COPY" | "ADD":
                cached = await self._copy(state, instruction)
            case "WORKDIR":
                state.config = configure(instruction, state.config, state.variables, self._escape)
                cached = await self._workdir(state, instruction)
            case _:
                words = self._configure(state, instruction)
                cached = await self._commit_step(state, _comment(f" {words}"), instruction.original)
        image = str(state.image.id) if state.image else ""
        yield Cached(step.id, image) if cached else Done(step.id, image)

    def _declare(self, state: State, instruction: Instruction) -> None:
        given = self._options.build_args
        declared = declared_arguments(instruction, given, state.variables, self._escape)
        for word in expand_words(instruction.text, state.variables, self._escape):
            name = word.partition("=")[0]
            self._used.add(name)
            # An ARG before FROM gives its value to an ARG without one.
            if name not in declared and name in self._plan.arguments:
                declared[name] = self._plan.arguments[name]
        state.arguments |= declared

    def _configure(self, state: State, instruction: Instruction) -> str:
        """Change the state's configuration; returns the words of the history."""
        variables = state.variables
        state.config = configure(instruction, state.config, variables, self._escape, cmd_set=state.cmd_set)
        state.cmd_set = state.cmd_set or instruction.keyword == "CMD"
        return history_words(instruction, state.config, variables, self._escape)

    async def _labels(self, state: State) -> None:
        labels = dict(self._options.labels)
        state.config = msgspec.structs.replace(state.config, labels={**(state.config.labels or {}), **labels})
        text = "LABEL " + " ".join(f"{name}={value}" for name, value in sorted(labels.items()))
        await self._commit_step(state, _comment(f" {text}"), text)

    # The cache

    def _key(self, state: State, *parts: object) -> str:
        parent = str(state.image.id) if state.image else "scratch"
        config = msgspec.json.encode(state.config)
        return hashlib.sha256(repr((parent, config, parts)).encode()).hexdigest()

    def _cached(self, state: State, key: str) -> Image | None:
        found = self._cache.find(key) if state.cached and not self._options.no_cache else None
        state.cached = found is not None
        return found

    def _remember(self, state: State, key: str, image: Image) -> None:
        state.image = image
        self._cache.remember(key, image)

    # Steps that only change the configuration

    async def _commit_step(self, state: State, comment: str, original: str) -> bool:
        """Whether the cache had it."""
        key = self._key(state, "config", original)
        image = self._cached(state, key)
        if image is not None:
            state.image = image
            return True
        made = await self._engine.images.commit(state.image, None, self._config(state), created_by=comment)
        self._remember(state, key, made)
        return False

    def _config(self, state: State) -> ImageConfig:
        base = state.image.config if state.image else None
        here = host_platform()
        return ImageConfig(
            architecture=base.architecture if base else here.architecture,
            os=base.os if base else here.os,
            variant=base.variant if base else here.variant,
            rootfs=RootFS(),
            config=state.config,
        )

    # Steps that add files

    async def _copy(self, state: State, instruction: Instruction) -> bool:
        image = await self._layers_of(state.image)
        origin = instruction.flags.get("from")
        if origin is None:
            source = await self._files()
        else:
            source = await self._source_image(state, expand(origin, state.variables, self._escape))
        request = self._copy_request(state, instruction, image)
        request, source = await with_remote_files(request, source, self._scratch)
        placed = await asyncio.to_thread(plan_copy, request, source, image, decompressed)
        digest = await asyncio.to_thread(digest_of, placed, request)
        kind = "dir" if any(item.entry.is_directory and item.entry.real for item in placed) else "file"
        comment = _comment(f"{instruction.keyword} {kind}:{digest} in {request.destination}")
        return await self._layer_step(state, comment, placed, request, digest)

    async def _workdir(self, state: State, instruction: Instruction) -> bool:
        """The directory is made when the image lacks it, so that RUN and the container begin there."""
        image = await self._layers_of(state.image)
        request = Request("WORKDIR", (), state.config.working_dir)
        placed = plan_directory(state.config.working_dir, image)
        words = _comment(f"WORKDIR {state.config.working_dir}")
        if not placed:
            return await self._commit_step(state, words, instruction.original)
        return await self._layer_step(state, words, placed, request, instruction.original)

    async def _layer_step(
        self, state: State, comment: str, placed: list[Placed], request: Request, digest: str
    ) -> bool:
        """Whether the cache had it."""
        key = self._key(state, "layer", request.destination, digest)
        image = self._cached(state, key)
        if image is not None:
            state.image = image
            return True
        made = await self._engine.images.commit_tar(
            state.image,
            lambda write: write_layer(placed, request, write),
            self._config(state),
            created_by=comment,
        )
        self._remember(state, key, made)
        return False

    def _copy_request(self, state: State, instruction: Instruction, image: Tree) -> Request:
        if instruction.words is not None:
            words = [expand(word, state.variables, self._escape) for word in instruction.words]
        else:
            words = expand_words(instruction.text, state.variables, self._escape)
        if len(words) < 2:
            raise instruction.error(
                f"{instruction.keyword} requires at least two arguments, but only one was provided"
            )
        *sources, destination = words
        slash = "/" if destination.endswith(("/", "/.")) or destination in (".", "./") else ""
        base = state.config.working_dir or "/"
        absolute = posixpath.normpath(posixpath.join("/", base, destination))
        owner = instruction.flags.get("chown")
        mode = instruction.flags.get("chmod")
        return Request(
            instruction.keyword,
            tuple(sources),
            absolute if absolute == "/" else absolute + slash,
            owner=self._owner(expand(owner, state.variables, self._escape), image) if owner else None,
            mode=_octal(instruction, expand(mode, state.variables, self._escape)) if mode else None,
            unpack=instruction.keyword == "ADD",
        )

    def _owner(self, text: str, image: Tree) -> tuple[int, int]:
        def read(path: str) -> str:
            entry = image.entry(resolve(image, path))
            if entry is None or not entry.is_file:
                return ""
            with image.open(entry) as stream:
                return stream.read(MAX_TEXT).decode(errors="replace")

        return parse_owner(text, OwnerLookup(read("/etc/passwd"), read("/etc/group")))

    async def _layers_of(self, image: Image | None) -> LayersTree:
        images = self._engine.images
        if image is None:
            return LayersTree([])
        await images.ensure_unpacked(image)
        return LayersTree([images.layers.directory / name for name in images.rootfs(image)])

    async def _source_image(self, state: State, name: str) -> LayersTree:
        stage = self._stage_named(name, state.stage.number)
        if stage is not None:
            return await self._layers_of(stage.image)
        other = State(state.stage)
        async for _ in self._fetch_base(other, name):
            pass
        return await self._layers_of(other.image)

    # RUN

    async def _run(self, state: State, instruction: Instruction, step: Step) -> AsyncGenerator[Event, None]:
        if state.image is None:
            raise instruction.error("RUN needs a base image; this stage is FROM scratch and empty so far")
        command = command_of(instruction, state.config)
        arguments = self._run_arguments(state)
        traced = [f"{name}={value}" for name, value in arguments.items() if name not in PREDEFINED]
        created_by = " ".join([f"|{len(traced)}", *traced, *command] if traced else command)
        key = self._key(state, "run", command, sorted(traced), instruction.flags)
        image = self._cached(state, key)
        if image is not None:
            state.image = image
            yield Cached(step.id, str(image.id))
            return
        containers = self._engine.containers
        network = instruction.flags.get("network", "")
        request = container_request(state.image, state.config, command, arguments, self._options, network)
        container = await containers.create("", request)
        keep = False
        try:
            yield Running(step.id, container.id)
            try:
                async for stream, data in run_container(containers, container, " ".join(command)):
                    yield Output(step.id, stream, data)
            except BuildFailed:
                keep = not self._options.force_remove  # for a look at what went wrong, as Docker does
                raise
            keep = not self._options.remove
            made = await self._engine.images.commit(
                state.image, containers.upper(container), self._config(state), created_by=created_by
            )
            self._remember(state, key, made)
        finally:
            if not keep:
                await containers.remove(container, force=True, volumes=True)
        yield Done(step.id, str(made.id), container.id)

    def _run_arguments(self, state: State) -> dict[str, str]:
        """Build arguments that RUN sees: declared ones and the predefined, where ENV does not override them."""
        predefined = {
            name: value
            for name, value in self._options.build_args.items()
            if name in PREDEFINED and value is not None
        }
        known = environment(state.config)
        return {
            name: value for name, value in sorted((predefined | state.arguments).items()) if name not in known
        }


def _comment(text: str) -> str:
    """History's words for a step that ran nothing."""
    return f"{' '.join(DEFAULT_SHELL)} #(nop) {text}"


def _octal(instruction: Instruction, text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o7777:
        raise instruction.error(
            f"invalid chmod parameter: {text!r}; it should be octal and between 0 and 07777"
        )
    return mode


def _plan_steps(plan: Plan) -> dict[int, Step]:
    """By line of the Dockerfile, in its order."""
    steps: dict[int, Step] = {}
    last: dict[int, str] = {}
    for stage in plan.stages:
        instructions = [stage.source, *stage.steps]
        for place, instruction in enumerate(instructions, start=1):
            id = f"sha256:{hashlib.sha256(repr((stage.number, place, instruction.original)).encode()).hexdigest()}"
            shown = stage.name or (f"stage-{stage.number}" if len(plan.stages) > 1 else "")
            name = f"[{shown} {place}/{len(instructions)}]".replace("[ ", "[") + f" {instruction.original}"
            inputs = (last[stage.number],) if stage.number in last else ()
            steps[instruction.line] = Step(
                id, name, inputs, len(steps) + 1, plan.steps, instruction.original,
                stage.name or str(stage.number), instruction.line,
            )  # fmt: skip
            last[stage.number] = id
    return steps


def _built(image: Image) -> Built:
    platform = "/".join(filter(None, (image.config.os, image.config.architecture, image.config.variant)))
    return Built(platform, image.raw_config, image.config, image.layers, image.parent)
