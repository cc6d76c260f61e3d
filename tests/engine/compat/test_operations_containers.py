"""Every operation of containers by itself and over the wire, one test named after each; see test_operations.py."""

import base64
import contextlib
import http.client
import io
import json
import socket
import tarfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.engine.compat.wire import Made, archive, ended, inspect, logs, until


def test_container_create(daemon: Any, make: Made) -> None:
    body = {"Image": "busybox", "cmd": ["true"], "hostconfig": {"memory": 64 << 20}, "LABELS": {"A": "1"}}
    status, reply = daemon.request("POST", "/containers/create", body)
    assert (status, set(reply)) == (201, {"Id", "Warnings"})
    view = inspect(daemon, reply["Id"])  # keys in any case, as Go reads them
    assert (view["Config"]["Cmd"], view["HostConfig"]["Memory"], view["Config"]["Labels"]) == (
        ["true"],
        64 << 20,
        {"A": "1"},
    )


@pytest.fixture(scope="module")
def listed(daemon: Any) -> Iterator[dict[str, str]]:
    """Containers that differ in everything one can filter by: names to ids."""

    def one(name: str, *command: str, **config: Any) -> str:
        body = {"Image": "busybox", "Cmd": list(command), **config}
        return str(daemon.request("POST", f"/containers/create?name={name}", body)[1]["Id"])

    check = {"Test": ["CMD", "true"], "Interval": 50_000_000}
    bound = {"ExposedPorts": {"81/tcp": {}}, "HostConfig": {"PortBindings": {"81/tcp": [{"HostPort": "0"}]}}}
    daemon.request("POST", "/networks/create", {"Name": "listnet"})
    ids = {
        "f-created": one("f-created", "true", Labels={"kind": "none"}),
        "f-ended": one("f-ended", "sh", "-c", "exit 3", Labels={"kind": "job", "x": "1"}),
        "f-up": one("f-up", "sleep", "1000", Healthcheck=check, **bound),
        "f-volume": one("f-volume", "sleep", "1000", HostConfig={"Binds": ["fvol:/data"]}),
        "f-net": one("f-net", "sleep", "1000", HostConfig={"NetworkMode": "listnet"}),
    }
    for name, id in ids.items():
        if name != "f-created":
            daemon.request("POST", f"/containers/{id}/start")
    ended(daemon, ids["f-ended"])
    until(lambda: inspect(daemon, ids["f-up"])["State"]["Health"]["Status"] == "healthy")
    yield ids
    daemon.remove_containers()
    assert daemon.request("DELETE", "/networks/listnet") == (204, b"")
    daemon.request("DELETE", "/volumes/fvol")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, "created ended up volume net"),
        ({"ancestor": ["busybox"]}, "created ended up volume net"),
        ({"ancestor": ["nosuch"]}, ""),
        ({"before": ["f-up"]}, "created ended"),
        ({"since": ["f-up"]}, "volume net"),
        ({"expose": ["81/tcp"]}, "up"),
        ({"publish": ["81"]}, "up"),
        ({"exited": ["3"]}, "ended"),
        ({"exited": ["0", "4"]}, ""),
        ({"health": ["healthy"]}, "up"),
        ({"health": ["none"]}, "created ended volume net"),
        ({"is-task": ["true"]}, ""),
        ({"is-task": ["false"]}, "created ended up volume net"),
        ({"isolation": ["default"]}, "created ended up volume net"),
        ({"isolation": ["hyperv"]}, ""),
        ({"label": ["kind=job"]}, "ended"),
        ({"label": ["kind", "x"]}, "ended"),
        ({"name": ["f-(up|net)$"]}, "up net"),
        ({"name": ["/f-up"]}, "up"),
        ({"network": ["listnet"]}, "net"),
        ({"status": ["created", "exited"]}, "created ended"),
        ({"volume": ["fvol"]}, "volume"),
        ({"volume": ["/data"]}, "volume"),
        ({"status": ["running"], "name": ["f-"], "health": ["none"]}, "volume net"),
    ],
    ids=str,
)
def test_container_list(
    daemon: Any, listed: dict[str, str], filters: dict[str, list[str]], names: str
) -> None:
    path = f"/containers/json?all=1&size=1&filters={json.dumps(filters).replace(' ', '')}"
    status, reply = daemon.request("GET", path)
    assert status == 200, reply
    assert {each["Names"][0] for each in reply} == {f"/f-{name}" for name in names.split()}
    assert all(each["SizeRootFs"] >= each["SizeRw"] >= 0 for each in reply)


def test_container_list_by_id_limit_and_default(daemon: Any, listed: dict[str, str]) -> None:
    id = listed["f-ended"]
    found = daemon.request("GET", f'/containers/json?all=1&filters={{"id":["{id[:20]}"]}}')[1]
    assert [each["Id"] for each in found] == [id]
    running = daemon.request("GET", "/containers/json")[1]
    assert [each["Names"][0] for each in running] == ["/f-net", "/f-volume", "/f-up"]  # newest first
    newest = daemon.request("GET", "/containers/json?limit=1")[1]
    assert [each["Names"][0] for each in newest] == ["/f-net"]
    for filters in ('{"nosuch":["x"]}', '{"status":["x"]}', '{"health":["x"]}', '{"exited":["x"]}'):
        assert daemon.request("GET", f"/containers/json?filters={filters}")[0] == 400


def test_container_inspect(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000", name="looked-at")
    view = daemon.request("GET", "/containers/looked-at/json?size=1")[1]
    assert (view["Id"], view["Name"], view["State"]["Running"]) == (id, "/looked-at", True)
    assert view["SizeRootFs"] > view["SizeRw"] >= 0
    assert daemon.request("GET", "/containers/nosuch/json")[0] == 404


@pytest.mark.parametrize("arguments", ["", "-ef", "aux", "-o%20pid,args"])
def test_container_top(daemon: Any, make: Made, arguments: str) -> None:
    id = make("sleep", "1000")
    status, table = daemon.request("GET", f"/containers/{id}/top?ps_args={arguments}")
    assert status == 200, table
    (row,) = table["Processes"]
    assert len(row) == len(table["Titles"]) and "sleep 1000" in row[-1]
    assert row[table["Titles"].index("PID")] == str(inspect(daemon, id)["State"]["Pid"])


def test_container_top_refuses(daemon: Any, make: Made) -> None:
    id = make("true", start=False)
    assert daemon.request("GET", f"/containers/{id}/top")[0] == 409
    daemon.request("POST", f"/containers/{make('sleep', '9', name='topless')}")
    assert daemon.request("GET", "/containers/topless/top?ps_args=-o%20comm")[0] == 400  # no PID column


def test_container_logs(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "echo err >&2; echo out; echo more")
    ended(daemon, id)
    data = daemon.request("GET", f"/containers/{id}/logs?stdout=1")[1]
    assert data == b"\x01\0\0\0\0\0\0\x04out\n\x01\0\0\0\0\0\0\x05more\n"
    assert len(daemon.request("GET", f"/containers/{id}/logs?stdout=1&stderr=1&tail=2")[1].splitlines()) == 2
    assert daemon.request("GET", f"/containers/{id}/logs?stderr=1")[1] == b"\x02\0\0\0\0\0\0\x04err\n"
    assert daemon.request("GET", f"/containers/{id}/logs?stdout=1&until=1")[1] == b""
    assert daemon.request("GET", f"/containers/{id}/logs?stdout=1&follow=1")[1].endswith(b"more\n")


def test_container_changes(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "echo x >/new; echo y >>/etc/passwd; rm /etc/group")
    ended(daemon, id)
    assert daemon.request("GET", f"/containers/{id}/changes")[1] == [
        {"Path": "/etc", "Kind": 0},
        {"Path": "/etc/group", "Kind": 2},
        {"Path": "/etc/passwd", "Kind": 0},
        {"Path": "/new", "Kind": 1},
    ]


def test_container_export(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "echo inside >/made")
    ended(daemon, id)
    with tarfile.open(fileobj=io.BytesIO(daemon.request("GET", f"/containers/{id}/export")[1])) as tar:
        member = tar.extractfile("made")
        assert member and member.read() == b"inside\n"
        assert "bin/busybox" in tar.getnames()


def test_container_stats(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    once = daemon.request("GET", f"/containers/{id}/stats?stream=0&one-shot=1")[1]
    assert once["id"] == id and once["memory_stats"]["usage"] > 0 and "eth0" in once["networks"]
    assert once["preread"].startswith("0001-")
    twice = daemon.request("GET", f"/containers/{id}/stats?stream=0")[1]
    assert twice["cpu_stats"]["system_cpu_usage"] > twice["precpu_stats"]["system_cpu_usage"] > 0


def test_container_resize(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "until test -e /go; do sleep 0.1; done; stty size", Tty=True)
    assert daemon.request("POST", f"/containers/{id}/resize?h=33&w=99") == (200, b"")
    daemon.request("PUT", f"/containers/{id}/archive?path=/", archive(go=""))
    ended(daemon, id)
    assert daemon.request("GET", f"/containers/{id}/logs?stdout=1")[1] == b"33 99\r\n"
    assert daemon.request("POST", f"/containers/{id}/resize?h=1&w=1")[0] == 409


def test_container_start(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000", start=False)
    assert daemon.request("POST", f"/containers/{id}/start") == (204, b"")
    assert daemon.request("POST", f"/containers/{id}/start")[0] == 304
    broken = make("/no/such", start=False)
    assert daemon.request("POST", f"/containers/{broken}/start")[0] == 400
    assert inspect(daemon, broken)["State"]["ExitCode"] == 127


def test_container_stop(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.1; done")
    until(lambda: "sleep 0.1" in str(daemon.request("GET", f"/containers/{id}/top")[1]))
    assert daemon.request("POST", f"/containers/{id}/stop?signal=USR1&t=60") == (204, b"")
    assert inspect(daemon, id)["State"]["ExitCode"] == 5
    assert daemon.request("POST", f"/containers/{id}/stop")[0] == 304
    stubborn = make("sleep", "1000")  # the first process of a namespace ignores SIGTERM
    assert daemon.request("POST", f"/containers/{stubborn}/stop?t=0") == (204, b"")
    assert inspect(daemon, stubborn)["State"]["ExitCode"] == 137


def test_container_restart(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    before = inspect(daemon, id)["State"]
    assert daemon.request("POST", f"/containers/{id}/restart?t=0") == (204, b"")
    after = inspect(daemon, id)["State"]
    assert after["Running"] and after["Pid"] != before["Pid"] and after["StartedAt"] > before["StartedAt"]


def test_container_kill(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    assert daemon.request("POST", f"/containers/{id}/kill") == (204, b"")
    state = inspect(daemon, id)["State"]  # at once: SIGKILL is waited for
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert daemon.request("POST", f"/containers/{id}/kill")[0] == 409
    assert daemon.request("POST", f"/containers/{id}/kill?signal=NOSUCH")[0] == 400


def test_container_update(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    body = {"PidsLimit": 77, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 4}}
    assert daemon.request("POST", f"/containers/{id}/update", body)[0] == 200
    host = inspect(daemon, id)["HostConfig"]
    assert (host["PidsLimit"], host["RestartPolicy"]) == (77, body["RestartPolicy"])


def test_container_rename(daemon: Any, make: Made) -> None:
    id = make("true", name="before", start=False)
    assert daemon.request("POST", "/containers/before/rename?name=after") == (204, b"")
    assert inspect(daemon, "after")["Id"] == id
    make("true", name="taken", start=False)
    assert daemon.request("POST", "/containers/after/rename?name=taken")[0] == 409


def test_container_pause_and_unpause(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000")
    assert daemon.request("POST", f"/containers/{id}/pause") == (204, b"")
    assert inspect(daemon, id)["State"]["Status"] == "paused"
    assert daemon.request("POST", f"/containers/{id}/exec", {"Cmd": ["true"]})[0] == 409
    assert daemon.request("POST", f"/containers/{id}/attach?stream=1&stdout=1")[0] == 409
    assert daemon.request("POST", f"/containers/{id}/unpause") == (204, b"")
    assert inspect(daemon, id)["State"]["Status"] == "running"


def test_container_wait(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "exit 6")
    assert ended(daemon, id) == 6
    assert daemon.request("POST", f"/containers/{id}/wait?condition=nosuch")[0] == 400
    found: dict[str, Any] = {}
    gone = make("sleep", "1000", HostConfig={"AutoRemove": True})

    def wait(condition: str) -> None:
        found[condition] = daemon.request("POST", f"/containers/{gone}/wait?condition={condition}")[1]

    threads = [
        threading.Thread(target=wait, args=(word,)) for word in ("not-running", "next-exit", "removed")
    ]
    for thread in threads:
        thread.start()
    until(lambda: daemon.log.read_text().count(f"{gone}/wait") == 3)
    daemon.request("POST", f"/containers/{gone}/kill")
    for thread in threads:
        thread.join(30)
    assert found == {key: {"StatusCode": 137} for key in ("not-running", "next-exit", "removed")}


def test_container_wait_ends_with_each_run(daemon: Any, make: Made) -> None:
    """Also when the restart policy starts it again."""
    id = make("sh", "-c", "sleep 0.3; exit 4", HostConfig={"RestartPolicy": {"Name": "always"}})
    assert ended(daemon, id) == 4
    until(lambda: inspect(daemon, id)["RestartCount"] >= 2)


def test_container_delete(daemon: Any, make: Made) -> None:
    id = make("sleep", "1000", HostConfig={"Binds": ["/anonymous"]}, Volumes={"/v": {}})
    (volume,) = (mount["Name"] for mount in inspect(daemon, id)["Mounts"] if mount["Destination"] == "/v")
    assert daemon.request("DELETE", f"/containers/{id}")[0] == 409
    assert daemon.request("DELETE", f"/containers/{id}?force=1&v=1") == (204, b"")
    assert daemon.request("GET", f"/containers/{id}/json")[0] == 404
    assert daemon.request("GET", f"/volumes/{volume}")[0] == 404


def test_container_delete_of_a_link(daemon: Any, make: Made) -> None:
    make("sleep", "1000", name="db")
    make("sleep", "1000", name="web", HostConfig={"Links": ["db:database"]})
    names = {each["Names"][0]: each["Names"] for each in daemon.request("GET", "/containers/json")[1]}
    assert names["/db"] == ["/db", "/web/database"]
    assert daemon.request("DELETE", "/containers/web/database?link=1") == (204, b"")
    names = {each["Names"][0]: each["Names"] for each in daemon.request("GET", "/containers/json")[1]}
    assert names == {"/db": ["/db"], "/web": ["/web"]}
    assert daemon.request("DELETE", "/containers/web/database?link=1")[0] == 404


def test_container_archive(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "mkdir /d; echo x >/d/f; ln -s /d/f /link; sleep 1000")
    until(lambda: daemon.request("GET", f"/containers/{id}/archive?path=/link")[0] == 200)
    with tarfile.open(
        fileobj=io.BytesIO(daemon.request("GET", f"/containers/{id}/archive?path=/d")[1])
    ) as tar:
        assert sorted(tar.getnames()) == ["d", "d/f"]


def test_container_archive_info(daemon: Any, make: Made) -> None:
    id = make("sh", "-c", "echo 12345 >/file; ln -s file /link; sleep 1000")
    until(lambda: daemon.request("GET", f"/containers/{id}/archive?path=/link")[0] == 200)
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(daemon.socket)
    with contextlib.closing(connection):
        connection.request("HEAD", f"/containers/{id}/archive?path=/link")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        told = json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))
    assert (told["name"], told["linkTarget"], told["mode"] >> 27 & 1) == ("link", "/file", 1)


def test_put_container_archive(daemon: Any, make: Made) -> None:
    id = make("cat", "/tmp/a", "/tmp/b", start=False)
    path = f"/containers/{id}/archive?path=/tmp"
    assert daemon.request("PUT", path, archive(a="one ", b="two")) == (200, b"")
    daemon.request("POST", f"/containers/{id}/start")
    ended(daemon, id)
    assert logs(daemon, id) == b"one two"
    assert daemon.request("PUT", f"{path}/nosuch", archive(a="x"))[0] == 404


def test_container_prune(daemon: Any, make: Made) -> None:
    old = make("sh", "-c", "echo data >/file", Labels={"old": "1"})
    kept = make("true", Labels={"keep": "1"})
    up = make("sleep", "1000", Labels={"old": "1"})
    ended(daemon, old)
    ended(daemon, kept)
    none = daemon.request("POST", '/containers/prune?filters={"until":["1h"]}')[1]
    assert none["ContainersDeleted"] is None
    reply = daemon.request("POST", '/containers/prune?filters={"label":["old"],"label!":["keep"]}')[1]
    assert reply["ContainersDeleted"] == [old] and reply["SpaceReclaimed"] > 0
    assert inspect(daemon, kept)["Id"] == kept and inspect(daemon, up)["State"]["Running"]
    assert daemon.request("POST", '/containers/prune?filters={"nosuch":["x"]}')[0] == 400
