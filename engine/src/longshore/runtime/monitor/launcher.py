"""The short-lived helper of the monitor that starts the container.

Planning a container touches a megabyte of the zygote's pages, which a process that did it would keep for as
long as the container runs. So the monitor forks a launcher: that decodes the message, plans, forks the
container's process, hands the descriptors over and exits. The container's process then becomes the monitor's
own child, because the monitor is a "subreaper" (PR_SET_CHILD_SUBREAPER, prctl(2)) just while it has a launcher;
later orphans of a container without a pid namespace go to the host's init as ever.
"""
# ruff: noqa: PTH103 (see records.py)

import os
import select
import socket
import traceback
from typing import NoReturn

import msgspec

from longshore.errors import EngineError, InvalidArgument, StartFailed
from longshore.kernel.descriptors import close_quietly, receive, send
from longshore.kernel.processes import PR_SET_CHILD_SUBREAPER, prctl
from longshore.runtime import cgroups, records, wire
from longshore.runtime.init import Init, spawn_init
from longshore.runtime.loghelper import start_helper
from longshore.runtime.logwriter import now_text, open_log
from longshore.runtime.messages import Created, Failed, Launch, LogTarget, Start, Started
from longshore.runtime.monitor.quiet import CHANNEL, EVENTS, LAUNCHERS_END, WATCH, read_body

GO = b"G"  # to the launcher: let the container's process execute its program

# From the launcher: a letter and a body. An empty message instead of an answer: it waits for GO.
SPAWNED = b"S"  # a `Spawned`, and descriptors
PROCEEDED = b"P"  # the program runs; a `Started` framed for the daemon
FAILED = b"F"  # a `Failed`


MEMORY = "memory"
"""The role of the group's memory.events, whose changes are urgent (POLLPRI) instead of readable."""

_SILENT = frozenset(("stdin", "log", "helper"))
"""Roles of descriptors that a monitor writes to; it waits for events of all others."""


class Spawned(msgspec.Struct, frozen=True, tag="spawned"):
    """A process exists. `roles` names the descriptors that come along, in order."""

    pid: int
    roles: tuple[str, ...]
    cgroup: str = ""


_spawned_decoder = msgspec.json.Decoder(Spawned)
_started_decoder = msgspec.json.Decoder(Started)
_failed_decoder = msgspec.json.Decoder(Failed)
_encoder = msgspec.json.Encoder()

_START = wire.encode(Start())

Answer = Spawned | Started | Failed


def parse_answer(data: bytes) -> Answer:
    """What a launcher said; empty data: it has died."""
    match data[:1]:
        case b"S":
            return _spawned_decoder.decode(data[1:])
        case b"P":
            return _started_decoder.decode(data[1 + wire.HEADER.size :])
        case b"F":
            return _failed_decoder.decode(data[1:])
        case _:
            return Failed("the process that starts the container died", hint="is the host short of memory?")


def failed(error: BaseException) -> Failed:
    """The message for an error; `monitor_client.error_from` makes the error again from it."""
    if isinstance(error, EngineError):
        number = error.errno if isinstance(error, StartFailed) else 0
        return Failed(error.what, number, error.detail, error.hint, type(error).__name__)
    if isinstance(error, OSError):
        return Failed("cannot start the process", error.errno or 0, str(error))
    return Failed("the launcher failed", detail="".join(traceback.format_exception(error)), kind="Internal")


class Launcher:
    """The handle of one launcher process."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self._pid = pid
        self._channel = channel

    def receive(self) -> tuple[Answer, list[int]]:
        """Wait for the next message and its descriptors."""
        try:
            data, descriptors = receive(self._channel, most=16)
        except ConnectionResetError:
            data, descriptors = b"", []
        return parse_answer(data), descriptors

    def proceed(self) -> Started | Failed:
        """Let the container's process execute its program."""
        try:
            self._channel.send(GO)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is dead; receive() says so
        message, _ = self.receive()
        return message if isinstance(message, Started) else _as_failed(message)

    def end(self) -> None:
        """Wait for the launcher's end; a process that was not let proceed is undone. Twice is fine."""
        if self._pid:
            self._channel.close()
            os.waitpid(self._pid, 0)
            self._pid = 0
            prctl(PR_SET_CHILD_SUBREAPER, 0)


def _as_failed(message: Answer) -> Failed:
    return (
        message
        if isinstance(message, Failed)
        else Failed("the launcher mixed up its messages", kind="Internal")
    )


def _launch(body: bytes, channel: socket.socket) -> None:
    """Create the container of a Launch message, wait for the go-ahead, let it run.

    It also prepares what the monitor needs: the state folder, the log, its helper and the control socket (roles
    "log", "helper" and "listener"); the monitor cleans the state folder up, also after a failure. And it talks to the daemon
    itself as long as that says nothing but the go-ahead, because the monitor sleeps.
    """
    launch = decode_launch(body)
    os.makedirs(launch.state_dir, mode=0o700, exist_ok=True)
    records.remove_file(launch.exit_path)  # the last run's; must not be taken for this one's
    extra = _open_logs(launch.log) if launch.log else []
    extra.append(("listener", _listen(launch.state_dir)))
    init = spawn_init(launch)
    daemon = socket.socket(fileno=WATCH)
    try:
        _write_state(launch, init)
        roles = _roles(init, extra)
        events = _fill_events(roles)
        spawned = Spawned(init.pid, tuple(role for role, _ in roles), init.cgroup)
        send(channel, SPAWNED + _encoder.encode(spawned), [fd for _, fd in roles])
        _tell_created(daemon, init)
        asked = _asked_to_start(daemon, events)
        go = GO
        if not asked:
            channel.send(b"")  # over to the monitor
            go = channel.recv(1)
    except OSError:
        go, asked = b"", False
    if not go:  # the monitor gave up or is dead
        init.abandon()
        return
    started_at = now_text()
    init.proceed()
    _write_state(launch, init, started_at)
    message = wire.encode(Started(started_at, tuple(init.warnings)))
    if asked:
        _tell(daemon, message)
        message = wire.encode(Started(started_at))  # it has a buffer, not a big one
    channel.send(PROCEEDED + message)


def _open_logs(target: LogTarget) -> list[tuple[str, int]]:
    """Raises OSError, StartFailed."""
    logs = [("helper", start_helper(target.helper))] if target.helper else []
    if target.path:
        logs.append(("log", open_log(target)))
    return logs


def _fill_events(roles: list[tuple[str, int]]) -> select.epoll:
    """What shall wake the monitor. An entry lives as long as the open file, of which the monitor gets a descriptor."""
    events = select.epoll.fromfd(EVENTS)
    events.register(WATCH, select.EPOLLIN)
    for role, fd in roles:
        if role not in _SILENT:
            events.register(fd, select.EPOLLPRI if role == MEMORY else select.EPOLLIN)
    return events


def _asked_to_start(daemon: socket.socket, events: select.epoll) -> bool:
    """Wait for the first event; True when it is the daemon's go-ahead, which is taken then, and nothing else."""
    if events.poll() != [(WATCH, select.EPOLLIN)] or daemon.recv(len(_START) + 1, socket.MSG_PEEK) != _START:
        return False
    daemon.recv(len(_START))
    return True


def _tell(daemon: socket.socket, message: bytes) -> None:
    """A few bytes into an empty socket. A daemon that was killed meanwhile finds the running container later."""
    try:
        daemon.send(message)
    except (BrokenPipeError, ConnectionResetError):
        pass


def _tell_created(daemon: socket.socket, init: Init) -> None:
    network = [fd for fd in (init.netns_fd, init.netlink_fd) if fd is not None]
    try:
        wire.send(daemon, wire.encode(Created(init.pid)), network)  # the first message: it fits whole
    except OSError:  # the daemon is gone; the monitor sees that too and gives up
        pass
    close_quietly(*network)
    init.netns_fd = init.netlink_fd = None


def _listen(state_dir: str) -> int:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Through the folder's descriptor: sun_path holds only 107 bytes (unix(7))
    folder = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        path = f"/proc/self/fd/{folder}/{records.SOCKET_NAME}"
        records.remove_file(path)
        listener.bind(path)
    finally:
        os.close(folder)
    listener.listen(64)
    listener.setblocking(False)
    return listener.detach()


def _write_state(launch: Launch, init: Init, started_at: str = "") -> None:
    monitor = os.getppid()
    records.write_state(
        launch.state_dir,
        records.RunState(
            id=launch.id,
            pid=monitor,
            pid_start=records.start_time(monitor) or 0,
            init_pid=init.pid,
            init_start=records.start_time(init.pid) or 0,
            cgroup=init.cgroup,
            started_at=started_at,
        ),
    )


def decode_launch(body: bytes) -> Launch:
    """Raises InvalidArgument."""
    try:
        return wire.launch_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise InvalidArgument("the launch message is invalid", detail=str(error)) from error


def _roles(init: Init, extra: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The descriptors that become the monitor's."""
    pairs = [
        *extra,
        ("pid", init.pidfd),
        (MEMORY, cgroups.open_memory_events(init.cgroup)),
        ("stdout", init.stdout_fd),
        ("stderr", init.stderr_fd),
        ("console", init.console_fd),
        ("stdin", init.stdin_fd),
    ]
    return [(role, fd) for role, fd in pairs if fd is not None]


def be_launcher() -> NoReturn:
    """In the process that is cloned for it (quiet.py): do the work, tell the monitor what went wrong, exit."""
    channel = None
    try:
        os.close(CHANNEL)  # or the monitor's leaving would go unnoticed
        channel = socket.socket(fileno=LAUNCHERS_END)
        _launch(read_body(), channel)
    except BaseException as error:  # the process boundary: the monitor gets the reason, whatever it is
        try:
            if channel is not None:
                channel.send(FAILED + _encoder.encode(failed(error)))
        except OSError:  # the monitor is dead
            pass
    finally:
        os._exit(0)
