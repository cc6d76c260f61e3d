"""Bad input: one clear message, the documented status or exit code, and nothing half-made.

Each row is compared before and after: records, mounts, cgroups, links, nft elements, files, images, processes.
"""

import http.server
import io
import json
import os
import re
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine import machine_state as state
from tests.engine.conftest import ROOT, docker_cli

PORT = 28180


@pytest.fixture(scope="module", autouse=True)
def first(daemon: Any) -> Iterator[None]:
    """A running and a stopped container that stand in the way."""
    daemon.docker("run", "-d", "--name", "first", "-p", f"127.0.0.1:{PORT}:80", "busybox", "sleep", "1000")
    daemon.docker("create", "--name", "stopped", "busybox", "true")
    yield
    daemon.remove_containers()


@pytest.fixture(autouse=True)
def nothing_half_made(daemon: Any, first: None) -> Iterator[None]:
    before, log = state.of_daemon(daemon), daemon.log.stat().st_size
    yield
    left = state.settle(lambda: state.difference(before, state.of_daemon(daemon)))
    assert not left, json.dumps(left, indent=1)
    with daemon.log.open() as file:
        file.seek(log)
        assert "Traceback" not in file.read()


def host(**options: Any) -> dict[str, Any]:
    return {"HostConfig": options}


CREATE: list[tuple[str, dict[str, Any], int, str]] = [
    ("", {"Image": "nosuch:1"}, 404, "No such image: nosuch:1"),
    ("", {"Image": "sha256:" + "0" * 64}, 404, "No such image"),
    ("", {"Image": "BAD!"}, 400, "invalid reference format"),
    ("", {"Image": ""}, 400, "config cannot be empty"),
    ("first", {}, 409, 'The container name "/first" is already in use by container'),
    ("a%20b", {}, 400, "Invalid container name (a b)"),
    # Wrong types name the field
    ("", {"Cmd": 5}, 400, "$.Cmd"),
    ("", {"Env": "A=1"}, 400, "$.Env"),
    ("", {"Labels": ["x"]}, 400, "$.Labels"),
    ("", {"Tty": "yes"}, 400, "$.Tty"),
    ("", {"StopTimeout": "1"}, 400, "$.StopTimeout"),
    ("", {"HostConfig": 5}, 400, "$.HostConfig"),
    ("", host(Memory="64m"), 400, "$.HostConfig.Memory"),
    ("", host(Memory=1.5), 400, "$.HostConfig.Memory"),
    ("", host(Memory=1 << 70), 400, "does not fit into 64 bits"),
    ("", host(Privileged="yes"), 400, "$.HostConfig.Privileged"),
    ("", host(CapAdd="ALL"), 400, "$.HostConfig.CapAdd"),
    ("", host(PortBindings={"80/tcp": [{"HostPort": 80}]}), 400, "HostPort"),
    # Sizes and numbers
    ("", host(Memory=1), 400, "Minimum memory limit allowed is 6MB"),
    ("", host(Memory=-5), 400, "Minimum memory limit allowed is 6MB"),
    ("", host(MemorySwap=1 << 30), 400, "always set the Memory limit"),
    ("", host(MemorySwappiness=500), 400, "valid memory swappiness range is 0-100"),
    ("", host(NanoCpus=10**13), 400, "Range of CPUs is from 0.01 to"),
    ("", host(CpusetCpus="999"), 400, "Requested CPUs are not available"),
    ("", host(CpuPeriod=5), 400, "CPU cfs period"),
    ("", host(ShmSize=-1), 400, "SHM size"),
    ("", host(OomScoreAdj=5000), 400, "[-1000, 1000]"),
    ("", host(PidsLimit=-9), 400, "invalid PidsLimit: -9"),
    ("", host(Ulimits=[{"Name": "nofile", "Soft": 9, "Hard": 5}]), 400, "less than or equal to hard limit: 9 > 5"),
    # Names of things that do not exist
    ("", host(CapAdd=["NOSUCH"]), 400, 'invalid capability: "NOSUCH"'),
    ("", host(CapDrop=["NOSUCH"]), 400, 'invalid capability: "NOSUCH"'),
    ("", host(NetworkMode="nosuch"), 400, "network nosuch not found"),
    ("", host(NetworkMode="container:nosuch"), 400, "No such container: nosuch"),
    ("", host(VolumesFrom=["nosuch"]), 400, "No such container: nosuch"),
    ("", host(RestartPolicy={"Name": "nosuch"}), 400, "unknown policy 'nosuch'"),
    ("", host(LogConfig={"Type": "nosuch"}), 400, "no log driver named 'nosuch'"),
    ("", host(Runtime="nosuch"), 400, "unknown or invalid runtime name: nosuch"),
    ("", host(SecurityOpt=["nosuch"]), 400, "invalid --security-opt"),
    ("", host(Sysctls={"nosuch": "1"}), 400, "sysctl 'nosuch' is not allowed"),
    ("", host(IpcMode="nosuch"), 400, "invalid IpcMode"),
    ("", host(Isolation="hyperv"), 400, "Invalid isolation"),
    ("", host(StorageOpt={"size": "1g"}), 400, "StorageOpt is not supported"),
    ("", {"StopSignal": "NOSUCH"}, 400, "Invalid signal: NOSUCH"),
    # Paths, ports, addresses
    ("", host(Binds=["rel/path:/x"]), 400, "use absolute path"),
    ("", host(Binds=["/tmp:rel"]), 400, "mount path must be absolute"),
    ("", host(Binds=["/tmp:/"]), 400, "destination can't be '/'"),
    ("", host(Binds=["/tmp:/x:zz"]), 400, "invalid mode: zz"),
    ("", host(Binds=["a:b:c:d"]), 400, "invalid volume specification: 'a:b:c:d'"),
    ("", host(Binds=["new1:/x", "new2:/y", "/tmp:rel"]), 400, "mount path must be absolute"),
    ("", host(Mounts=[{"Type": "bind", "Source": "/no/such", "Target": "/x"}]), 400, "bind source path does not exist: /no/such"),
    ("", host(Mounts=[{"Type": "nosuch", "Target": "/x"}]), 400, "mount type unknown"),
    ("", host(Mounts=[{"Type": "bind", "Target": "/x"}]), 400, "field Source must not be empty"),
    ("", host(Tmpfs={"rel": ""}), 400, "mount path must be absolute"),
    ("", host(PortBindings={"80": [{"HostPort": "abc"}]}), 400, "invalid HostPort 'abc'"),
    ("", host(PortBindings={"99999/tcp": [{"HostPort": "80"}]}), 400, "invalid port specification: '99999/tcp'"),
    ("", host(PortBindings={"80/tcp": [{"HostIp": "1.2.3"}]}), 400, "invalid HostIp '1.2.3'"),
    ("", host(Dns=["nosuch"]), 400, "invalid nameserver address: 'nosuch'"),
    ("", {"MacAddress": "zz"}, 400, "invalid MAC address: 'zz'"),
    ("", {"WorkingDir": "rel"}, 400, "it needs to be an absolute path"),
    ("", {"Hostname": "bad host"}, 400, "invalid hostname format"),
    ("", {"Env": ["=x"]}, 400, "invalid environment variable"),
    ("", {"Cmd": ["a\0b"]}, 400, "a NUL character"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "status", "words"), CREATE, ids=lambda value: str(value)[:50])
def test_create(daemon: Any, name: str, body: dict[str, Any], status: int, words: str) -> None:
    given = {"Image": "busybox", "Cmd": ["true"], **body}
    found, reply = daemon.request("POST", f"/containers/create{f'?name={name}' if name else ''}", given)
    assert (found, words in reply.get("message", "")) == (status, True), (found, reply)
    assert "\n" not in reply["message"]


START: list[tuple[dict[str, Any], int, str]] = [
    ({"Cmd": ["no-such-command"]}, 400, 'exec: "no-such-command": executable file not found in $PATH'),
    ({"Cmd": ["/no/such"]}, 400, "no such file or directory"),
    ({"Cmd": ["/etc/passwd"]}, 400, "permission denied"),
    ({"User": "nosuch"}, 500, "unable to find user nosuch"),
    ({"WorkingDir": "/etc/passwd"}, 400, "not a directory"),
    (host(GroupAdd=["nosuch"]), 500, "unable to find group nosuch"),
    (host(Tmpfs={"/t": "size=abc"}), 500, 'error mounting "tmpfs" to rootfs at "/t": invalid argument'),
    (host(Devices=[{"PathOnHost": "/dev/nosuch", "PathInContainer": "/dev/x"}]), 400, "/dev/nosuch"),
    (host(PidMode="container:nosuch"), 404, "No such container: nosuch"),
    (host(NetworkMode="container:stopped"), 409, "is not running"),
    (host(PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(PORT)}]}), 500,
     f"Bind for 127.0.0.1:{PORT} failed: port is already allocated"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "words"), START, ids=lambda value: str(value)[:50])
def test_start(daemon: Any, body: dict[str, Any], status: int, words: str) -> None:
    """The container stays created, as in Docker, without anything in the kernel, and can be removed."""
    made, reply = daemon.request("POST", "/containers/create", {"Image": "busybox", "Cmd": ["true"], **body})
    assert made == 201, reply
    created = state.of_daemon(daemon)
    found, refused = daemon.request("POST", f"/containers/{reply['Id']}/start")
    assert (found, words in refused["message"]) == (status, True), (found, refused)
    half = state.settle(lambda: kernel_part(state.difference(created, state.of_daemon(daemon))))
    assert not half, half
    view = daemon.request("GET", f"/containers/{reply['Id']}/json")[1]
    assert (view["State"]["Status"], view["State"]["Pid"]) == ("created", 0)
    assert words in view["State"]["Error"]
    assert daemon.request("DELETE", f"/containers/{reply['Id']}")[0] == 204


def kernel_part(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Files of a container (its hostname, its upper directory) may be there after a failed start."""
    return {kind: names for kind, names in found.items() if kind not in ("data", "run")}


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_a_port_of_another_program(daemon: Any, address: str) -> None:
    with socket.socket() as taken:
        taken.bind((address, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = daemon.docker(
            "run", "-d", "--name", "pp", "-p", f"{port}:80", "busybox", "sleep", "9", check=False
        )
        assert done.code == 125
        assert re.search(rf"{port}.*(address already in use|port is already allocated)", done.err), done
        assert daemon.docker("inspect", "-f", "{{.State.Status}}", "pp").out == "created\n"
    daemon.docker("start", "pp")  # once it is free
    daemon.docker("rm", "-f", "pp")


REQUESTS: list[tuple[str, Any, int, str]] = [
    ("POST /containers/create", b"{bad", 400, "invalid JSON"),
    ("POST /containers/create", b"[1]", 400, "Expected `object`, got `array`"),
    ("GET /nosuch", None, 404, "page not found"),
    ("PUT /containers/json", None, 404, "page not found"),
    ("GET /v9.99/info", None, 400, "client version 9.99 is too new. Maximum supported API version is"),
    ("GET /v1.1/info", None, 400, "client version 1.1 is too old. Minimum supported API version is"),
    ("GET /containers/nosuch/json", None, 404, "No such container: nosuch"),
    ("GET /containers/json?filters=%7B", None, 400, "invalid filters"),
    ("GET /containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D", None, 400, "invalid filter 'nosuch'"),
    ("GET /containers/json?limit=x", None, 400, "invalid value of limit"),
    ("DELETE /containers/first", None, 409, "container is running"),
    ("DELETE /containers/nosuch", None, 404, "No such container"),
    ("POST /containers/first/start", None, 304, ""),
    ("POST /containers/stopped/stop", None, 304, ""),
    ("POST /containers/stopped/kill", None, 409, "is not running"),
    ("POST /containers/first/kill?signal=NOSUCH", None, 400, "Invalid signal: NOSUCH"),
    ("POST /containers/first/rename?name=stopped", None, 409, "already in use"),
    ("POST /containers/first/rename?name=", None, 400, "may be empty"),
    ("POST /containers/first/update", {"Memory": 1}, 400, "Minimum memory limit"),
    ("POST /containers/first/update", {"Memory": "x"}, 400, "$.Memory"),
    ("POST /containers/first/resize?h=x&w=1", None, 400, "invalid value of h"),
    ("POST /containers/first/wait?condition=x", None, 400, "invalid condition"),
    ("POST /containers/first/unpause", None, 409, "is not paused"),
    ("POST /containers/first/exec", {}, 400, "No exec command specified"),
    ("POST /containers/stopped/exec", {"Cmd": ["true"]}, 409, "is not running"),
    ("POST /exec/nosuch/start", {}, 404, "No such exec instance: nosuch"),
    ("GET /containers/first/logs", None, 400, "you must choose at least one stream"),
    ("GET /containers/first/archive?path=/nosuch", None, 404, "Could not find the file /nosuch"),
    ("PUT /containers/first/archive?path=/tmp", b"garbage" * 100, 400, "invalid tar archive"),
    ("PUT /containers/first/archive?path=/nosuch", b"", 404, "Could not find the file /nosuch"),
    ("POST /volumes/create", {"Name": "../x"}, 400, "includes invalid characters"),
    ("POST /volumes/create", {"Name": 5}, 400, "$.Name"),
    ("POST /volumes/create", {"Name": "x", "Driver": "nosuch"}, 404, "nosuch"),
    ("DELETE /volumes/nosuch", None, 404, "no such volume"),
    ("POST /networks/create", {"Name": "bridge"}, 403, "predefined"),
    ("POST /networks/create", {"Name": "x", "IPAM": {"Config": [{"Subnet": "1.2.3"}]}}, 400, "invalid subnet"),
    ("DELETE /networks/bridge", None, 403, "pre-defined"),
    ("DELETE /networks/nosuch", None, 404, "network nosuch not found"),
    ("POST /images/busybox/tag?repo=BAD!&tag=x", None, 400, "invalid reference format"),
    ("POST /images/nosuch/tag?repo=x", None, 404, "No such image: nosuch"),
    ("POST /images/create?fromSrc=-&repo=x", b"garbage" * 1000, 400, "not a tar archive"),
    ("POST /images/create?fromImage=BAD!", None, 400, "invalid reference format"),
    ("DELETE /images/nosuch", None, 404, "No such image: nosuch"),
    ("DELETE /images/busybox", None, 409, "conflict: unable to remove"),
    ("POST /build", b"", 400, "the build context is empty"),
    ("POST /build", b"xx" * 1000, 400, "no tar archive"),
    ("POST /commit?container=nosuch", None, 404, "No such container: nosuch"),
    ("POST /longshore/v1/apply", b"{bad", 400, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_line", "body", "status", "words"), REQUESTS, ids=lambda value: str(value)[:60]
)
def test_request(daemon: Any, request_line: str, body: Any, status: int, words: str) -> None:
    method, path = request_line.split(" ", 1)
    found, reply = daemon.request(method, path, body)
    message = reply["message"] if isinstance(reply, dict) else ""
    assert (found, words in message) == (status, True), (found, reply)


@pytest.mark.parametrize("archive", [b"", b"abc", b"garbage" * 1000], ids=len)
def test_a_bad_archive_is_told_in_the_stream(daemon: Any, archive: bytes) -> None:
    """As by dockerd: clients look for the error there, the status is 200 already."""
    status, reply = daemon.request("POST", "/images/load", archive)
    assert status == 200
    assert "invalid image archive" in reply["error"] and reply["errorDetail"]["message"] == reply["error"]


def context(dockerfile: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        archive.addfile(member, io.BytesIO(dockerfile.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FROM busybox\nRUN true\nNOSUCH 1\n", ("unknown instruction: NOSUCH", "line 3")),
        ("RUN true\n", ("no build stage in current context",)),
        ("", ("cannot be empty",)),
        ("FROM busybox\nCOPY\n", ("COPY requires at least", "line 2")),
        ("FROM\n", ("FROM requires", "line 1")),
    ],
)
def test_a_bad_dockerfile(daemon: Any, dockerfile: str, words: tuple[str, ...]) -> None:
    status, reply = daemon.request("POST", "/build", context(dockerfile))
    text = reply["message"] if isinstance(reply, dict) else str(reply)
    assert status == 400, (status, reply)
    assert all(word in text for word in words), text


def test_a_build_step_that_fails_leaves_nothing(daemon: Any, tmp_path: Path) -> None:
    for steps, words in (
        ("RUN exit 7", "The command '/bin/sh -c exit 7' returned a non-zero code: 7"),
        ("COPY nosuch /", "nosuch"),
        ("COPY ../../etc/passwd /", ""),
        ("FROM nosuch.invalid/x", "nosuch.invalid"),
        ("USER nosuch\nRUN true", "unable to find user nosuch"),
        ("EXPOSE nosuch", "nosuch"),
        ('ENV A="b', "line 2"),
    ):
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{steps}\n")
        done = daemon.docker("build", "--force-rm", str(tmp_path), check=False)
        assert done.code == (7 if "7" in steps else 1), done
        assert words in done.err, done
    daemon.docker("image", "prune", "-f")


# The command lines


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (("longshored", "--nosuch"), 1, "unrecognized arguments: --nosuch"),
        (("longshored", "--mtu", "x"), 1, "--mtu"),
        (("longshored", "-H", "nosuch://x"), 1, "nosuch://x"),
        (("longshored", "--log-level", "nosuch"), 1, "unknown log level 'nosuch'"),
        (("longshored", "-H", "tcp://127.0.0.1:0"), 1, "refusing to listen on TCP without client certificates"),
        (("longshored", "--config-file", "/nosuch"), 1, "cannot read the config file /nosuch"),
        (("longshored", "--data-root", "/proc/nosuch"), 1, "cannot create /proc/nosuch"),
        (("longshore", "--nosuch"), 125, "unknown flag: --nosuch"),
        (("longshore", "nosuch"), 1, "unknown command: longshore nosuch"),
        (("longshore", "run", "--nosuch", "busybox"), 125, "unknown flag: --nosuch"),
        (("longshore", "ps", "--nosuch"), 125, "unknown flag: --nosuch"),
        (("longshore", "run", "-m", "abc", "busybox"), 125, "invalid argument 'abc' for --memory"),
        (("docker", "run", "--nosuch", "busybox"), 125, "unknown flag: --nosuch"),
    ],
)  # fmt: skip
def test_bad_flags(daemon: Any, command: tuple[str, ...], code: int, words: str) -> None:
    name, *arguments = command
    if name == "longshored":
        run = subprocess.run([*daemon.command[:1], *arguments], capture_output=True, text=True, timeout=20)
        found, text = run.returncode, run.stderr
        assert text.startswith("longshored: ") and text.count("\n") == 1, text
    else:
        done = getattr(daemon, name)(*arguments, check=False)
        found, text = done.code, done.err
    assert (found, words in text) == (code, True), (found, text)


def clients() -> list[str]:
    unpacked = ROOT / "build/docker/usr/bin/docker"
    return sorted({path for path in (docker_cli(), str(unpacked)) if path and Path(path).exists()})


@pytest.mark.parametrize("client", clients())
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "--rm", "busybox", "no-such-command"), 127, "executable file not found"),
        (("run", "--rm", "busybox", "/etc/passwd"), 126, "permission denied"),
        (("run", "--rm", "--name", "first", "busybox"), 125, "is already in use"),
        (("run", "--rm", "-p", f"127.0.0.1:{PORT}:80", "busybox"), 125, "port is already allocated"),
        (("run", "--rm", "--network", "container:nosuch", "busybox"), 125, "No such container: nosuch"),
        (("run", "--rm", "--volumes-from", "nosuch", "busybox"), 125, "No such container: nosuch"),
        (("run", "--rm", "-v", "/tmp:rel", "busybox"), 125, "must be absolute"),
        (("run", "--rm", "--cap-add", "NOSUCH", "busybox"), 125, "invalid capability"),
        (("exec", "-w", "/nosuch", "first", "true"), 126, "no such file or directory"),
        (("exec", "nosuch", "true"), 1, "No such container: nosuch"),
        (("rm", "first"), 1, "container is running"),
        (("pull", "127.0.0.1:1/nosuch"), 1, "127.0.0.1:1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_every_docker_cli(
    daemon: Any, client: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = daemon.run_cli([client, *arguments], input=None, check=False, timeout=30)
    assert done.code == code, done
    assert words in done.out + done.err, done
    assert "Unable to find image" not in done.err, "a missing thing was taken for a missing image"


@pytest.mark.parametrize("client", [*clients(), "longshore"])
def test_a_stopped_engine(daemon: Any, client: str, tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/nobody.sock"
    if client == "longshore":
        done = daemon.longshore("-H", nobody, "ps", check=False)
        assert "is longshored running?" in done.err
    else:
        done = daemon.run_cli([client, "-H", nobody, "ps"], input=None, check=False, timeout=20)
        assert "Is the docker daemon running?" in done.err
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1, done


# What is not even HTTP


def raw(path: str, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        answer = b""
        try:
            sock.sendall(data)
        except OSError:
            pass  # it has refused already
        try:
            while part := sock.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
        return answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x00" * 1000,
        os.urandom(64).replace(b"\n", b"") + b"\n" * 3,
        b"nonsense\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /build HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=repr,
)
def test_garbage_on_the_socket(daemon: Any, data: bytes) -> None:
    assert raw(daemon.socket, data).startswith(b"HTTP/1.1 400 ")
    assert daemon.answers()


class Garbage(http.server.BaseHTTPRequestHandler):
    """A registry that answers 200 to everything, with something else each time."""

    bodies = (
        b"{",
        b"<html>",
        b"\xff" * 100,
        json.dumps({"schemaVersion": 2, "layers": [{}]}).encode(),
        b"[]",
    )
    turn = 0

    def do_GET(self) -> None:
        body = b"" if self.path == "/v2/" else self.bodies[Garbage.turn % len(self.bodies)]
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_registry_that_answers_garbage(daemon: Any) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Garbage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for turn in range(len(Garbage.bodies)):
            Garbage.turn = turn
            begin = time.monotonic()
            done = daemon.docker("pull", f"127.0.0.1:{server.server_port}/x/y:1", check=False)
            assert done.code == 1, (turn, done)
            assert len(done.err.strip().splitlines()) == 1, (turn, done)
            assert "127.0.0.1" in done.err and "internal error" not in done.err, (turn, done)
            assert time.monotonic() - begin < 10
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
