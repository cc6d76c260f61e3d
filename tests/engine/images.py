"""A small image for tests, made from the distribution's static busybox. Equal bytes each time on one machine."""

import functools
import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var")
MODES = {"root": 0o700, "tmp": 0o1777}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


@functools.cache
def applets() -> tuple[str, ...]:
    listing = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
    return tuple(sorted(set(listing.split()) - {"busybox"}))


def busybox_rootfs(path: Path) -> Path:
    """Make a root directory at `path` (which may exist); returns it."""
    for name in DIRECTORIES:
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name).chmod(MODES.get(name, 0o755))
    for name, text in FILES.items():
        (path / name).write_text(text)
    (path / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (path / "bin/busybox").chmod(0o755)
    for name in applets():
        os.link(path / "bin/busybox", path / "bin" / name)
    return path


@functools.cache
def busybox_layer() -> bytes:
    """The same as a plain tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in DIRECTORIES:
            _add(archive, name, kind=tarfile.DIRTYPE, mode=MODES.get(name, 0o755))
        for name, text in FILES.items():
            _add(archive, name, text.encode())
        _add(archive, "bin/busybox", BUSYBOX.read_bytes(), mode=0o755)
        for name in applets():
            _add(archive, f"bin/{name}", kind=tarfile.LNKTYPE, link="bin/busybox", mode=0o755)
    return buffer.getvalue()


@functools.cache
def busybox_tar(reference: str = "busybox:latest") -> bytes:
    """A `docker save` archive of one image with CMD ["sh"]."""
    return docker_archive([busybox_layer()], reference, {"Cmd": ["sh"], "Env": ["PATH=/bin:/usr/bin"]})


def docker_archive(layers: list[bytes], reference: str, defaults: dict[str, object]) -> bytes:
    """A `docker save` archive (the format before Docker 25) of an image with these plain layer tars."""
    digests = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": defaults,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "test"} for _ in layers],
        },
        sort_keys=True,
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [
        {
            "Config": config_name,
            "RepoTags": [reference],
            "Layers": [f"{digest}/layer.tar" for digest in digests],
        }
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        _add(archive, config_name, config)
        for digest, layer in zip(digests, layers, strict=True):
            _add(archive, f"{digest}/layer.tar", layer)
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    return buffer.getvalue()


def _add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
    member.mtime = 1_700_000_000
    archive.addfile(member, io.BytesIO(data))
