"""The zygote, and its monitors while nothing happens: processes that run no Python.

Every Python object that a monitor uses costs it a private copy of a page of the zygote, because objects count their
references and methods are cached by type; what the zygote touches between two forks stays behind as a copy in the older
monitor; and a container may idle for months. So both are one `Script`, a list of system calls: the zygote waits for
launches and clones; a monitor detaches from the daemon, clones its launcher, takes the descriptors that the launcher
hands over, sees it off, and waits for whatever comes first: output, a connection, a message, the end. Only then it comes
back to Python, and `Monitor` takes over for good. See docs/decisions/0008-quiet-monitors.md.
"""

import _socket
import ctypes
import os
import signal
import socket
import struct
from typing import NamedTuple

from longshore.kernel.processes import PR_SET_CHILD_SUBREAPER, PR_SET_NAME
from longshore.kernel.script import Script

NAME = b"longshore-mon"

# The descriptors of the zygote. Each comes to be the lowest free number.
CONTROL = 3  # from the daemon: messages with two descriptors,
NEW_WATCH = 4  # the daemon's connection to the new monitor,
NEW_BODY = 5  # and a file with the encoded Launch

# Those of a new monitor, and of its launcher
WATCH = 3  # the connection to the daemon
BODY = 4
CHANNEL = 5  # the monitor's end of the connection to its launcher,
LAUNCHERS_END = 6  # and the other
EVENTS = 7  # the epoll instance that the launcher fills and the monitor waits for

# What a process that comes back finds itself to be
LAUNCHER, MONITOR = 1, 2
ZYGOTE_ALONE = 3  # the daemon's end is closed
ZYGOTE_BARREN = 4  # it could not clone; NEW_WATCH and NEW_BODY are open

_CLONE_PARENT_SETTID = 0x00100000
_FIRST, _ANSWER = (
    8192,
    65536,
)  # sizes of the buffers for the launcher's messages; pages that stay empty cost nothing
_LAST_DESCRIPTOR = 0xFFFFFFFF


class Quiet(NamedTuple):
    """What `Monitor` takes over. The descriptors among it are the taker's."""

    body: bytes  # the encoded Launch
    launcher: int  # pid of the launcher while it is there,
    channel: _socket.socket | None  # and the connection to it
    spawned: bytes  # the launcher's first message
    descriptors: bytes  # that came beside it
    answer: bytes  # its second message, when the daemon had nothing but the go-ahead to say
    problem: OSError | None


class _Message:
    """A struct msghdr for recvmsg(2) with its buffers."""

    def __init__(self, size: int, descriptors: int) -> None:
        control = _socket.CMSG_SPACE(descriptors * 4)
        self._data = ctypes.create_string_buffer(size)
        self._control = ctypes.create_string_buffer(control)
        vector = struct.pack("@PN", ctypes.addressof(self._data), size)
        self._vector = ctypes.create_string_buffer(vector, len(vector))
        addresses = ctypes.addressof(self._vector), 1, ctypes.addressof(self._control), control
        self._header = ctypes.create_string_buffer(struct.pack("@PiPNPNi", 0, 0, *addresses, 0), 56)
        self.address = ctypes.addressof(self._header)

    def data(self, length: int) -> bytes:
        return self._data.raw[: max(length, 0)]

    def descriptors(self) -> bytes:
        length = int.from_bytes(self._control.raw[:8], "little")  # struct cmsghdr; 0: there came none
        return self._control.raw[16:length]


class Life:
    """The script of a zygote and its monitors. Made once per zygote, before anything is cloned."""

    def __init__(self) -> None:
        # The kernel puts the length that it used over the room that it had. For two descriptors both are the same
        self._launch = _Message(1, 2)
        self._first = _Message(_FIRST, 16)
        self._answer = ctypes.create_string_buffer(_ANSWER)
        self._pair, self._event = ctypes.create_string_buffer(8), ctypes.create_string_buffer(16)
        script = self._script = Script()
        self._wait_for_launches()
        begin = self._detach()
        self._take_descriptors()
        self._see_off()
        event = ctypes.addressof(self._event)
        waiting = script.call("epoll_pwait", EVENTS, event, 1, -1, 0, 8)
        back = script.back(MONITOR)
        for step in range(begin, back):
            script.when_failed(step, back)
        for step in (self._receive, self._receive_answer):
            script.when_zero(step, back)  # the launcher is dead, or wants to be told when to proceed
        script.when_failed(waiting, waiting)  # EINTR after a stop, epoll_wait(2)
        script.when_zero(self._clone_monitor, begin)
        script.when_zero(self._clone_launcher, script.back(LAUNCHER))
        script.set_argument(self._clone_launcher, 2, script.argument(self._reap, 0))

    def _wait_for_launches(self) -> None:
        script = self._script
        receive = script.call("recvmsg", CONTROL, self._launch.address, socket.MSG_CMSG_CLOEXEC)
        self._clone_monitor = script.call("clone", signal.SIGCHLD)
        script.call("close", NEW_WATCH)
        again = script.call("close", NEW_BODY)
        script.when_zero(again, receive)
        barren, alone = script.back(ZYGOTE_BARREN), script.back(ZYGOTE_ALONE)
        script.when_failed(self._clone_monitor, barren)
        script.when_zero(receive, alone)
        script.when_failed(receive, alone)

    def _detach(self) -> int:
        call = self._script.call
        begin = call("dup3", NEW_WATCH, WATCH, os.O_CLOEXEC)
        call("dup3", NEW_BODY, BODY, os.O_CLOEXEC)
        call("close_range", BODY + 1, _LAST_DESCRIPTOR, 0)
        kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        call("socketpair", socket.AF_UNIX, kind, 0, ctypes.addressof(self._pair))
        call("epoll_create1", os.O_CLOEXEC)
        call("setsid")
        call("rt_sigaction", signal.SIGCHLD, bytes(32), 0, 8)  # its children's statuses are wanted
        call("prctl", PR_SET_NAME, NAME)
        call("dup3", 0, 2, 0)  # /dev/null: the daemon's terminal or journal may go away
        call("prctl", PR_SET_CHILD_SUBREAPER, 1)
        self._clone_launcher = call("clone", signal.SIGCHLD | _CLONE_PARENT_SETTID)
        return begin

    def _take_descriptors(self) -> None:
        call = self._script.call
        call("close", LAUNCHERS_END)
        self._receive = call("recvmsg", CHANNEL, self._first.address, socket.MSG_CMSG_CLOEXEC)
        answer = ctypes.addressof(self._answer)
        self._receive_answer = call("recvfrom", CHANNEL, answer, _ANSWER, 0, 0, 0)

    def _see_off(self) -> None:
        self._script.call("close", CHANNEL)
        self._reap = self._script.call("wait4", 0, 0, 0, 0)  # its pid is put here by clone
        self._script.call("prctl", PR_SET_CHILD_SUBREAPER, 0)  # as in `Launcher.end()`

    def live(self) -> int:
        """Be the zygote; comes back as one of LAUNCHER, MONITOR, ZYGOTE_ALONE and ZYGOTE_BARREN."""
        return self._script.enter()

    def cloning_error(self) -> int:
        """The errno of ZYGOTE_BARREN."""
        return -(self._script.result(self._clone_monitor) or 0)

    def quiet(self) -> Quiet:
        """In the monitor that has come back: what happened."""
        result = self._script.result
        body = read_body()
        launcher = result(self._clone_launcher)
        if launcher is None or launcher < 0:
            steps = range(self._clone_monitor + 1, self._clone_launcher + 1)
            code = next(-value for step in steps if (value := result(step)) and value < 0)
            return Quiet(body, 0, None, b"", b"", b"", OSError(code, os.strerror(code)))
        os.close(EVENTS)
        spawned = self._first.data(result(self._receive) or 0)
        answer = self._answer.raw[: max(result(self._receive_answer) or 0, 0)]
        gone = result(self._reap) is not None
        return Quiet(
            body,
            0 if gone else launcher,
            None if gone else _socket.socket(fileno=CHANNEL),
            spawned,
            self._first.descriptors() if spawned else b"",
            answer,
            None,
        )


def read_body() -> bytes:
    """The encoded Launch, in a monitor or a launcher. Closes BODY."""
    size, parts, offset = os.fstat(BODY).st_size, list[bytes](), 0
    while part := os.pread(BODY, size - offset, offset):
        parts.append(part)
        offset += len(part)
    os.close(BODY)
    return b"".join(parts)
