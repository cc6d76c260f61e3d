"""A file behind a URL, as a stream."""

from collections.abc import AsyncGenerator

import aiohttp

from longshore.errors import InvalidArgument, Unavailable

PIECE = 1 << 20


async def download(session: aiohttp.ClientSession, url: str) -> AsyncGenerator[bytes]:
    """The bytes of an http or https URL. Raises InvalidArgument, and Unavailable when the server does not give them."""
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"cannot download {url[:200]!r}", hint="use an http:// or https:// URL")
    try:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
        async with session.get(url, timeout=timeout) as answer:
            if answer.status != 200:
                raise Unavailable(f"cannot download {url}", detail=f"the server answers {answer.status}")
            async for chunk in answer.content.iter_chunked(PIECE):
                yield chunk
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as cause:
        raise Unavailable(f"cannot download {url}", detail=str(cause)) from cause
