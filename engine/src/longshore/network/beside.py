"""Living beside other firewalls.

An accept in our table does not override a drop in another base chain: every base chain of a hook is asked. dockerd
sets the policy of `ip filter FORWARD` to drop, and documents one place where the machine's owner may let other
traffic pass: the chain DOCKER-USER (https://docs.docker.com/engine/network/packet-filtering-firewalls/). Where that
chain exists, two rules per bridge of ours stand in it, behind those of the owner, marked by a comment.
Our own forward chain still decides what may reach a container.
"""

from collections.abc import Iterable

from longshore.kernel import nft
from longshore.kernel.nft import Batch, NftSocket, Rule

TABLE = "filter"
CHAIN = "DOCKER-USER"


def marker(table: str, bridge: str) -> str:
    return f"{table}: {bridge}"


def plan(rules: list[Rule], table: str, bridges: Iterable[str]) -> Batch:
    """The changes that leave exactly one pair of marked rules per bridge, none for other bridges of this table."""
    batch = Batch()
    wanted = {marker(table, bridge): bridge for bridge in bridges}
    for rule in rules:
        if rule.comment.startswith(f"{table}: ") and rule.comment not in wanted:
            batch.delete_rule(TABLE, CHAIN, rule.handle)
    before = _closing_return(rules)
    for comment, bridge in wanted.items():
        standing = [rule for rule in rules if rule.comment == comment]
        if len(standing) == 2:
            continue
        for rule in standing:
            batch.delete_rule(TABLE, CHAIN, rule.handle)
        for key in (nft.META_IIFNAME, nft.META_OIFNAME):
            # written as iptables-nft writes `-i NAME`, so that iptables(8) can go on reading the table
            name = bridge.encode() + b"\0"
            expressions = [nft.meta(key), nft.compare(name), nft.counter(), nft.verdict(nft.NF_ACCEPT)]
            batch.add_rule(TABLE, CHAIN, expressions, comment=comment, before=before)
    return batch


def _closing_return(rules: list[Rule]) -> int:
    """Handle of the unconditional return that older dockerds put at the end of the chain; 0 without one."""
    if (
        rules
        and rules[-1].verdict == nft.NFT_RETURN
        and set(rules[-1].expressions) <= {"counter", "immediate"}
    ):
        return rules[-1].handle
    return 0


def settle(sock: NftSocket, table: str, bridges: Iterable[str]) -> bool:
    """Put our rules into DOCKER-USER, or take them away (no bridges). False: there is no such chain."""
    if not any(c.family == "ip" and c.table == TABLE and c.name == CHAIN for c in sock.chains()):
        return False
    sock.commit(plan(sock.rules(TABLE, CHAIN), table, bridges))
    return True
