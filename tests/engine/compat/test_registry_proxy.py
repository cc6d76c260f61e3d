"""Pull-through: our registry in front of Debian's docker-registry, and in front of ones that misbehave."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.engine.compat.registry_lab import (
    OCI,
    USERS,
    Client,
    basic,
    digest_of,
    htpasswd,
    manifest_of,
    serving,
    some_layers,
    until,
)
from tests.suites.registry.servers import debian

from longshore.registry.server.collector import collect


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """Debian's docker-registry with a login; yields its address."""
    folder.mkdir(exist_ok=True)
    login = {"htpasswd": {"realm": "up", "path": str(htpasswd(folder / "users"))}}
    with debian(folder, {"auth": login}) as address:
        yield address


def in_front_of(address: str, **more: Any) -> dict[str, Any]:
    return {"proxy": {"remoteurl": f"http://{address}", "username": "ann", "password": USERS["ann"], **more}}


async def test_a_cache_of_debians_registry(tmp_path: Path) -> None:
    layers = some_layers(3, 700_000)
    with upstream(tmp_path / "up") as address:
        async with Client(f"http://{address}", headers=basic("ann")) as there:
            await _push(there, "a/b", "v1", layers)
            async with serving(tmp_path / "data", in_front_of(address)) as server, Client(server) as client:
                config, *found = await client.pull("a/b", "v1")
                assert found == layers
                status, _, body = await client("GET", "/v2/a/b/tags/list")
                assert json.loads(body)["tags"] == ["v1"]
                assert (await client("GET", "/v2/a/b/manifests/v2"))[0] == 404
                assert (await client("GET", "/v2/none/tags/list"))[0] == 404
                assert (await client("GET", f"/v2/a/b/blobs/{digest_of(b'none')}"))[0] == 404
                assert (await client("POST", "/v2/a/b/blobs/uploads/", b""))[0] == 405
                # the tag moves there, and so it does here
                await _push(there, "a/b", "v1", layers[:1])
                assert (await client.pull("a/b", "v1"))[1:] == layers[:1]
                await until(lambda: not len(server.store.uploads))
    async with serving(tmp_path / "data", in_front_of(address)) as server, Client(server) as client:
        assert (await client.pull("a/b", "v1"))[1:] == layers[:1], (
            "the tag as it was, now that nobody answers"
        )
        first = digest_of(manifest_of(config, layers))
        status, _, body = await client("GET", f"/v2/a/b/manifests/{first}")
        assert (status, digest_of(body)) == (200, first)
        assert (await client("GET", f"/v2/a/b/blobs/{digest_of(layers[2])}"))[2] == layers[2]
        assert json.loads((await client("GET", "/v2/a/b/tags/list"))[2])["tags"] == ["v1"]
        status, _, body = await client("GET", "/v2/a/b/manifests/never-asked-for")
        assert status == 503
        assert collect(server.store, grace=0, ttl=3600).manifests == 0
        server.store.clock = lambda: 4e9
        done = collect(server.store, grace=0, ttl=3600)
        assert done.manifests == 2 and done.blobs >= 4, "what nobody uses goes after the ttl"


async def _push(client: Client, name: str, tag: str, layers: list[bytes]) -> None:
    """To a registry that takes no blob in one request, at an absolute Location."""
    config = json.dumps({"id": digest_of(b"".join(layers))}).encode()
    for data in (config, *layers):
        _, headers, _ = await client("POST", f"/v2/{name}/blobs/uploads/", b"")
        location = f"{headers['Location']}&digest={digest_of(data)}"
        status, _, body = await client("PUT", location, data, {"Content-Type": "application/octet-stream"})
        assert status == 201, body
    await client.push_manifest(name, tag, manifest_of(config, layers))


class Misbehaving:
    """A registry with one image, whose blobs come as `send` says."""

    def __init__(self) -> None:
        self.blob = b"0123456789" * 100_000
        config = b"{}"
        self.contents = {digest_of(data): data for data in (self.blob, config)}
        self.manifest = manifest_of(config, [self.blob])
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.mode = ""
        self.address = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Misbehaving"]:
        runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{runner.addresses[0][1]}"
        yield self
        await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(
            f"{request.method} {request.path.rpartition('/')[2][:20]} {request.headers.get('Range', '')}"
        )
        if self.mode == "down":
            return web.Response(status=502)
        if "/manifests/" in request.path:
            headers = {"Content-Type": OCI, "Docker-Content-Digest": digest_of(self.manifest)}
            return web.Response(body=self.manifest, headers=headers)
        data = self.contents.get(request.path.rpartition("/")[2])
        if data is None:
            return web.Response(status=404)
        return await self._send(request, data)

    async def _send(self, request: web.BaseRequest, data: bytes) -> web.StreamResponse:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        reply = web.StreamResponse(status=206 if start else 200)
        reply.content_length = len(data) - start
        await reply.prepare(request)
        if request.method == "HEAD":
            return reply
        half = max(start, len(data) // 2)
        if self.mode == "wrong":
            data = data[:-1] + b"!"
        await reply.write(data[start:half])
        if self.mode == "breaks" and not start and request.transport:
            request.transport.close()
            return reply
        await self.gate.wait()
        await reply.write(data[half:])
        return reply


async def test_many_clients_share_one_download_that_they_see_coming(tmp_path: Path) -> None:
    async with Misbehaving().running() as there:
        there.gate.clear()
        async with serving(tmp_path / "data", in_front_of(there.address)) as server, Client(server) as client:
            url = f"{client.base}/v2/a/blobs/{digest_of(there.blob)}"
            async with aiohttp.ClientSession() as session:
                replies = [await session.get(url) for _ in range(4)]
                for reply in replies:  # the first half comes while the second is held back there
                    assert (
                        await reply.content.readexactly(len(there.blob) // 2)
                        == there.blob[: len(there.blob) // 2]
                    )
                there.gate.set()
                for reply in replies:
                    assert await reply.content.read() == there.blob[len(there.blob) // 2 :]
            assert len(there.asked) == 1
            assert (await client("GET", url))[2] == there.blob and len(there.asked) == 1


async def test_a_download_that_breaks_off_goes_on(tmp_path: Path) -> None:
    async with Misbehaving().running() as there:
        there.mode = "breaks"
        async with serving(tmp_path / "data", in_front_of(there.address)) as server, Client(server) as client:
            assert (await client.pull("a", "v1"))[1] == there.blob
            assert any("bytes=" in each for each in there.asked), there.asked


async def test_wrong_bytes_reach_nobody_as_a_whole_blob(tmp_path: Path) -> None:
    async with Misbehaving().running() as there:
        there.mode = "wrong"
        async with serving(tmp_path / "data", in_front_of(there.address)) as server, Client(server) as client:
            path = f"/v2/a/blobs/{digest_of(there.blob)}"
            with pytest.raises(aiohttp.ClientError):
                await client("GET", path)
            await until(lambda: not len(server.store.uploads))
            assert not list(server.store.files.all())
            there.mode = ""
            assert hashlib.sha256((await client("GET", path))[2]).hexdigest() in path


async def test_a_wrong_manifest_is_refused(tmp_path: Path) -> None:
    async with (
        Misbehaving().running() as there,
        serving(tmp_path / "data", in_front_of(there.address)) as server,
        Client(server) as client,
    ):
        status, _, _ = await client("GET", f"/v2/a/manifests/{digest_of(b'another')}")
        assert status == 502
        assert (await client("GET", "/v2/a/manifests/v1"))[0] == 200


async def test_ranges_of_a_blob_that_is_not_here_yet(tmp_path: Path) -> None:
    async with (
        Misbehaving().running() as there,
        serving(tmp_path / "data", in_front_of(there.address)) as server,
        Client(server) as client,
    ):
        path = f"/v2/a/blobs/{digest_of(there.blob)}"
        status, headers, _ = await client("HEAD", path)
        assert (status, headers["Content-Length"]) == (200, str(len(there.blob)))
        status, _, body = await client("GET", path, None, {"Range": "bytes=5-9"})
        assert (status, body) == (206, there.blob[5:10])
