"""What the network manager does to this machine: bridges, pairs, sysctls, nft transactions.

Synchronous; all calls from one thread (the manager's worker), because the kernel serialises link changes by one
lock anyway and a call may wait there for as long as the kernel takes a dead namespace apart.
"""

import errno
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from longshore.errors import Conflict, EngineError, Internal, Unsupported
from longshore.kernel import conntrack, netlink
from longshore.kernel.netlink import Link, NetlinkError, NetlinkSocket
from longshore.kernel.nft import Batch, NftSocket
from longshore.network import beside, files
from longshore.network.addresses import check_link_name, choose_subnet, mac_of, parse_interface
from longshore.network.model import BridgeNetwork, Endpoint, PortMapping

SYSCTL = Path("/proc/sys/net/ipv4")


@contextmanager
def explained(what: str) -> Generator[None]:
    """Turn a refused kernel request into the error tree's words."""
    try:
        yield
    except OSError as cause:
        raise explain(what, cause) from cause


def explain(what: str, cause: OSError) -> EngineError:
    detail = cause.strerror or str(cause)
    if cause.errno in (errno.EPERM, errno.EACCES):
        return Unsupported(
            what, detail=detail, hint="networking needs CAP_NET_ADMIN; longshore doctor shows more"
        )
    if cause.errno in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT):
        return Unsupported(
            what, detail=detail, hint="the kernel lacks bridge, veth or nf_tables; try modprobe"
        )
    return Internal(what, detail=detail)


@dataclass(frozen=True, slots=True)
class BridgeRequest:
    """`address` decides when given; else that of an existing bridge, else `prefer`, else a free one of the pool."""

    network: str
    bridge: str
    address: str = ""
    prefer: str = ""
    mtu: int = 0


class Host:
    def __init__(self, table: str) -> None:
        """Raises Unsupported where there is no netlink or no nf_tables."""
        self.table = table
        with explained("cannot open netlink sockets"):
            self.route = NetlinkSocket()
            try:
                self.nft = NftSocket()
            except OSError:
                self.route.close()
                raise

    def close(self) -> None:
        self.route.close()
        self.nft.close()

    # Bridges

    def settle_bridge(self, request: BridgeRequest) -> BridgeNetwork:
        """Create the bridge or take over the one that is there; up, with an address. Twice is fine."""
        with explained(f"cannot set up bridge {request.bridge}"):
            link = netlink.find_link(self.route, check_link_name(request.bridge))
            if link is not None and link.kind != "bridge":
                raise Conflict(
                    f"link {request.bridge} exists and is no bridge", hint="name another with --bridge"
                )
            address = self._choose_address(request, link)
            # Not the link's own one: a bridge without ports goes back to 1500 by itself
            mtu = request.mtu or self.default_mtu()
            if link is None:
                link = self._create_bridge(request.bridge, address, mtu)
            elif not link.flags & netlink.IFF_UP:
                self.route.perform(netlink.set_up(link.index, name=link.name))
            # replies to local programs arrive here for 127.0.0.1; rules.py says what guards it
            write_sysctl(SYSCTL / "conf" / request.bridge / "route_localnet", "1")
        return BridgeNetwork(
            name=request.network,
            bridge=request.bridge,
            subnet=str(address.network),
            gateway=str(address.ip),
            mtu=mtu,
        )

    def _create_bridge(self, name: str, address: IPv4Interface, mtu: int) -> Link:
        self.route.perform(netlink.new_bridge(name, mac_of(address.ip), mtu))
        link = netlink.find_link(self.route, name)
        if link is None:
            raise NetlinkError(errno.ENODEV, f"bridge {name} vanished")
        try:
            self.route.perform(netlink.new_address(link.index, address))
        except OSError:
            self.delete_links([name])
            raise
        return link

    def _choose_address(self, request: BridgeRequest, link: Link | None) -> IPv4Interface:
        index = link.index if link else -1
        addresses = netlink.addresses(self.route)
        present = [address for owner, address in addresses if owner == index]
        wanted = parse_interface(request.address) if request.address else None
        if present and (wanted is None or wanted in present):
            return wanted or present[0]
        if present and link and any(port.master == link.index for port in netlink.links(self.route)):
            raise Conflict(
                f"bridge {request.bridge} has address {present[0]}, not {wanted}, and containers use it",
                hint="stop them first, or leave the address as it is",
            )
        taken = self._taken(addresses, index)
        if wanted is None and request.prefer:
            preferred = parse_interface(request.prefer)
            wanted = None if any(preferred.network.overlaps(network) for network in taken) else preferred
        if wanted is None:
            subnet = choose_subnet(taken)
            wanted = IPv4Interface((subnet[1], subnet.prefixlen))
        if link is not None:
            for old in present:
                self.route.perform(netlink.delete_address(link.index, old))
            self.route.perform(netlink.new_address(link.index, wanted))
        return wanted

    def taken(self) -> list[IPv4Network]:
        """All networks that this machine has an address in, a route to or a nameserver at."""
        with explained("cannot list addresses"):
            return self._taken(netlink.addresses(self.route), -1)

    def _taken(self, addresses: list[tuple[int, IPv4Interface]], own: int) -> list[IPv4Network]:
        taken = [address.network for index, address in addresses if index != own]
        taken += [
            r.destination for r in netlink.routes(self.route) if r.link != own and r.destination.prefixlen
        ]
        for server in files.nameservers(files.host_resolv_conf()):
            try:
                taken.append(IPv4Network(server))
            except ValueError:
                continue  # IPv6
        return taken

    def default_mtu(self) -> int:
        """That of the link with the default route: in a cloud or a tunnel it is less than 1500."""
        by_index = {link.index: link.mtu for link in netlink.links(self.route)}
        ways_out = [r.link for r in netlink.routes(self.route) if r.destination.prefixlen == 0]
        return min((by_index[index] for index in ways_out if index in by_index), default=1500)

    # Endpoints

    def plug(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int | None) -> None:
        """The pair, the inside, the published ports; on failure the pair is gone again."""
        with explained(f"cannot plug {endpoint.name or endpoint.container_id[:12]} into {endpoint.network}"):
            bridge = netlink.link_index(self.route, endpoint.bridge)
            if not bridge:
                raise NetlinkError(errno.ENODEV, f"bridge {endpoint.bridge} is gone")
            self.route.perform(
                netlink.new_veth(
                    endpoint.link,
                    master=bridge,
                    mtu=endpoint.mtu,
                    peer=endpoint.interface,
                    peer_mac=endpoint.mac,
                    netns_fd=netns_fd,
                )
            )
            try:
                self._finish_plug(endpoint, netns_fd, netlink_fd)
            except OSError:
                self.delete_links([endpoint.link])
                raise

    def _finish_plug(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int | None) -> None:
        inside = NetlinkSocket(fd=netlink_fd) if netlink_fd is not None else netlink.socket_inside(netns_fd)
        with inside:
            address = IPv4Interface(f"{endpoint.ip}/{endpoint.prefix}")
            netlink.configure_inside(inside, endpoint.interface, address, endpoint.gateway)
            for text in endpoint.link_local:
                index = netlink.link_index(inside, endpoint.interface)
                inside.perform(netlink.new_address(index, IPv4Interface(f"{text}/16")))
        # Asked for only now that both ends are up: this query makes the kernel take note of the new carrier at once
        # (linkwatch_sync_dev in rtnl_getlink), otherwise the bridge may drop the container's first packets.
        port = netlink.find_link(self.route, endpoint.link)
        if port is None:
            raise NetlinkError(errno.ENODEV, f"link {endpoint.link} vanished")
        # A container that asks for a published port of its own: with br_netfilter (dockerd loads it) the bridge itself
        # redirects the frame, and has to send it back where it came from.
        self.route.perform(netlink.hairpin(port.index))
        self._learn(port.index, endpoint.mac)

    def _learn(self, port: int, mac: str) -> None:
        """The address may have lived behind another port a moment ago, and its MAC with it."""
        for _ in range(10):
            try:
                return self.route.perform(netlink.learn(port, mac))
            except NetlinkError as cause:
                if cause.errno != errno.EPERM:
                    raise
                # Older kernels: the port is not forwarding yet. It will be when the link watcher has run.
                time.sleep(0.002)
        return None  # the first frame from there teaches the same

    def loopback_up(self, netlink_fd: int) -> None:
        with explained("cannot set up loopback"), NetlinkSocket(fd=netlink_fd) as inside:
            inside.perform(netlink.set_up(1, name="lo"))

    def delete_links(self, names: Iterable[str]) -> None:
        """Those that exist. Slow (the kernel waits for all readers): never before a reply."""
        for name in names:
            index = netlink.link_index(self.route, name)
            if not index:
                continue
            try:
                self.route.perform(netlink.delete_link(index, name=name))
            except NetlinkError as cause:
                if cause.errno != errno.ENODEV:  # its namespace has died between the two calls
                    raise

    def stale_links(self, networks: Iterable[BridgeNetwork], known: Iterable[str]) -> list[str]:
        """Pairs at our bridges that belong to no endpoint."""
        keep = set(known)
        bridges = {network.bridge for network in networks}
        found = netlink.links(self.route)
        indexes = {link.index for link in found if link.name in bridges}
        return [
            link.name
            for link in found
            if link.master in indexes
            and link.kind == "veth"
            and link.name.startswith("veth")
            and link.name not in keep
        ]

    # Rules

    def commit(self, batch: Batch) -> None:
        with explained("cannot change the firewall rules"):
            self.nft.commit(batch)

    def settle_beside(self, bridges: Iterable[str]) -> bool:
        with explained("cannot add rules to DOCKER-USER"):
            return beside.settle(self.nft, self.table, bridges)

    def forget_flows(self, ports: Iterable[PortMapping]) -> None:
        numbers = {mapping.host_port for mapping in ports if mapping.proto == "udp"}
        if numbers:
            with explained("cannot forget flows of published ports"):
                conntrack.forget_udp(numbers)

    def forward(self) -> None:
        """Let this machine route IPv4. It stays on when we leave: others may have come to need it."""
        with explained("cannot enable IPv4 forwarding"):
            write_sysctl(SYSCTL / "ip_forward", "1")


def write_sysctl(path: Path, value: str) -> None:
    """Nothing is written when the value is there: /proc/sys may be read-only (in a container) and right already."""
    if path.read_text().strip() != value:
        path.write_text(value)
