"""RUN --mount=…: what one asks for. Pure; made by longshore.build.mounting.

https://docs.docker.com/reference/dockerfile/#run---mount
"""

import csv
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from longshore.errors import InvalidArgument
from longshore.oci.units import parse_size

Kind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]
_KINDS = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_KEYS = frozenset(
    {"type", "from", "source", "target", "readonly", "readwrite", "required", "size", "id", "sharing", "mode", "uid",
     "gid", "env"}
)  # fmt: skip
_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class RunMount:
    """One mount as written, expanded and judged. `source` and `target` are not yet resolved against any tree."""

    kind: Kind = "bind"
    origin: str = ""  # from=: a stage, an image, a named context; "" the build context (of a cache: nothing)
    source: str = ""  # below the origin; of a secret its id
    target: str = ""
    readonly: bool = True
    id: str = ""
    sharing: Sharing = "shared"
    required: bool = False
    size: int = 0
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str | None = None  # of a secret: the variable; "" is named after the id


def mount_sources(texts: Iterable[str]) -> list[str]:
    """The values of from= among the mounts of a RUN, without judging anything."""
    return [
        field.partition("=")[2]
        for text in texts
        for field in _fields(text)
        if field.lower().startswith("from=") and field.partition("=")[2]
    ]


def parse_mount(text: str, expand: Callable[[str], str]) -> RunMount:
    """One --mount. Raises InvalidArgument."""
    given: dict[str, str] = {}
    for field in _fields(text):
        key, separator, value = field.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        if key not in _KEYS:
            close = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]}?" if close else ""
            raise InvalidArgument(f"unexpected key '{key}' in '{field}'", hint=hint)
        if key == "from" and "$" in value[:-1]:
            raise InvalidArgument(
                "'from' doesn't support variable expansion, define alias stage instead", detail=field
            )
        if not separator and key not in ("readonly", "readwrite", "required"):
            raise InvalidArgument(f"invalid field '{field}' must be a key=value pair")
        given[key] = expand(value) if separator else "true"
    kind = given.get("type", "bind").lower()
    if kind not in _KINDS:
        raise InvalidArgument(f'unsupported mount type "{kind[:50]}"', hint=f"one of {', '.join(_KINDS)}")
    _judge(kind, given)
    sharing = given.get("sharing", "shared").lower()
    if sharing not in _SHARING:
        raise InvalidArgument(f'unsupported sharing value "{sharing[:50]}"', hint=f"one of {', '.join(_SHARING)}")
    readonly = kind not in ("cache", "tmpfs")
    if "readonly" in given:
        readonly = _truth("readonly", given["readonly"])
    if "readwrite" in given:
        readonly = not _truth("readwrite", given["readwrite"])
    return RunMount(
        kind=kind,
        origin=given.get("from", ""),
        source=given.get("source", ""),
        target=given.get("target", ""),
        readonly=readonly,
        id=given.get("id", ""),
        sharing=sharing,
        required=_truth("required", given.get("required", "false")),
        size=parse_size(given["size"]) if "size" in given else 0,
        mode=_number("mode", given["mode"], 8, 0o7777) if "mode" in given else None,
        uid=_number("uid", given["uid"], 10, _MAX_ID) if "uid" in given else None,
        gid=_number("gid", given["gid"], 10, _MAX_ID) if "gid" in given else None,
        env=given.get("env"),
    )


def secret_id(mount: RunMount) -> str:
    return mount.source or mount.id or posixpath.basename(mount.target)


def target_of(mount: RunMount, directory: str) -> str:
    """The absolute place in the container; `directory` is the WORKDIR. "" for a secret that is a variable only.

    Raises InvalidArgument for "/" and for none.
    """
    target = mount.target
    if not target and mount.kind == "secret":
        if mount.env is not None:
            return ""
        target = f"/run/secrets/{posixpath.basename(secret_id(mount))}"
    if not target and mount.kind == "ssh":
        return ""
    if not target:
        raise InvalidArgument(f"invalid mount of type {mount.kind}: target is missing", hint="write target=/path")
    joined = posixpath.normpath(posixpath.join("/", directory or "/", target))
    absolute = "/" + joined.lstrip("/")
    if absolute == "/" or "\0" in absolute:
        raise InvalidArgument(f"invalid mount target {target!r}")
    return absolute


def _fields(text: str) -> list[str]:
    """A line of CSV, as Docker's mounts everywhere."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error:
        return [text]
    return [field for row in rows for field in row]


def _judge(kind: str, given: dict[str, str]) -> None:
    allowed = {
        "mode": ("secret", "ssh", "cache"),
        "uid": ("secret", "ssh", "cache"),
        "gid": ("secret", "ssh", "cache"),
        "size": ("tmpfs",),
        "required": ("secret", "ssh"),
        "sharing": ("cache",),
        "env": ("secret",),
        "from": ("bind", "cache"),
    }
    for key, kinds in allowed.items():
        if key in given and kind not in kinds:
            raise InvalidArgument(f"unexpected key '{key}' for mount type '{kind}'")
    if kind == "secret":
        if not any(given.get(key) for key in ("source", "target", "id")):
            raise InvalidArgument("invalid secret mount. one of source, target required")
        if given.get("source") and given.get("id"):
            raise InvalidArgument("both source and id can't be set")
    if kind == "ssh" and given.get("source"):
        raise InvalidArgument("ssh does not support source")


def _truth(key: str, text: str) -> bool:
    value = _TRUTH.get(text.lower())
    if value is None:
        raise InvalidArgument(f"invalid value for {key}: {text[:50]!r}")
    return value


def _number(key: str, text: str, base: int, limit: int) -> int:
    try:
        value = int(text, base) if text.isascii() and text.isalnum() else -1
    except ValueError:
        value = -1
    if not 0 <= value <= limit:
        raise InvalidArgument(f"invalid value {text[:50]!r} for {key}")
    return value
