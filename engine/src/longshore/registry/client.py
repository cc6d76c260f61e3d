"""Pull from a registry: the client half of the OCI distribution specification 1.1 (pull: end-2, end-3).

What a registry says is never trusted: every byte passes a writer that knows the digest it must end with,
media types are judged before anything is fetched, `urls` of foreign layers are not followed, and credentials go
to the host they were meant for, never along a redirect to another one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from longshore.errors import (
    EngineError,
    InvalidArgument,
    NotFound,
    OutOfSpace,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from longshore.oci.descriptor import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    parse_platform,
)
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest
from longshore.oci.reference import DEFAULT_DOMAIN, Reference
from longshore.registry.auth import Challenge, Credentials, parse_challenge
from longshore.registry.hosts import Mirror, may_be_plain
from longshore.registry.progress import Progress, moving, standing

T = TypeVar("T")
log = logging.getLogger("longshore.registry")
HUB = "registry-1.docker.io"  # Docker Hub's API lives under another name than its references

ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST_LIST, DOCKER_MANIFEST))
CHUNK = 1 << 20
ATTEMPTS = 5
MIRROR_ATTEMPTS = 2  # the registry itself is waiting
MAX_WAIT = 30.0  # seconds; a Retry-After beyond it is cut
PARALLEL = 3  # layers, as dockerd's --max-concurrent-downloads
MAX_REDIRECTS = 5
MAX_TOKEN = 1 << 20
RETRIED = frozenset({408, 429, 500, 502, 503, 504})


class BlobWriter(Protocol):
    def write(self, data: bytes) -> object: ...
    def commit(self) -> Digest: ...


class Sink(Protocol):
    """Where blobs go; the content store is one. `writer` refuses to commit other bytes than expected."""

    def has(self, digest: Digest) -> bool: ...
    def put(self, data: bytes) -> Digest: ...
    def writer(
        self, expected: Digest | None = None, size: int | None = None
    ) -> AbstractContextManager[BlobWriter]: ...


@dataclass(frozen=True, slots=True)
class Pulled:
    """A whole image in the sink: the platform's manifest, its config and its layers, oldest first."""

    manifest: bytes
    descriptor: Descriptor  # of the manifest
    config: bytes
    layers: tuple[Descriptor, ...]
    digest: Digest  # what the reference named: of the index, where there is one


class _RetryError(Exception):
    """This attempt failed in a way that may pass."""

    def __init__(self, reason: str, after: float = 0.0, *, final: bool = False) -> None:
        super().__init__(reason)
        self.after, self.final = after, final


class _TokenReply(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class RegistryClient:
    """Stateless between pulls.

    `insecure`: hosts, with or without port, that may be spoken to without TLS. `mirrors` are asked in their
    order for images of docker.io, before Docker Hub; what they say of a digest is verified, what they say of
    a tag is believed.
    """

    def __init__(
        self, *, insecure: Sequence[str] = (), mirrors: Sequence[Mirror] = (), user_agent: str = "longshore"
    ) -> None:
        self._insecure = frozenset(insecure)
        self._mirrors = tuple(mirrors)
        self._user_agent = user_agent

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: Credentials | None = None,
        sink: Sink,
        progress: Progress,
    ) -> Pulled:
        """Fetch what is missing in the sink.

        Raises NotFound (unknown image or platform), Unauthorized, Unavailable (the registry does not answer),
        InvalidArgument (it answers nonsense) or OutOfSpace.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
        async with aiohttp.ClientSession(
            timeout=timeout, headers={"User-Agent": self._user_agent}, auto_decompress=False
        ) as session:
            for mirror in self._mirrors if reference.domain == DEFAULT_DOMAIN else ():
                host = _Host(session, reference, mirror.host, [mirror.scheme], prefix=mirror.prefix)
                try:
                    return await _Pull(host, reference, platform, sink, progress, MIRROR_ATTEMPTS).run()
                except OutOfSpace:
                    raise
                except EngineError as cause:
                    log.info("the mirror %s does not help with %s: %s", mirror.host, reference, cause)
            name = HUB if reference.domain == DEFAULT_DOMAIN else reference.domain
            schemes = ["https", "http"] if may_be_plain(reference.domain, self._insecure) else ["https"]
            host = _Host(session, reference, name, schemes, auth)
            return await _Pull(host, reference, platform, sink, progress).run()


class _Host:
    """Requests to one registry: scheme, tokens, redirects and retries."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        reference: Reference,
        name: str,
        schemes: list[str],
        auth: Credentials | None = None,
        *,
        prefix: str = "",
    ) -> None:
        self.name = name
        self._session, self._auth = session, auth
        self._reference = reference
        self._path = f"{prefix}/v2/{reference.path}"
        self._schemes = schemes
        self._authorization = ""
        self._authorized = asyncio.Lock()

    def url(self, tail: str) -> URL:
        return URL(f"{self._schemes[0]}://{self.name}{self._path}/{tail}", encoded=True)

    @asynccontextmanager
    async def get(
        self, tail: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """An answer with 200 or 206. Raises EngineError for a final failure, _RetryError for a passing one."""
        for attempt in range(2):
            authorization = self._authorization
            async with self._follow(tail, headers or {}, authorization) as answer:
                if answer.status == 401 and attempt == 0:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                    await self._authorize(parse_challenge(challenge), authorization)
                    continue
                await self._judge(answer, tail)
                yield answer
                return

    @asynccontextmanager
    async def _follow(
        self, tail: str, headers: Mapping[str, str], authorization: str
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Redirects by hand: the Authorization header stays behind when the host changes."""
        answer = await self._first(tail, headers, authorization)
        try:
            for _ in range(MAX_REDIRECTS):
                if answer.status not in (301, 302, 303, 307, 308):
                    break
                target = answer.url.join(URL(answer.headers.get("Location", "")))
                if target.scheme not in ("https", self._schemes[0]):
                    raise InvalidArgument(
                        "the registry redirects to an insecure address", detail=str(target.origin())
                    )
                kept = authorization if target.origin() == answer.url.origin() else ""
                answer.release()
                answer = await self._send(target, headers, kept)
                authorization = kept
            yield answer
        finally:
            answer.release()

    async def _first(
        self, tail: str, headers: Mapping[str, str], authorization: str
    ) -> aiohttp.ClientResponse:
        """The first request settles the scheme: TLS unless a permitted plain host does not speak it."""
        while True:
            try:
                answer = await self._send(self.url(tail), headers, authorization)
                del self._schemes[1:]
                return answer
            except _RetryError:
                if len(self._schemes) == 1:
                    raise
                self._schemes.pop(0)

    async def _send(self, url: URL, headers: Mapping[str, str], authorization: str) -> aiohttp.ClientResponse:
        sent = {**headers, "Authorization": authorization} if authorization else dict(headers)
        try:
            return await self._session.get(url, headers=sent, allow_redirects=False)
        except (TimeoutError, aiohttp.ClientError, OSError) as cause:
            # Nobody there, or no such name: waiting would only make the user wait.
            final = isinstance(cause, aiohttp.ClientConnectorError)
            raise _RetryError(str(cause) or type(cause).__name__, final=final) from cause

    async def _judge(self, answer: aiohttp.ClientResponse, tail: str) -> None:
        if answer.status in (200, 206):
            return
        detail = await _registry_message(answer)
        if answer.status in RETRIED:
            raise _RetryError(
                f"{answer.status} {detail}".strip(), _retry_after(answer.headers.get("Retry-After", ""))
            )
        if answer.status == 404:
            what = f"blob {tail.removeprefix('blobs/')}" if tail.startswith("blobs/") else "manifest"
            raise NotFound(f"{what} for {self._reference.familiar} not found", detail=detail)
        if answer.status in (401, 403):
            raise Unauthorized(
                f"pull access denied for {self._reference.familiar_name}",
                detail=f"repository does not exist or may require 'docker login': {detail}",
            )
        raise Unavailable(f"the registry {self.name} answers {answer.status} to {tail}", detail=detail)

    async def _authorize(self, challenge: Challenge, used: str) -> None:
        """Answer a challenge; the token serves all later requests. Parallel callers fetch one token."""
        async with self._authorized:
            if self._authorization != used:
                return
            if challenge.scheme == "basic":
                if self._auth is None:
                    raise Unauthorized(
                        f"the registry {self.name} wants a login", hint=f"docker login {self.name}"
                    )
                self._authorization = self._auth.basic
            elif challenge.scheme == "bearer":
                self._authorization = "Bearer " + await self._token(challenge.parameters)
            else:
                raise Unsupported(f"authentication scheme {challenge.scheme!r} of {self.name}")

    async def _token(self, parameters: dict[str, str]) -> str:
        if self._auth and self._auth.registry_token:
            return self._auth.registry_token
        realm = URL(parameters.get("realm", ""))
        # A token service may be another host (Docker Hub's is), but the password travels under TLS only.
        if realm.scheme != "https" and self._schemes[0] == "https":
            raise InvalidArgument("the registry names an insecure token service", detail=str(realm))
        query = {"service": parameters.get("service", ""), "scope": parameters.get("scope", "")}
        url = URL(f"{realm}{'&' if realm.query_string else '?'}{urlencode(query)}", encoded=True)
        authorization = self._auth.basic if self._auth and self._auth.username else ""
        answer = await self._send(url, {}, authorization)
        async with answer:
            if answer.status in (401, 403):
                raise Unauthorized(
                    f"the token service of {self.name} refuses the login", hint="docker login again"
                )
            if answer.status != 200:
                raise _RetryError(f"the token service of {self.name} answers {answer.status}")
            data = await answer.content.read(MAX_TOKEN)
        try:
            reply = msgspec.json.decode(data, type=_TokenReply)
        except (msgspec.MsgspecError, RecursionError) as cause:
            raise InvalidArgument(
                f"the token service of {self.name} sent nonsense", detail=str(cause)
            ) from cause
        return reply.token or reply.access_token


def _tell_nobody(_message: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class _Pull:
    host: _Host
    reference: Reference
    platform: str
    sink: Sink
    progress: Progress
    attempts: int = ATTEMPTS

    async def run(self) -> Pulled:
        tag = str(self.reference.digest or self.reference.tag or "latest")
        data, kind = await self.document(f"manifests/{tag}", self.reference.digest)
        self.progress({"status": f"Pulling from {self.reference.path}", "id": tag})
        named = sha256_of(data)
        descriptor = Descriptor(media_type=kind, digest=str(named), size=len(data))
        parsed = self.parse(data, kind)
        if isinstance(parsed, Index):
            chosen = parsed.choose(parse_platform(self.platform))
            data, kind = await self.document(f"manifests/{chosen.digest}", chosen.blob)
            descriptor = msgspec.structs.replace(chosen, media_type=kind or chosen.media_type, size=len(data))
            parsed = self.parse(data, kind)
        if not isinstance(parsed, Manifest):
            raise InvalidArgument("invalid index", detail="it names another index for this platform")
        self.sink.put(data)
        parts = (parsed.config, *parsed.layers)
        if all(self.sink.has(part.blob) for part in parts):  # up to date, or another name for the same
            self.progress = _tell_nobody
        config = await self.small_blob(parsed.config)
        await self.layers(parsed.layers)
        return Pulled(data, descriptor, config, tuple(parsed.layers), named)

    def parse(self, data: bytes, kind: str) -> Manifest | Index:
        """What the registry said; a message about nonsense tells whose it is."""
        try:
            return parse_manifest(data, kind)
        except InvalidArgument as cause:
            raise InvalidArgument(
                f"{self.reference.familiar} of {self.reference.domain}", detail=str(cause)
            ) from cause

    async def document(self, tail: str, expected: Digest | None) -> tuple[bytes, str]:
        """A manifest or index and its media type; refused when it is not what the digest says."""

        async def once() -> tuple[bytes, str]:
            async with self.host.get(tail, {"Accept": ACCEPT}) as answer:
                data = await _read_all(answer, MAX_MANIFEST)
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                return data, kind if kind in MANIFEST_TYPES | INDEX_TYPES else ""

        data, kind = await self.persist(once)
        if expected is not None and expected.algorithm == "sha256" and sha256_of(data) != expected:
            raise InvalidArgument("manifest verification failed for digest", detail=str(expected))
        return data, kind

    async def small_blob(self, descriptor: Descriptor) -> bytes:
        if descriptor.size > MAX_MANIFEST:
            raise InvalidArgument("image config too large", detail=f"{descriptor.size} bytes")

        async def once() -> bytes:
            async with self.host.get(f"blobs/{descriptor.digest}") as answer:
                return await _read_all(answer, descriptor.size)

        data = await self.persist(once, descriptor)
        with self.sink.writer(descriptor.blob, descriptor.size) as writer:
            writer.write(data)
            writer.commit()
        return data

    async def persist(self, once: Callable[[], Awaitable[T]], blob: Descriptor | None = None) -> T:
        part = f"{blob.blob.short} of " if blob else ""
        return await _persist(once, f"{part}{self.reference} from {self.host.name}", self.attempts)

    async def layers(self, layers: Sequence[Descriptor]) -> None:
        """In parallel; the first failure ends the others."""
        gate = asyncio.Semaphore(PARALLEL)
        distinct = {layer.digest: layer for layer in layers}.values()
        for layer in distinct:
            if not self.sink.has(layer.blob):
                self.progress(standing("Pulling fs layer", layer.blob.short))

        async def fetch(layer: Descriptor) -> None:
            async with gate:
                await self.layer(layer)

        try:
            async with asyncio.TaskGroup() as group:
                for layer in distinct:
                    group.create_task(fetch(layer))
        except ExceptionGroup as failures:  # not except*: what that raises is wrapped in a group again
            raise failures.exceptions[0] from None

    async def layer(self, descriptor: Descriptor) -> None:
        digest = descriptor.blob
        if self.sink.has(digest):
            self.progress(standing("Already exists", digest.short))
            return
        with self.sink.writer(digest, descriptor.size) as writer:
            download = _Download(self.host, descriptor, writer, self.progress)
            await self.persist(download.once, descriptor)
            self.progress(standing("Verifying Checksum", digest.short))
            await asyncio.to_thread(writer.commit)
        self.progress(standing("Download complete", digest.short))


@dataclass(slots=True)
class _Download:
    """One blob; a broken connection goes on where it ended (Range, RFC 9110 section 14)."""

    host: _Host
    descriptor: Descriptor
    writer: BlobWriter
    progress: Progress
    done: int = 0

    async def once(self) -> None:
        headers = {"Range": f"bytes={self.done}-"} if self.done else {}
        async with self.host.get(f"blobs/{self.descriptor.digest}", headers) as answer:
            skip = self.done if answer.status == 200 else 0  # the server may not know ranges
            try:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    fresh = chunk[skip:]
                    skip -= len(chunk) - len(fresh)
                    await self.take(fresh)
            except (TimeoutError, aiohttp.ClientError, OSError) as cause:
                raise _RetryError(str(cause) or type(cause).__name__) from cause
        if self.done < self.descriptor.size:
            raise _RetryError(f"the connection ended after {self.done} of {self.descriptor.size} bytes")

    async def take(self, data: bytes) -> None:
        if self.done + len(data) > self.descriptor.size:
            raise InvalidArgument(
                "the registry sends more than the manifest says", detail=f"blob {self.descriptor.digest}"
            )
        await asyncio.to_thread(self.writer.write, data)  # hashing a megabyte takes a millisecond
        self.done += len(data)
        self.progress(moving("Downloading", self.descriptor.blob.short, self.done, self.descriptor.size))


async def _persist(once: Callable[[], Awaitable[T]], what: str, attempts: int) -> T:
    """Try until it works: 0.5 s doubling, or what Retry-After asks for. Raises Unavailable in the end."""
    wait = 0.5
    for attempt in range(1, attempts + 1):
        try:
            return await once()
        except _RetryError as failure:
            if attempt == attempts or failure.final:
                raise Unavailable(
                    f"failed to fetch {what}",
                    detail=str(failure),
                    hint="check the name, the network and the registry, then pull again",
                ) from failure
            await asyncio.sleep(min(max(wait, failure.after), MAX_WAIT))
            wait *= 2
    raise AssertionError("unreachable")


def _retry_after(text: str) -> float:
    """Seconds; the form with a date is rare and counts as no wish (RFC 9110, section 10.2.3)."""
    return float(text) if text.isdigit() else 0.0


class _ErrorItem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorReply(msgspec.Struct):
    errors: list[_ErrorItem] = []


async def _registry_message(answer: aiohttp.ClientResponse) -> str:
    """The registry's own words, cut: they come from outside."""
    try:
        data = await answer.content.read(16 << 10)
        errors = msgspec.json.decode(data, type=_ErrorReply).errors
    except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError, RecursionError):
        return ""
    return "; ".join(filter(None, (error.message or error.code for error in errors)))[:300]


async def _read_all(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(64 << 10):
            data += chunk
            if len(data) > limit:
                raise InvalidArgument("the registry sends more than it may", detail=f"over {limit} bytes")
    except (TimeoutError, aiohttp.ClientError, OSError) as cause:
        raise _RetryError(str(cause) or type(cause).__name__) from cause
    return bytes(data)
