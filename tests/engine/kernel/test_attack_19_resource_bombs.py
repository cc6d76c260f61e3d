"""Attack 19: layers and archives that are small to send and large to keep."""

import gzip
import io
import json
import resource
import shutil
import tarfile
from pathlib import Path

import pytest
import zstandard
from layer_lab import Lab, chunks, entry, tar
from tests.engine.images import docker_archive

from longshore.core.database import Database
from longshore.core.events import EventBus
from longshore.core.images.facade import Images
from longshore.errors import EngineError, InvalidArgument
from longshore.oci.digest import sha256_of
from longshore.storage.layers import EMPTY_LAYER, Limits

MB = 1 << 20
MANY_LAYERS = json.dumps([{"Config": "c", "RepoTags": [], "Layers": ["layer.tar"] * 10_000}]).encode()


class Zeros:
    """A file of zeros that takes no memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def bomb(size: int) -> bytes:
    """One file of zeros, packed about 1000 to 1."""
    out = io.BytesIO()
    with gzip.open(out, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = size
        archive.addfile(info, Zeros(size))  # type: ignore[arg-type]
    return out.getvalue()


def refused(lab: Lab, blob: bytes, words: str) -> None:
    """The layer is refused, nothing of it stays, and neither disk nor our memory has grown for good."""
    free = shutil.disk_usage(lab.root).free
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidArgument, match=words):
        lab.layers.unpack(lab.content.put(blob), sha256_of(b"whatever"))
    assert lab.layers.list() == [EMPTY_LAYER]
    assert lab.leftovers() == []
    assert shutil.disk_usage(lab.root).free > free - 200 * MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < memory + 100 * 1024


def test_attack_19_a_zip_bomb_is_stopped(tmp_path: Path) -> None:
    """Fails without a limit on the unpacked size."""
    lab = Lab(tmp_path, Limits(floor=20 * MB))
    blob = bomb(300 * MB)
    assert len(blob) < 2 * MB
    refused(lab, blob, f"unpacks to more than {max(20 * MB, len(blob) * 200)} bytes")


def test_attack_19_a_zstd_bomb_behind_the_end_marker_is_only_read(tmp_path: Path) -> None:
    """Fails when what follows the end of the tar is kept in memory."""
    lab = Lab(tmp_path, Limits(floor=20 * MB))
    refused(lab, zstandard.compress(tar(entry("f", b"x")) + bytes(200 * MB)), "does not match its diff id")


def test_attack_19_a_file_that_only_claims_its_size(tmp_path: Path) -> None:
    """Fails when the size is not counted before it is written."""
    out = io.BytesIO()
    info = tarfile.TarInfo("f")
    info.size = 1 << 45
    out.write(info.tobuf(tarfile.GNU_FORMAT))
    refused(Lab(tmp_path), out.getvalue(), "unpacks to more than")


def test_attack_19_a_sparse_file_counts_in_full(tmp_path: Path) -> None:
    """Fails when only the bytes that are stored count."""
    records = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 45)}
    refused(Lab(tmp_path), tar(entry("f", b"x", pax=records)), "unpacks to more than")


def test_attack_19_a_million_entries(tmp_path: Path) -> None:
    """Fails without a limit on the number of entries."""
    header = tarfile.TarInfo("f").tobuf()
    one = gzip.compress(header * 1000)
    blob = one * 1001  # the limit is one million; the same name again and again needs no inodes
    assert Limits().entries == 1_000_000
    refused(Lab(tmp_path, Limits(entries=20_000)), blob, "more than 20000 entries")


def test_attack_19_extension_headers_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Fails when extension headers are read whatever their size."""
    endless = tarfile.TarInfo("p")
    endless.type, endless.size = tarfile.XHDTYPE, 7 << 30
    refused(Lab(tmp_path), endless.tobuf(), "extension header")


def test_attack_19_many_large_attributes(tmp_path: Path) -> None:
    """Fails when a layer that does not fit leaves its rubble."""
    records = {f"SCHILY.xattr.user.{n}": "x" * 60_000 for n in range(16)}
    lab = Lab(tmp_path)
    with pytest.raises(EngineError):  # ext4 refuses it for lack of space, which is told as such
        lab.unpack(tar(*(entry(str(n), pax=records) for n in range(3))))
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (tar(entry("manifest.json", MANY_LAYERS)), "manifest.json"),
        (tar(entry("manifest.json", b" " * (5 * MB))), "too large"),
        (tar(entry("manifest.json", b"[" * MB)), "manifest.json"),
        (tar(entry("oci-layout", b"{}"), entry("index.json", b"{" * MB)), "manifest"),
        (tar(*(entry(str(n)) for n in range(100_001))), "more than 100000 files"),
        (tar(entry("nothing", b"of use")), "neither manifest.json nor index.json"),
        (b"", "neither manifest.json nor index.json"),
        (gzip.compress(docker_archive([tar()], "evil:1", {}))[:-20], "ends too early"),
        (zstandard.compress(bytes(10 * MB)), "neither manifest.json nor index.json"),
    ],
    ids=["10000 layers", "huge", "nested", "index", "members", "junk", "empty", "cut", "zeros"],
)
async def test_attack_19_hostile_archives_are_refused_and_leave_nothing(
    archive: bytes, words: str, tmp_path: Path
) -> None:
    """Fails when documents of an archive have no limit, or a refusal leaves blobs."""
    lab, database = Lab(tmp_path), Database(tmp_path / "db")
    images = Images(database, lab.content, lab.layers, EventBus())
    with pytest.raises(InvalidArgument, match=words):
        await images.archives.load(chunks(archive), lambda _message: None)
    assert images.list() == []
    assert lab.content.list() == []
    assert lab.leftovers() == []
    database.close()
