"""What a process says about itself to the kernel: prctl(2), keyrings, and its credentials."""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager

from longshore.kernel.libc import function, system_call

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4  # capabilities(7)
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_JOIN_SESSION_KEYRING = 1
IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_SHIFT = 13

_ulong = ctypes.c_ulong
_prctl = function("prctl", ctypes.c_int, _ulong, _ulong, _ulong, _ulong)
_setfsuid = function("setfsuid", ctypes.c_uint)
_setfsgid = function("setfsgid", ctypes.c_uint)
_prctl_text = function("prctl", ctypes.c_int, ctypes.c_char_p, _ulong, _ulong, _ulong)
_rt_sigaction = system_call("rt_sigaction", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_ulong)
_keyctl = system_call("keyctl", ctypes.c_int, ctypes.c_char_p)


_ioprio_set = system_call("ioprio_set", ctypes.c_int, ctypes.c_int, ctypes.c_int)
_pidfd_getfd = system_call("pidfd_getfd", ctypes.c_int, ctypes.c_int, ctypes.c_uint)
_personality = function("personality", _ulong)


class SchedAttr(ctypes.Structure):
    """struct sched_attr of sched_setattr(2); times in nanoseconds."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


_sched_setattr = system_call("sched_setattr", ctypes.c_int, ctypes.POINTER(SchedAttr), ctypes.c_uint)


def sched_setattr(policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]) -> None:
    """The caller's scheduling; `times` are runtime, deadline and period. EPERM: not allowed, or, for
    SCHED_DEADLINE, not free to run on all processors, sched_setattr(2).
    """
    value = SchedAttr.from_buffer_copy(encode_sched_attr(policy, flags, nice, priority, times))
    _sched_setattr(0, ctypes.byref(value), 0)


def encode_sched_attr(
    policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]
) -> bytes:
    """A struct sched_attr."""
    return bytes(SchedAttr(ctypes.sizeof(SchedAttr), policy, flags, nice, priority, *times))


def set_io_priority(class_: int, level: int) -> None:
    """The caller's, ioprio_set(2)."""
    _ioprio_set(IOPRIO_WHO_PROCESS, 0, class_ << IOPRIO_CLASS_SHIFT | level)


def set_personality(value: int) -> None:
    """The execution domain of the caller and its children, personality(2)."""
    _personality(value)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """A copy of another process's descriptor. EBADF: it has none of that number; Linux 5.6."""
    return _pidfd_getfd(pidfd, number, 0)


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, fifth: int = 0) -> int:
    return _prctl(option, second, third, fourth, fifth)


@contextmanager
def filesystem_identity(uid: int, gid: int) -> Generator[None]:
    """Make files as somebody else but with all capabilities, setfsuid(2): a process whose id has no name in an
    id-mapped mount can make none there (EOVERFLOW). Of the calling thread only.
    """
    before = prctl(PR_GET_SECUREBITS)
    prctl(PR_SET_SECUREBITS, before | SECBIT_NO_SETUID_FIXUP)
    old_gid, old_uid = _setfsgid(gid), _setfsuid(uid)
    try:
        yield
    finally:
        _setfsuid(old_uid)
        _setfsgid(old_gid)
        prctl(PR_SET_SECUREBITS, before)


# struct kernel_sigaction of zeros: SIG_DFL, no flags, empty mask; 32 bytes on x86_64, 24 on aarch64
_DEFAULT_ACTION = bytes(32)
RESERVED_SIGNALS = (32, 33)  # NPTL's own, nptl(7)


def reset_reserved_signals() -> None:
    """Give the two signals that libc keeps for itself their default action.

    glibc refuses them in sigaction(3), yet its posix_spawn(3) leaves them ignored in the child: whatever make
    started would hand that on to every container.
    """
    for number in RESERVED_SIGNALS:
        _rt_sigaction(number, _DEFAULT_ACTION, None, 8)


def set_dumpable(value: bool) -> None:
    """False: nobody without CAP_SYS_PTRACE over us can read our memory, descriptors or exe link, prctl(2)."""
    _prctl(PR_SET_DUMPABLE, int(value), 0, 0, 0)


def set_name(name: str) -> None:
    """The name in ps and /proc/self/comm; the kernel keeps 15 bytes."""
    _prctl_text(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def join_session_keyring(name: str) -> None:
    """A keyring of our own, so that a container does not possess the host's, keyctl(2)."""
    _keyctl(KEYCTL_JOIN_SESSION_KEYRING, name.encode())
