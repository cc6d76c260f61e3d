"""Layers that nobody would write: valid archives, cut, spliced and bent, applied to a folder.

Whatever comes, it is refused in words or applied within the limits, and nothing outside of the folder changes. What was applied
is packed, applied again and packed again: the bytes must be the same.
"""

import errno
import gzip
import io
import os
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import zstandard
from hypothesis import strategies as st

from longshore.errors import EngineError
from longshore.storage.apply import Applier, LayerError
from longshore.storage.compression import CompressionError, decompressed
from longshore.storage.pack import Packer
from longshore.storage.tarstream import TarError, TarReader
from longshore.storage.trees import remove_tree

SEEDS = Path(__file__).parent / "seeds"
ENTRIES, SIZE = 200, 1 << 20
REFUSED = (LayerError, TarError, CompressionError, EngineError)
# What the kernel may say of a name, an attribute or a device that no check of ours knows better
KERNEL = frozenset(
    {"ENAMETOOLONG", "ENOSPC", "EINVAL", "ENOTSUP", "E2BIG", "ERANGE", "EMLINK", "EPERM", "EFBIG"}
)


def archive(members: list[tarfile.TarInfo], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as written:
        for member in members:
            written.addfile(member, io.BytesIO(bytes(member.size)))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def base_seeds() -> list[bytes]:
    """One of each kind that a reader has code for, and what the folder `seeds` keeps of earlier runs."""
    long = "d/" * 60 + "n" * 90
    plain = [
        member("d", tarfile.DIRTYPE, mode=0o755),
        member("d/f", size=700, uid=1000, gid=1000, mode=0o4755),
        member("d/h", tarfile.LNKTYPE, linkname="d/f"),
        member("d/s", tarfile.SYMTYPE, linkname="../../../etc/passwd"),
        member("d/.wh.gone"),
        member("d/.wh..wh..opq"),
        member("p", tarfile.FIFOTYPE),
        member("c", tarfile.CHRTYPE, devmajor=1, devminor=3),
    ]
    pax = [
        member("x", size=10, pax_headers={"SCHILY.xattr.user.a": "b", "path": "d/ü" * 40, "mtime": "1.5"}),
        member("sp", size=512, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                             "GNU.sparse.realsize": "100000", "GNU.sparse.name": "s"}),
        member("s0", size=5, pax_headers={"GNU.sparse.size": "1000", "GNU.sparse.map": "10,5"}),
        member(long, size=3),
    ]  # fmt: skip
    odd = [
        member("../out"),
        member("/abs", size=1),
        member("d/s/through", size=1),
        member("a/./b//c", size=1),
    ]
    seeds = [archive(plain, tarfile.USTAR_FORMAT), archive(pax, tarfile.PAX_FORMAT)]
    seeds += [
        archive([member(long, size=3), *plain], tarfile.GNU_FORMAT),
        archive(plain[:4] + odd, tarfile.GNU_FORMAT),
    ]
    return seeds + [path.read_bytes() for path in sorted(SEEDS.glob("*.tar"))]


BASES = base_seeds()
_WORDS = st.sampled_from(
    [b"\0", b"\xff", b"..", b"/", b"0", b"7", b"\x80", b"5", b"1", b"2", b"g", b"x", b"L", b"S"]
)
_EDIT = st.tuples(st.floats(0, 1), st.one_of(_WORDS, st.binary(min_size=1, max_size=16)))


@st.composite
def layers(draw: st.DrawFn) -> bytes:
    """A seed or two, changed in some places (checksums mended, most times), cut, compressed, changed again."""
    data = bytearray(draw(st.sampled_from(BASES)))
    if draw(st.booleans()):
        data = data[: -1024 if draw(st.booleans()) else None] + draw(st.sampled_from(BASES))
    for place, new in draw(st.lists(_EDIT, max_size=6)):
        start = int(place * len(data))
        data[start : start + len(new)] = new
    if draw(st.integers(0, 3)):
        mend(data)
    if draw(st.integers(0, 4)) == 0:
        del data[int(draw(st.floats(0, 1)) * len(data)) :]
    kind = draw(st.sampled_from(["", "gzip", "zstd"]))
    packed = bytearray(
        {"": bytes, "gzip": lambda raw: gzip.compress(raw, 1), "zstd": zstandard.compress}[kind](bytes(data))
    )
    if kind and draw(st.integers(0, 3)) == 0:
        for place, new in draw(st.lists(_EDIT, max_size=2)):
            start = int(place * len(packed))
            packed[start : start + len(new)] = new
    return bytes(packed)


def mend(data: bytearray) -> None:
    """Right checksums, so that the reader comes to see the rest of a header."""
    for start in range(0, len(data) - 511, 512):
        block = data[start : start + 512]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            data[start + 148 : start + 156] = b"%06o\0 " % total


def check(data: bytes, seen: Counter[str]) -> None:
    """Apply one layer. Raises AssertionError, or whatever should not come out."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="fuzz") as folder:
        outside = Path(folder, "outside")
        outside.write_bytes(b"canary")
        before = outside.stat()
        first, error = apply(data, Path(folder, "root"))
        after = outside.stat()
        assert (outside.read_bytes(), before.st_mode, before.st_nlink, before.st_uid) == (
            b"canary",
            after.st_mode,
            after.st_nlink,
            after.st_uid,
        )
        assert sorted(path.name for path in Path(folder).iterdir()) == ["outside", "root"]
        if error is None:
            again, error = apply(first, Path(folder, "again"))
            assert error is None, f"what was packed is refused: {error}"
            assert again == first, "packed again it is another layer"
            seen["applied"] += 1
        else:
            seen[type(error).__name__] += 1
        for name in ("root", "again"):
            remove_tree(Path(folder, name))


def apply(data: bytes, root: Path) -> tuple[bytes, Exception | None]:
    """The folder that the layer makes, packed; or the error."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        applier = Applier(fd, max_entries=ENTRIES, max_size=SIZE)
        applier.apply(TarReader(decompressed(io.BytesIO(data))))
        assert applier.entries <= ENTRIES
        assert applier.size <= SIZE
        out = io.BytesIO()
        Packer(out).pack(fd)
        return out.getvalue(), None
    except REFUSED as error:
        return b"", error
    except OSError as error:
        assert errno.errorcode.get(error.errno or 0) in KERNEL, repr(error)
        return b"", error
    finally:
        os.close(fd)
