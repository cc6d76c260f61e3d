# Copyright (c) 2026 The Longshore authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules container and container_info, minus the road to the engine. Private to the collection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.longshore.fleet.plugins.module_utils._engine import (
    SOCKET_ARGUMENT,
    Client,
    EngineError,
)


def _text(**more: Any) -> dict[str, Any]:
    return {"type": "str", **more}


def _texts(**more: Any) -> dict[str, Any]:
    return {"type": "list", "elements": "str", **more}


ARGUMENTS: dict[str, Any] = {
    **SOCKET_ARGUMENT,
    "name": _text(required=True),
    "state": _text(default="started", choices=["absent", "present", "stopped", "started", "healthy"]),
    "image": _text(),
    "image_id": _text(),
    "pull": _text(choices=["never", "missing", "always"], default="missing"),
    "recreate": _text(choices=["auto", "always", "never"], default="auto"),
    "order": _text(choices=["auto", "start-first", "stop-first"], default="auto"),
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 60.0},
    "drain_timeout": {"type": "float", "default": 30.0},
    "command": {"type": "raw"},
    "entrypoint": {"type": "raw"},
    "env": {"type": "dict"},
    "labels": {"type": "dict"},
    "published_ports": _texts(aliases=["ports"]),
    "exposed_ports": _texts(aliases=["exposed", "expose"]),
    "volumes": _texts(),
    "tmpfs": _texts(),
    "network_mode": _text(),
    "hostname": _text(),
    "domainname": _text(),
    "user": _text(),
    "working_dir": _text(),
    "memory": _text(),
    "memory_reservation": _text(),
    "memory_swap": _text(),
    "cpus": {"type": "float"},
    "cpu_shares": {"type": "int"},
    "cpuset_cpus": _text(),
    "pids_limit": {"type": "int"},
    "shm_size": _text(),
    "restart_policy": _text(choices=["no", "on-failure", "always", "unless-stopped"]),
    "restart_retries": {"type": "int"},
    "healthcheck": {
        "type": "dict",
        "options": {
            "test": {"type": "raw"},
            "interval": _text(),
            "timeout": _text(),
            "start_period": _text(),
            "start_interval": _text(),
            "retries": {"type": "int"},
        },
    },
    "privileged": {"type": "bool"},
    "read_only": {"type": "bool"},
    "init": {"type": "bool"},
    "tty": {"type": "bool"},
    "interactive": {"type": "bool"},
    "auto_remove": {"type": "bool"},
    "capabilities": _texts(aliases=["cap_add"]),
    "cap_drop": _texts(),
    "security_opts": _texts(),
    "groups": _texts(),
    "devices": _texts(),
    "sysctls": {"type": "dict"},
    "dns_servers": _texts(),
    "dns_search_domains": _texts(),
    "etc_hosts": {"type": "dict"},
    "stop_signal": _text(),
    "stop_timeout": {"type": "int"},
    "log_driver": _text(),
    "log_options": {"type": "dict", "aliases": ["log_opt"]},
    "config": {"type": "dict"},
}

INFO_ARGUMENTS: dict[str, Any] = {**SOCKET_ARGUMENT, "name": _text(required=True)}

_ENGINE_NAMES = {"published_ports": "ports", "capabilities": "cap_add"}  # where apply's names differ


def wanted_container(params: Mapping[str, Any]) -> dict[str, Any]:
    """The container of an apply request. None, in suboptions too, means "no opinion" and is left out."""
    wanted: dict[str, Any] = {}
    for name in ARGUMENTS:
        value = params.get(name)
        if value is None or name == "socket":
            continue
        if name == "healthcheck":
            value = {key: item for key, item in value.items() if item is not None}
        wanted[_ENGINE_NAMES.get(name, name)] = value
    if wanted["state"] == "healthy":
        wanted.update(state="started", wait=True)
    return wanted


def run_container(client: Client, params: Mapping[str, Any], *, check: bool, diff: bool) -> dict[str, Any]:
    """One apply request; raises EngineError when the engine refuses it as a whole."""
    request = {"dry_run": check, "containers": [wanted_container(params)]}
    return apply_result(
        client.call("POST", "/longshore/v1/apply", request).lines(), params["name"], diff=diff
    )


def apply_result(events: list[dict[str, Any]], name: str, *, diff: bool) -> dict[str, Any]:
    """What Ansible wants to know from the events of an apply run. Pure."""
    plan = [event for event in events if event.get("type") == "plan"]
    final = [event for event in events if event.get("type") == "result"]
    if not plan or not final:
        said = [event["message"] for event in events if "message" in event and event.get("type") == "error"]
        raise EngineError(said[0] if said else "the engine did not finish: its answer has no result")
    steps = plan[-1]["steps"]  # a pull that moved a tag makes a second plan
    failed = final[0].get("failed")
    if failed:
        done = {event["index"] for event in events if event.get("status") == "done"}
        steps = [step for index, step in enumerate(steps) if index in done]
    container = final[0].get("containers", {}).get(name)
    result: dict[str, Any] = {
        "changed": bool(final[0]["changed"]),
        "exists": container is not None,
        "container": container or {},
        "actions": [
            {key: step[key] for key in ("kind", "name", "action", "reason")}
            for step in steps
            if step["action"] != "keep"
        ],
    }
    if diff:
        result["diff"] = _joined_diff(steps)
    if failed:
        result.update(failed=True, msg=failed["message"])
    return result


def _joined_diff(steps: list[dict[str, Any]]) -> dict[str, Any]:
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for step in steps:
        if step["action"] != "keep":
            title = f"{step['kind']} {step['name']}"
            before.setdefault(title, {}).update(step["diff"]["before"])
            after.setdefault(title, {}).update({"action": step["action"], **step["diff"]["after"]})
    return {"before": before, "after": after}


def run_container_info(client: Client, params: Mapping[str, Any]) -> dict[str, Any]:
    found = client.find(f"/containers/{params['name']}/json")
    return {"changed": False, "exists": found is not None, "container": found}
