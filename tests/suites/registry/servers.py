"""The registries that the suite runs against: ours, and Debian's docker-registry with deletion switched on."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEBIAN = Path("/usr/bin/docker-registry")


@contextmanager
def ours(
    folder: Path, *settings: str, config: Mapping[str, Any] | None = None, kill: bool = False
) -> Iterator[str]:
    """`longshore registry serve` as users start it; yields host:port. `settings` are key=value words.

    `kill`: it ends by SIGKILL.
    """
    with free_port() as port:
        address = f"127.0.0.1:{port}"
    (folder / "config.yml").write_text(json.dumps(config or {}))  # JSON is YAML
    words = ["http.addr=" + address, f"storage.filesystem.rootdirectory={folder / 'store'}", *settings]
    command = [str(Path(sys.executable).parent / "longshore"), "registry", "serve"]
    command += ["--config", str(folder / "config.yml"), *(f"--set={word}" for word in words)]
    with running(command, address, folder / "log") as process:
        yield address
        if kill:
            process.kill()


@contextmanager
def debian(folder: Path, config: Mapping[str, Any] | None = None) -> Iterator[str]:
    with free_port() as port:
        address = f"127.0.0.1:{port}"
    settings: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}, "delete": {"enabled": True}},
        "http": {"addr": address},
        **(config or {}),
    }
    (folder / "debian.yml").write_text(json.dumps(settings))
    with running([str(DEBIAN), "serve", str(folder / "debian.yml")], address, folder / "debian.log"):
        yield address


@contextmanager
def free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@contextmanager
def running(command: Sequence[str], address: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that listens at the address when the block begins, and has ended when it is left."""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        wait_for(address, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.03)
