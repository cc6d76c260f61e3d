"""One build at work: what its stages share, and where their inputs come from."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from longshore.build import chain, git
from longshore.build.chain import Snapshot
from longshore.build.events import Done, Event, Failed, Started, Step, Transfer
from longshore.build.options import BuildOptions
from longshore.build.ports import ContextFiles, Door, Wanted
from longshore.build.remote import fetched_context, is_url
from longshore.build.stages import Plan, Stage, context_paths, step_id
from longshore.build.trees import LayersTree, Tree, WithoutIgnored
from longshore.build.upload import Upload, ignore_of
from longshore.build.workshop import Workshop
from longshore.core.images.model import Image
from longshore.errors import EngineError, NotFound, Unsupported
from longshore.oci.descriptor import Platform, host_platform, parse_platform
from longshore.oci.ignore import Ignore
from longshore.oci.reference import parse_reference

Emit = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Origin:
    """What COPY --from or a mount reads: a stage or an image (`snapshot`), or the files of a context."""

    tree: Tree
    name: str
    snapshot: Snapshot | None = None
    context: bool = False  # owners come from a client and say nothing


@dataclass(slots=True)
class Work:
    """`stage` gives the finished stage of a number; whoever asks first has it built."""

    workshop: Workshop
    options: BuildOptions
    door: Door
    plan: Plan
    ignore: Ignore
    ignore_lines: tuple[str, ...]
    epoch: int | None
    platform: str
    steps: dict[int, Step]
    lines: tuple[str, ...]  # of the Dockerfile
    remote: Upload | None  # the main context, where the client does not have it
    cache_images: tuple[Image, ...] | None  # of --cache-from; None: all of the cache counts
    imported: tuple[Image, ...]  # of --cache-from type=registry: they answer, too
    emit: Emit
    stage: Callable[[Stage], Awaitable[Snapshot]]
    used_arguments: set[str] = field(default_factory=set[str])
    moments: dict[str, str] = field(default_factory=dict[str, str])
    used_keys: list[str] = field(default_factory=list[str])
    closers: list[Callable[[], object]] = field(default_factory=list[Callable[[], object]])
    memory: dict[str, "asyncio.Task[object]"] = field(default_factory=dict[str, "asyncio.Task[object]"])

    # Time

    def now(self) -> str:
        """RFC 3339: SOURCE_DATE_EPOCH where it is set."""
        moment = datetime.now(UTC) if self.epoch is None else datetime.fromtimestamp(self.epoch, UTC)
        spec = "microseconds" if self.epoch is None else "seconds"
        return moment.isoformat(timespec=spec).replace("+00:00", "Z")

    # Inputs

    async def once(self, key: str, work: Callable[[], Awaitable[object]]) -> object:
        """The result of `work()`, which is done once per build however many stages want it."""
        if key not in self.memory:
            self.memory[key] = asyncio.ensure_future(work())
        return await asyncio.shield(self.memory[key])

    async def context(self) -> Origin:
        """The build context without what .dockerignore leaves out."""
        found = await self.once("context", lambda: self._take_context(""))
        assert isinstance(found, Origin)
        return found

    async def origin(self, name: str, stage: Stage) -> Origin:
        """What `from=` means inside a stage: an earlier stage, a named context, or an image."""
        other = self.plan.stage(name, stage.number)
        if other is not None and name.lower() not in self.options.contexts:
            return self.of_snapshot(await self.stage(other), name)
        given = self.options.contexts.get(name) or self.options.contexts.get(name.lower(), "")
        if given and not given.startswith("docker-image://"):
            found = await self.once(f"context {name}", lambda: self._take_context(name, given))
            assert isinstance(found, Origin)
            return found
        reference = given.removeprefix("docker-image://") or name
        if reference.lower() == "scratch":
            return self.of_snapshot(Snapshot(parse_platform(self.platform)), name)
        return self.of_snapshot(await self.image(reference, stage.platform or self.platform), name)

    def of_snapshot(self, snapshot: Snapshot, name: str) -> Origin:
        return Origin(self.tree(snapshot), name, snapshot)

    def tree(self, snapshot: Snapshot) -> LayersTree:
        images = self.workshop.engine.images
        if not snapshot.layers:
            return LayersTree([])
        return LayersTree([images.layers.directory / name for name in images.rootfs(snapshot.image())])

    async def _take_context(self, name: str, given: str = "") -> Origin:
        shown = f"load build context{f' {name}' if name else ''}"
        async with self.internal(shown):
            tree, ignore = await self._open_context(name, given)
            self.closers.append(tree.close)
            plain = WithoutIgnored(tree, ignore) if ignore else tree
            return Origin(plain, name or "build context", context=True)

    async def _open_context(self, name: str, given: str) -> tuple[ContextFiles, Ignore | None]:
        scratch = self.workshop.scratch
        if git.is_git(given):
            keep = self.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") == "1"
            return await git.checkout(given, scratch, keep_git_dir=keep), None
        if is_url(given):
            return await fetched_context(given, scratch), None
        if given and not given.startswith("local:"):
            raise Unsupported(
                f"named context {name} cannot be {given.partition(':')[0]!r}",
                hint="give a folder, docker-image://NAME, a git or an HTTP URL",
            )
        if not name and self.remote is not None:
            return await self.remote.context("", Wanted()), self.ignore
        wanted = Wanted() if name else Wanted(context_paths(self.plan), self.ignore_lines)
        tree = await self.door.context(given.removeprefix("local:") if name else "", wanted)
        if not name:
            return tree, self.ignore
        own = ignore_of(tree, "Dockerfile")
        return tree, Ignore(own.decode(errors="replace")) if own else None

    # Base images

    async def base(self, stage: Stage) -> Snapshot:
        """What FROM begins with, when it is no other stage."""
        given = self.options.contexts.get(stage.base) or self.options.contexts.get(stage.base.lower(), "")
        if not given and stage.base == "scratch":
            return Snapshot(parse_platform(stage.platform or self.platform))
        if given and not given.startswith("docker-image://"):
            raise Unsupported(
                f"FROM {stage.base}: a context of files cannot be a base image",
                hint="use COPY --from, or docker-image://NAME as the context",
            )
        name = given.removeprefix("docker-image://") or stage.base
        return await self.image(name, stage.platform or self.platform, self.steps[stage.source.line])

    async def image(self, name: str, platform: str, step: Step | None = None) -> Snapshot:
        """The local image, or a pulled one whose progress goes to the client. Its layers stay while we build."""
        found = await self.once(f"image {name} {platform}", lambda: self._find_image(name, platform, step))
        assert isinstance(found, Snapshot)
        return found

    async def _find_image(self, name: str, platform: str, step: Step | None) -> Snapshot:
        images = self.workshop.engine.images
        image: Image | None = None
        wanted = parse_platform(platform) if platform else None
        if not self.options.pull:
            try:
                image = images.get(name)
            except NotFound:
                pass
            if image is not None and wanted is not None and not _fits(image, wanted):
                image = None
        if image is None:
            image = await self._pull(name, platform, step)
        await images.ensure_unpacked(image)  # also notes the layers for our lease
        for layer in image.layers:
            images.content.has(layer.descriptor.blob)
        return chain.of_image(image)

    async def _pull(self, name: str, platform: str, step: Step | None) -> Image:
        reference = parse_reference(name).with_default_tag()
        credentials = await self.door.credentials(reference.domain)
        async with self._told(step, f"pull {reference.familiar}") as under:
            lines: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()

            async def tell() -> None:
                while (line := await lines.get()) is not None:
                    await self.emit(_transfer(under.id, line))

            teller = asyncio.ensure_future(tell())
            try:
                return await self.workshop.engine.images.transfer.pull(
                    str(reference), platform=platform, auth=credentials, progress=lines.put_nowait
                )
            finally:
                lines.put_nowait(None)
                await teller

    # Steps that no instruction stands for

    @asynccontextmanager
    async def internal(self, what: str, group: str = "internal") -> AsyncGenerator[Step, None]:
        """A step besides the Dockerfile's: told when it begins, ends or fails."""
        step = Step(step_id(self.plan.target.number, self.platform, what, time.time_ns()), f"[{group}] {what}")
        await self.emit(Started(step))
        try:
            yield step
        except EngineError as error:
            await self.emit(Failed(step.id, error))
            raise
        await self.emit(Done(step.id))

    @asynccontextmanager
    async def _told(self, step: Step | None, what: str) -> AsyncGenerator[Step, None]:
        if step is not None:
            yield step
        else:
            async with self.internal(what) as made:
                yield made


def _fits(image: Image, wanted: Platform) -> bool:
    config = image.config
    if (config.os, config.architecture) != (wanted.os, wanted.architecture):
        return False
    return not wanted.variant or not config.variant or config.variant == wanted.variant


def is_native(platform: Platform) -> bool:
    """Whether this machine can run it."""
    here = host_platform()
    return (platform.os, platform.architecture) == (here.os, here.architecture)


def _transfer(step: str, line: dict[str, object]) -> Transfer:
    detail = line.get("progressDetail")
    numbers: dict[str, object] = detail if isinstance(detail, dict) else {}  # pyright: ignore[reportUnknownVariableType]
    status = str(line.get("status", ""))
    return Transfer(
        step,
        str(line.get("id", "")),
        status,
        current=int(str(numbers.get("current") or 0)),
        total=int(str(numbers.get("total") or 0)),
        done=status in ("Pull complete", "Already exists", "Download complete"),
        message=line,
    )
