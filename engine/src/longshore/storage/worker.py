"""The process that unpacks or packs one layer: confined to that layer's directory, with nothing else in sight.

Started by `longshore.storage.jobs` as `python -I -S` and imports only what is below, so it costs little. Before the first hostile byte is read it has the directory as its root in a mount namespace of its own, few
capabilities, a memory limit, no descriptors but the blob's and an empty import path: a codec or module planted in a
layer can neither be found nor run. A seccomp filter takes away what CAP_SYS_ADMIN would open. It dies with the daemon.
"""

import errno
import hashlib
import os
import resource
import sys
from typing import NoReturn

from longshore.kernel import capabilities, mounts, namespaces, processes, seccomp
from longshore.storage.apply import Applier, LayerError
from longshore.storage.compression import CompressionError, LayerSink, decompressed
from longshore.storage.confinement import seccomp_filter
from longshore.storage.pack import Packer
from longshore.storage.tarstream import CHUNK, Source, TarError, TarReader

_SIGKILL = 9  # importing signal would cost 5 ms
COMPLETE = b"$"  # as in blob_writer, whose imports the worker does without
MEMORY = 2 << 30  # address space; a zstd window and its buffers need about 400 MiB
_KEPT = capabilities.mask(
    ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN")
)  # SYS_ADMIN for trusted.overlay.opaque


def confine(directory: str) -> int:
    """Make a directory the root of this process; returns it opened. There is no way back."""
    processes.prctl(processes.PR_SET_PDEATHSIG, _SIGKILL)
    capabilities.last_capability()  # reads /proc, which is gone in a moment
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount(directory, directory, None, mounts.MS_BIND)
    os.chdir(directory)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)  # the old root, which lies on top: pivot_root(2)
    os.chdir("/")
    capabilities.limit_bounding(_KEPT)
    capabilities.capset(_KEPT, _KEPT, 0)
    processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if program := seccomp_filter():
        seccomp.load_filter(program)
    os.umask(0)
    sys.path.clear()
    sys.meta_path.clear()
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class _File:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def write(self, data: bytes, /) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class AbandonedError(Exception):
    """The rest of a growing blob will never come."""


class _Growing:
    """A blob that is still being written: waits for more, and ends where the writer says that it is whole.

    The pipe is told of by blob_writer.Follower.
    """

    def __init__(self, blob: int, pulse: int) -> None:
        self._blob, self._pulse = blob, pulse
        self._complete = False

    def read(self, size: int, /) -> bytes:
        while True:
            data = os.read(self._blob, size)
            if data or self._complete:
                return data
            told = os.read(self._pulse, 1 << 16)
            if not told:
                raise AbandonedError
            self._complete = told.endswith(COMPLETE)


class VerifyingSource:
    """The plain tar: whatever is read from it has been hashed, and its end is reached only with the right digest."""

    def __init__(self, source: Source, expected: str) -> None:
        self._source = source
        self._expected = expected
        self._algorithm = expected.partition(":")[0]
        self._hash = hashlib.new(self._algorithm)

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read on to the end, which is beyond tar's end marker, and compare. Raises LayerError."""
        while self.read(CHUNK):
            pass
        actual = f"{self._algorithm}:{self._hash.hexdigest()}"
        if actual != self._expected:
            raise LayerError(f"layer does not match its diff id: wanted {self._expected}, got {actual}")


def unpack(
    root: int, blob: int, diff_id: str, max_entries: str, max_size: str, pulse: str = ""
) -> tuple[object, ...]:
    packed = _Growing(blob, int(pulse)) if pulse else _File(blob)
    source = VerifyingSource(decompressed(packed), diff_id)
    applier = Applier(root, max_entries=int(max_entries), max_size=int(max_size))
    applier.apply(TarReader(source))
    source.finish()
    return (applier.entries, applier.size)


def pack(root: int, blob: int) -> tuple[object, ...]:
    sink = LayerSink(_File(blob))
    Packer(sink).pack(root)
    return (sink.finish(),)


def main() -> NoReturn:
    """Do the one job that argv names: task, directory, descriptor of the blob, parameters of the task.

    Says how it went on standard output, fields separated by zero bytes: "ok" and the task's results, or
    "invalid", "space" or "system" and the reason, or "abandoned".
    """
    _, task, directory, blob, *parameters = sys.argv
    try:
        root = confine(directory)
        result = ("ok", *(unpack if task == "unpack" else pack)(root, int(blob), *parameters))
    except (LayerError, TarError, CompressionError) as error:
        result = ("invalid", error)
    except AbandonedError:
        result = ("abandoned",)
    except MemoryError:
        result = ("invalid", f"layer needs more than {MEMORY} bytes of memory")
    except OSError as error:
        result = ("space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system", error)
    os.write(1, "\0".join(map(str, result)).encode("utf-8", "replace"))
    os._exit(0)  # nothing to tidy up, and interpreter shutdown costs 5 ms
