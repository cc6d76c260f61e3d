"""Which handler serves a path. Pure: method and path in, route and named parts out."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from longshore.api.http import MAX_API_VERSION, MIN_API_VERSION, Route
from longshore.errors import InvalidArgument

_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_VERSION = re.compile(r"/v(\d+(?:\.\d+)*)(/.*)")
EXTENSION = "/longshore/"


def _pattern(text: str) -> re.Pattern[str]:
    out, position = "", 0
    for part in _PARAMETER.finditer(text):
        out += re.escape(text[position : part.start()])
        out += f"(?P<{part[1]}>{'.+' if part[2] else '[^/]+'})"
        position = part.end()
    return re.compile(out + re.escape(text[position:]))


@dataclass(frozen=True, slots=True)
class Found:
    route: Route
    parameters: Mapping[str, str]


class Router:
    """Exact paths win, then patterns whose parameters hold no slash, then those with `:path`."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[tuple[str, str], Found] = {}
        listed: list[tuple[int, Route]] = []
        for route in routes:
            if "{" in route.pattern:
                listed.append((":path}" in route.pattern, route))
            elif self._exact.setdefault((route.method, route.pattern), Found(route, {})).route is not route:
                raise ValueError(f"two handlers for {route.method} {route.pattern}")
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for _, route in sorted(listed, key=lambda item: item[0]):
            self._patterns.setdefault(_key(route.method, route.pattern), []).append(
                (_pattern(route.pattern), route)
            )

    def find(self, method: str, path: str) -> Found | None:
        if found := self._exact.get((method, path)):
            return found
        for pattern, route in self._patterns.get(_key(method, path), ()):
            if matched := pattern.fullmatch(path):
                return Found(route, matched.groupdict())
        return None


def _key(method: str, path: str) -> tuple[str, str]:
    """Routes are few per first segment: comparing only those keeps a look-up at one or two patterns."""
    return method, path[1:].partition("/")[0]


def split_target(target: str) -> tuple[tuple[int, ...] | None, str, str]:
    """(version given in the path or None, decoded path without it, raw query)."""
    path, _, query = target.partition("?")
    if not path.startswith("/"):  # absolute form, as proxies send it: http://host/path
        path = "/" + path.partition("://")[2].partition("/")[2]
    path = unquote(path)
    if matched := _VERSION.fullmatch(path):
        return tuple(int(part) for part in matched[1].split(".")), matched[2], query
    return None, path, query


def check_version(given: tuple[int, ...] | None) -> tuple[int, int]:
    """The API version to serve. Raises InvalidArgument in Docker's words outside of what is supported."""
    if given is None:
        return MAX_API_VERSION
    text = ".".join(map(str, given))
    if given < MIN_API_VERSION:
        minimum = "{}.{}".format(*MIN_API_VERSION)
        raise InvalidArgument(
            f"client version {text} is too old. Minimum supported API version is {minimum}, "
            "please upgrade your client to a newer version"
        )
    if given[:2] > MAX_API_VERSION:
        maximum = "{}.{}".format(*MAX_API_VERSION)
        raise InvalidArgument(f"client version {text} is too new. Maximum supported API version is {maximum}")
    return given[0], given[1] if len(given) > 1 else 0
