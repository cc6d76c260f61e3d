"""Host ports: who has which, and a bound socket for each so that no program of the host takes it meanwhile.

The sockets never listen: packets for a published port are redirected before they reach one. They exist for bind(2)'s
EADDRINUSE, in both directions, and so that the kernel does not pick the port for an outgoing connection.
"""

import errno
import random
import socket
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import NamedTuple

from longshore.errors import InvalidArgument
from longshore.network.errors import PortAllocated
from longshore.network.model import PortMapping

EPHEMERAL = range(32768, 61000)
ANY = "0.0.0.0"
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class HostPort(NamedTuple):
    ip: str
    proto: str
    port: int


def host_port(mapping: PortMapping) -> HostPort:
    return HostPort(mapping.ip or ANY, mapping.proto, mapping.host_port)


def check(mapping: PortMapping) -> None:
    """Raises InvalidArgument."""
    if mapping.proto not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"invalid proto: {mapping.proto}", hint="publish tcp, udp or sctp ports")
    low, high = mapping.host_range or (mapping.host_port, mapping.host_port)
    if not 0 < mapping.container_port < 65536 or not 0 <= low <= high < 65536:
        raise InvalidArgument(f"invalid port {mapping.host_port}:{mapping.container_port}/{mapping.proto}")
    try:
        IPv4Address(mapping.ip or ANY)
    except ValueError as cause:
        raise InvalidArgument(f"invalid host address {mapping.ip!r} of a port", detail=str(cause)) from cause


class Ports:
    """The table of host ports. All calls from one thread."""

    def __init__(self) -> None:
        self._held: dict[HostPort, tuple[str, list[socket.socket]]] = {}
        self._addresses: dict[tuple[str, int], set[str]] = {}  # per protocol and number

    def owner(self, port: HostPort) -> str | None:
        held = self._held.get(port)
        return held[0] if held else None

    def _is_taken(self, wanted: HostPort) -> bool:
        """The same port on the same address, or on all where one side says all."""
        addresses = self._addresses.get((wanted.proto, wanted.port))
        return bool(addresses) and (wanted.ip == ANY or ANY in addresses or wanted.ip in addresses)

    def _hold(self, port: HostPort, owner: str, sockets: list[socket.socket]) -> None:
        self._held[port] = (owner, sockets)
        self._addresses.setdefault((port.proto, port.port), set()).add(port.ip)

    def take(self, mapping: PortMapping, owner: str) -> PortMapping:
        """Reserve it; returns the mapping with its real port. Raises PortAllocated."""
        check(mapping)
        if mapping.host_range is None and mapping.host_port:
            self._take_one(host_port(mapping), owner)
            return mapping
        low, high = mapping.host_range or (EPHEMERAL[0], EPHEMERAL[-1])
        numbers = list(range(low, high + 1))
        if mapping.host_range is None:
            numbers = random.sample(numbers, 200)
        for number in numbers:
            candidate = PortMapping(mapping.container_port, mapping.proto, mapping.ip, number)
            try:
                self._take_one(host_port(candidate), owner)
            except PortAllocated:
                continue
            return candidate
        raise PortAllocated("all ports are allocated", detail=f"{low}-{high}/{mapping.proto}")

    def _take_one(self, port: HostPort, owner: str) -> None:
        if self._is_taken(port):
            raise PortAllocated(f"Bind for {port.ip}:{port.port} failed: port is already allocated")
        self._hold(port, owner, _bind(port))

    def restore(self, mapping: PortMapping, owner: str) -> bool:
        """Take it back for a running container, also when a program of the host has grabbed it: the map wins.

        False when the port could not be bound.
        """
        port = host_port(mapping)
        try:
            self._hold(port, owner, _bind(port))
        except PortAllocated:
            self._hold(port, owner, [])
            return False
        return True

    def move(self, ports: Collection[HostPort], old: str, new: str) -> None:
        """The reservations change hands, all or none. Raises InvalidArgument when one is not the old owner's."""
        for port in ports:
            if self.owner(port) != old:
                raise InvalidArgument(
                    f"port {port.ip}:{port.port}/{port.proto} is not published by the old container"
                )
        for port in ports:
            self._held[port] = (new, self._held[port][1])

    def free(self, port: HostPort, owner: str) -> bool:
        """False, and nothing happens, when it is not the owner's (any more)."""
        if self.owner(port) != owner:
            return False
        for sock in self._held.pop(port)[1]:
            sock.close()
        addresses = self._addresses[port.proto, port.port]
        addresses.discard(port.ip)
        if not addresses:
            del self._addresses[port.proto, port.port]
        return True

    def close(self) -> None:
        for _, sockets in self._held.values():
            for sock in sockets:
                sock.close()
        self._held.clear()
        self._addresses.clear()


def _bind(port: HostPort) -> list[socket.socket]:
    kind = _KINDS.get(port.proto)
    if kind is None:
        return []  # sctp: the module may be missing; the table of our own still protects from ourselves
    try:
        sockets = [_bound(socket.AF_INET, kind, port.ip, port.port)]
    except OSError as cause:
        raise PortAllocated(
            f"failed to bind host port {port.ip}:{port.port}/{port.proto}: {_words(cause)}"
        ) from cause
    if port.ip == ANY:
        try:
            sockets.append(_bound(socket.AF_INET6, kind, "::", port.port))
        except OSError as cause:
            if cause.errno == errno.EADDRINUSE:
                sockets[0].close()
                raise PortAllocated(
                    f"failed to bind host port [::]:{port.port}/{port.proto}: {_words(cause)}"
                ) from cause
            # the host has no IPv6 (EAFNOSUPPORT, EADDRNOTAVAIL): nothing to reserve
    return sockets


def _words(cause: OSError) -> str:
    return (cause.strerror or str(cause)).lower()


def _bound(family: int, kind: int, ip: str, port: int) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((ip, port))
        except OSError as cause:
            if cause.errno != errno.EADDRINUSE or kind != socket.SOCK_STREAM:
                raise
            # Connections of a server that has just ended linger in TIME_WAIT and keep the port for a minute.
            # With SO_REUSEADDR bind(2) fails only when somebody listens; not first, because such a reservation
            # would let programs that set it too bind beside us.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ip, port))
    except OSError:
        sock.close()
        raise
    return sock
