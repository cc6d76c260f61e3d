"""Docker's filters for lists."""

from pathlib import Path
from typing import Any

import pytest

from longshore.core.containers.container import Container
from longshore.core.containers.query import select
from longshore.core.containers.record import Health, MountPoint, Record, State
from longshore.core.filters import boolean, check_filters, label_filter
from longshore.core.model import Config, Empty, EndpointSettings, HostConfig, NetworkingConfig
from longshore.errors import InvalidArgument, NotFound
from longshore.network.model import Endpoint, PortMapping


def container(
    name: str, *, second: int = 0, status: str = "running", code: int = 0, **more: Any
) -> Container:
    endpoint = Endpoint(
        id="e", container_id=name, network="bridge", bridge="b", link="l", ip="1.2.3.4", prefix=24, gateway="", mac="",
        mtu=1500, ports=(PortMapping(80, "tcp", "", 8080),) if name == "web" else (),
    )  # fmt: skip
    record = Record(
        id=name.encode().hex().ljust(64, "0"),
        name=name,
        created=f"2026-01-01T00:00:{second:02}.000000000Z",
        image_id=more.pop("image", "sha256:1"),
        config=Config(
            labels=more.pop("labels", None), exposed_ports={"80/tcp": Empty()} if name == "web" else None
        ),
        host_config=HostConfig(network_mode="bridge"),
        networking=NetworkingConfig(endpoints_config={"bridge": EndpointSettings()}),
        state=State(
            status=status, exit_code=code, ever_started=status != "created", health=more.pop("health", None)
        ),
        mounts=more.pop("mounts", []),
        endpoints={"bridge": endpoint},
    )
    assert not more
    return Container(record, Path("/nowhere"))


ALL = [
    container("web", second=3, labels={"app": "shop", "tier": "front"}, health=Health("healthy")),
    container(
        "db", second=2, labels={"app": "shop"}, mounts=[MountPoint("volume", "/v", "/data", name="dbdata")]
    ),
    container("old", second=1, status="exited", code=3, image="sha256:2"),
    container("new", second=4, status="created"),
    container("loop", second=5, status="restarting"),
]
BY_NAME = {one.name: one for one in ALL}


def lookup(name: str) -> Container:
    if name not in BY_NAME:
        raise NotFound(f"No such container: {name}")
    return BY_NAME[name]


def names(filters: dict[str, list[str]] | None = None, *, all: bool = False, limit: int = 0) -> list[str]:
    images = {"shop": {"sha256:1"}, "other": {"sha256:2"}}
    found = select(
        ALL, filters, all=all, limit=limit, lookup=lookup, image_ids=lambda name: images.get(name, set[str]())
    )
    return [one.name for one in found]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": ["^we"]}, ["web"]),
        ({"name": ["/db"]}, ["db"]),
        ({"name": ["e"]}, ["new", "web"]),
        ({"id": [b"web".hex()]}, ["web"]),
        ({"label": ["app"]}, ["web", "db"]),
        ({"label": ["app=shop", "tier=front"]}, ["web"]),
        ({"status": ["exited", "created"]}, ["new", "old"]),
        ({"exited": ["3"]}, ["old"]),
        ({"exited": ["0"]}, ["loop"]),
        ({"ancestor": ["other"]}, ["old"]),
        ({"ancestor": ["unknown"]}, []),
        ({"before": ["web"]}, ["db", "old"]),
        ({"since": ["web"]}, ["loop", "new"]),
        ({"network": ["bridge"], "label": ["tier"]}, ["web"]),
        ({"volume": ["dbdata"]}, ["db"]),
        ({"volume": ["/data"]}, ["db"]),
        ({"publish": ["8080"]}, ["web"]),
        ({"publish": ["70-90/tcp"]}, ["web"]),
        ({"publish": ["8080/udp"]}, []),
        ({"expose": ["80"]}, ["web"]),
        ({"health": ["healthy"]}, ["web"]),
        ({"health": ["none"], "status": ["running"]}, ["db"]),
        ({"is-task": ["true"]}, []),
        ({"is-task": ["false"], "name": ["web"]}, ["web"]),
    ],
)
def test_filters(filters: dict[str, list[str]], expected: list[str]) -> None:
    assert names(filters, all=True) == expected


def test_without_all_only_what_lives_is_shown() -> None:
    assert names() == ["loop", "web", "db"]
    assert names({"label": ["app"]}) == ["web", "db"]
    assert names({"status": ["exited"]}) == ["old"]


def test_a_limit_counts_from_the_newest_and_shows_all() -> None:
    assert names(limit=2) == ["loop", "new"]


@pytest.mark.parametrize(
    "filters",
    [{"color": ["x"]}, {"status": ["asleep"]}, {"exited": ["x"]}, {"name": ["("]}, {"is-task": ["maybe"]}],
)
def test_bad_filters(filters: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidArgument):
        names(filters)


def test_before_an_unknown_container() -> None:
    with pytest.raises(NotFound):
        names({"before": ["nobody"]})


def test_helpers() -> None:
    assert check_filters({"a": ["1"], "b": []}, {"a", "b"}) == {"a": ["1"]}
    assert label_filter(["a=1", "b"], {"a": "1", "b": ""})
    assert not label_filter(["a=2"], {"a": "1"})
    assert (boolean([], "x"), boolean(["1"], "x"), boolean(["False"], "x")) == (None, True, False)
