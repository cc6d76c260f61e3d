"""Connection tracking entries over nfnetlink: forget flows whose redirection is out of date.

A redirection is decided at a flow's first packet. TCP connections end by themselves; a UDP client that goes on from the
same port is the same flow for as long as it does, and would be led to a container that is gone. Numbers from
include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import socket
import struct
from collections.abc import Iterable

from longshore.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    Call,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    u32,
)

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_HEADER = struct.pack("!BBH", socket.AF_INET, 0, 0)
CTA_TUPLE_ORIG, CTA_ID, CTA_FILTER = 1, 12, 25
_BY_PROTOCOL_AND_PORT = 1 << 3 | 1 << 5  # the kernel's CTA_FILTER_F_CTA_PROTO_NUM and _DST_PORT


def forget_udp(ports: Iterable[int]) -> int:
    """Delete the IPv4 UDP flows that were sent to these ports of this machine; returns how many."""
    count = 0
    with NetlinkSocket(NETLINK_NETFILTER) as sock:
        for port in ports:
            proto = attribute(1, bytes([socket.IPPROTO_UDP])), attribute(3, struct.pack("!H", port))
            wanted = nested(CTA_TUPLE_ORIG, nested(2, *proto))
            # filtered by the kernel (Linux 5.8): a busy machine tracks a million flows
            chosen = nested(CTA_FILTER, u32(1, _BY_PROTOCOL_AND_PORT), u32(2, 0))
            for message in sock.ask(Call(_GET, NLM_F_DUMP, _HEADER + wanted + chosen, "list flows")):
                values = dict(attributes(message.body[4:]))
                which = nested(CTA_TUPLE_ORIG, values[CTA_TUPLE_ORIG]) + attribute(CTA_ID, values[CTA_ID])
                try:
                    sock.perform(Call(_DELETE, 0, _HEADER + which, f"forget flow to port {port}"))
                except NetlinkError as cause:
                    if cause.errno != errno.ENOENT:  # it has ended by itself
                        raise
                count += 1
    return count
