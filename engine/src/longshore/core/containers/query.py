"""Finding containers by Docker's filters (`docker ps --filter`). Pure over the store's objects."""

import re
from collections.abc import Callable, Mapping, Sequence

from longshore.core.clock import parse_rfc3339
from longshore.core.containers.container import Container
from longshore.core.filters import boolean, check_filters, label_filter, one_of
from longshore.core.ports import expand_exposed, parse_port
from longshore.errors import InvalidArgument

NAMES = frozenset(
    [
        "id",
        "name",
        "label",
        "status",
        "ancestor",
        "exited",
        "network",
        "volume",
        "before",
        "since",
        "publish",
        "expose",
        "health",
        "is-task",
        "isolation",
    ]
)
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
HEALTH = ("none", "starting", "healthy", "unhealthy")
Lookup = Callable[[str], Container]


def select(
    containers: Sequence[Container],
    filters: Mapping[str, Sequence[str]] | None,
    *,
    all: bool,
    limit: int,
    lookup: Lookup,
    image_ids: Callable[[str], set[str]],
) -> list[Container]:
    """Newest first. Without `all`, and without a filter on status or a limit, only the running ones.

    `image_ids` gives the ids of an image and all that were made from it. Raises InvalidArgument, NotFound.
    """
    given = check_filters(filters, NAMES)
    for name, known in (("status", STATUSES), ("health", HEALTH)):
        for value in given.get(name, ()):
            if value not in known:
                raise InvalidArgument(f"invalid filter '{name}={value}'")
    newest = sorted(containers, key=lambda container: container.record.created, reverse=True)
    if not (all or limit or given.keys() & {"status", "exited", "before", "since"}):
        newest = [one for one in newest if one.running or one.state.status == "restarting"]
    tests = _tests(given, lookup, image_ids)
    found = [container for container in newest if _all(tests, container)]
    return found[:limit] if limit > 0 else found


def _all(tests: Sequence[Callable[[Container], bool]], container: Container) -> bool:
    return all(test(container) for test in tests)


def _tests(
    given: Mapping[str, Sequence[str]], lookup: Lookup, image_ids: Callable[[str], set[str]]
) -> list[Callable[[Container], bool]]:
    tests: list[Callable[[Container], bool]] = []
    for name, values in given.items():
        if name in ("before", "since"):
            times = [parse_rfc3339(lookup(value).record.created) for value in values]
            tests.append(_time_test(name, times))
        elif name == "ancestor":
            tests.append(_ancestor_test({id for value in values for id in image_ids(value)}))
        elif name == "is-task":
            wanted = boolean(values, name)
            tests.append(lambda _one, wanted=wanted: not wanted)  # swarm's tasks: there are none
        else:
            if name == "exited" and not all(re.fullmatch(r"-?\d+", value) for value in values):
                raise InvalidArgument(f"invalid filter 'exited={values[0]}'")
            test = _TESTS[name]
            tests.append(lambda one, test=test, values=values: test(one, values))
    return tests


def _time_test(name: str, times: list[int]) -> Callable[[Container], bool]:
    def test(container: Container) -> bool:
        created = parse_rfc3339(container.record.created)
        return created < min(times) if name == "before" else created > max(times)

    return test


def _ancestor_test(ids: set[str]) -> Callable[[Container], bool]:
    return lambda container: container.record.image_id in ids


def _name(container: Container, values: Sequence[str]) -> bool:
    """A regular expression, tried with and without the slash, as in Docker."""
    try:
        patterns = [re.compile(value) for value in values]
    except re.error as cause:
        raise InvalidArgument("invalid filter 'name'", detail=str(cause)) from cause
    return any(pattern.search(container.name) or pattern.search(f"/{container.name}") for pattern in patterns)


def _ports(values: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for value in values:
        first, last, protocol = parse_port(value)
        found |= {f"{number}/{protocol}" for number in range(first, last + 1)}
    return found


def _published(container: Container, values: Sequence[str]) -> bool:
    wanted = _ports(values)
    ports = [port for endpoint in container.record.endpoints.values() for port in endpoint.ports]
    return any(
        f"{number}/{port.proto}" in wanted
        for port in ports
        for number in (port.container_port, port.host_port)
    )


_TESTS: dict[str, Callable[[Container, Sequence[str]], bool]] = {
    "id": lambda one, values: one_of(values, one.id.startswith),
    "name": _name,
    "label": lambda one, values: label_filter(values, one.record.config.labels or {}),
    "status": lambda one, values: one.state.status in values,
    "exited": lambda one, values: (
        one.state.ever_started and not one.running and one.state.exit_code in {int(value) for value in values}
    ),
    "network": lambda one, values: bool(
        {one.record.host_config.network_mode, *(one.record.networking.endpoints_config or {})} & set(values)
    ),
    "volume": lambda one, values: any(
        value in (mount.name, mount.target, mount.source) for mount in one.record.mounts for value in values
    ),
    "publish": _published,
    "expose": lambda one, values: bool(_ports(values) & set(expand_exposed(one.record.config.exposed_ports))),
    "health": lambda one, values: one.health in values,
    # Linux knows one only
    "isolation": lambda one, values: (one.record.host_config.isolation or "default") in values,
}
