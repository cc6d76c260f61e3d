"""The zygote: a small, single-threaded, fully imported interpreter that forks the monitors.

The daemon must not fork (it has threads), and importing costs more than starting. The zygote imports once,
freezes the garbage collector so that forks share its pages, and then does nothing but read Launch
messages and fork. It knows nothing about the containers; it may die and be started again at any time.

Its executable is a sealed copy in memory (`client.seal_interpreter`): a container's first process is for some
instants a fork of it, and /proc/<pid>/exe must not lead to the host's interpreter (CVE-2019-5736).
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

import msgspec

from longshore.runtime import wire
from longshore.runtime.init import warm_up
from longshore.runtime.messages import Failed, FromMonitor
from longshore.runtime.monitor import run_monitor

READY = b"\0ready"
"""The body of the first frame that the daemon gets: imports are done, launches will be quick."""

_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What a service manager or a terminal may send to the whole group, and what the monitors ignore from birth on.

The zygote ends when its socket closes, a monitor when its container ends.
"""

_PR_SET_NAME = 15  # prctl(2)
_prctl = ctypes.CDLL(None).prctl  # looked up once, before the forks


def main(control_fd: int, sealed_fd: int) -> None:
    """Serve launches until the daemon's end of the socket closes.

    `control_fd`: a stream socket. `sealed_fd`: the executable's memory, only closed here.
    """
    os.close(sealed_fd)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    os.umask(0o022)
    os.chdir("/")
    _set_name(b"longshore-zyg")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the monitors, wait(2)
    warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()  # collections in the monitors leave these objects and their pages alone
    control.sendall(wire.frame(READY))
    serve(control)


def serve(control: socket.socket) -> None:
    """Fork a monitor per launch. Returns at the end of the stream, or when the daemon sends rubbish lengths."""
    splitter = wire.Splitter()
    watches: list[int] = []
    while True:
        try:
            data, descriptors = wire.receive(control)
        except ConnectionResetError:
            return
        watches += descriptors
        if not data:
            return
        splitter.feed(data)
        while watches and (body := splitter.next()) is not None:
            # Decoded in the child only: garbage made here would stay in the memory of all later monitors
            fork_monitor(body, socket.socket(fileno=watches.pop(0)), control)


def fork_monitor(body: bytes, watch: socket.socket, control: socket.socket) -> None:
    """Start a monitor; the parent's copy of `watch` is closed. Failure to fork is told through it."""
    try:
        pid = os.fork()
    except OSError as error:
        _tell_failed(watch, Failed("cannot start a monitor", error.errno or 0, str(error)))
        watch.close()
        return
    if pid == 0:
        control.close()
        become_monitor(body, watch)
    watch.close()


def become_monitor(body: bytes, watch: socket.socket) -> NoReturn:
    """In the forked child: detach from everything of the daemon and run. Never returns."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # its children's statuses are wanted
        _set_name(b"longshore-mon")
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 2)  # the daemon's terminal or journal may go away
        os.close(null)
        gc.enable()
        run_monitor(body, watch)
    except msgspec.MsgspecError as error:
        _tell_failed(
            watch, Failed("the launch message is invalid", detail=str(error), kind="InvalidArgument")
        )
    except BaseException:
        # The process boundary: a defect of ours ends this one run, and the daemon learns why
        _tell_failed(watch, Failed("the monitor failed", detail=traceback.format_exc(limit=-3)))
        os._exit(70)
    os._exit(0)


def _tell_failed(connection: socket.socket, message: FromMonitor) -> None:
    try:
        connection.setblocking(True)
        connection.sendall(wire.encode(message))
    except OSError:  # the daemon is gone, or the monitor has closed the connection already
        pass


def _set_name(name: bytes) -> None:
    """What ps and top show; at most 15 bytes."""
    _prctl(_PR_SET_NAME, name, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
