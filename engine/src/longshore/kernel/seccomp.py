"""Loading a seccomp filter that was compiled elsewhere."""

import ctypes

from longshore.kernel.libc import system_call

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32
_INSTRUCTION = 8  # sizeof(struct sock_filter)


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_seccomp = system_call("seccomp", ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(_Program))


def load_filter(program: bytes, flags: int = 0) -> int:
    """Restrict the calling thread for good; with SECCOMP_FILTER_FLAG_NEW_LISTENER a descriptor for the supervisor.

    EACCES: needs no_new_privs or CAP_SYS_ADMIN, seccomp(2).
    """
    value = _Program(len(program) // _INSTRUCTION, program)
    return _seccomp(SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(value))
