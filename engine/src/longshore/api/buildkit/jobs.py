"""The solves of this daemon, running and past: what Status follows, what the gateway works on, what history lists."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

from longshore.api.buildkit.messages import RpcStatus
from longshore.api.buildkit.messages_control import CacheOptionsEntry, SolveRequest
from longshore.api.buildkit.messages_gateway import ReturnRequest
from longshore.api.buildkit.status import Rendering
from longshore.build.events import Event
from longshore.build.result import Result
from longshore.build.trees import TarTree, Tree
from longshore.errors import Conflict, NotFound
from longshore.registry.auth import Credentials

WAIT_SECONDS = 10.0  # a client asks for a build's status, and for its gateway, while it starts the build
MAX_PAST = 50  # builds that the history knows
MAX_RECORDED = 4 << 20  # bytes of status that a past build may keep


@dataclass(frozen=True, slots=True)
class Reference:
    """What a gateway's client has by id: an image that was built, or a tree of files."""

    id: str
    tree: Tree
    result: Result | None = None


class Job:
    """One solve. `open` has what is closed when the job ends: builds, trees, leases."""

    def __init__(self, request: SolveRequest) -> None:
        self.request = request
        self.ref = request.ref
        self.attributes: dict[str, str] = {}  # of the frontend, where the gateway's client gave them
        self.rendering = Rendering()
        self.uploaded: TarTree | None = None  # the context, where no session has it
        self.logins: Mapping[str, Credentials] = {}
        self.references: dict[str, Reference] = {}
        self.returned: asyncio.Future[ReturnRequest] = asyncio.get_running_loop().create_future()
        self.open = AsyncExitStack()
        self.created, self.completed = time.time_ns(), 0
        self.error: RpcStatus | None = None
        self.response: dict[str, str] = {}
        self.pinned = False
        self._workers: set[asyncio.Task[object]] = set()
        self._told: list[bytes] = []
        self._recorded = 0
        self._changed = asyncio.Event()

    @property
    def cache_exports(self) -> list[CacheOptionsEntry]:
        return self.request.cache.exports if self.request.cache else []

    def tell(self, event: Event) -> None:
        """Pass an event of the builder on to those who follow."""
        message = self.rendering.take(event)
        if message is not None:
            self._told.append(message.encode())
            self._recorded += len(self._told[-1])
            self._wake()

    async def status(self) -> AsyncIterator[bytes]:
        """Everything told so far and from now on, until the job has ended: encoded StatusResponses."""
        place = 0
        while True:
            while place < len(self._told):
                yield self._told[place]
                place += 1
            if self.completed:
                return
            changed = self._changed
            await changed.wait()

    def add(self, tree: Tree, result: Result | None = None) -> Reference:
        reference = Reference(secrets.token_hex(13), tree, result)
        self.references[reference.id] = reference
        return reference

    def reference(self, id: str) -> Reference:
        """Raises NotFound."""
        found = self.references.get(id)
        if found is None:
            raise NotFound(f"no such reference {id}")
        return found

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """The task in the block works for the job: the job's end ends it first."""
        task = asyncio.current_task()
        assert task is not None  # calls are tasks
        self._workers.add(task)
        try:
            yield
        finally:
            self._workers.discard(task)

    async def end(self) -> None:
        """The job is over, well or not; what it held is given back."""
        others = self._workers - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.open.aclose()
        self.references.clear()
        self.completed = time.time_ns()
        if not self.returned.done():
            self.returned.cancel()
        while self._recorded > MAX_RECORDED and self._told:  # what the build began with is missed least
            self._recorded -= len(self._told.pop(0))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Jobs:
    """All jobs by their ref, the oldest first."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._provided: dict[str, tuple[TarTree | None, Mapping[str, Credentials]]] = {}
        self._changed = asyncio.Event()
        self.generation = 0  # counts changes, for the history's followers

    def provide(self, ref: str, tree: TarTree | None, logins: Mapping[str, Credentials]) -> None:
        """What a request had in itself for the job that it is about to begin."""
        self._provided[ref] = (tree, logins)

    def begin(self, request: SolveRequest) -> Job:
        """Raises Conflict for a ref that a running job has."""
        before = self._jobs.get(request.ref)
        if before is not None and not before.completed:
            raise Conflict(f"build ID {request.ref} exists")
        job = self._jobs[request.ref] = Job(request)
        job.uploaded, job.logins = self._provided.pop(request.ref, (None, {}))
        if job.uploaded is not None:
            job.open.callback(job.uploaded.close)
        self._jobs.move_to_end(request.ref)
        self.changed()
        return job

    async def finish(self, job: Job) -> None:
        """End a job; the oldest ones beyond the limit are forgotten."""
        await job.end()
        past = [ref for ref, other in self._jobs.items() if other.completed and not other.pinned]
        for ref in past[: max(0, len(past) - MAX_PAST)]:
            del self._jobs[ref]
        if job.request.internal:
            self._jobs.pop(job.ref, None)
        self.changed()

    async def get(self, ref: str) -> Job:
        """The job, once it is there. Raises NotFound after WAIT_SECONDS."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while ref not in self._jobs:
                    await self._changed.wait()
        except TimeoutError as cause:
            raise NotFound(f"no such job {ref}") from cause
        return self._jobs[ref]

    def find(self, id: str) -> tuple[Job, Reference]:
        """A reference of any running job: a bake target that another one builds on. Raises NotFound."""
        for job in self._jobs.values():
            if id in job.references:
                return job, job.references[id]
        raise NotFound(f"no such reference {id}")

    def all(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.request.internal]

    def forget(self, ref: str) -> None:
        """Remove a past job from the history. Raises NotFound."""
        job = self._jobs.get(ref)
        if job is None or not job.completed:
            raise NotFound(f"no record of build {ref}")
        del self._jobs[ref]
        self.changed()

    async def wait(self, generation: int) -> int:
        """The count of changes once it is another than `generation`."""
        while self.generation == generation:
            await self._changed.wait()
        return self.generation

    def changed(self) -> None:
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()
