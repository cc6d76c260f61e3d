"""A running monitor, as the daemon sees it: its watch connection and the streams beside it."""

import asyncio
import errno
import os
import select
import signal
import socket
from typing import TypeVar

import msgspec

from longshore.errors import (
    Conflict,
    EngineError,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfSpace,
    StartFailed,
    Unavailable,
    Unsupported,
)
from longshore.runtime import cgroups, records, wire
from longshore.runtime.async_wire import connect_control, receive_body
from longshore.runtime.logwriter import now_text
from longshore.runtime.messages import (
    Attach,
    Attached,
    Created,
    Exec,
    ExecExited,
    ExecStarted,
    Exited,
    Failed,
    FromMonitor,
    Resize,
    RotateLog,
    Signal,
    Start,
    Started,
    State,
    Watch,
)
from longshore.runtime.records import read_exit

ANSWER_SECONDS = 10.0
"""For a running monitor to answer a new connection."""

MONITOR_DIED = "the monitor of the container died"

LEFTOVER_SECONDS = 5.0
"""For the processes of a container whose monitor died to be gone after SIGKILL."""

_reply_decoder = msgspec.json.Decoder[FromMonitor](FromMonitor)

_KINDS = {
    kind.__name__: kind
    for kind in (Conflict, Internal, InvalidArgument, NotFound, OutOfSpace, Unavailable, Unsupported)
}

Value = TypeVar("Value")
Answer = TypeVar("Answer", bound=msgspec.Struct)


def error_from(message: Failed) -> EngineError:
    """The exception that `monitor.failed` made the message from."""
    if (kind := _KINDS.get(message.kind)) is not None:
        return kind(message.what, detail=message.detail, hint=message.hint)
    return StartFailed(message.what, errno=message.errno, detail=message.detail, hint=message.hint)


class Execution:
    """One exec. `reader` and `writer` are None when it is detached."""

    def __init__(
        self,
        exec_id: str,
        pid: int,
        exited: "asyncio.Future[int]",
        reader: asyncio.StreamReader | None,
        writer: asyncio.StreamWriter | None,
    ) -> None:
        self.id = exec_id
        self.pid = pid
        self.reader = reader
        self.writer = writer
        self._exited = exited

    async def wait(self) -> int:
        """The exit code, 128+n for a death by signal n; 137 when the container ended first. Many may wait."""
        return await asyncio.shield(self._exited)


class Monitor:
    """A running monitor, as the daemon sees it over its watch connection."""

    def __init__(
        self,
        container_id: str,
        state_dir: str,
        exit_path: str,
        watch: socket.socket,
        cgroup: str,
    ) -> None:
        """Use `Zygote.launch()` or `reconnect()`."""
        self.id = container_id
        self.pid = 0
        self.cgroup = cgroup
        """The container's group below each hierarchy."""
        self.started_at = ""
        self.netns_fd: int | None = None
        self.netlink_fd: int | None = None
        self.warnings: tuple[str, ...] = ()
        """After `start()`: limits that this machine cannot give and that were lowered or left out."""
        self.execs: tuple[str, ...] = ()
        """Ids of the execs that were running when a `reconnect()` found this monitor."""
        self._state_dir = state_dir
        self._exit_path = exit_path
        self._watch = watch
        self._splitter = wire.Splitter()
        self._descriptors: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._created: asyncio.Future[None] = self._loop.create_future()
        self._started: asyncio.Future[str] = self._loop.create_future()
        self._exited: asyncio.Future[Exited] = self._loop.create_future()
        self._execs: dict[str, asyncio.Future[int]] = {}
        self._ended: asyncio.Future[None] = self._loop.create_future()  # the connection
        self._lost: asyncio.Task[None] | None = None
        for future in (self._created, self._started):
            future.add_done_callback(_retrieve)
        self._loop.add_reader(watch.fileno(), self._on_readable)

    async def created(self) -> None:
        """Wait until init exists (`pid` and the descriptors are set). Raises what `Zygote.launch` raises."""
        await asyncio.shield(self._created)

    def take_descriptors(self) -> tuple[int | None, int | None]:
        """The network namespace and the netlink socket in it. The caller closes them; the second call gets None."""
        taken = (self.netns_fd, self.netlink_fd)
        self.netns_fd = self.netlink_fd = None
        return taken

    async def start(self) -> str:
        """Let init execute the program; returns when that has succeeded, with the time in RFC 3339.

        Raises StartFailed; then nothing of the container is left, and `wait()` must not be used.
        """
        self._send(Start())
        return await asyncio.shield(self._started)

    async def abandon(self) -> None:
        """Undo a container that was not started; returns when everything is gone. Not for started ones."""
        try:
            self._watch.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            pass
        await asyncio.shield(self._ended)
        await self.close()

    async def wait(self) -> Exited:
        """The exit record, as soon as it is on disk. Many may wait, before and after the end."""
        return await asyncio.shield(self._exited)

    @property
    def exited(self) -> Exited | None:
        """The exit record when it is known already."""
        return self._exited.result() if self._exited.done() else None

    async def signal(self, number: int) -> None:
        """Send a signal to the container's first process; nothing happens when it has ended."""
        self._send(Signal(number))

    async def resize(self, height: int, width: int, exec_id: str = "") -> None:
        """Set the size of the container's tty or of an exec's; nothing happens when there is none."""
        self._send(Resize(height, width, exec_id))

    async def rotate_log(self) -> None:
        """Have a new log file begun; nothing happens when the monitor writes none."""
        self._send(RotateLog())

    async def attach(
        self, *, stdin: bool, stdout: bool, stderr: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Attach to the streams: the reader gives Docker's multiplexed frames (raw bytes with a tty).

        The writer takes raw standard input; `write_eof()` half-closes. The caller closes the writer. Works from
        `launch` on, before `start`. Raises Conflict when the container has ended.
        """
        connection = await self._connect()
        try:
            await self._ask(connection, Attach(stdin, stdout, stderr), Attached)
            return await asyncio.open_unix_connection(sock=connection)
        except BaseException:
            connection.close()
            raise

    async def exec(self, request: Exec) -> Execution:
        """Run one more process. Raises StartFailed, and Conflict when the container does not run."""
        connection = await self._connect()
        exited: asyncio.Future[int] = self._loop.create_future()
        self._execs[request.id] = exited
        exited.add_done_callback(lambda _: self._execs.pop(request.id, None))
        try:
            started = await self._ask(connection, request, ExecStarted)
            if request.attach:
                reader, writer = await asyncio.open_unix_connection(sock=connection)
                return Execution(request.id, started.pid, exited, reader, writer)
        except BaseException:
            exited.cancel()
            connection.close()
            raise
        connection.close()
        return Execution(request.id, started.pid, exited, None, None)

    def watch(self) -> None:
        """Ask a running monitor for its state; it comes as `created()`."""
        self._send(Watch())

    def execution(self, exec_id: str) -> Execution:
        """A handle to wait for an exec that a former daemon started (see `execs`); its pid is unknown, 0."""
        return Execution(exec_id, 0, self._execs.setdefault(exec_id, self._loop.create_future()), None, None)

    async def close(self) -> None:
        """Leave the monitor alone: close the connection and the descriptors. Twice is fine."""
        self._disconnect()
        for fd in (self.netns_fd, self.netlink_fd, *self._descriptors):
            if fd is not None:
                os.close(fd)
        self.netns_fd = self.netlink_fd = None
        self._descriptors.clear()

    # The watch connection

    def _send(self, message: Start | Signal | Resize | RotateLog | Watch) -> None:
        """A few bytes to a monitor that reads them at once: they fit whole, or the monitor is stuck."""
        try:
            self._watch.send(wire.encode(message))
        except BlockingIOError as error:
            raise Unavailable(f"the monitor of container {self.id} does not answer") from error
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                raise
            # It has ended or dies: what that means is told by wait() and start()

    def _on_readable(self) -> None:
        try:
            data, descriptors = wire.receive(self._watch)
            self._descriptors += descriptors
            self._splitter.feed(data)
            while (body := self._splitter.next()) is not None:
                self._dispatch(_reply_decoder.decode(body))
        except BlockingIOError:
            return
        except (ConnectionResetError, msgspec.MsgspecError, Internal):
            data = b""
        if not data and self._watch.fileno() >= 0:
            self._disconnect()
            self._lost = asyncio.create_task(self._find_end())

    def _dispatch(self, message: FromMonitor) -> None:
        match message:
            case Created(pid):
                self.pid = pid
                if len(self._descriptors) == 2:
                    self.netns_fd, self.netlink_fd = self._descriptors
                    self._descriptors = []
                _resolve(self._created, None)
            case Started(at, warnings):
                self.started_at, self.warnings = at, warnings
                _resolve(self._started, at)
            case State(pid, started_at, execs):
                self.pid, self.started_at, self.execs = pid, started_at, execs
                for exec_id in execs:
                    self._execs.setdefault(exec_id, self._loop.create_future())
                if started_at:
                    _resolve(self._started, started_at)
                _resolve(self._created, None)
            case Failed():
                for future in (self._created, self._started):
                    if not future.done():
                        future.set_exception(error_from(message))
            case ExecExited(exec_id, code):
                _resolve(self._execs.setdefault(exec_id, self._loop.create_future()), code)
            case Exited():
                self._finish(message)
            case Attached() | ExecStarted():
                pass  # answers on other connections

    def _finish(self, record: Exited) -> None:
        _resolve(self._exited, record)
        for exited in self._execs.values():
            _resolve(exited, 128 + signal.SIGKILL)

    def _disconnect(self) -> None:
        if self._watch.fileno() >= 0:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
            _resolve(self._ended, None)

    async def _find_end(self) -> None:
        """The connection ended. After Exited or Failed that is as it should be."""
        if self._exited.done() or (self._started.done() and self._started.exception()):
            return
        lost = Unavailable(f"{MONITOR_DIED} {self.id} before it was started")
        if self._started.done():
            try:  # it lives and only dropped a connection that was not read for long
                watch = await connect_control(self._state_dir)
            except OSError:
                pass
            else:
                self._rewatch(watch)
                return
        record = await asyncio.to_thread(end_of_dead_monitor, self._state_dir, self._exit_path)
        for future in (self._created, self._started):
            if not future.done():
                future.set_exception(lost)
        self._finish(record)

    def _rewatch(self, watch: socket.socket) -> None:
        self._watch = watch
        self._splitter = wire.Splitter()
        self._loop.add_reader(watch.fileno(), self._on_readable)
        self._send(Watch())

    # Further connections

    async def _connect(self) -> socket.socket:
        try:
            return await connect_control(self._state_dir)
        except OSError as error:
            raise await self._why_gone() from error

    async def _why_gone(self) -> EngineError:
        """Nobody answers. A start that failed has told its reason, or is about to, over the watch connection."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.shield(self._started)
        except EngineError as reason:
            return reason
        except TimeoutError:
            pass
        return Conflict(f"container {self.id} is not running")

    async def _ask(self, connection: socket.socket, message: Attach | Exec, answer: type[Answer]) -> Answer:
        """Send a request on its own connection and return the answer. Raises what the monitor reports."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._loop.sock_sendall(connection, wire.encode(message))
                reply = _reply_decoder.decode(await receive_body(connection))
        except TimeoutError as error:
            raise Unavailable(f"the monitor of container {self.id} does not answer") from error
        except (OSError, EOFError) as error:
            raise await self._why_gone() from error
        if isinstance(reply, Failed):
            raise error_from(reply)
        if not isinstance(reply, answer):
            raise Internal(f"the monitor of container {self.id} answered {type(reply).__name__}")
        return reply


async def reconnect(container_id: str, state_dir: str, exit_path: str) -> Monitor | None:
    """Find the monitor of a container that a former daemon started.

    None: there is none any more, and `read_exit(exit_path)` tells how the run ended (a monitor that was
    killed is cleaned up after here, record included). A container that was created but not started
    yet is undone: nobody was told about it. Raises Unavailable when the monitor does not answer.
    """
    state = records.read_state(state_dir)
    try:
        watch = await connect_control(state_dir)
    except OSError:
        if state is not None:
            await asyncio.to_thread(end_of_dead_monitor, state_dir, exit_path)
        return None
    monitor = Monitor(container_id, state_dir, exit_path, watch, state.cgroup if state else "")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            monitor.watch()
            await monitor.created()
    except TimeoutError as error:
        await monitor.close()
        raise Unavailable(f"the monitor of container {container_id} does not answer") from error
    except EngineError:  # it ended just now
        await monitor.close()
        return None
    except BaseException:
        await monitor.close()
        raise
    if not monitor.started_at:
        await monitor.abandon()
        return None
    return monitor


def end_of_dead_monitor(state_dir: str, exit_path: str) -> Exited:
    """Clean up after a monitor that died without telling the end; returns the record, then also on disk.

    Kills what is left of the container, removes its cgroups and the state folder. Twice is fine. Blocks for up
    to some seconds: run it in a thread.
    """
    state = records.read_state(state_dir)
    if state is not None:
        _kill(state.init_pid, state.init_start)
        cgroups.kill_all(state.cgroup)
        cgroups.remove(state.cgroup)
    record = read_exit(exit_path)
    if record is None:
        record = Exited(128 + signal.SIGKILL, now_text(), error=MONITOR_DIED)
        if state is not None and state.started_at:
            records.write_exit(exit_path, record)
    records.clean_state(state_dir)
    return record


def _kill(pid: int, start: int) -> None:
    pidfd = records.open_process(pid, start)
    if pidfd is None:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], LEFTOVER_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _resolve(future: "asyncio.Future[Value]", value: Value) -> None:
    if not future.done():
        future.set_result(value)


def _retrieve(future: "asyncio.Future[None] | asyncio.Future[str]") -> None:
    """Look at the exception, so that asyncio does not complain about one that nobody waited for."""
    if not future.cancelled():
        future.exception()
