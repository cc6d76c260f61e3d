"""What stands between containers and the network: found by reading, told with a way out. Changes nothing.

Judging is apart from reading, so that the judgement is pure.
"""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longshore.kernel import netlink, nft
from longshore.kernel.netlink import NetlinkSocket
from longshore.kernel.nft import BaseChain, NftSocket
from longshore.network import beside
from longshore.network.host import SYSCTL

# of this thread's namespace: /proc/net means that of the process's first thread
LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    hint: str = ""


def judge_forward(
    chains: Sequence[BaseChain], legacy: str, bridges: Sequence[str], tables: Iterable[str], marked: bool
) -> list[Finding]:
    """Other firewalls' say in forwarding. `tables`: our own; `marked`: our rules stand in DOCKER-USER."""
    own = set(tables)
    others = [
        c
        for c in chains
        if c.hook == nft.NF_INET_FORWARD
        and c.family in ("ip", "inet")
        and c.table not in own
        and c.kind == "filter"
    ]
    names = {(c.family, c.table, c.name) for c in chains}
    found: list[Finding] = []
    for chain in others:
        where = f"{chain.family} {chain.table} {chain.name}"
        if chain.table == "firewalld":
            hint = "; ".join(
                f"firewall-cmd --permanent --zone=trusted --add-interface={name}" for name in bridges
            )
            found.append(
                Finding(
                    "firewall", "warn", f"firewalld filters forwarding ({where})", f"{hint}; then --reload"
                )
            )
        elif chain.policy != nft.NF_DROP:
            continue
        elif (chain.family, chain.table) == ("ip", beside.TABLE) and marked:
            found.append(
                Finding("firewall", "ok", f"{where} drops by policy; our rules stand in {beside.CHAIN}")
            )
        else:
            found.append(
                Finding(
                    "firewall", "fail", f"{where} drops forwarded packets by policy", _way_out(names, bridges)
                )
            )
    if "filter" in legacy.split():
        hint = "see iptables-legacy -S FORWARD; let it accept " + ", ".join(bridges)
        found.append(
            Finding(
                "firewall", "warn", "the old iptables (legacy) has filter rules, which we cannot read", hint
            )
        )
    return found or [Finding("firewall", "ok", "nothing else filters forwarded packets")]


def _way_out(names: set[tuple[str, str, str]], bridges: Sequence[str]) -> str:
    if ("ip", beside.TABLE, "ufw-before-forward") in names:
        return "; ".join(f"ufw route allow in on {b}; ufw route allow out on {b}" for b in bridges)
    return "; ".join(
        f"iptables -I FORWARD -i {b} -j ACCEPT; iptables -I FORWARD -o {b} -j ACCEPT" for b in bridges
    )


def examine(table: str, bridges: Sequence[str]) -> list[Finding]:
    """All checks; never raises for what a machine lacks. Asks the kernel by sockets of its own, so any thread may."""
    try:
        with NetlinkSocket() as route, NftSocket() as sock:
            return [
                _forwarding(),
                *_bridges(route, bridges),
                _table(sock, table),
                *_others(sock, table, bridges),
            ]
    except OSError as cause:
        hint = (
            "give CAP_NET_ADMIN"
            if cause.errno in (errno.EPERM, errno.EACCES)
            else "modprobe nf_tables bridge veth"
        )
        return [Finding("network", "fail", cause.strerror or str(cause), hint)]


def _forwarding() -> Finding:
    try:
        on = (SYSCTL / "ip_forward").read_text().strip() == "1"
    except OSError as cause:
        return Finding("ip forwarding", "fail", str(cause))
    if on:
        return Finding("ip forwarding", "ok", "on")
    return Finding(
        "ip forwarding", "fail", "off: containers reach only this machine", "sysctl net.ipv4.ip_forward=1"
    )


def _bridges(route: NetlinkSocket, bridges: Sequence[str]) -> list[Finding]:
    found: list[Finding] = []
    for name in bridges:
        link = netlink.find_link(route, name)
        if link is None:
            found.append(Finding("bridge", "fail", f"{name} is gone", "restart longshored"))
        elif not link.flags & netlink.IFF_UP:
            found.append(Finding("bridge", "fail", f"{name} is down", f"ip link set {name} up"))
        else:
            addresses = [str(address) for index, address in netlink.addresses(route) if index == link.index]
            found.append(Finding("bridge", "ok", f"{name} {' '.join(addresses)}"))
    return found


def _table(sock: NftSocket, table: str) -> Finding:
    if sock.has_table(table):
        return Finding("nft table", "ok", f"ip {table}")
    return Finding("nft table", "fail", f"table ip {table} does not exist", "restart longshored")


def _others(sock: NftSocket, table: str, bridges: Sequence[str]) -> list[Finding]:
    try:
        legacy = LEGACY_TABLES.read_text()
    except OSError:
        legacy = ""  # the module is not loaded
    comments = {rule.comment for rule in sock.rules(beside.TABLE, beside.CHAIN)}
    marked = all(beside.marker(table, bridge) in comments for bridge in bridges)
    return judge_forward(sock.chains(), legacy, bridges, [table], marked)
