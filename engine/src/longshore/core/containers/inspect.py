"""`docker inspect` of a container: its record and state in Docker's JSON. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from longshore.core import logs
from longshore.core.containers.container import Container
from longshore.core.containers.record import Health, MountPoint, State
from longshore.core.model import EndpointSettings
from longshore.core.ports import expand_exposed
from longshore.core.spec import apparmor_profile, security_options
from longshore.network.model import Endpoint

DRIVER = "overlay2"  # the name that Docker's clients know for what overlayfs does here
ANY = "0.0.0.0"

# Fields that Docker leaves out when they are empty ("omitempty").
_OPTIONAL_CONFIG = [
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "StopTimeout",
    "Shell",
]
_OPTIONAL_HOST = ["Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts", "Init"]


def inspect(
    container: Container, *, sizes: tuple[int, int] | None = None, names_among_aliases: bool = False
) -> dict[str, Any]:
    """Everything about a container. `sizes`: (bytes written, bytes of its whole root).

    `names_among_aliases`: as before API 1.45, where Aliases also held short id and host name.
    """
    record = container.record
    shares_files = record.host_config.network_mode.startswith("container:")
    view: dict[str, Any] = {
        "Id": record.id,
        "Created": record.created,
        "Path": record.path,
        "Args": record.args,
        "State": state_view(record.state),
        "Image": record.image_id,
        "ResolvConfPath": "" if shares_files else str(container.folder / "resolv.conf"),
        "HostnamePath": "" if shares_files else str(container.folder / "hostname"),
        "HostsPath": "" if shares_files else str(container.folder / "hosts"),
        "LogPath": logs.log_path(record, container.folder),
        "Name": f"/{record.name}",
        "RestartCount": record.state.restart_count,
        "Driver": DRIVER,
        "Platform": record.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile(record)
        or security_options(record.host_config).get("apparmor", ""),
        "ExecIDs": list(container.exec_ids) or None,
        "HostConfig": host_view(container),
        "GraphDriver": {"Data": dict(record.graph), "Name": DRIVER},
        "Mounts": [mount_view(mount) for mount in record.mounts],
        "Config": config_view(container),
        "NetworkSettings": network_view(container, names_among_aliases),
    }
    if sizes:
        view["SizeRw"], view["SizeRootFs"] = sizes
    return view


def state_view(state: State) -> dict[str, Any]:
    view: dict[str, Any] = {
        "Status": state.status,
        "Running": state.status in ("running", "paused", "restarting"),
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started_at,
        "FinishedAt": state.finished_at,
    }
    if state.health:
        view["Health"] = health_view(state.health)
    return view


def health_view(health: Health) -> dict[str, Any]:
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {"Start": result.start, "End": result.end, "ExitCode": result.exit_code, "Output": result.output}
            for result in health.log
        ],
    }


def config_view(container: Container) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(container.record.config)
    view["Labels"] = view["Labels"] or {}
    return _without_empty(view, _OPTIONAL_CONFIG)


def host_view(container: Container) -> dict[str, Any]:
    view: dict[str, Any] = msgspec.to_builtins(container.record.host_config)
    del view["KernelMemory"], view["KernelMemoryTCP"]  # gone from the API since 1.42
    return _without_empty(view, _OPTIONAL_HOST)


def _without_empty(view: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        name: value for name, value in view.items() if name not in names or value not in (None, "", {}, [])
    }


def mount_view(mount: MountPoint) -> dict[str, Any]:
    """Bind mounts have no name and driver, named ones show their folder, tmpfs only a place."""
    view: dict[str, Any] = {"Type": mount.type}
    if mount.type == "volume":
        view |= {"Name": mount.name}
    view |= {"Source": mount.source, "Destination": mount.target}
    if mount.type == "volume":
        view |= {"Driver": mount.driver or "local"}
    return view | {"Mode": mount.mode, "RW": mount.read_write, "Propagation": mount.propagation}


def ports_view(container: Container) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports: exposed ports, with null where nothing on the host leads to them."""
    view: dict[str, list[dict[str, str]] | None] = {}
    if not container.running:
        return view
    view |= dict.fromkeys(expand_exposed(container.record.config.exposed_ports))
    for endpoint in container.record.endpoints.values():
        for port in endpoint.ports:
            bindings = view.get(f"{port.container_port}/{port.proto}") or []
            bindings.append({"HostIp": port.ip or ANY, "HostPort": str(port.host_port)})
            view[f"{port.container_port}/{port.proto}"] = bindings
    return view


def network_view(container: Container, names_among_aliases: bool) -> dict[str, Any]:
    record = container.record
    networks = networks_view(record.networking.endpoints_config or {}, record.endpoints)
    for name, view in networks.items():
        if name != "bridge":
            aliases = list(dict.fromkeys([*(view["Aliases"] or ()), record.id[:12], record.config.hostname]))
            view["DNSNames"] = list(dict.fromkeys([record.name, *aliases]))
            view["Aliases"] = aliases if names_among_aliases else view["Aliases"]
    mode = record.host_config.network_mode
    if mode in ("host", "none"):
        networks = {mode: _endpoint_view(EndpointSettings(), None)}
    default = networks.get("bridge") or _endpoint_view(EndpointSettings(), None)
    return {
        "Bridge": "",
        "SandboxID": record.id if container.running else "",
        "SandboxKey": f"/proc/{record.state.pid}/ns/net" if container.running else "",
        "Ports": ports_view(container),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        # The old flat form speaks of the default bridge only
        **{name: default[name] for name in _FLAT},
        "Networks": networks,
    }


_FLAT = [
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
]


def networks_view(
    asked: Mapping[str, EndpointSettings], endpoints: Mapping[str, Endpoint]
) -> dict[str, dict[str, Any]]:
    return {name: _endpoint_view(settings, endpoints.get(name)) for name, settings in asked.items()}


def _endpoint_view(settings: EndpointSettings, endpoint: Endpoint | None) -> dict[str, Any]:
    ipam = settings.ipam_config
    return {
        "IPAMConfig": msgspec.to_builtins(ipam) if ipam else None,
        "Links": settings.links,
        "Aliases": settings.aliases,
        "MacAddress": endpoint.mac if endpoint else settings.mac_address,
        "DriverOpts": settings.driver_opts,
        "NetworkID": settings.network_id,
        "EndpointID": endpoint.id if endpoint else "",
        "Gateway": endpoint.gateway if endpoint else "",
        "IPAddress": endpoint.ip if endpoint else "",
        "IPPrefixLen": endpoint.prefix if endpoint else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }
