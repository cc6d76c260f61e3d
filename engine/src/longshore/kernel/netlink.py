"""Netlink by hand: messages, attributes, and the few route requests (rtnetlink(7)) that the engine makes.

Hand-packed on purpose. A plug is one link creation and five small requests; pyroute2's IPRoute parses the whole
link table at creation, runs its own event loop in threads and cannot use a socket that was born in another namespace
without one more thread. These sockets are synchronous: one sendmsg(2) with all requests of a step, then their
acknowledgements. Constants keep the kernel's names: include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour}.h
"""

import errno
import fcntl
import itertools
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_REPLACE = 0x100
NLM_F_APPEND = 0x800
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100  # of an acknowledgement: the request is not repeated in it
NLM_F_ACK_TLVS = 0x200  # of an acknowledgement: it carries words
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH = 28

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_NET_NS_FD = 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
IFLA_PROTINFO, IFLA_BRPORT_MODE = 12, 4
IFF_UP = 0x1
SIOCGIFINDEX = 0x8933
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST = 254, 3, 0, 1
NDA_LLADDR = 2
NTF_MASTER, NUD_REACHABLE = 0x04, 0x02

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class NetlinkError(OSError):
    """A request was refused. `strerror` has the kernel's own words where it gave some (extended acks)."""


def attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    if size > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} of {size} bytes")
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def nested(kind: int, *values: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(values))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """In host order, as route netlink wants it; nfnetlink wants `be32`."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!I", value & 0xFFFFFFFF))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`; flags are masked out of the type. Stops at the first broken one."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4 or at + size > len(data):
            return
        yield kind & NLA_TYPE_MASK, data[at + 4 : at + size]
        at += (size + 3) & ~3


def string(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `what` names it in errors."""

    kind: int
    flags: int
    body: bytes
    what: str = ""


def messages(data: bytes) -> Iterator[Message]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            return
        yield Message(kind, flags, sequence, port, data[at + _HEADER.size : at + size])
        at += (size + 3) & ~3


def pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def error_of(message: Message) -> tuple[int, str]:
    """Error number (0: done well) and words of an NLMSG_ERROR message."""
    code = -struct.unpack_from("=i", message.body)[0]
    words = ""
    if message.flags & NLM_F_ACK_TLVS:
        repeated = struct.unpack_from("=I", message.body, 4)[0]
        start = 4 + (_HEADER.size if message.flags & NLM_F_CAPPED else (repeated + 3) & ~3)
        words = next((string(v) for k, v in attributes(message.body[start:]) if k == NLMSGERR_ATTR_MSG), "")
    return code, words


def failure(code: int, words: str, what: str) -> NetlinkError:
    reason = f"{os.strerror(code)} ({words})" if words else os.strerror(code)
    return NetlinkError(code, f"{what}: {reason}")


class NetlinkSocket:
    """A synchronous netlink socket. One thread at a time; `close` twice is fine."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, fd: int | None = None) -> None:
        """`fd`: work through a duplicate of this netlink socket, which keeps the namespace it was born in."""
        if fd is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            self.socket = socket.socket(socket.AF_NETLINK, kind, protocol)
            self.socket.bind((0, 0))
        else:
            copy = os.dup(fd)
            try:
                self.socket = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                raise
            self.socket.setblocking(True)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._sequence = itertools.count(1)

    @property
    def port(self) -> int:
        """The port id: notifications about what this socket did carry it."""
        return int(self.socket.getsockname()[0])

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def next_sequence(self) -> int:
        return next(self._sequence) & 0xFFFFFFFF

    def receive(self) -> Iterator[Message]:
        """The messages of one datagram."""
        yield from messages(self.socket.recv(1 << 18))

    def perform(self, *calls: Call) -> None:
        """Send all requests at once and wait for all acknowledgements; raises the first NetlinkError.

        The kernel goes on after a failed request, so later ones must not do harm then.
        """
        numbered = {self.next_sequence(): call for call in calls}
        packed = [pack(c.kind, c.flags | NLM_F_REQUEST | NLM_F_ACK, n, c.body) for n, c in numbered.items()]
        self.socket.send(b"".join(packed))
        first: NetlinkError | None = None
        while numbered:
            for message in self.receive():
                call = numbered.get(message.sequence)
                if call is None or message.kind != NLMSG_ERROR:
                    continue  # the rest of an answer that was given up
                del numbered[message.sequence]
                code, words = error_of(message)
                if code and first is None:
                    first = failure(code, words, call.what or f"netlink request {call.kind}")
        if first is not None:
            raise first

    def ask(self, call: Call) -> list[Message]:
        """All messages that answer one request (a dump when `flags` has NLM_F_DUMP)."""
        for _ in range(5):
            answer, torn = self._ask_once(call)
            if not torn:
                return answer
        raise NetlinkError(errno.EINTR, f"{call.what}: the table changes faster than it can be read")

    def _ask_once(self, call: Call) -> tuple[list[Message], bool]:
        number = self.next_sequence()
        dump = (call.flags & NLM_F_DUMP) == NLM_F_DUMP
        flags = call.flags | NLM_F_REQUEST | (0 if dump else NLM_F_ACK)
        self.socket.send(pack(call.kind, flags, number, call.body))
        answer: list[Message] = []
        torn = False
        while True:
            for message in self.receive():
                if message.sequence != number:
                    continue
                torn = torn or bool(message.flags & NLM_F_DUMP_INTR)
                if message.kind == NLMSG_DONE:
                    return answer, torn
                if message.kind == NLMSG_ERROR:
                    code, words = error_of(message)
                    if code:
                        raise failure(code, words, call.what or f"netlink request {call.kind}")
                    return answer, torn
                answer.append(message)


# Route requests


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    flags: int
    mtu: int
    mac: str
    master: int
    kind: str


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _ifinfo(*, index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change)


def new_bridge(name: str, mac: str, mtu: int) -> Call:
    """A fixed MAC: without one the bridge takes the lowest of its ports and changes it as they come and go."""
    body = [
        _ifinfo(flags=IFF_UP, change=IFF_UP),
        text(IFLA_IFNAME, name),
        attribute(IFLA_ADDRESS, mac_bytes(mac)),
    ]
    body += [u32(IFLA_MTU, mtu), nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"))]
    return Call(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, b"".join(body), f"create bridge {name}")


def new_veth(name: str, *, master: int, mtu: int, peer: str, peer_mac: str, netns_fd: int) -> Call:
    """A pair: our end up and a port of the bridge `master`, the other one born inside of the namespace, down.

    One request, so there is never half a pair. The other end cannot be born up: veth_open() answers ENOTCONN as long
    as the ends do not know each other.
    """
    peer_info = [_ifinfo(), text(IFLA_IFNAME, peer), u32(IFLA_MTU, mtu)]
    peer_info += [attribute(IFLA_ADDRESS, mac_bytes(peer_mac)), u32(IFLA_NET_NS_FD, netns_fd)]
    info = [
        text(IFLA_INFO_KIND, "veth"),
        nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, b"".join(peer_info))),
    ]
    body = [_ifinfo(flags=IFF_UP, change=IFF_UP), text(IFLA_IFNAME, name), u32(IFLA_MTU, mtu)]
    body += [u32(IFLA_MASTER, master), nested(IFLA_LINKINFO, *info)]
    return Call(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, b"".join(body), f"create link {name}")


def set_up(index: int, *, name: str = "") -> Call:
    return Call(
        RTM_SETLINK, 0, _ifinfo(index=index, flags=IFF_UP, change=IFF_UP), f"set link {name or index} up"
    )


def delete_link(index: int, *, name: str = "") -> Call:
    return Call(RTM_DELLINK, 0, _ifinfo(index=index), f"delete link {name or index}")


def new_address(index: int, address: IPv4Interface) -> Call:
    body = [_IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, RT_SCOPE_UNIVERSE, index)]
    body += [attribute(IFA_LOCAL, address.ip.packed), attribute(IFA_ADDRESS, address.ip.packed)]
    if address.network.prefixlen < 31:
        body.append(attribute(IFA_BROADCAST, address.network.broadcast_address.packed))
    return Call(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, b"".join(body), f"add address {address}")


def delete_address(index: int, address: IPv4Interface) -> Call:
    body = _IFADDR.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index) + attribute(
        IFA_LOCAL, address.ip.packed
    )
    return Call(RTM_DELADDR, 0, body, f"delete address {address}")


def new_default_route(gateway: IPv4Address, index: int) -> Call:
    header = (socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body = [_RTMSG.pack(*header), attribute(RTA_GATEWAY, gateway.packed), u32(RTA_OIF, index)]
    return Call(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, b"".join(body), f"add default route by {gateway}")


def hairpin(index: int) -> Call:
    """Let the bridge send a frame back out of the port it came from."""
    body = _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0)
    body += nested(IFLA_PROTINFO, attribute(IFLA_BRPORT_MODE, b"\1"))
    return Call(RTM_SETLINK, 0, body, f"set hairpin mode of port {index}")


def learn(index: int, mac: str) -> Call:
    """Tell the bridge behind which of its ports a MAC lives, as if a frame had come from there."""
    body = _NDMSG.pack(socket.AF_BRIDGE, index, NUD_REACHABLE, NTF_MASTER, 0) + attribute(
        NDA_LLADDR, mac_bytes(mac)
    )
    return Call(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, f"move {mac} to port {index}")


def _link(message: Message) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
    found = dict(attributes(message.body[_IFINFO.size :]))
    info = dict(attributes(found.get(IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        name=string(found.get(IFLA_IFNAME, b"")),
        flags=flags,
        mtu=struct.unpack("=I", found.get(IFLA_MTU, bytes(4)))[0],
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        master=struct.unpack("=I", found.get(IFLA_MASTER, bytes(4)))[0],
        kind=string(info.get(IFLA_INFO_KIND, b"")),
    )


def links(sock: NetlinkSocket) -> list[Link]:
    dump = Call(RTM_GETLINK, NLM_F_DUMP, _ifinfo(), "list links")
    return [_link(message) for message in sock.ask(dump) if message.kind == RTM_NEWLINK]


def find_link(sock: NetlinkSocket, name: str) -> Link | None:
    query = Call(RTM_GETLINK, 0, _ifinfo() + text(IFLA_IFNAME, name), f"look up link {name}")
    try:
        answer = sock.ask(query)
    except NetlinkError as cause:
        if cause.errno == errno.ENODEV:
            return None
        raise
    return next((_link(message) for message in answer if message.kind == RTM_NEWLINK), None)


def link_index(sock: NetlinkSocket, name: str) -> int:
    """Index of a link in the socket's namespace, 0 without such a link.

    By ioctl (netdevice(7)): unlike RTM_GETLINK it does not wait for the lock that link changes hold.
    """
    request = struct.pack("16s24x", name.encode())
    try:
        answer = fcntl.ioctl(sock.socket.fileno(), SIOCGIFINDEX, request)
    except OSError as cause:
        if cause.errno == errno.ENODEV:
            return 0
        raise
    return int(struct.unpack_from("=i", answer, 16)[0])


def addresses(sock: NetlinkSocket) -> list[tuple[int, IPv4Interface]]:
    """(link index, address with prefix) of every IPv4 address."""
    dump = Call(RTM_GETADDR, NLM_F_DUMP, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0), "list addresses")
    found: list[tuple[int, IPv4Interface]] = []
    for message in sock.ask(dump):
        family, prefix, _, _, index = _IFADDR.unpack_from(message.body)
        values = dict(attributes(message.body[_IFADDR.size :]))
        local = values.get(IFA_LOCAL, values.get(IFA_ADDRESS))
        if family == socket.AF_INET and local:
            found.append((index, IPv4Interface((local, prefix))))
    return found


@dataclass(frozen=True, slots=True)
class Route:
    destination: IPv4Network
    gateway: IPv4Address | None
    link: int


def routes(sock: NetlinkSocket) -> list[Route]:
    """The unicast IPv4 routes of all tables."""
    dump = Call(RTM_GETROUTE, NLM_F_DUMP, _RTMSG.pack(socket.AF_INET, *([0] * 8)), "list routes")
    found: list[Route] = []
    for message in sock.ask(dump):
        family, prefix, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(message.body)
        values = dict(attributes(message.body[_RTMSG.size :]))
        if family != socket.AF_INET or kind != RTN_UNICAST:
            continue
        gateway = values.get(RTA_GATEWAY)
        found.append(
            Route(
                IPv4Network((values.get(RTA_DST, bytes(4)), prefix)),
                IPv4Address(gateway) if gateway else None,
                struct.unpack("=I", values.get(RTA_OIF, bytes(4)))[0],
            )
        )
    return found


def socket_inside(netns_fd: int) -> NetlinkSocket:
    """A route socket born in another network namespace.

    setns(2) acts on the calling thread alone, so a short-lived thread enters, opens the socket and ends. Only for the
    rare cases where the container's init has not handed one over. Needs CAP_SYS_ADMIN.
    """
    import ctypes  # the one user of it in this module

    made: list[NetlinkSocket] = []
    failed: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(netns_fd, 0x40000000) == -1:  # CLONE_NEWNET
            failed.append(
                OSError(ctypes.get_errno(), f"enter network namespace: {os.strerror(ctypes.get_errno())}")
            )
            return
        try:
            made.append(NetlinkSocket())
        except OSError as cause:
            failed.append(cause)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def configure_inside(sock: NetlinkSocket, interface: str, address: IPv4Interface, gateway: str) -> None:
    """Inside of a namespace: loopback up, the interface up, its address and the default route.

    Where there is a default route already, by another interface, it stays the only one.
    """
    index = link_index(sock, interface)
    if not index:
        raise NetlinkError(errno.ENODEV, f"link {interface} did not arrive in the namespace")
    sock.perform(set_up(1, name="lo"), new_address(index, address), set_up(index, name=interface))
    if not gateway:
        return
    try:
        sock.perform(new_default_route(IPv4Address(gateway), index))
    except NetlinkError as cause:
        if cause.errno != errno.EEXIST:
            raise
