"""A real dockerd on the same machine, whose rules drop what is forwarded: both engines' containers keep working.

The machine is a network namespace with a neighbour on a wire, so nothing of the real host is touched.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "build/docker/usr"
MACHINE, NEIGHBOUR = "198.51.100.1", "198.51.100.2"

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (DOCKER / "sbin/dockerd").exists(), reason="make setup unpacks Debian's dockerd"),
]


@dataclass
class Lab:
    """Two network namespaces by name: the machine under test and its neighbour."""

    machine: str
    neighbour: str

    def inside(self, name: str, *argv: str | Path) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{name}", *map(str, argv)]

    def fetch(self, address: str) -> str:
        """What the neighbour gets from http://address/, "" for no answer."""
        program = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).read().decode())"
        done = subprocess.run(
            self.inside(self.neighbour, sys.executable, "-c", program, f"http://{address}/index.html"),
            check=False, capture_output=True, text=True, env={},
        )  # fmt: skip
        return done.stdout.strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: containerd's sockets lie deep in it, and a path of a socket has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lsd", dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    names = [f"lsd{os.getpid() % 10000}{letter}" for letter in "mn"]
    with contextlib.ExitStack() as undo:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            undo.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        machine, neighbour = names
        subprocess.run(
            ["ip", "link", "add", "wire", "netns", machine, "type", "veth", "peer", "name", "wire", "netns", neighbour],
            check=True,
        )  # fmt: skip
        for name, address in ((machine, MACHINE), (neighbour, NEIGHBOUR)):
            subprocess.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", "wire"], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "wire", "up"], check=True)
        subprocess.run(["ip", "-n", machine, "route", "add", "default", "via", NEIGHBOUR], check=True)
        found = Lab(machine, neighbour)
        (tmp_path / "index.html").write_text("from the neighbour")
        server = subprocess.Popen(
            found.inside(neighbour, "busybox", "httpd", "-f", "-p", f"{NEIGHBOUR}:80", "-h", tmp_path)
        )
        undo.callback(end, server)
        yield found


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def dockerd(lab: Lab, folder: Path, busybox: bytes) -> Iterator[Callable[..., str]]:
    """Debian's dockerd in the machine's namespace with its usual rules; yields its CLI."""
    path = folder / "docker.sock"
    environment = os.environ | {"PATH": f"{DOCKER}/bin:{DOCKER}/sbin:{os.environ['PATH']}"}
    with (folder / "docker.log").open("wb") as log:
        process = subprocess.Popen(
            lab.inside(lab.machine, "unshare", "--mount", DOCKER / "sbin/dockerd", "--data-root", folder / "docker",
                       "--exec-root", folder / "docker-run", "-p", folder / "docker.pid", "-H", f"unix://{path}",
                       "--bip", "10.199.7.1/24"),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        )  # fmt: skip

    def docker(*arguments: str) -> str:
        done = subprocess.run(
            [DOCKER / "bin/docker", "-H", f"unix://{path}", *arguments],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        return done.stdout.strip()

    try:
        until(path.exists, 30)
        loaded = subprocess.run(
            [DOCKER / "bin/docker", "-H", f"unix://{path}", "load"],
            check=False,
            input=busybox,
            capture_output=True,
        )
        assert loaded.returncode == 0, f"{loaded.stderr}\n{(folder / 'docker.log').read_text()}"
        yield docker
        for identity in docker("ps", "-aq").split():
            docker("rm", "-f", identity)
    finally:
        end(process)


def until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


SERVE = 'echo "$0" > /index.html && exec httpd -f -p 80'


@pytest.mark.parametrize("order", ["dockerd first", "dockerd later"])
def test_both_engines_work_side_by_side(order: str, lab: Lab, own_daemon, monkeypatch, folder: Path) -> None:
    monkeypatch.setenv("LONGSHORED", " ".join(lab.inside(lab.machine, ROOT / ".venv/bin/longshored")))
    busybox = own_daemon.images.busybox_tar()

    def start_ours() -> None:
        own_daemon.start()
        own_daemon.load()
        own_daemon.docker(
            "run", "-d", "--name", "ours", "-p", "8080:80", "busybox", "sh", "-c", SERVE, "ours"
        )

    with contextlib.ExitStack() as stack:
        if order == "dockerd later":
            start_ours()
            until(lambda: lab.fetch(f"{MACHINE}:8080") == "ours", 5)
        docker = stack.enter_context(dockerd(lab, folder, busybox))
        if order == "dockerd first":
            start_ours()
        docker("run", "-d", "-p", "8081:80", "busybox", "sh", "-c", SERVE, "theirs")
        until(lambda: lab.fetch(f"{MACHINE}:8081") == "theirs", 5)
        until(lambda: lab.fetch(f"{MACHINE}:8080") == "ours", 2)
        # nc, because the resolver of a static busybox needs libraries that the image does not have
        request = f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {NEIGHBOUR} 80"
        assert "from the neighbour" in own_daemon.docker("exec", "ours", "sh", "-c", request).out
        checks = {
            line["check"]: line["status"] for line in own_daemon.request("GET", "/longshore/v1/doctor")[1]
        }
        assert checks["firewall"] == "ok"
        own_daemon.remove_containers()
        own_daemon.stop()


def test_a_firewall_that_drops_is_named_by_the_doctor(lab: Lab, own_daemon, monkeypatch) -> None:
    """No DOCKER-USER chain to speak in: the engine says what stands in the way and what to do."""
    monkeypatch.setenv("LONGSHORED", " ".join(lab.inside(lab.machine, ROOT / ".venv/bin/longshored")))
    subprocess.run(lab.inside(lab.machine, "iptables", "-P", "FORWARD", "DROP"), check=True)
    own_daemon.start()
    (found,) = [x for x in own_daemon.request("GET", "/longshore/v1/doctor")[1] if x["check"] == "firewall"]
    assert found["status"] in ("warn", "fail")
    assert "FORWARD" in found["detail"] or "forward" in found["detail"]
    assert found["hint"]
    own_daemon.stop()
