"""Namespaces: leaving and joining them."""

import ctypes

from longshore.kernel.libc import function

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080

_unshare = function("unshare", ctypes.c_int)
_setns = function("setns", ctypes.c_int, ctypes.c_int)
_setdomainname = function("setdomainname", ctypes.c_char_p, ctypes.c_size_t)
_sethostname = function("sethostname", ctypes.c_char_p, ctypes.c_size_t)


def unshare(kinds: int) -> None:
    """Move the caller into new namespaces; CLONE_NEWPID affects only later children, unshare(2)."""
    _unshare(kinds)


def setns(fd: int, kinds: int) -> None:
    """Join the namespace behind fd, or those of a process when fd is a pidfd (Linux 5.8), setns(2)."""
    _setns(fd, kinds)


def sethostname(name: str) -> None:
    encoded = name.encode()
    _sethostname(encoded, len(encoded))


def setdomainname(name: str) -> None:
    encoded = name.encode()
    _setdomainname(encoded, len(encoded))
