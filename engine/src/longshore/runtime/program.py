# no pathlib between fork and exec: every page that it touches is copied
# ruff: noqa: PTH109
"""The last steps of a forked child: limits, identity, working directory, program. Runs inside the container.

The order matters; `execution` plans the same for one more process. Nothing here imports, decodes by codec name or asks
NSS.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgspec

from longshore.errors import StartFailed
from longshore.kernel import capabilities, processes, terminals
from longshore.kernel.descriptors import CLOSE_RANGE_CLOEXEC, close_all_except, close_range
from longshore.kernel.paths import AT_FDCWD, make_directories, openat2
from longshore.kernel.seccomp import SECCOMP_FILTER_FLAG_NEW_LISTENER, load_filter
from longshore.oci.runtime_spec import Hook
from longshore.runtime.hooks import run_hooks
from longshore.runtime.plan import ProcessPlan
from longshore.runtime.rootfs import write_proc
from longshore.runtime.steps import Doing, words
from longshore.runtime.users import Identity, home_of, resolve_user

READY = b"R"  # told before waiting for permission
EXECUTING = b"X"  # told to the parent right before execve(2): a silence after it is success
WARNING = b"W"
LISTENER = b"S"  # a filter with a supervisor is about to be loaded: JSON of `path`, `fd` and `told`

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def become_child(keep: tuple[int, ...]) -> None:
    """First thing after fork: nothing of the parent stays reachable, and no code can be loaded any more."""
    sys.meta_path.clear()  # an import from here on is a defect and fails instead of reading the container's files
    sys.path_hooks.clear()
    sys.path.clear()
    close_all_except(keep)
    os.setsid()
    os.umask(0)
    for number in _ALL_SIGNALS:
        if _handler(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # ignored signals stay ignored after execve(2)
    processes.reset_reserved_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    processes.set_dumpable(False)


# The plain function under signal.getsignal: the enum look-ups around it cost 0.1 ms for all signals.
_handler: Callable[[int], object] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_ALL_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


@dataclass(frozen=True, slots=True)
class Filter:
    """A compiled seccomp profile. With a `listener` a supervisor behind that socket gets the notifications."""

    program: bytes
    flags: int = 0
    listener: str = ""
    metadata: str = ""


@dataclass(slots=True)
class Entry:
    """What `finish` needs to get from a prepared root to the program."""

    plan: ProcessPlan
    channel: socket.socket  # to the parent
    root_fd: int
    stdio: tuple[int, ...]
    console: int | None
    filter: Filter | None
    proc_fd: int | None  # a private procfs, when one is needed
    extra: tuple[int, ...] = ()  # --preserve-fds: become 3, 4, …
    hooks: tuple[Hook, ...] = ()  # startContainer
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])  # the state, for hooks and supervisor
    gate: int = -1  # a listening socket: who connects says when, instead of the parent
    wait: bool = False  # somebody says when, after all is checked


def set_limits(plan: ProcessPlan, warnings: list[str]) -> None:
    """Resource limits and the OOM score. What may not be raised is lowered to what is possible."""
    for number, soft, hard in plan.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, PermissionError):
            resource.setrlimit(number, possible_limit(number, soft, hard, warnings))
    if plan.oom_score_adj is not None:
        try:
            _write_text("/proc/self/oom_score_adj", str(plan.oom_score_adj))
        except PermissionError:
            warnings.append(f"oom score {plan.oom_score_adj} is not set: lowering it needs CAP_SYS_RESOURCE")


def possible_limit(number: int, soft: int, hard: int, warnings: list[str]) -> tuple[int, int]:
    """What the calling process may set: raising the hard limit takes CAP_SYS_RESOURCE, setrlimit(2)."""
    _old_soft, most = resource.getrlimit(number)
    lowered = (_lower(soft, most), _lower(hard, most))
    if lowered == (soft, hard) or capabilities.capget()[0] & capabilities.CAP_SYS_RESOURCE:
        return soft, hard
    warnings.append(f"limit {number} lowered to {lowered[0]}:{lowered[1]}: this machine allows no more")
    return lowered


def set_scheduling(plan: ProcessPlan) -> None:
    """Processors, scheduling class and priorities, inside of the cgroup: joining one changes where a process may run.

    Whoever started us may have been bound to some processors; a container is not, unless its cgroup is.
    """
    if len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        try:
            os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        except OSError:
            pass  # EINVAL: none of them is allowed to us
    if plan.io_priority is not None:
        with Doing("setting the io priority"):
            processes.set_io_priority(*plan.io_priority)
    scheduler = plan.scheduler
    if scheduler is not None:
        with Doing("setting the scheduler"):
            processes.sched_setattr(
                scheduler.policy, scheduler.flags, scheduler.nice, scheduler.priority, scheduler.times
            )


def _lower(value: int, most: int) -> int:
    if most == resource.RLIM_INFINITY:
        return value
    return most if value == resource.RLIM_INFINITY else min(value, most)


def _write_text(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def find_identity(plan: ProcessPlan, root_fd: int, environment: dict[str, str]) -> Identity:
    """Numbers of the process's user; sets HOME when the environment has none."""
    user = plan.user
    if user.username or user.additional_groups:
        text = user.username or f"{user.uid}:{user.gid}"
        identity = resolve_user(root_fd, text, (*user.additional_groups, *map(str, user.additional_gids)))
    else:
        identity = Identity(user.uid, user.gid, user.additional_gids)
    if not environment.get("HOME"):
        home = identity.home or home_of(root_fd, identity.uid) or b"/"
        environment["HOME"] = home.decode("utf-8", "surrogateescape")
    return identity


def enter_directory(root_fd: int, path: str, *, make: bool) -> int:
    """A descriptor of the working directory. Links of /proc lead nowhere (EXDEV, ELOOP).

    `make`: a container's own one is made when it is missing; an exec must not change the container, as with runc.
    """
    with Doing(f'setting the working directory "{path}"'):
        return make_directories(root_fd, path) if make else openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY)


def try_directory(fd: int) -> bool:
    """Enter it with the privileges that we still have: the user may not be allowed to, and need not be.

    False: only the user may, as on a FUSE filesystem or on NFS.
    """
    try:
        os.fchdir(fd)
    except PermissionError:
        return False
    return True


def change_directory(fd: int, path: str) -> None:
    with Doing(f'setting the working directory "{path}"'):
        os.fchdir(fd)


def check_directory(path: str) -> None:
    """Make sure that we are inside of the root, getcwd(2) says "(unreachable)" otherwise."""
    with Doing(f'setting the working directory "{path}"'):
        try:
            inside = os.getcwd().startswith("/")
        except FileNotFoundError:
            inside = False
        if not inside:
            raise StartFailed(f'working directory "{path}" is outside of the container')


def find_program(name: str, environment: dict[str, str]) -> str:
    """The path to execute, as the calling process may. Raises like find_programs."""
    return next(find_programs(name, environment, _check_executable))


def find_programs(name: str, environment: dict[str, str], check: Callable[[str], None]) -> Iterator[str]:
    """All paths that the name may mean, one at least. `check` raises OSError for what is no program.

    Raises StartFailed with the words that the docker CLI turns into 126 and 127.
    """
    if "/" in name:
        try:
            check(name)
        except OSError as error:
            verb = f"stat {name}: " if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
            raise StartFailed(f'exec: "{name}": {verb}{words(error)}', errno=error.errno or 0) from error
        yield name
        return
    denied = found = False
    for directory in environment.get("PATH", _DEFAULT_PATH).split(":"):
        path = f"{directory or '.'}/{name}"
        try:
            check(path)
        except PermissionError:
            denied = True
        except OSError:
            continue
        else:
            found = True
            yield path
    if found:
        return
    if denied:
        raise StartFailed(f'exec: "{name}": permission denied', errno=errno.EACCES)
    raise StartFailed(f'exec: "{name}": executable file not found in $PATH', errno=errno.ENOENT)


def _check_executable(path: str) -> None:
    # Not stat(2): a link of /proc like self/exe is still the host's interpreter, which must not be started in here.
    fd = openat2(AT_FDCWD, path, os.O_PATH, resolve=0)
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a directory")
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK, effective_ids=True):
        raise OSError(errno.EACCES, "permission denied")


def take_identity(
    plan: ProcessPlan, identity: Identity, stdio: tuple[int, ...], *, keep_admin: bool
) -> list[str]:
    """Bounding set, groups, uid and capabilities; returns the ambient ones that were not to be had.

    `keep_admin`: CAP_SYS_ADMIN stays until the filter is loaded.
    """
    with Doing("setting the identity"):
        if identity.uid:
            for fd in stdio:
                _give(fd, identity.uid)
        capabilities.limit_bounding(plan.bounding)
        processes.prctl(processes.PR_SET_KEEPCAPS, 1)
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        processes.prctl(processes.PR_SET_KEEPCAPS, 0)
        effective, permitted, inheritable = final_capabilities(plan, identity)
        admin = capabilities.CAP_SYS_ADMIN if keep_admin else 0
        available = capabilities.capget()[1]
        capabilities.capset(
            (effective | admin) & available, (permitted | admin) & available, inheritable & available
        )
        left_out = capabilities.set_ambient(plan.ambient)
        processes.set_dumpable(False)  # setresuid(2) has put it to fs.suid_dumpable
    os.umask(plan.umask)
    if plan.no_new_privileges:
        processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
    return left_out


def final_capabilities(plan: ProcessPlan, identity: Identity) -> tuple[int, int, int]:
    """Effective, permitted, inheritable. A named user that is not root has only what is ambient, as execve(2) does."""
    if plan.user.username and identity.uid:
        return plan.ambient, plan.ambient, plan.inheritable | plan.ambient
    return plan.effective, plan.permitted, plan.inheritable


def _give(fd: int, uid: int) -> None:
    """/dev/stdout must be openable by the user; /dev/null belongs to nobody."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd)):
        try:
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.EROFS):
                raise


def set_label(proc_fd: int, profile: str) -> None:
    """The AppArmor profile for the coming execve(2), written into a private procfs and nowhere else."""
    with Doing(f'setting the AppArmor profile "{profile}"'):
        try:
            write_proc(proc_fd, "thread-self/attr/apparmor/exec", f"exec {profile}")
        except FileNotFoundError:
            write_proc(proc_fd, "thread-self/attr/exec", f"exec {profile}")


def connect_stdio(stdio: tuple[int, ...], console: int | None) -> None:
    """Make them 0, 1 and 2; a console becomes the controlling terminal."""
    if console is not None:
        terminals.make_controlling(console)
        stdio = (console, console, console)
    # Out of the way first: a source may sit on a number that is overwritten before its turn.
    moved = [os.dup(fd) if fd < 3 else fd for fd in stdio]
    for number, fd in enumerate(moved):
        os.dup2(fd, number, inheritable=True)


def execute(entry: Entry, identity: Identity, environment: dict[str, str], program: str) -> NoReturn:
    """Load the filter, drop the last capability, execute. Raises StartFailed when execve(2) fails."""
    plan, channel = entry.plan, entry.channel
    if plan.with_init:
        _fork_under_init(channel)
    channel.send(EXECUTING)
    for number, fd in enumerate(entry.extra, 3):
        os.dup2(fd, number, inheritable=True)
    # Before the filter: of the calls that it may refuse we need as few as possible behind it
    close_range(3 + len(entry.extra), flags=CLOSE_RANGE_CLOEXEC)
    if plan.personality is not None:
        with Doing("setting the personality"):
            processes.set_personality(plan.personality)
    if entry.filter is not None:
        _load(entry.filter, channel, entry.told)
        if not plan.no_new_privileges:
            effective, permitted, inheritable = final_capabilities(plan, identity)
            available = capabilities.capget()[1]
            capabilities.capset(effective & available, permitted & available, inheritable & available)
    if entry.hooks:
        told = {**entry.told, "pid": os.getpid()}
        run_hooks("startContainer", entry.hooks, told, environment)
    try:
        os.execve(program, plan.args, environment)
    except OSError as error:
        raise StartFailed(f'exec: "{plan.args[0]}": {words(error)}', errno=error.errno or 0) from error


def _load(chosen: Filter, channel: socket.socket, told: Mapping[str, Any]) -> None:
    """With a supervisor the parent fetches the descriptor from us, pidfd_getfd(2): of the calls that the filter may
    stop from its first moment on we need none to hand it over, so its number is told before.
    """
    if not chosen.listener:
        with Doing("loading the seccomp filter"):
            load_filter(chosen.program, chosen.flags)
        return
    number = fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(number)  # the lowest free one, which the next descriptor gets
    message = {"path": chosen.listener, "fd": number, "metadata": chosen.metadata, "told": told}
    channel.send(LISTENER + msgspec.json.encode(message))
    with Doing("loading the seccomp filter"):
        found = load_filter(chosen.program, chosen.flags | SECCOMP_FILTER_FLAG_NEW_LISTENER)
    if not channel.recv(1):
        os._exit(1)
    os.close(found)


def _fork_under_init(channel: socket.socket) -> None:
    """docker run --init: this process stays as PID 1, reaps and passes signals on; the child goes on to execute."""
    blocked = set(_ALL_SIGNALS)
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    child = os.fork()
    if not child:
        # A group of its own: the terminal's ^C then reaches the program once, not again through our forwarding.
        os.setpgid(0, 0)
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpid())  # allowed to a background group because SIGTTOU is blocked
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    processes.set_name("longshore-init")
    channel.close()
    close_range(3)
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    while True:
        number = signal.sigwait(blocked)
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                os._exit(0)
            if not pid:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)


# Process 1 of a pid namespace ignores what it does not handle, pid_namespaces(7); one that waits is to be stopped.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _end(number: int, _frame: object) -> None:
    os._exit(128 + number)


def wait_for_permission(channel: socket.socket, gate: int = -1) -> socket.socket:
    """The channel to go on with. Ends the process when nobody can give permission any more.

    `gate`: the parent is told that all is ready and may leave; the first to connect there takes its place.
    """
    channel.send(READY)
    if gate < 0:
        if not channel.recv(1):
            os._exit(1)
        return channel
    channel.close()
    listener = socket.socket(fileno=gate)
    for number in _ENDING:
        signal.signal(number, _end)
    peer, _address = listener.accept()
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    listener.close()
    if not peer.recv(1):
        os._exit(1)
    return peer


def _out_of_the_way(entry: Entry) -> None:
    """Numbers that --preserve-fds will overwrite must be nobody's."""
    least = 3 + len(entry.extra)
    entry.extra = tuple(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least) for fd in entry.extra)
    entry.channel = socket.socket(fileno=fcntl.fcntl(entry.channel.detach(), fcntl.F_DUPFD_CLOEXEC, least))
    if entry.gate >= 0:
        entry.gate = fcntl.fcntl(entry.gate, fcntl.F_DUPFD_CLOEXEC, least)


def finish(entry: Entry) -> NoReturn:
    """Everything from a prepared root to execve(2)."""
    plan = entry.plan
    environment = dict(plan.env)
    identity = find_identity(plan, entry.root_fd, environment)
    if plan.terminal and not entry.told.get("bundle"):
        environment.setdefault("TERM", "xterm")  # as Docker does it; a bundle says all by itself
    cwd = enter_directory(entry.root_fd, plan.cwd, make=True)
    connect_stdio(entry.stdio, entry.console)
    if plan.apparmor_profile and entry.proc_fd is not None:
        set_label(entry.proc_fd, plan.apparmor_profile)
    if entry.extra:
        _out_of_the_way(entry)
    close_all_except((entry.channel.fileno(), cwd, entry.gate, *entry.extra))
    keep_admin = entry.filter is not None and not plan.no_new_privileges
    entered = try_directory(cwd)
    for name in take_identity(plan, identity, (0, 1, 2), keep_admin=keep_admin):
        entry.channel.send(
            WARNING + f"can't raise ambient capability {name}: operation not permitted".encode()
        )
    if not entered:
        change_directory(cwd, plan.cwd)
    check_directory(plan.cwd)
    os.close(cwd)
    program = find_program(plan.args[0], environment)
    if entry.wait:
        entry.channel = wait_for_permission(entry.channel, entry.gate)
    execute(entry, identity, environment, program)
