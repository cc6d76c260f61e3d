"""nf_tables over nfnetlink: expressions, rules, maps, and batches that happen whole or not at all.

Only the expressions that the engine's rules are made of. Names and numbers are the kernel's,
include/uapi/linux/netfilter/nf_tables.h; integers on this wire are big-endian, except inside of registers, where
everything is as the packet or the kernel has it. `nft --debug=netlink` prints the same expressions.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from longshore.kernel.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    SOL_NETLINK,
    Call,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    be32,
    error_of,
    failure,
    nested,
    pack,
    string,
    text,
)

NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NFNL_SUBSYS_CTNETLINK, NFNL_SUBSYS_NFTABLES = 1, 10
NFNLGRP_NFTABLES = 7

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6 = 1, 2, 10
FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6", 3: "arp", 5: "netdev", 7: "bridge"}
NF_INET_PRE_ROUTING, NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING = 0, 2, 3, 4

NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, DELCHAIN, NEWRULE, GETRULE, DELRULE = range(9)
NEWSET, GETSET, DELSET, NEWSETELEM, GETSETELEM, DELSETELEM = range(9, 15)
NEWGEN = 15

NF_DROP, NF_ACCEPT, NFT_RETURN, NFT_JUMP = 0, 1, -5, -3

TYPE_IPV4_ADDR, TYPE_INET_PROTO, TYPE_INET_SERVICE, TYPE_IFNAME = (
    7,
    12,
    13,
    41,
)  # nft(8)'s data types, for its output
_SIZES = {TYPE_IPV4_ADDR: 4, TYPE_INET_PROTO: 1, TYPE_INET_SERVICE: 2, TYPE_IFNAME: 16}

META_L4PROTO, META_IIFNAME, META_OIFNAME = 16, 6, 7
CT_STATE, CT_STATUS = 0, 2
STATE_ESTABLISHED_RELATED = 0x2 | 0x4
STATUS_DNAT = 0x20  # IPS_DST_NAT
RTN_LOCAL = 2
IFNAMSIZ = 16


def register(word: int) -> int:
    """The number of the n-th 32-bit register: NFT_REG32_00 overlays the first quarter of NFT_REG_1."""
    return 8 + word


# Expressions


def _expression(name: str, *values: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *values))  # NFTA_LIST_ELEM: NFTA_EXPR_NAME, NFTA_EXPR_DATA


def meta(key: int, to: int = 0) -> bytes:
    return _expression("meta", be32(2, key), be32(1, register(to)))


def payload(base: int, offset: int, size: int, to: int = 0) -> bytes:
    return _expression("payload", be32(1, register(to)), be32(2, base), be32(3, offset), be32(4, size))


def source_address(to: int = 0) -> bytes:
    return payload(1, 12, 4, to)


def destination_address(to: int = 0) -> bytes:
    return payload(1, 16, 4, to)


def destination_port(to: int = 0) -> bytes:
    return payload(2, 2, 2, to)


def compare(data: bytes, *, word: int = 0, equal: bool = True) -> bytes:
    return _expression(
        "cmp", be32(1, register(word)), be32(2, 0 if equal else 1), nested(3, attribute(1, data))
    )


def mask(bits: bytes, *, word: int = 0) -> bytes:
    zero = nested(5, attribute(1, bytes(len(bits))))
    where = (be32(1, register(word)), be32(2, register(word)), be32(3, len(bits)))
    return _expression("bitwise", *where, nested(4, attribute(1, bits)), zero)


def connection(key: int, to: int = 0) -> bytes:
    return _expression("ct", be32(1, register(to)), be32(2, key))


def destination_type(to: int = 0) -> bytes:
    """`fib daddr type`: RTN_LOCAL for the machine's own addresses."""
    return _expression("fib", be32(1, register(to)), be32(2, 3), be32(3, 2))


def lookup(name: str, *, word: int = 0, to: int | None = None, inverted: bool = False) -> bytes:
    values = [text(1, name), be32(2, register(word))]
    if to is not None:
        values.append(be32(3, register(to)))
    if inverted:
        values.append(be32(5, 1))
    return _expression("lookup", *values)


def verdict(code: int, chain: str = "") -> bytes:
    value = [be32(1, code)] + ([text(2, chain)] if chain else [])
    return _expression("immediate", be32(1, 0), nested(2, nested(2, *value)))


def counter() -> bytes:
    return _expression("counter")


def masquerade() -> bytes:
    return _expression("masq")


def destination_nat(address: int, port: int) -> bytes:
    """To the address and port that lie in these registers."""
    where = (be32(3, register(address)), be32(5, register(port)))
    return _expression("nat", be32(1, 1), be32(2, NFPROTO_IPV4), *where)


# Whole conditions


def interface(key: int, name: str, *, equal: bool = True) -> list[bytes]:
    return [meta(key), compare(name.encode().ljust(IFNAMSIZ, b"\0"), equal=equal)]


def has_bits(key: int, bits: int) -> list[bytes]:
    """`ct state` or `ct status` with any of these bits."""
    return [connection(key), mask(struct.pack("=I", bits)), compare(bytes(4), equal=False)]


def inside(address: bytes, network: bytes, netmask: bytes) -> list[bytes]:
    """The address that the expression `address` loads lies in the network."""
    return [address, mask(netmask), compare(network)]


def to_this_machine() -> list[bytes]:
    return [destination_type(), compare(struct.pack("=I", RTN_LOCAL))]


# Tables


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain when it has a hook."""

    name: str
    kind: str = "filter"
    hook: int | None = None
    priority: int = 0
    policy: int = NF_ACCEPT


@dataclass(frozen=True, slots=True)
class Set:
    """A set, or a map when it has values. Elements are packed with `concatenate`."""

    name: str
    key: tuple[int, ...]
    value: tuple[int, ...] = ()

    @staticmethod
    def _type(parts: tuple[int, ...]) -> int:
        number = 0
        for part in parts:
            number = number << 6 | part
        return number

    @staticmethod
    def _size(parts: tuple[int, ...]) -> int:
        if len(parts) == 1:
            return _SIZES[parts[0]]
        return sum((_SIZES[part] + 3) & ~3 for part in parts)

    def describe(self) -> bytes:
        values = [text(2, self.name), be32(3, 8 if self.value else 0)]
        values += [be32(4, self._type(self.key)), be32(5, self._size(self.key))]
        if self.value:
            values += [be32(6, self._type(self.value)), be32(7, self._size(self.value))]
        if self.key == (TYPE_IFNAME,):
            # NFTNL_UDATA_SET_KEYBYTEORDER = host: without it nft(8) prints the names backwards
            values.append(attribute(13, bytes([0, 4, 1, 0, 0, 0])))
        return b"".join(values)


def concatenate(*parts: bytes) -> bytes:
    """Parts of a key or value, each in registers of its own."""
    if len(parts) == 1:
        return parts[0]
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


Element = tuple[bytes, bytes | None]


@dataclass(slots=True)
class Batch:
    """Changes of one family's tables; `commit` applies all of them in one transaction, or none."""

    family: int = NFPROTO_IPV4
    calls: list[Call] = field(default_factory=list[Call])

    def _add(self, kind: int, flags: int, body: bytes, what: str) -> None:
        header = struct.pack("!BBH", self.family, 0, 0)
        self.calls.append(Call(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, header + body, what))

    def add_table(self, table: str, comment: str = "") -> None:
        """Existing: nothing changes."""
        body = text(1, table) + be32(2, 0)
        if comment:
            body += attribute(6, _comment(comment))
        self._add(NEWTABLE, NLM_F_CREATE, body, f"add table {table}")

    def delete_table(self, table: str) -> None:
        self._add(DELTABLE, 0, text(1, table), f"delete table {table}")

    def add_chain(self, table: str, chain: Chain) -> None:
        body = text(1, table) + text(3, chain.name)
        if chain.hook is not None:
            hook = nested(4, be32(1, chain.hook), be32(2, chain.priority))
            body += text(7, chain.kind) + be32(5, chain.policy) + hook
        self._add(NEWCHAIN, NLM_F_CREATE, body, f"add chain {chain.name}")

    def add_set(self, table: str, described: Set) -> None:
        # NFTA_SET_ID: the kernel asks for one although names are all that we use
        body = text(1, table) + described.describe() + be32(10, len(self.calls) + 1)
        self._add(NEWSET, NLM_F_CREATE, body, f"add set {described.name}")

    def add_rule(
        self, table: str, chain: str, expressions: Sequence[bytes], *, comment: str = "", before: int = 0
    ) -> None:
        """At the end of the chain, or before the rule with the handle `before`."""
        body = text(1, table) + text(2, chain) + nested(4, *expressions)
        if before:
            body += attribute(6, struct.pack("!Q", before))
        if comment:
            body += attribute(7, _comment(comment))
        flags = NLM_F_CREATE | (0 if before else NLM_F_APPEND)
        self._add(NEWRULE, flags, body, f"add rule to {chain}")

    def delete_rule(self, table: str, chain: str, handle: int) -> None:
        body = text(1, table) + text(2, chain) + attribute(3, struct.pack("!Q", handle))
        self._add(DELRULE, 0, body, f"delete rule {handle} of {chain}")

    def _elements(self, kind: int, flags: int, table: str, name: str, elements: Iterable[Element]) -> None:
        what = f"{'add to' if kind == NEWSETELEM else 'delete from'} {name}"
        packed = [_element(key, value) for key, value in elements]
        for start in range(0, len(packed), 400):  # the list is one attribute, at most 64 KiB
            body = text(1, table) + text(2, name) + nested(3, *packed[start : start + 400])
            self._add(kind, flags, body, what)

    def add_elements(self, table: str, name: str, elements: Iterable[Element]) -> None:
        """A key that exists with another value is EEXIST."""
        self._elements(NEWSETELEM, NLM_F_CREATE, table, name, elements)

    def delete_elements(self, table: str, name: str, elements: Iterable[Element]) -> None:
        """A key that does not exist is ENOENT."""
        self._elements(DELSETELEM, 0, table, name, elements)


def _element(key: bytes, value: bytes | None) -> bytes:
    data = nested(2, attribute(1, value)) if value is not None else b""
    return nested(1, nested(1, attribute(1, key)), data)


def _comment(words: str) -> bytes:
    data = words.encode() + b"\0"
    return bytes([0, len(data)]) + data  # NFTNL_UDATA_RULE_COMMENT and NFTNL_UDATA_TABLE_COMMENT are both 0


# Reading


@dataclass(frozen=True, slots=True)
class BaseChain:
    family: str
    table: str
    name: str
    kind: str
    hook: int | None
    policy: int


@dataclass(frozen=True, slots=True)
class Rule:
    handle: int
    comment: str
    expressions: tuple[str, ...]  # names only
    verdict: int | None  # of the last immediate expression


@dataclass(frozen=True, slots=True)
class Notice:
    """What a change was about, told by the kernel to all who listen. `port`: the socket that did it."""

    kind: int
    family: int
    table: str
    name: str  # of the chain or set
    port: int


class NftSocket(NetlinkSocket):
    """A synchronous nfnetlink socket."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def commit(self, batch: Batch) -> None:
        """Apply all changes or none. Raises the first NetlinkError; the generation stays the old one then."""
        if not batch.calls:
            return
        subsystem = struct.pack("!BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
        first = self.next_sequence()
        parts = [pack(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first, subsystem)]
        what: dict[int, str] = {first: "firewall transaction"}
        last = first
        for number, call in enumerate(batch.calls, 1):
            last = self.next_sequence()
            what[last] = call.what
            flags = call.flags | NLM_F_REQUEST | (NLM_F_ACK if number == len(batch.calls) else 0)
            parts.append(pack(call.kind, flags, last, call.body))
        parts.append(pack(NFNL_MSG_BATCH_END, NLM_F_REQUEST, self.next_sequence(), subsystem))
        data = b"".join(parts)
        if len(data) > 100_000:
            # SO_SNDBUFFORCE: one transaction is one message, which the send buffer must hold twice over
            self.socket.setsockopt(socket.SOL_SOCKET, 32, 4 * len(data))
        self.socket.send(data)
        self._finish(what, first, last)

    def _finish(self, what: dict[int, str], first: int, last: int) -> None:
        """The kernel answers in order: a failure of the whole batch, failures one by one, the last call's word."""
        error: NetlinkError | None = None
        while True:
            for message in self.receive():
                if message.kind != NLMSG_ERROR or message.sequence not in what:
                    continue
                code, words = error_of(message)
                if code and error is None:
                    error = failure(code, words, what[message.sequence])
                if message.sequence == last or (code and message.sequence == first):
                    if error is not None:
                        self._drain()
                        raise error
                    return

    def _drain(self) -> None:
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(1 << 16)
        except BlockingIOError:
            pass
        finally:
            self.socket.setblocking(True)

    def _query(self, kind: int, family: int, body: bytes, what: str, *, dump: bool) -> list[Message]:
        header = struct.pack("!BBH", family, 0, 0)
        flags = NLM_F_DUMP if dump else 0
        try:
            return self.ask(Call(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, header + body, what))
        except NetlinkError as cause:
            if cause.errno == errno.ENOENT:
                return []
            raise

    def has_table(self, table: str, family: int = NFPROTO_IPV4) -> bool:
        return bool(self._query(GETTABLE, family, text(1, table), f"look up table {table}", dump=False))

    def chains(self) -> list[BaseChain]:
        """All chains of all families."""
        found: list[BaseChain] = []
        for message in self._query(GETCHAIN, 0, b"", "list chains", dump=True):
            values = dict(attributes(message.body[4:]))
            hook = dict(attributes(values.get(4, b"")))
            found.append(
                BaseChain(
                    FAMILIES.get(message.body[0], str(message.body[0])),
                    string(values.get(1, b"")),
                    string(values.get(3, b"")),
                    string(values.get(7, b"")),
                    struct.unpack("!I", hook[1])[0] if 1 in hook else None,
                    struct.unpack("!I", values.get(5, b"\0\0\0\1"))[0],
                )
            )
        return found

    def rules(self, table: str, chain: str, family: int = NFPROTO_IPV4) -> list[Rule]:
        """The rules of one chain in order; none when the chain does not exist."""
        body = text(1, table) + text(2, chain)
        found: list[Rule] = []
        for message in self._query(GETRULE, family, body, f"list rules of {chain}", dump=True):
            values = dict(attributes(message.body[4:]))
            if string(values.get(1, b"")) != table or string(values.get(2, b"")) != chain:
                continue
            expressions = [dict(attributes(value)) for _, value in attributes(values.get(4, b""))]
            found.append(
                Rule(
                    struct.unpack("!Q", values[3])[0],
                    _read_comment(values.get(7, b"")),
                    tuple(string(e.get(1, b"")) for e in expressions),
                    next((_verdict(e[2]) for e in reversed(expressions) if e.get(1) == b"immediate\0"), None),
                )
            )
        return found

    def elements(self, table: str, name: str, family: int = NFPROTO_IPV4) -> dict[bytes, bytes]:
        """Keys and values (empty in a plain set), as packed."""
        found: dict[bytes, bytes] = {}
        body = text(1, table) + text(2, name)
        for message in self._query(GETSETELEM, family, body, f"list elements of {name}", dump=True):
            values = dict(attributes(message.body[4:]))
            for _, element in attributes(values.get(3, b"")):
                parts = dict(attributes(element))
                key = dict(attributes(parts.get(1, b""))).get(1, b"")
                found[key] = dict(attributes(parts.get(2, b""))).get(1, b"")
        return found

    def listen(self) -> None:
        """Hear about every change of tables from now on; reads do not block."""
        self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        self.socket.setblocking(False)

    def notices(self) -> list[Notice]:
        """What has been told so far. Raises OSError ENOBUFS when some of it was lost."""
        found: list[Notice] = []
        while True:
            try:
                heard = list(self.receive())
            except BlockingIOError:
                return found
            found += [notice for notice in map(_notice, heard) if notice is not None]


def _notice(message: Message) -> Notice | None:
    if message.kind >> 8 != NFNL_SUBSYS_NFTABLES or len(message.body) < 4:
        return None
    kind = message.kind & 0xFF
    values = dict(attributes(message.body[4:]))
    name = (
        values.get(3 if kind in (NEWCHAIN, DELCHAIN) else 2, b"") if kind not in (NEWTABLE, DELTABLE) else b""
    )
    table = string(values.get(1, b"")) if kind != NEWGEN else ""
    return Notice(kind, message.body[0], table, string(name) if kind != NEWGEN else "", message.port)


def _verdict(data: bytes) -> int | None:
    immediate = dict(attributes(data))
    value = dict(attributes(dict(attributes(immediate.get(2, b""))).get(2, b"")))
    return struct.unpack("!i", value[1])[0] if 1 in value else None


def _read_comment(data: bytes) -> str:
    at = 0
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == 0:
            return string(data[at + 2 : at + 2 + size])
        at += 2 + size
    return ""
