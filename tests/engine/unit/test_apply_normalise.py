"""Spellings, normal form and comparison of `apply`."""

from typing import Any

import msgspec
import pytest

from longshore.apply.compare import Difference, Verdict, compare, overlay, update_body, verdict
from longshore.apply.normalise import create_body, flatten, normalise
from longshore.apply.request import WantedContainer, parse_request
from longshore.apply.values import (
    fixed_ports,
    parse_duration,
    parse_exposed,
    parse_ports,
    parse_size,
    parse_volume,
)
from longshore.core.model import CreateRequest, from_mapping
from longshore.errors import InvalidArgument


def wanted(**options: Any) -> WantedContainer:
    return msgspec.convert({"name": "web", **options}, WantedContainer)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("64KB", 65536),
        (4096, 4096),
        ("10b", 10),
        ("-1", -1),
        ("0", 0),
    ],
)
def test_sizes_are_powers_of_1024(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90), ("500ms", 0.5), (2, 2.0), ("2.5", 2.5), ("1h", 3600), ("200us", 0.0002), ("2d", 172800)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds * 10**9


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (parse_size, "12 apples"),
        (parse_size, "m"),
        (parse_size, "-5"),
        (parse_duration, "5 minutes"),
        (parse_duration, "1x"),
        (parse_duration, ""),
        (parse_duration, -1.0),
        (parse_exposed, "80/quic"),
        (parse_exposed, "0"),
        (parse_ports, ["70000"]),
        (parse_ports, ["80-82:80-81"]),
        (parse_ports, ["a:b:c:d"]),
        (parse_ports, ["http"]),
        (parse_volume, "data"),
        (parse_volume, "data:relative"),
        (parse_volume, "a:/b:ro:z"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_text(read: Any, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(value)
    shown = value[0] if isinstance(value, list) else value
    assert str(shown).split(":")[-1][:4] in str(caught.value)


@pytest.mark.parametrize(
    ("entries", "bindings"),
    [
        (["80"], {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        ([80], {"80/tcp": [{"HostIp": "", "HostPort": ""}]}),
        (["8080:80"], {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        (["0.0.0.0:8080:80"], {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        (["127.0.0.1:53:53/udp"], {"53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}]}),
        (["127.0.0.1::80"], {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        (["[::1]:8080:80"], {"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        (
            ["8000-8001:80-81"],
            {"80/tcp": [{"HostIp": "", "HostPort": "8000"}], "81/tcp": [{"HostIp": "", "HostPort": "8001"}]},
        ),
    ],
)
def test_ports(entries: list[str | int], bindings: dict[str, Any]) -> None:
    assert parse_ports(entries) == bindings


def test_the_order_of_ports_does_not_matter() -> None:
    assert list(parse_ports(["8081:80", "90:90", "8080:80"]).items()) == list(
        parse_ports(["8080:80", "8081:80", "90:90"]).items()
    )


def test_only_ports_with_a_number_are_fixed() -> None:
    assert fixed_ports(parse_ports(["8080:80", "81"])) == [("", "8080", "80/tcp")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"command": "nginx -g 'daemon off;'"}, {"command": ["nginx", "-g", "daemon off;"]}),
        ({"env": {"A": 1, "B": True}}, {"env": ["B=true", "A=1"]}),
        ({"memory": "1g"}, {"memory": 1 << 30}),
        ({"cpus": 1.5}, {"cpus": "1.5"}),
        ({"ports": ["80:80"]}, {"ports": ["0.0.0.0:80:80/tcp"]}),
        ({"volumes": ["d:/d:rw"]}, {"volumes": ["d:/d"]}),
        ({"network_mode": "default"}, {"network_mode": "bridge"}),
        ({"network_mode": "bridge"}, {}),
        ({"restart_policy": "no"}, {}),
        ({"privileged": False, "labels": {}, "memory": 0}, {}),
        ({"cap_add": ["B", "A"]}, {"cap_add": ["A", "B"]}),
        (
            {"healthcheck": {"test": "true", "interval": "5s"}},
            {"healthcheck": {"test": ["CMD-SHELL", "true"], "interval": 5}},
        ),
        ({"config": {"HostConfig": {"Memory": 1024}}}, {"memory": 1024}),
        ({"config": {"Env": ["A=1"], "User": "x"}, "user": "y"}, {"env": {"A": "1"}, "user": "y"}),
    ],
)
def test_what_means_the_same_has_one_normal_form(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert normalise(wanted(**one)) == normalise(wanted(**other))


def test_a_stop_timeout_of_zero_and_an_empty_variable_are_opinions() -> None:
    assert normalise(wanted(stop_timeout=0, env={"EMPTY": ""})) == {"StopTimeout": 0, "Env": {"EMPTY": ""}}


def test_the_create_body_is_one_that_core_takes_and_flattens_back() -> None:
    options = normalise(
        wanted(
            image="app:1",
            command="run it",
            env={"A": "1"},
            ports=["8080:80"],
            volumes=["data:/data", "/scratch"],
            memory="64m",
            restart_policy="on-failure",
            restart_retries=3,
            healthcheck={"test": ["curl", "x"], "retries": 2, "start_period": "1s"},
            tmpfs=["/tmp:size=1m"],
            devices=["/dev/fuse"],
            etc_hosts={"db": "10.0.0.2"},
        )
    )
    body = create_body(options)
    request = from_mapping(body, CreateRequest)
    assert request.cmd == ["run", "it"]
    assert request.env == ["A=1"]
    assert request.host_config.binds == ["data:/data"]
    assert list(request.volumes or {}) == ["/scratch"]
    assert request.healthcheck is not None and request.healthcheck.test == ["CMD", "curl", "x"]
    assert request.host_config.restart_policy.maximum_retry_count == 3
    assert flatten(body) == options


def test_request_errors_name_the_field() -> None:
    with pytest.raises(InvalidArgument, match="imagee"):
        parse_request(b'{"containers": [{"name": "a", "imagee": "x"}]}')
    with pytest.raises(InvalidArgument, match="a is wanted twice"):
        parse_request(b'{"containers": [{"name": "a"}, {"name": "a"}]}')
    with pytest.raises(InvalidArgument, match="state"):
        parse_request(b'{"containers": [{"name": "a", "state": "flying"}]}')


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ({"memory": "1g"}, {"memory": "1g"}, Verdict.KEEP),
        ({"memory": "2g"}, {"memory": "1g"}, Verdict.UPDATE),
        ({"memory": "2g", "cpus": 1, "pids_limit": 5, "restart_policy": "always"}, {}, Verdict.UPDATE),
        ({}, {"restart_policy": "always"}, Verdict.UPDATE),
        ({}, {"memory": "1g"}, Verdict.REPLACE),  # update cannot take a limit away
        ({"env": {"A": "2"}}, {"env": {"A": "1"}}, Verdict.REPLACE),
        ({"memory": "2g", "user": "x"}, {"memory": "1g"}, Verdict.REPLACE),
        ({}, {"env": {"A": "1"}}, Verdict.REPLACE),
    ],
)
def test_verdicts(new: dict[str, Any], old: dict[str, Any], expected: Verdict) -> None:
    assert verdict(compare(normalise(wanted(**new)), normalise(wanted(**old)))) is expected


def test_env_is_shown_entry_by_entry() -> None:
    old = normalise(wanted(env={"KEEP": "1", "CHANGE": "a", "DROP": "x"}))
    new = normalise(wanted(env={"KEEP": "1", "CHANGE": "b", "ADD": "y"}))
    assert compare(new, old) == Difference(
        {"Env": {"CHANGE": "a", "DROP": "x"}}, {"Env": {"ADD": "y", "CHANGE": "b"}}
    )


def test_a_partial_comparison_ignores_what_is_not_named() -> None:
    old = normalise(wanted(env={"PATH": "/bin", "A": "1"}, user="x", memory="1g"))
    assert not compare(normalise(wanted(env={"A": "1"})), old, partial=True)
    found = compare(normalise(wanted(env={"A": "2"})), old, partial=True)
    assert found == Difference({"Env": {"A": "1"}}, {"Env": {"A": "2"}})
    assert overlay(old, normalise(wanted(env={"A": "2"})))["Env"] == {"PATH": "/bin", "A": "2"}


@pytest.mark.parametrize(
    ("new", "old", "body"),
    [
        (
            {"memory": "1g"},
            {"restart_policy": "always"},
            {
                "Memory": 1 << 30,
                "MemorySwap": 2 << 30,
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            },
        ),
        ({"memory": "1g", "memory_swap": "1g"}, {"memory_swap": "1g"}, {"Memory": 1 << 30}),
        ({"cpus": 1, "memory": "1g"}, {"memory": "1g"}, {"NanoCpus": 10**9}),
    ],
)
def test_the_update_body(new: dict[str, Any], old: dict[str, Any], body: dict[str, Any]) -> None:
    options = normalise(wanted(**new))
    assert update_body(compare(options, normalise(wanted(**old))), options) == body
