"""User namespaces: a range of the host's ids per container, nothing shifted on disk."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def start(daemon: Any, mode: str, *command: str, **host: Any) -> str:
    """By the API: the docker CLI lets only `host` pass."""
    body = {
        "Image": "busybox",
        "Cmd": list(command or ("sleep", "300")),
        "HostConfig": {"UsernsMode": mode, **host},
    }
    status, made = daemon.request("POST", "/containers/create", body)
    assert status == 201, made
    status, reply = daemon.request("POST", f"/containers/{made['Id']}/start")
    assert status == 204, reply
    return made["Id"]


def uid_map(daemon: Any, container: str) -> list[int]:
    return [int(word) for word in daemon.docker("exec", container, "cat", "/proc/self/uid_map").out.split()]


@pytest.mark.flag("--userns")
def test_auto_gives_each_container_a_range_of_its_own(daemon: Any) -> None:
    first, second = start(daemon, "auto"), start(daemon, "auto:size=4096")
    maps = [uid_map(daemon, container) for container in (first, second)]
    assert [(inside, size) for inside, _, size in maps] == [(0, 65536), (0, 4096)]
    assert maps[0][1] + 65536 <= maps[1][1] or maps[1][1] + 4096 <= maps[0][1]
    pid = daemon.request("GET", f"/containers/{first}/json")[1]["State"]["Pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert re.search(rf"^Uid:\t{maps[0][1]}\t", status, re.MULTILINE), status
    assert daemon.docker("exec", "-u", "nobody", first, "id", "-u").out == "65534\n"


@pytest.mark.flag("--userns")
def test_files_have_their_owners_inside_and_on_disk(daemon: Any) -> None:
    script = "stat -c %u /bin/busybox /etc/hosts /vol; touch /made /vol/made; chown 7 /made; echo x >>/etc/hosts && sleep 300"
    made = start(daemon, "auto", "sh", "-c", script, Binds=["usernsvol:/vol"])
    shown = daemon.request("GET", f"/containers/{made}/json")[1]
    while "\n0\n0\n" not in (out := "\n" + daemon.docker("logs", made).out):
        assert daemon.request("GET", f"/containers/{made}/json")[1]["State"]["Running"], out
    assert daemon.docker("exec", made, "stat", "-c", "%u", "/made", "/vol/made").out == "7\n0\n"
    upper = Path(shown["GraphDriver"]["Data"]["UpperDir"])
    assert (upper / "made").stat().st_uid == 7
    volume = Path(daemon.request("GET", "/volumes/usernsvol")[1]["Mountpoint"])
    assert (volume / "made").stat().st_uid == 0
    daemon.docker("rm", "-f", made)
    daemon.docker("volume", "rm", "usernsvol")


@pytest.mark.flag("--userns")
def test_what_root_inside_may_not_do_outside(daemon: Any) -> None:
    made = start(daemon, "auto", CapAdd=["ALL"], SecurityOpt=["seccomp=unconfined", "systempaths=unconfined"])
    script = "mknod /n b 1 1 2>&1; echo 1 >/proc/sys/kernel/panic 2>&1; date -s 2000-01-01 2>&1; mount -t tmpfs x /mnt 2>&1 || mkdir /m && mount -t tmpfs x /m && echo mounted"
    out = daemon.docker("exec", made, "sh", "-c", script).out
    assert "mknod: /n: Operation not permitted" in out
    assert "can't set date: Operation not permitted" in out
    assert "mounted" in out  # in a namespace of its own it is root


@pytest.mark.flag("--userns", "--publish")
def test_the_rest_works_as_without(daemon: Any, tmp_path: Path) -> None:
    made = start(daemon, "map:0:700000:65536", "sh", "-c", "echo up; nc -l -p 80 -e echo hello; sleep 300",
                 PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "23590"}]})  # fmt: skip
    assert uid_map(daemon, made) == [0, 700000, 65536]
    done = daemon.docker("run", "--rm", "--network", "host", "busybox", "nc", "-w", "5", "127.0.0.1", "23590")
    assert done.out == "hello\n"
    (tmp_path / "file").write_text("in\n")
    daemon.docker("cp", str(tmp_path / "file"), f"{made}:/root/file")
    daemon.docker("cp", "-a", str(tmp_path), f"{made}:/root/folder")
    assert daemon.docker("exec", made, "stat", "-c", "%u", "/root/file", "/root/folder").out == "0\n0\n"
    daemon.docker("exec", made, "sh", "-c", "echo out >/root/back")
    daemon.docker("cp", f"{made}:/root/back", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "out\n"
    assert "A /root/back" in daemon.docker("diff", made).out
    daemon.docker("restart", "-t", "0", made)
    assert uid_map(daemon, made) == [0, 700000, 65536]
    daemon.docker("pause", made)
    daemon.docker("unpause", made)
    assert daemon.docker("exec", "-t", made, "tty").out.strip().startswith("/dev/pts/")


@pytest.mark.parametrize(
    ("mode", "host", "words"),
    [
        ("auto", {"Privileged": True}, "privileged mode is incompatible with user namespaces"),
        ("auto", {"PidMode": "host"}, "the host's pid namespace"),
        ("auto", {"NetworkMode": "host"}, "the host's network namespace"),
        ("auto:size=0", {}, "UsernsMode"),
        ("map:5:100:10", {}, "root of the container has no id"),
        ("nobody", {}, "UsernsMode"),
    ],
)
def test_refused(daemon: Any, mode: str, host: dict[str, Any], words: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"UsernsMode": mode, **host}}
    status, reply = daemon.request("POST", "/containers/create", body)
    assert (status, words in reply["message"]) == (400, True), reply


@pytest.mark.flag("--userns", "--privileged")
def test_a_daemon_that_maps_by_default(module_daemon: Any) -> None:
    module_daemon.flags = ("--userns-remap", "default", "--userns-range", "1900000000:131072")
    module_daemon.start()
    module_daemon.load()
    script = ("busybox", "cat", "/proc/self/uid_map")
    assert module_daemon.docker("run", "--rm", *script).out.split() == ["0", "1900000000", "65536"]
    assert module_daemon.docker("run", "--rm", "--userns", "host", *script).out.split()[1] == "0"
    assert (
        module_daemon.docker("run", "--rm", "--privileged", "--userns", "host", *script).out.split()[1] == "0"
    )
    refused = module_daemon.docker("run", "--rm", "--privileged", *script, check=False)
    assert "privileged mode is incompatible with user namespaces" in refused.err
    assert "name=userns" in module_daemon.request("GET", "/info")[1]["SecurityOptions"]
    # One pool: what containers share is not given to one alone
    alone = start(module_daemon, "auto:size=1000")
    assert uid_map(module_daemon, alone) == [0, 1900065536, 1000]
