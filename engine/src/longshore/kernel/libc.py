"""The one place that declares foreign functions: prototypes with errno checked, and system calls by number.

Everything is resolved at import, so that a forked child never asks the dynamic linker for anything.
Errors are OSError whose `filename` is the name of the call, the kernel's own word for the step.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from typing import Any

library = ctypes.CDLL(None, use_errno=True)

MACHINE = platform.machine()

# Calls before 424 differ by architecture; later ones have one number everywhere (asm-generic/unistd.h).
_OLD_NUMBERS = {  # on x86_64, on aarch64
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "clone": (56, 220),
    "close": (3, 57),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_pwait": (281, 22),
    "execve": (59, 221),
    "exit_group": (231, 94),
    "fchdir": (81, 50),
    "fchown": (93, 55),
    "ioctl": (16, 29),
    "ioprio_set": (251, 30),
    "keyctl": (250, 219),
    "openat": (257, 56),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "read": (0, 63),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "seccomp": (317, 277),
    "setgroups": (116, 159),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsid": (112, 157),
    "socketpair": (53, 199),
    "umask": (95, 166),
    "wait4": (61, 260),
    "write": (1, 64),
}
_COLUMNS = {"x86_64": 0, "aarch64": 1}
_NEW_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "close_range": 436,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}


def _checked(name: str) -> Callable[[int, Any, Any], int]:
    def check(result: int, _function: Any, _arguments: Any) -> int:
        if result == -1:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), name)
        return result

    return check


def function(name: str, *arguments: Any, result: Any = ctypes.c_int) -> Callable[..., int]:
    """A libc function that returns -1 and sets errno on failure."""
    found: Any = library[name]  # a new function object each time, unlike attribute access
    found.argtypes, found.restype, found.errcheck = arguments, result, _checked(name)
    return found


def call_number(name: str) -> int | None:
    """The number of a system call on this machine; None when it is not in the table of its processor."""
    if name in _NEW_NUMBERS:
        return _NEW_NUMBERS[name]
    column = _COLUMNS.get(MACHINE)
    return _OLD_NUMBERS[name][column] if column is not None and name in _OLD_NUMBERS else None


def system_call(name: str, *arguments: Any) -> Callable[..., int]:
    """A system call without a wrapper in the oldest C library we support."""
    number = call_number(name)
    raw: Any = library["syscall"]
    raw.argtypes, raw.restype, raw.errcheck = (ctypes.c_long, *arguments), ctypes.c_long, _checked(name)

    def call(*values: Any) -> int:
        if number is None:
            raise OSError(38, f"not known on {MACHINE}", name)  # ENOSYS
        return raw(number, *values)

    return call
