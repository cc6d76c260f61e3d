"""Bridge networks: addresses, links, published ports. The daemon's one door to the network."""

from collections.abc import Iterable

from longshore.network.model import (
    BridgeNetwork,
    Endpoint,
    EndpointRequest,
    NetworkSettings,
    PortMapping,
)

__all__ = [
    "BridgeNetwork",
    "Endpoint",
    "EndpointRequest",
    "NetworkManager",
    "NetworkSettings",
    "PortMapping",
]


class NetworkManager:
    def __init__(self, settings: NetworkSettings) -> None: ...

    async def setup(self) -> None:
        """Create the bridge and the table, watch over the rules. A table that exists is left as it is until `restore`."""
        raise NotImplementedError

    async def restore(self, endpoints: Iterable[Endpoint]) -> None:
        """After `setup`, once per daemon start, even without endpoints: these are plugged; everything else goes."""
        raise NotImplementedError

    async def close(self, *, remove: bool = False) -> None:
        """Stop watching; links and rules stay so that containers keep working. remove: take all of it away."""
        raise NotImplementedError

    def network(self, name: str) -> BridgeNetwork:
        """Raises NotFound."""
        raise NotImplementedError

    def allocate(self, request: EndpointRequest) -> Endpoint:
        """Reserve address and host ports. PortAllocated (500, as dockerd), Conflict, InvalidArgument, NotFound."""
        raise NotImplementedError

    async def plug(self, endpoint: Endpoint, netns_fd: int, netlink_fd: int | None) -> Endpoint:
        """Link, address, routes and published ports. On failure nothing is left but the reservation: call `unplug`.

        `netlink_fd`: a route netlink socket opened inside of the namespace; None: one is opened.
        Both descriptors stay the caller's.
        """
        raise NotImplementedError

    async def unplug(self, endpoint: Endpoint) -> None:
        """Give back ports, link and address; the kernel's slow part happens later. Twice is fine."""
        raise NotImplementedError

    async def hand_over(self, old: Endpoint, new: Endpoint, port: PortMapping) -> tuple[Endpoint, Endpoint]:
        """New connections to a published port of `old` go to `new` from one instant on; open ones stay.

        `port` is one of `old.ports`; returns both endpoints as they are now (the port moved).
        """
        raise NotImplementedError

    async def loopback_up(self, netlink_fd: int) -> None:
        """All that a container with mode none gets."""
        raise NotImplementedError
