"""Attributes of BuildKit's Dockerfile frontend as build options. Pure.

Names: https://docs.docker.com/reference/cli/docker/buildx/build/ and frontend/dockerui of BuildKit.
"""

import csv
from collections.abc import Mapping, Sequence

import msgspec

from longshore.api.buildkit.messages_control import CacheOptionsEntry
from longshore.build.options import BuildOptions, CacheEntry
from longshore.core.model import Ulimit
from longshore.errors import InvalidArgument, Unsupported

BUILT_IN = ("dockerfile.v0", "gateway.v0")  # the second names an image with a frontend; ours is built in
INPUT = "input:"
NETWORKS = {"": "", "sandbox": "", "default": "", "host": "host", "none": "none"}


def build_options(
    attributes: Mapping[str, str],
    cache_exports: Sequence[CacheOptionsEntry] = (),
    contexts: Mapping[str, str] | None = None,
) -> BuildOptions:
    """What the frontend is asked for. `contexts` stand for those named "input:…". Raises InvalidArgument, Unsupported.

    Unknown attributes are ignored, as BuildKit does.
    """
    no_cache = attributes.get("no-cache")
    network = attributes.get("force-network-mode", "")
    if network not in NETWORKS:
        raise InvalidArgument(f"invalid netmode {network}")
    if any(name.startswith("attest:") for name in attributes):
        raise Unsupported("attestations are not made here", hint="build with --provenance=false --sbom=false")
    arguments = _after(attributes, "build-arg:")
    return BuildOptions(
        dockerfile=attributes.get("filename") or "Dockerfile",
        build_args=dict(arguments),
        labels=_after(attributes, "label:"),
        target=attributes.get("target", ""),
        platforms=tuple(text for text in attributes.get("platform", "").split(",") if text),
        contexts=_contexts(attributes, contexts or {}),
        remote=remote_context(attributes),
        no_cache=no_cache == "",
        no_cache_stages=frozenset(filter(None, (no_cache or "").split(","))),
        cache_imports=_cache_imports(attributes),
        cache_exports=tuple(CacheEntry(entry.type, entry.attrs) for entry in cache_exports),
        pull=attributes.get("image-resolve-mode") == "pull",
        check=attributes.get("requestid") == "frontend.lint",
        network_mode=NETWORKS[network],
        extra_hosts=tuple(_host(field) for field in _fields(attributes.get("add-hosts", ""))),
        hostname=attributes.get("hostname", "") or arguments.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        shm_size=_integer(attributes, "shm-size"),
        cgroup_parent=attributes.get("cgroup-parent", ""),
        ulimits=tuple(_ulimit(field) for field in _fields(attributes.get("ulimit", ""))),
    )


def remote_context(attributes: Mapping[str, str]) -> str:
    """The git repository or URL that is the context, "" where the client has it."""
    context = attributes.get("context", "")
    from_client = not context or context.startswith("http://buildkit-session/")
    return "" if from_client else context


def input_names(attributes: Mapping[str, str]) -> dict[str, str]:
    """Named contexts that are inputs of the solve: name -> key among the inputs."""
    named = _after(attributes, "context:")
    return {
        _plain(name): value.removeprefix(INPUT) for name, value in named.items() if value.startswith(INPUT)
    }


def _contexts(attributes: Mapping[str, str], inputs: Mapping[str, str]) -> dict[str, str]:
    named = {_plain(name): value for name, value in _after(attributes, "context:").items()}
    return {name: inputs.get(name, value) for name, value in named.items()}


def _plain(name: str) -> str:
    """`base::linux/amd64` is the context `base` for a platform."""
    return name.partition("::")[0]


def _after(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in attributes.items() if name.startswith(prefix)}


class _Entry(msgspec.Struct):
    """One cache import, as a client's Go encodes the protocol's message in JSON."""

    type: str = msgspec.field(default="", name="Type")
    attrs: dict[str, str] = msgspec.field(default_factory=dict[str, str], name="Attrs")


def _cache_imports(attributes: Mapping[str, str]) -> tuple[CacheEntry, ...]:
    text = attributes.get("cache-imports") or "[]"
    try:
        entries = msgspec.json.decode(text, type=list[_Entry])
    except msgspec.MsgspecError as cause:
        raise InvalidArgument("invalid cache-imports", detail=str(cause)) from cause
    found = [CacheEntry(entry.type, entry.attrs) for entry in entries]
    older = filter(None, attributes.get("cache-from", "").split(","))
    return (*found, *(CacheEntry("registry", {"ref": reference}) for reference in older))


def _fields(line: str) -> list[str]:
    """The fields of one line of CSV."""
    return next(csv.reader([line])) if line else []


def _host(field: str) -> str:
    name, separator, address = field.partition("=")
    if not separator:
        raise InvalidArgument(f"invalid key-value pair {field}", detail="add-hosts")
    return f"{name}:{address}"


def _ulimit(field: str) -> Ulimit:
    name, _, values = field.partition("=")
    soft, _, hard = values.partition(":")
    try:
        return Ulimit(name=name, soft=int(soft), hard=int(hard or soft))
    except ValueError as cause:
        raise InvalidArgument(f"invalid ulimit {field!r}", hint="use name=soft:hard") from cause


def _integer(attributes: Mapping[str, str], name: str) -> int:
    text = attributes.get(name, "")
    if not text:
        return 0
    try:
        return int(text)
    except ValueError as cause:
        raise InvalidArgument(f"invalid value of {name}", detail=f"{text!r} is not a number") from cause
