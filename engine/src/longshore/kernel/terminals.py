"""Pseudo terminals by descriptor: the other end is asked from the kernel, never looked up by name."""

import fcntl
import os
import struct
import termios

TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441


def open_pair(pts_fd: int) -> tuple[int, int]:
    """A new pair (master, slave) of the devpts instance behind pts_fd, which must be a devpts mount.

    The slave comes from TIOCGPTPEER, so that nobody can put another file in its place, ioctl_tty(2).
    """
    master = os.open("ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=pts_fd)
    try:
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        os.close(master)
        raise
    return master, slave


def set_size(fd: int, height: int, width: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0))


def make_controlling(fd: int) -> None:
    """The caller must be a session leader without a terminal."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)
