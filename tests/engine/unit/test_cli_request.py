"""The flags of `run` and `create` as the API's request; .dockerignore."""

from pathlib import Path
from typing import Any

import pytest
from click import UsageError

from longshore.cli.build import context_paths, context_stream
from longshore.cli.create_request import (
    create_request,
    extra_host,
    gpu_request,
    is_cdi,
    nano_cpus,
    restart_policy,
)
from longshore.cli.environment import environment
from longshore.cli.flags import FlagError
from longshore.cli.mounts import parse_mount, split_volumes
from longshore.cli.networks import ipam_config
from longshore.cli.publish import parse_port, port_bindings
from longshore.cli.references import registry_of, split_reference
from longshore.cli.run import run_command
from longshore.cli.run_errors import start_exit_code
from longshore.oci.ignore import Ignore


def request(*arguments: str) -> dict[str, Any]:
    """What `longshore run ARGUMENTS` would send."""
    context = run_command.make_context("run", list(arguments))
    values: dict[str, Any] = dict(context.params)
    return create_request(values.pop("image"), values.pop("command"), values)


def test_a_plain_run_is_attached_to_its_output() -> None:
    got = request("busybox", "echo", "-n", "hi")
    assert (got["Image"], got["Cmd"]) == ("busybox", ["echo", "-n", "hi"])
    assert (got["AttachStdin"], got["AttachStdout"], got["AttachStderr"], got["OpenStdin"]) == (
        False,
        True,
        True,
        False,
    )
    assert "Entrypoint" not in got


def test_a_detached_run_attaches_nothing() -> None:
    got = request("-d", "-it", "--name", "x", "busybox")
    assert (got["AttachStdin"], got["AttachStdout"], got["StdinOnce"]) == (False, False, False)
    assert got["OpenStdin"] and got["Tty"]
    assert got["Cmd"] is None


def test_flags_land_where_the_api_wants_them() -> None:
    got = request(
        *(
            "-p",
            "127.0.0.1:8080:80",
            "-p",
            "53:53/udp",
            "-v",
            "/a:/b:ro",
            "-v",
            "/anon",
            "-e",
            "A=1",
            "-l",
            "k=v",
        ),
        *(
            "-m",
            "64m",
            "--cpus",
            "1.5",
            "--pids-limit",
            "50",
            "--restart",
            "on-failure:3",
            "--privileged",
        ),
        *("--cap-drop", "ALL", "--tmpfs", "/t:size=1m", "--ulimit", "nofile=10:20", "--entrypoint", "/e"),
        *(
            "--network",
            "host",
            "-w",
            "/w",
            "-u",
            "1:2",
            "-h",
            "name",
            "--read-only",
            "--init",
            "--stop-timeout",
            "3",
        ),
        "image",
    )
    host = got["HostConfig"]
    assert host["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "", "HostPort": "53"}],
    }
    assert set(got["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert (host["Binds"], got["Volumes"]) == (["/a:/b:ro"], {"/anon": {}})
    assert (got["Env"], got["Labels"], got["Entrypoint"]) == (["A=1"], {"k": "v"}, ["/e"])
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 1_500_000_000, 50)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert host["Tmpfs"] == {"/t": "size=1m"}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 10, "Hard": 20}]
    assert (host["NetworkMode"], host["Privileged"], host["Init"]) == ("host", True, True)
    assert (got["WorkingDir"], got["User"], got["Hostname"], got["StopTimeout"]) == ("/w", "1:2", "name", 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80", [("80/tcp", "", "8080")]),
        ("127.0.0.1::80/udp", [("80/udp", "127.0.0.1", "")]),
        ("[::1]:8080:80", [("80/tcp", "::1", "8080")]),
        ("8000-8001:80-81", [("80/tcp", "", "8000"), ("81/tcp", "", "8001")]),
        ("8000-8010:80", [("80/tcp", "", "8000-8010")]),
    ],
)
def test_ports(text: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(inside, b["HostIp"], b["HostPort"]) for inside, b in parse_port(text)] == expected


@pytest.mark.parametrize("text", ["", "x", "0", "70000", "1:2:3:4", "80/foo", "1-3:5-6", "9-1"])
def test_bad_ports_are_refused(text: str) -> None:
    with pytest.raises(FlagError):
        parse_port(text)


def test_mounts() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,readonly") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
    }
    assert parse_mount("type=tmpfs,target=/t,tmpfs-size=1m")["TmpfsOptions"] == {"SizeBytes": 1 << 20}
    for bad in ("type=bind,src=/a", "foo=bar,target=/x"):
        with pytest.raises(FlagError):
            parse_mount(bad)


def test_a_relative_bind_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_volumes(["./x:/y", "name:/z"])[0] == [f"{tmp_path}/x:/y", "name:/z"]


def test_environment_files_come_first_and_bare_names_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e").write_text("# comment\nA=1\n\nHOME_X\nNOT_SET\n")
    monkeypatch.setenv("HOME_X", "there")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert environment(["B=2", "NOT_SET"], [str(tmp_path / "e")]) == ["A=1", "HOME_X=there", "B=2", "NOT_SET"]


def test_restart_policies() -> None:
    assert restart_policy("")["Name"] == "no"
    with pytest.raises(FlagError):
        restart_policy("sometimes")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ('exec: "/etc": permission denied', 126),
        ("is a directory", 126),
        ("port is already allocated", 125),
    ],
)
def test_exit_codes_of_a_failed_start(message: str, code: int) -> None:
    assert start_exit_code(message) == code


@pytest.mark.parametrize(
    ("rules", "excluded", "kept"),
    [
        ("*.log", ["a.log"], ["d/a.log", "a.txt"]),
        ("**/*.log", ["a.log", "d/e/a.log"], ["a.txt"]),
        ("node_modules", ["node_modules", "node_modules/x/y"], ["src/node_modules"]),
        ("/build/", ["build/x"], ["src/build"]),
        ("*\n!keep", ["a"], ["keep", "keep/x"]),
        ("a?c\n[xy].c", ["abc", "x.c"], ["ac", "z.c"]),
        ("# c\n\n", [], ["# c"]),
        ("docs\n!docs/README.md", ["docs/a"], ["docs/README.md"]),
    ],
)
def test_dockerignore(rules: str, excluded: list[str], kept: list[str]) -> None:
    ignore = Ignore(rules)
    assert [path for path in excluded if not ignore.excludes(path)] == []
    assert [path for path in kept if ignore.excludes(path)] == []


def test_the_context_leaves_out_what_is_ignored_but_never_the_dockerfile(tmp_path: Path) -> None:
    import io
    import tarfile

    for name in ("Dockerfile", "a.py", "secret", "d/keep", "d/drop"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("secret\nd\n!d/keep\nDockerfile\n")
    (tmp_path / "link").symlink_to("a.py")
    data = b"".join(context_stream(tmp_path, None, "Dockerfile"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == [".dockerignore", "Dockerfile", "a.py", "d/keep", "link"]
        assert {member.uid for member in tar.getmembers()} == {0}
    assert list(context_paths(tmp_path, Ignore("*"), set())) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a", "latest")),
        ("a:1", ("a", "1")),
        ("h:5000/a", ("h:5000/a", "latest")),
        ("h:5000/a:2", ("h:5000/a", "2")),
        ("a@sha256:x", ("a", "sha256:x")),
    ],
)
def test_references_are_split(text: str, parts: tuple[str, str]) -> None:
    assert split_reference(text) == parts


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("a", "docker.io"),
        ("x/a", "docker.io"),
        ("localhost/a", "localhost"),
        ("h:5/a", "h:5"),
        ("a.b/c/d", "a.b"),
    ],
)
def test_registries_of_names(name: str, registry: str) -> None:
    assert registry_of(name) == registry


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all", (-1, None)),
        ("2", (2, None)),
        ('"device=0,1",driver=nvidia', (0, ["0", "1"])),
        ("capabilities=utility", (1, None)),
    ],
)
def test_gpus(text: str, wanted: tuple[int, list[str] | None]) -> None:
    found = gpu_request(text)
    assert (found["Count"], found["DeviceIDs"]) == wanted
    assert "gpu" in found["Capabilities"][0]


@pytest.mark.parametrize(
    ("text", "cdi"),
    [
        ("vendor.com/class=dev", True),
        ("/dev/null", False),
        ("/dev/by-id/a=b", False),
        ("a=b", False),
        ("a/b=", False),
    ],
)
def test_cdi_names_are_no_paths(text: str, cdi: bool) -> None:
    assert is_cdi(text) is cdi


def test_values_that_cannot_be_are_refused_with_the_flags_name() -> None:
    for arguments in (
        ["--cpus", "x"], ["--cpus", "0.0000000001"], ["--add-host", "x"], ["--ulimit", "nofile=9:1"], ["-m", "1q"],
        ["--health-timeout", "soon"], ["--device", "/a:/b:/c:d"], ["--attach", "stdfoo"], ["--sysctl", "a"],
        ["--memory-swappiness", "101"], ["--mac-address", "a:b"], ["--gpus", "x=y"], ["--label", "=a"], ["-e", "=a"],
        ["--network", "alias=x"], ["--expose", "a"], ["--security-opt", "bad"], ["--env-file", "/nonexistent/file"],
        ["--blkio-weight-device", "/dev/sda:5"], ["--device-read-bps", "sda:1m"],
    ):  # fmt: skip
        with pytest.raises(FlagError, match=arguments[0] if arguments[0] != "-m" else "--memory"):
            request(*arguments, "image")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rm", "--restart", "always"],
        ["-d", "-a", "stdout"],
        ["--no-healthcheck", "--health-cmd", "x"],
        ["--network", "host", "--network-alias", "x"],
    ],
)
def test_contradictions_are_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        request(*arguments, "image")


def test_small_ones() -> None:
    assert nano_cpus("0.25") == 250_000_000
    assert [extra_host(text) for text in ("a:1.2.3.4", "a=::1", "a:[::2]")] == ["a:1.2.3.4", "a:::1", "a:::2"]
    assert port_bindings(["published=8080,target=80,protocol=udp"], ["7-8"]) == (
        {"80/udp": [{"HostIp": "", "HostPort": "8080"}]},
        {"80/udp": {}, "7/tcp": {}, "8/tcp": {}},
    )


def test_networks_of_a_container() -> None:
    got = request(
        "--network", "name=a,alias=x,ip=10.0.0.2", "--network", "b", "--network-alias", "y", "image"
    )
    assert got["HostConfig"]["NetworkMode"] == "a"
    assert got["NetworkingConfig"]["EndpointsConfig"] == {
        "a": {"Aliases": ["y"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}},
        "b": {},
    }
    assert request("image")["NetworkingConfig"]["EndpointsConfig"] == {}


def test_a_seccomp_profile_is_sent_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{ "defaultAction": "SCMP_ACT_ALLOW" }')
    got = request(
        "--security-opt", f"seccomp={tmp_path}/p.json", "--security-opt", "systempaths=unconfined", "image"
    )
    assert got["HostConfig"]["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']
    assert (got["HostConfig"]["MaskedPaths"], got["HostConfig"]["ReadonlyPaths"]) == ([], [])


def test_subnets_get_what_lies_in_them() -> None:
    pools = ipam_config(
        ["10.1.0.0/16", "fd00::/64"], ["10.1.5.0/24"], ["fd00::1", "10.1.0.1"], {"printer": "10.1.0.9"}
    )
    assert pools == [
        {"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"printer": "10.1.0.9"}},
        {"Subnet": "fd00::/64", "Gateway": "fd00::1"},
    ]  # fmt: skip
    for arguments in (
        (["10.1.0.0/16"], ["10.2.0.0/24"], [], {}),
        (["10.1.0.0/16", "10.1.2.0/24"], [], [], {}),
        ([], [], ["10.1.0.1"], {}),
        (["x"], [], [], {}),
        (["10.1.0.0/16"], [], ["10.1.0.1", "10.1.0.2"], {}),
        (["10.1.0.0/16"], [], [], {"a": "10.2.0.1"}),
    ):
        with pytest.raises(UsageError):
            ipam_config(*arguments)
