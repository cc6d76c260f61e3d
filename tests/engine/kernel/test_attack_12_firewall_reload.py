"""Attack 12: a firewall that is flushed or reloaded must not leave containers exposed, nor cut off for long.

CVE-2025-54388 and CVE-2025-54410: after a reload of firewalld, ports published on 127.0.0.1 were reachable from
neighbours, and containers of one network from another.
"""

import asyncio

from network_lab import HOST, Machine, Space, ask, command, isolated, machine, needs_root, neighbour, until

from longshore.network.manager import BridgeNetwork, PortMapping

pytestmark = needs_root

FLUSHES = (
    ("nft", "flush", "ruleset"),
    ("nft", "delete", "table", "ip", "longshore"),
    ("nft", "flush", "table", "ip", "longshore"),
    ("nft", "flush", "chain", "ip", "longshore", "forward"),
    ("nft", "flush", "map", "ip", "longshore", "published"),
    ("nft", "flush", "set", "ip", "longshore", "bridges"),
)
SECONDS = 2.0


async def exposed(host: Machine, other: Space) -> list[str]:
    """What neighbours reach although they must not."""
    one, far = host.containers
    probes = {
        "port published on loopback": ask(HOST, 8081, other, timeout=0.15),
        "loopback address by route": ask("127.0.0.1", 8081, other, timeout=0.15),
        "unpublished port": ask(one.endpoint.ip, 80, other, timeout=0.15),
        "container of another network": ask(far.endpoint.ip, 80, one.space, timeout=0.15),
    }
    answers = await asyncio.gather(*probes.values())
    return [name for name, answer in zip(probes, answers, strict=True) if answer]


def test_attack_12_rules_come_back() -> None:
    """Fails when nobody watches the table; that the probes do reach an unprotected container is a test of its own."""

    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.manager.create_network(BridgeNetwork("far", "br-far", "10.8.0.0/24", "10.8.0.1"))
                ports = PortMapping(80, host_port=8080), PortMapping(80, ip="127.0.0.1", host_port=8081)
                await host.start("one", *ports)
                await host.start("far", network="far")
                # a neighbour that tries hard
                other.command("ip", "route", "add", "172.30.0.0/16", "via", HOST)
                other.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
                other.command("ip", "route", "add", "127.0.0.1/32", "via", HOST)
                healthy = command("nft", "list", "ruleset")
                assert await exposed(host, other) == []
                for flush in FLUSHES:
                    command(*flush)

                    async def whole() -> bool:
                        return command("nft", "list", "ruleset") == healthy

                    seconds = await until(whole, SECONDS)
                    assert await exposed(host, other) == [], flush
                    assert (await ask(HOST, 8080, other)).startswith("one"), flush
                    print(f"{' '.join(flush)}: back after {seconds:.2f} s")

    isolated(test)


def test_attack_12_a_reload_storm_ends_with_whole_rules() -> None:
    """Fails when a change while repairing is lost."""

    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.start("one", PortMapping(80, host_port=8080))
                healthy = command("nft", "list", "ruleset")
                for _ in range(30):
                    command("nft", "flush", "ruleset")

                async def whole() -> bool:
                    return command("nft", "list", "ruleset") == healthy

                await until(whole, SECONDS)
                # changes of the maps right after a flush do not fail, they repair
                command("nft", "flush", "map", "ip", "longshore", "published")
                await host.manager.unplug(host.containers[0].endpoint)
                command("nft", "flush", "ruleset")
                await host.start("two", PortMapping(80, host_port=8080))
                assert (await ask(HOST, 8080, other)).startswith("two")

    isolated(test)


def test_the_attack_would_be_noticed() -> None:
    """Without rules the probes do reach what they aim at: the test above can fail."""

    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.manager.create_network(BridgeNetwork("far", "br-far", "10.8.0.0/24", "10.8.0.1"))
                await host.start("one", PortMapping(80, ip="127.0.0.1", host_port=8081))
                await host.start("far", network="far")
                other.command("ip", "route", "add", "172.30.0.0/16", "via", HOST)
                await host.manager.close()
                command("nft", "flush", "ruleset")
                assert await exposed(host, other) == ["unpublished port", "container of another network"]

    isolated(test)
