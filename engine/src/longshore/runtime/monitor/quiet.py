"""The monitor while nothing happens: from its birth to the first event that needs more than waiting.

Every Python object that a monitor uses costs it a private copy of a page of the zygote, because objects count their
references and methods are cached by type; and a container may idle for months. So this path is one function with
plain numbers and plain functions: no decoder, no classes of `socket`, no loop object, no log writer. It forks the
launcher, passes the go-ahead on and the answer back, and then waits for whatever comes first: output, a connection,
a message, the end. `Monitor` takes over there, for good. See docs/decisions/0008-quiet-monitors.md.
"""

import _socket
import ctypes
import importlib
import signal
import socket
import sys
from collections.abc import Callable
from os import dup2, fork, read, setsid, waitpid, write
from select import POLLIN, poll
from typing import NamedTuple

from longshore.kernel.processes import PR_SET_CHILD_SUBREAPER, PR_SET_NAME
from longshore.runtime import wire
from longshore.runtime.messages import Start
from longshore.runtime.monitor.launcher import GO, PROCEEDED, SPAWNED, be_launcher, init_work

NAME = b"longshore-mon"

# Numbers and functions without the enum conversions around them, which alone cost a monitor 0.2 MB
_SOCKET = (int(socket.AF_UNIX), int(socket.SOCK_SEQPACKET))
_RECEIVE = (1 << 16, _socket.CMSG_SPACE(16 * 4), int(socket.MSG_CMSG_CLOEXEC))
_DEFAULT = (int(signal.SIGCHLD), int(signal.SIG_DFL))
_set_handler: Callable[[int, int], object] = importlib.import_module("_signal").signal
_prctl = ctypes.CDLL(None).prctl
_LOW = slice(0 if sys.byteorder == "little" else 3, None, 4)

_START = wire.encode(Start())


class Quiet(NamedTuple):
    """What `Monitor` takes over. The descriptors among it are the taker's."""

    body: bytes  # the encoded Launch
    watch: int  # the connection to the daemon
    launcher: int  # pid of the launcher while it is there,
    channel: _socket.socket | None  # and the connection to it
    spawned: bytes  # the launcher's first message
    descriptors: bytes  # that came beside it
    answer: bytes  # its second message, after the go-ahead; the daemon was told when it is good
    words: bytes  # read from the daemon and not handled
    problem: OSError | None


def wait_quietly(body: bytes, watch: int) -> Quiet:
    """In the child that the zygote forked: detach from the daemon, start the container, wait for anything to do."""
    launcher = 0
    channel = problem = None
    spawned = descriptors = answer = words = b""
    try:
        setsid()
        _set_handler(*_DEFAULT)  # its children's statuses are wanted
        _prctl(PR_SET_NAME, NAME, 0, 0, 0)
        dup2(0, 2)  # /dev/null: the daemon's terminal or journal may go away
        _prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        channel, theirs = _socket.socketpair(*_SOCKET)
        launcher = fork()
        if launcher == 0:
            be_launcher(init_work(body, watch), channel, theirs)
        theirs.close()
        spawned, beside, _, _ = channel.recvmsg(*_RECEIVE)
        if spawned and spawned[0] == SPAWNED[0]:
            waiting = poll()
            waiting.register(watch, POLLIN)
            descriptors = beside[0][2]
            # A monitor has few descriptors: their numbers fit into a byte
            for fd in descriptors[_LOW][: spawned[1]]:
                waiting.register(fd, POLLIN)
            if waiting.poll() == [(watch, POLLIN)] and (words := read(watch, 65536)) == _START:
                words = b""
                answer = _proceed(channel)
                if answer[0] == PROCEEDED[0]:
                    _tell(watch, answer[1:])
                    channel.close()
                    waitpid(launcher, 0)
                    launcher = 0
                    _prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)  # as in `Launcher.end()`
                    waiting.poll()
    except OSError as error:
        problem = error
    return Quiet(body, watch, launcher, channel, spawned, descriptors, answer, words, problem)


def _tell(watch: int, message: bytes) -> None:
    """A few bytes into an empty socket. A daemon that was killed meanwhile finds the running container later."""
    try:
        write(watch, message)
    except (BrokenPipeError, ConnectionResetError):
        pass


def _proceed(channel: _socket.socket) -> bytes:
    """Give the go-ahead; the answer, "?" of a launcher that has died without one."""
    try:
        channel.send(GO)
        return channel.recv(65536) or b"?"
    except (BrokenPipeError, ConnectionResetError):
        return channel.recv(65536) or b"?"  # its reason still waits behind the error
