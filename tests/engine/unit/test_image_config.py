import json

import pytest

from longshore.errors import InvalidArgument
from longshore.oci.changes import apply_changes
from longshore.oci.image_config import ContainerDefaults, ImageConfig, RootFS, parse_image_config

BASE = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}


def test_gos_nulls_are_accepted() -> None:
    config = parse_image_config(
        json.dumps(BASE | {"config": {"Env": None, "Cmd": None, "Labels": None}, "history": None}).encode()
    )
    assert config.defaults == ContainerDefaults()
    assert parse_image_config(json.dumps(BASE | {"config": None}).encode()).config == ContainerDefaults()


def test_dockers_fields_are_read() -> None:
    config = parse_image_config(
        json.dumps(
            BASE
            | {
                "config": {
                    "ExposedPorts": {"80/tcp": {}},
                    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5},
                    "OnBuild": ["RUN x"],
                    "Unknown": 1,
                }
            }
        ).encode()
    )
    assert config.defaults.exposed_ports == {"80/tcp": {}}
    assert config.defaults.healthcheck and config.defaults.healthcheck.interval == 5
    assert config.defaults.on_build == ["RUN x"]


def test_a_config_made_here_reads_back() -> None:
    config = ImageConfig(
        "amd64", "linux", RootFS(diff_ids=["sha256:" + "1" * 64]), config=ContainerDefaults()
    )
    assert parse_image_config(config.encode()) == config
    assert json.loads(config.encode())["rootfs"]["type"] == "layers"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"null",
        b"[" * 100_000,
        b" " * (5 << 20),
        json.dumps(BASE | {"rootfs": {"type": "tree"}}).encode(),
        json.dumps(BASE | {"config": {"Cmd": "sh"}}).encode(),
    ],
)
def test_bad_configs_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="image config"):
        parse_image_config(data)


@pytest.mark.parametrize(
    ("instruction", "field", "value"),
    [
        ('CMD ["sh", "-c", "x"]', "cmd", ["sh", "-c", "x"]),
        ("cmd echo hi", "cmd", ["/bin/sh", "-c", "echo hi"]),
        ("CMD [not json", "cmd", ["/bin/sh", "-c", "[not json"]),
        ('ENTRYPOINT ["/init"]', "entrypoint", ["/init"]),
        ("ENV A=1 B='x y' C=\"q\\\"z\"", "env", ["PATH=/bin", "A=1", "B=x y", 'C=q"z']),
        ("ENV PATH /sbin:/bin", "env", ["PATH=/sbin:/bin"]),
        ("EXPOSE 80 443/udp 9-10", "exposed_ports", {"80/tcp": {}, "443/udp": {}, "9/tcp": {}, "10/tcp": {}}),
        ("LABEL a=1 b.c='2 3'", "labels", {"old": "x", "a": "1", "b.c": "2 3"}),
        ("USER 1000:1000", "user", "1000:1000"),
        ('VOLUME ["/a", "/b c"]', "volumes", {"/a": {}, "/b c": {}}),
        ("VOLUME /a /b", "volumes", {"/a": {}, "/b": {}}),
        ("WORKDIR /srv/../x/", "working_dir", "/x"),
        ("WORKDIR sub", "working_dir", "/base/sub"),
        ("ONBUILD RUN make", "on_build", ["RUN make"]),
        ("STOPSIGNAL SIGINT", "stop_signal", "SIGINT"),
        ("ENV PATH=/opt/bin:$PATH", "env", ["PATH=/opt/bin:/bin"]),
        ("USER a b", "user", "a b"),
        ("", "labels", {"old": "x"}),
        ('SHELL ["/bin/ash", "-c"]', "shell", ["/bin/ash", "-c"]),
    ],
)  # fmt: skip
def test_changes(instruction: str, field: str, value: object) -> None:
    before = ContainerDefaults(env=["PATH=/bin"], labels={"old": "x"}, working_dir="/base")
    assert getattr(apply_changes(before, [instruction]), field) == value
    assert before == ContainerDefaults(env=["PATH=/bin"], labels={"old": "x"}, working_dir="/base")


@pytest.mark.parametrize(
    "instruction",
    ["RUN x", "COPY a b", "ENV", "ENV A", "ENV A=1 B", "ENV =1", "EXPOSE x", "EXPOSE 0", "EXPOSE 70000",
     "EXPOSE 9-1", "LABEL a='", "ONBUILD FROM x", "ONBUILD ONBUILD RUN x", "SHELL sh", "USER", "HEALTHCHECK x", 'VOLUME [""]'],
)  # fmt: skip
def test_bad_changes_are_refused(instruction: str) -> None:
    with pytest.raises(InvalidArgument):
        apply_changes(ContainerDefaults(), [instruction])


def test_changes_follow_each_other() -> None:
    before = ContainerDefaults(cmd=["old"], env=["A=1"])
    assert apply_changes(before, ["ENTRYPOINT x"]).cmd is None  # the old CMD was for the old entry point
    assert apply_changes(before, ['CMD new\nENTRYPOINT ["x"]']).cmd == ["/bin/sh", "-c", "new"]
    assert apply_changes(before, ["ENV B=$A", "ENV A=2 C=$B"]).env == ["A=2", "B=1", "C=1"]
    checked = apply_changes(before, ["HEALTHCHECK --interval=3s CMD true"]).healthcheck
    assert checked and (checked.test, checked.interval) == (["CMD-SHELL", "true"], 3 * 10**9)
