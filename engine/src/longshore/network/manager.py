"""Bridge networks: addresses, links, published ports. The daemon's one door to the network.

The event loop's thread owns the truth (endpoints, addresses, host ports); one worker thread owns the kernel's side
and does what it is told in order. So a plan made from the truth can never overtake an older one.
"""

import asyncio
import errno
import logging
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from typing import ParamSpec, TypeVar

import msgspec

from longshore.errors import Conflict, EngineError, Internal, InvalidArgument, NotFound, Unavailable
from longshore.kernel.netlink import NetlinkError
from longshore.kernel.nft import Batch
from longshore.network import beside, rules
from longshore.network.addresses import Pool, mac_of
from longshore.network.errors import PortAllocated
from longshore.network.host import BridgeRequest, Host
from longshore.network.model import (
    BridgeNetwork,
    Endpoint,
    EndpointRequest,
    NetworkSettings,
    PortMapping,
)
from longshore.network.ports import HostPort, Ports, host_port
from longshore.network.watch import RuleWatch

__all__ = [
    "NO_BRIDGE",
    "BridgeNetwork",
    "Endpoint",
    "EndpointRequest",
    "NetworkManager",
    "NetworkSettings",
    "PortAllocated",
    "PortMapping",
]

DEFAULT = "bridge"
NO_BRIDGE = "none"  # as the name of the bridge: no default network
REAP_AFTER = 1.0  # seconds; a dead namespace takes its links along, in batches, so most are gone by then

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)


class NetworkManager:
    def __init__(self, settings: NetworkSettings) -> None:
        self.settings = settings
        self.table = settings.table_name
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._host: Host | None = None
        self._watch: RuleWatch | None = None
        self._networks: dict[str, BridgeNetwork] = {}
        self._pools: dict[str, Pool] = {}
        self._ports = Ports()
        self._endpoints: dict[str, Endpoint] = {}
        self._plugged: set[str] = set()  # ids of endpoints whose ports are in the table
        self._doomed: set[str] = set()  # links to delete if they do not go by themselves
        self._reaper: asyncio.Task[None] | None = None

    # Life

    async def setup(self, *, prefer: str = "", networks: Iterable[BridgeNetwork] = ()) -> None:
        """Create bridges and table, watch over the rules. A table that exists stays as it is until `restore`.

        `prefer`: the default bridge's address of last time. `networks`: the user-defined ones.
        Raises Unsupported where the kernel or our capabilities do not suffice, Conflict, InvalidArgument.
        """
        request = BridgeRequest(DEFAULT, self.settings.bridge, self.settings.bip, prefer, self.settings.mtu)
        others = list(networks)
        self._host = host = await self._run(Host, self.table)
        if self.settings.bridge != NO_BRIDGE:
            self._adopt(await self._run(host.settle_bridge, request))
        await self._run(host.forward)
        for network in others:
            await self._settle(host, network)
        if not await self._run(host.nft.has_table, self.table):
            await self._apply()
        self._watch = RuleWatch(self.table, self._repair, own_port=host.nft.port)
        self._watch.start()

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """After `setup`, once per daemon start, even without endpoints: these are plugged; everything else goes."""
        for endpoint in endpoints:
            pool = self._pools.get(endpoint.network)
            if pool is None:
                _log.warning(
                    "endpoint %s is in network %s, which is gone", endpoint.id[:12], endpoint.network
                )
                continue
            try:
                pool.claim(IPv4Address(endpoint.ip), endpoint.container_id)
            except EngineError as cause:
                _log.warning("endpoint %s: %s", endpoint.id[:12], cause)
            for mapping in endpoint.ports:
                if not self._ports.restore(mapping, endpoint.id):
                    _log.warning(
                        "host port %s is taken by another program of this machine", host_port(mapping)
                    )
            self._endpoints[endpoint.id] = endpoint
            self._plugged.add(endpoint.id)
        for pool in self._pools.values():
            pool.restart()
        await self._apply()
        host = self._need_host()
        known = [endpoint.link for endpoint in self._endpoints.values()]
        self._doom(await self._run(host.stale_links, list(self._networks.values()), known))

    async def close(self, *, remove: bool = False) -> None:
        """Stop watching. Links and rules stay as long as a container needs them; `remove` takes them all the same."""
        remove = remove or not self._endpoints
        if self._watch is not None:
            self._watch.stop()
        if self._reaper is not None:
            self._reaper.cancel()
        self._ports.close()
        host, self._host = self._host, None
        if host is not None:
            try:
                if remove:
                    await self._run(host.settle_beside, [])
                await self._run(host.delete_links, sorted(self._doomed))
                if remove:
                    await self._remove(host)
            finally:
                host.close()
        self._worker.shutdown()

    async def _remove(self, host: Host) -> None:
        batch = Batch()
        batch.add_table(self.table)  # so that the deletion finds one
        batch.delete_table(self.table)
        await self._run(host.commit, batch)
        links = [endpoint.link for endpoint in self._endpoints.values()]
        bridges = [network.bridge for network in self._networks.values()]
        await self._run(host.delete_links, links + bridges)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """In the worker, to the end even when the caller is cancelled: half a change helps nobody."""
        future = asyncio.get_running_loop().run_in_executor(self._worker, lambda: work(*args, **kwargs))
        return await asyncio.shield(future)

    def _need_host(self) -> Host:
        if self._host is None:
            raise Unavailable("the network is not set up")
        return self._host

    # Networks

    def network(self, name: str) -> BridgeNetwork:
        """Raises NotFound."""
        try:
            return self._networks[name]
        except KeyError:
            raise NotFound(f"network {name} not found") from None

    def endpoints(self, network: str = "") -> list[Endpoint]:
        """The plugged ones, of one network or all."""
        plugged = (endpoint for endpoint in self._endpoints.values() if endpoint.id in self._plugged)
        return [endpoint for endpoint in plugged if not network or endpoint.network == network]

    def _adopt(self, network: BridgeNetwork) -> None:
        part = IPv4Network(network.ip_range) if network.ip_range else None
        self._networks[network.name] = network
        self._pools[network.name] = Pool(IPv4Network(network.subnet), IPv4Address(network.gateway), part)

    async def taken_subnets(self) -> list[IPv4Network]:
        return await self._run(self._need_host().taken)

    async def _settle(self, host: Host, network: BridgeNetwork) -> BridgeNetwork:
        settled = await self._run(host.settle_bridge, _as_request(network))
        network = msgspec.structs.replace(network, mtu=settled.mtu)
        self._adopt(network)
        return network

    async def create_network(self, network: BridgeNetwork) -> BridgeNetwork:
        """Returns it with its real MTU. Raises Conflict when the subnet overlaps that of another network."""
        for other in self._networks.values():
            if IPv4Network(other.subnet).overlaps(IPv4Network(network.subnet)):
                raise Conflict("Pool overlaps with other one on this address space", detail=other.name)
        host = self._need_host()
        network = await self._settle(host, network)
        try:
            await self._apply()
        except EngineError:
            self._forget(network.name)
            await self._run(host.delete_links, [network.bridge])
            raise
        return network

    async def remove_network(self, name: str) -> None:
        """Raises Conflict while endpoints use it, NotFound."""
        network = self.network(name)
        users = [endpoint for endpoint in self._endpoints.values() if endpoint.network == name]
        if users:
            raise Conflict(f"error while removing network: network {name} has active endpoints")
        self._forget(name)
        await self._apply()
        await self._run(self._need_host().delete_links, [network.bridge])

    def _forget(self, name: str) -> None:
        del self._networks[name], self._pools[name]

    # Endpoints

    def allocate(self, request: EndpointRequest) -> Endpoint:
        """Reserve address and host ports. PortAllocated (500, as dockerd), Conflict, InvalidArgument, NotFound."""
        network, pool = self.network(request.network), self._pools[request.network]
        identity = secrets.token_hex(32)
        ip = self._take_address(pool, request)
        ports: list[PortMapping] = []
        waiting: list[PortMapping] = []
        try:
            for mapping in request.ports:
                if network.internal:
                    break  # as Docker: an internal network publishes nothing
                if not mapping.ip and self.settings.default_ip:
                    mapping = msgspec.structs.replace(mapping, ip=self.settings.default_ip)
                if request.successor_of and self._owned_by(mapping, request.successor_of):
                    waiting.append(mapping)
                else:
                    ports.append(self._ports.take(mapping, identity))
        except EngineError as cause:
            for taken in ports:
                self._ports.free(host_port(taken), identity)
            pool.free(ip, request.container_id)
            if isinstance(cause, PortAllocated):
                where = f"{request.name or request.container_id[:12]} ({identity})"
                what = f"driver failed programming external connectivity on endpoint {where}: {cause}"
                raise PortAllocated(what) from cause
            raise
        endpoint = Endpoint(
            id=identity,
            container_id=request.container_id,
            network=network.name,
            bridge=network.bridge,
            link="veth" + identity[:8],
            ip=str(ip),
            prefix=IPv4Network(network.subnet).prefixlen,
            gateway="" if network.internal else network.gateway,
            mac=request.mac or mac_of(ip),
            mtu=network.mtu,
            ports=tuple(ports),
            interface=request.interface,
            name=request.name,
            link_local=request.link_local,
            waiting=tuple(waiting),
        )
        self._endpoints[identity] = endpoint
        return endpoint

    def _take_address(self, pool: Pool, request: EndpointRequest) -> IPv4Address:
        if not request.ip:
            return pool.take(request.container_id)
        try:
            address = IPv4Address(request.ip)
        except ValueError as cause:
            raise InvalidArgument(f"invalid IPv4 address: {request.ip}") from cause
        pool.claim(address, request.container_id)
        return address

    def _owned_by(self, mapping: PortMapping, container_id: str) -> bool:
        owner = self._endpoints.get(self._ports.owner(host_port(mapping)) or "")
        return owner is not None and owner.container_id == container_id

    async def plug(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int | None) -> Endpoint:
        """Link, address, routes and published ports. On failure nothing is left but the reservation: call `unplug`.

        `netlink_fd`: a route netlink socket opened inside of the namespace; None: one is opened.
        Both descriptors stay the caller's.
        """
        host = self._need_host()
        if endpoint.id not in self._endpoints:
            raise Internal(f"endpoint {endpoint.id[:12]} was not allocated")
        self._plugged.add(endpoint.id)
        batch = Batch()
        rules.add_published(batch, self.table, endpoint, endpoint.ports)
        try:
            await self._run(_plug_and_publish, host, endpoint, netns_fd, netlink_fd, batch)
        except _TableDiffersError:
            await self._apply()
        except EngineError:
            self._plugged.discard(endpoint.id)
            raise
        await self._forget_flows(endpoint.ports)
        return endpoint

    async def unplug(self, endpoint: Endpoint, *, now: bool = False) -> None:
        """Give back ports, link and address; the kernel's slow part happens later. Twice is fine.

        `now`: the namespace lives on, so the link is gone on return.
        """
        endpoint = self._endpoints.pop(endpoint.id, endpoint)
        plugged = endpoint.id in self._plugged
        self._plugged.discard(endpoint.id)
        # what has been handed over belongs to another endpoint by now
        own = [mapping for mapping in endpoint.ports if self._ports.owner(host_port(mapping)) == endpoint.id]
        if plugged:
            if now:
                await self._run(self._need_host().delete_links, [endpoint.link])
            else:
                self._doom([endpoint.link])
            if own:
                batch = Batch()
                rules.delete_published(batch, self.table, own)
                await self._commit(batch)
                await self._forget_flows(own)
        for mapping in own:
            self._ports.free(host_port(mapping), endpoint.id)
        pool = self._pools.get(endpoint.network)
        if pool is not None:
            pool.free(IPv4Address(endpoint.ip), endpoint.container_id)

    async def hand_over(self, old: Endpoint, new: Endpoint, *ports: PortMapping) -> tuple[Endpoint, Endpoint]:
        """New connections to published ports of `old` go to `new` from one instant on; open ones stay.

        Each of `ports` names the host's side of one of `old.ports` and the container's side in `new`. All move or
        none; ports that `new` has already are fine. Returns both endpoints as they are now. The other way round it
        undoes itself. Raises InvalidArgument when `old` has no such port, Conflict when `new` is not plugged.
        """
        old, new = self._endpoints.get(old.id, old), self._endpoints.get(new.id, new)
        if new.id not in self._plugged:
            raise Conflict(f"{new.name or new.container_id[:12]} is not connected to network {new.network}")
        moving = [port for port in ports if self._ports.owner(host_port(port)) != new.id]
        keys = {host_port(port) for port in moving}
        self._ports.move(keys, old.id, new.id)
        changed_old = msgspec.structs.replace(old, ports=_without(old.ports, keys))
        changed_new = msgspec.structs.replace(
            new, ports=(*new.ports, *moving), waiting=_without(new.waiting, keys)
        )
        self._store(changed_old, changed_new)
        batch = Batch()
        rules.delete_published(batch, self.table, moving)
        rules.add_published(batch, self.table, new, moving)
        try:
            await self._commit(batch)
        except EngineError:
            self._ports.move(keys, new.id, old.id)
            self._store(old, new)
            raise
        await self._forget_flows(moving)
        return changed_old, changed_new

    def _store(self, *endpoints: Endpoint) -> None:
        for endpoint in endpoints:
            if endpoint.id in self._endpoints:
                self._endpoints[endpoint.id] = endpoint

    async def loopback_up(self, netlink_fd: int) -> None:
        """All that a container with mode none gets."""
        await self._run(self._need_host().loopback_up, netlink_fd)

    # Rules

    async def _commit(self, batch: Batch) -> None:
        """One change of the maps; where the table is not what we left, all of it is written anew instead."""
        try:
            await self._run(_commit_or_differ, self._need_host(), batch)
        except _TableDiffersError:
            await self._apply()

    async def _forget_flows(self, ports: Iterable[PortMapping]) -> None:
        if any(mapping.proto == "udp" for mapping in ports):
            try:
                await self._run(self._need_host().forget_flows, ports)
            except (
                EngineError
            ) as cause:  # nf_conntrack_netlink may be missing; old flows end by themselves then
                _log.warning("%s", cause)

    async def _apply(self) -> None:
        """Write the whole table from what we know, in one transaction, and our rules beside those of others."""
        host = self._need_host()
        batch = rules.plan_table(self.table, self._networks.values(), self.endpoints())
        await self._run(host.commit, batch)
        await self._run(host.settle_beside, [network.bridge for network in self._networks.values()])

    async def _repair(self, tables: set[str]) -> None:
        """Others have changed these tables: put back what is ours."""
        host = self._need_host()
        if self.table in tables:
            _log.warning("the firewall table %s was changed by another program; writing it anew", self.table)
            await self._apply()
        elif beside.TABLE in tables:
            await self._run(host.settle_beside, [network.bridge for network in self._networks.values()])

    # Links of the past

    def _doom(self, links: Iterable[str]) -> None:
        self._doomed |= set(links)
        if self._doomed and (self._reaper is None or self._reaper.done()):
            self._reaper = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        while self._doomed:
            await asyncio.sleep(REAP_AFTER)
            batch, self._doomed = self._doomed, set()
            try:
                await self._run(self._need_host().delete_links, sorted(batch))
            except OSError as cause:
                _log.warning("cannot delete links %s: %s", ", ".join(sorted(batch)), cause)


class _TableDiffersError(Exception):
    """A key that should be in a map is not, or the other way round: another program was there."""


def _without(ports: Iterable[PortMapping], keys: set[HostPort]) -> tuple[PortMapping, ...]:
    return tuple(mapping for mapping in ports if host_port(mapping) not in keys)


def _commit_or_differ(host: Host, batch: Batch) -> None:
    try:
        host.commit(batch)
    except EngineError as error:
        cause = error.__cause__
        if isinstance(cause, NetlinkError) and cause.errno in (errno.ENOENT, errno.EEXIST):
            raise _TableDiffersError from error
        raise


def _plug_and_publish(
    host: Host, endpoint: Endpoint, netns_fd: int, netlink_fd: int | None, batch: Batch
) -> None:
    host.plug(endpoint, netns_fd, netlink_fd)
    try:
        _commit_or_differ(host, batch)
    except EngineError:
        host.delete_links([endpoint.link])
        raise


def _as_request(network: BridgeNetwork) -> BridgeRequest:
    return BridgeRequest(network.name, network.bridge, str(network.address), "", network.mtu)
