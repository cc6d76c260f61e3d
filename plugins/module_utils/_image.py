# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules image and image_info, minus the road to the engine. Private to the collection."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    DEFAULT_SOCKET,
    SOCKET_ARGUMENT,
    Client,
    EngineError,
)

ARGUMENTS: dict[str, Any] = {
    **SOCKET_ARGUMENT,
    "name": {"type": "str", "required": True},
    "tag": {"type": "str"},
    "state": {"type": "str", "default": "present", "choices": ["absent", "present"]},
    "source": {"type": "str", "choices": ["controller", "pull", "load", "local"]},
    "load_path": {"type": "path"},
    "repository": {"type": "str"},
    "platform": {"type": "str"},
    "force_source": {"type": "bool", "default": False},
    "force_absent": {"type": "bool", "default": False},
    "controller_socket": {"type": "str", "default": DEFAULT_SOCKET},
}

REQUIRED_IF = [("source", "load", ["load_path"])]

INFO_ARGUMENTS: dict[str, Any] = {
    **SOCKET_ARGUMENT,
    "name": {"type": "list", "elements": "str"},
}


def full_name(name: str, tag: str | None) -> str:
    """`name` with its tag; ids and digests have none."""
    if name.startswith("sha256:") or "@" in name:
        return name
    has_tag = ":" in name.rpartition("/")[2]
    if has_tag:
        return name
    return f"{name}:{tag or 'latest'}"


def find_image(client: Client, name: str) -> Any:
    return client.find(f"/images/{name}/json")


def run_image(
    client: Client, params: Mapping[str, Any], *, check: bool, diff: bool, load_size: Any = os.path.getsize
) -> dict[str, Any]:
    """Everything but `source: controller`, which needs both ends. `load_size` tells the size of `load_path`."""
    name = full_name(params["name"], params.get("tag"))
    found = find_image(client, name)
    before = image_state(found)
    actions: list[str] = []
    if params["state"] == "absent":
        if found:
            actions.append(f"removed image {name}")
            if not check:
                query = {"force": "true"} if params["force_absent"] else None
                client.call("DELETE", f"/images/{name}", query=query)
        found = None
    else:
        if not found or (params["force_source"] and params.get("source") not in (None, "local")):
            found = _obtain(client, name, params, found, actions, check=check, load_size=load_size)
        _tag(client, name, params, found, actions, check=check)
    after = image_state(found) if not (check and actions) else {**before, "expected": actions}
    changed = bool(actions) and (check or before != after or any("tagged" in action for action in actions))
    result: dict[str, Any] = {"changed": changed, "image": found or {}, "actions": actions}
    if diff:
        result["diff"] = {"before": before, "after": after}
    return result


def image_state(image: Any) -> dict[str, Any]:
    return {"exists": bool(image), **({"id": image["Id"]} if image else {})}


def _obtain(
    client: Client,
    name: str,
    params: Mapping[str, Any],
    found: Any,
    actions: list[str],
    *,
    check: bool,
    load_size: Any,
) -> Any:
    source = params.get("source")
    if source == "local":
        raise EngineError(f"No such image: {name} (source is local: it has to be there already)")
    if source is None:
        raise EngineError(f"No such image: {name} (set source to controller, pull or load)")
    if source == "controller":
        raise EngineError("source: controller needs the collection's action plugin and works neither with async "
                            "nor over connections that take no standard input")  # fmt: skip
    if source == "pull":
        actions.append(f"pulled image {name}")
        if check:
            return found
        query = {"fromImage": name}
        if params.get("platform"):
            query["platform"] = params["platform"]
        _raise_stream_error(client.call("POST", "/images/create", query=query).lines())
    else:
        actions.append(f"loaded image {name} from {params['load_path']}")
        if check:
            return found
        path = params["load_path"]
        try:
            size = load_size(path)
        except OSError as cause:
            raise EngineError(f"cannot read {path}: {cause.strerror}") from cause
        reply = client.call(
            "POST", "/images/load", query={"quiet": "1"}, body_file=(path, size), kind="application/x-tar"
        )
        _raise_stream_error(reply.lines())
    image = find_image(client, name)
    if not image:
        raise EngineError(f"{name} is not among the images of {params.get('load_path') or 'the registry'}")
    return image


def _tag(
    client: Client, name: str, params: Mapping[str, Any], found: Any, actions: list[str], *, check: bool
) -> None:
    if not params.get("repository") or not found:
        return
    target = full_name(params["repository"], params.get("tag") or "latest")
    present = find_image(client, target)
    if present and present["Id"] == found["Id"]:
        return
    actions.append(f"tagged image {name} as {target}")
    if not check:
        repository, _colon, tag = target.rpartition(":")
        client.call("POST", f"/images/{name}/tag", query={"repo": repository, "tag": tag})


def _raise_stream_error(events: list[dict[str, Any]]) -> None:
    for event in events:
        if "error" in event:
            raise EngineError(str(event["error"]))


def run_image_info(client: Client, params: Mapping[str, Any]) -> dict[str, Any]:
    names = params.get("name")
    if names:
        found = [find_image(client, full_name(name, None)) for name in names]
        return {"changed": False, "images": [image for image in found if image]}
    listed = client.call("GET", "/images/json").json()
    return {
        "changed": False,
        "images": [image for image in (find_image(client, i["Id"]) for i in listed) if image],
    }
