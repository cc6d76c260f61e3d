"""An apply request from beginning to end: under lock, observe, plan, execute, answer with what is there now."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from longshore.apply.execute import Event, Execution, recover
from longshore.apply.host import EngineHost, check_names, observe
from longshore.apply.plan import Step, plan
from longshore.apply.request import ApplyRequest
from longshore.core.engine import Engine
from longshore.core.tasks import run_to_end
from longshore.errors import EngineError, NotFound

# One apply at a time for each container and for each scope; others wait. Keyed by engine for tests with several.
_locks: "WeakValueDictionary[tuple[int, str], asyncio.Lock]" = WeakValueDictionary()

Inspect = Callable[[Engine, str], Any]


async def run(engine: Engine, request: ApplyRequest, inspect: Inspect) -> AsyncIterator[Event]:
    """The events of the run. Raises EngineError before the first event when the request cannot be planned.

    Once steps run they run to their end, also when nobody reads the events any more.
    """
    check_names(request)
    queue: asyncio.Queue[Event | EngineError | None] = asyncio.Queue()

    async def work() -> None:
        try:
            await _locked(engine, request, inspect, queue.put_nowait)
        except EngineError as error:
            queue.put_nowait(error)
        finally:
            queue.put_nowait(None)

    task = asyncio.ensure_future(run_to_end(work()))
    while (event := await queue.get()) is not None:
        if isinstance(event, EngineError):
            raise event
        yield event
    await task


async def _locked(
    engine: Engine, request: ApplyRequest, inspect: Inspect, report: Callable[[Event], None]
) -> None:
    keys = {f"container {wanted.name}" for wanted in request.containers}
    if request.scope:
        keys.add(f"scope {request.scope.label}")
    async with AsyncExitStack() as held:
        for key in sorted(keys):  # in one order everywhere, so that two requests cannot wait for each other
            lock = _locks.setdefault((id(engine), key), asyncio.Lock())
            await held.enter_async_context(lock)
        await _apply(engine, request, inspect, report)


async def _apply(
    engine: Engine, request: ApplyRequest, inspect: Inspect, report: Callable[[Event], None]
) -> None:
    host = EngineHost(engine)
    if not request.dry_run:
        for wanted in request.containers:
            await recover(host, wanted.name)
    before = observe(engine, request)
    steps = plan(request, before)
    report({"type": "plan", "steps": [step.wire() for step in steps]})
    failed: Event | None = None
    done: set[int] = set()

    def note(event: Event) -> None:
        if event["type"] == "step" and event["status"] == "done":
            done.add(event["index"])
        report(event)

    pulls = {step.name for step in steps if step.kind == "image" and step.action == "pull"}
    if not request.dry_run and any(step.changes for step in steps):
        volumes = {volume.name: volume for volume in request.volumes}
        networks = {network.name: network for network in request.networks}
        failed = await Execution(host, volumes, networks).run(steps, note)
        if failed is None and pulls:
            more, failed = await _again(engine, request, host, steps, note)
            steps = steps + more
    now = observe(engine, request)
    # pulling what is here already changes nothing, and a dry run cannot know better
    same = {name for name in pulls if name in before.images and now.images.get(name) == before.images[name]}
    changed = any(
        step.changes and not (step.kind == "image" and step.name in same)
        for index, step in enumerate(steps)
        if request.dry_run or index in done
    )
    # A step that fails takes back what it did, mostly: after a failure it counts what is there.
    changed = changed or (failed is not None and now != before)
    names = [wanted.name for wanted in request.containers]
    containers = {name: found for name in names if (found := _seen(engine, name, inspect))}
    report({"type": "result", "changed": changed, "containers": containers, "failed": failed})


async def _again(
    engine: Engine,
    request: ApplyRequest,
    host: EngineHost,
    first: list[Step],
    report: Callable[[Event], None],
) -> tuple[list[Step], Event | None]:
    """A pull may have moved a tag that the first plan had to believe; what follows from that is a second plan."""
    settled = msgspec.structs.replace(
        request,
        images=[],
        volumes=[],
        networks=[],
        containers=[
            msgspec.structs.replace(
                wanted,
                pull="missing",
                recreate="never" if wanted.recreate == "never" else "auto",  # "always" is done
            )
            for wanted in request.containers
        ],
    )
    steps = [step for step in plan(settled, observe(engine, settled)) if step.changes]
    if not steps:
        return [], None

    def shifted(event: Event) -> None:
        report({**event, "index": event["index"] + len(first)} if event.get("type") == "step" else event)

    report({"type": "plan", "steps": [step.wire() for step in first + steps]})
    return steps, await Execution(host, {}, {}).run(steps, shifted)


def _seen(engine: Engine, name: str, inspect: Inspect) -> Any:
    try:
        return inspect(engine, name)
    except NotFound:
        return None
