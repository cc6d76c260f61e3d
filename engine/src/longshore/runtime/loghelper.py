"""The process beside a monitor that passes a container's output on by a log driver.

It is started before the container and outlives it until everything is passed on or `FLUSH_SECONDS` are over. So a
driver can import what it likes, wait for a slow target and even crash: the monitor, which has the container and its
exit record, goes on. A container with a file alone has no such process.

From the monitor, over a socket: frames of a kind, a length and a time, then output as it was read. No output: the
stream has ended, or what came next was dropped; an unfinished line gets no end any more.
"""

import os
import secrets
import select
import signal
import socket
import struct
from importlib import import_module
from typing import NoReturn, cast

from longshore.errors import EngineError, StartFailed, Unavailable
from longshore.kernel.descriptors import close_all_except
from longshore.kernel.processes import set_name
from longshore.runtime.logdrivers import Message, Part, Sink, SinkDriver
from longshore.runtime.logentries import cut_long
from longshore.runtime.logwriter import LogWriter
from longshore.runtime.messages import LogHelper

HEADER = struct.Struct(">BIQ")
"""Kind, length, time in nanoseconds."""

OUTPUT = {"stdout": 1, "stderr": 2}
START_SECONDS = 20.0
FLUSH_SECONDS = 10
_STREAMS = {number: name for name, number in OUTPUT.items()}
_READY = b"\0"
_CHUNK = 1 << 18


def _open_sink(helper: LogHelper) -> "Sink | LogWriter":
    if helper.file is not None:
        return LogWriter(helper.file)
    module, _, attribute = helper.driver.partition(":")
    try:
        found = import_module(module)
        driver = cast(SinkDriver, getattr(found, attribute) if attribute else found)
    except (ImportError, AttributeError) as cause:
        raise Unavailable(f"cannot load the log driver {helper.driver}", detail=str(cause)) from cause
    return driver.open_sink(helper.source, helper.options)


def start_helper(helper: LogHelper, *, wait: bool = True) -> int:
    """Fork the process; the socket to write to. The caller is single-threaded.

    `wait`: until its target is there. Raises StartFailed, in Docker's words, when it is not.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.fork() == 0:
        ours.close()
        _be_helper(helper, theirs)
    theirs.close()
    if wait:
        try:
            _await_ready(ours)
        except BaseException:
            ours.close()
            raise
    return ours.detach()


def _await_ready(connection: socket.socket) -> None:
    readable, _, _ = select.select([connection], [], [], START_SECONDS)
    answer = connection.recv(65536) if readable else b"its target does not answer"
    if answer != _READY:
        raise StartFailed(
            "failed to initialize logging driver",
            detail=answer.decode(errors="replace") or "the driver crashed",
        )


def _be_helper(helper: LogHelper, connection: socket.socket) -> NoReturn:
    try:
        close_all_except((connection.fileno(),))
        set_name("longshore-log")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            sink = _open_sink(helper)
        except (EngineError, OSError, ValueError) as error:
            connection.send(str(error).encode()[:4096])
            return os._exit(1)
        connection.send(_READY)
        serve(connection, sink)
    except BaseException:  # the process boundary; whoever writes to us starts another
        pass
    finally:
        os._exit(0)


def serve(connection: socket.socket, sink: "Sink | LogWriter") -> None:
    """Pass everything on until the monitor closes its end."""
    lines = Lines()
    buffer = bytearray()
    while data := connection.recv(_CHUNK):
        buffer += data
        if isinstance(sink, LogWriter):
            for name, _, output in take_frames(buffer):
                if output:
                    sink.write(name, output)
                else:
                    sink.finish(name)
        elif messages := lines.take(buffer):
            sink.write(messages)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(FLUSH_SECONDS)  # the container has ended: nobody waits for us, and we do not wait for ever
    if not isinstance(sink, LogWriter) and (messages := lines.finish()):
        sink.write(messages)
    sink.close()


def take_frames(buffer: bytearray) -> list[tuple[str, int, bytes]]:
    """(stream, time, output) of the frames that are whole, which are removed from the buffer. No output: ended."""
    frames: list[tuple[str, int, bytes]] = []
    position = 0
    while len(buffer) - position >= HEADER.size:
        kind, length, when = HEADER.unpack_from(buffer, position)
        end = position + HEADER.size + length
        if end > len(buffer):
            break
        frames.append((_STREAMS[kind & 3], when, bytes(buffer[position + HEADER.size : end])))
        position = end
    del buffer[:position]
    return frames


class _Stream:
    def __init__(self) -> None:
        self.rest = b""
        self.time = 0
        self.part_id = ""
        self.ordinal = 0


class Lines:
    """Frames to messages: whole lines, or pieces of 16 KiB of long ones."""

    def __init__(self) -> None:
        self._streams = {name: _Stream() for name in OUTPUT}

    def take(self, buffer: bytearray) -> list[Message]:
        """The messages of the frames that are whole, which are removed from the buffer."""
        messages: list[Message] = []
        for name, when, output in take_frames(buffer):
            if output:
                self._add(name, when, output, messages)
            else:
                self._flush(name, messages)
        return messages

    def finish(self) -> list[Message]:
        """What never got its line end."""
        messages: list[Message] = []
        for name in self._streams:
            self._flush(name, messages)
        return messages

    def _add(self, name: str, when: int, data: bytes, messages: list[Message]) -> None:
        stream = self._streams[name]
        *complete, rest = (stream.rest + data if stream.rest else data).split(b"\n")
        for line in complete:
            *pieces, last = cut_long(line)
            for piece in pieces:
                messages.append(self._piece(stream, name, when, piece, last=False))
            if stream.part_id:
                messages.append(self._piece(stream, name, when, last, last=True))
            else:
                messages.append(Message(name, when, last))
        *pieces, stream.rest = cut_long(rest)
        for piece in pieces:
            messages.append(self._piece(stream, name, when, piece, last=False))
        stream.time = when

    def _piece(self, stream: _Stream, name: str, when: int, data: bytes, *, last: bool) -> Message:
        stream.part_id = stream.part_id or secrets.token_hex(32)
        stream.ordinal += 1
        part = Part(stream.part_id, stream.ordinal, last)
        if last:
            stream.part_id, stream.ordinal = "", 0
        return Message(name, when, data, part)

    def _flush(self, name: str, messages: list[Message]) -> None:
        stream = self._streams[name]
        if stream.part_id:
            messages.append(self._piece(stream, name, stream.time, stream.rest, last=True))
        elif stream.rest:
            messages.append(Message(name, stream.time, stream.rest))
        stream.rest = b""
