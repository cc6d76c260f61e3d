"""What a method and a path mean. Pure: the one place where names, tags and digests are taken out of a URL."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from longshore.registry.server.names import check_name
from longshore.registry.server.refusals import Code, Refused

# A repository may itself be called a/blobs/b: the last word that fits decides, as the names in front are greedy.
_KINDS = re.compile(
    r"/v2/(?P<name>.+)/(?:"
    r"(?P<tags>tags/list)|blobs/uploads/(?P<upload>[^/]*)|blobs/(?P<blob>[^/]+)"
    r"|manifests/(?P<manifest>[^/]+)|referrers/(?P<referrers>[^/]+))",
    re.DOTALL,
)
_METHODS: dict[str, frozenset[str]] = {
    "base": frozenset({"GET", "HEAD"}),
    "catalog": frozenset({"GET", "HEAD"}),
    "tags": frozenset({"GET", "HEAD"}),
    "uploads": frozenset({"POST"}),
    "upload": frozenset({"GET", "HEAD", "PATCH", "PUT", "DELETE"}),
    "blob": frozenset({"GET", "HEAD", "DELETE"}),
    "manifest": frozenset({"GET", "HEAD", "PUT", "DELETE"}),
    "referrers": frozenset({"GET", "HEAD"}),
}


@dataclass(frozen=True, slots=True)
class Route:
    """`kind` is a key of the table of endpoints; `name` the repository; `argument` tag, digest or upload."""

    kind: str
    name: str = ""
    argument: str = ""

    def action(self, method: str) -> str:
        """What a client must be allowed to do: pull, push or delete, in the words of token scopes."""
        if method == "DELETE" and self.kind in ("blob", "manifest"):
            return "delete"
        return "push" if self.kind in ("uploads", "upload") or method == "PUT" else "pull"


def find_route(method: str, raw_path: str) -> Route:
    """Raises Refused: NAME_INVALID, UNSUPPORTED (405 with Allow) or NAME_UNKNOWN for paths that mean nothing."""
    path = unquote(raw_path)
    if path in ("/v2/", "/v2"):
        route = Route("base")
    elif path in ("/v2/_catalog", "/v2/_catalog/"):
        route = Route("catalog")
    else:
        route = _named(path)
    allowed = _METHODS[route.kind]
    if method not in allowed:
        raise Refused(
            Code.UNSUPPORTED,
            f"{method[:20]} does not go with {raw_path[:200]}",
            headers={"Allow": ", ".join(sorted(allowed))},
        )
    return route


def _named(path: str) -> Route:
    found = _KINDS.fullmatch(f"{path}/" if path.endswith("/blobs/uploads") else path)
    if found is None:
        raise Refused(Code.NAME_UNKNOWN, "no endpoint of the distribution specification has this path")
    kind = str(found.lastgroup)
    argument = found[kind]
    if kind == "upload" and not argument:
        kind = "uploads"
    return Route(kind, check_name(found["name"]), "" if kind == "tags" else argument)
