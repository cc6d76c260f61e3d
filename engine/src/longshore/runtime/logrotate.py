"""The files of one log: `path` is being written, `path.1` came before it, and so on; older ones may be `path.N.gz`.

Renaming happens under a lock on the folder (flock(2), which ends with its holder), so readers and the compressor see
whole states. The compressor is a process of its own beside the container's output; it may be behind, and what it has
not compressed yet is read as well. A compressed file keeps the inode number of its original in its header (a subfield
`LS` of RFC 1952's FEXTRA), by which a reader that holds the original knows where to go on.

No pathlib here: the monitor uses this (`records.py`).
"""
# ruff: noqa: PTH104, PTH110, PTH116, PTH118, PTH120, PTH208

import fcntl
import mmap
import os
import struct
import time
import zlib

from longshore.runtime.records import remove_file

LOCK_SECONDS = 2.0
"""A holder of the lock that is stopped must not stop a container; one that has to wait for a processor is waited for."""

_BLOCK = 1 << 18
_INODE = struct.Struct("<HHHQ")  # length of the extra field, subfield LS, its length, the inode
_HEADER = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\x03"  # deflate, FEXTRA, no time, Unix
_LS = int.from_bytes(b"LS", "little")


def open_append(path: str) -> int:
    """Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def lock(path: str, *, shared: bool = False) -> int:
    """A descriptor that holds the lock of a log until it is closed, or at least tried to. Raises OSError."""
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.001)
                continue
        return fd


def names(path: str) -> list[str]:
    """The rotated files that exist, newest first."""
    found: list[str] = []
    while True:
        name = f"{path}.{len(found) + 1}"
        if os.path.exists(f"{name}.gz"):
            found.append(f"{name}.gz")
        elif os.path.exists(name):
            found.append(name)
        else:
            return found


def rotate(path: str, max_files: int) -> int:
    """Move every file up by one and start a new one, whose descriptor is returned. Raises OSError.

    `path` names a complete file at every instant. Readers that hold a file open keep reading it.
    """
    fresh = f"{path}.new"
    remove_file(fresh)
    fd = open_append(fresh)
    try:
        locked = lock(path)
        try:
            if max_files > 1:
                _shift(path, max_files)
                os.link(path, f"{path}.1")
            os.rename(fresh, path)
        finally:
            os.close(locked)
    except OSError:
        os.close(fd)
        raise
    return fd


def _shift(path: str, max_files: int) -> None:
    for ending in ("", ".gz"):
        remove_file(f"{path}.{max_files - 1}{ending}")
        for number in range(max_files - 2, 0, -1):
            try:
                os.rename(f"{path}.{number}{ending}", f"{path}.{number + 1}{ending}")
            except FileNotFoundError:
                continue


def forget(path: str, inode: int) -> bool:
    """Remove a rotated file, wherever rotation has moved it meanwhile; false when it is not there (any more)."""
    locked = lock(path)
    try:
        for name in names(path):
            if os.stat(name).st_ino == inode:
                remove_file(name)
                return True
    finally:
        os.close(locked)
    return False


def tidy(path: str, max_files: int) -> None:
    """Before the first write: remove what a killed writer or compressor left, and files beyond `max_files`."""
    remove_file(f"{path}.new")
    folder, base = os.path.split(path)
    for name in os.listdir(folder or "."):
        if name.startswith(f"{base}.gz.") and name.endswith(".new"):
            remove_file(os.path.join(folder, name))
    for name in names(path)[max(max_files - 1, 0) :]:
        remove_file(name)


def start_compressor(path: str, done: mmap.mmap) -> int:
    """Compress rotated files in a process of its own, which ends by itself; its pid. Raises OSError.

    `done` is shared memory of a byte: not 0 says that it looks for no more files. One that was rotated before the
    caller has seen a 0 will be compressed.
    """
    done[0] = 0
    pid = os.fork()
    if pid:
        return pid
    try:
        os.closerange(3, 1 << 20)  # the container's pipes and clients are none of its business
        os.nice(10)
        compress_rotated(path, done)
    except BaseException:  # the process boundary: what stays uncompressed is read as it is
        pass
    finally:
        os._exit(0)


def compress_rotated(path: str, done: mmap.mmap | None = None) -> None:
    """Compress what is not, oldest first, until everything is; `done` as in `start_compressor`. Raises OSError."""
    while (fd := _open_oldest(path, done)) is not None:
        try:
            status = os.fstat(fd)
            fresh = f"{path}.gz.{os.getpid()}.new"  # the compressor of the run before may be at it still
            _write_compressed(fd, fresh, status.st_ino)
            os.utime(fresh, ns=(status.st_mtime_ns, status.st_mtime_ns))
            locked = lock(path)
            try:
                _replace(path, status.st_ino, fresh)
            finally:
                os.close(locked)
        finally:
            os.close(fd)


def _open_oldest(path: str, done: mmap.mmap | None) -> int | None:
    """Of those that are not compressed. That there is none is told under the lock: no rotation falls between."""
    locked = lock(path, shared=True)
    try:
        plain = [name for name in names(path) if not name.endswith(".gz")]
        if not plain and done is not None:
            done[0] = 1
        return os.open(plain[-1], os.O_RDONLY | os.O_CLOEXEC) if plain else None
    finally:
        os.close(locked)


def _replace(path: str, inode: int, fresh: str) -> None:
    """Put the compressed file in its original's place, wherever rotation has moved that meanwhile."""
    for name in names(path):
        if not name.endswith(".gz") and os.stat(name).st_ino == inode:
            os.rename(fresh, f"{name}.gz")
            remove_file(name)
            return
    remove_file(fresh)  # rotated out of existence


def _write_compressed(source: int, target: str, inode: int) -> None:
    remove_file(target)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        checksum = size = 0
        write_all(fd, _HEADER + _INODE.pack(_INODE.size - 2, _LS, 8, inode))
        while data := os.read(source, _BLOCK):
            checksum = zlib.crc32(data, checksum)
            size += len(data)
            write_all(fd, deflate.compress(data))
        write_all(fd, deflate.flush() + struct.pack("<II", checksum, size & 0xFFFFFFFF))
    except OSError:  # a full disk
        remove_file(target)
        raise
    finally:
        os.close(fd)


def original_inode(fd: int) -> int:
    """The inode of the file that a compressed one was made from; 0 when somebody else compressed it."""
    data = os.pread(fd, len(_HEADER) + _INODE.size, 0)
    if len(data) < len(_HEADER) + _INODE.size or not data[3] & 4:
        return 0
    length, subfield, size, inode = _INODE.unpack_from(data, len(_HEADER))
    return inode if (length, subfield, size) == (_INODE.size - 2, _LS, 8) else 0


def write_all(fd: int, data: bytes) -> None:
    """Raises OSError."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])
