"""Address pools: which subnet a bridge gets, which address a container gets. Pure."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from longshore.errors import Conflict, InvalidArgument, Unavailable

# Docker starts at 172.17 and goes up, so we start elsewhere: a dockerd that comes later finds its usual one free.
_POOL = (
    *(IPv4Network(f"172.{second}.0.0/16") for second in (30, *range(29, 16, -1), 31)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
    *(IPv4Network(f"10.{second}.0.0/16") for second in range(200, 256)),
)


def choose_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first of the pool that overlaps nothing of `taken`. Raises Unavailable when all are."""
    blocked = [network for network in taken if network.prefixlen > 0]
    for candidate in _POOL:
        if not any(candidate.overlaps(network) for network in blocked):
            return candidate
    raise Unavailable("no free subnet for a network", hint="name one with --bip or --subnet")


def parse_interface(text: str, *, what: str = "bip") -> IPv4Interface:
    """An address with prefix length. Raises InvalidArgument."""
    try:
        address = IPv4Interface(text)
    except ValueError as cause:
        raise InvalidArgument(
            f"invalid {what}", detail=str(cause), hint="give an address like 172.30.0.1/16"
        ) from cause
    if address.network.prefixlen > 30 or address.ip in (address.network[0], address.network[-1]):
        raise InvalidArgument(
            f"invalid {what}", detail=f"{text} is not an address of a network with room for hosts"
        )
    return address


def parse_subnet(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except ValueError as cause:
        raise InvalidArgument("invalid subnet", detail=str(cause)) from cause
    if network.prefixlen > 30:
        raise InvalidArgument("invalid subnet", detail=f"{text} has no room for hosts")
    return network


def check_link_name(name: str) -> str:
    """The kernel's rules (dev_valid_name). Raises InvalidArgument."""
    if not 0 < len(name.encode()) < 16 or name in (".", "..") or any(c in "/:" or c.isspace() for c in name):
        raise InvalidArgument(
            f"invalid bridge name {name!r}", hint="at most 15 characters, no slash, colon or space"
        )
    return name


def mac_of(address: IPv4Address) -> str:
    """Docker's way: locally administered 02:42 and the address, so that an address never changes its MAC."""
    return "02:42:" + address.packed.hex(":")


class Pool:
    """The addresses of one network. Free ones are handed out round robin: one just given back rests longest."""

    def __init__(self, network: IPv4Network, gateway: IPv4Address, part: IPv4Network | None = None) -> None:
        self.network = network
        part = part or network
        self._first = max(int(part[0]), int(network[0]) + 1)
        self._last = min(int(part[-1]), int(network[-1]) - 1)
        self._used: dict[int, str] = {int(gateway): "the bridge"}
        self._cursor = self._first

    def take(self, owner: str) -> IPv4Address:
        """Raises Unavailable when none is free."""
        size = self._last - self._first + 1
        for step in range(size):
            candidate = self._first + (self._cursor - self._first + step) % size
            if candidate not in self._used:
                self._used[candidate] = owner
                self._cursor = candidate + 1
                return IPv4Address(candidate)
        raise Unavailable(f"no available IPv4 addresses on this network's address pools: {self.network}")

    def claim(self, address: IPv4Address, owner: str) -> None:
        """A certain one. Raises InvalidArgument outside of the subnet, Conflict when another owner has it."""
        number = int(address)
        if not int(self.network[0]) < number < int(self.network[-1]):
            raise InvalidArgument(
                f"invalid address {address}: it does not belong to this network's subnet {self.network}"
            )
        holder = self._used.get(number, owner)
        if holder != owner:
            raise Conflict("Address already in use", detail=f"{address} belongs to {holder}")
        self._used[number] = owner

    def free(self, address: IPv4Address, owner: str) -> None:
        """Nothing happens when it is not the owner's (any more)."""
        if self._used.get(int(address)) == owner:
            del self._used[int(address)]

    def restart(self) -> None:
        """After restoring: go on behind the highest address in use, as if the daemon had never stopped."""
        highest = max((n for n in self._used if self._first <= n <= self._last), default=self._first - 1)
        self._cursor = highest + 1
