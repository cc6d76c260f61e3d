"""Every operation of execs and the system by itself and over the wire, one test named after each.

Those of containers are in test_operations_containers.py and test_operations_attach.py.
`test_no_operation_is_forgotten` compares the names with docs/reference/docker-api-operations.tsv.
"""

import contextlib
import csv
import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.compat.registry import running_registry
from tests.engine.compat.wire import FRAME, Made, Stream, inspect, json_lines, until

OPERATIONS = Path(__file__).parents[3] / "docs/reference/docker-api-operations.tsv"


def test_container_exec_and_exec_start(daemon: Any, make: Made, stream: Callable[..., Stream]) -> None:
    id = make("sleep", "1000")
    body = {
        "Cmd": ["sh", "-c", "pwd; echo $A; id -u >&2"],
        "WorkingDir": "/tmp",
        "Env": ["A=b"],
        "User": "nobody",
    }
    status, reply = daemon.request(
        "POST", f"/containers/{id}/exec", {**body, "AttachStdout": True, "AttachStderr": True}
    )
    assert (status, list(reply)) == (201, ["Id"])
    started = stream("POST", f"/exec/{reply['Id']}/start", {})
    frames = b"".join(text for _, text in iter(lambda: _frame_or_end(started), (0, b"")))
    assert sorted(frames.split()) == [b"/tmp", b"65534", b"b"]
    assert daemon.request("POST", f"/exec/{reply['Id']}/start", {})[0] == 409  # once only


def _frame_or_end(stream: Stream) -> tuple[int, bytes]:
    head = stream.file.read(FRAME)
    return (head[0], stream.file.read(int.from_bytes(head[4:], "big"))) if head else (0, b"")


@pytest.mark.parametrize(
    ("exec_tty", "start_tty"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_exec_start_frames_by_the_tty_of_the_start(
    daemon: Any, make: Made, stream: Callable[..., Stream], exec_tty: bool, start_tty: bool
) -> None:
    id = make("sleep", "1000")
    body = {"Cmd": ["echo", "hello"], "Tty": exec_tty, "AttachStdout": True}
    session = daemon.request("POST", f"/containers/{id}/exec", body)[1]["Id"]
    started = stream("POST", f"/exec/{session}/start", {"Tty": start_tty})
    expected = b"hello\r\n" if exec_tty else b"hello\n"
    if start_tty:
        assert started.file.read() == expected
    else:
        assert (started.frame(), started.file.read()) == ((1, expected), b"")


def test_exec_start_detached_and_exec_inspect(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    session = daemon.request("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", "exit 7"]})[1]["Id"]
    before = daemon.request("GET", f"/exec/{session}/json")[1]
    assert (before["Running"], before["ExitCode"], before["ContainerID"]) == (False, None, id)
    assert daemon.request("POST", f"/exec/{session}/start", {"Detach": True}) == (200, b"")
    until(lambda: daemon.request("GET", f"/exec/{session}/json")[1]["ExitCode"] == 7)
    missing = daemon.request("POST", f"/containers/{id}/exec", {"Cmd": ["/no/such"]})[1]["Id"]
    assert daemon.request("POST", f"/exec/{missing}/start", {"Detach": True})[0] == 400
    assert daemon.request("GET", f"/exec/{missing}/json")[1]["ExitCode"] == 126
    assert daemon.request("GET", "/exec/nosuch/json")[0] == 404


def test_exec_inspect_lists_it_with_the_container(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    session = daemon.request("POST", f"/containers/{id}/exec", {"Cmd": ["sleep", "1000"], "User": "1:2"})[1][
        "Id"
    ]
    daemon.request("POST", f"/exec/{session}/start", {"Detach": True})
    view = daemon.request("GET", f"/exec/{session}/json")[1]
    assert view["Running"] and view["Pid"] > 0
    assert view["ProcessConfig"] | {} == {
        "tty": False,
        "entrypoint": "sleep",
        "arguments": ["1000"],
        "privileged": False,
        "user": "1:2",
    }
    assert inspect(daemon, id)["ExecIDs"] == [session]


def test_exec_resize(daemon: Any, make: Made, stream: Callable[..., Stream]) -> None:
    id = make("sleep", "1000")
    body = {"Cmd": ["sh", "-c", "read x; stty size"], "Tty": True, "AttachStdin": True, "AttachStdout": True}
    session = daemon.request("POST", f"/containers/{id}/exec", {**body, "DetachKeys": "ctrl-y"})[1]["Id"]
    started = stream("POST", f"/exec/{session}/start", {"Tty": True, "ConsoleSize": [20, 40]})
    until(lambda: daemon.request("GET", f"/exec/{session}/json")[1]["Running"])
    assert daemon.request("POST", f"/exec/{session}/resize?h=44&w=55") == (200, b"")
    started.sock.sendall(b"\n")
    assert b"44 55" in started.file.read()


def test_system_auth_and_distribution(daemon: Any, tmp_path: Path, private_registry: str) -> None:
    good = {"username": "me", "password": "secret", "serveraddress": private_registry}
    assert daemon.request("POST", "/auth", good) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    status, reply = daemon.request("POST", "/auth", {**good, "password": "wrong"})
    assert status == 401 and private_registry in reply["message"]
    assert daemon.request("POST", "/auth", {**good, "serveraddress": "127.0.0.1:1"})[0] == 503
    assert daemon.request("GET", f"/distribution/{private_registry}/nosuch/json")[0] == 401


def test_system_info(daemon: Any) -> None:
    info = daemon.request("GET", "/info")[1]
    assert info["OSType"] == "linux" and info["Swarm"]["LocalNodeState"] == "inactive" and info["ID"]
    assert daemon.request("GET", "/swarm")[0] == daemon.request("GET", "/services")[0] == 503
    assert daemon.request("GET", "/plugins") == (200, [])


def test_system_version(daemon: Any) -> None:
    version = daemon.request("GET", "/version")[1]
    assert version["ApiVersion"] == "1.47" and version["Components"][0]["Name"] == "Engine"
    assert daemon.request("GET", "/v1.24/version")[0] == 200
    assert daemon.request("GET", "/v1.99/version")[0] == daemon.request("GET", "/v1.23/version")[0] == 400


def test_system_ping_and_system_ping_head(daemon: Any) -> None:
    for method, body in (("GET", b"OK"), ("HEAD", b"")):
        connection = http.client.HTTPConnection("x")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(daemon.socket)
        with contextlib.closing(connection):
            connection.request(method, "/_ping")
            answer = connection.getresponse()
            assert (answer.status, answer.read(), answer.headers["Api-Version"]) == (200, body, "1.47")


def test_system_events(daemon: Any, make: Made) -> None:
    """What one run tells, replayed by since and until, and by each kind of filter."""
    since = f"{time.time():.6f}"
    config = {"Labels": {"told": "yes"}, "HostConfig": {"Binds": ["told:/v"]}}
    id = make("sleep", "1000", name="teller", **config)
    session = daemon.request("POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", "exit 2"]})[1]["Id"]
    daemon.request("POST", f"/exec/{session}/start", {"Detach": True})
    until(lambda: daemon.request("GET", f"/exec/{session}/json")[1]["ExitCode"] == 2)
    for call in ("pause", "unpause", "rename?name=teller2", "kill"):
        daemon.request("POST", f"/containers/{id}/{call}")
    daemon.request("DELETE", f"/containers/{id}")
    until_ = f"{time.time():.6f}"

    def told(**filters: list[str]) -> list[str]:
        given = json.dumps(filters).replace(" ", "")
        lines = json_lines(daemon, f"/events?since={since}&until={until_}&filters={given}")
        return [f"{line['Type']} {line['Action'].partition(':')[0]}" for line in lines]

    own = [
        "create", "start", "exec_create", "exec_start", "exec_detach", "exec_die", "pause", "unpause", "rename",
        "kill", "die", "destroy",
    ]  # fmt: skip
    found = told(container=[id])
    assert sorted(found) == sorted(f"container {action}" for action in own)
    assert found[0] == "container create" and found[-1] == "container destroy"
    everything = told()
    for event in ("volume create", "volume mount", "network connect", "network disconnect", "volume unmount"):
        assert event in everything, everything
    assert everything.index("network connect") < everything.index("container start")
    assert told(label=["told=yes"]) == found == told(label=["told"], type=["container"])
    assert told(event=["die"]) == ["container die"] == told(event=["die"], image=["busybox"])
    assert told(event=["exec_create"], container=["teller"]) == ["container exec_create"]
    assert set(told(type=["network"], network=["bridge"])) == {"network connect", "network disconnect"}
    assert told(volume=["told"])[0] == "volume create" and told(scope=["swarm"]) == told(daemon=["x"]) == []
    assert daemon.request("GET", "/events?until=1&filters={%22nosuch%22:[%22x%22]}")[0] == 400


def test_system_data_usage(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "dd if=/dev/zero of=/file bs=1024 count=64 2>/dev/null; sleep 1000", name="using")
    until(lambda: daemon.request("GET", "/system/df")[1]["Containers"][0]["SizeRw"] >= 65536)
    usage = daemon.request("GET", "/system/df")[1]
    (container,) = usage["Containers"]
    assert (container["Id"], container["State"], container["Status"][:2]) == (id, "running", "Up")
    image = next(each for each in usage["Images"] if "busybox:latest" in each["RepoTags"])
    assert (image["Containers"], usage["LayersSize"] >= image["Size"] >= image["SharedSize"] >= 0) == (
        1,
        True,
    )
    only = daemon.request("GET", "/system/df?type=volume&type=build-cache")[1]
    assert only["Images"] is None and only["Containers"] is None and only["Volumes"] is not None
    assert daemon.request("GET", "/system/df?type=nosuch")[0] == 400


def test_no_operation_is_forgotten() -> None:
    with OPERATIONS.open(newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file, delimiter="\t")
            if row["tag"] in ("Container", "Exec", "System")
        ]
    assert len(rows) == 25 + 4 + 7
    sources = Path(__file__).parent.glob("test_operations*.py")
    tests = [
        name for path in sources for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    ]
    words = {part for name in tests for part in re.split(r"_and_", name.removeprefix("test_"))}
    for row in rows:
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", row["operation"]).lower()
        covered = any(word == snake or word.startswith(f"{snake}_") for word in words)
        assert covered or any(word == snake.removeprefix("container_") for word in words), row["operation"]


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[str]:
    """A registry that wants the login me:secret."""
    bcrypt = pytest.importorskip("bcrypt")
    (tmp_path / "passwords").write_text(f"me:{bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n")
    with running_registry(tmp_path, passwords=tmp_path / "passwords") as address:
        yield address
