"""The daemon's own nft table as a plan: pure functions from networks and endpoints to one batch of changes.

What the rules promise:

- A published port is one element of a map; its packets are redirected in the prerouting hook (from outside and from
  containers) and the output hook (from programs of this machine, 127.0.0.1 included).
- Nothing else reaches a container from outside of its network, whatever routes the neighbours have.
- A port published on 127.0.0.1 is reached from this machine only. Packets from a wire to 127.0.0.0/8 are dropped
  before connection tracking: the bridges accept loopback addresses (route_localnet), which replies to local programs
  need, so the kernel's own check does not protect there any more.
- An internal network has no way in and no way out.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from longshore.kernel import nft
from longshore.kernel.nft import Batch, Chain, Element, Set, concatenate
from longshore.network.model import BridgeNetwork, Endpoint, PortMapping
from longshore.network.ports import ANY

PORTS = "published"
ADDRESS_PORTS = "published_at"
BRIDGES = "bridges"
PAIRS = "friends"
INTERNAL = "internal"

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PORT_TYPE = (nft.TYPE_INET_PROTO, nft.TYPE_INET_SERVICE)
_TARGET_TYPE = (nft.TYPE_IPV4_ADDR, nft.TYPE_INET_SERVICE)
_LOOPBACK = IPv4Network("127.0.0.0/8")

SETS = (
    Set(PORTS, _PORT_TYPE, _TARGET_TYPE),
    Set(ADDRESS_PORTS, (nft.TYPE_IPV4_ADDR, *_PORT_TYPE), _TARGET_TYPE),
    Set(BRIDGES, (nft.TYPE_IFNAME,)),
    Set(PAIRS, (nft.TYPE_IFNAME, nft.TYPE_IFNAME)),
    Set(INTERNAL, (nft.TYPE_IFNAME,)),
)
CHAINS = (
    Chain("raw", "filter", nft.NF_INET_PRE_ROUTING, -300),
    Chain("prerouting", "nat", nft.NF_INET_PRE_ROUTING, -100),
    Chain("output", "nat", nft.NF_INET_LOCAL_OUT, -100),
    Chain("postrouting", "nat", nft.NF_INET_POST_ROUTING, 100),
    Chain("forward", "filter", nft.NF_INET_FORWARD, 0),
)
_ACCEPT = nft.verdict(nft.NF_ACCEPT)
_DROP = nft.verdict(nft.NF_DROP)


def published(mapping: PortMapping, ip: str) -> tuple[str, Element]:
    """The map and the element that publish one port of the container with address `ip`."""
    port = (bytes([_PROTOCOLS[mapping.proto]]), struct.pack("!H", mapping.host_port))
    target = concatenate(IPv4Address(ip).packed, struct.pack("!H", mapping.container_port))
    if (mapping.ip or ANY) == ANY:
        return PORTS, (concatenate(*port), target)
    return ADDRESS_PORTS, (concatenate(IPv4Address(mapping.ip).packed, *port), target)


def add_published(batch: Batch, table: str, endpoint: Endpoint, ports: Iterable[PortMapping]) -> None:
    for mapping in ports:
        name, element = published(mapping, endpoint.ip)
        batch.add_elements(table, name, [element])


def delete_published(batch: Batch, table: str, ports: Iterable[PortMapping]) -> None:
    for mapping in ports:
        name, (key, _) = published(mapping, ANY)
        batch.delete_elements(table, name, [(key, None)])


def plan_table(table: str, networks: Iterable[BridgeNetwork], endpoints: Iterable[Endpoint]) -> Batch:
    """Replace the whole table in one transaction: at no instant is there none, or half of one."""
    networks = list(networks)
    batch = Batch()
    batch.add_table(table)  # deleting one that does not exist would fail
    batch.delete_table(table)
    batch.add_table(table)
    for chain in CHAINS:
        batch.add_chain(table, chain)
    for described in SETS:
        batch.add_set(table, described)
    _add_interfaces(batch, table, networks)
    ports: dict[str, list[Element]] = {}
    for endpoint in endpoints:
        for mapping in endpoint.ports:
            name, element = published(mapping, endpoint.ip)
            ports.setdefault(name, []).append(element)
    for name, elements in ports.items():
        batch.add_elements(table, name, elements)
    _add_redirects(batch, table)
    _add_masquerade(batch, table, networks)
    _add_forward(batch, table)
    return batch


def _name(interface: str) -> bytes:
    return interface.encode().ljust(nft.IFNAMSIZ, b"\0")


def _add_interfaces(batch: Batch, table: str, networks: list[BridgeNetwork]) -> None:
    names = [_name(network.bridge) for network in networks]
    friends = [_name(network.bridge) for network in networks if network.icc]
    internal = [_name(network.bridge) for network in networks if network.internal]
    batch.add_elements(table, BRIDGES, [(name, None) for name in names])
    batch.add_elements(table, PAIRS, [(name + name, None) for name in friends])
    batch.add_elements(table, INTERNAL, [(name, None) for name in internal])


def _to_loopback() -> list[bytes]:
    network = _LOOPBACK
    return nft.inside(nft.destination_address(), network.network_address.packed, network.netmask.packed)


def _from(network: IPv4Network) -> list[bytes]:
    return nft.inside(nft.source_address(), network.network_address.packed, network.netmask.packed)


def _add_redirects(batch: Batch, table: str) -> None:
    from_wire = nft.interface(nft.META_IIFNAME, "lo", equal=False)
    batch.add_rule(table, "raw", [*from_wire, *_to_loopback(), _DROP], comment="nobody outside is 127.0.0.1")
    at_address = [
        nft.destination_address(0),
        nft.meta(nft.META_L4PROTO, 1),
        nft.destination_port(2),
        nft.lookup(ADDRESS_PORTS, to=0),
        nft.destination_nat(0, 1),
    ]
    at_any = [
        *nft.to_this_machine(),
        nft.meta(nft.META_L4PROTO, 0),
        nft.destination_port(1),
        nft.lookup(PORTS, to=0),
        nft.destination_nat(0, 1),
    ]
    for chain in ("prerouting", "output"):
        batch.add_rule(table, chain, at_address)
        batch.add_rule(table, chain, at_any)


def _add_masquerade(batch: Batch, table: str, networks: list[BridgeNetwork]) -> None:
    to_bridge = [nft.meta(nft.META_OIFNAME), nft.lookup(BRIDGES)]
    words = "local programs that spoke to 127.0.0.1"
    batch.add_rule(table, "postrouting", [*to_bridge, *_from(_LOOPBACK), nft.masquerade()], comment=words)
    for network in networks:
        subnet = IPv4Network(network.subnet)
        here = nft.interface(nft.META_OIFNAME, network.bridge)
        # without it the answer of a neighbour would go straight to the asker, past the redirection
        hairpin = [*_from(subnet), *here, *nft.has_bits(nft.CT_STATUS, nft.STATUS_DNAT), nft.masquerade()]
        batch.add_rule(table, "postrouting", hairpin, comment="published port of the own network")
        if network.masquerade and not network.internal:
            away = nft.interface(nft.META_OIFNAME, network.bridge, equal=False)
            batch.add_rule(table, "postrouting", [*_from(subnet), *away, nft.masquerade()])


def _add_forward(batch: Batch, table: str) -> None:
    from_bridge = [nft.meta(nft.META_IIFNAME), nft.lookup(BRIDGES)]
    to_bridge = [nft.meta(nft.META_OIFNAME), nft.lookup(BRIDGES)]
    elsewhere = [nft.meta(nft.META_OIFNAME), nft.lookup(BRIDGES, inverted=True)]
    friends = [nft.meta(nft.META_IIFNAME, 0), nft.meta(nft.META_OIFNAME, 4), nft.lookup(PAIRS)]
    known = nft.has_bits(nft.CT_STATE, nft.STATE_ESTABLISHED_RELATED)
    redirected = nft.has_bits(nft.CT_STATUS, nft.STATUS_DNAT)
    for expressions in (
        [*known, _ACCEPT],
        [*friends, _ACCEPT],
        [nft.meta(nft.META_IIFNAME), nft.lookup(INTERNAL), _DROP],
        [nft.meta(nft.META_OIFNAME), nft.lookup(INTERNAL), _DROP],
        [*to_bridge, *redirected, _ACCEPT],
        [*from_bridge, *elsewhere, _ACCEPT],
        [*to_bridge, _DROP],
    ):
        batch.add_rule(table, "forward", expressions)
