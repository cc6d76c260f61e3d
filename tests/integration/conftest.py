"""Two private engines on this machine: one plays the controller, one the host. Needs root and busybox-static."""

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.longshore.fleet.plugins.module_utils._engine import Client, socket_exchange

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
BUSYBOX = Path("/bin/busybox")


@dataclass
class Daemon:
    """One longshored with roots, socket and bridge of its own."""

    folder: Path
    bridge: str
    bip: str
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        return self.folder / "engine.sock"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    BIN / "longshored", "--data-root", self.folder / "data", "--exec-root", self.folder / "run",
                    "--host", f"unix://{self.socket}", "--bridge", self.bridge, "--bip", self.bip,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
            return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def cli(self, *arguments: str | Path, **more: object) -> str:
        done = subprocess.run(
            [BIN / "longshore", "-H", f"unix://{self.socket}", *arguments],
            capture_output=True, timeout=100, check=False, **more,  # type: ignore[call-overload]
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout!r} {done.stderr!r}\n{self.log()}"
        return done.stdout.decode()

    def clean(self) -> None:
        """Remove every container, then what the daemon left for its next start: bridge and table."""
        if self.process and self.process.poll() is None:
            names = self.cli("ps", "-aq").split()
            if names:
                self.cli("rm", "-f", *names)
            self.stop()
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
        for family in ("inet", "ip"):
            subprocess.run(
                ["nft", "delete", "table", family, f"longshore-{self.bridge}"],
                capture_output=True,
                check=False,
            )
        shutil.rmtree(self.folder, ignore_errors=True)


def busybox_archive() -> bytes:
    """A root with nothing but busybox and its names."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for folder in ("bin", "tmp", "www"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        archive.add(BUSYBOX, "bin/busybox")
        for name in names:
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
    return data.getvalue()


DOCKERFILE = """\
FROM it-busybox:1
COPY index.html /www/index.html
EXPOSE 8080
STOPSIGNAL KILL
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
"""


def build_app(daemon: Daemon, folder: Path, version: int, tag: str) -> None:
    source = folder / f"app{version}"
    source.mkdir(exist_ok=True)
    (source / "Dockerfile").write_text(DOCKERFILE)
    (source / "index.html").write_text(f"version {version}\n")
    daemon.cli("build", "-t", tag, source)


@dataclass
class Lab:
    controller: Daemon
    host: Daemon
    folder: Path
    images: tuple[str, str] = ("it-app:1", "it-app:2")

    def playbook(
        self, playbook: str, *options: str, **variables: object
    ) -> "subprocess.CompletedProcess[str]":
        values = {
            "lab_host_socket": self.host.socket,
            "lab_controller_socket": self.controller.socket,
            "lab_image_1": self.images[0],
            "lab_image_2": self.images[1],
            **variables,
        }
        inventory = self.folder / "hosts.yml"
        inventory.write_text(
            "machines: {hosts: {it-host: {ansible_connection: local, ansible_user: root, "
            f"ansible_python_interpreter: {sys.executable}}}}}}}\n"
        )
        extra = [word for name, value in values.items() for word in ("-e", f"{name}={value}")]
        return subprocess.run(
            [BIN / "ansible-playbook", "-i", inventory, playbook, *extra, *options],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Generator[Lab, None, None]:
    if os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip("needs root and busybox-static")
    folder = tmp_path_factory.mktemp("lab")
    controller = Daemon(folder / "controller", "it-control0", "172.31.240.1/24")
    host = Daemon(folder / "host", "it-host0", "172.31.241.1/24")
    with contextlib.ExitStack() as undo:
        for daemon in (controller, host):
            undo.callback(daemon.clean)
            daemon.start()
        archive = folder / "busybox.tar"
        archive.write_bytes(busybox_archive())
        Client(socket_exchange(str(controller.socket))).call(
            "POST",
            "/images/create",
            query={"fromSrc": "-", "repo": "it-busybox", "tag": "1"},
            body_file=(str(archive), archive.stat().st_size),
            kind="application/x-tar",
        )
        for version in (1, 2):
            build_app(controller, folder, version, f"it-app:{version}")
        yield Lab(controller, host, folder)
