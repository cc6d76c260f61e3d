"""The driver `local`: what it says to an engine, and (with LONGSHORE_HOST set) a whole machine on a real one."""

import io
import json
import os
import socketserver
import tarfile
import threading
import time
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import pytest

from pymachine.drivers import local_image

ENGINE = os.environ.get("LONGSHORE_HOST", "")


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers from a table and notes what it was asked. It imitates no behaviour."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[tuple[str, str], Any] = {
            ("GET", "/version"): {"ApiVersion": "1.44", "Version": "0.1.0", "MinAPIVersion": "1.24"}
        }
        self.asked: list[tuple[str, str, Any]] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Engine

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, path, body))
        answer = self.server.answers.get((self.command, path))
        data = json.dumps(answer if answer is not None else {"message": f"no {path}"}).encode()
        self.send_response(200 if answer is not None else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def engine(tmp_path: Path) -> Generator[Engine]:
    with Engine(tmp_path / "sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def _create(cli: Any, tmp_path: Path, *flags: str) -> Any:
    return cli("create", "--no-engine", f"--local-engine=unix://{tmp_path}/sock", *flags, "web1")


def _container(tmp_path: Path, *, status: str = "running", address: str = "10.9.9.9") -> dict[str, Any]:
    return {
        "Id": "c0ffee",
        "Config": {
            "Tty": True,
            "Labels": {"pymachine.name": "web1", "pymachine.store": str(tmp_path / "store")},
        },
        "State": {"Status": status, "ExitCode": 1},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address}}},
    }


def test_no_engine(cli: Any, tmp_path: Path) -> None:
    failed = _create(cli, tmp_path)
    assert failed.code == 1
    last = failed.err.splitlines()[-1]
    assert f"the engine does not answer on unix://{tmp_path}/sock: No such file or directory" in last
    assert not (tmp_path / "store/machines").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "the base image debian:bookworm is not on the engine"),
        (["--local-image=mine:1"], "the image mine:1 is not on the engine"),
        (["--local-memory=lots"], "--local-memory 'lots' is not a size"),
        (["--local-cpus=-1"], "is not a number of CPUs"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    cli: Any, engine: Engine, tmp_path: Path, flags: list[str], words: str
) -> None:
    failed = _create(cli, tmp_path, *flags)
    assert failed.code == 1
    assert words in failed.err
    assert not (tmp_path / "store/machines").exists()
    assert {method for method, _, _ in engine.asked} <= {"GET"}


def test_a_container_of_somebody_else_is_left_alone(cli: Any, engine: Engine, tmp_path: Path) -> None:
    other = _container(tmp_path)
    other["Config"]["Labels"]["pymachine.store"] = "/elsewhere"
    engine.answers["GET", "/containers/pymachine-web1/json"] = other
    failed = _create(cli, tmp_path)
    assert failed.code == 1
    assert "is not of this store" in failed.err


def test_the_machine_gets_its_identity_before_it_starts(cli: Any, engine: Engine, tmp_path: Path) -> None:
    """The create stops at the start, which this engine refuses; then it is gone on with, and removed."""
    engine.answers["GET", "/images/mine:1/json"] = {"Id": "sha256:1", "Config": {}}
    engine.answers["POST", "/containers/create"] = {"Id": "c0ffee", "Warnings": []}
    engine.answers["PUT", "/containers/c0ffee/archive"] = {}
    engine.answers["GET", "/containers/c0ffee/json"] = _container(tmp_path, status="created")
    failed = _create(cli, tmp_path, "--local-image=mine:1", "--local-memory=512m", "--local-cpus=1.5")
    assert failed.code == 1
    assert "no /containers/c0ffee/start" in failed.err
    assert "the same command goes on from here" in failed.err

    asked = [(method, path) for method, path, _ in engine.asked]
    assert asked.index(("PUT", "/containers/c0ffee/archive")) < asked.index(
        ("POST", "/containers/c0ffee/start")
    )
    (created,) = [json.loads(body) for method, path, body in engine.asked if path == "/containers/create"]
    host = created["HostConfig"]
    assert created["Hostname"] == "web1"
    assert (host["Privileged"], host["CgroupnsMode"], host["Init"]) == (True, "private", True)
    assert host["Binds"] == ["pymachine-web1:/var/lib/longshore"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert (host["Memory"], host["NanoCpus"]) == (512 << 20, 1_500_000_000)
    assert set(host["Tmpfs"]) == {"/run", "/tmp"}

    (identity,) = [body for method, path, body in engine.asked if method == "PUT"]
    with tarfile.open(fileobj=io.BytesIO(identity)) as tar:
        modes = {entry.name: entry.mode for entry in tar.getmembers()}
        public = tar.extractfile("etc/ssh/ssh_host_ed25519_key.pub")
        assert public is not None
        host_key = public.read().decode().split()[1]
    assert modes["etc/ssh/ssh_host_ed25519_key"] == 0o600
    assert modes["root/.ssh"] == 0o700
    folder = tmp_path / "store/machines/web1"
    assert host_key in (folder / "known_hosts").read_text()
    private = [path for path in folder.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert [path.name for path in private] == ["id_ed25519"]  # the host's private key stays nowhere here

    refused = cli("start", "web1")
    assert "half made" in refused.err
    engine.asked.clear()
    engine.answers["GET", "/containers/pymachine-web1/json"] = _container(tmp_path)
    engine.answers["DELETE", "/containers/c0ffee"] = {}
    engine.answers["DELETE", "/volumes/pymachine-web1"] = {}
    assert cli("rm", "-y", "web1").code == 0
    deleted = [path for method, path, _ in engine.asked if method == "DELETE"]
    assert deleted == ["/containers/c0ffee", "/volumes/pymachine-web1"]
    assert not folder.exists()


def test_a_machine_that_ends_at_once_tells_its_last_words(cli: Any, engine: Engine, tmp_path: Path) -> None:
    engine.answers["GET", "/images/mine:1/json"] = {"Id": "sha256:1", "Config": {}}
    engine.answers["POST", "/containers/create"] = {"Id": "c0ffee", "Warnings": []}
    engine.answers["PUT", "/containers/c0ffee/archive"] = {}
    engine.answers["POST", "/containers/c0ffee/start"] = {}
    engine.answers["GET", "/containers/c0ffee/json"] = _container(tmp_path, status="exited", address="")
    engine.answers["GET", "/containers/c0ffee/logs"] = {"sshd": "no hostkeys available"}
    failed = _create(cli, tmp_path, "--local-image=mine:1")
    assert failed.code == 1
    assert "ended with code 1" in failed.err
    assert "no hostkeys available" in failed.err
    assert cli("status", "web1").out == "Stopped\n"


def test_the_build_context_is_the_same_every_time() -> None:
    assert local_image.build_context() == local_image.build_context()
    with tarfile.open(fileobj=io.BytesIO(local_image.build_context())) as tar:
        dockerfile = tar.extractfile("Dockerfile")
        assert dockerfile is not None
        assert f"LABEL pymachine.recipe={local_image.recipe()}" in dockerfile.read().decode()


@pytest.mark.skipif(not ENGINE, reason="needs a running engine: set LONGSHORE_HOST to its socket")
@pytest.mark.timeout(900)
def test_a_real_machine(cli: Any) -> None:
    """Create, log in, stop, start, remove; nothing stays on the engine."""
    client = docker.APIClient(base_url=ENGINE, version="auto")
    name = f"pytest-{os.getpid()}"

    def traces() -> list[str]:
        containers = [found["Names"][0] for found in client.containers(all=True)]
        return [
            entry
            for entry in (*containers, *(v["Name"] for v in client.volumes()["Volumes"] or []))
            if name in entry
        ]

    made = cli("create", "--no-engine", f"--local-engine={ENGINE}", "--local-memory=512m", name)
    try:
        assert made.code == 0, made.err
        assert cli("ssh", name, "hostname").out == f"{name}\n"
        assert cli("ssh", name, "echo kept > /var/lib/longshore/file; echo kept > /root/file").code == 0
        assert cli("stop", name).code == 0
        assert cli("status", name).out == "Stopped\n"
        assert "is not running" in cli("ip", name).err
        started = cli("start", name)
        assert started.code == 0, started.err
        assert cli("ssh", name, "cat /var/lib/longshore/file /root/file").out == "kept\nkept\n"
        begun = time.monotonic()
        assert cli("kill", name).code == 0
        assert time.monotonic() - begun < 5
        assert cli("status", name).out == "Stopped\n"
    finally:
        removed = cli("rm", "-y", name)
    assert removed.code == 0, removed.err
    assert traces() == []
