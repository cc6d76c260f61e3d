"""Processes beside a container's first one: `docker exec`."""

import asyncio
import secrets
import time
from dataclasses import dataclass, field

from longshore.core.containers.attach import Streams
from longshore.core.containers.container import Container
from longshore.core.containers.launch import own_capabilities
from longshore.core.containers.links import environment, find_links
from longshore.core.containers.parts import Parts
from longshore.core.model import ExecRequest
from longshore.core.spec import plan_exec
from longshore.core.tasks import spawn
from longshore.core.validate import check_env
from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound
from longshore.runtime.client import Execution
from longshore.runtime.messages import Exec

NOT_RUN = 126  # the exit code of an exec that could not start, for whatever reason, as Docker's
KEPT_SECONDS = 300.0  # how long the exit code of an ended exec can be asked for


@dataclass(eq=False, slots=True)
class ExecSession:
    """One exec. It lives in memory: after a restart of the daemon its id is unknown, as with Docker."""

    id: str
    container: Container
    request: ExecRequest
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    execution: Execution | None = None
    size: tuple[int, int] | None = None  # asked for before it ran
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ended_at: float = 0.0


class Execs:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sessions: dict[str, ExecSession] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def create(self, container: Container, request: ExecRequest) -> ExecSession:
        """Conflict unless the container runs; InvalidArgument for an empty command or a bad variable."""
        self._must_run(container)
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        if any("\0" in word for word in request.cmd):
            raise InvalidArgument("invalid Cmd: a NUL character")
        if request.working_dir and not request.working_dir.startswith("/"):
            raise InvalidArgument(f"Cwd must be an absolute path: {request.working_dir}")
        check_env(entry for entry in request.env or () if "=" in entry)
        self._forget_old()
        session = ExecSession(secrets.token_hex(32), container, request)
        self._sessions[session.id] = session
        self._announce(session, "exec_create: " + " ".join(request.cmd))
        return session

    def get(self, id: str) -> ExecSession:
        """By id or unique prefix. Raises NotFound("No such exec instance: x")."""
        if session := self._sessions.get(id):
            return session
        matches = [
            session for known, session in self._sessions.items() if len(id) >= 12 and known.startswith(id)
        ]
        if len(matches) != 1:
            raise NotFound(f"No such exec instance: {id}")
        return matches[0]

    def check_start(self, session: ExecSession) -> None:
        """Conflict when it was started before or its container does not run."""
        if session.started:
            raise Conflict(f"Error: Exec command {session.id} has already run")
        self._must_run(session.container)

    async def start(self, session: ExecSession, *, detach: bool = False) -> Streams | None:
        """Run it; streams unless detached: Docker's frames out (raw with a tty), raw bytes in.

        Raises StartFailed (the exit code is 126 then), Conflict when it was started before or the container
        does not run.
        """
        self.check_start(session)
        monitor = session.container.monitor
        if monitor is None:
            raise Conflict(f"container {session.container.id} is not running")
        request = session.request
        session.started = True
        attach = not detach and (request.attach_stdin or request.attach_stdout or request.attach_stderr)
        record = session.container.record
        process = plan_exec(
            record, request, own_capabilities(), environment(record, find_links(self._parts, record))
        )
        try:
            session.execution = await monitor.exec(
                Exec(session.id, process, attach=attach, stdin=attach and request.attach_stdin)
            )
        except EngineError:
            self._ended(session, NOT_RUN)
            raise
        session.running = True
        session.pid = session.execution.pid
        session.container.exec_ids.append(session.id)
        self._announce(session, "exec_start: " + " ".join(request.cmd or ()))
        if detach:
            self._announce(session, "exec_detach")
        spawn(self._watch(session), f"exec {session.id[:12]}", self._background)
        if session.size:
            await monitor.resize(*session.size, session.id)
        if session.execution.reader is None or session.execution.writer is None:
            return None
        return session.execution.reader, session.execution.writer

    def detached(self, session: ExecSession) -> None:
        """A client left by its detach keys."""
        self._announce(session, "exec_detach")

    async def _watch(self, session: ExecSession) -> None:
        if session.execution:
            self._ended(session, await session.execution.wait())
            self._announce(session, "exec_die", exitCode=str(session.exit_code))

    def _ended(self, session: ExecSession, code: int) -> None:
        session.running = False
        if session.id in session.container.exec_ids:
            session.container.exec_ids.remove(session.id)
        session.exit_code = code
        session.ended_at = time.monotonic()
        session.ended.set()

    async def wait(self, session: ExecSession) -> int:
        """The exit code, once it ended. Many may wait."""
        await session.ended.wait()
        return session.exit_code or 0

    async def resize(self, session: ExecSession, height: int, width: int) -> None:
        """Nothing happens without a tty or after the end. Docker 20.10's command line asks while the start is under
        way, and once only.
        """
        if session.container.monitor and session.running:
            await session.container.monitor.resize(height, width, session.id)
        else:
            session.size = (height, width)

    def forget(self, container: Container) -> None:
        """The container is removed."""
        for id in [id for id, session in self._sessions.items() if session.container is container]:
            del self._sessions[id]

    def _must_run(self, container: Container) -> Container:
        if container.state.status == "paused":
            raise Conflict(f"Container {container.id} is paused, unpause the container before exec")
        if container.state.status == "restarting":
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if not container.running:
            raise Conflict(f"container {container.id} is not running")
        return container

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEPT_SECONDS
        for id in [
            id
            for id, session in self._sessions.items()
            if session.container.removed or (session.ended_at and session.ended_at < limit)
        ]:
            del self._sessions[id]

    def _announce(self, session: ExecSession, action: str, **attributes: str) -> None:
        self._parts.announce(session.container, action, execID=session.id, **attributes)

    async def close(self) -> None:
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
