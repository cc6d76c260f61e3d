"""The collection against real engines: each wish twice, check mode first, and nobody is refused in between."""

import json
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest

pytestmark = pytest.mark.timeout(400)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def counters(output: str) -> dict[str, int]:
    """The recap line of the host."""
    line = next(line for line in output.splitlines() if line.startswith("it-host") and "ok=" in line)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


def answer(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as reply:
        return reply.read().decode().strip()


class Load(threading.Thread):
    """New connections, one after the other, until `stop`; remembers what was not answered."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.answers, self.failures = port, list[str](), list[str]()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.002):
            try:
                self.answers.append(answer(self.port))
            except (OSError, urllib.error.URLError) as error:
                self.failures.append(str(error))

    def stop(self) -> None:
        self._end.set()
        self.join(20)


@pytest.mark.parametrize(
    "target", ["image", "container"]
)  # in this order: the first one ships for the second
def test_target(lab, target: str) -> None:
    done = lab.playbook("tests/integration/lab.yml", lab_target=target, lab_port=free_port())
    assert done.returncode == 0, done.stdout + done.stderr + lab.host.log()


def test_deploy_update_and_roll_back_without_a_refused_connection(lab) -> None:
    port = free_port()
    common = {
        "app_name": "it-deploy",
        "app_socket": lab.host.socket,
        "app_controller_socket": lab.controller.socket,
        "app_drain_timeout": 2,
    }
    ports = ["-e", json.dumps({"app_published_ports": [f"{port}:8080"]})]

    def deploy(image: str, *options: str, playbook: str = "deploy.yml") -> dict[str, int]:
        done = lab.playbook(f"playbooks/{playbook}", *ports, *options, **common, app_image=image)
        assert done.returncode == 0, done.stdout + done.stderr + lab.host.log()
        return counters(done.stdout)

    assert deploy(lab.images[0])["changed"] > 0
    assert answer(port) == "version 1"
    assert deploy(lab.images[0])["changed"] == 0

    before = lab.host.cli("ps", "-aq", "--no-trunc")
    checked = lab.playbook(
        "playbooks/deploy.yml", *ports, "--check", "--diff", **common, app_image=lab.images[1]
    )
    assert checked.returncode == 0, checked.stdout
    assert counters(checked.stdout)["changed"] > 0
    assert re.search(r"^-.*it-app:1", checked.stdout, re.MULTILINE), checked.stdout
    assert re.search(r"^\+.*it-app:2", checked.stdout, re.MULTILINE), checked.stdout
    assert lab.host.cli("ps", "-aq", "--no-trunc") == before
    assert answer(port) == "version 1"

    load = Load(port)
    load.start()
    try:
        assert deploy(lab.images[1])["changed"] > 0
        assert answer(port) == "version 2"
        assert deploy(lab.images[1])["changed"] == 0
        assert deploy("unused", playbook="rollback.yml")["changed"] == 1
        assert answer(port) == "version 1"
        assert deploy("unused", playbook="rollback.yml")["changed"] == 0
    finally:
        load.stop()
    assert set(load.answers) == {"version 1", "version 2"}
    assert load.failures == []
    lab.host.cli("rm", "-f", "it-deploy")


def apply(lab, **request: object) -> list[dict[str, object]]:
    """A request by hand, as any client could send it."""
    from ansible_collections.longshore.fleet.plugins.module_utils._engine import Client, socket_exchange

    client = Client(socket_exchange(str(lab.host.socket), timeout=60))
    events = client.call("POST", "/longshore/v1/apply", request).lines()
    assert events[-1]["failed"] is None, events
    return events


def test_a_killed_daemon_leaves_nothing_half_made(lab) -> None:
    """The daemon dies while a successor is being waited for; the next apply clears that up, and nobody noticed."""
    port = free_port()
    wanted = {"name": "it-kill", "image": lab.images[0], "pull": "never", "ports": [f"{port}:8080"]}
    apply(lab, containers=[wanted])
    slow = {**wanted, "command": "sleep 1000", "wait_timeout": 30}  # never listens, so it is waited for
    attempt = threading.Thread(target=lambda: ignore(apply, lab, containers=[slow]), daemon=True)
    load = Load(port)
    load.start()
    attempt.start()
    deadline = time.monotonic() + 20
    while "it-kill.longshore-next" not in lab.host.cli("ps", "-a"):
        assert time.monotonic() < deadline, lab.host.log()
        time.sleep(0.05)
    time.sleep(0.5)
    lab.host.stop(signal.SIGKILL)
    attempt.join(20)
    lab.host.start()
    try:
        assert "it-kill.longshore-next" in lab.host.cli("ps", "-a")
        result = apply(lab, containers=[wanted])[-1]
        assert not result["changed"]
    finally:
        load.stop()
    names = lab.host.cli("ps", "-a", "--format", "{{.Names}}").split()
    assert [name for name in names if name.startswith("it-kill")] == ["it-kill"]
    assert load.failures == [] and set(load.answers) == {"version 1"}
    apply(lab, containers=[{"name": "it-kill", "state": "absent"}])


def ignore(function, *arguments, **more) -> None:
    from ansible_collections.longshore.fleet.plugins.module_utils._engine import EngineError

    try:
        function(*arguments, **more)
    except EngineError:
        pass  # the daemon is killed in the middle


def test_open_connections_end_in_their_own_time(lab) -> None:
    """A download that began before the update is finished by the old version."""
    port = free_port()
    wanted = {
        "name": "it-drain", "image": lab.images[0], "pull": "never", "ports": [f"{port}:8080"],
        "command": ["nc", "-ll", "-p", "8080", "-e", "sh", "-c", "echo begin; sleep 3; echo end"],
    }  # fmt: skip
    apply(lab, containers=[wanted])
    with socket.create_connection(("127.0.0.1", port), 10) as channel:
        assert channel.recv(100) == b"begin\n"
        result = apply(lab, containers=[{**wanted, "env": {"VERSION": "2"}, "drain_timeout": 20}])[-1]
        assert result["changed"]
        channel.settimeout(10)
        assert channel.recv(100) == b"end\n"
    apply(lab, containers=[{"name": "it-drain", "state": "absent"}])
