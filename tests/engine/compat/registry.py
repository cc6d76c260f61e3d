"""The distribution's docker-registry on 127.0.0.1, and a few lines that put an image into it."""

import gzip
import hashlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = Path("/usr/bin/docker-registry")


@contextmanager
def running_registry(folder: Path, passwords: Path | None = None) -> Iterator[str]:
    """Yields host:port. `passwords`: an htpasswd file with bcrypt hashes; without it nobody logs in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
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
        [PROGRAM, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{address}/v2/", timeout=1).close()
                break
            except urllib.error.HTTPError:  # it asks for the login
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (
                    "docker-registry does not start"
                )
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _send(url: str, method: str, data: bytes, kind: str) -> Any:
    request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers


def push(address: str, name: str, tag: str, layers: list[bytes], defaults: dict[str, Any]) -> str:
    """Upload an image of plain layer tars; returns the manifest's digest."""

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = _send(f"http://{address}/v2/{name}/blobs/uploads/", "POST", b"", "text/plain")["Location"]
        _send(f"{location}&digest={digest}", "PUT", data, "application/octet-stream")
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": defaults,
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
        },
    }
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": blob(json.dumps(config).encode(), "application/vnd.docker.container.image.v1+json"),
        "layers": [
            blob(gzip.compress(layer, 1, mtime=0), "application/vnd.docker.image.rootfs.diff.tar.gzip")
            for layer in layers
        ],
    }
    headers = _send(f"http://{address}/v2/{name}/manifests/{tag}", "PUT", json.dumps(manifest).encode(), kind)
    return headers["Docker-Content-Digest"]
