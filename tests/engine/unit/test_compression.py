import bz2
import gzip
import io
import lzma
import os

import pytest
import zstandard

from longshore.oci.digest import sha256_of
from longshore.storage.compression import CompressionError, LayerSink, decompressed

DATA = os.urandom(100_000) + bytes(900_000)


class Dribble:
    """A source that gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, 1000))


@pytest.mark.parametrize(
    "packed",
    [
        DATA,
        gzip.compress(DATA),
        gzip.compress(DATA[:5000]) + gzip.compress(DATA[5000:]),
        gzip.compress(DATA) + bytes(700_000),
        zstandard.compress(DATA),
        zstandard.compress(DATA[:5000]) + zstandard.compress(DATA[5000:]),
        lzma.compress(DATA, preset=0),
        lzma.compress(DATA[:5000], preset=0) + bytes(8) + lzma.compress(DATA[5000:], preset=0),
        bz2.compress(DATA, 1),
        bz2.compress(DATA[:5000], 1) + bz2.compress(DATA[5000:], 1),
    ],
    ids=[
        "plain",
        "gzip",
        "members",
        "padded",
        "zstd",
        "frames",
        "xz",
        "xz streams",
        "bzip2",
        "bzip2 streams",
    ],
)
@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
def test_all_kinds_are_read(packed: bytes, source: type) -> None:
    reader = decompressed(source(packed))
    assert reader.read(10) == DATA[:10]
    assert reader.read(len(DATA)) == DATA[10:]
    assert reader.read(1) == b""


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress(DATA)[:-9],
        gzip.compress(DATA)[:-4] + b"\1\2\3\4",
        gzip.compress(DATA)[:5000] + b"\0" * 5000,
        gzip.compress(DATA) + b"rubbish after the end",
        zstandard.compress(DATA)[:-500],
        zstandard.compress(DATA) + b"rubbish after the end",
        lzma.compress(DATA, preset=0)[:-20],
        lzma.compress(DATA, preset=0)[:5000] + b"\0" * 5000,
        bz2.compress(DATA, 1)[:-20],
        b"BZh91AY&SY",
        b"\xfd7zXZ\0\0",
    ],
)
def test_damage_is_an_error(packed: bytes) -> None:
    with pytest.raises(CompressionError):
        decompressed(io.BytesIO(packed)).read(1 << 30)


def test_nothing_is_nothing() -> None:
    assert decompressed(io.BytesIO(b"")).read(10) == b""


def test_a_layer_is_packed_the_same_way_each_time() -> None:
    def pack(piece: int) -> tuple[bytes, str]:
        out = io.BytesIO()
        sink = LayerSink(out)
        for start in range(0, len(DATA), piece):
            sink.write(DATA[start : start + piece])
        diff_id = sink.finish()
        return out.getvalue(), diff_id

    packed, diff_id = pack(1000)
    assert pack(1 << 20) == (packed, diff_id)
    assert diff_id == str(sha256_of(DATA))
    assert gzip.decompress(packed) == DATA
    assert packed[4:8] == bytes(4)  # no time in the header
