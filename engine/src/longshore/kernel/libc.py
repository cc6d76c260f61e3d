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
_OLD_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        "seccomp": 317,
        "bpf": 321,
        "capget": 125,
        "capset": 126,
        "keyctl": 250,
        "rt_sigaction": 13,
    },
    "aarch64": {
        "pivot_root": 41,
        "seccomp": 277,
        "bpf": 280,
        "capget": 90,
        "capset": 91,
        "keyctl": 219,
        "rt_sigaction": 134,
    },
}
_NEW_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "close_range": 436,
    "openat2": 437,
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


def system_call(name: str, *arguments: Any) -> Callable[..., int]:
    """A system call without a wrapper in the oldest C library we support."""
    number = _NEW_NUMBERS.get(name) or _OLD_NUMBERS.get(MACHINE, {}).get(name)
    raw: Any = library["syscall"]
    raw.argtypes, raw.restype, raw.errcheck = (ctypes.c_long, *arguments), ctypes.c_long, _checked(name)

    def call(*values: Any) -> int:
        if number is None:
            raise OSError(38, f"not known on {MACHINE}", name)  # ENOSYS
        return raw(number, *values)

    return call
