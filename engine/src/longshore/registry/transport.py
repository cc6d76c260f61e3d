"""Requests to one registry: scheme, tokens, redirects and retries. Credentials go to the host they were meant for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from longshore.errors import InvalidArgument, NotFound, Unauthorized, Unavailable, Unsupported
from longshore.oci.reference import Reference
from longshore.registry import tls
from longshore.registry.auth import Challenge, Credentials, parse_challenge
from longshore.registry.hosts import Endpoint
from longshore.registry.patience import Patience, RetryError, retry_after
from longshore.registry.tokens import MAX_TOKEN, parse_token, plan_token_request

MAX_REDIRECTS = 5
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
FOUND = frozenset({200, 206})

Body = Callable[[], bytes | AsyncIterable[bytes]]
"""Makes the body of a request; a request that is sent again, with a token, asks for it again."""


class RegistryHost:
    """Requests to one registry."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        endpoint: Endpoint,
        reference: Reference | None = None,
        auth: Credentials | None = None,
        *,
        patience: Patience | None = None,
        verb: str = "pull",
        scopes: Sequence[str] = (),
    ) -> None:
        """`reference` None: nothing but the registry itself, /v2/. A mirror's `auth` is not used.

        `scopes`: what to ask a token for, where more is needed than the first challenge says.
        Raises InvalidArgument for certificates that do not serve.
        """
        self.name = endpoint.host
        self.endpoint = endpoint
        self.patience = patience or Patience()
        self._session, self._auth = session, None if endpoint.is_mirror else auth
        self._subject = reference.familiar if reference else endpoint.host
        self._repository = reference.familiar_name if reference else endpoint.host
        self._path = f"{endpoint.root}/"
        if reference:
            self._path += f"{endpoint.repository(reference.path)}/"
        self._verb = verb
        self._scopes = " ".join(scopes)
        self._schemes = list(endpoint.schemes)
        self._tls = tls.context(endpoint.tls)
        self._foreign_tls = tls.context(endpoint.tls, own=False)
        self._authorization = ""
        self._authorized = asyncio.Lock()

    def url(self, tail: str) -> URL:
        url = URL(f"{self._schemes[0]}://{self.name}{self._path}{tail}", encoded=True)
        return url.update_query({"ns": self.endpoint.namespace}) if self.endpoint.namespace else url

    def get(
        self, tail: str, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """An answer with 200 or 206. Raises EngineError for a final failure, RetryError for a passing one."""
        return self.request("GET", tail, headers)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str | URL,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        *,
        good: frozenset[int] = FOUND,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """An answer with one of the `good` statuses. `target`: below the repository, or a Location it gave.

        Raises EngineError for a final failure, RetryError for a passing one.
        """
        for attempt in range(2):
            authorization = self._authorization
            async with self._follow(method, target, headers or {}, authorization, body) as answer:
                if answer.status == 401 and attempt == 0:
                    challenge = answer.headers.get("WWW-Authenticate", "")
                    await self._authorize(parse_challenge(challenge), authorization)
                    continue
                if answer.status not in good:
                    await self._refuse(answer, str(target))
                yield answer
                return

    @asynccontextmanager
    async def _follow(
        self,
        method: str,
        target: str | URL,
        headers: Mapping[str, str],
        authorization: str,
        body: Body | None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Redirects by hand: what is secret stays behind when the host changes."""
        answer = await self._first(method, target, headers, authorization, body)
        try:
            for _ in range(MAX_REDIRECTS):
                if answer.status not in (301, 302, 303, 307, 308) or (
                    method not in ("GET", "HEAD") and answer.status not in (307, 308)
                ):
                    break
                url = self.location(answer)
                kept = authorization if url.origin() == answer.url.origin() else ""
                answer.release()
                answer = await self._send(method, url, headers, kept, body)
                authorization = kept
            yield answer
        finally:
            answer.release()

    def location(self, answer: aiohttp.ClientResponse) -> URL:
        """Where an answer sends us. Raises InvalidArgument for nonsense, and where it is less safe than here."""
        try:
            url = answer.url.join(URL(answer.headers.get("Location", ""), encoded=True))
            secure = url.scheme == "https" or (url.scheme == "http" and self._schemes[0] == "http")
            host = url.host
        except ValueError as cause:
            raise InvalidArgument(f"{self.name} redirects to nonsense", detail=str(cause)) from cause
        if not secure or not host:
            raise InvalidArgument(
                "the registry redirects to an insecure address", detail=f"{url.scheme}://{host}"
            )
        return url

    async def _first(
        self,
        method: str,
        target: str | URL,
        headers: Mapping[str, str],
        authorization: str,
        body: Body | None,
    ) -> aiohttp.ClientResponse:
        """The first request settles the scheme: TLS unless a permitted plain host does not speak it."""
        while True:
            scheme = self._schemes[0]
            url = self.url(target) if isinstance(target, str) else target
            sent = authorization if url.origin() == self.url("").origin() else ""
            try:
                answer = await self._send(method, url, headers, sent, body)
                del self._schemes[1:]
                return answer
            except RetryError:
                if self._schemes[0] != scheme and isinstance(target, str):
                    continue  # a parallel request has found out meanwhile
                if len(self._schemes) == 1:
                    raise
                self._schemes.pop(0)

    async def _send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        authorization: str,
        body: Body | None = None,
    ) -> aiohttp.ClientResponse:
        ours = url.host == self.url("").host
        mine = url.origin() == self.url("").origin()
        sent = CIMultiDict(self.endpoint.headers if mine else ())
        sent.update(headers)
        if authorization:
            sent["Authorization"] = authorization
        try:
            return await self._session.request(
                method,
                url,
                headers=sent,
                data=body() if body else None,
                allow_redirects=False,
                ssl=self._tls if ours else self._foreign_tls,
                timeout=self._timeout(),
            )
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as cause:
            # Nobody there, or no such name: waiting would only make the user wait.
            final = isinstance(cause, aiohttp.ClientConnectorError)
            raise RetryError(str(cause) or type(cause).__name__, final=final) from cause

    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self.endpoint.dial_timeout, sock_read=self.patience.silence
        )

    async def _refuse(self, answer: aiohttp.ClientResponse, tail: str) -> None:
        detail = await registry_message(answer, self.patience)
        if answer.status in RETRIED:
            raise RetryError(
                f"{answer.status} {detail}".strip(), retry_after(answer.headers.get("Retry-After", ""))
            )
        if answer.status == 404:
            what = f"blob {tail.removeprefix('blobs/')}" if tail.startswith("blobs/") else "manifest"
            raise NotFound(f"{what} for {self._subject} not found", detail=detail)
        if answer.status in (401, 403):
            raise Unauthorized(
                f"{self._verb} access denied for {self._repository}",
                detail=f"repository does not exist or may require 'docker login': {detail}",
            )
        raise Unavailable(f"the registry {self.name} answers {answer.status} to {tail}", detail=detail)

    async def _authorize(self, challenge: Challenge, used: str) -> None:
        """Answer a challenge; the token serves all later requests. Parallel callers fetch one token."""
        async with self._authorized:
            if self._authorization != used:
                return
            if challenge.scheme == "basic":
                if self._auth is None or not self._auth.username:
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
        try:
            realm = URL(parameters.get("realm", ""))
        except ValueError as cause:
            raise InvalidArgument(f"{self.name} names no token service", detail=str(cause)) from cause
        # A token service may be another host (Docker Hub's is), but the password travels under TLS only.
        if not realm.host or (realm.scheme != "https" and self._schemes[0] == "https"):
            raise InvalidArgument("the registry names an insecure token service", detail=str(realm))
        if self._scopes:
            parameters = parameters | {"scope": self._scopes}
        plan = plan_token_request(realm, parameters, self._auth)
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if plan.body else {}
        body = (lambda: plan.body) if plan.body else None
        answer = await self._send(plan.method, plan.url, headers, plan.authorization, body)
        async with answer:
            if answer.status in RETRIED:
                raise RetryError(
                    f"the token service of {self.name} answers {answer.status}",
                    retry_after(answer.headers.get("Retry-After", "")),
                )
            if answer.status != 200:
                raise Unauthorized(
                    f"the token service of {self.name} refuses the login",
                    detail=f"it answers {answer.status}",
                    hint="docker login again",
                )
            return parse_token(await read_all(answer, MAX_TOKEN, self.patience), self.name)


class _ErrorItem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _ErrorReply(msgspec.Struct):
    errors: list[_ErrorItem] = []


async def registry_message(answer: aiohttp.ClientResponse, patience: Patience) -> str:
    """The registry's own words, cut: they come from outside."""
    try:
        async with asyncio.timeout(patience.document):
            data = await answer.content.read(16 << 10)
        errors = msgspec.json.decode(data, type=_ErrorReply).errors
    except (
        TimeoutError,
        aiohttp.ClientError,
        OSError,
        msgspec.MsgspecError,
        RecursionError,
        UnicodeDecodeError,
    ):
        return ""
    words = "; ".join(filter(None, (error.message or error.code for error in errors)))[:300]
    return "".join(character if character.isprintable() else " " for character in words)


async def read_all(answer: aiohttp.ClientResponse, limit: int, patience: Patience) -> bytes:
    """A whole document. Raises InvalidArgument beyond `limit`, RetryError when it does not come in time."""
    data = bytearray()
    try:
        async with asyncio.timeout(patience.document):
            async for chunk in answer.content.iter_chunked(64 << 10):
                data += chunk
                if len(data) > limit:
                    raise InvalidArgument("the registry sends more than it may", detail=f"over {limit} bytes")
    except (TimeoutError, aiohttp.ClientError, OSError) as cause:
        raise RetryError(str(cause) or type(cause).__name__) from cause
    return bytes(data)
