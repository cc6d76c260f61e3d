"""The stream of events."""

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec

from longshore.api.http import AnyReply, Request, Route, Stream
from longshore.core.clock import parse_moment
from longshore.core.events import Event
from longshore.core.filters import check_filters, label_filter, one_of

_FILTERS = frozenset(
    [
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ]
)
_OBJECTS = ("container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config")


def matches(event: Event, given: Mapping[str, Sequence[str]]) -> bool:
    """Docker's filters of `docker events`. Pure."""
    action = event.action.partition(":")[0]
    if not one_of(given.get("event", ()), lambda value: value in (event.action, action)):
        return False
    if not one_of(given.get("type", ()), lambda value: value == event.type):
        return False
    if not one_of(given.get("scope", ()), lambda value: value == event.scope):
        return False
    if not label_filter(given.get("label", ()), event.attributes):
        return False
    name = event.attributes.get("name", "")
    for kind in _OBJECTS:
        if kind in given and not (
            event.type == kind
            and one_of(
                given[kind], lambda value: value == name or (bool(value) and event.id.startswith(value))
            )
        ):
            return False
    if "image" in given:
        image = event.attributes.get("image", "") if event.type == "container" else name or event.id
        bare = image.rpartition(":")[0] or image
        return event.type in ("container", "image") and one_of(
            given["image"], lambda value: value in (image, bare, event.id)
        )
    return True


async def events(request: Request) -> AnyReply:
    given = check_filters(request.query.filters(), _FILTERS)
    since = parse_moment(request.query.get("since", ""), "since")
    until = parse_moment(request.query.get("until", ""), "until")
    subscription = request.engine.events.subscribe(
        since=since, until=until, matches=lambda event: matches(event, given)
    )

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            async for event in subscription:
                yield msgspec.json.encode(event.wire()) + b"\n"
        finally:
            await subscription.aclose()

    return Stream(chunks())


ROUTES = [Route("GET", "/events", events)]
