"""Standard streams of one process, container or exec: from its pipes or pty to the log and to attached clients.

Nothing here waits. A client that does not read fills its bounded queue; then the process's output is
not read any further, as with Docker, until the client reads or leaves. A client that is gone costs nothing.
"""

import errno
import os
import socket
import time

from longshore.runtime.logwriter import LogWriter
from longshore.runtime.messages import LogHelper
from longshore.runtime.monitor.loop import EDGE, HUP, IN, OUT, Loop
from longshore.runtime.monitor.outbox import Outbox
from longshore.runtime.monitor.remote_log import RemoteLog

CHUNK = 1 << 16
"""One read: the size of a pipe (pipe(7))."""

QUEUE = 1 << 20
"""Bytes of output that wait for one slow client before the process has to wait too."""

REST = 0.01
"""Seconds between two reads of small output that only the log wants: 1,000 lines a second, each written by
itself, would otherwise cost a tenth of a processor in wake-ups. A line after a pause is never delayed."""

SMALL = 4096
"""Bytes; a read that brings more was worth its wake-up."""

STREAK = 20
"""So many reads must follow each other closely before any is delayed: short runs end without delay."""

_STREAM_TYPES = {"stdout": 1, "stderr": 2}


def multiplex(stream: str, data: bytes) -> bytes:
    """One frame of Docker's attach stream: type, three zero bytes, big-endian length, data."""
    return bytes((_STREAM_TYPES[stream], 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class Client:
    """An attached connection: gets output, may send input."""

    def __init__(
        self, stdio: "Stdio", connection: socket.socket, *, stdin: bool, streams: frozenset[str]
    ) -> None:
        self._stdio = stdio
        self._connection = connection
        self._fd = connection.fileno()
        self._outbox = Outbox()
        self._reading = True
        self._finishing = False
        self._mask: int | None = IN
        self.stdin = stdin
        self.streams = streams
        self.closed = False
        connection.setblocking(False)
        stdio.loop.add(self._fd, IN, self._on_event)

    @property
    def queued(self) -> int:
        """Bytes."""
        return self._outbox.size

    @property
    def full(self) -> bool:
        return self.queued >= QUEUE

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, queue the rest."""
        if self.closed or self._finishing:
            return
        try:
            self._outbox.send(self._connection, data)
        except OSError:
            self.close()
            return
        if self._outbox:
            self._listen()

    def finish(self) -> None:
        """No more output will come: close when the client has got everything."""
        self._finishing = True
        if not self._outbox:
            self.close()
        else:
            self._listen()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._stdio.loop.remove(self._fd)
        self._connection.close()
        self._outbox.clear()
        self._stdio.client_left(self)

    def listen_for_input(self) -> None:
        """Called when the process's standard input takes data again."""
        if not self.closed:
            self._listen()

    def _listen(self) -> None:
        wanted = IN if self._reading and not (self.stdin and self._stdio.input_full) else 0
        self._set_mask(wanted | (OUT if self._outbox else 0))

    def _set_mask(self, mask: int | None) -> None:
        """None: do not even hear of a hang-up."""
        if mask == self._mask:
            return
        if mask is None:
            self._stdio.loop.remove(self._fd)
        elif self._mask is None:
            self._stdio.loop.add(self._fd, mask, self._on_event)
        else:
            self._stdio.loop.change(self._fd, mask)
        self._mask = mask

    def _on_event(self, events: int) -> None:
        if events & OUT or (events & HUP and self._outbox):
            self._flush()
        if self.closed:
            return
        if events & IN:
            self._receive()
        elif events & HUP and self._reading and self.stdin and self._stdio.input_full:
            self._set_mask(None)  # gone, but what it sent last still has to be read
        elif events & HUP:  # both directions are shut: nobody is there
            self.close()

    def _flush(self) -> None:
        try:
            self._outbox.flush(self._connection)
        except OSError:
            self.close()
        self._stdio.output_moved()
        if self.closed or self._outbox:
            return
        if self._finishing:
            self.close()
        else:
            self._listen()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._reading = False
            self._listen()
            self._stdio.input_ended(self)
        elif self.stdin:
            self._stdio.input(data)
            if not self.closed:
                self._listen()


class Input:
    """The writing end of a process's standard input."""

    def __init__(self, stdio: "Stdio", fd: int) -> None:
        self._stdio = stdio
        self._fd = fd
        self._queue = bytearray()
        self._closing = False
        self._listening = False
        self.closed = False
        os.set_blocking(fd, False)

    @property
    def full(self) -> bool:
        return len(self._queue) >= CHUNK

    def write(self, data: bytes) -> None:
        if self.closed or self._closing:
            return
        self._queue += data
        self._flush(0)

    def close(self) -> None:
        """Close when everything has been written."""
        self._closing = True
        if not self._queue:
            self.drop()

    def drop(self) -> None:
        """Close now."""
        if self.closed:
            return
        self.closed = True
        self._queue.clear()
        self._stdio.loop.remove(self._fd)
        os.close(self._fd)

    def _flush(self, events: int) -> None:
        try:
            while self._queue:
                del self._queue[: os.write(self._fd, self._queue)]
        except BlockingIOError:
            if events & HUP:  # a tty that nobody has open: it would report the hang-up for ever
                self._queue.clear()
        except OSError:  # EPIPE, EIO: the process does not want input any more
            self.drop()
        if not self.closed:
            self._listen()
            if self._closing and not self._queue:
                self.drop()
        self._stdio.input_moved()

    def _listen(self) -> None:
        if bool(self._queue) == self._listening:
            return
        self._listening = bool(self._queue)
        if self._listening:
            self._stdio.loop.add(self._fd, OUT, self._flush)
        else:
            self._stdio.loop.remove(self._fd)


class Output:
    """The reading end of stdout or stderr, or the pty master."""

    def __init__(self, stdio: "Stdio", stream: str, fd: int, *, console: bool = False) -> None:
        self._stdio = stdio
        self._stream = stream
        self.fd = fd
        self._console = console
        self._edge = 0
        self._paused = False
        self.closed = False
        os.set_blocking(fd, False)
        stdio.loop.add(fd, IN, self._on_event)

    def pause(self, *, paused: bool) -> None:
        """Stop or go on reading."""
        if paused != self._paused and not self.closed:
            self._paused = paused
            if paused:
                self._stdio.loop.remove(self.fd)  # not mask 0: a hang-up would be reported again and again
            else:
                self._stdio.loop.add(self.fd, IN | self._edge, self._on_event)

    def drain(self) -> bool:
        """Read what is there now; true when the end was reached.

        Bounded by what a pipe can hold (/proc/sys/fs/pipe-max-size), so that a writer that goes on cannot hold us.
        """
        for _ in range(32):
            if self.closed or not self._read():
                break
        return self.closed or bool(self._edge)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._stdio.loop.remove(self.fd)
            os.close(self.fd)
            self._stdio.output_ended(self._stream)

    def _on_event(self, _events: int) -> None:
        more = self._read()
        self._stdio.rest()
        # Edge-triggered, only a tty that was hung up once: nobody tells again about what is left unread
        while more and self._edge and not self._paused and not self.closed:
            more = self._read()

    def _read(self) -> bool:
        """Pass one chunk on; false when there is nothing more for now."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EIO and self._console:
                # No process has the tty open. An init like systemd opens it again later: wait for that edge
                if not self._edge:
                    self._edge = EDGE
                    if not self._paused:
                        self._stdio.loop.change(self.fd, IN | EDGE)
                return False
            data = b""
        if not data:
            self.close()
            return False
        self._stdio.output(self._stream, data)
        return True


class Stdio:
    """All streams of one process. Owns the descriptors it is given and the log."""

    def __init__(
        self,
        loop: Loop,
        *,
        stdin_fd: int | None,
        stdout_fd: int | None,
        stderr_fd: int | None,
        console_fd: int | None,
        log: LogWriter | None = None,
        stdin_once: bool = False,
    ) -> None:
        """`stdin_once`: standard input ends when the client that sends it half-closes or leaves."""
        self.loop = loop
        self.console_fd = console_fd  # None also after the tty was closed
        self._tty = console_fd is not None
        self._logs: list[LogWriter | RemoteLog] = [log] if log else []
        self._remote: RemoteLog | None = None
        self._stdin_once = stdin_once
        self._clients: list[Client] = []
        self._last_read = 0.0  # when, and how much it brought
        self._last_size = 0
        self._streak = 0
        self._input: Input | None = None
        self._outputs: list[Output] = []
        if console_fd is not None:
            # The same file twice: epoll(7) keeps one registration per number
            self._input = Input(self, os.dup(console_fd))
            self._outputs = [Output(self, "stdout", console_fd, console=True)]
        else:
            if stdin_fd is not None:
                self._input = Input(self, stdin_fd)
            if stdout_fd is not None:
                self._outputs.append(Output(self, "stdout", stdout_fd))
            if stderr_fd is not None:
                self._outputs.append(Output(self, "stderr", stderr_fd))

    @property
    def input_full(self) -> bool:
        return self._input is not None and self._input.full

    def log_to(self, helper: LogHelper, fd: int) -> None:
        """One more log: a helper that listens behind the descriptor, which is taken over."""
        self._remote = RemoteLog(self.loop, helper, fd, self.output_moved)
        self._logs.append(self._remote)

    def rotate_log(self) -> None:
        """Begin a new file, where there is one."""
        for log in self._logs:
            if isinstance(log, LogWriter):
                log.rotate()

    @property
    def busy(self) -> bool:
        """Whether clients are attached or still have output to get, or a helper has."""
        return bool(self._clients) or (self._remote is not None and self._remote.open)

    @property
    def queued(self) -> int:
        """Bytes that wait for clients or a helper to read them."""
        waiting = self._remote.queued if self._remote is not None else 0
        return waiting + sum(client.queued for client in self._clients)

    def attach(
        self, connection: socket.socket, *, stdin: bool, stdout: bool, stderr: bool, first: bytes
    ) -> None:
        """Make a connection one more client; `first` is input that arrived already."""
        streams = frozenset(name for name, wanted in (("stdout", stdout), ("stderr", stderr)) if wanted)
        client = Client(self, connection, stdin=stdin, streams=streams)
        self._clients.append(client)
        if first and stdin:
            self.input(first)
        if all(output.closed for output in self._outputs):
            client.finish()

    def drain(self) -> bool:
        """Pass on everything the process wrote; true when all its outputs have ended."""
        ended = True
        for output in self._outputs:
            ended = output.drain() and ended
        return ended

    def finish(self) -> None:
        """The process is dead and drained: end the log, let the clients go when they have got everything."""
        if self._input is not None:
            self._input.drop()
        for output in self._outputs:
            output.close()
        for log in self._logs:
            log.close()
        self._logs.clear()
        self.release_clients()

    def process_ended(self) -> None:
        """The exec'd process is dead and drained: let its clients go.

        Its children may still hold the pipes: they must neither keep the clients nor get SIGPIPE, so their
        output is read and dropped until they end. A tty is closed: they get SIGHUP as from any terminal.
        """
        if self._tty:
            self.finish()
            return
        if self._input is not None:
            self._input.drop()
        self.release_clients()

    def release_clients(self) -> None:
        """No more output for the clients; what is written from now on is dropped (unless it is logged)."""
        for client in list(self._clients):
            client.finish()

    def drop_all(self) -> None:
        """Close the connections of all clients and of the helper now."""
        for client in list(self._clients):
            client.close()
        if self._remote is not None:
            self._remote.drop()

    # Called by Output

    def output(self, stream: str, data: bytes) -> None:
        self._last_size = len(data)
        for log in self._logs:
            log.write(stream, data)
        if self._remote is not None and self._remote.full:
            self.output_moved()
        if self._clients:
            framed = data if self._tty else multiplex(stream, data)
            for client in list(self._clients):
                if stream in client.streams:
                    client.send(framed)
            self.output_moved()

    def rest(self) -> None:
        """Called after each read that an event caused: let lines that follow each other closely gather."""
        now = time.monotonic()
        quick = now - self._last_read < REST and 0 < self._last_size < SMALL and not self._clients
        self._streak = self._streak + 1 if quick else 0
        if self._streak > STREAK:
            # Whoever talks to the monitor now waits for it too; that is short enough
            time.sleep(REST)
        self._last_read = time.monotonic()
        self._last_size = 0

    def output_ended(self, stream: str) -> None:
        for log in self._logs:
            log.finish(stream)
        if all(output.closed for output in self._outputs):
            self.console_fd = None
            self.release_clients()

    # Called by Client and Input

    def output_moved(self) -> None:
        """The queue of a client or of a log's helper changed: pause or resume reading the process's output."""
        full = any(client.full for client in self._clients)
        full = full or (self._remote is not None and self._remote.full)
        for output in self._outputs:
            output.pause(paused=full)

    def input(self, data: bytes) -> None:
        if self._input is not None:
            self._input.write(data)

    def input_moved(self) -> None:
        for client in self._clients:
            client.listen_for_input()

    def input_ended(self, client: Client) -> None:
        # A tty has no end of input: closing the master would hang up the session
        if client.stdin and self._stdin_once and self._input is not None and not self._tty:
            self._input.close()

    def client_left(self, client: Client) -> None:
        self._clients.remove(client)
        self.input_ended(client)
        self.output_moved()
