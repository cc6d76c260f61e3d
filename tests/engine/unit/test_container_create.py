"""Request and image become a record."""

from typing import Any

import msgspec
import pytest

from longshore.core.containers.create import (
    DEFAULT_PIDS,
    complete_host,
    merge_config,
    plan_networks,
    plan_record,
)
from longshore.core.containers.mounts import parse_bind, parse_mount, parse_tmpfs, plan_mounts
from longshore.core.containers.record import MountPoint
from longshore.core.model import CreateRequest, HostConfig, MountRequest, decode, from_mapping
from longshore.errors import InvalidArgument
from longshore.oci.image_config import ContainerDefaults, Healthcheck


def request(**config: Any) -> CreateRequest:
    return decode(msgspec.json.encode({"Image": "x", **config}), CreateRequest)


@pytest.mark.parametrize(
    ("given", "image", "entrypoint", "cmd"),
    [
        ({}, {"cmd": ["c"]}, None, ["c"]),
        ({}, {"entrypoint": ["e"], "cmd": ["c"]}, ["e"], ["c"]),
        ({"Cmd": ["x"]}, {"entrypoint": ["e"], "cmd": ["c"]}, ["e"], ["x"]),
        ({"Entrypoint": ["x"]}, {"entrypoint": ["e"], "cmd": ["c"]}, ["x"], None),
        ({"Entrypoint": [""], "Cmd": ["x"]}, {"entrypoint": ["e"]}, None, ["x"]),
        ({"Entrypoint": [], "Cmd": ["x"]}, {"entrypoint": ["e"]}, None, ["x"]),
    ],
)
def test_entrypoint_and_command(
    given: dict[str, Any], image: dict[str, Any], entrypoint: list[str] | None, cmd: list[str] | None
) -> None:
    config = merge_config(request(**given), ContainerDefaults(**image))
    assert (config.entrypoint, config.cmd) == (entrypoint, cmd)


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no command specified"):
        merge_config(request(), ContainerDefaults())


def test_what_the_client_gives_wins_over_the_image() -> None:
    image = ContainerDefaults(
        cmd=["c"],
        env=["A=image", "B=image"],
        labels={"a": "image", "b": "image"},
        user="web",
        working_dir="/srv",
        exposed_ports={"80/tcp": {}},
        volumes={"/data": {}},
        stop_signal="SIGQUIT",
        healthcheck=Healthcheck(test=["CMD", "x"], interval=5_000_000, retries=7),
    )
    config = merge_config(
        request(Env=["A=own", "C"], Labels={"a": "own"}, Healthcheck={"Interval": 9_000_000}, User="root"),
        image,
    )
    assert config.env == ["A=own", "C", "B=image"]
    assert config.labels == {"a": "own", "b": "image"}
    assert (config.user, config.working_dir, config.stop_signal) == ("root", "/srv", "SIGQUIT")
    assert list(config.exposed_ports or ()) == ["80/tcp"]
    assert config.healthcheck is not None
    assert (config.healthcheck.test, config.healthcheck.interval, config.healthcheck.retries) == (
        ["CMD", "x"],
        9_000_000,
        7,
    )


def test_a_published_port_is_exposed_and_ranges_are_expanded() -> None:
    config = merge_config(
        request(
            Cmd=["c"],
            ExposedPorts={"8000-8002/udp": {}},
            HostConfig={"PortBindings": {"443/tcp": [{"HostPort": "1"}]}},
        ),
        ContainerDefaults(),
    )
    assert list(config.exposed_ports or ()) == ["443/tcp", "8000/udp", "8001/udp", "8002/udp"]


def test_host_defaults_are_visible() -> None:
    host = complete_host(HostConfig(network_mode="default", memory=64 << 20))
    assert (host.network_mode, host.ipc_mode, host.cgroupns_mode) == ("bridge", "private", "private")
    assert (host.shm_size, host.log_config.type, host.restart_policy.name) == (64 << 20, "json-file", "no")
    assert host.memory_swap == 128 << 20
    assert host.pids_limit == DEFAULT_PIDS
    assert "/proc/kcore" in (host.masked_paths or ())
    assert "/proc/sys" in (host.readonly_paths or ())


def test_privileged_has_no_masks_and_no_pids_limit() -> None:
    host = complete_host(HostConfig(privileged=True))
    assert (host.masked_paths, host.readonly_paths, host.pids_limit) == (None, None, None)


@pytest.mark.parametrize(("given", "kept"), [(0, DEFAULT_PIDS), (-1, None), (7, 7)])
def test_pids_limit(given: int, kept: int | None) -> None:
    assert complete_host(HostConfig(pids_limit=given)).pids_limit == kept


@pytest.mark.parametrize(
    ("mode", "endpoints", "names"),
    [
        ("bridge", {}, ["bridge"]),
        ("host", {"bridge": {}}, []),
        ("none", {}, []),
        ("container:x", {}, []),
        ("web", {"web": {}, "back": {}}, ["web", "back"]),
        ("bridge", {"default": {"MacAddress": "02:42:ac:11:00:02"}}, ["bridge"]),
    ],
)
def test_networks(mode: str, endpoints: dict[str, Any], names: list[str]) -> None:
    body = request(HostConfig={"NetworkMode": mode}, NetworkingConfig={"EndpointsConfig": endpoints})
    assert list(plan_networks(body, body.host_config).endpoints_config or {}) == names


def test_the_host_name_is_the_short_id_unless_shared() -> None:
    def name_of(**host: Any) -> str:
        body = request(Cmd=["c"], HostConfig=host)
        record = plan_record("a" * 64, "n", "t", body, "i", ContainerDefaults(), [], host_name="metal")
        return record.config.hostname

    assert name_of() == "a" * 12
    assert name_of(NetworkMode="host") == name_of(UTSMode="host") == "metal"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", ("bind", "/a", "/b", "", True, "rprivate")),
        ("/a:/b:ro,z", ("bind", "/a", "/b", "", False, "rprivate")),
        ("/a/../c:/b/../d:rslave", ("bind", "/c", "/d", "", True, "rslave")),
        ("name:/b", ("volume", "", "/b", "name", True, "")),
        ("name:/b:ro", ("volume", "", "/b", "name", False, "")),
        ("/b", ("volume", "", "/b", "", True, "")),
    ],
)
def test_binds(text: str, expected: tuple[object, ...]) -> None:
    mount = parse_bind(text)
    assert (
        mount.type,
        mount.source,
        mount.target,
        mount.name,
        mount.read_write,
        mount.propagation,
    ) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "/a:", ":/b", "/a:/b:xx", "/a:/b:ro,rw", "a/b:/c", "/a:b", "/a:/", "n:/b:rslave", "/a:/b:ro:z"],
)
def test_bad_binds(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_bind(text)


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "x", "Target": "/x"}, "must be absolute"),
        ({"Type": "volume", "Source": "v"}, "field Target must not be empty"),
        ({"Type": "tmpfs", "Source": "v", "Target": "/x"}, "field Source must not be specified"),
        ({"Type": "npipe", "Target": "/x"}, "mount type unknown"),
        ({"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": "../y"}}, "subpath"),
    ],
)
def test_bad_mounts(mount: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_mount(from_mapping(mount, MountRequest))


def test_tmpfs_is_safe_unless_told_otherwise() -> None:
    assert parse_tmpfs("/t", "").options == ("noexec", "nosuid", "nodev")
    assert parse_tmpfs("/t", "exec,size=1m").options == ("nosuid", "nodev", "exec", "size=1m")
    for bad in ("size=1m;x", "upperdir=/x", "mode"):
        with pytest.raises(InvalidArgument):
            parse_tmpfs("/t", bad)


def test_attack_14_image_volumes_stay_inside() -> None:
    """Fails when dot-dot is kept in the path of a VOLUME."""
    (mount,) = plan_mounts(HostConfig(), ["/../../etc/cron.d"], {})
    assert mount.target == "/etc/cron.d"
    with pytest.raises(InvalidArgument):
        plan_mounts(HostConfig(), ["/../.."], {})


def test_the_users_mounts_win_and_parents_come_first() -> None:
    host = HostConfig(binds=["/h:/data/deep/er"], volumes_from=["peer:ro"], tmpfs={"/data/tmp": ""})
    peers = {"peer": [MountPoint("volume", "/v", "/data", name="v"), MountPoint("tmpfs", "", "/run")]}
    mounts = plan_mounts(host, ["/data", "/data/deep/er", "/other"], peers)
    assert [(mount.target, mount.type, mount.read_write) for mount in mounts] == [
        ("/data", "volume", False),
        ("/other", "volume", True),
        ("/data/tmp", "tmpfs", True),
        ("/data/deep/er", "bind", True),
    ]


def test_two_mounts_in_one_place_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        plan_mounts(HostConfig(binds=["/a:/x", "/b:/x/"]), [], {})
