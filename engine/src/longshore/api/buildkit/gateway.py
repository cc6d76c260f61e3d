"""moby.buildkit.v1.frontend.LLBBridge: a client's own build function, which calls the built-in frontend.

The calls name their job in metadata. buildx builds this way: it solves with "dockerfile.v0" here, perhaps looks into
the result, and hands it to Control.Solve by Return.
"""

import fnmatch
import hashlib
import posixpath

import msgspec

from longshore.api.buildkit import requests, worker
from longshore.api.buildkit.filesend import stat_of
from longshore.api.buildkit.frontend import BUILT_IN
from longshore.api.buildkit.grpc import Call, Handler
from longshore.api.buildkit.jobs import Job, Reference
from longshore.api.buildkit.messages import Definition, Empty, Input, Op, OpMetadata, SourceOp
from longshore.api.buildkit.messages_gateway import (
    EvaluateRequest,
    InputsResponse,
    PongResponse,
    ReadDirRequest,
    ReadDirResponse,
    ReadFileRequest,
    ReadFileResponse,
    Ref,
    RefMap,
    ResolveImageConfigRequest,
    ResolveImageConfigResponse,
    ResolveSourceImageResponse,
    ResolveSourceMetaRequest,
    ResolveSourceMetaResponse,
    Result,
    ReturnRequest,
    SolveRequest,
    SolveResponse,
    StatFileRequest,
    StatFileResponse,
    WarnRequest,
)
from longshore.api.buildkit.services import BUILD_ID, unary
from longshore.api.buildkit.solving import BUILT, Kit, reference_in, solve
from longshore.build.events import Warned
from longshore.build.export import tree_of
from longshore.build.result import Built
from longshore.build.trees import Entry, Tree, resolve
from longshore.core.images.model import Image
from longshore.errors import InvalidArgument, NotFound
from longshore.oci.reference import parse_reference

MAX_FILE = 16 << 20  # of one ReadFile, a message's limit
IMAGE = "docker-image://"
CONFIG, PLATFORMS = "containerimage.config", "refs.platforms"


class Gateway:
    """The service of one daemon."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def handlers(self) -> dict[str, Handler]:
        service = {
            "Ping": unary(Empty, self.ping),
            "Solve": unary(SolveRequest, self.solve),
            "ReadFile": unary(ReadFileRequest, self.read_file),
            "ReadDir": unary(ReadDirRequest, self.read_dir),
            "StatFile": unary(StatFileRequest, self.stat_file),
            "Evaluate": unary(EvaluateRequest, self.evaluate),
            "ResolveImageConfig": unary(ResolveImageConfigRequest, self.resolve_image),
            "ResolveSourceMeta": unary(ResolveSourceMetaRequest, self.resolve_source),
            "Inputs": unary(Empty, self.inputs),
            "Return": unary(ReturnRequest, self.give_back),
            "Warn": unary(WarnRequest, self.warn),
        }
        return {f"/moby.buildkit.v1.frontend.LLBBridge/{name}": handler for name, handler in service.items()}

    async def _job(self, call: Call) -> Job:
        ref = call.metadata.get(BUILD_ID, "")
        if not ref:
            raise InvalidArgument("no buildid found in context")
        job = await self._kit.jobs.get(ref)
        if job.completed:
            raise NotFound(f"no such job {ref}")
        return job

    async def ping(self, call: Call, request: Empty) -> PongResponse:
        await self._job(call)
        return PongResponse(
            worker.caps(worker.FRONTEND_CAPS),
            worker.caps(worker.LLB_CAPS),
            [worker.record(self._kit.engine)],
        )

    async def solve(self, call: Call, request: SolveRequest) -> SolveResponse:
        job = await self._job(call)
        with job.working():
            if request.frontend:
                return await self._frontend(job, request)
            if request.definition is None or not request.definition.ops:
                return SolveResponse(result=Result(ref=Ref()))
            _, reference = self._kit.jobs.find(reference_in(request.definition))
            job.references[reference.id] = reference
            return SolveResponse(result=Result(ref=_ref(reference)))

    async def _frontend(self, job: Job, request: SolveRequest) -> SolveResponse:
        if request.frontend not in BUILT_IN:
            raise InvalidArgument(f"invalid frontend: {request.frontend}")
        job.attributes = request.frontend_opt
        name = request.frontend_opt.get("requestid", "")
        if name:
            return SolveResponse(
                result=Result(metadata=await requests.answer(self._kit, job, request.frontend_opt, name))
            )
        result = await solve(self._kit, job, request.frontend_opt, request.frontend_inputs)
        references = [job.add(tree_of(self._kit.engine, built), result) for built in result.built]
        if len(references) == 1:
            only = result.only
            metadata = {CONFIG: only.raw_config, PLATFORMS: _platforms(result.built)}
            return SolveResponse(result=Result(ref=_ref(references[0]), metadata=metadata))
        refs = {
            built.platform: _ref(reference) for built, reference in zip(result.built, references, strict=True)
        }
        metadata = {f"{CONFIG}/{built.platform}": built.raw_config for built in result.built}
        metadata[PLATFORMS] = _platforms(result.built)
        return SolveResponse(result=Result(refs=RefMap(refs), metadata=metadata))

    # Looking into results

    async def evaluate(self, call: Call, request: EvaluateRequest) -> Empty:
        """Solve has built it already."""
        (await self._job(call)).reference(request.ref)
        return Empty()

    async def read_file(self, call: Call, request: ReadFileRequest) -> ReadFileResponse:
        tree, entry = await self._entry(call, request.ref, request.path)
        if not entry.is_file:
            raise InvalidArgument(f"{request.path} is no regular file")
        offset = request.range.offset if request.range else 0
        length = (request.range.length if request.range else 0) or entry.size
        if min(length, entry.size) > MAX_FILE:
            raise InvalidArgument(f"{request.path} is too large to read at once", hint="read a range")
        with tree.open(entry) as stream:
            stream.seek(max(offset, 0))
            return ReadFileResponse(stream.read(max(length, 0)))

    async def read_dir(self, call: Call, request: ReadDirRequest) -> ReadDirResponse:
        tree, entry = await self._entry(call, request.ref, request.path)
        if not entry.is_directory:
            raise InvalidArgument(f"{request.path} is no directory")
        names = tree.children(entry.path)
        if request.pattern:
            names = [name for name in names if fnmatch.fnmatchcase(name, request.pattern)]
        found = (tree.entry(posixpath.join(entry.path, name)) for name in names)
        return ReadDirResponse([stat_of(child) for child in found if child is not None])

    async def stat_file(self, call: Call, request: StatFileRequest) -> StatFileResponse:
        _, entry = await self._entry(call, request.ref, request.path)
        return StatFileResponse(stat_of(entry))

    async def _entry(self, call: Call, ref: str, path: str) -> tuple[Tree, Entry]:
        tree = (await self._job(call)).reference(ref).tree
        entry = tree.entry(resolve(tree, posixpath.join("/", path)))
        if entry is None:
            raise NotFound(f"open {path}: no such file or directory")
        return tree, entry

    # Images

    async def resolve_image(
        self, call: Call, request: ResolveImageConfigRequest
    ) -> ResolveImageConfigResponse:
        image = await self._image(await self._job(call), request.ref, request.resolve_mode)
        return ResolveImageConfigResponse(image.manifest.digest, image.raw_config, request.ref)

    async def resolve_source(
        self, call: Call, request: ResolveSourceMetaRequest
    ) -> ResolveSourceMetaResponse:
        job = await self._job(call)
        if request.source is None or not request.source.identifier.startswith(IMAGE):
            return ResolveSourceMetaResponse(request.source)
        reference = request.source.identifier.removeprefix(IMAGE)
        image = await self._image(job, reference, request.resolve_mode)
        config = ResolveSourceImageResponse(image.manifest.digest, image.raw_config)
        return ResolveSourceMetaResponse(request.source, config)

    async def _image(self, job: Job, name: str, mode: str) -> Image:
        images = self._kit.engine.images
        reference = parse_reference(name).with_default_tag()
        if mode != "pull":
            try:
                return images.get(str(reference))
            except NotFound:
                pass
        from longshore.api.buildkit.attachables import credentials

        login = await credentials(await self._kit.session(job), reference.domain)
        return await images.transfer.pull(str(reference), auth=login, progress=lambda _: None)

    # The client's part

    async def inputs(self, call: Call, request: Empty) -> InputsResponse:
        return InputsResponse((await self._job(call)).request.frontend_inputs)

    async def give_back(self, call: Call, request: ReturnRequest) -> Empty:
        job = await self._job(call)
        if not job.returned.done():
            job.returned.set_result(request)
        return Empty()

    async def warn(self, call: Call, request: WarnRequest) -> Empty:
        job = await self._job(call)
        lines = request.ranges[0] if request.ranges else None
        job.tell(
            Warned(
                "",
                request.short.decode(errors="replace"),
                b"\n".join(request.detail).decode(errors="replace"),
                request.url,
                lines.start.line if lines and lines.start else 0,
                lines.end.line if lines and lines.end else 0,
            )
        )
        return Empty()


def _ref(reference: Reference) -> Ref:
    return Ref(reference.id, definition_of(reference.id))


def definition_of(id: str) -> Definition:
    """A graph whose only source names a reference of ours, for clients that pass it on as an input (bake)."""
    source = Op(source=SourceOp(BUILT + id)).encode()
    first = "sha256:" + hashlib.sha256(source).hexdigest()
    last = Op(inputs=[Input(first)]).encode()
    second = "sha256:" + hashlib.sha256(last).hexdigest()
    return Definition([source, last], {first: OpMetadata(), second: OpMetadata()})


def _platforms(built: tuple[Built, ...]) -> bytes:
    """Which references there are, as BuildKit's exporters and clients read it."""
    rows: list[dict[str, object]] = []
    for item in built:
        os, _, rest = item.platform.partition("/")
        architecture, _, variant = rest.partition("/")
        platform = {"architecture": architecture, "os": os}
        rows.append({"ID": item.platform, "Platform": platform | ({"variant": variant} if variant else {})})
    return msgspec.json.encode({"Platforms": rows})
