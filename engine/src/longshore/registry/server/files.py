"""The bytes: `<root>/blobs/<algorithm>/<2 hex>/<hex>` and, on their way in, `<root>/uploads/<id>`.

A blob gets its name by rename after its bytes were hashed and synced. Everything here blocks: call it in a thread.
"""

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from longshore.errors import InvalidArgument, OutOfSpace
from longshore.oci.digest import Digest, parse_digest


@contextmanager
def space_errors(where: Path) -> Generator[None]:
    """Turn ENOSPC and EDQUOT into OutOfSpace."""
    try:
        yield
    except OSError as cause:
        if cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfSpace(
            "no space left on the registry's device", detail=str(where), hint="free space"
        ) from cause


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Files:
    """See the module. Digests were checked when they were parsed, so every path stays below the root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uploads = root / "uploads"
        self._blobs = root / "blobs"
        for folder in (root, self.uploads, self._blobs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: Digest) -> Path:
        return self._blobs / digest.algorithm / digest.hex[:2] / digest.hex

    def open(self, digest: Digest) -> BinaryIO:
        """The caller closes. Raises FileNotFoundError when it was removed meanwhile."""
        return self.path(digest).open("rb", buffering=0)

    def publish(self, temporary: Path, digest: Digest) -> None:
        """Name a synced file; one that is there already is replaced by its equal."""
        target = self.path(digest)
        with space_errors(self.root):
            for folder in (target.parent.parent, target.parent):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, exist_ok=True)
                    sync_directory(folder.parent)
            temporary.rename(target)
            sync_directory(target.parent)

    def remove(self, digest: Digest) -> None:
        """Twice is fine."""
        self.path(digest).unlink(missing_ok=True)

    def all(self) -> Iterator[Digest]:
        """Every blob file; what is no digest is somebody else's and stays."""
        for folder in sorted(self._blobs.glob("sha*/??")):
            for path in folder.iterdir():
                try:
                    yield parse_digest(f"{folder.parent.name}:{path.name}")
                except InvalidArgument:
                    continue

    def free(self) -> int:
        """Bytes that may still be written."""
        status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize
