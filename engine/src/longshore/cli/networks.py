"""`longshore network …`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import click

from longshore.cli import completers
from longshore.cli.client import segment
from longshore.cli.context import ApiError, client, complain, confirmed, each, filter_option, format_option
from longshore.cli.environment import labels, pairs
from longshore.cli.flags import command, flag, invalid, many, number, one, several, text
from longshore.cli.output import emit, items, joined_labels, label_method, parse_filters, show, timestamp

COLUMNS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}


def network_row(view: dict[str, Any], *, truncate: bool) -> dict[str, Any]:
    """One line of `network ls`."""
    return {
        "ID": view["Id"][:12] if truncate else view["Id"],
        "Name": view["Name"],
        "Driver": view["Driver"],
        "Scope": view["Scope"],
        "IPv4": _truth(view.get("EnableIPv4", True)),
        "IPv6": _truth(view.get("EnableIPv6", False)),
        "Internal": _truth(view.get("Internal", False)),
        "Labels": joined_labels(view.get("Labels")),
        "Label": label_method(view.get("Labels")),
        "CreatedAt": _go_time(view.get("Created", "")),
    }


def _truth(value: object) -> str:
    return "true" if value else "false"


def _go_time(text: str) -> str:
    """As Go prints a time: with its fraction, in the zone it came in."""
    try:
        timestamp(text)
    except ValueError:
        return text
    date, _, clock = text.partition("T")
    clock = re.sub(r"\.?0+(?=[Z+-])", "", clock) if "." in clock else clock
    for zone in ("Z", "+00:00"):
        if clock.endswith(zone):
            return f"{date} {clock.removesuffix(zone)} +0000 UTC"
    return f"{date} {clock[:-6]} {clock[-6:-3]}{clock[-2:]} {clock[-6:-3]}{clock[-2:]}"


def ipam_config(
    subnets: Sequence[str], ranges: Sequence[str], gateways: Sequence[str], auxiliary: dict[str, str]
) -> list[dict[str, Any]]:
    """Every subnet with the range, gateway and addresses that lie in it. Pure. Raises FlagError."""
    if (ranges or gateways or auxiliary) and not subnets:
        raise click.UsageError("every --ip-range, --gateway or --aux-address needs its --subnet")
    pools: list[dict[str, Any]] = []
    for subnet in subnets:
        network = _network("--subnet", subnet)
        for other in pools:
            if network.overlaps(_network("--subnet", other["Subnet"])):
                raise click.UsageError("multiple overlapping subnet configuration is not supported")
        pools.append({"Subnet": subnet})

    for given in ranges:
        network = _network("--ip-range", given)
        _place(pools, "--ip-range", given, "IPRange", [_contains(pool, network) for pool in _networks(pools)])
    for given in gateways:
        address = _address("--gateway", given)
        _place(pools, "--gateway", given, "Gateway", [address in pool for pool in _networks(pools)])
    for name, given in auxiliary.items():
        address = _address("--aux-address", given)
        pool = next((pool for pool in pools if address in _network("--subnet", pool["Subnet"])), None)
        if pool is None:
            raise click.UsageError(f"no matching subnet for --aux-address {given}")
        pool.setdefault("AuxiliaryAddresses", {})[name] = given
    return pools


def _place(pools: list[dict[str, Any]], flag: str, given: str, key: str, fits: list[bool]) -> None:
    pool = next((pool for pool, fit in zip(pools, fits, strict=True) if fit), None)
    if pool is None:
        raise click.UsageError(f"no matching subnet for {flag} {given}")
    if key in pool:
        raise click.UsageError(f"cannot configure multiple {flag}s on the same subnet {pool['Subnet']}")
    pool[key] = given


def _networks(pools: list[dict[str, Any]]) -> list[Any]:
    return [_network("--subnet", pool["Subnet"]) for pool in pools]


def _network(flag: str, text: str) -> Any:
    try:
        return ip_network(text, strict=False)
    except ValueError as cause:
        raise invalid(flag, text, "write a network such as 172.30.0.0/16") from cause


def _address(flag: str, text: str) -> Any:
    try:
        return ip_address(text)
    except ValueError as cause:
        raise invalid(flag, text, "write an address such as 172.30.0.1") from cause


def _contains(pool: Any, network: Any) -> bool:
    return pool.version == network.version and network.subnet_of(pool)


@command("create")
@flag("--attachable", help="Containers of others may be connected by hand.")
@many("--aux-address", help="NAME=ADDRESS that is used by something else.", metavar="map")
@text("--config-from", help="Network whose configuration to take.", complete=completers.networks)
@flag("--config-only", help="A configuration for other networks, no network.")
@text("-d", "--driver", help="Driver of the network.", default="bridge")
@many("--gateway", help="Gateway of the subnet.", metavar="strings")
@flag("--ingress", help="For the routing mesh of a cluster.")
@flag("--internal", help="No way out.")
@many("--ip-range", help="Part of the subnet that containers get addresses of.", metavar="strings")
@text("--ipam-driver", help="Driver of address management.", default="default")
@many("--ipam-opt", help="NAME=VALUE for that driver.", metavar="map")
@flag("--ipv4", help="With IPv4 addresses.", default=True)
@flag("--ipv6", help="With IPv6 addresses.")
@many("--label", help="NAME=VALUE to find it by.")
@many("-o", "--opt", help="NAME=VALUE for the driver.", metavar="map")
@text("--scope", help="Scope of the network.")
@many("--subnet", help="Subnet as address/bits.", metavar="strings")
@one("name", "NETWORK")
def create_command(name: str, **given: Any) -> None:
    """Create a network."""
    named = click.get_current_context().get_parameter_source
    default = click.core.ParameterSource.DEFAULT
    body: dict[str, Any] = {
        "Name": name,
        "Driver": given["driver"],
        "Scope": given["scope"],
        "Internal": given["internal"],
        "Attachable": given["attachable"],
        "Ingress": given["ingress"],
        "ConfigOnly": given["config_only"],
        "ConfigFrom": {"Network": given["config_from"]} if given["config_from"] else None,
        "Options": pairs(given["opt"], "--opt"),
        "Labels": labels(given["label"]),
        "IPAM": {
            "Driver": given["ipam_driver"],
            "Options": pairs(given["ipam_opt"], "--ipam-opt"),
            "Config": ipam_config(
                given["subnet"],
                given["ip_range"],
                given["gateway"],
                pairs(given["aux_address"], "--aux-address"),
            ),
        },
    }
    for flag_name, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if named(flag_name) is not default:
            body[key] = given[flag_name]
    made = client().post("/networks/create", body)
    if made.get("Warning"):
        complain(made["Warning"])
    emit(made["Id"])


@command("connect")
@many("--alias", help="Another name of the container in this network.", metavar="strings")
@many("--driver-opt", help="NAME=VALUE for the driver.", metavar="strings")
@number("--gw-priority", help="The highest one gives the default gateway.", default=0)
@text("--ip", help="IPv4 address.")
@text("--ip6", help="IPv6 address.")
@many("--link", help="Container to know under another name.", complete=completers.containers)
@many("--link-local-ip", help="Link-local address.", metavar="strings")
@one("network", "NETWORK", complete=completers.networks)
@one("container", "CONTAINER", complete=completers.containers)
def connect_command(network: str, container: str, **given: Any) -> None:
    """Connect a container to a network."""
    endpoint: dict[str, Any] = {
        "IPAMConfig": {
            "IPv4Address": given["ip"],
            "IPv6Address": given["ip6"],
            "LinkLocalIPs": list(given["link_local_ip"]) or None,
        },
        "Links": list(given["link"]) or None,
        "Aliases": list(given["alias"]) or None,
        "DriverOpts": pairs(given["driver_opt"], "--driver-opt") or None,
        "GwPriority": given["gw_priority"],
    }
    body = {"Container": container, "EndpointConfig": endpoint}
    client().request("POST", f"/networks/{segment(network)}/connect", None, body).read()


@command("disconnect")
@flag("-f", "--force", help="Also a container that is not there any more.")
@one("network", "NETWORK", complete=completers.networks)
@one("container", "CONTAINER", complete=completers.containers)
def disconnect_command(network: str, container: str, force: bool) -> None:
    """Disconnect a container from a network."""
    body = {"Container": container, "Force": force}
    client().request("POST", f"/networks/{segment(network)}/disconnect", None, body).read()


@command("ls")
@filter_option
@format_option
@flag("--no-trunc", help="Do not shorten.")
@flag("-q", "--quiet", help="Only ids.")
def ls_command(filters: tuple[str, ...], format: str, no_trunc: bool, quiet: bool) -> None:
    """List networks."""
    views = client().request("GET", "/networks", {"filters": parse_filters(filters)}).json()
    rows = [network_row(view, truncate=not no_trunc) for view in sorted(views, key=lambda view: view["Name"])]
    show(rows, COLUMNS, format=format, quiet="ID" if quiet else "", default="ID Name Driver Scope")


@command("rm")
@flag("-f", "--force", help="Not being there is no failure.")
@several("names", "NETWORK", complete=completers.networks)
def rm_command(names: tuple[str, ...], force: bool) -> None:
    """Remove networks."""
    api = client()

    def remove(name: str) -> None:
        try:
            api.request("DELETE", f"/networks/{segment(name)}").read()
        except ApiError as error:
            if not (force and error.status == 404):
                raise

    each(names, remove)


@command("prune")
@many("--filter", "filters", help="Only what matches: until=24h, label=name=value.", metavar="filter")
@flag("-f", "--force", help="Do not ask.")
def prune_command(filters: tuple[str, ...], force: bool) -> None:
    """Remove networks that no container uses."""
    if not confirmed("This will remove all custom networks not used by at least one container.", force=force):
        return
    done = client().request("POST", "/networks/prune", {"filters": parse_filters(filters)}).json()
    if names := items(done, "NetworksDeleted"):
        emit("\n".join(["Deleted Networks:", *names, ""]))
