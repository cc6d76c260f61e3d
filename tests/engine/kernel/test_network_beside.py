"""Beside other firewalls: rules as dockerd and ufw make them, by the iptables they use, and what doctor says."""

import subprocess
import sys
from pathlib import Path

import pytest
from network_lab import (
    HOST,
    NEIGHBOUR,
    Machine,
    Server,
    Space,
    ask,
    command,
    isolated,
    machine,
    needs_root,
    neighbour,
    state,
    until,
)

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.networks import NetworkRequest, Networks
from longshore.errors import NotFound
from longshore.network import doctor
from longshore.network.manager import BridgeNetwork, NetworkManager, NetworkSettings, PortMapping

pytestmark = needs_root


def dockerd_rules(*, closing_return: bool) -> None:
    """The skeleton that dockerd leaves in `ip filter`."""
    for rule in (
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-N DOCKER-FORWARD",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        *(["-A DOCKER-USER -j RETURN"] if closing_return else []),
    ):
        command("iptables", "-w", *rule.split())


async def works_both_ways(port: int, host: Machine, other: Space) -> bool:
    one = host.containers[0]
    server = Server("out", other, 9000)
    try:
        outwards = await ask(NEIGHBOUR, 9000, one.space, timeout=0.3)
    finally:
        server.close()
    inwards = await ask(HOST, port, other, timeout=0.3)
    return bool(outwards) and bool(inwards)


def statuses() -> dict[str, str]:
    return {finding.check: finding.status for finding in doctor.examine("longshore", ["longshore0"])}


@pytest.mark.parametrize("closing_return", [True, False])
def test_beside_dockerd(closing_return: bool) -> None:
    async def test() -> None:
        with neighbour() as other:
            dockerd_rules(closing_return=closing_return)
            command("iptables", "-w", "-I", "DOCKER-USER", "-s", "203.0.113.0/24", "-j", "DROP")
            before = state()
            async with machine() as host:
                await host.start("one", PortMapping(80, host_port=8080))
                assert await works_both_ways(8080, host, other)
                assert statuses()["firewall"] == "ok"
                # iptables must still understand the table, or dockerd could not work any more
                listed = command("iptables", "-w", "-S", "DOCKER-USER").splitlines()
                assert "-s 203.0.113.0/24 -j DROP" in listed[1]  # the owner's rules come first
                assert "-i longshore0" in listed[2] and "-o longshore0" in listed[3]
                assert len(listed) == 4 + closing_return
                # unpublished ports stay closed although DOCKER-USER accepts
                other.command("ip", "route", "add", "172.30.0.0/16", "via", HOST)
                assert await ask("172.30.0.2", 80, other, timeout=0.3) == ""
                await host.stop(host.containers[0])
            assert state() == before

    isolated(test)


def test_dockerd_that_comes_later_and_restarts() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.start("one", PortMapping(80, host_port=8080))
                dockerd_rules(closing_return=False)

                async def back() -> bool:
                    return await works_both_ways(8080, host, other)

                await until(back, 2)
                command("iptables", "-w", "-F", "DOCKER-USER")
                await until(back, 2)
                assert command("iptables", "-w", "-S", "DOCKER-USER").count("-j ACCEPT") == 2

    isolated(test)


def test_doctor_names_a_host_firewall_and_its_advice_helps() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.start("one", PortMapping(80, host_port=8080))
                assert set(statuses().values()) == {"ok"}
                command("iptables", "-w", "-P", "FORWARD", "DROP")
                assert not await works_both_ways(8080, host, other)
                (finding,) = [f for f in doctor.examine("longshore", ["longshore0"]) if f.status != "ok"]
                assert (finding.check, finding.status) == ("firewall", "fail")
                assert "ip filter FORWARD" in finding.detail
                for line in finding.hint.split(";"):
                    command(*line.split())
                assert await works_both_ways(8080, host, other)
                Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
                command("nft", "add", "table", "inet", "firewalld")
                command("nft", "add chain inet firewalld f { type filter hook forward priority 10; }")
                assert statuses()["ip forwarding"] == "fail"
                assert any("firewall-cmd" in f.hint for f in doctor.examine("longshore", ["longshore0"]))

    isolated(test)


def test_doctor_without_a_network() -> None:
    async def test() -> None:
        assert statuses()["bridge"] == "fail" and statuses()["nft table"] == "fail"

    isolated(test)


def test_without_net_admin_the_error_says_so() -> None:
    program = """
import asyncio
from longshore.errors import Unsupported
from longshore.errors import NotFound
from longshore.network.manager import BridgeNetwork, NetworkManager, NetworkSettings
async def main():
    manager = NetworkManager(NetworkSettings())
    try:
        await manager.setup()
    except Unsupported as error:
        print(error)
    await manager.close()
asyncio.run(main())
"""
    argv = ["setpriv", "--bounding-set=-net_admin", "unshare", "-n", sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert "cannot set up bridge longshore0" in done.stdout and "CAP_NET_ADMIN" in done.stdout, done.stderr


def test_networks_are_the_same_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        before = state()
        database = Database(tmp_path / "state.db")
        manager = NetworkManager(NetworkSettings())
        first = Networks(database, manager, EventBus())
        await first.setup()
        await manager.restore([])
        blue = await first.create(NetworkRequest("blue", labels={"a": "b"}))
        assert blue.bridge is not None and blue.bridge.subnet == "172.29.0.0/16" and blue.bridge.mtu == 1500
        ids = {network.name: network.id for network in first.list()}
        assert set(ids) == {"bridge", "host", "none", "blue"}
        await manager.close(remove=True)  # as a reboot does
        manager = NetworkManager(NetworkSettings())
        second = Networks(database, manager, EventBus())
        await second.setup()
        await manager.restore([])
        assert {network.name: network.id for network in second.list()} == ids
        assert second.get(ids["blue"][:10]) == blue
        assert "172.29.0.1/16" in command("ip", "-4", "addr", "show", blue.bridge.bridge)
        assert {check.status for check in second.checks()} == {"ok"}
        assert await second.prune() == ["blue"]
        await manager.close(remove=True)
        database.close()
        assert state() == before

    isolated(test)


def test_no_default_network() -> None:
    async def test() -> None:
        before = state()
        async with machine(NetworkSettings(bridge="none")) as host:
            with pytest.raises(NotFound):
                await host.start("one")
            await host.manager.create_network(BridgeNetwork("blue", "br-blue", "10.8.0.0/24", "10.8.0.1"))
            assert (await host.start("one", network="blue")).endpoint.ip == "10.8.0.2"
        assert "none" not in command("ip", "link")
        assert state() == before

    isolated(test)
