"""The values of the network area: what core asks for and what it stores with a container."""

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

import msgspec


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What the daemon's flags say. One table and one bridge per daemon, so that several run side by side."""

    bridge: str = "longshore0"
    bip: str = ""  # address of the bridge with prefix length; empty: the first free one of a pool
    mtu: int = 0  # 0: that of the link with the default route
    table: str = ""  # empty: "longshore" for the default bridge, else derived from the bridge's name
    default_ip: str = ""  # host address of ports published without one; empty: all

    @property
    def table_name(self) -> str:
        if self.table:
            return self.table
        return "longshore" if self.bridge == "longshore0" else f"longshore-{self.bridge}"


class PortMapping(msgspec.Struct, frozen=True, omit_defaults=True):
    """One published port. `host_port` 0 asks for a free one; in an Endpoint it is always the real one."""

    container_port: int
    proto: str = "tcp"  # tcp, udp, sctp
    ip: str = ""  # host address; "" or 0.0.0.0: all
    host_port: int = 0
    # a range "8000-8010" asks for any one free port of it: (8000, 8010)
    host_range: tuple[int, int] | None = None


class EndpointRequest(msgspec.Struct, frozen=True):
    container_id: str
    network: str = "bridge"  # name of a bridge network; modes host, none and container never come here
    ports: tuple[PortMapping, ...] = ()
    mac: str = ""
    ip: str = ""  # wanted address; Conflict when used, InvalidArgument outside of the subnet
    name: str = ""  # the container's name without slash, for messages only
    interface: str = "eth0"
    link_local: tuple[str, ...] = ()  # further addresses of 169.254.0.0/16
    # id of a running container whose host ports this one takes over later, by `hand_over`: until then they wait
    successor_of: str = ""


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A container's place in a network. Core stores it with the container and gives it back to `restore`."""

    id: str  # 64 hex
    container_id: str
    network: str
    bridge: str
    link: str  # the host's end of the pair
    ip: str
    prefix: int
    gateway: str  # "" in an internal network
    mac: str
    mtu: int
    ports: tuple[PortMapping, ...] = ()
    interface: str = "eth0"
    name: str = ""
    link_local: tuple[str, ...] = ()
    waiting: tuple[PortMapping, ...] = ()  # host ports that a predecessor still has


class BridgeNetwork(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bridge network as the manager needs it."""

    name: str
    bridge: str
    subnet: str  # "172.18.0.0/16"
    gateway: str  # the bridge's own address
    mtu: int = 1500
    internal: bool = False  # no way out, no published ports
    icc: bool = True  # containers of this network reach each other
    masquerade: bool = True
    ip_range: str = ""  # hand out addresses of this part of the subnet only

    @property
    def address(self) -> IPv4Interface:
        """The bridge's own."""
        return IPv4Interface(f"{self.gateway}/{IPv4Network(self.subnet).prefixlen}")
