"""Extension: the wanted state of a host, or a part of it, in one request; the answer is a stream of JSON lines."""

from collections.abc import AsyncIterator

import msgspec

from longshore.api.http import AnyReply, Request, Route, Stream
from longshore.apply.execute import Event
from longshore.apply.request import parse_request
from longshore.apply.run import run
from longshore.core.containers.inspect import inspect
from longshore.errors import EngineError


async def apply(request: Request) -> AnyReply:
    """Errors of the request as a whole have a status of their own; a step that fails is in the stream."""
    wanted = parse_request(await request.read())
    events = run(request.engine, wanted, lambda engine, name: inspect(engine.containers.get(name)))
    first = await anext(events)
    return Stream(_lines(first, events), content_type="application/x-ndjson")


async def _lines(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield msgspec.json.encode(first) + b"\n"
    try:
        async for event in rest:
            yield msgspec.json.encode(event) + b"\n"
    except EngineError as error:  # the status is out already
        yield msgspec.json.encode({"type": "error", "message": str(error)}) + b"\n"


ROUTES = [Route("POST", "/longshore/v1/apply", apply)]
