"""Rows of pulls: from Debian's docker-registry, which runs in the network namespace of the engine under measurement."""

import contextlib
import hashlib
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import isal.igzip
from tests.bench.peers import ROOT, Engine
from tests.bench.rows import timed
from tests.engine.compat import registry as registries

MATERIAL = ROOT / "build/bench"
STORE = MATERIAL / "registry"
PORT = 5000
LARGE = 1 << 30  # bytes of the image whose pull is watched
LARGE_LAYERS = 4


class _Noise:
    """So many bytes that do not compress, the same each time, without a file of them."""

    def __init__(self, seed: int, size: int) -> None:
        self._block = hashlib.shake_256(b"%d" % seed).digest(1 << 20)
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = min(size if size >= 0 else self.left, self.left, len(self._block))
        self.left -= size
        return self._block[:size]


def debian() -> Path:
    """A root of about 200 MB made by mmdebstrap, as a plain tar; kept in build/."""
    path = MATERIAL / "debian.tar"
    if not path.exists():
        MATERIAL.mkdir(parents=True, exist_ok=True)
        print("mmdebstrap of the image to pull, once, about a minute", flush=True)
        subprocess.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                "--quiet",
                "--format=tar",
                "--include=python3,perl",
                "bookworm",
                f"{path}.new",
            ],
            check=True,
        )
        Path(f"{path}.new").rename(path)
    return path


def _noise(number: int) -> Path:
    path = MATERIAL / f"noise-{number}.tar"
    if not path.exists():
        with tarfile.open(f"{path}.new", "w") as archive:
            member = tarfile.TarInfo(f"noise-{number}")
            member.size = LARGE // LARGE_LAYERS
            archive.addfile(member, _Noise(number, member.size))  # type: ignore[arg-type]
        Path(f"{path}.new").rename(path)
    return path


@cache
def filled() -> Path:
    """The registry's folder with both images in it."""
    if (STORE / "done").exists():
        return STORE
    shutil.rmtree(STORE, ignore_errors=True)
    STORE.mkdir(parents=True)
    with registries.running_registry(STORE) as address:
        for name, files in (("debian", [debian()]), ("large", [_noise(n) for n in range(LARGE_LAYERS)])):
            registries.push_files(address, name, "1", [_packed(path) for path in files])
    for number in range(LARGE_LAYERS):
        _noise(number).unlink()
    (STORE / "done").touch()
    return STORE


def _packed(path: Path) -> tuple[str, BinaryIO]:
    """The digest of the plain tar, and the gzip of it as an open file without a name."""
    hashed = hashlib.sha256()
    out = tempfile.TemporaryFile(dir=MATERIAL)  # noqa: SIM115  # the caller reads it
    with (
        path.open("rb") as plain,
        isal.igzip.GzipFile(fileobj=out, mode="wb", compresslevel=2, mtime=0) as packed,
    ):
        while block := plain.read(1 << 20):
            hashed.update(block)
            packed.write(block)
    out.seek(0)
    return f"sha256:{hashed.hexdigest()}", out  # type: ignore[return-value]


@contextlib.contextmanager
def registry_beside(engine: Engine) -> Generator[str, None, None]:
    """The filled registry, where only this engine sees it. Yields its address."""
    enter = ["nsenter", f"--net=/proc/{engine.process.pid}/ns/net"]
    with registries.running_registry(filled(), port=PORT, enter=enter) as address:
        yield address


def pull_debian(engine: Engine) -> float:
    """Seconds of a pull and unpack of Debian by the engine, which does not have it."""
    with registry_beside(engine) as address:
        seconds = timed(lambda: engine.docker("pull", "-q", f"{address}/debian:1"))
        engine.docker("rmi", "-f", f"{address}/debian:1")
    return seconds


def memory_of_a_large_pull(engine: Engine) -> float:
    """Megabytes that the daemon's own process has at most while it pulls one gigabyte."""
    with registry_beside(engine) as address:
        Path(f"/proc/{engine.process.pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew
        engine.docker("pull", "-q", f"{address}/large:1")
        status = Path(f"/proc/{engine.process.pid}/status").read_text()
        engine.docker("rmi", "-f", f"{address}/large:1")
    return int(re.findall(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)[0]) / 1e3
