"""Processes beside a container's first one: `docker exec`."""

from longshore.core.containers.container import Container
from longshore.core.model import ExecRequest
import asyncio


class ExecSession:
    id: str
    container: Container
    request: ExecRequest
    running: bool
    exit_code: int | None
    pid: int


class Execs:
    async def create(self, container: Container, request: ExecRequest) -> ExecSession: ...
    def get(self, id: str) -> ExecSession: ...

    async def start(
        self, session: ExecSession, *, detach: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Streams unless detached: Docker's frames out (raw with a tty), raw bytes in."""
        ...

    async def wait(self, session: ExecSession) -> int: ...
    async def resize(self, session: ExecSession, height: int, width: int) -> None: ...
