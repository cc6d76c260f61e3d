"""A private daemon for tests: own roots, bridge and socket; leaves nothing behind."""

import asyncio
import compileall
import functools
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
CGROUP_DRIVER = os.environ.get("LONGSHORE_TEST_CGROUP_DRIVER", "")  # empty: as the daemon chooses


def load_helper(name: str) -> Any:
    """A helper module beside the tests (with importmode=importlib no folder is on sys.path)."""
    qualified = f"longshore_tests_{name}"
    if qualified not in sys.modules:
        spec = importlib.util.spec_from_file_location(qualified, HERE / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[qualified] = module
        spec.loader.exec_module(module)
    return sys.modules[qualified]


def docker_cli() -> str:
    """The stock docker command; "" when this machine has none."""
    unpacked = ROOT / "build/docker/usr/bin/docker"
    return shutil.which("docker") or (str(unpacked) if unpacked.exists() else "")


class DaemonUnderTest:
    """One longshored with roots of its own, and the clients that talk to it."""

    def __init__(self, number: int, *flags: str) -> None:
        # Short: the path of a unix socket has at most 107 bytes
        self.folder = Path(tempfile.mkdtemp(prefix=f"ls{number}-{os.getpid()}-", dir="/var/tmp"))
        self.data, self.run = self.folder / "data", self.folder / "run"
        self.socket = str(self.folder / "api.sock")
        self.host = f"unix://{self.socket}"
        self.bridge = f"lst{os.getpid() % 100000}x{number}"
        self.bip = f"10.{200 + number % 50}.{os.getpid() % 250}.1/24"
        self.log = self.folder / "daemon.log"
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.images = load_helper("images")
        self.seen: set[str] = set()  # ids of the containers it ever had, see machine_state

    @property
    def command(self) -> list[str]:
        return [
            *shlex.split(
                os.environ.get("LONGSHORED", str(BIN / "longshored"))
            ),  # another build of it, a wrapper
            *("--data-root", str(self.data), "--exec-root", str(self.run)),
            *(
                "-H",
                self.host,
                "--pidfile",
                str(self.folder / "pid"),
                "--bridge",
                self.bridge,
                "--bip",
                self.bip,
            ),
            *("--config-file", str(self.folder / "daemon.json"), "--log-level", "debug", *self.flags),
            *(("--exec-opt", f"native.cgroupdriver={CGROUP_DRIVER}") if CGROUP_DRIVER else ()),
        ]

    def start(self) -> None:
        """Returns when it answers a ping."""
        _compile_sources()
        (self.folder / "daemon.json").write_text("{}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 300  # an emulated machine is twelve times slower
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"longshored does not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(self.socket)
                sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return sock.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal; containers run on. Returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.stop(number)
        self.start()

    def run_cli(self, command: list[str], *, input: bytes | None, check: bool, timeout: float) -> "Done":
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.folder),
            "DOCKER_BUILDKIT": "0",
            "TERM": "xterm",
        }
        done = subprocess.run(
            command,
            input=input if input is not None else b"",
            capture_output=True,
            env=environment,
            timeout=timeout,
        )
        result = Done(done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and result.code != 0:
            raise AssertionError(f"{command} -> {result}\n{self.log.read_text()[-3000:]}")
        return result

    def docker(
        self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float = 60
    ) -> "Done":
        """Run the stock docker CLI; with `check` a failure is an AssertionError that shows everything."""
        cli = docker_cli()
        if not cli:
            pytest.skip("no docker CLI on this machine (make setup unpacks one)")
        return self.run_cli([cli, *arguments], input=input, check=check, timeout=timeout)

    def longshore(
        self, *arguments: str, input: bytes | None = None, check: bool = True, timeout: float = 60
    ) -> "Done":
        """Run our own CLI."""
        return self.run_cli([str(BIN / "longshore"), *arguments], input=input, check=check, timeout=timeout)

    @property
    def client(self) -> Any:
        """docker-py."""
        docker = pytest.importorskip("docker")
        return docker.DockerClient(base_url=self.host, timeout=60)

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """(status, JSON value or bytes) of one request, for what no client sends."""
        from longshore.cli.client import ApiError, Client

        try:
            response = Client(self.host).request(method, path, None, body)
        except ApiError as error:
            return error.status, {"message": str(error)}
        data = response.read()
        is_json = response.headers.get("content-type") == "application/json"
        return response.status, json.loads(data) if is_json and data.strip() else data

    def load(self, archive: bytes | None = None) -> None:
        """Load an archive, by default the busybox image `busybox:latest`."""
        status, reply = self.request("POST", "/images/load", archive or self.images.busybox_tar())
        assert status == 200, reply
        assert b"error" not in (reply if isinstance(reply, bytes) else json.dumps(reply).encode()), reply

    def remove_containers(self) -> None:
        for container in self.request("GET", "/containers/json?all=1")[1]:
            self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")

    def clean(self) -> None:
        """End everything: containers, daemon, bridge, table, folders. Twice is fine."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.remove_containers()
                self.stop()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            asyncio.run(_remove_network(self.bridge, self.bip))
            shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def _compile_sources() -> None:
    """As an installed engine is: without it every start pays for compiling (PYTHONDONTWRITEBYTECODE is common)."""
    compileall.compile_dir(ROOT / "engine/src", quiet=2)


class Done:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


async def _remove_network(bridge: str, bip: str) -> None:
    from longshore.network.manager import NetworkManager
    from longshore.network.model import NetworkSettings

    manager = NetworkManager(NetworkSettings(bridge=bridge, bip=bip))
    await manager.setup()
    await manager.close(remove=True)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_on_the_machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Mounts, cgroups, links, tables, processes and files: after all kernel and compat tests as before them.

    Set up before and taken down after every other fixture, the daemon of the session included.
    """
    wanted = {"kernel", "compat"}
    if os.geteuid() != 0 or not any(wanted & set(item.path.parts) for item in request.session.items):
        yield
        return
    state = load_helper("machine_state")
    os.environ[state.MARK] = mark = f"{os.getpid()}-{time.monotonic_ns()}"
    before = state.of_machine(mark)
    yield
    left = state.lasting(lambda: state.changes(before, state.of_machine(mark)))
    assert not left, f"the tests left the machine in another state:\n{json.dumps(left, indent=1)}"


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def daemon() -> Iterator[DaemonUnderTest]:
    """One daemon for the whole session, with `busybox:latest` loaded."""
    need_root()
    under_test = DaemonUnderTest(0)
    try:
        under_test.start()
        under_test.load()
        yield under_test
    finally:
        under_test.clean()


@pytest.fixture(scope="module")
def module_daemon() -> Iterator[DaemonUnderTest]:
    """A daemon of special making for the tests of one file. Not started yet."""
    need_root()
    under_test = DaemonUnderTest(2)
    try:
        yield under_test
    finally:
        under_test.clean()


@pytest.fixture
def own_daemon() -> Iterator[DaemonUnderTest]:
    """A daemon for one test, which may stop, kill and restart it. Not started yet."""
    need_root()
    under_test = DaemonUnderTest(1)
    try:
        yield under_test
    finally:
        under_test.clean()
