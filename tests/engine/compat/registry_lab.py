"""A registry of ours in this process, and what its tests need around it."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from longshore.registry.server.service import RegistryServer
from longshore.registry.server.settings import make_settings

OCI = "application/vnd.oci.image.manifest.v1+json"
USERS = {"ann": "secret of ann", "bob": "secret of bob"}


@asynccontextmanager
async def serving(root: Path, config: Mapping[str, Any] | None = None) -> AsyncIterator[RegistryServer]:
    """A registry on a free port of 127.0.0.1."""
    document: dict[str, Any] = {
        **(config or {}),
        "log": {"accesslog": {"disabled": True}},
        "storage": {**(config or {}).get("storage", {}), "filesystem": {"rootdirectory": str(root)}},
        "http": {"addr": "127.0.0.1:0", "draintimeout": "10s", **(config or {}).get("http", {})},
    }
    async with RegistryServer(make_settings(document)) as server:
        yield server


class Client:
    """Requests to one registry, whose bodies are read."""

    def __init__(self, server: RegistryServer | str, **session: Any) -> None:
        address = server if isinstance(server, str) else f"http://{server.addresses[0]}"
        self.base = address
        self._session = aiohttp.ClientSession(**session)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def __call__(
        self, method: str, path: str, data: Any = None, headers: Mapping[str, str] | None = None, **more: Any
    ) -> tuple[int, Any, bytes]:
        """(status, headers, body)."""
        url = path if path.startswith("http") else self.base + path
        async with self._session.request(method, url, data=data, headers=headers, **more) as answer:
            return answer.status, answer.headers, await answer.read()

    async def push_blob(self, name: str, data: bytes, headers: Mapping[str, str] | None = None) -> str:
        digest = digest_of(data)
        path = f"/v2/{name}/blobs/uploads/?digest={digest}"
        status, _, body = await self("POST", path, data, headers)
        assert status == 201, (status, body)
        return digest

    async def push(
        self, name: str, tag: str, layers: list[bytes], headers: Mapping[str, str] | None = None
    ) -> str:
        """A small image; the digest of its manifest."""
        config = json.dumps({"id": digest_of(b"".join(layers))}).encode()
        for data in (config, *layers):
            await self.push_blob(name, data, headers)
        return await self.push_manifest(name, tag, manifest_of(config, layers), headers)

    async def push_manifest(
        self, name: str, tag: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> str:
        path = f"/v2/{name}/manifests/{tag}"
        status, _, body = await self("PUT", path, data, {"Content-Type": OCI, **(headers or {})})
        assert status == 201, (status, body)
        return digest_of(data)

    async def pull(self, name: str, tag: str, headers: Mapping[str, str] | None = None) -> list[bytes]:
        """Everything of an image, compared with its digests."""
        status, _, body = await self(
            "GET", f"/v2/{name}/manifests/{tag}", None, {"Accept": OCI, **(headers or {})}
        )
        assert status == 200, (status, body)
        document = json.loads(body)
        found: list[bytes] = []
        for each in (document["config"], *document["layers"]):
            status, _, data = await self("GET", f"/v2/{name}/blobs/{each['digest']}", None, headers)
            assert status == 200 and digest_of(data) == each["digest"], (status, each)
            found.append(data)
        return found


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_of(config: bytes, layers: list[bytes]) -> bytes:
    kind = "application/vnd.oci.image.layer.v1.tar"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [{"mediaType": kind, "digest": digest_of(each), "size": len(each)} for each in layers],
    }
    return json.dumps(document).encode()


def some_layers(count: int = 2, size: int = 2000) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


def htpasswd(path: Path) -> Path:
    import bcrypt

    lines = [
        f"{user}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}" for user, word in USERS.items()
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def basic(user: str) -> dict[str, str]:
    return {"Authorization": encoded(user, USERS[user])}


def encoded(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def until(condition: Any, seconds: float = 60) -> None:
    """Wait until a condition holds; fails after `seconds`, which only a defect needs."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  a condition of another thread or process
            await asyncio.sleep(0.01)
