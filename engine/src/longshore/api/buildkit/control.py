"""moby.buildkit.v1.Control: what buildx asks of a builder."""

from collections.abc import AsyncIterator
from functools import partial

from longshore.api.buildkit import exporters, history, usage, worker
from longshore.api.buildkit.frontend import BUILT_IN
from longshore.api.buildkit.grpc import CANCELLED, Call, CallFailed, Handler, status_of
from longshore.api.buildkit.jobs import Job
from longshore.api.buildkit.messages import BytesMessage, Empty, RpcStatus
from longshore.api.buildkit.messages_control import (
    BuildHistoryRequest,
    DiskUsageRequest,
    DiskUsageResponse,
    Exporter,
    InfoResponse,
    ListWorkersResponse,
    PruneRequest,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    UpdateBuildHistoryRequest,
)
from longshore.api.buildkit.messages_gateway import ReturnRequest
from longshore.api.buildkit.services import streaming, unary
from longshore.api.buildkit.solving import Kit, solve
from longshore.build.result import Result
from longshore.errors import EngineError, InvalidArgument, Unsupported


class Control:
    """The service of one daemon."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def handlers(self) -> dict[str, Handler]:
        service = {
            "Solve": unary(SolveRequest, self.solve),
            "Status": streaming(StatusRequest, self.status),
            "Session": self.session,
            "ListWorkers": unary(Empty, self.workers),
            "Info": unary(Empty, self.info),
            "DiskUsage": unary(DiskUsageRequest, self.usage),
            "Prune": streaming(PruneRequest, self.prune),
            "ListenBuildHistory": streaming(BuildHistoryRequest, self.history),
            "UpdateBuildHistory": unary(UpdateBuildHistoryRequest, self.update_history),
        }
        return {f"/moby.buildkit.v1.Control/{name}": handler for name, handler in service.items()}

    async def solve(self, call: Call, request: SolveRequest) -> SolveResponse:
        return await self.run(request)

    async def run(self, request: SolveRequest) -> SolveResponse:
        """Build, or wait for what the client's own gateway calls build, and export it."""
        if not request.exporters and request.exporter:
            request.exporters = [Exporter(request.exporter, request.exporter_attrs)]
        _with_epoch(request)
        exporters.check(request.exporters)
        _check_entitlements(request)
        job = self._kit.jobs.begin(request)
        try:
            with job.working():
                result = await self._result(job)
                if result is not None:
                    session = partial(self._kit.session, job)
                    job.response |= await exporters.export(self._kit.engine, session, job, result)
        except EngineError as error:
            job.error = status_of(error)
            raise
        except BaseException:
            job.error = RpcStatus(CANCELLED, "the build was cancelled")
            raise
        finally:
            await self._kit.jobs.finish(job)
        return SolveResponse(job.response)

    async def _result(self, job: Job) -> Result | None:
        """What is to be exported, None for nothing."""
        request = job.request
        if request.frontend in BUILT_IN:
            return await solve(self._kit, job, request.frontend_attrs, request.frontend_inputs)
        if request.frontend:
            raise InvalidArgument(f"invalid frontend: {request.frontend}")
        if request.definition is not None and request.definition.ops:
            raise Unsupported(
                "graphs of operations (LLB) are not executed here",
                hint="build a Dockerfile, or use another builder",
            )
        return returned(job, await job.returned)

    async def status(self, call: Call, request: StatusRequest) -> AsyncIterator[bytes]:
        job = await self._kit.jobs.get(request.ref)
        async for message in job.status():
            yield message

    async def session(self, call: Call) -> None:
        """The session within a call, for clients without `POST /session`."""
        await call.begin()
        await self._kit.sessions.serve(call.metadata, _Tunnel(call))

    async def workers(self, call: Call, request: Empty) -> ListWorkersResponse:
        return ListWorkersResponse([worker.record(self._kit.engine)])

    async def info(self, call: Call, request: Empty) -> InfoResponse:
        return InfoResponse(worker.version())

    async def usage(self, call: Call, request: DiskUsageRequest) -> DiskUsageResponse:
        return DiskUsageResponse(await usage.records(self._kit, request.filter))

    async def prune(self, call: Call, request: PruneRequest) -> AsyncIterator[bytes]:
        for record in await usage.prune(self._kit, request):
            yield record.encode()

    async def history(self, call: Call, request: BuildHistoryRequest) -> AsyncIterator[bytes]:
        async for event in history.listen(self._kit.jobs, request):
            yield event.encode()

    async def update_history(self, call: Call, request: UpdateBuildHistoryRequest) -> Empty:
        history.update(self._kit.jobs, request)
        return Empty()


def returned(job: Job, request: ReturnRequest) -> Result | None:
    """What the client's build function has given back. Raises its error."""
    if request.error is not None and request.error.code:
        raise CallFailed(request.error.message, code=request.error.code, details=tuple(request.error.details))
    result = request.result
    if result is None:
        return None
    ids = [ref.id for ref in result.refs.refs.values()] if result.refs else []
    ids += [result.ref.id] if result.ref else []
    ids += [result.ref_deprecated]
    for id in filter(None, ids):
        found = job.reference(id).result
        if found is not None:
            return found
    return None


def _with_epoch(request: SolveRequest) -> None:
    epoch = request.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH")
    if epoch:
        for exporter in request.exporters:
            exporter.attrs.setdefault("source-date-epoch", epoch)


def _check_entitlements(request: SolveRequest) -> None:
    if "security.insecure" in request.entitlements:
        raise Unsupported("the entitlement security.insecure is not given here")


class _Tunnel:
    """The bytes of a session in the messages of a call (api.http.ClientStream)."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def read(self) -> bytes:
        message = await self._call.receive()
        return b"" if message is None else BytesMessage.decode(message).data

    async def write(self, data: bytes) -> None:
        await self._call.send(BytesMessage(data).encode())

    async def write_eof(self) -> None:
        """The end of the call is the end of the stream."""
