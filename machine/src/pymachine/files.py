"""Writing files so that a crash at any instant leaves the old contents or the new ones, never a part."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pymachine.errors import StoreError

_SUFFIX = ".tmp"


def write_atomic(path: Path, data: bytes | str, mode: int = 0o600) -> None:
    """Write beside `path`, fsync, rename over it, fsync the folder. Keys are private from their first byte."""
    raw = data.encode() if isinstance(data, str) else data
    fresh = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # neither the umask nor a leftover file decides
            stream.write(raw)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
        sync_folder(path.parent)
    except OSError as cause:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise StoreError(f"cannot write {path}", detail=cause.strerror or str(cause)) from cause


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(folder: Path) -> None:
    """Create `folder` and its parents, readable by its owner only. Twice is fine."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as cause:
        raise StoreError(f"cannot create {folder}", detail=cause.strerror or str(cause)) from cause


def leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files of writers that died. Only the holder of the folder's lock may remove them."""
    return folder.glob(f".*{_SUFFIX}")
