"""Registries that answer anything: a pull ends in words, within its time, and only what is true is stored.

The answers are the right ones with another status, headers, length or bytes, over real HTTP on 127.0.0.1; another host
stands by to see whether a login comes along with a redirect.
"""

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.engine.fake_registry import Answer, Asked, FakeRegistry, running

from longshore.errors import EngineError
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest
from longshore.oci.reference import parse_reference
from longshore.registry.auth import Credentials
from longshore.registry.client import RegistryClient
from longshore.registry.patience import Patience
from longshore.storage.content import BlobWriter, ContentStore

QUICK = Patience(attempts=2, first_wait=0.0, longest_wait=0.0, silence=0.3, document=0.3, window=0.2)
LAYERS = [(b"one", bytes(range(256)) * 20), (b"two", b"x" * 3000)]
_STATUS = st.sampled_from(
    [200, 200, 200, 200, 206, 201, 204, 301, 302, 307, 400, 401, 401, 403, 404, 416, 429, 500, 503, 599]
)
_VALUES = st.one_of(
    st.sampled_from(
        ["0", "-1", "1", "99999999999999999999", "bytes 0-9/10", "bytes 5-9/*", "bytes", "http://OTHER/v2/x", "/v2/x", "//OTHER/",
         "ftp://OTHER/", "http://[", 'Basic realm="x"', 'Bearer realm="http://OTHER/token",service="s",scope="a b"',
         'Bearer realm="http://SELF/token"', "Bearer", "Digest x", "application/json", "text/html", "sha256:" + "0" * 64,
         "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json", "gzip", "close", "chunked"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)  # fmt: skip
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["Content-Length", "Content-Range", "Location", "WWW-Authenticate", "Retry-After", "Content-Type", "Docker-Content-Digest",
         "Content-Encoding", "Connection", "Link", "Transfer-Encoding"]
    ),
    _VALUES,
    max_size=3,
)  # fmt: skip
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
Bend = tuple[int, dict[str, str], int, bytes | None, Any, int | None]
_BEND = st.tuples(
    _STATUS,
    _HEADERS,
    st.integers(0, 4),  # which bytes are changed, if any
    st.one_of(st.none(), st.binary(max_size=40)),
    _JSON,
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 6000)),
)


def plans() -> st.SearchStrategy[list[Bend | None]]:
    """What the n-th request gets: None the truth, else how it is bent. Afterwards the truth."""
    return st.lists(st.one_of(st.none(), st.none(), _BEND), min_size=1, max_size=8)


class _Sink:
    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self.has, self.put = content.has, content.put

    def expect(self, config: bytes, layers: Sequence[Descriptor]) -> None:
        return

    @asynccontextmanager
    async def download(self, layer: Descriptor) -> AsyncIterator[BlobWriter]:
        with self._content.resume(layer.blob, layer.size) as writer:
            yield writer


class Lab:
    """One registry and one bystander for all examples."""

    def __init__(self, registry: FakeRegistry, other: FakeRegistry) -> None:
        self.registry, self.other = registry, other
        registry.image(LAYERS, "1")
        other.blobs = dict(registry.blobs)

    def bend(self, truth: Answer, plan: Bend) -> Answer:
        status, headers, part, noise, value, cut = plan
        named = {
            name: text.replace("OTHER", self.other.address).replace("SELF", self.registry.address)
            for name, text in headers.items()
        }
        body = truth.body
        if part == 1 and noise:
            body = noise
        elif part == 2 and noise:
            middle = len(body) // 2
            body = body[:middle] + noise + body[middle + len(noise) :]
        elif part == 3:
            body = json.dumps(value).encode()
        elif part == 4:
            body = body.replace(b"sha256", b"sha512", 1).replace(b'"size": ', b'"size": 9', 1)
        return Answer(status, body, truth.headers | named, cut=cut)

    async def check(self, plans: list[Bend | None], seen: Counter[str]) -> None:
        """One pull. Raises AssertionError, or whatever should not come out."""
        left = list(plans)

        def fault(asked: Asked) -> Answer | None:
            plan = left.pop(0) if left else None
            return self.bend(self.registry.truth(asked), plan) if plan else None

        self.registry.faults = [fault]
        self.registry.asked.clear()
        self.other.asked.clear()
        with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
            content = ContentStore(Path(folder))
            client = RegistryClient(patience=QUICK)
            name = parse_reference(f"{self.registry.address}/app:1")
            login = Credentials(username="me", password="secret")
            try:
                async with asyncio.timeout(30):
                    await client.pull(
                        name,
                        platform="linux/amd64",
                        auth=login,
                        sink=_Sink(content),
                        progress=lambda _m: None,
                    )
                seen["pulled"] += 1
            except EngineError as error:
                text = str(error)
                assert "\n" not in text, text
                assert "secret" not in text
                assert len(text) < 3000
                seen[type(error).__name__] += 1
            assert all(content.is_true(digest) for digest in content.list())
            whole: set[Digest] = set(content.list())
            assert not whole & set(content.partials())
            assert list(content.ingest.iterdir()) == []
        assert len(self.registry.asked) < 60, "it asks and asks"
        for asked in self.other.asked:
            # a token service on another host is told the login, as Docker Hub's is; a redirect's target never
            assert not asked.login or asked.path.startswith("/token"), asked.path


@asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    with running() as registry, running() as other:
        yield Lab(registry, other)
