"""Networks as users know them: the predefined bridge, host and none, and bridge networks of their own."""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

import msgspec

from longshore.core.clock import now, parse_moment, parse_rfc3339
from longshore.core.database import Database
from longshore.core.doctor import Check
from longshore.core.events import EventBus
from longshore.core.filters import boolean, check_filters, label_filter, one_of
from longshore.core.model import EndpointSettings
from longshore.errors import Conflict, Forbidden, InvalidArgument, NotFound, Unsupported
from longshore.network import doctor
from longshore.network.addresses import check_link_name, choose_subnet, parse_subnet
from longshore.network.manager import NO_BRIDGE, BridgeNetwork, Endpoint, NetworkManager

PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}  # and their drivers
_NAME = re.compile(r"[^\x00-\x20\x7f/:]([^\x00-\x1f\x7f/:]*[^\x00-\x20\x7f/:])?")
_STEPS = ("CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, document TEXT NOT NULL)",)
_FILTERS = frozenset({"name", "id", "driver", "scope", "type", "label", "dangling"})
_PRUNE_FILTERS = frozenset({"label", "label!", "until"})

# Docker's names of bridge options
NAME_OPTION = "com.docker.network.bridge.name"
ICC_OPTION = "com.docker.network.bridge.enable_icc"
MASQUERADE_OPTION = "com.docker.network.bridge.enable_ip_masquerade"
MTU_OPTION = "com.docker.network.driver.mtu"


class Network(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network as it is stored. `bridge` is None for host and none."""

    id: str
    name: str
    driver: str
    created: str
    internal: bool = False
    attachable: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    bridge: BridgeNetwork | None = None

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED


class Subnet(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    subnet: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""


class Addressing(msgspec.Struct, frozen=True, rename="pascal"):
    """The API's IPAM object."""

    driver: str = "default"
    config: list[Subnet] | None = None
    options: dict[str, str] | None = None


class NetworkRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """Body of POST /networks/create."""

    name: str
    driver: str = "bridge"
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv6: bool | None = msgspec.field(default=False, name="EnableIPv6")
    ipam: Addressing | None = msgspec.field(default=None, name="IPAM")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class Connector(Protocol):
    """Containers joining and leaving networks: set by core.containers."""

    async def connect(self, container: str, network: str, settings: EndpointSettings) -> None: ...

    async def disconnect(self, container: str, network: str, *, force: bool = False) -> None: ...

    def users_of(self, network: str) -> Sequence[str]:
        """Names of containers, also stopped ones, that are set up for the network."""
        ...

    def id_of(self, container: str) -> str:
        """The id of a container; the name itself when it is gone."""
        ...


class Networks:
    """Call `setup` once before anything else. `connector` may be set later."""

    def __init__(self, database: Database, manager: NetworkManager, events: EventBus) -> None:
        self.manager = manager
        self.connector: Connector | None = None
        self._database = database
        self._events = events
        self._networks: dict[str, Network] = {}
        database.migrate("networks", _STEPS)

    async def setup(self) -> None:
        """Bring all stored networks up in the kernel; the predefined ones are made at the first start."""
        for row in self._database.all("SELECT document FROM networks"):
            network = msgspec.json.decode(str(row["document"]), type=Network)
            self._networks[network.name] = network
        own = [n.bridge for n in self._networks.values() if n.bridge is not None and not n.predefined]
        last = self._networks.get("bridge")
        prefer = str(last.bridge.address) if last and last.bridge else ""
        await self.manager.setup(prefer=prefer, networks=own)
        for name, driver in PREDEFINED.items():
            bridge = None
            if name == "bridge":
                if self.manager.settings.bridge == NO_BRIDGE:
                    self._networks.pop(name, None)  # its id stays in the database
                    continue
                bridge = self.manager.network(name)
            known = self._networks.get(name)
            if known is None:
                known = Network(secrets.token_hex(32), name, driver, now())
            self._store(msgspec.structs.replace(known, bridge=bridge))

    def _store(self, network: Network) -> None:
        if self._networks.get(network.name) == network:
            return
        document = msgspec.json.encode(network).decode()
        self._database.execute(
            "INSERT INTO networks VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            network.id,
            network.name,
            document,
        )
        self._networks[network.name] = network

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> "_Networks":
        """Newest first. Raises InvalidArgument for an unknown filter."""
        given = check_filters(filters, _FILTERS)
        dangling = boolean(given.get("dangling", ()), "dangling")
        found = [
            network
            for network in self._networks.values()
            if _matches(network, given)
            and dangling in (None, not network.predefined and not self._used(network))
        ]
        return sorted(found, key=lambda network: network.created, reverse=True)

    def _used(self, network: Network) -> bool:
        users = self.connector.users_of(network.name) if self.connector else ()
        return bool(users or self.manager.endpoints(network.name))

    def get(self, name: str) -> Network:
        """By name, id or unique beginning of an id. Raises NotFound, Conflict."""
        if name == "default":
            name = "bridge"
        if name in self._networks:
            return self._networks[name]
        found = [n for n in self._networks.values() if name and n.id.startswith(name)]
        if len(found) > 1:
            raise Conflict(f"network {name} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {name} not found")
        return found[0]

    def endpoints(self, network: Network) -> Sequence[Endpoint]:
        return self.manager.endpoints(network.name) if network.bridge else ()

    async def create(self, request: NetworkRequest) -> Network:
        """Raises InvalidArgument, Conflict (used name or subnet), Unsupported (other drivers)."""
        if not _NAME.fullmatch(request.name):
            raise InvalidArgument(
                f"invalid network name: {request.name!r}",
                hint="it may not be empty, begin or end with a space, or hold a colon, slash or control character",
            )
        if request.name in PREDEFINED or request.name == "default":
            raise Forbidden(f"operation is not permitted on predefined {request.name} network")
        if request.name in self._networks:
            raise Conflict(f"network with name {request.name} already exists")
        if request.driver not in ("bridge", "default", ""):
            raise Unsupported(f"network driver {request.driver} is not supported", hint="use bridge")
        if request.enable_ipv6:
            raise Unsupported("IPv6 networks are not supported yet", hint="leave --ipv6 out")
        identity = secrets.token_hex(32)
        taken = await self.manager.taken_subnets()
        bridge = plan_bridge(request, identity, taken)
        if any(n.bridge and n.bridge.bridge == bridge.bridge for n in self._networks.values()):
            raise Conflict(f"bridge {bridge.bridge} belongs to another network")
        bridge = await self.manager.create_network(bridge)
        network = Network(
            id=identity,
            name=request.name,
            driver="bridge",
            created=now(),
            internal=request.internal,
            attachable=request.attachable,
            labels=request.labels or {},
            options=request.options or {},
            bridge=bridge,
        )
        self._store(network)
        self._announce(network, "create")
        return network

    async def remove(self, name: str) -> None:
        """Raises Forbidden for predefined ones, Conflict while containers run in it, NotFound."""
        network = self.get(name)
        if network.predefined:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        running = self.manager.endpoints(network.name)
        if running:
            users = ", ".join(f'name:"{endpoint.name}" id:"{endpoint.id[:12]}"' for endpoint in running)
            raise Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({users})"
            )
        await self.manager.remove_network(network.name)
        self._database.execute("DELETE FROM networks WHERE id = ?", network.id)
        del self._networks[network.name]
        self._announce(network, "destroy")

    async def prune(self, filters: Mapping[str, Sequence[str]] | None = None) -> "_Names":
        """Remove the user-defined networks that no container is set up for; returns their names."""
        given = check_filters(filters, _PRUNE_FILTERS)
        until = min((parse_moment(text, "until") for text in given.get("until", ())), default=0)
        gone: _Names = []
        for network in [*self._networks.values()]:
            young = until and parse_rfc3339(network.created) >= until
            if network.predefined or young or self._used(network) or not _matches(network, given):
                continue
            await self.remove(network.name)
            gone.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return gone

    async def connect(self, name: str, container: str, settings: EndpointSettings) -> None:
        network = self.get(name)
        if network.bridge is None:
            raise InvalidArgument(f"container cannot be connected to the {network.name} network")
        await self._need_connector().connect(container, network.name, settings)
        self.announce_member(network.name, "connect", self._need_connector().id_of(container))

    async def disconnect(self, name: str, container: str, *, force: bool) -> None:
        network = self.get(name)
        await self._need_connector().disconnect(container, network.name, force=force)
        self.announce_member(network.name, "disconnect", self._need_connector().id_of(container))

    def announce_member(self, name: str, action: str, container: str) -> None:
        """Tell that a container (its id) has joined or left; nothing for a network that is gone."""
        if (network := self._networks.get(name)) is not None:
            self._announce(network, action, container=container)

    def _need_connector(self) -> Connector:
        if self.connector is None:
            raise Unsupported("containers cannot change networks after their creation yet")
        return self.connector

    def _announce(self, network: Network, action: str, **attributes: str) -> None:
        self._events.publish(
            "network", action, network.id, {"name": network.name, "type": network.driver, **attributes}
        )

    def checks(self) -> "list[Check]":
        """For `longshore doctor`. Asks the kernel: call it in a thread."""
        bridges = [network.bridge.bridge for network in self._networks.values() if network.bridge]
        found = doctor.examine(self.manager.table, bridges)
        return [Check(finding.check, finding.status, finding.detail, finding.hint) for finding in found]


def _matches(network: Network, given: Mapping[str, Sequence[str]]) -> bool:
    """Docker's filters; a name or id matches by any part of it, as `docker network ls` promises."""
    kind = "builtin" if network.predefined else "custom"
    return (
        one_of(given.get("name", ()), lambda part: part in network.name)
        and one_of(given.get("id", ()), network.id.startswith)
        and one_of(given.get("driver", ()), network.driver.__eq__)
        and one_of(given.get("scope", ()), "local".__eq__)
        and one_of(given.get("type", ()), kind.__eq__)
        and label_filter(given.get("label", ()), network.labels)
        and not any(label_filter([label], network.labels) for label in given.get("label!", ()))
    )


def plan_bridge(request: NetworkRequest, identity: str, taken: Iterable[IPv4Network]) -> BridgeNetwork:
    """Addresses and options of a new bridge network; `taken` are the subnets that this machine uses. Pure."""
    configs = (request.ipam.config if request.ipam else None) or []
    given = [config for config in configs if ":" not in config.subnet]  # IPv6 is not handed out yet
    if len(given) > 1:
        raise InvalidArgument("bridge driver doesn't support multiple subnets")
    config = given[0] if given else Subnet()
    taken = list(taken)
    if config.subnet:
        subnet = parse_subnet(config.subnet)
        if any(subnet.overlaps(network) for network in taken):
            raise Forbidden(
                f"invalid pool request: Pool overlaps with other one on this address space: {subnet}"
            )
    else:
        subnet = choose_subnet(taken)
    if config.ip_range and not parse_subnet(config.ip_range).subnet_of(subnet):
        raise InvalidArgument(f"invalid ip-range {config.ip_range}: it is not a part of {subnet}")
    options = request.options or {}
    return BridgeNetwork(
        name=request.name,
        bridge=check_link_name(options.get(NAME_OPTION) or f"br-{identity[:12]}"),
        subnet=str(subnet),
        gateway=str(_gateway(config.gateway, subnet)),
        mtu=_mtu(options),
        internal=request.internal,
        icc=_on(options, ICC_OPTION),
        masquerade=_on(options, MASQUERADE_OPTION),
        ip_range=config.ip_range,
    )


def _gateway(text: str, subnet: IPv4Network) -> IPv4Address:
    if not text:
        return subnet[1]
    try:
        address = IPv4Address(text.split("/", 1)[0])
    except ValueError as cause:
        raise InvalidArgument("invalid gateway", detail=str(cause)) from cause
    if address not in subnet:
        raise InvalidArgument(f"no matching subnet for gateway {address}")
    return address


def _mtu(options: Mapping[str, str]) -> int:
    text = options.get(MTU_OPTION, "0")
    if not text.isdecimal() or int(text) > 65535 or 0 < int(text) < 68:
        raise InvalidArgument(f"invalid value of {MTU_OPTION}: {text!r}")
    return int(text)


def _on(options: Mapping[str, str], name: str) -> bool:
    text = options.get(name, "true").lower()
    if text not in ("true", "false", "1", "0"):
        raise InvalidArgument(f"invalid value of {name}: {text!r}")
    return text in ("true", "1")


_Networks = list[Network]  # inside of the class `list` is the method
_Names = list[str]
_Checks = list[Check]
