"""Layer stores, hostile tars and a picture of a directory tree, for the tests of layers and images."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from longshore.oci.digest import Digest, sha256_of
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore, Limits

Member = tuple[tarfile.TarInfo, bytes]


class Lab:
    """Stores below a directory of the test."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self.root = root
        self.content = ContentStore(root / "content")
        self.layers = LayerStore(root / "layers", self.content, limits)

    def unpack(self, data: bytes, diff_id: Digest | None = None) -> Path:
        """A plain tar as a layer; returns its directory."""
        diff_id = diff_id or sha256_of(data)
        self.layers.unpack(self.content.put(data), diff_id)
        return self.layers.directory / self.layers.name(diff_id)

    def leftovers(self) -> list[str]:
        """What a failed operation may have left behind."""
        found = [*self.content.ingest.iterdir(), *self.layers.directory.glob(".*")]
        return [path.name for path in found]


def entry(name: str, data: bytes = b"", *, pax: dict[str, str] | None = None, **fields: object) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mtime = 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    info.pax_headers = pax or {}
    return info, data


def directory(name: str, mode: int = 0o755, **fields: object) -> Member:
    return entry(name, type=tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str) -> Member:
    return entry(name, type=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> Member:
    return entry(name, type=tarfile.LNKTYPE, linkname=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> Member:
    return entry(name, type=kind, devmajor=major, devminor=minor)


def tar(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def picture(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a layer can change."""
    seen: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files, ""]:
            path = Path(folder, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = str(path.readlink())
            seen[str(path.relative_to(root))] = (
                stat.filemode(status.st_mode),
                status.st_uid,
                status.st_gid,
                status.st_nlink if stat.S_ISREG(status.st_mode) else 0,
                status.st_rdev,
                status.st_mtime_ns,
                content,
            )
    return seen


async def chunks(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
