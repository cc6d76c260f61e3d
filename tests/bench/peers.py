"""The two engines under measurement: ours and Debian's dockerd, each alone in a network namespace of its own.

So neither sees the other's bridge or packet filter, and nothing of the machine's own is touched.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "build/docker/usr"
APPLETS = ("sh", "true", "sleep", "cat", "echo", "httpd", "wget")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self.path))


@dataclass(eq=False)
class Engine:
    name: str
    socket: Path
    process: subprocess.Popen[bytes]

    def client(self) -> "Client":
        return Client(self.socket)

    def docker(self, *arguments: str) -> None:
        """The stock CLI, the same binary for both engines."""
        subprocess.run(
            [DOCKER / "bin/docker", "-H", f"unix://{self.socket}", *arguments],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


class Client:
    """One keep-alive connection."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path)

    def call(self, method: str, path: str, body: object = None, data: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        payload = data if data is not None else (json.dumps(body).encode() if body is not None else None)
        self._connection.request(method, path, payload, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text[:1] in b"{[" and text else text

    def stream(self, path: str, data: bytes, ending: str) -> None:
        """POST a tar whose answer is a stream of messages. Raises RuntimeError when `ending` is not in it."""
        self._connection.request("POST", path, data, {"Content-Type": "application/x-tar"})
        text = self._connection.getresponse().read().decode()
        if ending not in text:
            raise RuntimeError(f"{path}: {text[-2000:]}")

    def create(self, *command: str, **config: object) -> str:
        return str(
            self.call("POST", "/v1.41/containers/create", {"Image": "busybox", "Cmd": command, **config})[
                "Id"
            ]
        )

    def start(self, identity: str) -> None:
        self.call("POST", f"/v1.41/containers/{identity}/start")

    def remove(self, identity: str) -> None:
        self.call("DELETE", f"/v1.41/containers/{identity}?force=1&v=1")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def engine(name: str, argv: list[str | Path], work: Path) -> Generator[Engine, None, None]:
    """Start a daemon and end it, and only it, afterwards."""
    path = work / "engine.sock"
    environment = os.environ | {"PATH": f"{DOCKER / 'bin'}:{DOCKER / 'sbin'}:{os.environ['PATH']}"}
    log = (work / "log").open("wb")
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *argv],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
    )  # fmt: skip
    try:
        wait_for(path, process, work / "log")
        peer = Engine(name, path, process)
        with contextlib.closing(peer.client()) as client:
            client.call("POST", "/v1.41/images/create?fromSrc=-&repo=busybox&tag=latest", data=busybox())
        yield peer
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()


def options(work: Path) -> list[str | Path]:
    """The flags that both daemons share."""
    return ["--data-root", work / "data", "--exec-root", work / "run", "--pidfile", work / "pid",
            "-H", f"unix://{work}/engine.sock"]  # fmt: skip


@contextlib.contextmanager
def both() -> Generator[tuple[Engine, Engine], None, None]:
    """Ours and Docker's, running side by side."""
    base = Path(tempfile.mkdtemp(prefix="bench", dir="/var/tmp"))
    ours, theirs = base / "longshore", base / "docker"
    ours.mkdir()
    theirs.mkdir()
    try:
        with (
            engine("longshore", [ROOT / ".venv/bin/longshored", *options(ours)], ours) as first,
            engine("docker", [DOCKER / "sbin/dockerd", *options(theirs)], theirs) as second,
        ):
            yield first, second
    finally:
        shutil.rmtree(base, ignore_errors=True)


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(path))
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args}: does not serve\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def busybox() -> bytes:
    """A root with busybox and a few links, as a tar for `import`."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add("/bin/busybox", "bin/busybox")
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
        file.seek(0)
        return file.read()
