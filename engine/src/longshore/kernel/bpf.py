"""bpf(2), as much as cgroup device programs need."""

import ctypes
import os

from longshore.kernel.libc import system_call

BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_GET_FD_BY_ID, BPF_PROG_QUERY = 5, 8, 9, 13, 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2
_ATTRIBUTES = 128
_INSTRUCTION = 8

_bpf = system_call("bpf", ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)


def _words(*fields: tuple[int, int]) -> ctypes.Array[ctypes.c_char]:
    """union bpf_attr from (value, size in bytes) in order; naturally aligned by construction."""
    data = b"".join(value.to_bytes(size, "little") for value, size in fields)
    return ctypes.create_string_buffer(data, _ATTRIBUTES)


def load_device_program(code: bytes) -> int:
    """A descriptor of the verified program; raises OSError (EPERM without CAP_BPF or CAP_SYS_ADMIN)."""
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = _words(
        (BPF_PROG_TYPE_CGROUP_DEVICE, 4),
        (len(code) // _INSTRUCTION, 4),
        (ctypes.addressof(instructions), 8),
        (ctypes.addressof(licence), 8),
    )
    return _bpf(BPF_PROG_LOAD, ctypes.addressof(attributes), _ATTRIBUTES)


def attach_to_cgroup(cgroup_fd: int, program_fd: int) -> None:
    """The group's own program beside those of its parents: all must allow, bpf-cgroup."""
    attributes = _words((cgroup_fd, 4), (program_fd, 4), (BPF_CGROUP_DEVICE, 4), (BPF_F_ALLOW_MULTI, 4))
    _bpf(BPF_PROG_ATTACH, ctypes.addressof(attributes), _ATTRIBUTES)


def detach_from_cgroup(cgroup_fd: int, program_fd: int) -> None:
    attributes = _words((cgroup_fd, 4), (program_fd, 4), (BPF_CGROUP_DEVICE, 4))
    _bpf(BPF_PROG_DETACH, ctypes.addressof(attributes), _ATTRIBUTES)


def programs_of_cgroup(cgroup_fd: int) -> list[int]:
    """Descriptors of the device programs attached to this very group; the caller closes them."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = _words(
        (cgroup_fd, 4), (BPF_CGROUP_DEVICE, 4), (0, 4), (0, 4), (ctypes.addressof(ids), 8), (len(ids), 4)
    )
    _bpf(BPF_PROG_QUERY, ctypes.addressof(attributes), _ATTRIBUTES)
    count = int.from_bytes(attributes.raw[24:28], "little")
    programs: list[int] = []
    for index in range(count):
        wanted = _words((ids[index], 4))
        programs.append(_bpf(BPF_PROG_GET_FD_BY_ID, ctypes.addressof(wanted), _ATTRIBUTES))
        os.set_inheritable(programs[-1], False)
    return programs
