"""The engine under systemd, pure cgroup v2 and AppArmor: installed from the bundle, deployed to, upgraded."""

import json
import urllib.request
from pathlib import Path

import pytest
from conftest import Controller, playbook, polling
from machine import Machine

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="session")
def engine(machine: Machine, inventory: Path, bundles: tuple[Path, Path]) -> Machine:
    """The machine with the first release, installed by provision.yml."""
    playbook(inventory, "provision.yml", engine_bundle=str(bundles[0]))
    return machine


@pytest.fixture(scope="session")
def app(engine: Machine, inventory: Path, controller: Controller) -> str:
    """Version 1 of an app on the machine's port 8080; its address from here."""
    controller.build("vm-hello:1", 1)
    playbook(inventory, "deploy.yml", **deployment(controller, "vm-hello:1"))
    return f"http://127.0.0.1:{engine.app_port}/"


def deployment(controller: Controller, image: str) -> dict[str, object]:
    return {
        "app_name": "hello",
        "app_image": image,
        "app_published_ports": ["8080:80"],
        "app_env": {},
        "app_memory": "64m",
        "app_wait_timeout": 180,
        "app_controller_socket": str(controller.socket),
    }


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode().strip())


def running(machine: Machine) -> dict[str, str]:
    """Name -> start time of every running container."""
    listed = json.loads(machine.ssh("longshore inspect $(longshore ps -q)"))
    return {item["Name"]: item["State"]["StartedAt"] for item in listed}


def changed(output: str) -> str:
    """The machine's own counter in Ansible's recap."""
    (line,) = [line for line in output.splitlines() if line.startswith("vm1 ") and "changed=" in line]
    return next(word for word in line.split() if word.startswith("changed="))


def test_the_service_is_systemds(engine: Machine) -> None:
    assert engine.ssh("systemctl is-active longshored").strip() == "active"
    assert engine.ssh("systemctl is-enabled longshored").strip() == "enabled"
    status = json.loads(engine.ssh("longshore-setup status --json").splitlines()[-1])
    assert status["running"] and status["service"] == "systemd"


def test_provisioning_again_changes_nothing(
    engine: Machine, inventory: Path, bundles: tuple[Path, Path]
) -> None:
    assert changed(playbook(inventory, "provision.yml", engine_bundle=str(bundles[0]))) == "changed=0"


def test_limits_land_in_cgroup_v2(engine: Machine, app: str) -> None:
    assert read(app) == "version 1"
    identity = engine.ssh("longshore inspect --format '{{.Id}}' hello").strip()
    found = engine.ssh(
        f"cat $(find /sys/fs/cgroup -type d -name '*{identity}*' | head -1)/memory.max"
    ).strip()
    assert found == str(64 << 20)


def test_doctor_finds_what_the_other_machine_lacks(engine: Machine) -> None:
    lines = engine.ssh("longshore doctor --format json").splitlines()
    checks = {item["check"]: item["status"] for item in map(json.loads, lines)}
    assert "fail" not in checks.values(), checks


def test_deploying_again_changes_nothing(app: str, inventory: Path, controller: Controller) -> None:
    assert changed(playbook(inventory, "deploy.yml", **deployment(controller, "vm-hello:1"))) == "changed=0"


def test_restart_and_upgrade_without_a_failed_request(
    engine: Machine, app: str, inventory: Path, bundles: tuple[Path, Path]
) -> None:
    before = running(engine)
    with polling(app) as poller:
        engine.ssh("systemctl restart longshored")
        assert running(engine) == before
        playbook(inventory, "provision.yml", engine_bundle=str(bundles[1]))
        assert running(engine) == before
    version = json.loads(engine.ssh("longshore version --format json"))
    assert version["Server"]["Version"] == "9.9.9"
    assert poller.failures == []
    assert len(poller.answers) > 20
    assert set(poller.answers) == {"version 1"}


def test_a_new_version_takes_over_the_port_without_a_failed_request(
    engine: Machine, app: str, inventory: Path, controller: Controller
) -> None:
    controller.build("vm-hello:2", 2)
    with polling(app) as poller:
        playbook(inventory, "deploy.yml", **deployment(controller, "vm-hello:2"))
    assert poller.failures == []
    assert poller.answers[-1] == "version 2"
    assert read(app) == "version 2"


def test_rolling_back_the_engine_keeps_containers(engine: Machine, app: str) -> None:
    before = running(engine)
    outcome = json.loads(engine.ssh("longshore-setup rollback --json").splitlines()[-1])
    assert outcome["previous"].startswith("9.9.9")
    assert running(engine) == before
