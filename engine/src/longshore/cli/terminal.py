"""A hijacked connection on this terminal: raw mode, window size, standard input, detach keys."""

import os
import selectors
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from longshore.cli.client import Upgraded
from longshore.cli.flags import invalid
from longshore.oci.frames import Demultiplexer

DETACH = "ctrl-p,ctrl-q"  # as docker
_CONTROLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class Detached(Exception):
    """The user typed the detach keys: the container goes on."""


def detach_keys(text: str) -> bytes:
    """`ctrl-a,b` as the bytes that a terminal sends; "" is docker's own sequence. Pure. Raises FlagError."""
    keys = bytearray()
    for key in (text or DETACH).split(","):
        control = key.lower().removeprefix("ctrl-")
        if (
            key.lower().startswith("ctrl-")
            and len(control) == 1
            and ("a" <= control <= "z" or control in _CONTROLS)
        ):
            keys.append(_CONTROLS[control] if control in _CONTROLS else ord(control) - 96)
        elif len(key) == 1 and key.isascii():
            keys += key.encode()
        else:
            raise invalid("--detach-keys", text, "write keys such as a, ctrl-p or ctrl-[ with commas between")
    return bytes(keys)


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def raw_terminal(active: bool) -> Generator[None]:
    """Standard input without line editing and echo; restored on every way out."""
    fd = sys.stdin.fileno()
    if not active or not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is meant for the container
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def window_size() -> tuple[int, int] | None:
    """(height, width) of our terminal, None without one."""
    try:
        width, height = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return None
    return height, width


@contextmanager
def handled(signals: dict[int, Callable[[], Any]]) -> Generator[None]:
    """Call these while inside; a failing call (the container just ended) is of no interest."""

    def handler(number: int, _frame: FrameType | None) -> None:
        signals[number]()

    saved = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, old in saved.items():
            signal.signal(number, old)


class Pump:
    """Moves bytes between this process's stdio and the connection until the other side ends."""

    def __init__(self, upgraded: Upgraded, *, stdin: bool, tty: bool, keys: bytes = b"") -> None:
        self._socket = upgraded.socket
        self._early = upgraded.early
        self._stdin, self._tty = stdin, tty
        self._keys = keys or detach_keys("")
        self._frames = Demultiplexer()
        self._held = b""

    def run(self) -> None:
        """Raises Detached."""
        self._output(self._early)
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            if self._stdin:
                try:
                    selector.register(0, selectors.EVENT_READ)
                except PermissionError:  # epoll takes no regular files: `longshore run -i … < file`
                    self._send_file()
            while True:
                for key, _ in selector.select():
                    if key.fileobj == 0:
                        if not self._input():
                            selector.unregister(0)
                    elif not self._receive():
                        return

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._output(data)
        return bool(data)

    def _output(self, data: bytes) -> None:
        if self._tty:
            write_all(1, data)
            return
        for stream, payload in self._frames.feed(data):
            write_all(2 if stream == 2 else 1, payload)

    def _input(self) -> bool:
        data = os.read(0, 1 << 16)
        if data and self._tty:
            data = self._watch(data)
            if data:
                self._send(data)
            return True
        if data:
            return self._send(data)
        self._end_input()
        return False

    def _watch(self, data: bytes) -> bytes:
        """Hold the first detach keys back until the next key shows what they meant."""
        data = self._held + data
        self._held = b""
        if self._keys in data:
            raise Detached
        for count in range(min(len(data), len(self._keys) - 1), 0, -1):
            if data.endswith(self._keys[:count]):
                self._held = data[-count:]
                return data[:-count]
        return data

    def _send(self, data: bytes) -> bool:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False  # its program ended; what it wrote is still to be read
        return True

    def _send_file(self) -> None:
        while data := os.read(0, 1 << 16):
            if not self._send(data):
                return
        self._end_input()

    def _end_input(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # already gone
