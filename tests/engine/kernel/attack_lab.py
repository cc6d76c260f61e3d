"""What several attacks need: a process of the container that swaps names as fast as the kernel can, and a client that
asks as fast as the daemon can answer."""

import http.client
import io
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COPIES = int(os.environ.get("LONGSHORE_ATTACK_COPIES", "0"))
"""How often each race is tried: by default as often as fits into `SECONDS`. `make suites-attacks` says 10,000."""
SECONDS = 1.5

# renameat2(2), RENAME_EXCHANGE: both names always exist, one of them is always the wrong one.
_FLIP = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pid, first, second = int(sys.argv[1]), os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3])
if pid:
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    assert libc.setns(fd, 0x20000) == 0
assert libc.renameat2(-100, first, -100, second, 2) == 0, os.strerror(ctypes.get_errno())
print("flipping", flush=True)
while True:
    libc.renameat2(-100, first, -100, second, 2)
"""


@contextmanager
def flipping(first: str, second: str, *, pid: int = 0) -> Iterator[None]:
    """Meanwhile a process exchanges the two names without a pause; with a pid in that process's mount namespace."""
    command = [sys.executable, "-I", "-c", _FLIP, str(pid), first, second]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"flipping\n"
            yield
            assert process.poll() is None, "the attacker gave up"
        finally:
            process.kill()


def tries(met: Callable[[], object] = lambda: True) -> Iterator[int]:
    """Numbers of the tries of one race: a fixed count, or as many as fit into the time, and on until it was `met`.

    A machine that is busy may take long until both sides of a race have been seen; after a minute it is enough.
    """
    begun = time.monotonic()
    number = 0
    while True:
        seconds = time.monotonic() - begun
        if (number >= COPIES if COPIES else seconds > SECONDS) and (met() or seconds > 60):
            return
        yield number
        number += 1


class Connection(http.client.HTTPConnection):
    """One connection that stays open to a daemon's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body)."""
        try:
            self.request(method, path, body)
            reply = self.getresponse()
            return reply.status, dict(reply.headers), reply.read()
        except (http.client.HTTPException, ConnectionError) as error:
            self.close()
            return 0, {}, repr(error).encode()


def tar_of(name: str, data: bytes = b"evil", **fields: Any) -> bytes:
    """A tar with one entry."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        for key, value in fields.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return buffer.getvalue()


def file_in(archive: bytes) -> bytes:
    """The contents of the first file of a tar; empty when there is none."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        for member in members:
            if member.isreg():
                data = members.extractfile(member)
                return data.read() if data else b""
    return b""


def run(api: Any, command: list[str] | str, **options: Any) -> str:
    """Create and start with docker-py's low-level client; returns the id."""
    words = ["sh", "-c", command] if isinstance(command, str) else command
    config = {key: options.pop(key) for key in ("user", "image", "healthcheck", "tty") if key in options}
    host = api.create_host_config(**options)
    id = api.create_container(config.pop("image", "busybox"), words, host_config=host, **config)["Id"]
    api.start(id)
    return str(id)


def output(api: Any, command: list[str] | str, **options: Any) -> str:
    """All that a container says until its end."""
    id = run(api, command, **options)
    api.wait(id)
    return str(api.logs(id).decode(errors="replace"))


def pid_of(api: Any, id: str) -> int:
    return int(api.inspect_container(id)["State"]["Pid"])


def until(check: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def below(folder: Path) -> list[tuple[str, int, int]]:
    """Every entry below a folder with its mode and number of links: what an escape would change."""
    found = [folder, *folder.rglob("*")]
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_nlink) for path in found)
