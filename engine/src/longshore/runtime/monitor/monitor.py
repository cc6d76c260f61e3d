"""One run of one container, from the Launch to the exit record."""

import array
import errno
import fcntl
import gc
import os
import signal
import socket
import struct
import termios
import traceback
from dataclasses import dataclass

import msgspec

from longshore.errors import EngineError
from longshore.runtime import cgroups, records
from longshore.runtime.execution import spawn_exec
from longshore.runtime.logwriter import LogWriter, now_text
from longshore.runtime.messages import (
    Attach,
    Attached,
    Exec,
    ExecExited,
    ExecStarted,
    Exited,
    Failed,
    FromMonitor,
    LogTarget,
    Resize,
    RotateLog,
    Signal,
    Start,
    Started,
    State,
    ToMonitor,
    Watch,
)
from longshore.runtime.monitor.launcher import (
    MEMORY,
    Answer,
    Launcher,
    Spawned,
    decode_launch,
    failed,
    parse_answer,
)
from longshore.runtime.monitor.loop import IN, URGENT, Loop
from longshore.runtime.monitor.peer import Peer
from longshore.runtime.monitor.quiet import WATCH, Quiet
from longshore.runtime.monitor.streams import Stdio

DRAIN_SECONDS = 2.0
"""How long output may be kept open by a process outside of the container after its last process died."""

LINGER_SECONDS = 10.0
"""How long attached clients, or a log's helper, may read nothing of the last output after the exit was told."""

UNTOLD_EXECS = 1000
"""So many ends of execs are kept for a daemon that comes back."""


def exit_code(status: int) -> int:
    """Docker's code for a wait status (wait(2)): 128+n for a death by signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


class Head(msgspec.Struct, frozen=True, tag="launch"):
    """What the monitor itself needs of a `Launch`. The rest is decoded by launchers only."""

    id: str
    state_dir: str
    exit_path: str
    log: LogTarget | None = None
    stdin_once: bool = False


_head_decoder = msgspec.json.Decoder(Head)


@dataclass(slots=True)
class RunningExec:
    """One exec that has not ended."""

    pid: int
    pidfd: int
    stdio: Stdio


class Monitor:
    """`run()` returns when the container has ended and everything about it is told and written."""

    def __init__(self, quiet: Quiet) -> None:
        """Takes everything over. Raises msgspec.MsgspecError when the body is no encoded `Launch`."""
        self._quiet = quiet
        self._body = quiet.body
        self._head = _head_decoder.decode(quiet.body)
        self._loop = Loop()
        self._watchers: list[Peer] = []
        self._connections: set[Peer] = set()
        self._execs: dict[str, RunningExec] = {}
        self._untold: dict[str, int] = {}
        self._launcher: Launcher | None = None
        self._init: Spawned | None = None
        self._pidfd = -1
        self._stdio: Stdio | None = None
        self._listener: socket.socket | None = None
        self._started_at = ""
        self._status: int | None = None
        self._oom_killed = False
        self._died_waiting = False  # init ended before the go-ahead
        self._record: Exited | None = None
        self._over = False
        self._watchers.append(self._accept_peer(socket.socket(fileno=WATCH)))

    def run(self) -> None:
        problem = self._take_over()
        if problem is not None:
            self._give_up(problem)
            return
        self._loop.run_until(lambda: self._over)
        if self._status is not None:
            self._finish(self._status)
        elif self._init is not None:
            # It may have seen before the go-ahead that its program cannot run; its launcher knows what it said.
            # When all watchers left instead, init is alive and must not get the go-ahead.
            answer = self._launcher.proceed() if self._died_waiting and self._launcher else None
            if not isinstance(answer, Failed):
                answer = Failed(f"container {self._head.id} ended before it was started")
            self._give_up(answer)

    def abort(self, reason: str) -> None:
        """A defect of ours showed: end the container rather than leave it without log and exit record."""
        if self._launcher is not None:
            self._launcher.end()
        if self._stdio is not None:
            self._stdio.drop_all()  # a helper is our child too, and ends when it hears no more
        if self._init is None:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            while True:  # also the execs: the death of a pid namespace waits until they are reaped
                os.wait()
        except (ProcessLookupError, ChildProcessError):
            pass
        self._remove_cgroups()
        if self._started_at:
            self._record = Exited(128 + signal.SIGKILL, now_text(), error=reason)
            records.write_exit(self._head.exit_path, self._record)
            self._clean()
            self._tell(self._record)
        else:
            self._tell(Failed("the monitor failed", detail=reason))

    # Creating and starting

    def _take_over(self) -> Failed | None:
        head, quiet = self._head, self._quiet
        if quiet.launcher:
            assert quiet.channel is not None
            self._launcher = Launcher(quiet.launcher, socket.socket(fileno=quiet.channel.detach()))
        init = parse_answer(quiet.spawned)
        if not isinstance(init, Spawned):
            if quiet.problem is not None:
                error = quiet.problem
                return Failed(f"cannot create container {head.id}", error.errno or 0, str(error))
            return init if isinstance(init, Failed) else Failed("the launcher mixed up its messages")
        self._init = init
        fds = dict(zip(init.roles, array.array("i", quiet.descriptors), strict=True))
        self._pidfd = fds["pid"]
        if (events := fds.get(MEMORY)) is not None:
            self._memory_changed(events)  # at once: it may be what ended the quiet
            self._loop.add(events, URGENT, lambda _events: self._memory_changed(events))
        target = head.log
        log = LogWriter(target, fds["log"]) if target and target.path else None
        self._stdio = self._make_stdio(fds, log=log, stdin_once=head.stdin_once)
        if target and target.helper:
            self._stdio.log_to(target.helper, fds["helper"])
        self._listener = socket.socket(fileno=fds["listener"])
        self._loop.add(fds["listener"], IN, self._accept)
        self._loop.add(self._pidfd, IN, self._init_died)
        if quiet.answer:
            self._proceeded(parse_answer(quiet.answer), told=True)
        return None

    def _make_stdio(self, fds: dict[str, int], *, log: LogWriter | None, stdin_once: bool) -> Stdio:
        return Stdio(
            self._loop,
            stdin_fd=fds.get("stdin"),
            stdout_fd=fds.get("stdout"),
            stderr_fd=fds.get("stderr"),
            console_fd=fds.get("console"),
            log=log,
            stdin_once=stdin_once,
        )

    def _start(self) -> None:
        if self._started_at or self._launcher is None:
            self._tell(Started(self._started_at))
            return
        self._proceeded(self._launcher.proceed(), told=False)

    def _proceeded(self, answer: Answer, *, told: bool) -> None:
        if not isinstance(answer, Started):
            self._give_up(
                answer if isinstance(answer, Failed) else Failed("the launcher mixed up its messages")
            )
            return
        self._started_at = answer.at
        if not told:
            self._tell(answer)
        if self._launcher is not None:
            self._launcher.end()  # from here on init is our child
            self._launcher = None

    def _give_up(self, message: Failed) -> None:
        """End without an exit record: nothing ever ran."""
        self._over = True
        if self._launcher is not None:
            self._launcher.end()
            self._launcher = None
        self._init = None
        if self._stdio is not None:
            self._stdio.finish()
        self._clean()
        self._tell(message)

    # The end

    def _init_died(self, _events: int) -> None:
        assert self._init is not None
        if not self._started_at:  # killed while it waited: its launcher reaps it
            self._died_waiting = self._over = True
            return
        pid, status = os.waitpid(self._init.pid, os.WNOHANG)
        if pid:
            self._loop.remove(self._pidfd)
            self._status = status
            self._over = True

    def _memory_changed(self, events: int) -> None:
        """Looked at when it happens: under systemd the group is gone with its last process."""
        try:
            self._oom_killed |= cgroups.tells_oom_kill(os.pread(events, 4096, 0))
        except OSError:  # ENODEV: the group is gone
            self._loop.remove(events)

    def _remove_cgroups(self) -> None:
        assert self._init is not None
        cgroups.kill_all(self._init.cgroup)
        cgroups.remove(self._init.cgroup)

    def _finish(self, status: int) -> None:
        assert self._init is not None and self._stdio is not None
        finished_at = now_text()
        oom = self._oom_killed or cgroups.oom_killed(self._init.cgroup)
        error = ""
        try:
            self._remove_cgroups()
        except (EngineError, OSError) as problem:
            error = f"cannot remove the cgroups: {problem}"
        # With a pid namespace nobody is left. Without one the kill was just sent
        self._loop.run_until(lambda: not self._execs, DRAIN_SECONDS)
        self._loop.run_until(self._stdio.drain, DRAIN_SECONDS)
        self._stdio.finish()
        record = Exited(exit_code(status), finished_at, oom, error)
        try:
            records.write_exit(self._head.exit_path, record)
        except OSError as problem:  # a full disk: the daemon, if there is one, still gets told
            record = Exited(record.code, finished_at, oom, f"cannot write the exit record: {problem}")
        self._record = record
        self._clean()
        self._tell(record)
        stdio, before = self._stdio, -1
        while stdio.busy and stdio.queued != before:  # as long as somebody still reads
            before = stdio.queued
            self._loop.run_until(lambda: not stdio.busy, LINGER_SECONDS)
        stdio.drop_all()

    def _clean(self) -> None:
        """Remove what stands in the state folder; from here on nobody finds this monitor."""
        if self._listener is not None:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None
        records.clean_state(self._head.state_dir)

    # Connections

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the other side left already, or no descriptors: it will see no answer
            return
        self._accept_peer(connection)

    def _accept_peer(self, connection: socket.socket) -> Peer:
        peer = Peer(self._loop, connection, handle=self._handle, left=self._peer_left)
        self._connections.add(peer)
        return peer

    def _peer_left(self, peer: Peer) -> bool:
        """True: hold the connection, whose end shall tell that everything is undone."""
        if peer in self._watchers:
            self._watchers.remove(peer)
            if not self._watchers and not self._started_at:
                self._over = True  # nobody will ever start this container
                return True
        self._connections.discard(peer)
        return False

    def _tell(self, message: FromMonitor, descriptors: list[int] | None = None) -> None:
        """Tell all watchers."""
        for peer in list(self._watchers):
            peer.send(message, descriptors or ())

    def _handle(self, peer: Peer, message: ToMonitor) -> None:
        match message:
            case Watch():
                self._watch(peer)
            case Start():
                self._start()
            case Signal(number):
                self._signal(number)
            case Resize(height, width, exec_id):
                self._resize(height, width, exec_id)
            case RotateLog():
                if self._stdio is not None:
                    self._stdio.rotate_log()
            case Attach():
                self._attach(peer, message)
            case Exec():
                self._exec(peer, message)

    def _watch(self, peer: Peer) -> None:
        if self._init is None:  # it failed to start and everything is gone
            peer.close()
            return
        peer.send(State(self._init.pid, self._started_at, tuple(self._execs)))
        for exec_id, code in self._untold.items():
            peer.send(ExecExited(exec_id, code))
        self._untold.clear()
        if self._record is not None:
            peer.send(self._record)
        if peer not in self._watchers:
            self._watchers.append(peer)

    def _signal(self, number: int) -> None:
        if self._init is None or self._over:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:  # dead already: what the caller waits for is Exited
            pass
        except OSError as error:
            if error.errno != errno.EINVAL:  # no such signal number
                raise

    def _resize(self, height: int, width: int, exec_id: str) -> None:
        running = self._execs.get(exec_id)
        stdio = (running.stdio if running else None) if exec_id else self._stdio
        if stdio is None or stdio.console_fd is None:
            return
        size = struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0)
        fcntl.ioctl(stdio.console_fd, termios.TIOCSWINSZ, size)  # the kernel sends SIGWINCH, ioctl_tty(2)

    def _attach(self, peer: Peer, message: Attach) -> None:
        assert self._stdio is not None
        peer.send(Attached())
        if peer.open:
            self._connections.discard(peer)
            connection, first = peer.detach()
            self._stdio.attach(
                connection, stdin=message.stdin, stdout=message.stdout, stderr=message.stderr, first=first
            )

    # Execs

    def _exec(self, peer: Peer, message: Exec) -> None:
        spawned = self._spawn_exec(message)
        if isinstance(spawned, Failed):
            peer.send(spawned)
            return
        running = self._execs[message.id] = spawned
        self._loop.add(running.pidfd, IN, lambda _events: self._exec_died(message.id))
        peer.send(ExecStarted(running.pid))
        if message.attach and peer.open:
            self._connections.discard(peer)
            connection, first = peer.detach()
            running.stdio.attach(connection, stdin=message.stdin, stdout=True, stderr=True, first=first)

    def _spawn_exec(self, message: Exec) -> RunningExec | Failed:
        if not self._started_at or self._over:
            return Failed(f"container {self._head.id} is not running", kind="Conflict")
        if message.id in self._execs:
            return Failed(f"exec {message.id} runs already", kind="Conflict")
        try:
            execution = spawn_exec(
                self._pidfd,
                decode_launch(self._body).spec,
                message.process,
                container_id=self._head.id,
                cgroup=self._init.cgroup if self._init else "",
                stdin=message.attach and message.stdin,
                output=message.attach,
            )
        except (EngineError, OSError) as error:
            return failed(error)
        fds = {
            role: fd
            for role, fd in (
                ("stdin", execution.stdin_fd),
                ("stdout", execution.stdout_fd),
                ("stderr", execution.stderr_fd),
                ("console", execution.console_fd),
            )
            if fd is not None
        }
        stdio = self._make_stdio(fds, log=None, stdin_once=True)
        return RunningExec(execution.pid, execution.pidfd, stdio)

    def _exec_died(self, exec_id: str) -> None:
        running = self._execs[exec_id]
        pid, status = os.waitpid(running.pid, os.WNOHANG)
        if not pid:
            return
        del self._execs[exec_id]
        self._loop.remove(running.pidfd)
        os.close(running.pidfd)
        running.stdio.drain()
        code = exit_code(status)
        if self._watchers:
            self._tell(ExecExited(exec_id, code))
        elif len(self._untold) < UNTOLD_EXECS:
            self._untold[exec_id] = code
        running.stdio.process_ended()


def run_monitor(quiet: Quiet) -> bool:
    """Be the monitor of a container until it has ended. Takes the connection to the daemon over.

    The caller is a single-threaded process of its own. False: a defect of ours ended it, as the daemon was told.
    Raises msgspec.MsgspecError when the launch message is none; then the connection is still the caller's.
    """
    gc.enable()
    monitor = Monitor(quiet)
    try:
        monitor.run()
        return True
    except BaseException:  # the process boundary
        monitor.abort(f"the monitor failed: {traceback.format_exc(limit=-3)}")
        return False
