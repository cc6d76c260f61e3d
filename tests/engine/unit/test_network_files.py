"""Contents of /etc/hosts and /etc/resolv.conf."""

from pathlib import Path

import pytest

from longshore.errors import InvalidArgument
from longshore.network.files import host_resolv_conf, hosts_file, parse_extra_host, resolv_conf


def test_hosts() -> None:
    text = hosts_file(
        ["172.30.0.2"],
        "web",
        domainname="example.org",
        extra=["db:10.0.0.1", "host:host-gateway"],
        gateway="172.30.0.1",
    )
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-3:] == ["10.0.0.1\tdb", "172.30.0.1\thost", "172.30.0.2\tweb.example.org web"]
    assert hosts_file([], "web").splitlines()[-1] == "ff02::2\tip6-allrouters"


@pytest.mark.parametrize(
    ("entry", "name", "address"),
    [
        ("db:10.0.0.1", "db", "10.0.0.1"),
        ("db=10.0.0.1", "db", "10.0.0.1"),
        ("db:::1", "db", "::1"),
        ("db=[fd00::2]", "db", "fd00::2"),
        ("me:host-gateway", "me", "192.0.2.1"),
    ],
)
def test_extra_host(entry: str, name: str, address: str) -> None:
    assert parse_extra_host(entry, "192.0.2.1") == (name, address)


@pytest.mark.parametrize(
    "entry",
    ["db", "db:", ":10.0.0.1", "db:nonsense", "a b:10.0.0.1", "db:10.0.0.1\nx", "", "me:host-gateway"],
)
def test_bad_extra_host(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_extra_host(entry)


HOST = """# by hand
nameserver 127.0.0.53
nameserver 192.0.2.53
nameserver ::1
nameserver fd00::53
search first.example
search example.org example.net
options ndots:2 rotate
"""


def test_resolv_conf_of_the_host() -> None:
    assert resolv_conf(HOST).splitlines() == [
        "nameserver 192.0.2.53",
        "nameserver fd00::53",
        "search example.org example.net",
        "options ndots:2 rotate",
    ]


def test_resolv_conf_options_replace_the_hosts() -> None:
    text = resolv_conf(HOST, dns=["127.0.0.1"], search=["."], options=["ndots:0"])
    assert text == "nameserver 127.0.0.1\noptions ndots:0\n"
    assert "search a b" in resolv_conf(HOST, search=["a", "b"])
    with pytest.raises(InvalidArgument):
        resolv_conf(HOST, dns=["example.org"])


@pytest.mark.parametrize("text", ["", "nameserver 127.0.0.1\n", "nameserver nonsense\n", "nameserver\n"])
def test_resolv_conf_falls_back_to_public_servers(text: str) -> None:
    assert resolv_conf(text) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_the_upstreams_of_systemd_resolved(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    assert host_resolv_conf(stub, real) == "nameserver 127.0.0.53\n"  # there are none
    real.write_text("nameserver 192.0.2.53\n")
    assert host_resolv_conf(stub, real) == "nameserver 192.0.2.53\n"
    stub.write_text("nameserver 192.0.2.1\n")
    assert host_resolv_conf(stub, real) == "nameserver 192.0.2.1\n"
    assert host_resolv_conf(tmp_path / "none", real) == ""
