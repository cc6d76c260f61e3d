"""What a registry has: its repositories, a repository's tags, and Docker Hub's own search.

OCI distribution specification 1.1, end-8; the catalogue is docker-registry's (`GET /v2/_catalog`), which most others
serve as well. Long lists come in pages, each naming the next one in its Link header (RFC 8288).
"""

import re

import aiohttp
import msgspec
from yarl import URL

from longshore.errors import InvalidArgument, Unavailable
from longshore.oci.reference import DEFAULT_DOMAIN
from longshore.registry.patience import Patience, RetryError
from longshore.registry.transport import RegistryHost, read_all, registry_message

PAGE = 1000
MAX_PAGES = 100
MAX_REPLY = 8 << 20
HUB_SEARCH = "https://index.docker.io/v1/search"
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')


class SearchResult(msgspec.Struct, frozen=True):
    """One line of `docker search`."""

    name: str
    description: str = ""
    star_count: int = 0
    is_official: bool = False
    is_automated: bool = False


def split_term(term: str) -> tuple[str, str]:
    """(registry, text) of a search: `localhost:5000/app`; a term without a registry is for Docker Hub. Pure."""
    first, slash, rest = term.partition("/")
    if ":" in first or first == "localhost" or (slash and "." in first):
        return first, rest
    return DEFAULT_DOMAIN, term


class _Listed(msgspec.Struct):
    repositories: list[str] | None = None
    tags: list[str] | None = None


class _Found(msgspec.Struct):
    results: list[SearchResult] = []


async def repositories(host: RegistryHost) -> list[str]:
    """All repositories that the registry shows us. Raises NotFound where it has no catalogue."""
    return await _pages(host, "_catalog")


async def tags(host: RegistryHost) -> list[str]:
    """All tags of the host's repository, in its order. Raises NotFound."""
    return await _pages(host, "tags/list")


async def _pages(host: RegistryHost, tail: str) -> list[str]:
    found: dict[str, None] = {}
    target: str | URL = f"{tail}?n={PAGE}"
    for _ in range(MAX_PAGES):
        listed, following = await host.patience.persist(
            lambda at=target: _page(host, at), f"{tail} of {host.name}", host.patience.attempts
        )
        found.update(dict.fromkeys(listed))
        if following is None or not listed:
            break
        target = following
    return list(found)


async def _page(host: RegistryHost, target: str | URL) -> tuple[list[str], URL | None]:
    async with host.request("GET", target) as answer:
        data = await read_all(answer, MAX_REPLY, host.patience)
        link = _NEXT.search(answer.headers.get("Link", ""))
        following = answer.url.join(URL(link[1], encoded=True)) if link else None
    if following is not None and following.origin() != answer.url.origin():
        raise InvalidArgument(f"the registry {host.name} sends us elsewhere for the rest of a list")
    try:
        listed = msgspec.json.decode(data, type=_Listed)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument(f"the registry {host.name} sent nonsense", detail=str(cause)) from cause
    return listed.repositories or listed.tags or [], following


async def search_hub(session: aiohttp.ClientSession, term: str, limit: int) -> list[SearchResult]:
    """Raises Unavailable."""
    patience = Patience()
    timeout = aiohttp.ClientTimeout(total=patience.document, sock_connect=15)
    try:
        query = {"q": term, "n": str(limit)}
        async with session.get(HUB_SEARCH, params=query, timeout=timeout) as answer:
            if answer.status != 200:
                said = await registry_message(answer, patience)
                raise Unavailable(f"Docker Hub's search answers {answer.status}", detail=said)
            data = await read_all(answer, MAX_REPLY, patience)
        return msgspec.json.decode(data, type=_Found).results
    except (TimeoutError, aiohttp.ClientError, OSError, RetryError) as cause:
        raise Unavailable(
            "cannot reach Docker Hub's search",
            detail=str(cause),
            hint="name a registry: docker search HOST/TERM",
        ) from cause
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("Docker Hub's search sent nonsense", detail=str(cause)) from cause
