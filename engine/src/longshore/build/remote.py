"""What builds take from URLs: a file for ADD, or a whole context."""

import hashlib
import posixpath
import stat
import tempfile
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

from longshore.build.context import decompressed, decompressor_for
from longshore.build.trees import Entry, TarTree
from longshore.errors import InvalidArgument, Unavailable

LIMIT = 16 << 30
_BLOCK = 1 << 20


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class FilesTree:
    """A few files in one directory: what ADD has fetched, or the text of a here-document."""

    files: dict[str, tuple[Entry, BinaryIO]]  # by path

    def entry(self, path: str) -> Entry | None:
        if path == "/":
            return Entry("/", stat.S_IFDIR, 0o755, 0, 0, 0, 0.0)
        return self.files[path][0] if path in self.files else None

    def children(self, path: str) -> list[str]:
        return sorted(name.lstrip("/") for name in self.files) if path == "/" else []

    def open(self, entry: Entry) -> BinaryIO:
        """A handle of its own: the plan reads a file more than once."""
        return open(f"/proc/self/fd/{self.files[entry.path][1].fileno()}", "rb")

    def close(self) -> None:
        for _, file in self.files.values():
            file.close()


def file_of(name: str, data: bytes, mode: int = 0o644) -> FilesTree:
    """A tree with one file of known contents. The caller closes it."""
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the tree keeps it
    file.write(data)
    file.flush()
    path = f"/{name}"
    return FilesTree({path: (Entry(path, stat.S_IFREG, mode, 0, 0, len(data), 0.0, real=path), file)})


async def fetch_file(url: str, scratch: Path, *, checksum: str = "") -> FilesTree:
    """A tree with the file a URL gives, named as the URL ends. The caller closes it.

    `checksum`: sha256:… (or sha384, sha512) that it must have. Raises Unavailable, InvalidArgument.
    """
    file, changed = await _download(url, scratch)
    try:
        if checksum:
            _check(file, url, checksum)
        name = posixpath.basename(unquote(urlsplit(url).path)) or "__unnamed__"
        size = file.seek(0, 2)
        path = f"/{name}"
        return FilesTree({path: (Entry(path, stat.S_IFREG, 0o600, 0, 0, size, changed, real=path), file)})
    except BaseException:
        file.close()
        raise


async def fetched_context(url: str, scratch: Path) -> TarTree:
    """The context behind a URL: a tar, perhaps compressed, or one file, which is a Dockerfile then.

    Raises Unavailable, InvalidArgument.
    """
    file, _ = await _download(url, scratch)
    try:
        file.seek(0)
        head = file.read(512)
        file.seek(0)
        if decompressor_for(head) is None and head[257:262] != b"ustar":
            return _dockerfile_context(file.read(_BLOCK))
        plain = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  the tree keeps it
        unpacked = decompressed(file)
        while block := unpacked.read(_BLOCK):
            plain.write(block)
        plain.seek(0)
        return TarTree(plain)
    except OSError as cause:
        raise InvalidArgument("the build context is damaged", detail=str(cause)) from cause
    finally:
        file.close()


def _dockerfile_context(data: bytes) -> TarTree:
    from longshore.storage.tarstream import END, encode_header, padding
    from longshore.storage.tarstream import Entry as Member

    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the tree keeps it
    header = Member(b"Dockerfile", stored=len(data))
    file.write(encode_header(header) + data + padding(len(data)) + END)
    file.seek(0)
    return TarTree(file)


def _check(file: BinaryIO, url: str, checksum: str) -> None:
    algorithm, _, wanted = checksum.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512") or not wanted:
        raise InvalidArgument(f"unsupported checksum {checksum[:100]!r}", hint="write sha256:HEX")
    total = hashlib.new(algorithm)
    file.seek(0)
    while block := file.read(_BLOCK):
        total.update(block)
    if total.hexdigest() != wanted.lower():
        raise InvalidArgument(
            f"digest mismatch {algorithm}:{total.hexdigest()}: {checksum}", detail=f"fetched from {url}"
        )


async def _download(url: str, scratch: Path) -> tuple[BinaryIO, float]:
    import aiohttp  # 150 ms that only a build with a URL pays

    file = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  the caller keeps it
    size, changed = 0, 0.0
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            if answer.status != 200:
                raise Unavailable(f"ADD failed: {url} answers {answer.status}")
            async for chunk in answer.content.iter_chunked(_BLOCK):
                size += file.write(chunk)
                if size > LIMIT:
                    raise InvalidArgument(f"ADD failed: {url} is larger than {LIMIT} bytes")
            if "Last-Modified" in answer.headers:
                changed = parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
        file.flush()
    except (TimeoutError, aiohttp.ClientError, ValueError) as cause:
        file.close()
        raise Unavailable(f"ADD failed: cannot fetch {url}", detail=str(cause)) from cause
    except BaseException:
        file.close()
        raise
    return file, changed
