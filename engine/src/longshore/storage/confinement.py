"""The system calls that a layer worker has no use for, as a seccomp filter.

The worker keeps CAP_SYS_ADMIN for trusted.overlay attributes and CAP_MKNOD for device nodes, so it cannot live in a user
namespace of its own. What that capability opens besides is closed here: mounts, namespaces, other processes,
programs, sockets, the kernel's own doors. Numbers: the kernel's syscall tables.
"""

import os
import struct

_BOTH = (425, 428, 429, 430, 431, 432, 433, 434, 435, 438, 442)  # io_uring, the mount API, pidfds, clone3
# socket socketpair clone fork vfork execve kill ptrace personality pivot_root chroot acct settimeofday mount umount2 swapon
# reboot sethostname setdomainname iopl ioperm init_module delete_module quotactl tkill tgkill kexec_load add_key request_key
# keyctl unshare perf_event_open open_by_handle_at setns process_vm_readv process_vm_writev finit_module kexec_file_load bpf
# execveat userfaultfd
_X86_64 = (41, 53, 56, 57, 58, 59, 62, 101, 135, 155, 161, 163, 164, 165, 166, 167, 169, 170, 171, 172, 173, 175,
           176, 179, 200, 234, 246, 248, 249, 250, 272, 298, 304, 308, 310, 311, 313, 320, 321, 322, 323)  # fmt: skip
_AARCH64 = (198, 199, 220, 221, 129, 117, 92, 41, 51, 89, 170, 40, 39, 224, 142, 161, 162, 105, 106, 60, 130, 131, 104,
            217, 218, 219, 97, 241, 265, 268, 270, 271, 273, 294, 280, 281, 282)  # fmt: skip
_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86_64 + _BOTH),
    "aarch64": (0xC00000B7, _AARCH64 + _BOTH),
}
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _ALLOW, _REFUSE = 0x80000000, 0x7FFF0000, 0x00050001  # the last is EPERM
_X32 = 0x40000000  # system calls of a third table on x86_64


def seccomp_filter(machine: str = "") -> bytes:
    """The filter for seccomp(2), b"" for a machine without a table. Pure."""
    known = _ARCHITECTURES.get(machine or os.uname().machine)
    if known is None:
        return b""
    architecture, refused = known
    program = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_AT_LEAST, len(refused) + 1, 0, _X32),
        *((_EQUAL, len(refused) - index, 0, number) for index, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
