"""File descriptors: closing what must not be inherited, and passing them over unix sockets."""

import ctypes
import os
import socket
from collections.abc import Iterable

from longshore.kernel.libc import system_call

_LAST = 0xFFFFFFFF
CLOSE_RANGE_CLOEXEC = 4

_close_range = system_call("close_range", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)


def close_range(first: int, last: int = _LAST, flags: int = 0) -> None:
    """Close, or with CLOSE_RANGE_CLOEXEC mark, all descriptors from first to last; see close_range(2)."""
    _close_range(first, last, flags)


def close_all_except(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on that is not in `keep`."""
    first = 3
    for fd in sorted({fd for fd in keep if fd >= 3}):
        if fd > first:
            _close_range(first, fd - 1, 0)
        first = fd + 1
    _close_range(first, _LAST, 0)


def close_quietly(*fds: int | None) -> None:
    """Close what is open; a number that is closed already is no error."""
    for fd in fds:
        if fd is not None and fd >= 0:
            try:
                os.close(fd)
            except OSError:
                pass  # EBADF: closed already, which is what was wanted


def send(channel: socket.socket, data: bytes, fds: Iterable[int] = ()) -> None:
    """Send one message with descriptors beside it."""
    fds = list(fds)
    if fds:
        socket.send_fds(channel, [data], fds)
    else:
        channel.send(data)


def receive(channel: socket.socket, size: int = 65536, most: int = 8) -> tuple[bytes, list[int]]:
    """One message and its descriptors, which are close-on-exec. Empty data: the other end is closed."""
    try:
        data, fds, _flags, _address = socket.recv_fds(channel, size, most, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The peer ended without having read all from us; what it had sent before still waits behind the error.
        data, fds, _flags, _address = socket.recv_fds(channel, size, most, socket.MSG_CMSG_CLOEXEC)
    return data, fds
