"""One engine under test with the mirror and the images that the suite expects. Runs inside of our namespaces."""

import contextlib
import functools
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.engine import images
from tests.engine.compat.registry import push, running_registry

POSTGRES = "postgres:x:70:70::/var/lib/postgresql:/bin/sh\n"
FOLDERS = ("var/opt", "var/lib/postgresql", "mnt", "opt", "vol1")


@contextlib.contextmanager
def running(name: str, root: Path, verbose: bool) -> Generator[str, None, None]:
    """Yields the engine's address. Everything is ended and removed afterwards."""
    work = Path(tempfile.mkdtemp(prefix="dpy", dir="/var/tmp"))
    try:
        (work / "registry").mkdir()
        with running_registry(work / "registry") as address:
            for repository, tag, layers in repositories():
                push(address, f"library/{repository}", tag, layers, defaults(repository))
            with daemon(command(name, root, work, f"http://{address}"), root, work, verbose) as path:
                load(path)
                yield f"unix://{path}"
    finally:
        shutil.rmtree(work, ignore_errors=True)


def command(name: str, root: Path, work: Path, mirror: str) -> list[str]:
    shared = [
        "--experimental",
        *("--data-root", f"{work}/data", "--exec-root", f"{work}/run", "--pidfile", f"{work}/pid"),
        *("-H", f"unix://{work}/s.sock", "--registry-mirror", mirror, "--config-file", f"{work}/daemon.json"),
    ]
    (work / "daemon.json").write_text("{}")
    if name == "docker":
        return [f"{docker_folder(root)}/sbin/dockerd", *shared]
    return [f"{root}/.venv/bin/longshored", "--log-level", "debug", "--bridge", "lsdpy0", *shared]


def docker_folder(root: Path) -> Path:
    """Debian trixie's dockerd where it was unpacked (see README.md), else the one that `make setup` unpacks."""
    newer = root / "build/docker-trixie/usr"
    return newer if newer.is_dir() else root / "build/docker/usr"


@contextlib.contextmanager
def daemon(argv: list[str], root: Path, work: Path, verbose: bool) -> Generator[Path, None, None]:
    path, log = work / "s.sock", work / "log"
    folder = docker_folder(root)
    environment = os.environ | {"PATH": f"{folder}/bin:{folder}/sbin:{os.environ['PATH']}"}
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{argv[0]} does not start:\n{log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)
        yield path
        remove_containers(path)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.copy(log, root / "build/dockerpy/engine.log")
        if verbose:
            print(log.read_text(errors="replace"), file=sys.stderr)


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def call(path: Path, method: str, target: str, body: bytes | None = None) -> Any:
    connection = http.client.HTTPConnection("localhost", timeout=120)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    with contextlib.closing(connection):
        connection.request(method, target, body, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        data = answer.read()
    if answer.status >= 400:
        raise RuntimeError(f"{method} {target}: {answer.status} {data.decode()}")
    return json.loads(data) if data[:1] in (b"[", b"{") and method == "GET" else data


def remove_containers(path: Path) -> None:
    for container in call(path, "GET", "/containers/json?all=1"):
        call(path, "DELETE", f"/containers/{container['Id']}?force=1&v=1")


def load(path: Path) -> None:
    for repository, tag, layers in repositories():
        if repository != "hello-world":
            archive = images.docker_archive(layers, f"{repository}:{tag}", defaults(repository))
            call(path, "POST", "/images/load", archive)


@functools.cache
def repositories() -> tuple[tuple[str, str, list[bytes]], ...]:
    """(repository, tag, layers): all of busybox-static, each with an id of its own."""
    base, users = images.busybox_layer(), layer()
    return (
        ("busybox", "latest", [base]),
        ("alpine", "3.10", [base, users, layer(b"3.10.9\n")]),
        ("alpine", "latest", [base, users, layer(b"3.20.0\n")]),
        ("hello-world", "latest", [base]),
    )


def defaults(repository: str) -> dict[str, object]:
    command = ["/bin/echo", "Hello from Docker!"] if repository == "hello-world" else ["/bin/sh"]
    return {"Cmd": command, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}


def layer(release: bytes = b"") -> bytes:
    """What an alpine has beside busybox: a postgres user, a few folders; or only the release file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        files = {"etc/alpine-release": release} if release else {
            "etc/passwd": (images.FILES["etc/passwd"] + POSTGRES).encode(),
            "etc/group": (images.FILES["etc/group"] + "postgres:x:70:\n").encode(),
        }  # fmt: skip
        for name in () if release else FOLDERS:
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
