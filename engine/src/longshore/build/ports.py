"""The seam between the one builder and its doors.

A door is how a client reaches the builder: classic `POST /build`, `longshore build`, BuildKit's protocol. Each door

* gives the builder a `BuildOptions` (longshore.build.options) and a `Door`, this module: what only the client has;
* renders the events (longshore.build.events) as its client expects them;
* ships the result (longshore.build.result) to the image store or to the client (longshore.build.export).

    build = await builder.prepare(options, door)     # raises InvalidArgument for a bad request or Dockerfile
    try:
        async for event in build.run():              # closing the generator or cancelling the task ends the build
            ...
        image = await store(engine, build.result, options.tags)
    finally:
        await build.close()                          # from here on garbage collection may take unnamed layers
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from longshore.build.trees import Tree
from longshore.registry.auth import Credentials


@dataclass(frozen=True, slots=True)
class DockerfileSource:
    """A Dockerfile as the client has it. `ignore`: the .dockerignore that counts, None without one.

    `<Dockerfile>.dockerignore` beside the Dockerfile goes before `.dockerignore` in the root of the context
    (https://docs.docker.com/build/concepts/context/#dockerignore-files); the door chooses, the builder applies.
    """

    name: str  # as the user named it, for messages
    data: bytes
    ignore: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which files of a context a build will look at, so that a door need not transfer the others.

    A door may send more: the builder applies `exclude` itself. `paths` are the sources of COPY, ADD and bind mounts,
    relative to the context, perhaps with wildcards; empty means everything.
    """

    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # lines of .dockerignore in order


class ContextFiles(Tree, Protocol):
    """The files of one context. The builder closes it once, at the end of the build."""

    def close(self) -> None: ...


class Door(Protocol):
    """What a build asks of its client. All are called from the event loop, most of them at most once per name.

    Any of them may raise an EngineError; the step that asked fails with it.
    """

    async def dockerfile(self) -> DockerfileSource:
        """Called once, before anything else. Raises InvalidArgument when there is no such file."""
        ...

    async def context(self, name: str, wanted: Wanted) -> ContextFiles:
        """The files of the build context (name "") or of a named one that options.contexts has as "local:<name>".

        Called when the first step needs files, not for builds that copy none; at most once per name. Owners are as
        the client sends them; clients of Docker send 0:0. Raises NotFound when the client has no such context.
        """
        ...

    async def secret(self, id: str) -> bytes | None:
        """The bytes of a secret, None when the client has none of this id. Never stored, never part of a cache key."""
        ...

    def ssh(self, id: str) -> AbstractAsyncContextManager[Path | None]:
        """A Unix socket of this host that reaches the client's ssh agent while the block is open.

        None: the client forwards no agent of this id ("default" where the Dockerfile names none).
        """
        ...

    async def credentials(self, domain: str) -> Credentials | None:
        """The client's login for a registry ("docker.io", "localhost:5000"); None: go without."""
        ...
