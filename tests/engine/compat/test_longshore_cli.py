"""Our own command line against our daemon."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def test_run_and_its_exit_codes(daemon: Any) -> None:
    done = daemon.longshore(
        "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo e >&2; exit 9", input=b"in\n", check=False
    )
    assert (done.code, done.out, done.err) == (9, "in\n", "e\n")
    assert daemon.longshore("run", "--rm", "busybox", "nosuch", check=False).code == 127
    assert daemon.longshore("run", "--rm", "busybox", "/etc/passwd", check=False).code == 126
    assert daemon.longshore("run", "--nonsense", "busybox", check=False).code == 125
    assert daemon.longshore("run", "127.0.0.1:1/none", check=False).code == 125
    assert daemon.longshore("ps", "-aq").out == ""


def test_input_from_a_file_that_epoll_does_not_take(daemon: Any, tmp_path: Path) -> None:
    import os
    import subprocess

    (tmp_path / "in").write_bytes(os.urandom(200_000))
    command = [
        daemon.command[0].replace("longshored", "longshore"),
        "run",
        "--rm",
        "-i",
        "busybox",
        "wc",
        "-c",
    ]
    with open(tmp_path / "in", "rb") as file:
        done = subprocess.run(
            command,
            stdin=file,
            capture_output=True,
            env={**os.environ, "LONGSHORE_HOST": daemon.host},
            timeout=30,
        )
    assert done.stdout.strip() == b"200000", done


def test_lists_logs_exec_and_the_rest(daemon: Any) -> None:
    identifier = daemon.longshore(
        "run", "-d", "--name", "web", "busybox", "sh", "-c", "echo up; sleep 60"
    ).out.strip()
    line = daemon.longshore("ps").out.splitlines()[1]
    assert line.startswith(identifier[:12])
    assert daemon.longshore("ps", "--format", "{{.Names}} {{.State}}").out == "web running\n"
    assert json.loads(daemon.longshore("ps", "--format", "json").out)["Image"] == "busybox"
    assert daemon.longshore("logs", "web").out == "up\n"
    assert daemon.longshore("exec", "web", "sh", "-c", "exit 6", check=False).code == 6
    assert daemon.longshore("exec", "-e", "A=1", "web", "sh", "-c", "echo $A").out == "1\n"
    assert daemon.longshore("inspect", "--format", "{{.State.Status}}", "web").out == "running\n"
    assert daemon.longshore("stop", "-t", "0", "web").out == "web\n"
    assert daemon.longshore("wait", "web").out == "137\n"
    assert daemon.longshore("start", "web").out == "web\n"
    assert daemon.longshore("rename", "web", "web2").out == ""
    assert daemon.longshore("rm", "-f", "web2", "nosuch", check=False).out == "web2\nnosuch\n"
    done = daemon.longshore("stop", "nosuch", check=False)
    assert (done.code, done.err) == (1, "Error: No such container: nosuch\n")


def test_images_build_save_load_tag_and_rmi(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCOPY . /ctx\nCMD ["ls", "/ctx"]\n')
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "public").write_text("x")
    daemon.longshore("build", "-t", "own:1", str(tmp_path))
    assert "secret" not in daemon.longshore("run", "--rm", "own:1").out
    daemon.longshore("tag", "own:1", "own:2")
    assert daemon.longshore("images", "--format", "{{.Repository}}:{{.Tag}}", "own").out.split() == [
        "own:1",
        "own:2",
    ]
    daemon.longshore("save", "-o", str(tmp_path / "own.tar"), "own:1", "own:2")
    daemon.longshore("rmi", "own:1", "own:2")
    assert (
        "Loaded image: own:1\nLoaded image: own:2\n"
        in daemon.longshore("load", "-i", str(tmp_path / "own.tar")).out
    )
    assert daemon.longshore("rmi", "own:1", "own:2", "nosuch", check=False).code == 1
    assert "IMAGE" in daemon.longshore("history", "busybox").out
    failed = daemon.longshore("build", "-f", str(tmp_path / "public"), str(tmp_path), check=False)
    assert failed.code == 1


def test_info_version_doctor_and_events(daemon: Any) -> None:
    assert str(daemon.data) in daemon.longshore("info").out
    assert daemon.longshore("version", "--format", "{{.Server.ApiVersion}}").out == "1.47\n"
    assert "kernel" in daemon.longshore("doctor", check=False).out
    assert {each["check"] for each in daemon.request("GET", "/longshore/v1/doctor")[1]} >= {
        "kernel",
        "disk",
        "cgroups",
    }
    now = str(int(time.time()) + 1)
    daemon.longshore("run", "--rm", "--name", "evented", "busybox", "true")
    assert "container start" in daemon.longshore("events", "--since", "1", "--until", now).out


def test_no_daemon_is_told_with_what_to_do(daemon: Any) -> None:
    done = daemon.longshore("-H", "unix:///nonexistent.sock", "ps", check=False)
    assert done.code == 1
    assert "cannot connect to the daemon at unix:///nonexistent.sock" in done.err
    assert "is longshored running?" in done.err


def test_dial_stdio_carries_a_request(daemon: Any) -> None:
    request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert daemon.longshore("system", "dial-stdio", input=request).out.endswith("OK")


def test_apply_changes_once_and_then_nothing(daemon: Any) -> None:
    wanted = json.dumps(
        {"containers": [{"name": "applied", "image": "busybox", "command": ["sleep", "60"]}]}
    ).encode()
    planned = daemon.longshore("apply", "-f", "-", "--dry-run", input=wanted)
    assert "create container applied" in planned.out
    assert daemon.longshore("ps", "-aq").out == ""
    done = daemon.longshore("apply", "-f", "-", input=wanted)
    assert done.out.endswith("changed\n")
    assert daemon.longshore("ps", "--format", "{{.Names}}").out == "applied\n"
    assert daemon.longshore("apply", "-f", "-", input=wanted).out == "nothing to change\n"
    broken = json.dumps(
        {"containers": [{"name": "broken", "image": "busybox", "command": ["sh", "-c", "exit 3"]}]}
    ).encode()
    failed = daemon.longshore("apply", "-f", "-", input=broken, check=False)
    assert failed.code == 1
    assert failed.out.endswith("nothing has changed\n")  # the new container was removed again
    assert daemon.longshore("ps", "-a", "--format", "{{.Names}}").out == "applied\n"
    # the one that works counts, although the other one fails
    both = json.loads(broken)["containers"] + [{"name": "applied", "memory": "64m"}]
    failed = daemon.longshore(
        "apply", "-f", "-", input=json.dumps({"containers": both}).encode(), check=False
    )
    assert failed.code == 1
    assert failed.out.endswith("\nchanged\n")
    refused = daemon.longshore("apply", "-f", "-", input=b'{"containers": [{"name": "x y"}]}', check=False)
    assert refused.code == 1
    assert refused.err.startswith("Error: ")
