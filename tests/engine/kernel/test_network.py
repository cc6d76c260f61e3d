"""Bridge networks with real packets, each test on a machine (network namespace) of its own."""

import asyncio
import socket
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from network_lab import (
    HOST,
    NEIGHBOUR,
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

from longshore.errors import Conflict, EngineError
from longshore.network.errors import PortAllocated
from longshore.network.manager import (
    BridgeNetwork,
    EndpointRequest,
    NetworkManager,
    NetworkSettings,
    PortMapping,
)

pytestmark = needs_root


def test_a_container_gets_address_route_and_name_and_leaves_nothing() -> None:
    async def test() -> None:
        with neighbour():
            before = state()
            async with machine() as host:
                plain = state()
                one = await host.start("one", PortMapping(80, host_port=8080))
                assert one.endpoint.ip == "172.30.0.2" and one.endpoint.mtu == 1400
                inside = one.space.command("ip", "-o", "addr")
                assert "172.30.0.2/16" in inside and "127.0.0.1/8" in inside
                assert "default via 172.30.0.1 dev eth0" in one.space.command("ip", "route")
                assert "mtu 1400" in one.space.command("ip", "link", "show", "eth0")
                assert "02:42:ac:1e:00:02" in one.space.command("ip", "link", "show", "eth0")
                await host.stop(one)
                await host.manager.unplug(one.endpoint)  # twice is fine

                async def plain_again() -> bool:
                    return state() == plain

                await until(plain_again, 3)
            assert state() == before

    isolated(test)


def test_a_link_is_deleted_even_when_its_namespace_lives_on() -> None:
    async def test() -> None:
        async with machine() as host:
            one = await host.start("one", serve=0)
            await host.manager.unplug(one.endpoint)

            async def gone() -> bool:
                return one.endpoint.link not in command("ip", "link")

            await until(gone, 3)

    isolated(test)


def test_published_ports_are_reached_from_everywhere_and_unpublished_ones_from_nowhere() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                one = await host.start("one", PortMapping(80, host_port=8080))
                two = await host.start("two")
                # first packet right after the plug: no lost SYN, which would cost a second
                assert await ask(HOST, 8080, other) == f"one {NEIGHBOUR}"
                assert (await ask("127.0.0.1", 8080)).startswith("one 172.30.0.1")
                assert (await ask(HOST, 8080)).startswith("one")
                assert (await ask("172.30.0.1", 8080)).startswith("one")
                assert (await ask(HOST, 8080, two.space)).startswith("one")  # hairpin
                assert (await ask(HOST, 8080, one.space)).startswith("one")  # to itself
                assert (await ask("172.30.0.2", 80, two.space)) == "one 172.30.0.3"
                assert (await ask("172.30.0.2", 80)) == "one 172.30.0.1"
                # a neighbour with a route to the bridge's subnet
                other.command("ip", "route", "add", "172.30.0.0/16", "via", HOST)
                assert await ask("172.30.0.2", 80, other) == ""
                assert await ask("172.30.0.3", 80, other) == ""
                assert await ask(HOST, 80, other) == ""
                # the way out is masqueraded
                server = Server("out", other, 9000)
                assert await ask(NEIGHBOUR, 9000, one.space) == f"out {HOST}"
                server.close()
                await host.stop(one)
                assert await ask(HOST, 8080, other) == ""

    isolated(test)


def test_ports_published_on_one_address_only() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                await host.start(
                    "one",
                    PortMapping(80, ip="127.0.0.1", host_port=8080),
                    PortMapping(80, ip=HOST, host_port=8081),
                )
                two = await host.start("two")
                assert (await ask("127.0.0.1", 8080)).startswith("one")
                assert await ask(HOST, 8080, other) == ""
                assert await ask(HOST, 8080) == ""
                assert await ask("172.30.0.1", 8080, two.space) == ""
                assert await ask(HOST, 8081, other) == f"one {NEIGHBOUR}"
                assert await ask("127.0.0.1", 8081) == ""
                # even with a route for loopback addresses and the kernel's own check off
                Path("/proc/sys/net/ipv4/conf/wire0/route_localnet").write_text("1")
                for space in (other, two.space):
                    way = HOST if space is other else "172.30.0.1"
                    space.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
                    space.command("ip", "route", "add", "127.0.0.1/32", "via", way)
                    space.command("ip", "rule", "add", "pref", "1", "lookup", "main")
                    space.command("ip", "rule", "del", "pref", "0")
                    assert await ask("127.0.0.1", 8080, space) == ""

    isolated(test)


def test_udp() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                one = await host.start("one", PortMapping(53, "udp", host_port=5353), serve=0)
                server = one.space.socket(socket.SOCK_DGRAM)
                server.bind(("0.0.0.0", 53))
                client = other.socket(socket.SOCK_DGRAM)
                client.settimeout(1)
                client.sendto(b"hello", (HOST, 5353))
                server.settimeout(1)
                data, peer = server.recvfrom(100)
                server.sendto(data.upper(), peer)
                answer, source = client.recvfrom(100)
                assert (answer, source) == (b"HELLO", (HOST, 5353)) and peer[0] == NEIGHBOUR
                # the same client port to the next container: the old flow must not capture it
                await host.stop(one)
                two = await host.start("two", PortMapping(53, "udp", host_port=5353), serve=0)
                second = two.space.socket(socket.SOCK_DGRAM)
                second.bind(("0.0.0.0", 53))
                second.settimeout(1)
                client.sendto(b"again", (HOST, 5353))
                assert second.recvfrom(100)[0] == b"again"
                for sock in (server, client, second):
                    sock.close()

    isolated(test)


def test_a_used_port_is_refused_and_nothing_stays_reserved() -> None:
    async def test() -> None:
        async with machine() as host:
            await host.start("one", PortMapping(80, host_port=8080), serve=0)
            wanted = (PortMapping(81, host_port=8081), PortMapping(80, ip="127.0.0.1", host_port=8080))
            with pytest.raises(
                PortAllocated, match=r"endpoint two \(\w+\): Bind for 127.0.0.1:8080 failed: port is al"
            ):
                host.manager.allocate(EndpointRequest("two", ports=wanted, name="two"))
            listener = Server("program", None, 8082)
            with pytest.raises(
                PortAllocated, match=r"failed to bind host port 0.0.0.0:8082/tcp: address already in use"
            ):
                host.manager.allocate(EndpointRequest("two", ports=(PortMapping(80, host_port=8082),)))
            listener.close()
            free = host.manager.allocate(EndpointRequest("three", ports=wanted[:1], name="three"))
            assert free.ip == "172.30.0.5"  # round robin: addresses given back rest
            with pytest.raises(OSError, match="in use"):
                Server("program", None, 8080)
            await host.manager.unplug(free)

    isolated(test)


def test_hand_over_loses_no_connection() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                port = PortMapping(80, host_port=8080)
                old = await host.start("old", port)
                new = await host.start("new", port, successor_of=old.endpoint.container_id)
                assert new.endpoint.ports == () and new.endpoint.waiting == (port,)
                answers: list[str] = []
                ended = asyncio.Event()

                async def client(space: Space | None) -> None:
                    while not ended.is_set():
                        answers.append((await ask(HOST, 8080, space, timeout=5)).split(" ")[0])

                clients = [asyncio.create_task(client(space)) for space in (other, other, None)]
                ends = [old.endpoint, new.endpoint]
                for _ in range(10):
                    await asyncio.sleep(0.05)
                    ends[0], ends[1] = await host.manager.hand_over(ends[0], ends[1], port)
                    ends.reverse()
                ended.set()
                await asyncio.gather(*clients)
                assert set(answers) == {"old", "new"} and len(answers) > 50
                # the last owner keeps the port when the other one goes
                ends[0], ends[1] = await host.manager.hand_over(ends[0], ends[1], port)
                assert ends[1].ports == (port,) and ends[0].ports == ()
                await host.manager.unplug(ends[0])
                assert await ask(HOST, 8080, other)

    isolated(test)


def test_an_open_connection_drains_to_the_old_container() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as host:
                port = PortMapping(80, host_port=8080)
                old = await host.start("old", port, serve=0)
                new = await host.start("new", port, successor_of=old.endpoint.container_id)
                listener = old.space.socket()
                listener.bind(("0.0.0.0", 80))
                listener.listen()
                client = other.socket()
                client.settimeout(1)
                client.connect((HOST, 8080))
                served, _ = listener.accept()
                await host.manager.hand_over(old.endpoint, new.endpoint, port)
                client.sendall(b"still here")
                assert served.recv(100) == b"still here"
                assert (await ask(HOST, 8080, other)).startswith("new")
                for sock in (listener, client, served):
                    sock.close()

    isolated(test)


def test_a_daemon_that_died_finds_its_endpoints_again() -> None:
    async def test() -> None:
        with neighbour() as other:
            before = state()
            first = NetworkManager(NetworkSettings())
            await first.setup()
            await first.restore([])
            kept, lost = Space.create(), Space.create()
            port = PortMapping(80, host_port=8080)
            endpoint = first.allocate(EndpointRequest("kept", ports=(port,)))
            stray = first.allocate(EndpointRequest("lost", ports=(PortMapping(80, host_port=8081),)))
            await first.plug(endpoint, kept.fd, None)  # without a socket from inside, too
            await first.plug(stray, lost.fd, lost.netlink.fileno())
            server = Server("kept", kept, 80)
            await first.close()
            second = NetworkManager(NetworkSettings())
            await second.setup(prefer="10.1.2.3/24")
            assert second.network("bridge").gateway == "172.30.0.1"
            assert (await ask(HOST, 8080, other)).startswith("kept")  # before restore, too
            await second.restore([endpoint])
            assert (await ask(HOST, 8080, other)).startswith("kept")
            with pytest.raises(PortAllocated):
                second.allocate(EndpointRequest("other", ports=(port,)))
            with pytest.raises(Conflict):
                second.allocate(EndpointRequest("other", ip=endpoint.ip))
            await asyncio.sleep(1.2)
            links = command("ip", "link")
            assert endpoint.link in links and stray.link not in links
            assert "8081" not in command("nft", "list", "ruleset")
            await second.unplug(endpoint)
            server.close()
            kept.close()
            lost.close()
            await second.close(remove=True)
            assert state() == before

    isolated(test)


def test_the_subnet_avoids_what_the_machine_uses() -> None:
    async def test() -> None:
        command("ip", "link", "add", "eth0", "type", "bridge")
        command("ip", "addr", "add", "172.30.0.9/24", "dev", "eth0")
        command("ip", "link", "set", "eth0", "up")
        command("ip", "route", "add", "172.29.4.0/24", "dev", "eth0")
        async with machine() as host:
            assert host.manager.network("bridge").subnet == "172.28.0.0/16"
        async with machine(NetworkSettings(bip="10.9.0.1/24")) as host:
            assert host.manager.network("bridge") == BridgeNetwork(
                "bridge", "longshore0", "10.9.0.0/24", "10.9.0.1", 1500
            )

    isolated(test)


def test_two_daemons_side_by_side() -> None:
    async def test() -> None:
        with neighbour() as other:
            async with machine() as one, machine(NetworkSettings(bridge="second0")) as two:
                a = await one.start("a", PortMapping(80, host_port=8080))
                b = await two.start("b", PortMapping(80, host_port=8081))
                assert a.endpoint.ip != b.endpoint.ip
                assert (await ask(HOST, 8080, other)).startswith("a")
                assert (await ask(HOST, 8081, other)).startswith("b")
                assert await ask(b.endpoint.ip, 80, a.space) == ""
                with pytest.raises(PortAllocated):
                    await two.start("c", PortMapping(80, host_port=8080))

    isolated(test)


def test_more_networks() -> None:
    async def test() -> None:
        with neighbour() as other:
            before = state()
            async with machine() as host:
                manager = host.manager
                plain = state()
                await manager.create_network(BridgeNetwork("blue", "br-blue", "10.8.0.0/24", "10.8.0.1"))
                await manager.create_network(
                    BridgeNetwork("shut", "br-shut", "10.9.0.0/24", "10.9.0.1", internal=True)
                )
                with pytest.raises(Conflict, match="overlaps"):
                    await manager.create_network(
                        BridgeNetwork("dup", "br-dup", "10.8.0.128/25", "10.8.0.129")
                    )
                one = await host.start("one", PortMapping(80, host_port=8080))
                blue = await host.start("blue", PortMapping(80, host_port=8081), network="blue")
                shut = await host.start("shut", PortMapping(80, host_port=8082), network="shut")
                peer = await host.start("peer", network="shut")
                assert blue.endpoint.ip == "10.8.0.2"
                out = Server("out", other, 9000)
                assert await ask(NEIGHBOUR, 9000, blue.space) == f"out {HOST}"
                assert await ask(NEIGHBOUR, 9000, shut.space) == ""
                out.close()
                assert (await ask(HOST, 8081, other)).startswith("blue")
                assert await ask(HOST, 8082, other) == ""
                assert await ask(blue.endpoint.ip, 80, one.space) == ""
                assert await ask(one.endpoint.ip, 80, blue.space) == ""
                assert await ask(HOST, 8080, shut.space) == ""
                assert (await ask(shut.endpoint.ip, 80, peer.space)).startswith("shut")
                # a second interface in the same container
                second = manager.allocate(EndpointRequest("one", network="blue", interface="eth1"))
                await manager.plug(second, one.space.fd, None)
                assert (await ask(blue.endpoint.ip, 80, one.space)) == f"blue {second.ip}"
                with pytest.raises(Conflict, match="active endpoints"):
                    await manager.remove_network("blue")
                for container in (blue, shut, peer, one):
                    await host.stop(container)
                await manager.unplug(second)
                await manager.remove_network("blue")
                await manager.remove_network("shut")

                async def plain_again() -> bool:
                    return state() == plain

                await until(plain_again, 3)
            assert state() == before

    isolated(test)


def test_a_failed_plug_leaves_nothing() -> None:
    async def test() -> None:
        async with machine() as host:
            plain = state()
            endpoint = host.manager.allocate(EndpointRequest("one", ports=(PortMapping(80, host_port=8080),)))
            with pytest.raises(EngineError, match="cannot plug"):
                await host.manager.plug(endpoint, 0, None)  # no namespace
            space = Space.create()
            wrong = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # of the machine itself
            with pytest.raises(EngineError, match="eth0 did not arrive"):
                await host.manager.plug(endpoint, space.fd, wrong.fileno())
            wrong.close()
            await host.manager.unplug(endpoint)
            assert state() == plain
            Server("program", None, 8080).close()
            space.close()

    isolated(test)


def test_mode_none_gets_loopback_only() -> None:
    async def test() -> None:
        async with machine() as host:
            space = Space.create()
            await host.manager.loopback_up(space.netlink.fileno())
            assert "UP" in space.command("ip", "-o", "link")
            space.close()

    isolated(test)


def test_many_published_ports_are_restored_in_one_transaction() -> None:
    async def test() -> None:
        async with machine() as host:
            ports = tuple(PortMapping(80, host_port=20000 + number) for number in range(1500))
            one = await host.start("one", *ports, serve=0)
            assert command("nft", "list", "map", "ip", "longshore", "published").count("tcp .") == 1500
            await host.manager.restore([])
            assert command("nft", "list", "map", "ip", "longshore", "published").count("tcp .") == 1500
            await host.stop(one)
            assert command("nft", "list", "map", "ip", "longshore", "published").count("tcp .") == 0

    isolated(test)


def test_no_descriptor_leaks() -> None:
    async def test() -> None:
        async with machine() as host:
            await host.stop(await host.start("warm", PortMapping(80), serve=0))
            count = len(list(Path("/proc/self/fd").iterdir()))
            for number in range(10):
                container = await host.start(f"c{number}", PortMapping(80), serve=0)
                assert 32768 <= container.endpoint.ports[0].host_port < 61000
                await host.stop(container)
            assert len(list(Path("/proc/self/fd").iterdir())) <= count

    isolated(test)


def test_the_bridge_keeps_its_subnet_and_refuses_another_while_in_use() -> None:
    async def test() -> None:
        async with machine() as host:
            await host.start("one", serve=0)
            other = NetworkManager(NetworkSettings(bip="10.7.0.1/16"))
            with pytest.raises(Conflict, match="containers use it"):
                await other.setup()
            await other.close()
            assert IPv4Network(host.manager.network("bridge").subnet).prefixlen == 16

    isolated(test)
