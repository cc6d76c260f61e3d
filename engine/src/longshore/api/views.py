"""Containers and volumes as lists show them. Pure."""

import time
from collections.abc import Sequence
from typing import Any

from longshore.core.clock import parse_rfc3339
from longshore.core.containers.container import Container
from longshore.core.containers.inspect import ANY, mount_view, networks_view
from longshore.core.containers.record import State
from longshore.core.ports import expand_exposed
from longshore.core.volumes import Volume
from longshore.oci.units import human_duration


def status_text(state: State, now: float | None = None) -> str:
    """The column STATUS of `docker ps`."""
    now = time.time() if now is None else now

    def ago(text: str) -> str:
        return human_duration(max(0.0, now - parse_rfc3339(text) / 1e9))

    if state.status in ("running", "paused"):
        text = f"Up {ago(state.started_at)}"
        if state.status == "paused":
            return f"{text} (Paused)"
        if state.health:
            return (
                f"{text} ({'health: starting' if state.health.status == 'starting' else state.health.status})"
            )
        return text
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {ago(state.finished_at)} ago"
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    return f"Exited ({state.exit_code}) {ago(state.finished_at)} ago" if state.ever_started else "Created"


def command_text(path: str, args: list[str]) -> str:
    return " ".join([path, *(f"'{word}'" if " " in word else word for word in args)])


def port_list(container: Container) -> list[dict[str, Any]]:
    """The exposed and the published ports, as `docker ps` reads them."""
    if not container.running:
        return []
    published = [port for endpoint in container.record.endpoints.values() for port in endpoint.ports]
    result: list[dict[str, Any]] = [
        {
            "IP": port.ip or ANY,
            "PrivatePort": port.container_port,
            "PublicPort": port.host_port,
            "Type": port.proto,
        }
        for port in published
    ]
    taken = {f"{port.container_port}/{port.proto}" for port in published}
    for text in expand_exposed(container.record.config.exposed_ports):
        if text not in taken:
            number, _, protocol = text.partition("/")
            result.append({"PrivatePort": int(number), "Type": protocol})
    return result


def summary(
    container: Container, image: str, sizes: tuple[int, int] | None = None, more_names: Sequence[str] = ()
) -> dict[str, Any]:
    """One entry of GET /containers/json; `image` is the name to show, `more_names` come from links."""
    record = container.record
    view: dict[str, Any] = {
        "Id": record.id,
        "Names": [f"/{record.name}", *more_names],
        "Image": image,
        "ImageID": record.image_id,
        "Command": command_text(record.path, record.args),
        "Created": parse_rfc3339(record.created) // 1_000_000_000,
        "Ports": port_list(container),
    }
    if sizes:
        view |= {"SizeRw": sizes[0], "SizeRootFs": sizes[1]}
    return view | {
        "Labels": record.config.labels or {},
        "State": record.state.status,
        "Status": status_text(record.state),
        "HostConfig": {"NetworkMode": record.host_config.network_mode},
        "NetworkSettings": {
            "Networks": networks_view(record.networking.endpoints_config or {}, record.endpoints)
        },
        "Mounts": [mount_view(mount) for mount in record.mounts],
    }


def volume_view(volume: Volume, usage: tuple[int, int] | None = None) -> dict[str, Any]:
    """`usage`: (bytes, number of containers)."""
    view: dict[str, Any] = {
        "CreatedAt": volume.created[:19] + "Z",
        "Driver": volume.driver,
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": volume.options,
        "Scope": "local",
    }
    if usage:
        view["UsageData"] = {"Size": usage[0], "RefCount": usage[1]}
    return view
