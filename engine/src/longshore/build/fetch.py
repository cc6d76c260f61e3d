"""ADD from a URL: the file is fetched once and stands in a tree beside the context."""

import posixpath
import stat
import tempfile
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from longshore.build.copying import REMOTE, Request
from longshore.build.trees import Entry, Tree
from longshore.errors import InvalidArgument, Unavailable

LIMIT = 16 << 30


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class WithFiles:
    """A tree with fetched files put in."""

    tree: Tree
    files: dict[str, tuple[Entry, BinaryIO]]

    def entry(self, path: str) -> Entry | None:
        if path in self.files:
            return self.files[path][0]
        if path.startswith(REMOTE):
            return Entry(path, stat.S_IFDIR, 0o755, 0, 0, 0, 0.0)
        return self.tree.entry(path)

    def children(self, path: str) -> list[str]:
        return self.tree.children(path)

    def open(self, entry: Entry) -> BinaryIO:
        if entry.path not in self.files:
            return self.tree.open(entry)
        # A handle of its own, because the plan may read a file more than once.
        return open(f"/proc/self/fd/{self.files[entry.path][1].fileno()}", "rb")


async def with_remote_files(request: Request, tree: Tree, scratch: Path) -> tuple[Request, Tree]:
    """Fetch the URLs among the sources of an ADD. Raises Unavailable when a server does not give the file."""
    if request.keyword != "ADD" or not any(map(is_url, request.sources)):
        return request, tree
    files: dict[str, tuple[Entry, BinaryIO]] = {}
    sources: list[str] = []
    for number, source in enumerate(request.sources):
        if is_url(source):
            name = posixpath.basename(urlsplit(source).path)
            if not name and request.destination.endswith("/"):
                raise InvalidArgument(f"cannot determine filename from url: {source}")
            path = f"{REMOTE}/{number}/{name or 'file'}"
            files[path] = await _fetch(source, path, scratch)
            source = path
        sources.append(source)
    return replace(request, sources=tuple(sources)), WithFiles(tree, files)


async def _fetch(url: str, path: str, scratch: Path) -> tuple[Entry, BinaryIO]:
    import aiohttp  # 150 ms that only a build with a URL pays

    file = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  the tree keeps it
    size, changed = 0, 0.0
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                raise Unavailable(f"ADD failed: {url} answers {answer.status}")
            async for chunk in answer.content.iter_chunked(1 << 20):
                size += file.write(chunk)
                if size > LIMIT:
                    raise InvalidArgument(f"ADD failed: {url} is larger than {LIMIT} bytes")
            if "Last-Modified" in answer.headers:
                changed = parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    except (TimeoutError, aiohttp.ClientError, ValueError) as cause:
        file.close()
        raise Unavailable(f"ADD failed: cannot fetch {url}", detail=str(cause)) from cause
    file.flush()
    return Entry(path, stat.S_IFREG, 0o600, 0, 0, size, changed, real=path), file
