"""Fixtures that several files use."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.bench.peers import ROOT
from tests.engine.compat.wire import Made, Stream

RUNTIME = ROOT / ".venv/bin/longshore-oci"
PODMAN = ROOT / "build/podman/usr"


@pytest.fixture
def make(daemon: Any) -> Iterator[Made]:
    """Create (and by default start) a container of busybox; the last words are its command."""

    def one(*command: str, name: str = "", start: bool = True, **config: Any) -> str:
        body = {"Image": "busybox", "Cmd": list(command), **config}
        status, reply = daemon.request("POST", f"/containers/create?name={name}", body)
        assert status == 201, reply
        if start:
            assert daemon.request("POST", f"/containers/{reply['Id']}/start") == (204, b"")
        return str(reply["Id"])

    yield one
    daemon.remove_containers()
    daemon.request("POST", '/volumes/prune?filters={"all":["true"]}')


@pytest.fixture
def stream(daemon: Any) -> Iterator[Callable[..., Stream]]:
    opened: list[Stream] = []

    def one(method: str, path: str, body: Any = None, **headers: str) -> Stream:
        opened.append(Stream(daemon, method, path, body, **headers))
        return opened[-1]

    yield one
    for each in opened:
        each.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path: sockets lie deep in it, and a path of a socket has 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="oci", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def podman(folder: Path) -> Iterator[Callable[..., str]]:
    """Runs a podman command with roots of its own; a subreaper above it, for machines whose process 1 reaps nobody."""
    if not (PODMAN / "bin/podman").exists():
        pytest.skip("make setup unpacks Debian's podman")
    (folder / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
    (folder / "containers.conf").write_text(
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\nconmon_path = ["{PODMAN}/bin/conmon"]\n'
    )
    (folder / "tmp").mkdir()
    environment = os.environ | {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "LD_LIBRARY_PATH": f"{PODMAN}/lib/{platform.machine()}-linux-gnu",
        "TMPDIR": str(folder / "tmp"),
    }
    roots = ["--root", folder / "s", "--runroot", folder / "r", "--tmpdir", folder / "t"]
    command = [
        "tini",
        "-s",
        "--",
        PODMAN / "bin/podman",
        *roots,
        "--storage-driver=vfs",
        f"--runtime={RUNTIME}",
    ]

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("rm", "--all", "--force", "--time=0")
