"""A full disk: told in Docker's words, nothing half-made stays, and the next try works once there is room."""

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine import machine_state as state
from tests.engine.compat import registry as registries

WORDS = "no space left on device"
ROOM = 48 << 20
BIG = 40 << 20  # too large itself
WIDE = 18 << 20  # fits, but not twice and a half: as a blob, unpacked and as a writable layer


@pytest.fixture(scope="module")
def small(module_daemon: Any) -> Iterator[Any]:
    """A daemon whose data root is a filesystem of 48 MiB, with busybox in it."""
    daemon = module_daemon
    daemon.data.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(daemon.data)]
    subprocess.run(mount, check=True, timeout=10)
    with ExitStack() as undo:
        undo.callback(subprocess.run, ["umount", str(daemon.data)], check=True, timeout=10)
        undo.callback(end, daemon)
        daemon.start()
        daemon.load()
        daemon.docker("run", "--rm", "busybox", "true")  # makes the folders that stay
        for name in ("blobs", "indices", "partial"):
            (daemon.data / "contexts" / name).mkdir(parents=True)  # what the first build makes
        yield daemon


def end(daemon: Any) -> None:
    if not daemon.answers():
        daemon.start()
    daemon.remove_containers()
    daemon.stop()


@pytest.fixture(autouse=True)
def nothing_half_made(small: Any) -> Iterator[None]:
    """Each test ends with the disk and the machine as it found them."""
    before, used = state.of_daemon(small), used_bytes(small)
    yield
    left = state.settle(lambda: changed(small, before, used))
    assert not left, json.dumps(left, indent=1)
    assert "Traceback" not in small.log.read_text()


def changed(daemon: Any, before: state.State, used: int) -> dict[str, list[str]]:
    now = state.of_daemon(daemon) | {"monitors": before["monitors"]}  # a daemon that was restarted has others
    left = state.difference(before, now)
    if used_bytes(daemon) > used + (1 << 20):
        left["bytes"] = [f"{used} before, {used_bytes(daemon)} after"]
    return left


def used_bytes(daemon: Any) -> int:
    """Without the state database, whose files grow and stay."""
    status = os.statvfs(daemon.data)
    database = sum(path.stat().st_size for path in daemon.data.glob("longshore.db*"))
    return (status.f_blocks - status.f_bfree) * status.f_frsize - database


def layer(size: int) -> bytes:
    """A plain layer tar with one file that does not compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("large")
        member.size = size
        archive.addfile(member, io.BytesIO(os.urandom(size)))
    return buffer.getvalue()


def archive(daemon: Any, size: int) -> bytes:
    return bytes(daemon.images.docker_archive([daemon.images.busybox_layer(), layer(size)], "large:1", {}))


def refused(done: Any) -> None:
    assert done.code == 1, done
    assert WORDS in done.err + done.out, done


@pytest.mark.parametrize("size", [BIG, WIDE + (2 << 20)])
def test_load(small: Any, size: int, tmp_path: Path) -> None:
    (tmp_path / "large.tar").write_bytes(archive(small, size))
    refused(small.docker("load", "-i", str(tmp_path / "large.tar"), check=False))
    (tmp_path / "large.tar").write_bytes(archive(small, 1 << 20))
    small.docker("load", "-i", str(tmp_path / "large.tar"))
    small.docker("rmi", "large:1")


def test_import(small: Any) -> None:
    refused(small.docker("import", "-", "imported:1", input=layer(BIG), check=False))
    small.docker("import", "-", "imported:1", input=layer(1 << 20))
    small.docker("rmi", "imported:1")


@pytest.mark.parametrize(
    ("steps", "size"),
    [
        ("COPY data /data", BIG),  # the context
        ("COPY data /data\nCOPY data /again\nCOPY data /third", WIDE >> 1),  # a layer
        (f"RUN dd if=/dev/urandom of=/big bs=1M count={BIG >> 20}", 1),  # the writable layer
        (f"RUN dd if=/dev/urandom of=/big bs=1M count={WIDE >> 20} && sync", 1),  # the commit
    ],
)
@pytest.mark.parametrize("command", ["docker", "longshore"])
def test_build(small: Any, tmp_path: Path, steps: str, size: int, command: str) -> None:
    (tmp_path / "data").write_bytes(os.urandom(size))
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{steps}\n")
    done = getattr(small, command)(
        "build", "--no-cache", "--force-rm", "-t", "b:1", str(tmp_path), check=False
    )
    assert done.code == 1, done
    assert WORDS in (done.err + done.out).lower(), done
    small.request("POST", "/build/prune?all=1")  # steps that succeeded stay as cache, as with Docker
    (tmp_path / "data").write_bytes(b"small")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY data /data\nRUN cat /data > /copy\n")
    small.docker("build", "-t", "b:1", str(tmp_path))
    assert small.docker("run", "--rm", "b:1", "cat", "/copy").out == "small"
    small.docker("rmi", "b:1")
    small.request("POST", "/build/prune?all=1")


def test_pull(small: Any, tmp_path: Path) -> None:
    if not registries.PROGRAM.exists():
        pytest.skip("no docker-registry on this machine (make setup installs it)")
    with registries.running_registry(tmp_path) as address:
        registries.push(address, "large", "1", [small.images.busybox_layer(), layer(BIG)], {})
        refused(small.docker("pull", f"{address}/large:1", check=False))
        registries.push(address, "large", "1", [small.images.busybox_layer(), layer(1 << 20)], {})
        small.docker("pull", f"{address}/large:1")
        small.docker("rmi", f"{address}/large:1")


@contextmanager
def full(daemon: Any) -> Iterator[None]:
    """Not one block is free inside, except for the reserve that the state database holds."""
    time.sleep(1.1)
    daemon.docker("volume", "create", "one")  # a change of the database, at which it takes its reserve again
    daemon.docker("volume", "rm", "one")
    assert (daemon.data / "longshore.db.reserve").exists()
    filler = daemon.data / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        try:
            yield
        finally:
            filler.unlink()


def test_no_byte_left(small: Any) -> None:
    """What runs goes on, ends and is removed; what is new is refused or whole."""
    script = "echo said; read x; exit 7"
    small.docker("run", "-di", "--name", "before", "busybox", "sh", "-c", script)
    small.docker("create", "--name", "waiting", "busybox", "true")
    small.docker("create", "--name", "needless", "busybox", "true")
    with full(small):
        assert small.docker("logs", "before").out == "said\n"
        assert small.docker("exec", "before", "echo", "inside").out == "inside\n"
        done = small.docker(
            "exec", "before", "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=4", check=False
        )
        assert done.code == 1 and "No space left on device" in done.err
        refused(small.docker("import", "-", "imported:1", input=layer(12 << 20), check=False))
        assert small.docker("attach", "before", input=b"go\n", check=False).code == 7
        assert small.docker("wait", "before").out == "7\n"
        assert small.docker("rm", "needless", "before").out == "needless\nbefore\n"
        assert small.docker("ps", "-a", "--format", "{{.Names}}").out == "waiting\n"
        done = small.docker("start", "-a", "waiting", check=False)
        assert done.code == 0 or WORDS in done.err, done
    assert small.docker("start", "-a", "waiting").code == 0
    small.docker("rm", "waiting")
    assert small.docker("run", "--rm", "busybox", "echo", "again").out == "again\n"


def test_a_start_of_the_daemon(small: Any) -> None:
    """It works without a free byte, finds what ended meanwhile, and removes it."""
    small.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 0.3; exit 5")
    with full(small):
        small.stop(signal.SIGKILL)
        time.sleep(0.5)
        small.start()
        assert small.docker("wait", "ends").out == "5\n"
        assert small.docker("rm", "ends").out == "ends\n"
    assert small.docker("run", "--rm", "busybox", "echo", "again").out == "again\n"


def test_many_new_ones(small: Any) -> None:
    """Containers are made until the disk refuses; none of those it refused is there."""
    made: list[str] = []
    with full(small):
        for number in range(200):
            # 64 KiB of environment each: the state database grows
            environment = [f"A{n}={'x' * 16000}" for n in range(4)]
            status, reply = small.request(
                "POST", f"/containers/create?name=c{number}", {"Image": "busybox", "Env": environment}
            )
            if status != 201:
                assert (status, WORDS in reply["message"]) == (500, True), reply
                break
            made.append(reply["Id"])
        assert status == 500
        listed = {each["Id"] for each in small.request("GET", "/containers/json?all=1")[1]}
        assert listed == set(made)
        assert {path.name for path in (small.data / "containers").iterdir()} == listed
        assert small.docker("rm", made[0]).out == made[0] + "\n"
    assert small.docker("create", "--name", "later", "busybox").code == 0
    small.remove_containers()
