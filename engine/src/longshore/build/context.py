"""The build context on its way in: a tar, perhaps compressed, into one unnamed file with an index."""

import bz2
import io
import lzma
import tempfile
import zlib
from collections.abc import AsyncIterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

from longshore.build.trees import TarTree
from longshore.errors import InvalidArgument
from longshore.storage.content import space_errors

_BLOCK = 1 << 20


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...


def decompressor_for(head: bytes) -> _Decompressor | None:
    """By magic number, in this process: nothing on PATH is ever run for it (CVE-2026-41567). None: plain."""
    if head.startswith(b"\x1f\x8b"):
        return cast(_Decompressor, zlib.decompressobj(wbits=31))
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor()
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor()
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj()
    return None


def decompressed(stream: BinaryIO) -> BinaryIO:
    """An archive given to ADD, unpacked by one layer of compression; plain data comes back as it is."""
    return cast(BinaryIO, io.BufferedReader(_Reader(stream), _BLOCK))


class _Reader(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        head = stream.read(_BLOCK)
        self._stream = stream
        self._decompressor = decompressor_for(head)
        self._ready = self._decompressor.decompress(head) if self._decompressor else head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while not self._ready:
            block = self._stream.read(_BLOCK)
            if not block:
                return 0
            self._ready = self._decompressor.decompress(block) if self._decompressor else block
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


async def receive_context(chunks: AsyncIterable[bytes], scratch: Path) -> TarTree:
    """Take the whole context. The file has no name, so that a crash leaves nothing.

    Raises InvalidArgument, OutOfSpace.
    """
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115  the tree keeps it
    try:
        decompressor: _Decompressor | None = None
        first = True
        async for chunk in chunks:
            if first and chunk:
                decompressor, first = decompressor_for(chunk), False
            file.write(decompressor.decompress(chunk) if decompressor else chunk)
        if first:
            raise InvalidArgument("the build context is empty", hint="send a tar with the Dockerfile in it")
        file.seek(0)
        return TarTree(file)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, zstandard.ZstdError) as cause:
        with suppress(OSError):  # closing writes what is left, which a full disk refuses once more
            file.close()
        if isinstance(cause, OSError) and cause.errno is not None:
            with space_errors(scratch):
                raise  # of our own disk, not of the data
        raise InvalidArgument("the build context is damaged", detail=str(cause)) from cause
    except BaseException:
        file.close()
        raise
