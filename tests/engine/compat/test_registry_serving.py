"""Beside the specification: webhooks, health and metrics, modes, slow and large clients, an orderly end."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.engine.compat.registry_lab import (
    OCI,
    Client,
    basic,
    digest_of,
    htpasswd,
    manifest_of,
    serving,
    some_layers,
    until,
)

from longshore.errors import Conflict, Unavailable
from longshore.registry.server.collector import collect
from longshore.registry.server.notifications import MEDIA_TYPE


class Listener:
    """A web service that takes events; refuses the first few, as one that is being restarted does."""

    def __init__(self, refuse: int = 0) -> None:
        self.refuse = refuse
        self.events: list[dict[str, Any]] = []
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Listener"]:
        runner = web.ServerRunner(web.Server(self._take))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        yield self
        await runner.cleanup()

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Content-Type"] == MEDIA_TYPE and request.headers["X-Key"] == "k"
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        self.events += json.loads(await request.read())["events"]
        return web.Response(status=200)


async def test_webhooks_tell_of_push_and_delete_in_order(tmp_path: Path) -> None:
    async with Listener(refuse=3).running() as listener:
        endpoint = {
            "name": "test",
            "url": listener.url,
            "headers": {"X-Key": ["k"]},
            "backoff": "10ms",
            "threshold": 2,
            "ignore": {"actions": ["pull"], "mediatypes": ["application/octet-stream"]},
        }
        config = {
            "notifications": {"endpoints": [endpoint]},
            "auth": {"htpasswd": {"path": str(htpasswd(tmp_path / "users"))}},
        }
        async with serving(tmp_path / "data", config) as server, Client(server) as client:
            digest = await client.push("a/b", "v1", some_layers(), basic("ann"))
            await client.pull("a/b", "v1", basic("ann"))
            await client("DELETE", "/v2/a/b/manifests/v1", None, basic("bob"))
            await client("DELETE", f"/v2/a/b/manifests/{digest}", None, basic("bob"))
            await until(lambda: len(listener.events) == 3)
    assert [(event["action"], event["actor"]["name"]) for event in listener.events] == [
        ("push", "ann"),
        ("delete", "bob"),
        ("delete", "bob"),
    ]
    pushed, untagged, _ = (event["target"] for event in listener.events)
    assert (pushed["digest"], pushed["tag"], pushed["repository"]) == (digest, "v1", "a/b")
    assert pushed["url"].endswith(f"/v2/a/b/manifests/{digest}") and pushed["size"] == pushed["length"] > 0
    assert untagged["tag"] == "v1"
    assert len({event["id"] for event in listener.events}) == 3


async def test_a_listener_that_never_answers_holds_nobody_up(tmp_path: Path) -> None:
    hole = {"name": "hole", "url": "http://127.0.0.1:1/", "timeout": "50ms", "threshold": 1000}
    config = {"notifications": {"endpoints": [hole]}, "http": {"draintimeout": "50ms"}}
    async with serving(tmp_path / "data", config) as server, Client(server) as client:
        await client.push("a", "v1", some_layers())


async def test_health_and_metrics(tmp_path: Path) -> None:
    debug = {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}
    async with serving(tmp_path / "data", {"http": {"debug": debug}}) as server, Client(server) as client:
        layers = some_layers(2, 1000)
        await client.push("a", "v1", layers)
        await client.pull("a", "v1")
        await client("GET", "/v2/a/manifests/none")
        beside = f"http://{server.debug_addresses[0]}"
        status, headers, body = await client("GET", f"{beside}/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain")
        values = dict(line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        assert values['registry_http_requests_total{code="404",handler="other",method="get"}'] == "1"
        assert values['registry_http_requests_total{code="201",handler="manifest",method="put"}'] == "1"
        assert values['registry_http_request_duration_seconds_count{handler="blob",method="get"}'] == "3"
        assert values['registry_events_total{action="push"}'] == "4"
        assert values["registry_storage_manifests"] == "1" and int(values["registry_storage_bytes"]) > 2000
        assert (await client("GET", f"{beside}/debug/health"))[::2] == (200, b"{}")
        assert (await client("GET", "/"))[0] == 200
        server.store.files.uploads.rename(tmp_path / "elsewhere")
        server.forget_health()
        assert (await client("GET", "/"))[0] == 503
        status, _, body = await client("GET", f"{beside}/debug/health")
        assert status == 503 and "storage" in json.loads(body)
        (tmp_path / "elsewhere").rename(server.store.files.uploads)


async def test_read_only_and_no_deletion(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        digest = await client.push("a", "v1", some_layers())
    readonly = {"storage": {"maintenance": {"readonly": {"enabled": True}}}}
    async with serving(tmp_path / "data", readonly) as server, Client(server) as client:
        await client.pull("a", "v1")
        for method, path in (
            ("POST", "/v2/a/blobs/uploads/"),
            ("PUT", "/v2/a/manifests/v2"),
            ("DELETE", f"/v2/a/manifests/{digest}"),
            ("DELETE", f"/v2/a/blobs/{digest}"),
        ):
            status, _, body = await client(method, path, b"{}")
            assert status == 405 and json.loads(body)["errors"][0]["code"] == "UNSUPPORTED"
    kept = {"storage": {"delete": {"enabled": False}}}
    async with serving(tmp_path / "data", kept) as server, Client(server) as client:
        assert (await client("DELETE", f"/v2/a/manifests/{digest}"))[0] == 405
        await client.push("a", "v2", some_layers())


async def test_large_and_slow_clients(tmp_path: Path) -> None:
    limits = {"maxblobsize": 1000, "idle": "100ms", "head": "100ms", "linger": "10ms", "maxconnections": 3}
    async with serving(tmp_path / "data", {"limits": limits}) as server, Client(server) as client:
        host, _, port = server.addresses[0].rpartition(":")
        await client.push_blob("a", b"x" * 1000)
        path = f"/v2/a/blobs/uploads/?digest={digest_of(b'x' * 1001)}"
        assert (await client("POST", path, b"x" * 1001))[0] == 413

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b"x" * 400

        assert (await client("POST", path, pieces()))[0] == 413
        assert not list((tmp_path / "data/uploads").iterdir())

        # No request at all, half a head, half a body
        for start, answer in (
            (b"", b""),
            (b"GET /v2/ HT", b""),
            (b"PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", b"HTTP/1.1 408"),
        ):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(start)
            async with asyncio.timeout(60):
                found = await reader.read()
            assert found.startswith(answer) and (answer or not found), found
            writer.close()


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", {"limits": {"maxconnections": 3}}) as server:
        host, _, port = server.addresses[0].rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        async with asyncio.timeout(60):
            assert await opened[3][0].read() == b"", "one too many"
        for reader, writer in opened[:3]:
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(60):
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, writer in opened:
            writer.close()


async def test_a_body_that_breaks_off_stays_as_far_as_it_came(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        host, _, port = server.addresses[0].rpartition(":")
        _, headers, _ = await client("POST", "/v2/a/blobs/uploads/", b"")
        location = headers["Location"]
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Range: 0-99\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b"a" * 40)
        await writer.drain()
        upload = server.store.uploads.find("a", location.rpartition("/")[2])
        await until(lambda: upload.claimed)
        writer.close()
        await until(lambda: not upload.claimed)
        status, headers, _ = await client("GET", location)
        assert (status, headers["Range"]) == (204, "0-39")
        rest = {"Content-Range": "40-99"}
        assert (await client("PATCH", location, b"a" * 60, rest))[0] == 202
        assert (await client("PUT", f"{location}?digest={digest_of(b'a' * 100)}"))[0] == 201


async def test_an_upload_in_flight_is_finished_before_the_end(tmp_path: Path) -> None:
    data = b"x" * 5000
    going, release = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield data[:2500]
        going.set()
        await release.wait()
        yield data[2500:]

    server = serving(tmp_path / "data")
    running = await server.__aenter__()
    async with Client(running) as client:
        pushing = asyncio.create_task(
            client("POST", f"/v2/a/blobs/uploads/?digest={digest_of(data)}", body())
        )
        await going.wait()
        await until(lambda: len(running.store.uploads) == 1)
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0)
        release.set()
        assert (await pushing)[0] == 201
        await ending
    async with serving(tmp_path / "data") as again, Client(again) as client:
        assert (await client("GET", f"/v2/a/blobs/{digest_of(data)}"))[2] == data


async def test_two_registries_never_share_a_root_or_an_address(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server:
        with pytest.raises(Conflict, match="another registry serves"):
            async with serving(tmp_path / "data"):
                pass
        with pytest.raises(Unavailable, match="cannot listen on"):
            async with serving(tmp_path / "other", {"http": {"addr": server.addresses[0]}}):
                pass
    async with serving(tmp_path / "data"), serving(tmp_path / "other"):
        pass  # what failed held on to nothing


async def test_a_cancelled_upload_ends_its_writer(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 10
        await release.wait()
        yield b"y" * (2 << 20)

    async with serving(tmp_path / "data") as server, Client(server) as client:
        _, headers, _ = await client("POST", "/v2/a/blobs/uploads/", b"")
        location = headers["Location"]
        upload = server.store.uploads.find("a", location.rpartition("/")[2])
        writing = asyncio.create_task(client("PATCH", location, body()))
        await until(lambda: upload.claimed)
        assert (await client("PATCH", location, b"z"))[0] == 409
        assert (await client("DELETE", location))[0] == 204
        release.set()
        assert (await writing)[0] == 404
        assert not list((tmp_path / "data/uploads").iterdir())


async def test_referrers_come_in_pages_of_bounded_size(tmp_path: Path) -> None:
    limits = {"referrerspage": 1000}
    async with serving(tmp_path / "data", {"limits": limits}) as server, Client(server) as client:
        subject = {"mediaType": OCI, "digest": digest_of(b"an image"), "size": 8}
        config = b"{}"
        await client.push_blob("a", config)
        wanted: set[str] = set()
        for number in range(9):
            document = {**json.loads(manifest_of(config, [])), "subject": subject}
            document |= {"artifactType": f"x/{number % 3}", "annotations": {"n": str(number) * 100}}
            data = json.dumps(document).encode()
            wanted.add(await client.push_manifest("a", digest_of(data), data))
        for query, count in (("", 9), ("?artifactType=x/1", 3)):
            found, path, pages = [], f"/v2/a/referrers/{subject['digest']}{query}", 0
            while path:
                _, headers, body = await client("GET", path)
                assert len(body) <= 1000
                found += [each["digest"] for each in json.loads(body)["manifests"]]
                path, pages = headers.get("Link", "").partition(">")[0].lstrip("<"), pages + 1
            assert len(found) == len(set(found)) == count and set(found) <= wanted and pages > 1


async def test_a_smallest_chunk_is_announced(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", {"limits": {"minchunk": 4096}}) as server, Client(server) as client:
        _, headers, _ = await client("POST", "/v2/a/blobs/uploads/", b"")
        assert headers["OCI-Chunk-Min-Length"] == "4096"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


async def test_a_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    async with (
        serving(small_disk / "data", {"limits": {"spacecheck": 1 << 40}}) as server,
        Client(server) as client,
    ):
        kept = some_layers()
        await client.push("a", "v1", kept)
        large = await client.push("b", "v1", some_layers(1, 2 << 20))
        data = os.urandom(3 << 20)
        status, _, body = await client("POST", f"/v2/a/blobs/uploads/?digest={digest_of(data)}", data)
        assert status == 507 and b"no space left" in body
        assert not list((small_disk / "data/uploads").iterdir())
        assert (await client.pull("a", "v1"))[1:] == kept
        assert (await client("DELETE", f"/v2/b/manifests/{large}"))[0] == 202
        assert collect(server.store, grace=-1).blobs == 2
        await client.push("a", "v2", [data])
        assert (await client.pull("a", "v2"))[1:] == [data]
