"""Terminals: given away through a socket, or connected to ours; and waiting for the end of a process."""

from __future__ import annotations

import os
import select
import signal
import socket
import termios
import tty
from typing import Protocol

from longshore.errors import InvalidArgument, StartFailed
from longshore.runtime.steps import words


class Process(Protocol):
    """What Init and Execution have in common."""

    pid: int
    pidfd: int
    console_fd: int | None


def check_terminal(terminal: bool, console_socket: str, *, detached: bool) -> None:
    """Raises InvalidArgument when nobody could get the terminal, or there is none to give."""
    if detached and terminal and not console_socket:
        raise InvalidArgument(
            "cannot allocate tty if the runtime will detach without setting console socket",
            hint="name one with --console-socket",
        )
    if console_socket and not (detached and terminal):
        raise InvalidArgument(
            "cannot use console socket if the runtime will not detach or allocate tty",
            detail="--console-socket is for a process with a terminal that nobody waits for",
        )


def hand_over_console(process: Process, path: str) -> None:
    """Send the terminal's master to the socket and close our copy. Raises StartFailed."""
    if process.console_fd is None:
        return
    send_descriptor(path, process.console_fd, b"/dev/ptmx")
    os.close(process.console_fd)
    process.console_fd = None


def send_descriptor(path: str, fd: int, name: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        try:
            peer.connect(path)
            socket.send_fds(peer, [name], [fd])
        except OSError as error:
            raise StartFailed(
                f'cannot send to the socket "{path}": {words(error)}', errno=error.errno or 0
            ) from error


def keep_line_ends(process: Process) -> None:
    """Of a terminal that we relay: ours, or whoever reads our output, makes line ends of its own, termios(3)."""
    if process.console_fd is not None:
        settings = termios.tcgetattr(process.console_fd)
        settings[1] &= ~termios.ONLCR
        termios.tcsetattr(process.console_fd, termios.TCSANOW, settings)


def accompany(process: Process) -> int:
    """Pass signals and terminal bytes until the process ends; its exit code, 128+n after a signal."""

    def forward(number: int, _frame: object) -> None:
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass

    for number in (
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT, signal.SIGTSTP),
    ):
        signal.signal(number, forward)
    if process.console_fd is not None:
        _relay(process.console_fd, process.pidfd)
    _pid, status = os.waitpid(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _relay(console: int, pidfd: int) -> None:
    """Copy between our terminal, or what stands in its place, and the container's."""
    ours = os.isatty(0)
    before = termios.tcgetattr(0) if ours else []

    def resize(_number: int, _frame: object) -> None:
        termios.tcsetwinsize(console, termios.tcgetwinsize(0))

    poll = select.poll()
    for fd in (0, console, pidfd):
        poll.register(fd, select.POLLIN)
    try:
        if ours:
            resize(0, None)
            signal.signal(signal.SIGWINCH, resize)
            tty.setraw(0)
        _copy(poll, console, pidfd)
    finally:
        if ours:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _copy(poll: select.poll, console: int, pidfd: int) -> None:
    while True:
        ready = {fd for fd, _events in poll.poll()}
        if console in ready:
            try:
                data = os.read(console, 65536)
            except OSError:
                return  # EIO: nobody has the other end open
            while data:
                data = data[os.write(1, data) :]
        elif pidfd in ready:
            return
        if 0 in ready:
            try:
                data = os.read(0, 65536)
            except OSError:
                data = b""  # EIO: our terminal is gone
            if not data:
                poll.unregister(0)
                data = b"\x04"
            os.write(console, data)
