"""Pushing to a registry that does as it is told: it breaks connections, forgets uploads, asks to wait, mounts."""

import hashlib
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from longshore.errors import Unauthorized, Unavailable
from longshore.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.reference import parse_reference
from longshore.registry import patience
from longshore.registry import push as pushing
from longshore.registry.auth import Credentials
from longshore.registry.cargo import Blob, Cargo
from longshore.registry.client import RegistryClient

LAYER = bytes(range(256)) * 40  # more than two chunks of the tests
CONFIG = b'{"config": 1}'
MANIFEST = b'{"manifest": 1}'


@dataclass
class Registry:
    """`failures`: answers for the next requests that match "METHOD path"; status 0 cuts the connection off."""

    address: str = ""
    blobs: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])  # by repository
    manifests: dict[str, bytes] = field(default_factory=dict[str, bytes])
    uploads: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    asked: list[str] = field(default_factory=list[str])
    failures: list[tuple[str, int, dict[str, str]]] = field(
        default_factory=list[tuple[str, int, dict[str, str]]]
    )
    login: str = ""
    opened: int = 0
    slept: list[float] = field(default_factory=list[float])

    def count(self, pattern: str) -> int:
        return sum(re.match(pattern, line) is not None for line in self.asked)


def serve(registry: Registry) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": "0", **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def failed(self) -> bool:
            registry.asked.append(f"{self.command} {self.path}")
            for failure in registry.failures:
                pattern, status, headers = failure
                if re.match(pattern, registry.asked[-1]):
                    registry.failures.remove(failure)
                    data = self.body()
                    upload = self.path.rpartition("/")[2].partition("?")[0]
                    if status == 404:
                        registry.uploads.pop(upload, None)
                    if status == 0:  # half of it has arrived
                        registry.uploads[upload] += data[: len(data) // 2]
                        self.close_connection = True
                        self.connection.shutdown(2)
                    else:
                        self.answer(status, headers)
                    return True
            if registry.login and self.headers.get("Authorization") != registry.login:
                self.body()
                self.answer(401, {"WWW-Authenticate": 'Basic realm="here"'})
                return True
            return False

        def place(self) -> tuple[str, str]:
            path = urlsplit(self.path).path.removeprefix("/v2/")
            repository, _, rest = re.split(r"/(blobs/uploads|blobs|manifests)/", path)
            return repository, rest

        def do_HEAD(self) -> None:
            if self.failed():
                return
            repository, name = self.place()
            known = name in registry.blobs.get(repository, {}) or name in registry.manifests
            self.answer(200 if known else 404)

        def do_POST(self) -> None:
            if self.failed():
                return
            repository, _ = self.place()
            query = parse_qs(urlsplit(self.path).query)
            if "mount" in query:
                (digest,), (source,) = query["mount"], query["from"]
                if digest in registry.blobs.get(source, {}):
                    registry.blobs.setdefault(repository, {})[digest] = registry.blobs[source][digest]
                    self.answer(201, {"Location": f"/v2/{repository}/blobs/{digest}"})
                    return
            upload = str(registry.opened)
            registry.opened += 1
            registry.uploads[upload] = bytearray()
            self.answer(202, {"Location": f"/v2/{repository}/blobs/uploads/{upload}?state=a%2Fb"})

        def do_PATCH(self) -> None:
            if self.failed():
                return
            upload = self.place()[1]
            data, got = self.body(), registry.uploads[upload]
            start = int(self.headers["Content-Range"].partition("-")[0])
            if start != len(got):
                self.answer(416)
                return
            got += data
            self.answer(202, {"Location": self.path, "Range": f"0-{len(got) - 1}"})

        def do_GET(self) -> None:
            if self.failed():
                return
            got = registry.uploads.get(self.place()[1])
            if got is None:
                self.answer(404)
            else:
                self.answer(204, {"Location": self.path, "Range": f"0-{max(len(got) - 1, 0)}"})

        def do_PUT(self) -> None:
            if self.failed():
                return
            repository, name = self.place()
            data = self.body()
            if "/manifests/" in self.path:
                registry.manifests[name] = data
                self.answer(201)
                return
            assert parse_qs(urlsplit(self.path).query)["state"] == ["a/b"]
            digest = parse_qs(urlsplit(self.path).query)["digest"][0]
            whole = bytes(registry.uploads.pop(name)) + data
            right = f"sha256:{hashlib.sha256(whole).hexdigest()}" == digest
            if right:
                registry.blobs.setdefault(repository, {})[digest] = whole
            self.answer(201 if right else 400)

        def do_DELETE(self) -> None:
            if not self.failed():
                registry.uploads.pop(self.place()[1], None)
                self.answer(204)

        def log_message(self, format: str, *args: object) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.address = f"127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    return http


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    value = Registry()

    async def at_once(seconds: float) -> None:
        value.slept.append(seconds)

    monkeypatch.setattr(patience.asyncio, "sleep", at_once)
    monkeypatch.setattr(pushing, "CHUNK", 4000)
    http = serve(value)
    yield value
    http.shutdown()
    http.server_close()


class Store:
    """Content by digest."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {sha256_of(data): data for data in contents}

    def open(self, digest: Digest) -> BinaryIO:
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  the caller closes it
        file.write(self.contents[digest])
        file.flush()
        return file

    def read(self, digest: Digest, limit: int) -> bytes:
        return self.contents[digest]


def described(kind: str, data: bytes) -> Descriptor:
    return Descriptor(kind, str(sha256_of(data)), len(data))


LAYER_PART, CONFIG_PART = described(OCI_LAYER_GZIP, LAYER), described(OCI_CONFIG, CONFIG)


def cargo(*sources: str) -> Cargo:
    blobs = (Blob(CONFIG_PART, shown=False), Blob(LAYER_PART, sources))
    return Cargo(blobs, (described(OCI_MANIFEST, MANIFEST),))


async def push(registry: Registry, load: Cargo, *more: bytes, auth: Credentials | None = None) -> list[Any]:
    told: list[Any] = []
    await RegistryClient().push(
        parse_reference(f"{registry.address}/team/app:1"),
        load,
        auth=auth,
        content=Store(LAYER, CONFIG, MANIFEST, *more),
        progress=told.append,
    )
    assert registry.blobs["team/app"] == {LAYER_PART.digest: LAYER, CONFIG_PART.digest: CONFIG}
    assert registry.uploads == {}
    return told


def words(told: list[Any]) -> list[str]:
    return list(dict.fromkeys(message["status"] for message in told))


async def test_a_push_sends_what_is_missing_and_then_nothing(registry: Registry) -> None:
    assert words(await push(registry, cargo())) == ["Preparing", "Pushing", "Pushed"]
    assert registry.manifests == {"1": MANIFEST}
    assert registry.count("PATCH") == 3  # of the layer; the config went in one piece
    registry.asked.clear()
    assert words(await push(registry, cargo())) == ["Preparing", "Layer already exists"]
    assert registry.count("POST|PATCH") == 0


async def test_blobs_are_mounted_from_where_they_are(registry: Registry) -> None:
    registry.blobs = {"other/base": {LAYER_PART.digest: LAYER}}
    told = await push(registry, cargo("gone/base", "other/base"))
    assert words(told) == ["Preparing", "Mounted from other/base"]
    assert registry.count("PATCH") == 0
    assert registry.count("DELETE") == 1  # the upload that the first attempt opened


async def test_a_repository_that_must_not_be_read_is_no_failure(registry: Registry) -> None:
    registry.failures = [("POST .*mount", 403, {})]
    assert words(await push(registry, cargo("secret/base"))) == ["Preparing", "Pushing", "Pushed"]


async def test_an_upload_that_breaks_early_begins_again(registry: Registry) -> None:
    registry.failures = [("PATCH", 500, {"Retry-After": "7"}), ("PATCH", 0, {})]
    await push(registry, cargo())
    assert registry.slept == [7.0, 1.0]


async def test_what_the_registry_has_of_an_upload_is_not_sent_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = Cargo((Blob(LAYER_PART),), (described(OCI_MANIFEST, MANIFEST),))
    registry.blobs = {"team/app": {CONFIG_PART.digest: CONFIG}}
    sent = iter(range(10))
    original = pushing._Upload.patch

    async def patch(self: Any) -> None:
        if next(sent) == 1:
            registry.failures.append(("PATCH", 0, {}))
        await original(self)

    monkeypatch.setattr(pushing._Upload, "patch", patch)
    told = await push(registry, only)
    assert registry.count("GET .*/uploads/") == 1
    moved = [message["progressDetail"]["current"] for message in told if message["status"] == "Pushing"]
    assert 6000 < max(moved) == len(LAYER)
    assert registry.count("POST") == 1


async def test_a_forgotten_upload_begins_again(registry: Registry) -> None:
    registry.failures = [("PUT .*/blobs/", 404, {})]
    await push(registry, cargo())
    assert registry.count("POST") == 3


async def test_a_registry_without_chunks_gets_it_in_one_piece(registry: Registry) -> None:
    registry.failures = [("PATCH", 405, {})]
    await push(registry, cargo())
    assert registry.count("PATCH") == 1


async def test_retry_after_is_minded_and_the_end_is_told(registry: Registry) -> None:
    registry.failures = [("PUT .*/manifests/", 429, {"Retry-After": "11"})]
    await push(registry, cargo())
    assert registry.slept == [11.0]
    registry.failures = [("PUT .*/manifests/", 503, {}) for _ in range(5)]
    with pytest.raises(Unavailable, match=f"failed to push the manifest of {registry.address}/team/app:1"):
        await push(registry, cargo())


async def test_a_login_is_sent_and_its_lack_is_told(registry: Registry) -> None:
    login = Credentials(username="me", password="secret")
    registry.login = login.basic
    await push(registry, cargo(), auth=login)
    with pytest.raises(Unauthorized):
        await push(registry, cargo())


async def test_an_index_comes_after_what_it_names(registry: Registry) -> None:
    index = b'{"index": 1}'
    parts = (described(OCI_MANIFEST, MANIFEST), described(OCI_INDEX, index))
    await push(registry, Cargo(cargo().blobs, parts), index)
    assert list(registry.manifests) == [parts[0].digest, "1"]
    assert registry.manifests["1"] == index
