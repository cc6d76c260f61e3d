"""The distribution's docker-registry on 127.0.0.1, and a few lines that put an image into it."""

import gzip
import hashlib
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PROGRAM = Path("/usr/bin/docker-registry")


@contextmanager
def running_registry(
    folder: Path, passwords: Path | None = None, *, port: int = 0, enter: Sequence[str] = ()
) -> Iterator[str]:
    """Yields host:port. `passwords`: an htpasswd file with bcrypt hashes; without it nobody logs in.

    `enter`: a command that runs it in another network namespace, where `port` is free.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{port or probe.getsockname()[1]}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "store")}},
        "http": {"addr": address},
    }
    if passwords:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    process = subprocess.Popen(
        [*enter, PROGRAM, "serve", str(folder / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 20
        while not _answers(address, process.pid):
            assert process.poll() is None and time.monotonic() < deadline, "docker-registry does not start"
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str, pid: int) -> bool:
    """Whether it listens, in whatever network namespace it is: proc_pid_net(5)."""
    wanted = f":{int(address.rpartition(':')[2]):04X}"
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return False
    return any(line[1].endswith(wanted) and line[3] == "0A" for line in lines)


def _send(url: str, method: str, data: bytes, kind: str) -> Any:
    request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers


def push_files(address: str, name: str, tag: str, layers: Sequence[tuple[str, BinaryIO]]) -> str:
    """Upload an image of gzip files with the digests of what is in them; returns the manifest's digest."""
    described: list[dict[str, Any]] = []
    for _, file in layers:
        data = file.read()
        kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        described.append(_blob(address, name, data, kind))
    return _manifest(address, name, tag, described, [digest for digest, _ in layers], {})


def push(address: str, name: str, tag: str, layers: list[bytes], defaults: dict[str, Any]) -> str:
    """Upload an image of plain layer tars; returns the manifest's digest."""

    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    described = [_blob(address, name, gzip.compress(layer, 1, mtime=0), kind) for layer in layers]
    return _manifest(address, name, tag, described, [_digest(layer) for layer in layers], defaults)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(address: str, name: str, data: bytes, kind: str) -> dict[str, Any]:
    digest = _digest(data)
    location = _send(f"http://{address}/v2/{name}/blobs/uploads/", "POST", b"", "text/plain")["Location"]
    _send(f"{location}&digest={digest}", "PUT", data, "application/octet-stream")
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _manifest(
    address: str,
    name: str,
    tag: str,
    layers: list[dict[str, Any]],
    diff_ids: list[str],
    defaults: dict[str, Any],
) -> str:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": defaults,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": _blob(
            address, name, json.dumps(config).encode(), "application/vnd.docker.container.image.v1+json"
        ),
        "layers": layers,
    }
    headers = _send(f"http://{address}/v2/{name}/manifests/{tag}", "PUT", json.dumps(manifest).encode(), kind)
    return headers["Docker-Content-Digest"]
