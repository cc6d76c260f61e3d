"""Networks: list, inspect, create, remove, connect, disconnect, prune."""

from typing import Any

import msgspec

from longshore.api.http import AnyReply, Reply, Request, Route
from longshore.core.model import EndpointSettings, Wire, decode
from longshore.core.networks import Network, NetworkRequest, Networks
from longshore.errors import InvalidArgument


class _Connect(Wire):
    container: str = ""
    endpoint_config: EndpointSettings = msgspec.field(default_factory=EndpointSettings)


class _Disconnect(Wire):
    container: str = ""
    force: bool = False


def network_view(network: Network) -> dict[str, Any]:
    """One entry of the list; inspect adds to it."""
    bridge = network.bridge
    config: list[dict[str, str]] = []
    if bridge is not None:
        config = [{"Subnet": bridge.subnet, "Gateway": bridge.gateway}]
        if bridge.ip_range:
            config[0]["IPRange"] = bridge.ip_range
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": True,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": config},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": _options(network),
        "Labels": network.labels,
    }


def _options(network: Network) -> dict[str, str]:
    bridge = network.bridge
    if bridge is None or not network.predefined:
        return network.options
    return {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": bridge.bridge,
        "com.docker.network.driver.mtu": str(bridge.mtu),
    }


def inspect_view(networks: Networks, network: Network) -> dict[str, Any]:
    containers = {
        endpoint.container_id: {
            "Name": endpoint.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": f"{endpoint.ip}/{endpoint.prefix}",
            "IPv6Address": "",
        }
        for endpoint in networks.endpoints(network)
    }
    return network_view(network) | {"Containers": containers}


async def list_networks(request: Request) -> AnyReply:
    return Reply(200, [network_view(n) for n in request.engine.networks.list(request.query.filters())])


async def inspect_network(request: Request) -> AnyReply:
    scope = request.query.get("scope", "")
    if scope not in ("", "local"):
        raise InvalidArgument(f"invalid scope {scope!r}", hint="all networks are local")
    networks = request.engine.networks
    return Reply(200, inspect_view(networks, networks.get(request.parameters["id"])))


async def create_network(request: Request) -> AnyReply:
    network = await request.engine.networks.create(decode(await request.read(), NetworkRequest))
    return Reply(201, {"Id": network.id, "Warning": ""})


async def remove_network(request: Request) -> AnyReply:
    await request.engine.networks.remove(request.parameters["id"])
    return Reply(204)


async def connect_container(request: Request) -> AnyReply:
    body = decode(await request.read(), _Connect)
    await request.engine.networks.connect(request.parameters["id"], body.container, body.endpoint_config)
    return Reply(200)


async def disconnect_container(request: Request) -> AnyReply:
    body = decode(await request.read(), _Disconnect)
    await request.engine.networks.disconnect(request.parameters["id"], body.container, force=body.force)
    return Reply(200)


async def prune_networks(request: Request) -> AnyReply:
    gone = await request.engine.networks.prune(request.query.filters())
    return Reply(200, {"NetworksDeleted": gone or None})


ROUTES = (
    Route("GET", "/networks", list_networks),
    Route("POST", "/networks/create", create_network),
    Route("POST", "/networks/prune", prune_networks),
    Route("GET", "/networks/{id}", inspect_network),
    Route("DELETE", "/networks/{id}", remove_network),
    Route("POST", "/networks/{id}/connect", connect_container),
    Route("POST", "/networks/{id}/disconnect", disconnect_container),
)
