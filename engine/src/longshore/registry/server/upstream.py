"""The registry behind a pull-through cache, asked with the client of this package."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from longshore.errors import InvalidArgument, Unavailable
from longshore.oci.digest import Digest
from longshore.oci.reference import Reference
from longshore.registry.auth import Credentials
from longshore.registry.hosts import Endpoint
from longshore.registry.patience import Patience
from longshore.registry.server.manifests import ACCEPTED, MAX_MANIFEST
from longshore.registry.server.settings import ProxyConfig
from longshore.registry.transport import RegistryHost, read_all

T = TypeVar("T")

_HOSTS = 256  # repositories whose tokens are kept
_ACCEPT = {"Accept": ", ".join(ACCEPTED)}
# A client waits meanwhile: two attempts, and the wait between them is short.
PATIENCE = Patience(attempts=2, first_wait=0.2, longest_wait=2.0, silence=30.0)


class Upstream:
    """Raises EngineError only: NotFound, Unauthorized, Unavailable, InvalidArgument."""

    def __init__(self, config: ProxyConfig, patience: Patience = PATIENCE) -> None:
        parts = urlsplit(config.remoteurl)
        if not parts.hostname or "@" in parts.netloc:
            raise InvalidArgument(
                f"invalid proxy.remoteurl {config.remoteurl!r}",
                hint="write it like https://registry-1.docker.io, the login in proxy.username and proxy.password",
            )
        self.name = parts.netloc
        self._endpoint = Endpoint(parts.netloc, (parts.scheme,), f"{parts.path.rstrip('/')}/v2")
        self._auth = Credentials(config.username, config.password) if config.username else None
        self._patience = patience
        self._session: aiohttp.ClientSession | None = None
        self._hosts: OrderedDict[str, RegistryHost] = OrderedDict()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _host(self, repository: str) -> RegistryHost:
        """One per repository, because a token is for one; the least used one goes."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": "longshore-registry"}, auto_decompress=False
            )
        host = self._hosts.pop(repository, None)
        if host is None:
            reference = Reference(self.name, repository)
            host = RegistryHost(self._session, self._endpoint, reference, self._auth, patience=self._patience)
        self._hosts[repository] = host
        if len(self._hosts) > _HOSTS:
            self._hosts.popitem(last=False)
        return host

    async def digest_of_tag(self, repository: str, tag: str) -> str:
        """By HEAD, which counts less than GET where pulls are counted; "" when it does not say."""
        host = self._host(repository)

        async def once() -> str:
            async with host.request("HEAD", f"manifests/{tag}", _ACCEPT) as answer:
                return answer.headers.get("Docker-Content-Digest", "")

        return await self._persist(once, f"{repository}:{tag}")

    async def manifest(self, repository: str, reference: str) -> tuple[bytes, str]:
        """(bytes, media type); the digest is not compared here."""
        host = self._host(repository)

        async def once() -> tuple[bytes, str]:
            async with host.get(f"manifests/{reference}", _ACCEPT) as answer:
                data = await read_all(answer, MAX_MANIFEST, self._patience)
                return data, answer.headers.get("Content-Type", "")

        return await self._persist(once, f"{repository} {reference}")

    async def document(self, repository: str, tail: str) -> tuple[bytes, str]:
        """(bytes, Link header) of a list: tags or referrers."""
        host = self._host(repository)

        async def once() -> tuple[bytes, str]:
            async with host.get(tail) as answer:
                data = await read_all(answer, MAX_MANIFEST, self._patience)
                return data, answer.headers.get("Link", "")

        return await self._persist(once, f"{repository} {tail}")

    @asynccontextmanager
    async def blob(
        self, repository: str, digest: Digest, offset: int = 0
    ) -> AsyncGenerator[tuple[int, aiohttp.StreamReader]]:
        """(size of the whole, the bytes from `offset` on). One attempt. Raises RetryError too."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._host(repository).get(f"blobs/{digest}", headers) as answer:
            if offset and answer.status != 206:
                raise Unavailable(f"{self.name} does not go on in the middle of {digest}")
            length = answer.content_length
            if length is None:
                raise Unavailable(f"{self.name} does not say how long {digest} is")
            yield offset + length, answer.content

    async def blob_size(self, repository: str, digest: Digest) -> int:
        host = self._host(repository)

        async def once() -> int:
            async with host.request("HEAD", f"blobs/{digest}") as answer:
                return int(answer.headers.get("Content-Length", "0"))

        return await self._persist(once, f"{repository} {digest}")

    async def _persist(self, once: Callable[[], Awaitable[T]], what: str) -> T:
        return await self._patience.persist(once, f"{what} of {self.name}", self._patience.attempts)
