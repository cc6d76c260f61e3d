"""Capabilities by name: bounding set, the three process sets and the ambient set; see capabilities(7)."""

import ctypes
import errno
import struct
from collections.abc import Iterable
from functools import cache

from longshore.kernel.libc import system_call
from longshore.kernel.processes import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    prctl,
)

NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(NAMES)}
CAP_SYS_ADMIN = 1 << NUMBERS["CAP_SYS_ADMIN"]
CAP_SYS_RESOURCE = 1 << NUMBERS["CAP_SYS_RESOURCE"]
CAP_SETPCAP = 1 << NUMBERS["CAP_SETPCAP"]
CAP_SETUID_GID = 1 << NUMBERS["CAP_SETUID"] | 1 << NUMBERS["CAP_SETGID"]

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_Data = ctypes.c_uint32 * 6  # two of (effective, permitted, inheritable)

_capset = system_call("capset", ctypes.POINTER(_Header), ctypes.POINTER(_Data))
_capget = system_call("capget", ctypes.POINTER(_Header), ctypes.POINTER(_Data))


@cache
def last_capability() -> int:
    """The highest number this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap") as file:  # pathlib costs a starting worker 8 ms
        return int(file.read())


def mask(names: Iterable[str]) -> int:
    """The bits of the named capabilities. Raises KeyError for a name that does not exist."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def capget() -> tuple[int, int, int]:
    """Effective, permitted, inheritable of the calling thread."""
    data = _Data()
    _capget(ctypes.byref(_Header(_VERSION_3, 0)), ctypes.byref(data))
    low, high = data[:3], data[3:]
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    header, data = encode(effective, permitted, inheritable)
    _capset(ctypes.byref(_Header.from_buffer_copy(header)), ctypes.byref(_Data.from_buffer_copy(data)))


def encode(effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """The two structures of capset(2) for the calling thread."""
    low = (value & 0xFFFFFFFF for value in (effective, permitted, inheritable))
    high = (value >> 32 for value in (effective, permitted, inheritable))
    return struct.pack("=Ii", _VERSION_3, 0), struct.pack("=6I", *low, *high)


def limit_bounding(keep: int) -> None:
    """Drop everything from the bounding set that is not in `keep`. Needs CAP_SETPCAP."""
    for number in range(last_capability() + 1):
        if not keep >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def set_ambient(bits: int) -> list[str]:
    """Exactly these; each must be permitted and inheritable, else it is left out as runc does: their names."""
    left_out: list[str] = []
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last_capability() + 1):
        if bits >> number & 1:
            try:
                prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                left_out.append(NAMES[number])
    return left_out
