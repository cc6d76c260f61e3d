"""Builds by POST /build, the classic builder's door of both engines: no client in between."""

import contextlib
import io
import tarfile
import time

from tests.bench.peers import Engine
from tests.bench.rows import timed

CACHED = "FROM busybox\n" + "".join(
    f"ENV A{n}={n}\nRUN echo {n} > /{n}\nCOPY data /data{n}\nLABEL l{n}={n}\n" for n in range(5)
)
STEPS = 5
_NUMBERS = iter(range(1_000_000))


def context(dockerfile: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in (("Dockerfile", dockerfile.encode()), ("data", b"data" * 1000)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def build(engine: Engine, dockerfile: str) -> float:
    """Seconds of one build, from the request to the end of the stream."""
    with contextlib.closing(engine.client()) as client:
        body = context(dockerfile)
        return timed(lambda: client.stream("/v1.41/build?t=bench&rm=1", body, "Successfully built"))


def cached_build(engine: Engine) -> float:
    """Milliseconds of a build of 20 instructions that were all there."""
    build(engine, CACHED)
    return build(engine, CACHED) * 1000


def uncached_run(engine: Engine) -> float:
    """Milliseconds that one RUN more costs, when it does nothing but write a small file."""
    mark = f"{time.time_ns()}-{next(_NUMBERS)}"
    none = build(engine, f"FROM busybox\nLABEL mark={mark}-0\n")
    some = "".join(f"RUN echo {mark}-{n} > /{n}\n" for n in range(STEPS))
    return (build(engine, f"FROM busybox\n{some}") - none) / STEPS * 1000
