"""What lists and inspect show."""

from pathlib import Path

import msgspec
import pytest

from longshore.api.execs import exec_view
from longshore.api.views import command_text, port_list, status_text, summary
from longshore.core.clock import rfc3339
from longshore.core.containers.container import Container
from longshore.core.containers.create import plan_record
from longshore.core.containers.inspect import inspect
from longshore.core.containers.record import Health, HealthResult, MountPoint, State
from longshore.core.execs import ExecSession
from longshore.core.model import CreateRequest, ExecRequest, decode
from longshore.network.model import Endpoint, PortMapping
from longshore.oci.image_config import ContainerDefaults

NOW = 1_800_000_000.0


def ago(seconds: float) -> str:
    return rfc3339(int((NOW - seconds) * 1e9))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State(), "Created"),
        (State("running", started_at=ago(5)), "Up 5 seconds"),
        (State("running", started_at=ago(5), health=Health()), "Up 5 seconds (health: starting)"),
        (State("running", started_at=ago(5), health=Health("unhealthy")), "Up 5 seconds (unhealthy)"),
        (State("paused", started_at=ago(5)), "Up 5 seconds (Paused)"),
        (State("exited", exit_code=3, finished_at=ago(180), ever_started=True), "Exited (3) 3 minutes ago"),
        (State("restarting", exit_code=1, finished_at=ago(2)), "Restarting (1) 2 seconds ago"),
        (State("removing"), "Removal In Progress"),
    ],
)
def test_status(state: State, words: str) -> None:
    assert status_text(state, NOW) == words


def test_command_quotes_words_with_blanks() -> None:
    assert command_text("sh", ["-c", "echo hi"]) == "sh -c 'echo hi'"


def container(status: str = "running") -> Container:
    body = decode(
        msgspec.json.encode(
            {
                "Image": "busybox",
                "Cmd": ["sh", "-c", "x"],
                "ExposedPorts": {"53/udp": {}},
                "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}},
            }
        ),
        CreateRequest,
    )
    mounts = [
        MountPoint("volume", "/v/n/_data", "/data", name="n", driver="local", mode="z"),
        MountPoint("bind", "/h", "/b", mode="ro", read_write=False, propagation="rprivate"),
    ]
    record = plan_record(
        "a" * 64,
        "web",
        "2026-01-01T00:00:00.5Z",
        body,
        "sha256:i",
        ContainerDefaults(),
        mounts,
        host_name="m",
    )
    record.state = State(status, pid=7 if status == "running" else 0, started_at=ago(5))
    record.endpoints["bridge"] = Endpoint(
        id="e" * 64,
        container_id=record.id,
        network="bridge",
        bridge="br",
        link="v",
        ip="172.18.0.2",
        prefix=16,
        gateway="172.18.0.1",
        mac="02:42:ac:12:00:02",
        mtu=1500,
        ports=(PortMapping(80, "tcp", "", 8080),),
    )
    return Container(record, Path("/data/containers/x"))


def test_ports_of_a_running_and_a_stopped_container() -> None:
    assert port_list(container()) == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 53, "Type": "udp"},
    ]
    assert port_list(container("exited")) == []


def test_summary_has_dockers_fields() -> None:
    view = summary(container(), "busybox")
    assert list(view) == [
        *("Id", "Names", "Image", "ImageID", "Command", "Created", "Ports", "Labels", "State", "Status"),
        *("HostConfig", "NetworkSettings", "Mounts"),
    ]
    assert (view["Names"], view["Created"], view["HostConfig"]) == (
        ["/web"],
        1767225600,
        {"NetworkMode": "bridge"},
    )
    assert summary(container(), "busybox", (1, 2))["SizeRootFs"] == 2


def test_inspect_has_what_clients_read() -> None:
    view = inspect(container())
    assert view["Name"] == "/web"
    assert (view["Path"], view["Args"]) == ("sh", ["-c", "x"])
    assert view["State"]["Running"] is True
    assert "Health" not in view["State"]
    assert view["NetworkSettings"]["Ports"] == {
        "53/udp": None,
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}],
    }
    assert view["NetworkSettings"]["IPAddress"] == "172.18.0.2"
    assert view["NetworkSettings"]["Networks"]["bridge"]["Gateway"] == "172.18.0.1"
    assert view["Mounts"] == [
        {
            "Type": "volume",
            "Name": "n",
            "Source": "/v/n/_data",
            "Destination": "/data",
            "Driver": "local",
            "Mode": "z",
            "RW": True,
            "Propagation": "",
        },
        {
            "Type": "bind",
            "Source": "/h",
            "Destination": "/b",
            "Mode": "ro",
            "RW": False,
            "Propagation": "rprivate",
        },
    ]
    assert "Healthcheck" not in view["Config"]
    assert "Sysctls" not in view["HostConfig"]
    assert view["HostConfig"]["CapAdd"] is None
    assert view["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert msgspec.json.decode(msgspec.json.encode(view))["Config"]["ExposedPorts"] == {
        "53/udp": {},
        "80/tcp": {},
    }


def test_inspect_of_a_restarting_container_counts_as_running() -> None:
    state = inspect(container("restarting"))["State"]
    assert (state["Status"], state["Running"], state["Restarting"]) == ("restarting", True, True)


def test_health_is_shown() -> None:
    shown = container()
    shown.state.health = Health("unhealthy", 3, [HealthResult("a", "b", 1, "no")])
    assert inspect(shown)["State"]["Health"] == {
        "Status": "unhealthy",
        "FailingStreak": 3,
        "Log": [{"Start": "a", "End": "b", "ExitCode": 1, "Output": "no"}],
    }


def test_exec_view() -> None:
    session = ExecSession(
        "e" * 64, container(), ExecRequest(cmd=["sh", "-c"], attach_stdout=True, user="web")
    )
    view = exec_view(session)
    assert view["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c"],
        "privileged": False,
        "user": "web",
    }
    assert (view["ExitCode"], view["OpenStdout"], view["Running"]) == (None, True, False)
