"""Garbage collection while clients push, upload sessions over a kill, and what a crash leaves behind."""

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import threading
import time
from pathlib import Path

from tests.engine.compat.registry_lab import Client, digest_of, manifest_of, serving, some_layers
from tests.suites.registry.servers import ours
from tests.suites.registry.wire import OCTETS, Registry, Repository, expect, some_bytes
from tests.suites.registry.wire import digest_of as wire_digest

from longshore.oci.digest import parse_digest
from longshore.registry.server.collector import collect
from longshore.registry.server.store import Store


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def _with_clock(store: Store) -> Clock:
    clock = Clock()
    store.clock = clock
    store.records._clock = clock  # pyright: ignore[reportPrivateUsage]
    return clock


async def test_what_is_kept_and_what_goes(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        clock = _with_clock(server.store)
        kept, shared = some_layers()
        await client.push("a", "v1", [kept, shared])
        gone = await client.push("b", "v1", [shared, b"only here"])
        loose = await client.push_blob("a", b"pushed and never used")
        assert collect(server.store, grace=3600).blobs == 0, "everything is fresh"
        assert (await client("DELETE", f"/v2/b/manifests/{gone}"))[0] == 202
        clock.now += 3000
        assert (await client("HEAD", f"/v2/a/blobs/{loose}"))[0] == 200  # somebody counts on it
        clock.now += 3000
        done = collect(server.store, grace=3600)
        assert done.blobs == 2, (
            "the layer and the config of b; the shared layer is a's too, the loose one was seen"
        )
        assert (await client("GET", f"/v2/b/blobs/{digest_of(shared)}"))[0] == 404
        assert (await client.pull("a", "v1"))[1:] == [kept, shared]
        clock.now += 6000
        assert collect(server.store, grace=3600).blobs == 1
        assert (await client("HEAD", f"/v2/a/blobs/{loose}"))[0] == 404
        assert not server.store.files.path(parse_digest(loose)).exists()


async def test_untagged_manifests_go_when_that_is_wanted(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        clock = _with_clock(server.store)
        first = await client.push("a", "v1", some_layers())
        await client.push("a", "v1", some_layers())  # the tag moves
        config = b'{"of": "a referrer"}'
        await client.push_blob("a", config)
        tagged = json.loads((await client("GET", "/v2/a/manifests/v1"))[2])
        subject = {"mediaType": tagged["mediaType"], "digest": "", "size": 0}
        subject["digest"] = (await client("HEAD", "/v2/a/manifests/v1"))[1]["Docker-Content-Digest"]
        referrer = json.dumps({**json.loads(manifest_of(config, [])), "subject": subject}).encode()
        held = await client.push_manifest("a", digest_of(referrer), referrer)
        clock.now += 10_000
        assert collect(server.store, grace=3600).manifests == 0
        assert collect(server.store, grace=3600, delete_untagged=True).manifests == 1
        assert (await client("GET", f"/v2/a/manifests/{first}"))[0] == 404
        assert (await client("GET", f"/v2/a/manifests/{held}"))[0] == 200
        await client.pull("a", "v1")


async def test_no_blob_is_lost_under_concurrent_pushes(tmp_path: Path) -> None:
    """Pushers that look before they upload, deleters and the collector at once; every image that was accepted is whole.

    All content is old when a round begins, so that the collector may take whatever nobody has looked at since.
    """
    choices = random.Random(4)
    pool = [choices.randbytes(500 + number) for number in range(12)]
    async with serving(tmp_path / "data") as server, Client(server) as client:
        clock = _with_clock(server.store)
        accepted: set[tuple[str, str]] = set()
        numbers = itertools.count()

        async def push(repository: str) -> None:
            tag = f"t{next(numbers)}"
            layers = choices.sample(pool, 4)
            config = json.dumps({"tag": tag}).encode()
            for data in (config, *layers):
                status, _, _ = await client("HEAD", f"/v2/{repository}/blobs/{digest_of(data)}")
                if status == 404:
                    await client.push_blob(repository, data)
            await client.push_manifest(repository, tag, manifest_of(config, layers))
            accepted.add((repository, tag))

        async def forget() -> None:
            repository, tag = accepted.pop()
            _, headers, _ = await client("HEAD", f"/v2/{repository}/manifests/{tag}")
            digest = headers["Docker-Content-Digest"]
            assert (await client("DELETE", f"/v2/{repository}/manifests/{digest}"))[0] == 202

        collected = 0
        for _ in range(5):
            work = [push(choices.choice("abc")) for _ in range(12)]
            work += [forget() for _ in range(min(8, len(accepted)))]
            choices.shuffle(work)
            busy = asyncio.gather(*work)
            while not busy.done():
                collected += (await asyncio.to_thread(collect, server.store, grace=3600)).blobs
                await asyncio.sleep(0)
            await busy
            for repository, tag in accepted:
                await client.pull(repository, tag)
            clock.now += 10_000
        assert collected > 20, f"the collector had too little to do: {collected}"


async def test_strays_of_a_crash_go(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        layers = some_layers()
        await client.push("a", "v1", layers)
        stray = tmp_path / "data/blobs/sha256/ab" / ("ab" * 32)
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"named, but its row was never committed")
        assert collect(server.store, grace=3600).strays == 1
        assert not stray.exists()
        assert (await client.pull("a", "v1"))[1:] == layers


async def test_uploads_expire(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as server, Client(server) as client:
        _, headers, _ = await client("POST", "/v2/a/blobs/uploads/", b"")
        await client("PATCH", headers["Location"], b"some bytes")
        assert server.store.uploads.expire(3600) == 0
        assert server.store.uploads.expire(0) == 1
        assert (await client("GET", headers["Location"]))[0] == 404
        assert not list((tmp_path / "data/uploads").iterdir())


def test_an_upload_outlives_kill_9(tmp_path: Path) -> None:
    data = some_bytes(100_000)

    def first_half(repo: Repository) -> str:
        answer = expect(repo("PATCH", repo.start(), data[:60_000], {"Content-Type": OCTETS}), 202)
        return answer.header("Location")

    def rest(repo: Repository, location: str) -> None:
        answer = expect(repo("GET", location), 204)
        assert answer.header("Range") == "0-59999"
        headers = {"Content-Type": OCTETS, "Content-Range": "60000-99999"}
        expect(repo("PUT", location, data[60_000:], headers, digest=wire_digest(data)), 201)
        assert repo("GET", f"blobs/{wire_digest(data)}").body == data

    with ours(tmp_path, kill=True) as address:
        location = first_half(Repository(Registry(address), "a"))
    with ours(tmp_path) as address:
        rest(Repository(Registry(address), "a"), location)


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Killed among pushes again and again: every image whose push was answered with 201 is whole afterwards."""
    pushed: dict[str, bytes] = {}

    def push_until_it_dies(address: str) -> None:
        repo = Repository(Registry(address), "a")
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            for number in itertools.count(len(pushed)):
                data = repo.manifest(layers=2)
                repo.push(data, f"t{number}")
                pushed[f"t{number}"] = data

    for _ in range(2):
        before = len(pushed)
        with ours(tmp_path, kill=True) as address:
            pusher = threading.Thread(target=push_until_it_dies, args=(address,))
            pusher.start()
            while len(pushed) < before + 5 and pusher.is_alive():
                time.sleep(0.005)
        pusher.join()
        assert len(pushed) >= before + 5
    with ours(tmp_path) as address:
        repo = Repository(Registry(address), "a")
        for tag, data in pushed.items():
            assert repo.get(tag).body == data
            document = json.loads(data)
            for each in (document["config"], *document["layers"]):
                assert wire_digest(repo("GET", f"blobs/{each['digest']}").body) == each["digest"]
        repo.registry.close()
