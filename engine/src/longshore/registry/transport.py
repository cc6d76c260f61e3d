"""Requests to one registry: scheme, tokens, redirects and retries. Credentials go to the host they were meant for."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from longshore.errors import InvalidArgument, NotFound, Unauthorized, Unavailable, Unsupported
from longshore.oci.reference import Reference
from longshore.registry.auth import Challenge, Credentials, parse_challenge

T = TypeVar("T")

ATTEMPTS = 5
MAX_WAIT = 30.0  # seconds; a Retry-After beyond it is cut
MAX_REDIRECTS = 5
MAX_TOKEN = 1 << 20
RETRIED = frozenset({408, 429, 500, 502, 503, 504})


class RetryError(Exception):
    """This attempt failed in a way that may pass."""

    def __init__(self, reason: str, after: float = 0.0, *, final: bool = False) -> None:
        super().__init__(reason)
        self.after, self.final = after, final


class _TokenReply(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class RegistryHost:
    """Requests to one registry: scheme, tokens, redirects and retries."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        reference: Reference | None,
        name: str,
        schemes: list[str],
        auth: Credentials | None = None,
        *,
        prefix: str = "",
    ) -> None:
        """`reference` None: nothing but the registry itself, /v2/. `prefix`: of a mirror's paths."""
        self.name = name
        self._session, self._auth = session, auth
        self._subject = reference.familiar if reference else name
        self._repository = reference.familiar_name if reference else name
        self._path = f"{prefix}/v2/{reference.path}/" if reference else f"{prefix}/v2/"
        self._schemes = schemes
        self._authorization = ""
        self._authorized = asyncio.Lock()

    def url(self, tail: str) -> URL:
        return URL(f"{self._schemes[0]}://{self.name}{self._path}{tail}", encoded=True)

    @asynccontextmanager
    async def get(
        self, tail: str, headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """An answer with 200 or 206. Raises EngineError for a final failure, RetryError for a passing one."""
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
            except RetryError:
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
            raise RetryError(str(cause) or type(cause).__name__, final=final) from cause

    async def _judge(self, answer: aiohttp.ClientResponse, tail: str) -> None:
        if answer.status in (200, 206):
            return
        detail = await registry_message(answer)
        if answer.status in RETRIED:
            raise RetryError(
                f"{answer.status} {detail}".strip(), retry_after(answer.headers.get("Retry-After", ""))
            )
        if answer.status == 404:
            what = f"blob {tail.removeprefix('blobs/')}" if tail.startswith("blobs/") else "manifest"
            raise NotFound(f"{what} for {self._subject} not found", detail=detail)
        if answer.status in (401, 403):
            raise Unauthorized(
                f"pull access denied for {self._repository}",
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
                raise RetryError(f"the token service of {self.name} answers {answer.status}")
            data = await answer.content.read(MAX_TOKEN)
        try:
            reply = msgspec.json.decode(data, type=_TokenReply)
        except (msgspec.MsgspecError, RecursionError) as cause:
            raise InvalidArgument(
                f"the token service of {self.name} sent nonsense", detail=str(cause)
            ) from cause
        return reply.token or reply.access_token


async def persist(once: Callable[[], Awaitable[T]], what: str, attempts: int) -> T:
    """Try until it works: 0.5 s doubling, or what Retry-After asks for. Raises Unavailable in the end."""
    wait = 0.5
    for attempt in range(1, attempts + 1):
        try:
            return await once()
        except RetryError as failure:
            if attempt == attempts or failure.final:
                raise Unavailable(
                    f"failed to fetch {what}",
                    detail=str(failure),
                    hint="check the name, the network and the registry, then pull again",
                ) from failure
            await asyncio.sleep(min(max(wait, failure.after), MAX_WAIT))
            wait *= 2
    raise AssertionError("unreachable")


def retry_after(text: str) -> float:
    """Seconds; the form with a date is rare and counts as no wish (RFC 9110, section 10.2.3)."""
    return float(text) if text.isdigit() else 0.0


class _ErrorItem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorReply(msgspec.Struct):
    errors: list[_ErrorItem] = []


async def registry_message(answer: aiohttp.ClientResponse) -> str:
    """The registry's own words, cut: they come from outside."""
    try:
        data = await answer.content.read(16 << 10)
        errors = msgspec.json.decode(data, type=_ErrorReply).errors
    except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError, RecursionError):
        return ""
    return "; ".join(filter(None, (error.message or error.code for error in errors)))[:300]


async def read_all(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in answer.content.iter_chunked(64 << 10):
            data += chunk
            if len(data) > limit:
                raise InvalidArgument("the registry sends more than it may", detail=f"over {limit} bytes")
    except (TimeoutError, aiohttp.ClientError, OSError) as cause:
        raise RetryError(str(cause) or type(cause).__name__) from cause
    return bytes(data)
