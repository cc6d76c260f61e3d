"""Namespaces: leaving and joining them."""

import ctypes
import os

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


def write_mappings(pid: int | str, uids: str, gids: str) -> None:
    """The two maps of a process's new user namespace, lines of "inside outside count"; once only,
    user_namespaces(7). EPERM: an outside number that the caller may not give, or maps that overlap.
    """
    for name, text in (("uid_map", uids), ("gid_map", gids)):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None
        finally:
            os.close(fd)


def user_namespace(uids: str, gids: str) -> int:
    """A descriptor of a user namespace that nobody is in, with these maps: what id-mapped mounts are given.

    A short-lived child makes it: a process cannot leave one again.
    """
    ready, told = os.pipe()
    gone, hold = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ready)
            os.close(hold)
            unshare(CLONE_NEWUSER)
            os.write(told, b"1")
            os.read(gone, 1)
        finally:
            os._exit(1)
    os.close(told)
    os.close(gone)
    try:
        if not os.read(ready, 1):
            raise OSError(1, os.strerror(1), "unshare")  # EPERM: the kernel or its owner forbids them
        write_mappings(child, uids, gids)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.close(hold)
        os.waitpid(child, 0)


def bear_children_here() -> None:
    """Later children are born in our own pid and time namespace again, pid_namespaces(7). Twice is fine."""
    for name, kind in (("pid", CLONE_NEWPID), ("time", CLONE_NEWTIME)):
        fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(fd, kind)
        finally:
            os.close(fd)


def sethostname(name: str) -> None:
    encoded = name.encode()
    _sethostname(encoded, len(encoded))


def setdomainname(name: str) -> None:
    encoded = name.encode()
    _setdomainname(encoded, len(encoded))
