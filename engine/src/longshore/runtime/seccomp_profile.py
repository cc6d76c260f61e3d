"""The default seccomp profile, and any profile as a BPF program.

What the default does: calls that programs need are allowed; calls that reach into the kernel or the host are refused
with EPERM, some of them only without the capability that guards them anyway; calls that this list does not know
get ENOSYS, not EPERM, so that a C library newer than us falls back to older calls. AF_ALG and AF_VSOCK are refused
(kernel surface; the hypervisor behind the container's back), and so is the i386 socketcall, whose arguments no
filter can see.

A program is compiled once: kept in memory for the zygote's children, and on disk by the digest of what went in.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from longshore.errors import InvalidArgument, Unsupported
from longshore.kernel import capabilities
from longshore.kernel.libc import MACHINE
from longshore.kernel.seccomp import (
    SECCOMP_FILTER_FLAG_LOG,
    SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
)
from longshore.oci.runtime_spec import Seccomp, SyscallArgument, SyscallRule

# three hundred names read better without their quotes
# ruff: noqa: SIM905

CACHE = Path("/var/cache/longshore/seccomp")
_NOTIFY = "SCMP_ACT_NOTIFY"
_GENERATION = 4  # of the compiler's settings below; part of the digest

_ALLOWED = """
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 bind brk cachestat
    capget capset chdir chmod chown chown32 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr file_getattr file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules lstat lstat64
    madvise membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat nice oldfstat oldlstat oldolduname oldstat
    olduname open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv recvfrom
    recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall riscv_flush_icache rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer
    setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat sgetmask shmat shmctl shmdt shmget
    shutdown sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend
    socketpair splice ssetmask stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
    sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
""".split()

# Refused unless the capability is in the bounding set.
_GUARDED = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount "
    "mount_setattr move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname "
    "sethostname setns statmount swapoff swapon syslog umount umount2 unshare",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_BOOT": "kexec_file_load kexec_load reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
}

# Refused with EPERM whatever the capabilities: the keyrings are not namespaced, io_uring goes past this filter,
# the rest is obsolete or the host's.
_REFUSED = """
    _sysctl add_key create_module get_kernel_syms io_uring_enter io_uring_register io_uring_setup keyctl
    lsm_set_self_attr nfsservctl query_module request_key socketcall sysfs uselib userfaultfd ustat vm86 vm86old
""".split()

# ptrace(2) of one's own children is what debuggers in containers do; safe since Linux 4.8 reorders seccomp's check.
_ALLOWED_AS_THEY_ARE_OWN = ("ptrace", "process_vm_readv", "process_vm_writev")

_NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW* but time, which clone(2) cannot take
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK, _AF_MAX = 38, 40, 46
_INT = 0xFFFFFFFF  # the kernel looks at the low half of an int argument only, and so must we


def default_profile(bounding: Iterable[str]) -> Seccomp:
    """The profile for a container with these capabilities. Pure."""
    held = frozenset(bounding)
    allowed = {*_ALLOWED, *_ALLOWED_AS_THEY_ARE_OWN}
    guarded: set[str] = set()
    for capability, names in _GUARDED.items():
        (allowed if capability in held else guarded).update(names.split())
    refused = (guarded | set(_REFUSED)) - allowed - {"clone", "clone3"}
    rules = [
        SyscallRule(tuple(sorted(allowed)), "SCMP_ACT_ALLOW"),
        SyscallRule(tuple(sorted(refused)), "SCMP_ACT_ERRNO", errno.EPERM),
        *_socket_rules(),
        *(
            SyscallRule(("personality",), "SCMP_ACT_ALLOW", None, (SyscallArgument(0, value, "SCMP_CMP_EQ"),))
            for value in _PERSONALITIES
        ),
    ]
    if "clone" not in allowed:
        # clone3 hides its flags behind a pointer: ENOSYS makes C libraries use clone.
        mask = SyscallArgument(0, _NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ", 0)
        rules.append(SyscallRule(("clone",), "SCMP_ACT_ALLOW", None, (mask,)))
        for bit in range(_NEW_NAMESPACES.bit_length()):
            flag = 1 << bit & _NEW_NAMESPACES
            if flag:
                argument = (SyscallArgument(0, flag, "SCMP_CMP_MASKED_EQ", flag),)
                rules.append(SyscallRule(("clone",), "SCMP_ACT_ERRNO", errno.EPERM, argument))
        rules.append(SyscallRule(("clone3",), "SCMP_ACT_ERRNO", errno.ENOSYS))
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=errno.ENOSYS,
        architectures=("SCMP_ARCH_X86",) if MACHINE == "x86_64" else (),
        syscalls=tuple(rules),
    )


def _socket_rules() -> Iterable[SyscallRule]:
    for family in range(_AF_MAX + 1):
        argument = (SyscallArgument(0, _INT, "SCMP_CMP_MASKED_EQ", family),)
        if family in (_AF_ALG, _AF_VSOCK):
            yield SyscallRule(("socket",), "SCMP_ACT_ERRNO", errno.EAFNOSUPPORT, argument)
        else:
            yield SyscallRule(("socket",), "SCMP_ACT_ALLOW", None, argument)


_memory: dict[str | int, bytes] = {}


def default_program(bounding: int) -> bytes:
    """The default profile's program for a bounding set given as bits."""
    program = _memory.get(bounding)
    if program is None:
        names = [name for name, number in capabilities.NUMBERS.items() if bounding >> number & 1]
        program = _memory[bounding] = program_of(default_profile(names))
    return program


def program_of(profile: Seccomp, cache: Path | None = None) -> bytes:
    """The BPF program, from memory, from disk, or compiled now. Raises InvalidArgument, Unsupported."""
    text = msgspec.json.encode((_GENERATION, MACHINE, profile))
    digest = hashlib.sha256(text).hexdigest()
    program = _memory.get(digest)
    if program is None:
        directory = cache or CACHE
        program = _read(directory / digest)
        if program is None:
            program = compile_profile(profile)
            _write(directory, digest, program)
        _memory[digest] = program
    return program


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if data and len(data) % 8 == 0 else None


def _write(directory: Path, name: str, program: bytes) -> None:
    """A cache that cannot be written is only slower."""
    temporary = directory / f".{name}.{os.getpid()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(program)
        temporary.rename(directory / name)
    except OSError:
        temporary.unlink(missing_ok=True)


_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # there is one thread
    "SECCOMP_FILTER_FLAG_LOG": SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}


def filter_flags(profile: Seccomp) -> int:
    """The flags of seccomp(2). Raises InvalidArgument for an unknown name."""
    flags = 0
    for index, name in enumerate(profile.flags):
        if name not in _FLAGS:
            raise InvalidArgument(f'linux.seccomp.flags[{index}]: unknown flag "{name}"')
        flags |= _FLAGS[name]
    return flags if _notifies(profile) else flags & ~SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV


def _notifies(profile: Seccomp) -> bool:
    return any(rule.action == _NOTIFY for rule in profile.syscalls)


def check_listener(profile: Seccomp) -> str:
    """The path of the supervisor's socket, empty when no rule asks it. Raises InvalidArgument for a profile that
    could never start: nobody to ask, or a call that is needed to hand over the listener.
    """
    where = "linux.seccomp"
    if profile.default_action == _NOTIFY:
        raise InvalidArgument(f"{where}.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action")
    for index, rule in enumerate(profile.syscalls):
        if rule.action == _NOTIFY and "write" in rule.names:
            raise InvalidArgument(
                f"{where}.syscalls[{index}]: SCMP_ACT_NOTIFY cannot be used for the write syscall"
            )
    if not _notifies(profile):
        return ""
    if not profile.listener_path.startswith("/"):
        raise InvalidArgument(
            f'{where}.listenerPath: SCMP_ACT_NOTIFY needs an absolute path, not "{profile.listener_path}"'
        )
    return profile.listener_path


_COMPARE = {"NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"}


def compile_profile(profile: Seccomp) -> bytes:
    """Raises InvalidArgument for a profile that makes no sense, Unsupported without libseccomp."""
    library = _library()
    default = _action(library, profile.default_action, profile.default_errno_ret)
    filter_: Any = library.SyscallFilter(default)
    try:
        filter_.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.ENOSYS))
        filter_.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree instead of a list
    except OSError:
        pass  # libseccomp before 2.5 has only the list
    own = library.system_arch()
    for name in profile.architectures:
        architecture = getattr(library.Arch, name.removeprefix("SCMP_ARCH_"), None)
        if architecture is None:
            raise InvalidArgument(f'unknown seccomp architecture "{name}"')
        if architecture != own:
            filter_.add_arch(architecture)
    for rule in profile.syscalls:
        action = _action(library, rule.action, rule.errno_ret)
        if action == default:
            continue  # says nothing, and libseccomp refuses it
        for name in rule.names:
            if library.resolve_syscall(own, name) == -1:  # __NR_SCMP_ERROR: not known to this libseccomp
                continue
            try:
                for arguments in _alternatives(rule.args):
                    filter_.add_rule(action, name, *(_argument(library, argument) for argument in arguments))
            except OSError as cause:
                raise InvalidArgument(f'seccomp rule for "{name}" is refused', detail=str(cause)) from cause
    fd = os.memfd_create("seccomp")
    with os.fdopen(fd, "r+b") as file:
        filter_.export_bpf(file)
        file.seek(0)
        return _unknown_calls(library, profile) + file.read()


def _alternatives(arguments: tuple[SyscallArgument, ...]) -> list[tuple[SyscallArgument, ...]]:
    """Conditions hold together, unless two are about one argument: then any of them is enough, as runc has it."""
    if len({argument.index for argument in arguments}) == len(arguments):
        return [arguments]
    return [(argument,) for argument in arguments]


# What an instruction of classic BPF is called in linux/filter.h, and seccomp_data's offsets
_LOAD, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4
_X32_BIT = 0x40000000
_AUDIT = {"X86": 0x40000003, "X86_64": 0xC000003E, "ARM": 0x40000028, "AARCH64": 0xC00000B7}
_PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})


def _unknown_calls(library: Any, profile: Seccomp) -> bytes:
    """Instructions before the filter: a call newer than all that the profile names gets ENOSYS.

    A profile that refuses what it does not list would otherwise answer EPERM to calls that its author could not know,
    and C libraries would not fall back to older ones. Not where the profile itself says what they get.
    """
    if profile.default_action in _PERMISSIVE or profile.default_errno_ret is not None:
        return b""
    named = {name.removeprefix("SCMP_ARCH_") for name in profile.architectures}
    limits: list[tuple[int, int]] = []
    own = library.system_arch()
    for name, audit in _AUDIT.items():
        architecture = getattr(library.Arch, name)
        if architecture == own or name in named:
            numbers = (
                library.resolve_syscall(architecture, each)
                for rule in profile.syscalls
                for each in rule.names
            )
            limits.append((audit, max((number for number in numbers if 0 <= number < _X32_BIT), default=-1)))
    limits = [(audit, most) for audit, most in limits if most >= 0]
    block = 5
    program: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _MACHINE_AT)]
    for index, (audit, most) in enumerate(limits):
        after = (len(limits) - index - 1) * block  # instructions behind this block
        program += [
            (_IF_EQUAL, 0, block - 1, audit),
            (_LOAD, 0, 0, _NUMBER_AT),
            (_IF_AT_LEAST, after + 2, 0, _X32_BIT),
            (_IF_GREATER, 0, after + 1, most),
            (_RETURN, 0, 0, 0x00050000 | errno.ENOSYS),
        ]
    return b"".join(struct.pack("=HBBI", *step) for step in program) if limits else b""


def _library() -> Any:
    try:
        import pyseccomp  # only here: it loads libseccomp, which a cached program does not need
    except (ImportError, RuntimeError, OSError) as cause:
        raise Unsupported(
            "seccomp profiles need libseccomp", detail=str(cause), hint="install libseccomp2"
        ) from cause
    return pyseccomp


def _action(library: Any, name: str, number: int | None) -> int:
    value = errno.EPERM if number is None else number
    actions: dict[str, Any] = {
        "SCMP_ACT_ALLOW": library.ALLOW,
        "SCMP_ACT_KILL": library.KILL_THREAD,
        "SCMP_ACT_KILL_THREAD": library.KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS": library.KILL_PROCESS,
        "SCMP_ACT_LOG": library.LOG,
        "SCMP_ACT_TRAP": library.TRAP,
        _NOTIFY: library.NOTIFY,
        "SCMP_ACT_ERRNO": library.ERRNO(value),
        "SCMP_ACT_TRACE": library.TRACE(value),
    }
    if name not in actions:
        raise InvalidArgument(f'seccomp action "{name}" is not supported')
    return actions[name]


def _argument(library: Any, argument: SyscallArgument) -> Any:
    name = argument.op.removeprefix("SCMP_CMP_")
    if name not in _COMPARE or not 0 <= argument.index <= 5:
        raise InvalidArgument(
            f'seccomp comparison "{argument.op}" of argument {argument.index} is not supported'
        )
    operator = getattr(library, name)
    if name == "MASKED_EQ":
        return library.Arg(argument.index, operator, argument.value, argument.value_two)
    return library.Arg(argument.index, operator, argument.value)
