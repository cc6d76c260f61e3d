"""The zygote: a small, single-threaded, fully imported interpreter that forks the monitors.

The daemon must not fork (it has threads), and importing costs more than starting. The zygote imports once,
freezes the garbage collector so that forks share its pages, and then does nothing but read Launch
messages and fork. It knows nothing about the containers; it may die and be started again at any time.

Its executable is a sealed copy in memory (`client.seal_interpreter`): a container's first process is for some
instants a fork of it, and /proc/<pid>/exe must not lead to the host's interpreter (CVE-2019-5736).
"""

import _socket
import gc
import os
import signal
import sys
import traceback
from typing import NoReturn

import msgspec

from longshore.kernel.processes import set_name
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

_SIZE = 1 << 16
_SPACE = _socket.CMSG_SPACE(wire.MAX_DESCRIPTORS * 4)
_HEADER = wire.HEADER.size


def main(control_fd: int, sealed_fd: int) -> None:
    """Serve launches until the daemon's end of the socket closes.

    `control_fd`: a stream socket. `sealed_fd`: the executable's memory, only closed here.
    """
    os.close(sealed_fd)
    os.set_inheritable(control_fd, False)
    control = _socket.socket(fileno=control_fd)
    os.umask(0o022)
    os.chdir("/")
    set_name("longshore-zyg")
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the monitors, wait(2)
    warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()  # collections in the monitors leave these objects and their pages alone
    control.sendall(wire.frame(READY))
    serve(control)


def serve(control: _socket.socket) -> None:
    """Fork a monitor per launch. Returns at the end of the stream, or when the daemon sends rubbish lengths.

    Narrow on purpose: each page that is written here between two forks stays behind as a copy in the older monitor.
    Decoded in the child only: garbage made here would stay in the memory of all later monitors.
    """
    buffer, watches = b"", b""
    while True:
        try:
            data, ancillary, _, _ = control.recvmsg(_SIZE, _SPACE, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return
        for _level, _kind, payload in ancillary:
            watches += payload
        if not data:
            return
        buffer = buffer + data if buffer else data
        while watches and len(buffer) >= _HEADER:
            end = _HEADER + int.from_bytes(buffer[:_HEADER], "big")
            if end > wire.MAX_MESSAGE:
                return
            if len(buffer) < end:
                break
            fork_monitor(buffer[_HEADER:end], int.from_bytes(watches[:4], sys.byteorder), control)
            buffer, watches = buffer[end:], watches[4:]


def fork_monitor(body: bytes, watch: int, control: _socket.socket) -> None:
    """Start a monitor; the parent's copy of `watch` is closed. Failure to fork is told through it."""
    try:
        pid = os.fork()
    except OSError as error:
        _tell_failed(watch, Failed("cannot start a monitor", error.errno or 0, str(error)))
        os.close(watch)
        return
    if pid == 0:
        control.close()
        become_monitor(body, watch)
    os.close(watch)


def become_monitor(body: bytes, watch: int) -> NoReturn:
    """In the forked child. Never returns."""
    code = 70
    try:
        code = 0 if run_monitor(body, watch) else 70
    except msgspec.MsgspecError as error:
        _tell_failed(
            watch, Failed("the launch message is invalid", detail=str(error), kind="InvalidArgument")
        )
    except BaseException:
        # The process boundary: a defect of ours ends this one run, and the daemon learns why
        _tell_failed(watch, Failed("the monitor failed", detail=traceback.format_exc(limit=-3)))
    finally:
        os._exit(code)


def _tell_failed(watch: int, message: FromMonitor) -> None:
    try:
        os.set_blocking(watch, True)
        os.write(watch, wire.encode(message))
    except OSError:  # the daemon is gone
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
