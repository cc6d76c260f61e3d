"""Rows of push, load and save of a Debian image of about 200 MB; `registry_rows` has the pull."""

import contextlib
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path

from tests.bench.peers import Engine, UnixConnection
from tests.bench.registry_rows import MATERIAL, debian, registry_beside
from tests.bench.rows import timed
from tests.engine.compat import registry as registries
from tests.engine.images import docker_archive

EMPTY_PORT = 5001


@cache
def archive() -> Path:
    """The image as `docker save` of Docker 20.10 wrote it: layers as plain tars."""
    path = MATERIAL / "debian-saved.tar"
    if not path.exists():
        path.with_suffix(".new").write_bytes(
            docker_archive([debian().read_bytes()], "saved:1", {"Cmd": ["sh"]})
        )
        path.with_suffix(".new").rename(path)
    return path


def _send(engine: Engine, path: str, file: Path) -> bytes:
    """POST a file as it is on the disk; returns the answer's body."""
    connection = UnixConnection(engine.socket)
    with file.open("rb") as body, contextlib.closing(connection):
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(file.stat().st_size)}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
    if answer.status >= 400 or b'"error"' in text:
        raise RuntimeError(f"POST {path}: {answer.status} {text[-500:]!r}")
    return text


def _load(engine: Engine) -> None:
    if b"saved:1" not in _send(engine, "/v1.41/images/load?quiet=1", archive()):
        raise RuntimeError("the archive's image is not told of")


def _forget(engine: Engine, name: str) -> None:
    with contextlib.closing(engine.client()) as client:
        client.call("DELETE", f"/v1.41/images/{name}?force=1")


def load(engine: Engine) -> float:
    """Seconds of a load of the archive by the engine, which does not have the image."""
    archive()
    seconds = timed(lambda: _load(engine))
    _forget(engine, "saved:1")
    return seconds


def save(engine: Engine) -> float:
    """Seconds until the last byte of a save of the image."""
    _load(engine)

    def read() -> None:
        connection = UnixConnection(engine.socket)
        with contextlib.closing(connection):
            connection.request("GET", "/v1.41/images/saved:1/get")
            answer = connection.getresponse()
            size = sum(map(len, _pieces(answer)))
        if answer.status != 200 or size < debian().stat().st_size:
            raise RuntimeError(f"save: {answer.status}, {size} bytes")

    seconds = timed(read)
    _forget(engine, "saved:1")
    return seconds


def _pieces(answer: object) -> Iterator[bytes]:
    while data := answer.read(1 << 20):  # type: ignore[attr-defined]
        yield data


def _told(engine: Engine, path: str) -> bytes:
    """The progress of a POST. Raises RuntimeError when it tells of an error."""
    connection = UnixConnection(engine.socket)
    with contextlib.closing(connection):
        connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    if answer.status >= 400 or b'"error"' in text:
        raise RuntimeError(f"POST {path}: {answer.status} {text[-500:]!r}")
    return text


@contextlib.contextmanager
def _pulled(engine: Engine) -> Generator[str, None, None]:
    """The name of the image in another registry than it was pulled from, so that nothing can be mounted."""
    with registry_beside(engine) as address:
        _told(engine, f"/v1.41/images/create?fromImage={address}/debian&tag=1")
    name = f"127.0.0.1:{EMPTY_PORT}/debian"
    with contextlib.closing(engine.client()) as client:
        client.call("POST", f"/v1.41/images/{address}/debian:1/tag?repo={name}&tag=1")
    yield name
    for each in (f"{address}/debian", name):
        _forget(engine, f"{each}:1")


def push(engine: Engine) -> float:
    """Seconds of a push of the pulled image to an empty registry."""
    enter = ["nsenter", f"--net=/proc/{engine.process.pid}/ns/net"]

    def send(name: str) -> None:
        if b"digest: sha256:" not in _told(engine, f"/v1.41/images/{name}/push?tag=1"):
            raise RuntimeError("the push tells of no digest")

    with (
        _pulled(engine) as name,
        tempfile.TemporaryDirectory(prefix="bench-registry", dir="/var/tmp") as folder,
        registries.running_registry(Path(folder), port=EMPTY_PORT, enter=enter),
    ):
        return timed(lambda: send(name))
