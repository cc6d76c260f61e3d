"""One stage at work: its instructions one after another, each from the cache or carried out."""

import asyncio
import hashlib
import posixpath
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec

from longshore.build import copying, running
from longshore.build.arguments import PREDEFINED, expanded, stage_arguments
from longshore.build.cache import Record
from longshore.build.chain import Snapshot
from longshore.build.chmod import parse_mode
from longshore.build.context import decompressed
from longshore.build.copying import Placed, Request, digest_of, plan_copy, plan_directory, write_layer
from longshore.build.dockerfile import excerpt
from longshore.build.events import Cached, Done, Event, Failed, Note, Output, Running, Started, Step
from longshore.build.flights import Listener
from longshore.build.image_cache import next_of_image
from longshore.build.mounting import Asked
from longshore.build.mounting import find as find_mount
from longshore.build.owners import owner_in
from longshore.build.run_mounts import RunMount, parse_mount
from longshore.build.running import Command
from longshore.build.sources import copy_sources
from longshore.build.stages import Stage, inputs_of
from longshore.build.trees import LayersTree
from longshore.build.work import Origin, Work, is_native
from longshore.core.images.model import Layer
from longshore.errors import EngineError, InvalidArgument, Unsupported
from longshore.oci.descriptor import parse_platform
from longshore.oci.changes import DEFAULT_SHELL, command_of, configure, environment, history_words
from longshore.oci.dockerfile_instruction import Instruction, parse_heredoc, parse_instruction
from longshore.oci.dockerfile_words import expand_words
from longshore.oci.image_config import ContainerDefaults

_NETWORKS = frozenset({"default", "none", "host"})


class StageRun:
    def __init__(self, work: Work, stage: Stage) -> None:
        self.work, self.stage, self.escape = work, stage, work.plan.escape
        self.state = Snapshot(parse_platform(work.platform))
        self.arguments: dict[str, str] = {}
        self.cmd_set = False
        self.last: Step | None = None
        self.no_cache = work.options.no_cache or bool(
            {stage.name, str(stage.number)} & work.options.no_cache_stages
        )

    @property
    def variables(self) -> dict[str, str]:
        return self.arguments | environment(self.state.config)  # ENV always overrides ARG

    async def run(self) -> Snapshot:
        """Raises EngineError; the step that failed has told it then."""
        for other in inputs_of(self.work.plan, self.stage):
            asyncio.ensure_future(_quietly(self.work.stage(other)))  # noqa: RUF006  beside us; errors reach who waits
        source = self.work.steps[self.stage.source.line]
        await self.told(source, self.stage.source, self.begin)
        for instruction in self.stage.steps:
            step = self.work.steps[instruction.line]
            await self.told(step, instruction, lambda i=instruction, s=step: self.carry_out(i, s))
        return self.state

    async def told(
        self, step: Step, instruction: Instruction, work: Callable[[], Awaitable[Event]]
    ) -> None:
        emit = self.work.emit
        await emit(Started(step))
        try:
            await emit(await work())
        except EngineError as error:
            shown = excerpt(self.work.lines, instruction.line, instruction.end)
            await emit(Failed(step.id, error, shown))
            raise

    # FROM

    async def begin(self) -> Event:
        stage, work = self.stage, self.work
        other = work.plan.stage(stage.base, stage.number)
        named = {stage.base, stage.base.lower()} & work.options.contexts.keys()
        step = work.steps[stage.source.line]
        if other is not None and not named:
            self.state = await work.stage(other)
            return Done(step.id, self.state.id)
        self.state = await work.base(stage)
        triggers = self.state.config.on_build or []
        if triggers:
            config = msgspec.structs.replace(self.state.config, on_build=None)
            self.state = replace(self.state, config=config, raw_config=b"")
            await work.emit(Note(f"# Executing {len(triggers)} build trigger{'s' * (len(triggers) > 1)}"))
        for text in triggers:
            await self.carry_out(parse_instruction(stage.source.line, text, self.escape), step)
        return Done(step.id, self.state.id)

    # Instructions

    async def carry_out(self, instruction: Instruction, step: Step) -> Event:
        match instruction.keyword:
            case "ARG":
                self.declare(instruction)
                return Done(step.id, self.state.id)
            case "RUN":
                return await self.run_command(instruction, step)
            case "COPY" | "ADD":
                return await self.copy(instruction, step)
            case "WORKDIR":
                return await self.workdir(instruction, step)
            case _:
                return self.configured(instruction, step)

    def declare(self, instruction: Instruction) -> None:
        work = self.work
        names = {word.partition("=")[0] for word in instruction.text.split()}
        work.used_arguments |= names
        self.arguments |= stage_arguments(
            instruction, work.options.build_args, work.plan.scope, self.variables, self.escape
        )

    def configured(self, instruction: Instruction, step: Step) -> Event:
        variables = self.variables
        config = configure(instruction, self.state.config, variables, self.escape, cmd_set=self.cmd_set)
        self.cmd_set = self.cmd_set or instruction.keyword == "CMD"
        words = history_words(instruction, config, variables, self.escape)
        author = instruction.text if instruction.keyword == "MAINTAINER" else ""
        cached = self.commit(config, _comment(f" {words}"), author=author)
        return Cached(step.id, self.state.id) if cached else Done(step.id, self.state.id)

    def commit(self, config: ContainerDefaults, created_by: str, *, author: str = "") -> bool:
        """A step that only configures. Whether it was taken before, with the time it had then."""
        work, shape = self.work, self.state.next_shape(config, created_by, None)
        moment = "" if self.no_cache or work.epoch is not None else work.workshop.cache.moment(shape)
        if moment and not self.allowed(created_by, None):
            moment = ""
        if not moment:
            work.moments[shape] = work.now()
        self.state = self.state.after(config, created_by, None, moment or work.moments[shape], author=author)
        return bool(moment)

    def allowed(self, created_by: str, layer: Layer | None) -> bool:
        """--cache-from of the classic door: only steps of the named images come from the cache."""
        images = self.work.cache_images
        if images is None:
            return True
        steps = [next_of_image(image, self.state, created_by) for image in images]
        wanted = layer.diff_id if layer else None
        return any(step and (step.layer.diff_id if step.layer else None) == wanted for step in steps)

    # RUN

    async def run_command(self, instruction: Instruction, step: Step) -> Event:
        work, state = self.work, self.state
        if not state.layers:
            raise instruction.error("RUN needs a base image; this stage is FROM scratch and empty so far")
        if not is_native(state.platform):
            raise Unsupported(
                f"cannot RUN for {state.platform} on this machine", hint="FROM --platform=$BUILDPLATFORM runs here"
            )
        arguments = self.run_arguments()
        argv, script = _command(instruction, self)
        traced = [f"{name}={value}" for name, value in arguments.items() if name not in PREDEFINED]
        created_by = " ".join([f"|{len(traced)}", *traced, *argv] if traced else argv)
        mounts = [self.parsed_mount(instruction, text) for text in instruction.repeated.get("mount", ())]
        asked = [await self.found(instruction, mount) for mount in mounts]
        command = Command(
            argv=tuple(argv),
            env=(*(state.config.env or ()), *(f"{name}={value}" for name, value in arguments.items())),
            network=self.network(instruction),
            mounts=tuple(asked),
            script=script,
        )
        traced_env = (*(state.config.env or ()), *traced)
        key = _hashed(replace(command, env=traced_env).key(state.root(), state, work))

        async def make(say: "Listener[object]") -> Layer | None:
            return await running.run(work, state, command, say)

        source = None if mounts else created_by
        return await self.layer(step, key, created_by, make, description=instruction.original, source=source)

    def run_arguments(self) -> dict[str, str]:
        """Build arguments that RUN sees: declared ones and the predefined, where ENV does not override them."""
        given = self.work.options.build_args
        predefined = {name: v for name, v in given.items() if name in PREDEFINED and v is not None}
        known = environment(self.state.config)
        found = predefined | self.arguments
        return {name: value for name, value in sorted(found.items()) if name not in known}

    def network(self, instruction: Instruction) -> str:
        security = instruction.flags.get("security", "sandbox")
        if security == "insecure":
            raise instruction.error(
                "RUN --security=insecure is not allowed", hint="it would have the rights of the host's root"
            )
        if security != "sandbox":
            raise instruction.error(f"security {security!r} is not valid", hint="sandbox is the only one")
        network = instruction.flags.get("network", "")
        if network and network not in _NETWORKS:
            raise instruction.error(f"unsupported network mode {network!r}", hint="default, none or host")
        chosen = self.work.options.network_mode
        if network == "host" and chosen != "host" and "network.host" not in self.work.options.entitlements:
            raise instruction.error(
                "RUN --network=host needs the entitlement network.host", hint="allow it: --allow network.host"
            )
        return chosen if network in ("", "default") else network

    def parsed_mount(self, instruction: Instruction, text: str) -> RunMount:
        try:
            return parse_mount(text, lambda word: expanded(instruction, word, self.variables, self.escape))
        except InvalidArgument as cause:
            if str(cause).startswith("dockerfile parse error"):
                raise
            raise instruction.error(str(cause)) from cause

    async def found(self, instruction: Instruction, mount: RunMount) -> Asked:
        work = self.work
        origin: Origin | None = None
        if mount.kind == "bind" or mount.origin:
            origin = await (work.origin(mount.origin, self.stage) if mount.origin else work.context())
        try:
            return await asyncio.to_thread(find_mount, mount, origin, self.state.config.working_dir)
        except InvalidArgument as cause:
            raise instruction.error(str(cause)) from cause

    # COPY, ADD and WORKDIR

    async def copy(self, instruction: Instruction, step: Step) -> Event:
        work = self.work
        image = LayersTree([]) if instruction.flag("link") else work.tree(self.state)
        request = self.copy_request(instruction, image)
        async with copy_sources(work, self, instruction) as sources:
            async with work.workshop.slots:
                placed = await asyncio.to_thread(plan_copy, request, sources, image, decompressed)
                digest = await asyncio.to_thread(digest_of, placed)
            kind = "dir" if any(item.entry.is_directory and item.copied for item in placed) else "file"
            created_by = _comment(f"{instruction.keyword} {kind}:{digest} in {request.destination}")
            return await self.files(step, created_by, placed, digest, instruction.original)

    async def files(
        self, step: Step, created_by: str, placed: list[Placed], digest: str, description: str
    ) -> Event:
        """A layer of planned files. The plan says all about it, so that its digest is the key."""
        work = self.work
        latest = work.epoch if work.options.rewrite_timestamp else None
        key = _hashed(repr(("files", digest, latest)))

        async def make(_say: "Listener[object]") -> Layer | None:
            layers = work.workshop.engine.images.layers
            descriptor, diff_id = await asyncio.to_thread(
                layers.commit_tar, lambda write: write_layer(placed, write, latest=latest)
            )
            return Layer(descriptor, diff_id, layers.size(diff_id)) if placed else None

        return await self.layer(step, key, created_by, make, description=description, source=created_by)

    def copy_request(self, instruction: Instruction, image: LayersTree) -> Request:
        words = self.words(instruction)
        if len(words) < 2:
            raise instruction.error(
                f"{instruction.keyword} requires at least two arguments, but only one was provided. "
                "Destination could not be determined"
            )
        destination = words[-1]
        if parse_heredoc(destination):
            raise instruction.error(f"{instruction.keyword} cannot accept a heredoc as a destination")
        slash = "/" if destination.endswith(("/", "/.")) or destination in (".", "./") else ""
        joined = posixpath.normpath(posixpath.join("/", self.state.config.working_dir or "/", destination))
        absolute = "/" + joined.lstrip("/")
        chown, chmod = (
            expanded(instruction, instruction.flags.get(name, ""), self.variables, self.escape)
            for name in ("chown", "chmod")
        )
        try:
            mode = parse_mode(chmod) if chmod else None
        except InvalidArgument as cause:
            raise instruction.error(str(cause)) from cause
        exclude = tuple(
            expanded(instruction, pattern, self.variables, self.escape)
            for pattern in instruction.repeated.get("exclude", ())
        )
        return Request(
            instruction.keyword,
            absolute if absolute == "/" else absolute + slash,
            owner=owner_in(chown, image) if chown else None,
            mode=mode,
            exclude=exclude,
            parents=instruction.flag("parents"),
        )

    def words(self, instruction: Instruction) -> list[str]:
        """Sources and destination, expanded."""
        if instruction.words is not None:
            return [expanded(instruction, word, self.variables, self.escape) for word in instruction.words]
        try:
            return expand_words(instruction.text, self.variables, self.escape)
        except InvalidArgument as cause:
            raise instruction.error(str(cause)) from cause

    async def workdir(self, instruction: Instruction, step: Step) -> Event:
        """The directory is made when the image lacks it, so that RUN and the container begin there."""
        config = configure(instruction, self.state.config, self.variables, self.escape)
        image = self.work.tree(self.state)
        owner = owner_in(config.user, image, strict=False) if config.user else (0, 0)
        placed = plan_directory(config.working_dir, image, owner)
        created_by = _comment(f"WORKDIR {config.working_dir}")
        if not placed:
            cached = self.commit(config, created_by)
            return Cached(step.id, self.state.id) if cached else Done(step.id, self.state.id)
        if self.work.epoch is not None:
            placed = [replace(item, entry=replace(item.entry, mtime=float(self.work.epoch))) for item in placed]
        self.state = replace(self.state, config=config)
        return await self.files(step, created_by, placed, copying.digest_of(placed), instruction.original)

    # A step with a layer

    async def layer(
        self,
        step: Step,
        key: str,
        created_by: str,
        make: Callable[["Listener[object]"], Awaitable[Layer | None]],
        *,
        description: str,
        source: str | None,
    ) -> Event:
        """From the cache, from an image of --cache-from (`source` is how its history would tell), or made."""
        work = self.work
        record = None if self.no_cache else self.cached(key, created_by, source, description)
        container = ""
        cached = record is not None
        if record is None:

            async def listen(event: object) -> None:
                nonlocal container
                if isinstance(event, Running):
                    container = event.container
                if isinstance(event, Running | Output):
                    await work.emit(replace(event, step=step.id))

            async def fly(say: "Listener[object]") -> Record:
                async with work.workshop.slots:
                    layer = await make(say)
                return self.remember(key, layer, description)

            record = await work.workshop.flights.join(key, fly, listen)
        work.used_keys.append(key)
        work.closers.append(work.workshop.cache.borrow(key))
        moment = work.now() if work.epoch is not None else record.moment
        self.state = self.state.after(self.state.config, created_by, record.layer, moment)
        if cached:
            return Cached(step.id, self.state.id)
        return Done(step.id, self.state.id, container)

    def cached(self, key: str, created_by: str, source: str | None, description: str) -> Record | None:
        record = self.work.workshop.cache.find(key)
        if record is not None and self.allowed(created_by, record.layer):
            return record
        for image in (*(self.work.cache_images or ()), *self.work.imported):
            step = next_of_image(image, self.state, source) if source else None
            if step is not None:
                return self.remember(key, step.layer, description)
        return None

    def remember(self, key: str, layer: Layer | None, description: str) -> Record:
        now = time.time()
        parent = self.work.used_keys[-1] if self.work.used_keys else ""
        record = Record(key, parent, "regular", description, layer, self.work.now(), now, now, 1)
        self.work.workshop.cache.remember(record)
        return record


async def _quietly(work: Awaitable[object]) -> None:
    try:
        await work
    except EngineError:
        pass  # whoever needs the stage gets it again


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _comment(text: str) -> str:
    """History's words for a step that ran nothing."""
    return f"{' '.join(DEFAULT_SHELL)} #(nop) {text}"


def _command(instruction: Instruction, run: StageRun) -> tuple[list[str], tuple[str, bytes] | None]:
    """The argv of a RUN, and the script of a here-document that names its interpreter."""
    heredocs = instruction.heredocs
    if not heredocs:
        return command_of(instruction, run.state.config), None
    shell = run.state.config.shell or DEFAULT_SHELL
    alone = parse_heredoc(instruction.text.strip())
    if alone is None:
        # anything more is for the shell itself, with the lines put back
        below = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in heredocs)
        return [*shell, instruction.text + below], None
    text = heredocs[0].data
    if text.startswith("#!"):
        name = heredocs[0].name.replace("/", "_")
        return [*shell, f"/dev/pipes/{name}"], (name, text.encode())
    return [*shell, text], None

