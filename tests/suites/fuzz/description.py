"""An OpenAPI 3 description of the served API, made of the routes, the source of their handlers and the msgspec types.

Parameters are those that the handlers read; bodies are the types that they decode. Two liberties are taken so that a
campaign gets deep: names come from objects that exist as often as not, and what the host would keep (paths of binds,
parents of cgroups, registries to pull from) stays in a corner that the campaign cleans.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from longshore.api.http import Route
from longshore.api.server import collect_routes

READ = re.compile(r"query\.(get|flag|integer)\(\s*\"([A-Za-z0-9_-]+)\"")
LISTS = re.compile(r"query\.all\(\s*\"([A-Za-z0-9_-]+)\"")
INDEX = re.compile(r"query\[\"([A-Za-z0-9_-]+)\"\]")
BODY = re.compile(r"(?:decode\(\s*await request\.read\(\),\s*|\.json\(\s*)([A-Z_]\w+)\s*\)")
FILTERS = {
    "status": ["running", "exited", "sometimes"],
    "label": ["a", "a=b"],
    "name": ["fuzz"],
    "before": ["fuzz-running", "absent"],
    "dangling": ["true", "maybe"],
    "until": ["1h", "10", "x"],
    "type": ["container", "x"],
    "unknown": ["1"],
}
Schema = dict[str, Any]


def describe(known: Mapping[str, list[str]], folder: str) -> Schema:
    """`known`: names that exist, by the name of the path's parameter and its first word ("containers id").

    `folder`: where the host's paths may lie.
    """
    types: dict[str, Any] = {}
    paths: Schema = {}
    for route in collect_routes():
        text = _source(route.handler)
        body = BODY.search(text)
        if body:
            found = _global(route.handler, body[1])
            types[found.__name__] = found
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route, text, body, known)
    _, components = msgspec.json.schema_components(types.values(), ref_template="#/components/schemas/{name}")
    _tame(components, known, folder)
    return {
        "openapi": "3.0.3",
        "info": {"title": "longshored", "version": "1"},
        "paths": paths,
        "components": {"schemas": _for_openapi(components)},
    }


def _path(route: Route) -> str:
    return route.pattern.replace(":path}", "}")


def _operation(route: Route, text: str, body: re.Match[str] | None, known: Mapping[str, list[str]]) -> Schema:
    first = route.pattern.split("/")[1]
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _name_schema(known.get(f"{first} {name}", known.get(first, []))),
        }
        for name in re.findall(r"\{(\w+)(?::path)?\}", route.pattern)
    ]
    parameters += _queries(text)
    operation: Schema = {
        "operationId": f"{route.method} {route.pattern}",
        "parameters": parameters,
        "responses": {"default": {"description": "any"}},
    }
    if body:
        schema: Schema = {"$ref": f"#/components/schemas/{body[1]}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    elif "request.read(" in text or "request.json(" in text:
        operation["requestBody"] = {"content": {"application/json": {"schema": {"type": "object"}}}}
    elif route.method in ("PUT", "POST") and "request.body" in text:
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"content": {"application/octet-stream": binary}}
    return operation


def _name_schema(names: Iterable[str]) -> Schema:
    some = [{"enum": list(names)}] if names else []
    return {"anyOf": [*some * 4, {"type": "string", "minLength": 1, "maxLength": 40}]}


def _queries(text: str) -> list[Schema]:
    found: dict[str, Schema] = {}
    for kind, name in READ.findall(text):
        found[name] = {
            "get": {"type": "string", "maxLength": 60},
            "flag": {"enum": ["0", "1", "true", "false", "maybe", ""]},
            "integer": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 5}]},
        }[kind]
    for name in LISTS.findall(text):
        found[name] = {"type": "array", "items": {"type": "string", "maxLength": 30}, "maxItems": 3}
    for name in INDEX.findall(text):
        found.setdefault(name, {"type": "string", "maxLength": 60})
    if ".filters()" in text:
        values = [f'{{"{key}":["{value}"]}}' for key, words in FILTERS.items() for value in words]
        found["filters"] = {"anyOf": [{"enum": values}, {"type": "string", "maxLength": 30}]}
    for name, words in _CORNERS.items():
        if name in found:
            found[name] = {"anyOf": [{"enum": words}, {"enum": words}, found[name]]}
    if "fromImage" in found:  # never a registry but a closed port of this machine
        found["fromImage"] = {"enum": ["localhost:1/x", "localhost:1/x@sha256:0", "", "UPPER", "a//b"]}
        found["fromSrc"] = {"enum": ["-", "", "x"]}
    if "remote" in found:
        found["remote"] = {"enum": ["", "http://localhost:1/x", "x"]}
    return [{"name": name, "in": "query", "schema": schema} for name, schema in found.items()]


_CORNERS = {
    "signal": ["TERM", "KILL", "0", "64", "RTMIN+3", "SIGNOT", "99999999999999999999"],
    "path": ["/", "/etc/passwd", "/etc/../..", "", "/proc/self/root", "/no"],
    "condition": ["removed", "not-running", "next-exit", "x"],
    "platform": ["linux/amd64", "linux", "windows", "{}"],
    "since": ["0", "1700000000.5", "-1", "2024-01-01T00:00:00Z", "1h"],
    "until": ["0", "1700000000.5", "-1", "2024-01-01T00:00:00Z", "1h"],
    "tail": ["all", "10", "-1", "x"],
    "repo": ["fuzz/made", "UPPER", ""],
    "tag": ["t", "-x", ""],
    "container": ["fuzz-running", "fuzz-stopped", "absent"],
    "ps_args": ["-ef", "aux", "-o pid", "; x"],
    "t": ["0"],
    "h": ["24"],
    "w": ["80"],
    "stream": ["0"],
    "one-shot": ["1"],
    "follow": ["0"],
    "force": ["1"],
    "limit": ["0", "5", "-1"],
    "changes": ["CMD true", "ENV A=1", "RUN x"],
    "buildargs": ["{}", "[]", '{"A":null}'],
    "labels": ["{}", "[]", '{"A":"b"}'],
}


def _tame(components: Schema, known: Mapping[str, list[str]], folder: str) -> None:
    """Replace fields whose random values would reach the host, and some whose random values reach nothing."""
    inside = f"{folder}/binds"
    word: Schema = {"type": "string", "maxLength": 20}
    corners: dict[tuple[str, str], Schema] = {
        ("CreateRequest", "Image"): {"enum": ["busybox", "busybox", "busybox", "absent:1", "", "A B"]},
        ("CreateRequest", "Cmd"): _some(["sleep", "0.2"], ["true"], ["no-such-program"], ["sh", "-c", "exit 3"]),
        ("CreateRequest", "Entrypoint"): _some([""], [], ["true"]),
        ("HostConfig", "Binds"): _list_of(
            {"enum": [f"{inside}/a:/a", f"{inside}/b:/b:ro,rslave", "fuzzvol:/v", "fuzzvol:/v:x", "/only", "a:b:c:d", ":", "a:/"]}
        ),
        ("MountRequest", "Source"): {"enum": [f"{inside}/a", "fuzzvol", "", "relative/x", "busybox", "absent"]},
        ("MountRequest", "Target"): {"enum": ["/m", "/m/n", "", "m", "/", "/../x"]},
        ("MountRequest", "Type"): {"enum": ["bind", "volume", "tmpfs", "image", "npipe", "cluster", ""]},
        ("BindOptions", "Propagation"): {"enum": ["", "rprivate", "rslave", "rshared", "loud"]},
        ("HostConfig", "CgroupParent"): {"enum": ["", "/fuzzparent", "/fuzzparent/below", "../x", "a b"]},
        ("UpdateRequest", "CgroupParent"): {"enum": ["", "/fuzzparent"]},
        ("HostConfig", "Privileged"): {"enum": [False, "yes"]},
        ("HostConfig", "NetworkMode"): {
            "enum": ["", "bridge", "none", "host", "default", "container:fuzz-running", "container:", "fuzznet", "no such"]
        },
        ("HostConfig", "PidMode"): {"enum": ["", "host", "container:fuzz-running", "container:absent", "x"]},
        ("HostConfig", "IpcMode"): {"enum": ["", "private", "shareable", "none", "host", "container:fuzz-running", "x"]},
        ("HostConfig", "SecurityOpt"): _list_of(
            {"enum": ["no-new-privileges", "seccomp=unconfined", "seccomp={}", 'seccomp={"defaultAction":"X"}', "label=disable", "x", ""]}
        ),
        ("HostConfig", "Sysctls"): {
            "type": "object",
            "additionalProperties": word,
            "properties": {"net.core.somaxconn": {"enum": ["10", "x", "-1", "1\n2"]}, "kernel.msgmax": word},
        },
        ("HostConfig", "CapAdd"): _list_of({"enum": ["ALL", "NET_ADMIN", "cap_kill", "FLY", ""]}),
        ("HostConfig", "Devices"): _list_of({"$ref": "#/components/schemas/DeviceMapping"}),
        ("DeviceMapping", "PathOnHost"): {"enum": ["/dev/null", "/dev/zero", "/no", "x", "", "/dev", "/etc/passwd"]},
        ("HostConfig", "UsernsMode"): {"enum": ["", "host", "auto", "x"]},
        ("HostConfig", "PortBindings"): {
            "type": "object",
            "properties": {"80/tcp": _ports(), "81/udp": _ports(), "1-3/tcp": _ports(), "x/y": _ports()},
            "additionalProperties": False,
        },
        ("NetworkRequest", "Driver"): {"enum": ["bridge", "", "macvlan", "x"]},
        ("VolumeRequest", "Driver"): {"enum": ["local", "", "nfs"]},
        ("VolumeRequest", "Name"): {"enum": ["fuzzvol", "", "fuzz2", "a/b", "x"]},
        ("ExecRequest", "Cmd"): _some(["true"], ["no-such"], ["sh", "-c", "echo x"], []),
    }  # fmt: skip
    for (owner, name), schema in corners.items():
        properties = components.get(owner, {}).get("properties", {})
        if name in properties:
            properties[name] = schema
    for schema in components.values():
        for name, value in schema.get("properties", {}).items():
            if value.get("type") == "integer" and name.endswith(
                ("Memory", "MemorySwap", "MemoryReservation", "ShmSize")
            ):
                schema["properties"][name] = {"anyOf": [{"enum": [0, -1, 6291456, 67108864, 1 << 62]}, value]}


def _ports() -> Schema:
    port = {"enum": ["", "0", "23555", "23556-23558", "99999", "x"]}
    address = {"enum": ["", "127.0.0.1", "::1", "999.1.1.1", "10.255.255.1"]}
    return _list_of({"type": "object", "properties": {"HostIp": address, "HostPort": port}})


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "maxItems": 3}


def _some(*values: list[str]) -> Schema:
    return {"anyOf": [{"enum": list(values)}, _list_of({"type": "string", "maxLength": 20})]}


def _for_openapi(value: Any) -> Any:
    """JSON Schema 2020 to what OpenAPI 3.0 knows: no `null`, no `prefixItems`, no `const`."""
    if isinstance(value, list):
        return [_for_openapi(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "anyOf" in value and any(item.get("type") == "null" for item in value["anyOf"]):
        rest = [item for item in value["anyOf"] if item.get("type") != "null"]
        return {"nullable": True, "anyOf": [_for_openapi(item) for item in rest]}
    if "prefixItems" in value:
        return {"type": "array", "items": {"type": "integer"}, "maxItems": 3}
    return {
        key: _for_openapi(item)
        for key, item in value.items()
        if key not in ("default", "title", "description")
    }


def _global(handler: Callable[..., Any], name: str) -> Any:
    return getattr(sys.modules[handler.__module__], name)


def _source(handler: Callable[..., Any]) -> str:
    """The handler and the functions of its module that it uses."""
    module = sys.modules[handler.__module__]
    texts: dict[str, str] = {}
    waiting = [handler.__name__]
    while waiting:
        name = waiting.pop()
        found = getattr(module, name, None)
        if name in texts or not inspect.isfunction(found) or found.__module__ != module.__name__:
            continue
        texts[name] = inspect.getsource(found)
        waiting += re.findall(r"\b([a-z_]\w+)\(", texts[name])
    return "\n".join(texts.values())
