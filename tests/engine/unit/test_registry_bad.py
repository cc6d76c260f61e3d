"""The pull against registries that hang, lie, stumble and collect credentials: real HTTP, short patience."""

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from tests.engine.fake_registry import INDEX, Answer, Asked, FakeRegistry, digest, running

from longshore.errors import EngineError, InvalidArgument, NotFound, Unauthorized, Unavailable, Unsupported
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.reference import parse_reference
from longshore.registry.auth import Credentials
from longshore.registry.client import Pulled, RegistryClient
from longshore.registry.hosts import RegistryRules, parse_mirror
from longshore.registry.patience import Patience, retry_after
from longshore.storage.content import BlobWriter, ContentStore

QUICK = Patience(
    first_wait=0.01, longest_wait=0.05, silence=0.4, document=0.6, window=0.2, slowest=1_000_000, attempts=3
)
PLAIN, PACKED = b"plain", bytes(range(256)) * 1000
LOGIN = Credentials(username="me", password="secret")


class PlainSink:
    """The content store as the client sees it, without unpacking."""

    def __init__(self, content: ContentStore) -> None:
        self.content = content

    def has(self, digest: Digest) -> bool:
        return self.content.has(digest)

    def put(self, data: bytes, expected: Digest | None = None) -> Digest:
        return self.content.put(data, expected)

    def expect(self, config: bytes, layers: Sequence[Descriptor]) -> None:
        return

    @asynccontextmanager
    async def download(self, layer: Descriptor) -> AsyncIterator[BlobWriter]:
        with self.content.resume(layer.blob, layer.size) as writer:
            yield writer


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with running() as registry:
        registry.image([(PLAIN, PACKED)], "1")
        yield registry


@pytest.fixture
def sink(tmp_path: Path) -> PlainSink:
    return PlainSink(ContentStore(tmp_path))


async def pull(
    registry: FakeRegistry,
    sink: PlainSink,
    name: str = "app:1",
    *,
    auth: Credentials | None = None,
    patience: Patience = QUICK,
    rules: RegistryRules | None = None,
    platform: str = "linux/amd64",
) -> Pulled:
    def progress(_message: Mapping[str, object]) -> None:
        return

    client = RegistryClient(rules, patience=patience)
    reference = parse_reference(f"{registry.address}/{name}")
    return await client.pull(reference, platform=platform, auth=auth, sink=sink, progress=progress)


async def refused(registry: FakeRegistry, sink: PlainSink, name: str = "app:1") -> EngineError:
    """Fails with a clear error, and nothing of the layer is in the store."""
    with pytest.raises(EngineError) as caught:
        await pull(registry, sink, name)
    assert not sink.content.has(parse_digest(digest(PACKED)))
    assert "\n" not in str(caught.value)
    return caught.value


# Passing failures


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("path", ["/manifests/1", "/blobs/"])
async def test_a_passing_failure_is_tried_again(
    registry: FakeRegistry, sink: PlainSink, status: int, path: str
) -> None:
    registry.first(2, path, Answer(status, b"<html>later</html>", {"Retry-After": "0"}))
    pulled = await pull(registry, sink)
    assert sink.content.read(pulled.layers[0].blob, 1 << 20) == PACKED


async def test_what_never_gets_better_is_unavailable(registry: FakeRegistry, sink: PlainSink) -> None:
    registry.first(99, "/blobs/", Answer(503, b'{"errors":[{"message":"too\\nbusy"}]}'))
    failure = await refused(registry, sink)
    assert isinstance(failure, Unavailable)
    assert "503 too busy" in str(failure)
    assert len(registry.paths("/blobs/")) == QUICK.attempts


async def test_retry_after_is_waited_for(registry: FakeRegistry, sink: PlainSink) -> None:
    registry.first(1, "/manifests/", Answer(429, headers={"Retry-After": "1"}))
    patience = Patience(first_wait=0.0, longest_wait=0.3)
    started = time.monotonic()
    await pull(registry, sink, patience=patience)
    assert time.monotonic() - started >= 0.3  # more than one's own wait, but never longer than the longest


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after("7") == 7
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert retry_after(formatdate(time.time() - 60, usegmt=True)) == 0
    for nonsense in ("", "soon", "-1", "Mon, 99 Foo"):
        assert retry_after(nonsense) == 0


@pytest.mark.parametrize("path", ["/manifests/1", "/blobs/"])
async def test_attack_19_a_registry_that_hangs_is_left(
    registry: FakeRegistry, sink: PlainSink, path: str
) -> None:
    """Fails when a silent connection is waited for without an end."""
    registry.first(99, path, Answer(200, bytes(1000), {"Content-Type": "x/y"}, cut=10, hang=True))
    assert isinstance(await refused(registry, sink), (Unavailable, InvalidArgument))


async def test_attack_19_a_registry_that_trickles_is_left(registry: FakeRegistry, sink: PlainSink) -> None:
    """Fails when only silence counts: a byte now and then would keep a pull open for ever."""
    blob = digest(PACKED)
    registry.first(99, blob, Answer(200, PACKED, drip=0.05))
    async with asyncio.timeout(30):
        failure = await refused(registry, sink)
    assert "bytes in" in str(failure)
    assert len(registry.paths(blob)) == QUICK.attempts


# Resuming


async def test_a_broken_download_goes_on_where_it_ended(registry: FakeRegistry, sink: PlainSink) -> None:
    blob = digest(PACKED)

    def cut(asked: Asked) -> Answer | None:
        answer = registry.truth(asked)
        if blob in asked.path and len(registry.paths(blob)) <= 2:
            answer.cut = 70_000
        return answer

    registry.faults.append(cut)
    await pull(registry, sink)
    ranges = [asked.headers.get("range") for asked in registry.paths(blob)]
    assert ranges == [None, "bytes=70000-", "bytes=140000-"]


async def test_the_next_pull_asks_for_the_rest_also_after_a_restart(
    registry: FakeRegistry, sink: PlainSink, tmp_path: Path
) -> None:
    """Fails when the half is thrown away, or taken without being hashed again."""
    blob = parse_digest(digest(PACKED))
    registry.first(99, str(blob), Answer(200, PACKED, cut=100_000, hang=True))
    with pytest.raises(Unavailable):
        await pull(registry, sink)
    assert sink.content.partials() == {blob: 100_000}
    registry.faults.clear()
    registry.asked.clear()
    again = PlainSink(ContentStore(tmp_path))
    await pull(registry, again)
    assert [asked.headers.get("range") for asked in registry.paths(str(blob))] == ["bytes=100000-"]
    assert again.content.is_true(blob)
    assert again.content.partials() == {}


@pytest.mark.parametrize("knows_ranges", [True, False])
async def test_a_damaged_half_is_fetched_anew(
    registry: FakeRegistry, sink: PlainSink, knows_ranges: bool
) -> None:
    """Fails when a power cut's garbage makes every later pull fail."""
    blob = parse_digest(digest(PACKED))
    registry.knows_ranges = knows_ranges
    (sink.content.partial / f"sha256-{blob.hex}").write_bytes(b"garbage" * 1000)
    await pull(registry, sink)
    assert sink.content.is_true(blob)


async def test_a_registry_without_ranges_is_read_from_the_start(
    registry: FakeRegistry, sink: PlainSink
) -> None:
    blob = digest(PACKED)
    registry.knows_ranges = False
    registry.first(1, blob, Answer(200, PACKED, cut=100_000))
    await pull(registry, sink)
    assert sink.content.is_true(parse_digest(blob))


# Lies


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(200, PACKED[:-1] + b"x"), "does not match its digest"),
        (Answer(200, PACKED + b"more"), "more than the manifest says"),
        (Answer(206, PACKED, {"Content-Range": "bytes 5-9/10"}), "does not send the range"),
        (Answer(416, b""), "does not send the range"),
        (Answer(404, b"{" * 5000), "not found"),
        (Answer(418, b"\xff\xfe"), "answers 418"),
        (Answer(302, headers={"Location": "ftp://127.0.0.1/x"}), "redirects to an insecure address"),
        (Answer(302, headers={"Location": "http://[::1"}), "redirects to nonsense"),
    ],
)
async def test_attack_21_a_blob_that_is_not_what_was_told(
    registry: FakeRegistry, sink: PlainSink, answer: Answer, words: str
) -> None:
    """Fails when a layer is stored without its digest and its size being compared."""
    registry.first(99, digest(PACKED), answer)
    failure = await refused(registry, sink)
    assert words in str(failure)
    assert len(registry.paths(digest(PACKED))) == 1  # what is wrong is not asked for again
    assert sink.content.partials() == {}


async def test_attack_21_a_truncated_blob(registry: FakeRegistry, sink: PlainSink) -> None:
    """Fails when the end of the connection counts as the end of the blob."""
    short = PACKED[:1000]
    registry.blobs[digest(PACKED)] = short
    failure = await refused(registry, sink)
    assert "does not send the range" in str(failure) or "ended after 1000" in str(failure)


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("text/html", b"<html>sign in</html>", "invalid manifest"),
        ("application/json", b"[" * 100_000, "invalid manifest"),
        ("application/json", b"\xff\xfe\x00", "invalid manifest"),
        ("application/json", b'{"schemaVersion":1,"fsLayers":[]}', "schema 1"),
        ("application/vnd.oci.image.manifest.v1+json", b'{"manifests":[],"layers":[]}', "both manifests"),
        ("application/json", b" " * (5 << 20), "more than it may"),
        ("application/vnd.cncf.helm.config.v1+json", b'{"mediaType":"a/b"}', "unsupported manifest media"),
    ],
)
async def test_attack_21_a_manifest_that_is_none(
    registry: FakeRegistry, sink: PlainSink, kind: str, data: bytes, words: str
) -> None:
    """Fails when anything is fetched before the document was judged."""
    registry.manifests["bad"] = (kind, data)
    failure = await refused(registry, sink, "app:bad")
    assert words in str(failure)
    assert not registry.paths("/blobs/")


async def test_attack_21_a_digest_that_names_another_manifest(
    registry: FakeRegistry, sink: PlainSink
) -> None:
    """Fails when a manifest asked for by digest is believed."""
    for algorithm in ("sha256", "sha512"):
        wanted = digest(b"something else", algorithm)
        registry.manifests[wanted] = registry.manifests["1"]
        assert "manifest verification failed" in str(await refused(registry, sink, f"app@{wanted}"))


async def test_attack_21_foreign_layers_are_not_followed(registry: FakeRegistry, sink: PlainSink) -> None:
    """Fails when the URLs of a layer are fetched: the registry chooses a host inside of our network."""
    with running() as inside:
        inside.blobs["x"] = PACKED
        document = json.loads(registry.manifests["1"][1])
        document["layers"][0] |= {"urls": [f"http://{inside.address}/v2/a/blobs/x"]}
        registry.manifest(document, "foreign")
        del registry.blobs[digest(PACKED)]
        failure = await refused(registry, sink, "app:foreign")
        assert isinstance(failure, NotFound)
        assert "whose URLs are not followed" in str(failure)
        assert inside.asked == []
        document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        registry.manifest(document, "foreign")
        assert isinstance(await refused(registry, sink, "app:foreign"), Unsupported)


def _manifest(layers: int, config: int = 100) -> bytes:
    part = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": 1}
    document = {"schemaVersion": 2, "config": part | {"size": config}, "layers": [part] * layers}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_manifest(10_000), "max depth exceeded: 10000 layers"),
        (_manifest(1, 1 << 40), "image config too large"),
        (b'{"schemaVersion":2,"manifests":[' + b"{}," * 20_000 + b"{}]}", "invalid manifest"),
        (b'{"a":' * 500_000, "invalid manifest"),
        (b'{"schemaVersion":' + b"9" * 1_000_000 + b"}", "invalid manifest"),
    ],
    ids=["10000 layers", "config of 1 TB", "20000 manifests", "nested", "long number"],
)
async def test_attack_19_documents_without_an_end(
    registry: FakeRegistry, sink: PlainSink, data: bytes, words: str
) -> None:
    """Fails when a document's numbers are believed: before anything else is fetched it is refused."""
    registry.manifests["bad"] = ("application/json", data)
    assert words in str(await refused(registry, sink, "app:bad"))
    assert not registry.paths("/blobs/")


async def test_attack_19_an_answer_without_an_end(registry: FakeRegistry, sink: PlainSink) -> None:
    """Fails when an answer is read to its end: the memory would be the registry's to fill."""
    registry.first(9, "/manifests/", Answer(200, bytes(64 << 20), {"Content-Type": "application/json"}))
    tracemalloc.start()
    try:
        assert "more than it may" in str(await refused(registry, sink))
        assert tracemalloc.get_traced_memory()[1] < 120 << 20  # 64 of it are the registry's own
    finally:
        tracemalloc.stop()
    registry.faults.clear()
    registry.first(9, digest(PACKED), Answer(200, PACKED + bytes(64 << 20)))
    assert "more than the manifest says" in str(await refused(registry, sink))
    assert sink.content.partials() == {}


# Credentials


def wants_login(registry: FakeRegistry, challenge: str, accepted: str) -> None:
    def guard(asked: Asked) -> Answer | None:
        if asked.path.startswith("/token") or asked.login == accepted:
            return None
        return Answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})

    registry.faults.append(guard)


async def test_basic_login(registry: FakeRegistry, sink: PlainSink) -> None:
    wants_login(registry, 'Basic realm="here"', LOGIN.basic)
    with pytest.raises(Unauthorized, match="wants a login"):
        await pull(registry, sink)
    await pull(registry, sink, auth=LOGIN)
    with pytest.raises(Unauthorized, match="pull access denied"):
        await pull(registry, sink, auth=Credentials(username="me", password="wrong"))


@pytest.mark.parametrize("kind", ["anonymous", "password", "refresh token", "ready token"])
async def test_tokens(registry: FakeRegistry, sink: PlainSink, kind: str) -> None:
    realm = f"http://{registry.address}/token"
    challenge = f'Bearer realm="{realm}",service="reg",scope="repository:app:pull"'
    wants_login(registry, challenge, "Bearer good")
    login = {
        "anonymous": None,
        "password": LOGIN,
        "refresh token": Credentials(identity_token="r/1"),
        "ready token": Credentials(registry_token="good"),
    }[kind]
    registry.first(9, "/token", Answer(200, b'{"access_token":"good"}'))
    await pull(registry, sink, auth=login)
    asked = registry.paths("/token")
    assert len(asked) == (0 if kind == "ready token" else 1)  # one for all requests
    if kind == "refresh token":
        assert asked[0].method == "POST"
        assert asked[0].path == "/token"  # the secret is in no URL
        form = {name: value[0] for name, value in parse_qs(asked[0].body.decode()).items()}
        assert form == {
            "grant_type": "refresh_token",
            "refresh_token": "r/1",
            "service": "reg",
            "scope": "repository:app:pull",
            "client_id": "longshore",
        }
    elif kind != "ready token":
        assert asked[0].login == (LOGIN.basic if kind == "password" else "")
        assert "scope=repository%3Aapp%3Apull" in asked[0].path


@pytest.mark.parametrize("token", ['{"token":"a\\nb"}', '{"token":""}', "[]", '{"token":' + "[" * 9999])
async def test_a_token_service_that_sends_nonsense(
    registry: FakeRegistry, sink: PlainSink, token: str
) -> None:
    wants_login(registry, f'Bearer realm="http://{registry.address}/token"', "Bearer good")
    registry.first(99, "/token", Answer(200, token.encode()))
    with pytest.raises(InvalidArgument, match="sent nonsense"):
        await pull(registry, sink)


@pytest.mark.parametrize("realm", ["", "token", "http://", "http://[", "file:///etc/passwd"])
async def test_a_challenge_that_names_no_service(registry: FakeRegistry, sink: PlainSink, realm: str) -> None:
    wants_login(registry, f'Bearer realm="{realm}"', "Bearer good")
    with pytest.raises(InvalidArgument):
        await pull(registry, sink, auth=LOGIN)


async def test_attack_21_a_redirect_takes_no_credentials_along(
    registry: FakeRegistry, sink: PlainSink
) -> None:
    """Fails when the Authorization header, or one of hosts.toml, follows a redirect to another port."""
    wants_login(registry, 'Basic realm="here"', LOGIN.basic)
    with running() as storage:
        storage.blobs = dict(registry.blobs)

        def away(asked: Asked) -> Answer | None:
            if "/blobs/" not in asked.path:
                return None
            return Answer(307, headers={"Location": f"http://{storage.address}{asked.path}"})

        registry.faults.append(away)
        await pull(registry, sink, auth=LOGIN)
        assert len(storage.asked) == 2
        assert not any(asked.login for asked in storage.asked)
        assert all(asked.login for asked in registry.paths("/blobs/"))


async def test_attack_21_redirects_end(registry: FakeRegistry, sink: PlainSink) -> None:
    """Fails when redirects are followed without an end."""
    registry.first(99, "/blobs/", Answer(302, headers={"Location": "/v2/app/blobs/again"}))
    with pytest.raises(EngineError):
        await pull(registry, sink)
    assert len(registry.asked) < 10


async def test_attack_21_a_mirror_of_hosts_toml_gets_no_login(
    registry: FakeRegistry, sink: PlainSink, tmp_path: Path
) -> None:
    """Fails when the login, or another host's header, is sent to a mirror."""
    wants_login(registry, 'Basic realm="here"', LOGIN.basic)
    with ExitStack() as stack:
        mirror = stack.enter_context(running())
        wants_login(mirror, 'Basic realm="mirror"', "nothing")
        folder = tmp_path / "certs.d" / registry.address
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(
            f'[host."http://{mirror.address}"]\n[host."http://{mirror.address}".header]\nx-for = "mirror"\n'
        )
        rules = RegistryRules(config_path=(str(tmp_path / "certs.d"),))
        await pull(registry, sink, auth=LOGIN, rules=rules)
    assert mirror.asked
    assert not any(asked.login for asked in mirror.asked)
    assert {asked.headers.get("x-for") for asked in mirror.asked} == {"mirror"}
    assert {asked.headers.get("x-for") for asked in registry.asked} == {None}
    assert mirror.asked[0].path == f"/v2/app/manifests/1?ns={registry.address.replace(':', '%3A')}" or (
        mirror.asked[0].path == f"/v2/app/manifests/1?ns={registry.address}"
    )


async def test_mirrors_of_docker_hub_are_asked_first(registry: FakeRegistry, sink: PlainSink) -> None:
    with running() as mirror:
        mirror.image([(PLAIN, PACKED)], "1")
        rules = RegistryRules(
            insecure=("docker.io",),
            mirrors=(parse_mirror(f"http://{mirror.address}", ()),),
            hub=registry.address,
        )
        client = RegistryClient(rules, patience=QUICK)
        await client.pull(
            parse_reference("app:1"), sink=sink, progress=lambda _m: None, platform="linux/amd64"
        )
        assert mirror.paths("/v2/library/app/manifests/1")
        assert registry.asked == []


# Images


async def test_sha512_is_verified_too(registry: FakeRegistry, sink: PlainSink) -> None:
    registry.image([(PLAIN, PACKED)], "long", algorithm="sha512")
    pulled = await pull(registry, sink, "app:long")
    assert pulled.layers[0].digest == digest(PACKED, "sha512")
    assert sink.content.is_true(pulled.layers[0].blob)
    registry.blobs[digest(PACKED, "sha512")] = PACKED[::-1]
    sink.content.delete(pulled.layers[0].blob)
    with pytest.raises(InvalidArgument, match="does not match its digest"):
        await pull(registry, sink, "app:long")


async def test_an_index_is_judged_by_platform(registry: FakeRegistry, sink: PlainSink) -> None:
    image = json.loads(registry.manifests["1"][1])
    entries = [
        registry.manifest(image | {"annotations": {"for": variant}})
        | {"platform": {"os": "linux", "architecture": "arm", "variant": variant}}
        for variant in ("v5", "v6", "v8")
    ]
    registry.manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, "many", kind=INDEX)
    pulled = await pull(registry, sink, "app:many", platform="linux/arm/v7")
    assert json.loads(pulled.manifest)["annotations"] == {"for": "v6"}
    assert str(pulled.digest) == digest(registry.manifests["many"][1])
    with pytest.raises(NotFound, match="no matching manifest for linux/s390x"):
        await pull(registry, sink, "app:many", platform="linux/s390x")


async def test_layers_come_in_parallel_and_no_more_than_asked(sink: PlainSink) -> None:
    together, most = 0, 0
    with running() as registry:
        layers = [(b"%d" % n, b"layer %d" % n) for n in range(6)]
        registry.image(layers, "1")
        names = {digest(packed) for _, packed in layers}

        def count(asked: Asked) -> Answer | None:
            nonlocal together, most
            if not any(name in asked.path for name in names):
                return None
            together += 1
            most = max(most, together)
            time.sleep(0.05)
            together -= 1
            return None

        registry.faults.append(count)
        client = RegistryClient(parallel=2, patience=QUICK)
        name = parse_reference(f"{registry.address}/app:1")
        await client.pull(name, sink=sink, progress=lambda _m: None, platform="linux/amd64")
    assert most == 2


async def test_a_cancelled_pull_keeps_its_half(registry: FakeRegistry, sink: PlainSink) -> None:
    blob = parse_digest(digest(PACKED))
    registry.first(1, str(blob), Answer(200, PACKED, cut=100_000, hang=True))
    task = asyncio.create_task(pull(registry, sink, patience=Patience()))
    while sink.content.partials().get(blob, 0) < 100_000:  # noqa: ASYNC110  # the other side is a thread
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await pull(registry, sink)
    assert sink.content.is_true(blob)
