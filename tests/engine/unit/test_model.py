"""Request bodies: Docker's names, nulls, wrong types."""

import msgspec
import pytest

from longshore.core.model import CreateRequest, Empty, PortBinding, UpdateRequest, decode, without_nulls
from longshore.errors import InvalidArgument


def test_names_are_dockers() -> None:
    wire = msgspec.to_builtins(CreateRequest())
    for name in [
        "Hostname",
        "OpenStdin",
        "StdinOnce",
        "WorkingDir",
        "Entrypoint",
        "StopTimeout",
        "HostConfig",
        "NetworkingConfig",
    ]:
        assert name in wire
    host = wire["HostConfig"]
    for name in [
        "Memory",
        "NanoCpus",
        "CpusetCpus",
        "UTSMode",
        "ContainerIDFile",
        "BlkioDeviceReadIOps",
        "IOMaximumIOps",
        "Dns",
        "ShmSize",
        "ReadonlyRootfs",
        "GroupAdd",
        "OomScoreAdj",
        "PidsLimit",
        "VolumesFrom",
        "CgroupnsMode",
    ]:
        assert name in host


@pytest.mark.parametrize(
    ("body", "check"),
    [
        (b"", lambda r: r.image == "" and r.cmd is None),
        (b'{"Cmd": null, "HostConfig": null}', lambda r: r.cmd is None and r.host_config.memory == 0),
        (b'{"Cmd": "ls"}', lambda r: r.cmd == ["ls"]),
        (b'{"Entrypoint": []}', lambda r: r.entrypoint == []),
        (b'{"ExposedPorts": {"80/tcp": null}}', lambda r: r.exposed_ports == {"80/tcp": Empty()}),
        (
            b'{"NetworkingConfig": {"EndpointsConfig": {"n": null}}}',
            lambda r: list(r.networking_config.endpoints_config) == ["n"],
        ),
        (
            b'{"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "1"}]}, "Memory": null}}',
            lambda r: r.host_config.port_bindings == {"80/tcp": [PortBinding(host_port="1")]},
        ),
        (b'{"NoSuchKey": {"a": [1]}}', lambda r: r.image == ""),
        (b'{"HostConfig": {"ConsoleSize": [24, 80]}}', lambda r: r.host_config.console_size == (24, 80)),
    ],
)
def test_bodies(body: bytes, check: object) -> None:
    assert check(decode(body, CreateRequest))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"Image": 1}', "$.Image"),
        (b'{"HostConfig": {"Memory": "1g"}}', "$.HostConfig.Memory"),
        (b'{"HostConfig": {"Ulimits": [{"Name": "nofile", "Soft": "x"}]}}', "$.HostConfig.Ulimits[0].Soft"),
        (b'{"Env": {"A": "b"}}', "$.Env"),
        (b"[]", "Expected `object`"),
        (b"{", "truncated"),
    ],
)
def test_a_wrong_type_names_the_field(body: bytes, place: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        decode(body, CreateRequest)
    assert place in str(caught.value)


def test_inspect_echoes_null_for_lists_that_were_not_given() -> None:
    wire = msgspec.to_builtins(decode(b'{"HostConfig": {"Dns": []}}', CreateRequest).host_config)
    assert wire["Dns"] == []
    assert wire["CapAdd"] is None


def test_nulls_go_at_any_depth() -> None:
    assert without_nulls({"a": None, "b": [{"c": None}, None]}) == {"b": [{}]}


def test_update_knows_the_restart_policy() -> None:
    request = decode(b'{"Memory": 1, "RestartPolicy": {"Name": "always"}}', UpdateRequest)
    assert request.restart_policy is not None
    assert (request.memory, request.restart_policy.name) == (1, "always")
