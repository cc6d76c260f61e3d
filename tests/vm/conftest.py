"""One virtual machine and one engine on this side, the controller's, for the session."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

import docker
import machine as vm
import ring

BIN = vm.ROOT / ".venv/bin"


@pytest.fixture(scope="session")
def work() -> Generator[Path, None, None]:
    (vm.ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vm-", dir=vm.ROOT / "build") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def machine(work: Path) -> Generator[vm.Machine, None, None]:
    booted = vm.boot(work, ring.build_disk())
    try:
        yield booted
    finally:
        booted.stop()


@dataclass
class Controller:
    """The engine that `deploy.yml` ships images from."""

    socket: Path
    client: docker.DockerClient

    def build(self, tag: str, version: int) -> None:
        files = {
            "Dockerfile": "FROM busybox\nCOPY index.html /www/index.html\n"
            'HEALTHCHECK --interval=5s --timeout=10s --start-period=60s CMD ["/bin/busybox", "wget", "-qO-", "http://127.0.0.1/"]\n'
            'CMD ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]\n',
            "index.html": f"version {version}\n",
        }
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        context.seek(0)
        self.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)


def busybox_root() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add("/bin/busybox", "bin/busybox")
        for applet in ("sh", "cat", "sleep"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return stream.getvalue()


@pytest.fixture(scope="session")
def controller(work: Path) -> Generator[Controller, None, None]:
    home = work / "controller"
    home.mkdir()
    path = home / "engine.sock"
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "longshored", "--data-root", home / "data", "--exec-root", home / "run", "--pidfile", home / "pid",
             "--bridge", "lsvm0", "-H", f"unix://{path}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        client = docker.DockerClient(base_url=f"unix://{path}", timeout=120)
        client.api.import_image_from_data(busybox_root(), repository="busybox", tag="latest")
        yield Controller(path, client)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def bundles(work: Path) -> tuple[Path, Path]:
    """Two releases of the same sources, to upgrade from one to the other."""
    made = []
    for version in ("", "9.9.9"):
        done = subprocess.run(
            [BIN / "python", vm.ROOT / "engine/bundle.py", "--version", version],
            check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        written = Path(done.stdout.strip().splitlines()[-1])
        made.append(Path(shutil.copy(written, work)))
        if version:
            written.unlink()  # build/ keeps the real one
    return made[0], made[1]


@pytest.fixture(scope="session")
def inventory(machine: vm.Machine, work: Path) -> Path:
    """inventories/static with this machine as its only host."""
    folder = work / "inventory"
    shutil.copytree(vm.ROOT / "inventories/static", folder)
    hosts = {
        "machines": {
            "hosts": {"vm1": {"ansible_host": "127.0.0.1", "ansible_port": machine.ssh_port}},
            "vars": {
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(machine.home / "user"),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={machine.known_hosts} -o StrictHostKeyChecking=yes",
            },
        }
    }
    (folder / "hosts.yml").write_text(json.dumps(hosts))
    return folder


def playbook(inventory: Path, name: str, *options: str, **variables: object) -> str:
    """Run a playbook; returns its output, shown when it fails."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, vm.ROOT / "playbooks" / name, "-e", json.dumps(variables), *options],
        check=False, capture_output=True, text=True, cwd=vm.ROOT, timeout=900, stdin=subprocess.DEVNULL,
        env=os.environ | {"ANSIBLE_TIMEOUT": "60"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


class Poller(threading.Thread):
    """Asks again and again, a new connection each time, until told to stop."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.answers, self.failures = url, list[str](), list[str]()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.1):
            try:
                with urllib.request.urlopen(self.url, timeout=30) as answer:
                    self.answers.append(answer.read().decode().strip())
            except OSError as error:
                self.failures.append(f"after {len(self.answers)} answers: {error}")

    def stop(self) -> None:
        self._end.set()
        self.join()


@contextlib.contextmanager
def polling(url: str) -> Generator[Poller, None, None]:
    poller = Poller(url)
    poller.start()
    try:
        yield poller
    finally:
        poller.stop()
