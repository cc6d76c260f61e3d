"""Addresses, ports, judgement of other firewalls, DOCKER-USER: all without a kernel."""

import socket
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.core.networks import Addressing, NetworkRequest, Subnet, plan_bridge
from longshore.errors import Conflict, EngineError, Forbidden, InvalidArgument, Unavailable
from longshore.kernel import netlink, nft
from longshore.kernel.nft import BaseChain, Rule
from longshore.network import beside, rules
from longshore.network.addresses import Pool, choose_subnet, mac_of, parse_interface
from longshore.network.doctor import judge_forward
from longshore.network.errors import PortAllocated
from longshore.network.model import NetworkSettings, PortMapping
from longshore.network.ports import HostPort, Ports, host_port

NETWORK = IPv4Network("10.0.0.0/29")


def test_subnets_avoid_what_is_taken() -> None:
    assert choose_subnet([]) == IPv4Network("172.30.0.0/16")
    taken = [IPv4Network("0.0.0.0/0"), IPv4Network("172.16.0.0/12")]
    assert choose_subnet(taken) == IPv4Network("192.168.0.0/20")
    with pytest.raises(Unavailable):
        choose_subnet(
            [IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"), IPv4Network("10.0.0.0/8")]
        )


def test_addresses_go_round() -> None:
    pool = Pool(NETWORK, NETWORK[1])
    first, second = pool.take("a"), pool.take("b")
    assert (str(first), str(second)) == ("10.0.0.2", "10.0.0.3")
    pool.free(first, "a")
    assert [str(pool.take("c")) for _ in range(4)] == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(Unavailable):
        pool.take("d")
    pool.free(second, "somebody else")
    with pytest.raises(Conflict):
        pool.claim(second, "d")
    pool.claim(second, "b")  # again is fine
    for wrong in ("10.0.0.0", "10.0.0.7", "10.0.0.8", "9.9.9.9"):
        with pytest.raises(InvalidArgument):
            pool.claim(IPv4Address(wrong), "d")


def test_a_part_of_the_subnet() -> None:
    pool = Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"), IPv4Network("10.0.0.64/30"))
    assert [str(pool.take("a")) for _ in range(4)] == [f"10.0.0.{n}" for n in (64, 65, 66, 67)]
    pool = Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"))
    pool.claim(IPv4Address("10.0.0.9"), "old")
    pool.restart()
    assert str(pool.take("new")) == "10.0.0.10"


@pytest.mark.parametrize("text", ["", "10.0.0.1/32", "10.0.0.0/24", "10.0.0.255/24", "10.0.0.1/33", "x"])
def test_bad_bip(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid bip"):
        parse_interface(text)


def test_mac_and_table_names() -> None:
    assert mac_of(IPv4Address("172.30.0.2")) == "02:42:ac:1e:00:02"
    assert NetworkSettings().table_name == "longshore"
    assert NetworkSettings(bridge="other0").table_name == "longshore-other0"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("", "", True),
        ("", "127.0.0.1", True),
        ("127.0.0.1", "", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
def test_ports_clash(first: str, second: str, clash: bool) -> None:
    ports, number = Ports(), free_port()
    held = ports.take(PortMapping(80, ip=first, host_port=number), "a")
    wanted = PortMapping(80, ip=second, host_port=number)
    ports.take(PortMapping(80, "udp", first, number), "b")  # another protocol is another port
    if clash:
        with pytest.raises(PortAllocated, match="port is already allocated"):
            ports.take(wanted, "b")
        assert not ports.free(host_port(held), "b")
        assert ports.free(host_port(held), "a")
    ports.take(wanted, "b")
    ports.close()


def test_ports_of_a_range_and_free_ones() -> None:
    ports, number = Ports(), free_port()
    spread = (number, number)
    assert ports.take(PortMapping(80, host_range=spread), "a").host_port == number
    with pytest.raises(PortAllocated, match="all ports are allocated"):
        ports.take(PortMapping(80, host_range=spread), "a")
    assert 32768 <= ports.take(PortMapping(80), "a").host_port < 61000
    for wrong in (
        PortMapping(0),
        PortMapping(80, "icmp"),
        PortMapping(80, ip="x"),
        PortMapping(80, host_port=70000),
    ):
        with pytest.raises(InvalidArgument):
            ports.take(wrong, "a")
    ports.close()


def test_a_listening_program_keeps_its_port_and_a_finished_one_does_not() -> None:
    ports = Ports()
    server = socket.create_server(("0.0.0.0", 0))
    number = server.getsockname()[1]
    with pytest.raises(PortAllocated, match="address already in use"):
        ports.take(PortMapping(80, host_port=number), "a")
    assert ports.restore(PortMapping(80, host_port=number), "a") is False
    ports.free(HostPort("0.0.0.0", "tcp", number), "a")
    with socket.create_connection(("127.0.0.1", number)) as client:
        served, _ = server.accept()
        served.close()  # closes first: TIME_WAIT stays behind
        assert client.recv(1) == b""
    server.close()
    ports.take(PortMapping(80, host_port=number), "a")
    ports.close()


def test_moving_ports_is_all_or_nothing() -> None:
    ports = Ports()
    one, two = (host_port(ports.take(PortMapping(80), owner)) for owner in ("a", "b"))
    with pytest.raises(InvalidArgument):
        ports.move([one, two], "a", "c")
    assert ports.owner(one) == "a"
    ports.move([one], "a", "c")
    assert ports.owner(one) == "c"
    ports.close()


@given(st.lists(st.tuples(st.integers(1, 100), st.binary(max_size=40))))
def test_attributes_survive_packing(values: list[tuple[int, bytes]]) -> None:
    packed = b"".join(netlink.attribute(kind, value) for kind, value in values)
    assert list(netlink.attributes(packed)) == values


@given(st.binary(max_size=200))
def test_broken_messages_do_not_hang_or_raise(data: bytes) -> None:
    assert len(list(netlink.messages(data))) <= 200
    assert len(list(netlink.attributes(data))) <= 200


def test_published_elements() -> None:
    name, (key, value) = rules.published(PortMapping(80, "tcp", "", 8080), "172.30.0.2")
    assert (name, key, value) == (
        "published",
        bytes([6, 0, 0, 0, 0x1F, 0x90, 0, 0]),
        bytes([172, 30, 0, 2, 0, 80, 0, 0]),
    )
    name, (key, _) = rules.published(PortMapping(53, "udp", "127.0.0.1", 53), "172.30.0.2")
    assert (name, key) == ("published_at", bytes([127, 0, 0, 1, 17, 0, 0, 0, 0, 53, 0, 0]))


def test_large_batches_are_cut() -> None:
    batch = nft.Batch()
    elements = [(struct.pack("!I", number), b"x" * 8) for number in range(1000)]
    batch.add_elements("t", "m", elements)
    assert len(batch.calls) == 3 and all(len(call.body) < 65000 for call in batch.calls)


RETURN = Rule(9, "", ("counter", "immediate"), nft.NFT_RETURN)
OWNERS = Rule(3, "", ("payload", "cmp", "immediate"), nft.NF_DROP)


def marked(handle: int, bridge: str) -> Rule:
    return Rule(handle, f"longshore: {bridge}", ("meta", "cmp", "counter", "immediate"), nft.NF_ACCEPT)


@pytest.mark.parametrize(
    ("standing", "bridges", "added", "deleted"),
    [
        ([], ["a"], 2, 0),
        ([OWNERS, RETURN], ["a", "b"], 4, 0),
        ([marked(1, "a"), marked(2, "a"), RETURN], ["a"], 0, 0),
        ([marked(1, "a")], ["a"], 2, 1),
        ([marked(1, "gone"), marked(2, "gone"), OWNERS], [], 0, 2),
        ([Rule(1, "longshore-other0: other0", (), 1)], [], 0, 0),  # another daemon's
    ],
)
def test_rules_in_docker_user(standing: list[Rule], bridges: list[str], added: int, deleted: int) -> None:
    words = [call.what for call in beside.plan(standing, "longshore", bridges).calls]
    assert sum(word.startswith("add") for word in words) == added
    assert sum(word.startswith("delete") for word in words) == deleted


def chain(table: str, name: str, policy: int, family: str = "ip") -> BaseChain:
    return BaseChain(family, table, name, "filter", nft.NF_INET_FORWARD, policy)


@pytest.mark.parametrize(
    ("chains", "legacy", "has_marks", "status", "word"),
    [
        ([], "", False, "ok", "nothing else"),
        ([chain("longshore", "forward", nft.NF_ACCEPT)], "", False, "ok", "nothing else"),
        ([chain("filter", "FORWARD", nft.NF_ACCEPT)], "nat", False, "ok", "nothing else"),
        ([chain("filter", "FORWARD", nft.NF_DROP)], "", True, "ok", "DOCKER-USER"),
        ([chain("filter", "FORWARD", nft.NF_DROP)], "", False, "fail", "iptables -I FORWARD -i b0"),
        ([chain("mine", "fw", nft.NF_DROP, "inet")], "", True, "fail", "inet mine fw"),
        (
            [
                chain("filter", "FORWARD", nft.NF_DROP),
                BaseChain("ip", "filter", "ufw-before-forward", "", None, 1),
            ],
            "",
            False,
            "fail",
            "ufw route allow in on b0",
        ),
        (
            [chain("firewalld", "filter_FORWARD", nft.NF_ACCEPT, "inet")],
            "",
            False,
            "warn",
            "--add-interface=b0",
        ),
        ([], "nat filter", False, "warn", "legacy"),
    ],
)
def test_judging_other_firewalls(
    chains: list[BaseChain], legacy: str, has_marks: bool, status: str, word: str
) -> None:
    (finding,) = judge_forward(chains, legacy, ["b0"], ["longshore"], has_marks)
    assert finding.status == status and word in f"{finding.detail} {finding.hint}"


def request(**values: str) -> NetworkRequest:
    return NetworkRequest("net", ipam=Addressing(config=[Subnet(**values)]))


def test_planning_a_network() -> None:
    taken = [IPv4Network("172.30.0.0/16")]
    plain = plan_bridge(NetworkRequest("net"), "0123456789abcdef", taken)
    assert (plain.bridge, plain.subnet, plain.gateway) == ("br-0123456789ab", "172.29.0.0/16", "172.29.0.1")
    own = plan_bridge(request(subnet="10.1.0.0/24", gateway="10.1.0.9", ip_range="10.1.0.128/25"), "0", taken)
    assert (own.subnet, own.gateway, own.ip_range) == ("10.1.0.0/24", "10.1.0.9", "10.1.0.128/25")
    named = NetworkRequest(
        "net",
        internal=True,
        options={
            "com.docker.network.bridge.name": "b7",
            "com.docker.network.bridge.enable_icc": "false",
            "com.docker.network.driver.mtu": "1280",
        },
    )
    bridge = plan_bridge(named, "0", [])
    assert (bridge.bridge, bridge.icc, bridge.mtu, bridge.internal, bridge.masquerade) == (
        "b7",
        False,
        1280,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (request(subnet="172.30.1.0/24"), Forbidden),
        (request(subnet="10.0.0.1/24"), InvalidArgument),
        (request(subnet="10.0.0.0/31"), InvalidArgument),
        (request(subnet="10.0.0.0/24", gateway="10.0.1.1"), InvalidArgument),
        (request(subnet="10.0.0.0/24", ip_range="10.0.1.0/25"), InvalidArgument),
        (NetworkRequest("net", options={"com.docker.network.driver.mtu": "many"}), InvalidArgument),
        (NetworkRequest("net", options={"com.docker.network.bridge.enable_icc": "perhaps"}), InvalidArgument),
        (
            NetworkRequest("net", options={"com.docker.network.bridge.name": "much-too-long-a-name"}),
            InvalidArgument,
        ),
        (NetworkRequest("net", options={"com.docker.network.bridge.name": "a/b"}), InvalidArgument),
    ],
)
def test_bad_networks_are_refused_before_anything_is_made(
    wanted: NetworkRequest, error: type[EngineError]
) -> None:
    with pytest.raises(error):
        plan_bridge(wanted, "0", [IPv4Network("172.30.0.0/16")])
