"""A tar that is sent while it is written."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable, Iterator

from longshore.errors import EngineError

_PIECE = 1 << 20


def tar_stream(write: Callable[[tarfile.TarFile], None], what: str) -> Iterator[bytes]:
    """The bytes of what `write` adds. A thread writes into a pipe, so that a large file never lies in memory.

    Raises EngineError (`what` could not be read) at the end.
    """
    reading, writing = os.pipe()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with (
                open(writing, "wb") as pipe,
                tarfile.open(fileobj=pipe, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16) as tar,
            ):
                write(tar)
        except BrokenPipeError:
            pass  # the daemon refused early; its answer tells why
        except (OSError, tarfile.TarError) as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with open(reading, "rb", buffering=0) as pipe:
        while data := pipe.read(_PIECE):
            yield data
    thread.join()
    if failures:
        raise EngineError(f"cannot read {what}", detail=str(failures[0]))
