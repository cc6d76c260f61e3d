"""The process that unpacks or packs one layer: confined to that layer's directory, with nothing else in sight.

Started by `longshore.storage.jobs` as `python -I -S` with one JSON argument, so it costs little and imports only what
is below. Before the first hostile byte is read it has the directory as its root in a mount namespace of its own, few
capabilities, a memory limit, no descriptors but the blob's and an empty import path: a codec or module planted in a
layer can neither be found nor run. It dies with the daemon.
"""

import errno
import hashlib
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

from longshore.kernel import capabilities, mounts, namespaces, processes
from longshore.storage.apply import Applier, LayerError
from longshore.storage.compression import CompressionError, LayerSink, decompressed
from longshore.storage.pack import Packer
from longshore.storage.tarstream import CHUNK, Source, TarError, TarReader

MEMORY = 2 << 30  # address space; a zstd window and its buffers need about 400 MiB
_KEPT = capabilities.mask(
    ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP", "CAP_SYS_ADMIN")
)  # SYS_ADMIN for trusted.overlay.opaque


def confine(directory: str) -> int:
    """Make a directory the root of this process; returns it opened. There is no way back."""
    processes.prctl(processes.PR_SET_PDEATHSIG, signal.SIGKILL)
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


class VerifyingSource:
    """The plain tar: whatever is read from it has been hashed, and its end is reached only with the right digest."""

    def __init__(self, source: Source, expected: str) -> None:
        self._source = source
        self._expected = expected
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def finish(self) -> None:
        """Read on to the end, which is beyond tar's end marker, and compare. Raises LayerError."""
        while self.read(CHUNK):
            pass
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self._expected:
            raise LayerError(f"layer does not match its diff id: wanted {self._expected}, got {actual}")


def unpack(root: int, job: dict[str, Any]) -> dict[str, object]:
    source = VerifyingSource(decompressed(_File(job["blob"])), job["diff_id"])
    applier = Applier(root, max_entries=job["max_entries"], max_size=job["max_size"])
    applied = applier.apply(TarReader(source))
    source.finish()
    return {"entries": applied.entries, "size": applied.size}


def pack(root: int, job: dict[str, Any]) -> dict[str, object]:
    sink = LayerSink(_File(job["blob"]))
    Packer(sink).pack(root)
    return {"diff_id": sink.finish()}


def main() -> NoReturn:
    """Do the one job in argv[1]; say how it went as JSON on standard output."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    try:
        root = confine(job["directory"])
        result = unpack(root, job) if job["task"] == "unpack" else pack(root, job)
    except (LayerError, TarError, CompressionError) as error:
        result = {"error": str(error), "kind": "invalid"}
    except MemoryError:
        result = {"error": f"layer needs more than {MEMORY} bytes of memory", "kind": "invalid"}
    except OSError as error:
        kind = "space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "system"
        result = {"error": str(error), "kind": kind}
    os.write(1, json.dumps(result).encode())
    os._exit(0)  # nothing to tidy up, and interpreter shutdown costs 5 ms
