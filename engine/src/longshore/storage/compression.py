"""Compressed streams by their first bytes: gzip (isal where it exists, else zlib), zstd, xz, bzip2, or none.

Everything is done in this process by Python's own modules: no program is looked for on PATH. Readers give exactly `size` bytes except at the end, and memory stays bounded whatever the input says.
"""

import hashlib
import zlib
from typing import Protocol, cast

import zstandard

from longshore.storage.tarstream import CHUNK, Sink, Source


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Decompressor(Protocol):
    eof: bool
    unused_data: bytes
    unconsumed_tail: bytes

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Codec(Protocol):
    """What zlib and isal have in common."""

    error: type[Exception]

    def compressobj(self, level: int, method: int, wbits: int, /) -> Compressor: ...

    def decompressobj(self, wbits: int, /) -> _Decompressor: ...


def _codec() -> tuple[_Codec, int]:
    try:
        from isal import isal_zlib
    except ImportError:  # an architecture without it
        return cast("_Codec", zlib), 4
    return cast("_Codec", isal_zlib), 2


_gzip, _gzip_level = _codec()
GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGICS = {GZIP_MAGIC: "gzip", ZSTD_MAGIC: "zstd", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}
_INPUT = 1 << 18
_GZIP_WINDOW = 31  # zlib.h: 15 bits plus 16 for gzip framing
_ZSTD_INPUT = 2048
_MAX_ZSTD_WINDOW = 1 << 27  # 128 MiB, what the zstd command accepts without --long
_MAX_XZ_MEMORY = 1 << 27  # twice what xz -9 needs


class CompressionError(Exception):
    """The compressed data is damaged or of a kind nobody wrote a layer in."""


def detect(head: bytes) -> str:
    """ "gzip", "zstd", "xz", "bzip2" or "" for the first six bytes of a stream."""
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), "")


class Buffered:
    """A source whose `read(n)` gives n bytes except at the end, and that can be looked into ahead."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray()

    def peek(self, size: int) -> bytes:
        self._fill(size)
        return bytes(self._buffer[:size])

    def read(self, size: int, /) -> bytes:
        self._fill(size)
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            data = self._source.read(max(size - len(self._buffer), _INPUT))
            if not data:
                return
            self._buffer += data


class _Gunzip:
    """Members one after another, zero padding at the end allowed (gzip(1)); the checksum of each is verified."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._member = _gzip.decompressobj(_GZIP_WINDOW)
        self._input = b""
        self._fresh = True  # at the start of a member

    def read(self, size: int, /) -> bytes:
        """Some bytes, at most `size`; b"" at the end."""
        while True:
            if self._member.eof:
                self._input = self._member.unused_data.lstrip(b"\0")
                self._member = _gzip.decompressobj(_GZIP_WINDOW)
                self._fresh = True
            if not self._input:
                self._input = self._source.read(_INPUT)
                if self._fresh:
                    self._input = self._input.lstrip(b"\0") if self._input.startswith(b"\0") else self._input
                if not self._input:
                    if self._fresh:
                        return b""
                    raise CompressionError("gzip data ends too early")
            self._fresh = False
            try:
                data = self._member.decompress(self._input, size)
            except (zlib.error, _gzip.error) as cause:
                raise CompressionError(f"damaged gzip data: {cause}") from cause
            self._input = self._member.unconsumed_tail
            if data:
                return data


class _Unzstd:
    """Frames one after another.

    zstandard's own stream reader takes a stream that was cut off for a finished one, so the frames are followed
    here; its decompressor knows no output limit, so it gets little at a time: 2 KiB can become 64 MiB at worst.
    """

    def __init__(self, source: Source) -> None:
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
        self._frame = self._decompressor.decompressobj()
        self._source = source
        self._input = b""
        self._fresh = True  # at the start of a frame

    def read(self, size: int, /) -> bytes:
        """Some bytes, perhaps more than `size`; b"" at the end."""
        while True:
            if self._frame.eof:
                self._input = self._frame.unused_data + self._input
                self._frame = self._decompressor.decompressobj()
                self._fresh = True
            if not self._input:
                self._input = self._source.read(_INPUT)
                if not self._input:
                    if self._fresh:
                        return b""
                    raise CompressionError("zstd data ends too early")
            self._fresh = False
            piece, self._input = self._input[:_ZSTD_INPUT], self._input[_ZSTD_INPUT:]
            try:
                data = self._frame.decompress(piece)
            except zstandard.ZstdError as cause:
                raise CompressionError(f"damaged zstd data: {cause}") from cause
            if data:
                return data


class _Streams:
    """xz or bzip2 streams one after another, zero padding of xz allowed."""

    def __init__(self, source: Source, kind: str) -> None:
        import bz2
        import lzma

        self._make = (
            bz2.BZ2Decompressor if kind == "bzip2" else lambda: lzma.LZMADecompressor(memlimit=_MAX_XZ_MEMORY)
        )
        self._errors = (lzma.LZMAError, OSError, EOFError, ValueError)
        self._kind = kind
        self._stream = self._make()
        self._source = source
        self._input = b""
        self._fresh = True  # at the start of a stream

    def read(self, size: int, /) -> bytes:
        """Some bytes, at most `size`; b"" at the end."""
        while True:
            if self._stream.eof:
                self._input = self._unpadded(self._stream.unused_data)
                self._stream = self._make()
                self._fresh = True
            if not self._input and self._stream.needs_input:
                data = self._source.read(_INPUT)
                self._input = self._unpadded(data) if self._fresh else data
                if data and not self._input:
                    continue
                if not self._input:
                    if self._fresh:
                        return b""
                    raise CompressionError(f"{self._kind} data ends too early")
            self._fresh = False
            try:
                data = self._stream.decompress(self._input, size)
            except self._errors as cause:
                raise CompressionError(f"damaged {self._kind} data: {cause}") from cause
            self._input = b""
            if data:
                return data

    def _unpadded(self, data: bytes) -> bytes:
        """What follows between streams: xz allows zeros there."""
        return data.lstrip(b"\0") if self._kind == "xz" and data.startswith(b"\0") else data


def decompressed(source: Source) -> Buffered:
    """The plain bytes of a stream, whatever it is compressed with. Raises CompressionError while it is read.

    xz and bzip2 are for archives that people load and import; a confined worker, which can import nothing more, takes
    only what layers of registries are packed with.
    """
    raw = Buffered(source)
    kind = detect(raw.peek(6))
    match kind:
        case "gzip":
            return Buffered(_Gunzip(raw))
        case "zstd":
            return Buffered(_Unzstd(raw))
        case "xz" | "bzip2":
            try:
                return Buffered(_Streams(raw, kind))
            except ImportError as cause:
                raise CompressionError(
                    f"no layer is compressed with {kind}: use gzip, zstd or none"
                ) from cause
        case _:
            return raw


def gzip_compressor() -> Compressor:
    """A gzip stream without time and name in its header: equal input gives equal bytes."""
    return _gzip.compressobj(_gzip_level, zlib.DEFLATED, _GZIP_WINDOW)


class LayerSink:
    """A layer tar on its way into a blob: hashed plain, compressed, written. Small pieces are gathered."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self._compressor = gzip_compressor()
        self._pending = bytearray()

    def write(self, data: bytes, /) -> None:
        self._pending += data
        if len(self._pending) >= CHUNK:
            self._flush()

    def finish(self) -> str:
        """Write the rest; returns the diff id."""
        self._flush()
        self._sink.write(self._compressor.flush())
        return f"sha256:{self._hash.hexdigest()}"

    def _flush(self) -> None:
        data = bytes(self._pending)
        self._pending.clear()
        self._hash.update(data)
        self._sink.write(self._compressor.compress(data))
