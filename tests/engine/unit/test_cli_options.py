"""Flags of `run` to the create request; .dockerignore; output formats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from longshore.cli import output
from longshore.cli.build import Ignore, context_paths, tar_stream
from longshore.cli.containers import container_row, port_text
from longshore.cli.images import image_rows, split_reference
from longshore.cli.options import (
    create_request,
    environment,
    parse_duration,
    parse_mount,
    parse_port,
    parse_size,
    restart_policy,
    split_volumes,
)
from longshore.cli.run import run_command, start_exit_code


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
            "--rm",
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
    assert (host["NetworkMode"], host["AutoRemove"], host["Privileged"], host["Init"]) == (
        "host",
        True,
        True,
        True,
    )
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
    with pytest.raises(click.UsageError):
        parse_port(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1b", 1), ("2k", 2048), ("1.5g", 3 << 29), ("512M", 512 << 20), ("1gb", 1 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "-m") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "1 2"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_size(text, "-m")


def test_durations() -> None:
    assert parse_duration("1m30s", "x") == 90_000_000_000
    assert parse_duration("250ms", "x") == 250_000_000
    with pytest.raises(click.UsageError):
        parse_duration("1 fortnight", "x")


def test_mounts() -> None:
    assert parse_mount("type=bind,src=/a,dst=/b,readonly") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
    }
    assert parse_mount("type=tmpfs,target=/t,tmpfs-size=1m")["TmpfsOptions"] == {"SizeBytes": 1 << 20}
    for bad in ("type=bind,src=/a", "foo=bar,target=/x"):
        with pytest.raises(click.UsageError):
            parse_mount(bad)


def test_a_relative_bind_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_volumes(["./x:/y", "name:/z"])[0] == [f"{tmp_path}/x:/y", "name:/z"]


def test_environment_files_come_first_and_bare_names_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e").write_text("# comment\nA=1\n\nHOME_X\n")
    monkeypatch.setenv("HOME_X", "there")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert environment(["B=2", "NOT_SET"], [str(tmp_path / "e")]) == ["A=1", "HOME_X=there", "B=2"]


def test_restart_policies() -> None:
    assert restart_policy("")["Name"] == "no"
    with pytest.raises(click.UsageError):
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
    data = b"".join(tar_stream(tmp_path, None, "Dockerfile"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == [".dockerignore", "Dockerfile", "a.py", "d/keep", "link"]
        assert {member.uid for member in tar.getmembers()} == {0}
    assert list(context_paths(tmp_path, Ignore("*"), set())) == []


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("{{.Names}}", {"Names": "a"}, "a"),
        ("{{ .State.Status }}\\t{{.N}}", {"State": {"Status": "up"}, "N": 3}, "up\t3"),
        ("{{json .}}", {"a": [1]}, '{"a":[1]}'),
        ("{{json .A.B}}", {"A": {"B": None}}, "null"),
        ("{{.X}}", {"X": True}, "true"),
        ("{{.X}}", {"X": ["a", "b"]}, "[a b]"),
        ("{{.X}}", {"X": {"b": 1, "a": 2}}, "map[a:2 b:1]"),
        ('{{index .L "k.x"}}', {"L": {"k.x": "v"}}, "v"),
        ("{{len .X}} {{upper .Y}}", {"X": [1, 2], "Y": "a"}, "2 A"),
        ('{{join .X ","}}', {"X": ["a", "b"]}, "a,b"),
    ],
)
def test_templates(template: str, value: Mapping[str, Any], text: str) -> None:
    assert output.render(template, value) == text


@pytest.mark.parametrize("template", ["{{.Nothing}}", "{{range .}}", "{{.A.B}}", "{{foo .}}"])
def test_templates_beyond_the_subset_are_refused(template: str) -> None:
    with pytest.raises(click.UsageError):
        output.render(template, {"A": 1})


def test_a_container_line_has_dockers_columns() -> None:
    view = {
        "Id": "f" * 64,
        "Image": "busybox",
        "Command": "sleep 1000000000000000000000",
        "Created": 0,
        "Status": "Up 2 minutes",
        "State": "running",
        "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "IP": "0.0.0.0", "Type": "tcp"}],
        "Names": ["/web"],
        "Labels": None,
    }
    row = container_row(view, truncate=True)
    assert (row["ID"], row["Command"], row["Names"]) == (
        "f" * 12,
        '"sleep 1000000000000…"'.replace("000…", "000…"),
        "web",
    )
    assert row["Ports"] == "0.0.0.0:8080->80/tcp"
    assert row["CreatedAt"] == "1970-01-01 00:00:00 +0000 UTC"
    assert (row["Image"], row["Mounts"]) == ("busybox", "")
    assert port_text([{"PrivatePort": 53, "Type": "udp"}]) == "53/udp"


def test_a_container_line_is_short_where_docker_is() -> None:
    image = "sha256:" + "abc" * 21 + "d"
    mounts = [{"Type": "tmpfs", "Source": ""}, {"Name": "v" * 64}, {"Source": "/a/folder"}]
    view = {"Id": "f" * 64, "Image": image, "ImageID": image, "Command": "", "Created": 0, "Status": "",
            "State": "", "Names": ["/x"], "Mounts": mounts}  # fmt: skip
    row = container_row(view, truncate=True)
    assert (row["Image"], row["Mounts"]) == ("abcabcabcabc", f"{'v' * 14}…,/a/folder")
    row = container_row(view, truncate=False)
    assert (row["Image"], row["Mounts"]) == (image, f"{'v' * 64},/a/folder")


def test_images_show_a_line_per_tag() -> None:
    view = {
        "Id": "sha256:" + "a" * 64,
        "RepoTags": ["a:1", "localhost:5000/a:2"],
        "RepoDigests": ["a@sha256:b"],
        "Created": 0,
        "Size": 1000,
    }
    rows = image_rows(view, truncate=True)
    assert [(row["Repository"], row["Tag"], row["Digest"]) for row in rows] == [
        ("a", "1", "sha256:b"),
        ("localhost:5000/a", "2", "<none>"),
    ]
    assert image_rows({**view, "RepoTags": [], "RepoDigests": []}, truncate=True)[0]["Repository"] == "<none>"


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
