"""`Containers`: every use case of a container, one method each. Methods take the `Container` that `get` returned."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longshore.core.containers.container import Container, ExitStatus
from longshore.core.model import CreateRequest, UpdateRequest, WaitCondition


@dataclass(frozen=True, slots=True)
class Paths:
    """`data` survives a reboot (records, logs, exit records), `run` does not need to (tmpfs: sockets)."""

    data: Path
    run: Path


@dataclass(frozen=True, slots=True)
class LogOptions:
    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since: float = 0.0
    until: float = 0.0
    tail: int | None = None  # None: all


class Attachment:
    """A client's attachment, perhaps to a container that has not started yet."""

    async def open(self) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]": ...
    def close(self) -> None: ...


class Containers:
    async def create(
        self, name: str, request: CreateRequest, *, platform: str = "", desired: Any = None
    ) -> Container:
        """Make a container; `name` may be empty. `container.warnings` has what create answers beside the id."""
        ...

    def get(self, name: str) -> Container:
        """By id, name (with or without "/") or unique id prefix. NotFound("No such container: x")."""
        ...

    def list(
        self, *, all: bool = False, limit: int = 0, filters: Mapping[str, Sequence[str]] | None = None
    ) -> list[Container]:
        """Newest first."""
        ...

    async def start(self, container: Container) -> None:
        """NotModified when it runs already."""
        ...

    async def stop(self, container: Container, *, timeout: int | None = None, signal: str = "") -> None:
        """NotModified when it does not run. `timeout` seconds until SIGKILL; -1 waits for ever."""
        ...

    async def kill(self, container: Container, signal: str = "KILL") -> None: ...
    async def restart(
        self, container: Container, *, timeout: int | None = None, signal: str = ""
    ) -> None: ...
    async def pause(self, container: Container) -> None: ...
    async def unpause(self, container: Container) -> None: ...

    def waiter(
        self, container: Container, condition: WaitCondition = "not-running"
    ) -> "asyncio.Future[ExitStatus]":
        """Registered at once, so that nothing is missed between an answer's headers and its body."""
        ...

    async def wait(self, container: Container, condition: WaitCondition = "not-running") -> ExitStatus: ...
    async def remove(self, container: Container, *, force: bool = False, volumes: bool = False) -> None: ...
    async def rename(self, container: Container, name: str) -> None: ...
    async def update(self, container: Container, request: UpdateRequest) -> list[str]: ...
    async def set_desired(self, container: Container, desired: Any) -> None: ...
    async def resize(self, container: Container, height: int, width: int) -> None: ...

    def logs(self, container: Container, options: LogOptions) -> AsyncIterator[bytes]:
        """Ready for the client: raw lines with a tty, Docker's 8-byte frames without."""
        ...

    def attach(
        self, container: Container, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> Attachment: ...

    async def top(self, container: Container, arguments: str = "-ef") -> dict[str, Any]: ...
    async def stats(self, container: Container) -> dict[str, Any]: ...
    async def changes(self, container: Container) -> list[dict[str, Any]]: ...
    def export(self, container: Container) -> AsyncIterator[bytes]: ...
    async def archive_stat(self, container: Container, path: str) -> dict[str, Any]: ...
    async def archive_get(
        self, container: Container, path: str
    ) -> tuple[dict[str, Any], AsyncIterator[bytes]]: ...

    async def archive_put(
        self,
        container: Container,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None: ...

    def upper(self, container: Container) -> Path:
        """The container's own layer, for commit and build (`images.commit(parent, upper, config)`)."""
        ...

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> tuple[list[str], int]: ...

    async def restore(self) -> None:
        """At daemon start, once: find the running ones again, apply restart policies, sweep leftovers."""
        ...

    async def close(self) -> None:
        """Let go of everything; containers keep running."""
        ...
