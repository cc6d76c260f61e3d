"""One more process in a running container: `docker exec`, health checks, `longshore-oci exec`.

All is planned outside of the container, paths of the container through a descriptor of its root (openat2(2)); what is
left to do inside is a list of system calls, `kernel.script.Script`. No interpreter ever runs in the container.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import termios
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache

from longshore.errors import StartFailed
from longshore.kernel import capabilities
from longshore.kernel import cgroups as files
from longshore.kernel import namespaces as ns
from longshore.kernel import processes as kernel
from longshore.kernel.paths import openat2
from longshore.kernel.script import Failure, Script
from longshore.kernel.seccomp import SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_SET_MODE_FILTER
from longshore.oci.runtime_spec import Process, Spec
from longshore.runtime import cgroups, program, rootfs, supervisor
from longshore.runtime.hooks import state
from longshore.runtime.init import Stdio, duplicate, filter_of, joined_kinds, open_stdio, pid_of
from longshore.runtime.plan import ProcessPlan, plan_personality, plan_process
from longshore.runtime.program import Filter
from longshore.runtime.steps import words
from longshore.runtime.users import Identity

_PREFIX = "OCI runtime exec failed: exec failed: longshore: "

_SIG_DFL_ACTION = bytes(32)  # struct kernel_sigaction, see kernel.processes
_AT_FDCWD = -100
_MASK_BYTES = 1024  # of sched_setaffinity(2): 8192 processors


@dataclass(slots=True)
class Execution:
    """One more process inside a container; it runs already. Descriptors as in Init; the caller reaps it.

    `warnings`: limits that this machine cannot give and that were lowered.
    """

    pid: int
    pidfd: int
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    console_fd: int | None = None
    warnings: list[str] = field(default_factory=list[str])


def spawn_exec(
    init_pidfd: int,
    spec: Spec,
    process: Process,
    *,
    container_id: str,
    cgroup: str = "",
    stdin: bool = False,
    output: bool = True,
    stdio: tuple[int, int, int] | None = None,
    extra: tuple[int, ...] = (),
    bundle: str = "",
    open_groups: Callable[[str, int], list[int]] = cgroups.open_to_join,
) -> Execution:
    """Run one more process in the namespaces and cgroup of a running container; returns after its execve(2).

    `cgroup`: the container's, as its Init tells it; by default what the specification says to the cgroupfs driver.
    `stdin` false gives /dev/null, `output` false drops stdout and stderr (no descriptors); `stdio` and `extra` as in
    spawn_init. `open_groups` gives the files to join by, from the container's cgroup and its first process.
    Raises StartFailed with Docker's words; then nothing is left behind.
    """
    with ExitStack() as undo:
        plan = replace(plan_process(process), personality=plan_personality(spec.linux))
        pipes = _stdio(plan, stdin=stdin, output=output, given=stdio)
        undo.callback(pipes.close)

        def keep(fd: int) -> int:  # the script uses it; then our side closes it
            undo.callback(os.close, fd)
            return fd

        try:
            _bear_children_in(init_pidfd, undo)
        except OSError as error:
            raise StartFailed(f"{_PREFIX}container is not running", errno=error.errno or 0) from error
        warnings = list(plan.warnings)
        group = cgroup or cgroups.cgroup_path(spec, container_id)
        try:
            target = _Target(init_pidfd, pid_of(init_pidfd), spec, container_id, group, bundle, open_groups)
            prepared = _prepare(target, plan, pipes, extra, keep)
            script = Script()
            number = _write(script, target, plan, prepared, warnings)
            listener = _supervised(prepared, target, number) if prepared.ours >= 0 else None
            shared = listener is None and not joined_kinds(spec) & ns.CLONE_NEWTIME
            pid = script.run(shared=shared, meanwhile=listener)
            pidfd = _open_child(pid)
        except Failure as failure:
            raise StartFailed(
                f"{_PREFIX}{failure.what}: {words(failure)}", errno=failure.errno or 0
            ) from failure
        except StartFailed as error:
            raise StartFailed(
                f"{_PREFIX}{error.what}", errno=error.errno, detail=error.detail, hint=error.hint
            ) from error
        except OSError as error:
            raise StartFailed(
                f"{_PREFIX}error starting the process: {words(error)}", errno=error.errno or 0
            ) from error
        execution = Execution(pid, pidfd, pipes.stdin_fd, pipes.stdout_fd, pipes.stderr_fd, warnings=warnings)
        if prepared.master is not None:
            execution.console_fd = os.dup(prepared.master)
        pipes.close_theirs()
        pipes.stdin_fd = pipes.stdout_fd = pipes.stderr_fd = None
        return execution


def _bear_children_in(init_pidfd: int, undo: ExitStack) -> None:
    """A process enters a pid namespace at birth; for us nothing changes. Afterwards children are born where they were:
    a monitor forks for its logs too, with the host's rights, which no container may get to see.
    """
    before = os.open("/proc/self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, before)
    ns.setns(init_pidfd, ns.CLONE_NEWPID)
    undo.callback(ns.setns, before, ns.CLONE_NEWPID)


def _open_child(pid: int) -> int:
    """A pidfd. Where there is none to be had (EMFILE) nobody could reap the process, so it must not stay."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # our own child, which we have not reaped: the number is still its own
        os.waitpid(pid, 0)
        raise


def _stdio(plan: ProcessPlan, *, stdin: bool, output: bool, given: tuple[int, int, int] | None) -> Stdio:
    if given is None:
        return open_stdio(terminal=plan.terminal, stdin=stdin, output=output)
    return Stdio(() if plan.terminal else tuple(map(duplicate, given)))


@dataclass(slots=True)
class _Target:
    """The container."""

    pidfd: int
    pid: int
    spec: Spec
    id: str
    cgroup: str
    bundle: str
    open_groups: Callable[[str, int], list[int]]


@dataclass(slots=True)
class _Prepared:
    """What was found and opened out here for the process in there."""

    identity: Identity
    environment: dict[str, str]
    programs: list[str]
    cwd: int
    theirs: tuple[int, ...]
    owner: int  # of the standard streams, as a uid out here
    groups: list[int]  # files to join the cgroups by
    label: int | None  # a private procfs
    filter: Filter | None
    extra: tuple[int, ...]  # above the numbers that they are to get
    master: int | None = None
    terminal: int | None = None
    ours: int = -1  # ends of a pair to talk about the listener
    child: int = -1
    free: int = -1  # the number that the child's first open will get


def _prepare(
    target: _Target, plan: ProcessPlan, pipes: Stdio, extra: tuple[int, ...], keep: Callable[[int], int]
) -> _Prepared:
    """Look at everything and open it. Raises StartFailed and OSError."""
    spec = target.spec
    root_fd = keep(os.open(f"/proc/{target.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    signal.pidfd_send_signal(target.pidfd, 0)  # not reaped: the number was still its own
    environment = dict(plan.env)
    identity = program.find_identity(plan, root_fd, environment)
    if plan.terminal and not target.bundle:
        environment.setdefault("TERM", "xterm")
    cwd = keep(program.enter_directory(root_fd, plan.cwd, make=False))
    programs = program.find_programs(
        plan.args[0], environment, lambda path: _check_program(root_fd, plan.cwd, path)
    )
    prepared = _Prepared(
        identity=identity,
        environment=environment,
        programs=list(programs),
        cwd=cwd,
        theirs=pipes.theirs,
        owner=identity.uid,
        groups=[keep(fd) for fd in target.open_groups(target.cgroup, target.pid)],
        label=keep(rootfs.private_procfs()) if plan.apparmor_profile else None,
        filter=filter_of(spec, plan),
        extra=tuple(keep(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3 + len(extra))) for fd in extra),
    )
    if plan.terminal:
        prepared.master, prepared.terminal = map(keep, rootfs.open_terminal(root_fd, plan.size))
        prepared.theirs = (prepared.terminal,) * 3
    if joined_kinds(spec) & ns.CLONE_NEWUSER:
        prepared.owner = _host_id(
            target.pid, identity.uid
        )  # for fchown(2) out here, where we have the privilege
    if prepared.filter is not None and prepared.filter.listener:
        prepared.ours, prepared.child = (keep(end.detach()) for end in socket.socketpair())
    prepared.free = os.dup(cwd)  # nothing is opened after this
    os.close(prepared.free)
    return prepared


def _write(
    script: Script, target: _Target, plan: ProcessPlan, prepared: _Prepared, warnings: list[str]
) -> int:
    """The steps from birth to execve(2). Returns the number that a listener of the filter will have."""
    script.call("setsid")
    for number in _handled_signals():
        script.call("rt_sigaction", number, _SIG_DFL_ACTION, 0, 8, may_fail=True)
    script.call("umask", plan.umask)
    _add_limits(script, plan, prepared.free, warnings)
    for fd in prepared.groups:
        script.call("write", fd, b"0", 1, what=f'error joining cgroup "{target.cgroup}"')
    _add_scheduling(script, plan)
    # The session keyring is inherited and not namespaced. EDQUOT, ENOSYS: goes without
    keyring = f"longshore.{target.id}".encode()
    script.call("keyctl", kernel.KEYCTL_JOIN_SESSION_KEYRING, keyring, may_fail=True)
    if prepared.label is not None:
        _add_label(script, prepared.label, plan.apparmor_profile, prepared.free)
    _add_owners(script, prepared.theirs, prepared.owner)
    script.call("setns", target.pidfd, joined_kinds(target.spec), what="error joining the container")
    for number, fd in enumerate(prepared.theirs):
        script.call("dup3", fd, number, 0, what="error connecting the standard streams")
    if prepared.terminal is not None:
        script.call("ioctl", 0, termios.TIOCSCTTY, 0, what="error creating the console")
    what = f'error setting the working directory "{plan.cwd}"'
    early = os.access(f"/proc/self/fd/{prepared.cwd}", os.X_OK)  # as program.try_directory
    if early:
        script.call("fchdir", prepared.cwd, what=what)
    keep_admin = prepared.filter is not None and not plan.no_new_privileges
    _add_identity(script, plan, prepared.identity, keep_admin=keep_admin)
    if not early:
        script.call("fchdir", prepared.cwd, what=what)
    least = _add_descriptors(script, prepared)
    script.call("rt_sigprocmask", signal.SIG_SETMASK, bytes(8), 0, 8)
    if plan.personality is not None:
        script.call("personality", plan.personality, what="error setting the personality")
    if prepared.filter is not None:
        _add_filter(script, prepared.filter, plan, prepared.identity, least - 1)
    _add_programs(script, plan, prepared)
    return least


def _add_descriptors(script: Script, prepared: _Prepared) -> int:
    """What stays open: 0 to 2, the extra ones and the end that talks about the listener. Returns the next number."""
    for number, fd in enumerate(prepared.extra, 3):
        script.call("dup3", fd, number, 0, what="error passing a descriptor on")
    least = 3 + len(prepared.extra)
    if prepared.child >= 0:
        script.call("dup3", prepared.child, least, os.O_CLOEXEC)
        least += 1
    script.call("close_range", least, 0xFFFFFFFF, 0)
    return least


def _add_programs(script: Script, plan: ProcessPlan, prepared: _Prepared) -> None:
    variables = [os.fsencode(f"{name}={value}") for name, value in prepared.environment.items()]
    arguments = [os.fsencode(argument) for argument in plan.args]
    for number, path in enumerate(prepared.programs, 1):
        script.call(
            *("execve", os.fsencode(path), arguments, variables),
            what=f'exec: "{plan.args[0]}"',
            may_fail=number < len(prepared.programs),  # as execvp(3): the next one may be allowed
        )


def _supervised(prepared: _Prepared, target: _Target, number: int) -> Callable[[int], None]:
    """Fetch the listener from the child and hand it on; then the child, which waits, may go on.

    First wait until the child has closed what it inherited, so that the number cannot mean anything else.
    """
    told = state(target.spec, target.id, target.bundle, "running", target.pid)
    filter_, child = prepared.filter, prepared.ours
    assert filter_ is not None  # there is a listener

    def meanwhile(pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(child, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            if child not in dict(poll.poll()):
                return  # it has failed before
            supervisor.hand_over(filter_.listener, filter_.metadata, number, told, pid, pidfd)
        finally:
            os.close(pidfd)
        os.write(child, b"1")

    return meanwhile


def _host_id(pid: int, uid: int) -> int:
    """What a uid of the container's user namespace is out here, user_namespaces(7); -1 for one that it has not."""
    for line in files.read(f"/proc/{pid}/uid_map").splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return -1


def _check_program(root_fd: int, cwd: str, path: str) -> None:
    """Raises OSError for what cannot be a program; whether this user may run it the kernel says.

    Not stat(2): a link of /proc like self/exe is still the interpreter, which must not be started in there.
    """
    fd = openat2(root_fd, path if path.startswith("/") else f"{cwd}/{path}", os.O_PATH)
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "is a directory")
    if not stat.S_ISREG(mode) or not mode & 0o111:
        raise OSError(errno.EACCES, "permission denied")


@cache
def _handled_signals() -> tuple[int, ...]:
    """Those whose action a program would inherit, ignored ones, and those that would run Python."""
    handler = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
    changed = (
        int(number) for number in signal.valid_signals() if handler(number) not in (signal.SIG_DFL, None)
    )
    return (*changed, *kernel.RESERVED_SIGNALS)


def _add_limits(script: Script, plan: ProcessPlan, free: int, warnings: list[str]) -> None:
    for number, soft, hard in plan.rlimits:
        values = program.possible_limit(number, soft, hard, warnings)
        both = struct.pack("=QQ", *(value & (1 << 64) - 1 for value in values))
        script.call("prlimit64", 0, number, both, 0, what="error setting a limit")
    if plan.oom_score_adj is not None:
        value = str(plan.oom_score_adj).encode()
        script.call("openat", _AT_FDCWD, b"/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        script.call("write", free, value, len(value), may_fail=True)  # lowering it needs CAP_SYS_RESOURCE
        script.call("close", free)


def _add_label(script: Script, proc_fd: int, profile: str, free: int) -> None:
    """For the coming execve(2), written into a private procfs and nowhere else."""
    what, text = f'error setting the AppArmor profile "{profile}"', f"exec {profile}".encode()
    own = "apparmor/" if _exists(proc_fd, "thread-self/attr/apparmor") else ""
    path = f"thread-self/attr/{own}exec".encode()
    script.call("openat", proc_fd, path, os.O_WRONLY | os.O_CLOEXEC, what=what)
    script.call("write", free, text, len(text), what=what)
    script.call("close", free)


def _exists(fd: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=fd)
    except OSError:
        return False
    return True


def _add_scheduling(script: Script, plan: ProcessPlan) -> None:
    """As program.set_scheduling; an exec also may say on which processors it wants to be."""
    initial, final = plan.affinity
    if initial:
        script.call(
            "sched_setaffinity", 0, _MASK_BYTES, _mask(initial), what="error setting the initial processors"
        )
    if final:
        script.call("sched_setaffinity", 0, _MASK_BYTES, _mask(final), what="error setting the processors")
    elif not initial and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        everywhere = frozenset(range(os.sysconf("SC_NPROCESSORS_CONF")))
        script.call("sched_setaffinity", 0, _MASK_BYTES, _mask(everywhere), may_fail=True)
    if plan.io_priority is not None:
        class_, level = plan.io_priority
        value = class_ << kernel.IOPRIO_CLASS_SHIFT | level
        script.call("ioprio_set", kernel.IOPRIO_WHO_PROCESS, 0, value, what="error setting the io priority")
    wanted = plan.scheduler
    if wanted is not None:
        fields = kernel.encode_sched_attr(
            wanted.policy, wanted.flags, wanted.nice, wanted.priority, wanted.times
        )
        script.call("sched_setattr", 0, fields, 0, what="error setting the scheduler")


def _mask(processors: frozenset[int]) -> bytes:
    return sum(1 << number for number in processors).to_bytes(_MASK_BYTES, "little")


def _add_owners(script: Script, theirs: tuple[int, ...], uid: int) -> None:
    for fd in dict.fromkeys(theirs):
        mode = os.fstat(fd).st_mode
        if uid > 0 and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))):
            # /dev/stdout must be openable by the user; EPERM, EINVAL, EROFS: it is not ours to give
            script.call("fchown", fd, uid, -1, may_fail=True)


def _add_identity(script: Script, plan: ProcessPlan, identity: Identity, *, keep_admin: bool) -> None:
    """Bounding set, groups, uid and capabilities, as `program.take_identity`."""
    for number in range(capabilities.last_capability() + 1):
        if not plan.bounding >> number & 1:
            script.prctl(kernel.PR_CAPBSET_DROP, number)
    what = "error setting the identity"
    script.prctl(kernel.PR_SET_KEEPCAPS, 1)
    groups = struct.pack(f"={len(identity.groups)}I", *identity.groups)
    script.call("setgroups", len(identity.groups), groups, what=what)
    script.call("setresgid", *(identity.gid,) * 3, what=what)
    script.call("setresuid", *(identity.uid,) * 3, what=what)
    script.prctl(
        kernel.PR_SET_DUMPABLE, 0
    )  # setresuid(2) has put it to fs.suid_dumpable; the memory is the monitor's
    script.prctl(kernel.PR_SET_KEEPCAPS, 0)
    admin = capabilities.CAP_SYS_ADMIN if keep_admin else 0
    effective, permitted, inheritable = program.final_capabilities(plan, identity)
    _add_capset(script, effective | admin, permitted | admin, inheritable)
    script.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL, may_fail=True)
    for number in range(capabilities.last_capability() + 1):
        if plan.ambient >> number & 1:  # left out where it is not permitted and inheritable, as runc does
            script.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number, may_fail=True)
    if plan.no_new_privileges:
        script.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _add_capset(script: Script, effective: int, permitted: int, inheritable: int) -> None:
    available = _available_capabilities()
    header, data = capabilities.encode(effective & available, permitted & available, inheritable & available)
    script.call("capset", header, data, what="error setting the identity")


@cache
def _available_capabilities() -> int:
    return capabilities.capget()[1]


def _add_filter(script: Script, filter_: Filter, plan: ProcessPlan, identity: Identity, go: int) -> None:
    """Without no_new_privs loading needs CAP_SYS_ADMIN, which is dropped only then.

    With a supervisor the child tells through `go` that it is about to, and then waits for a byte from there: we have
    fetched the listener, whose number is the next one.
    """
    code, flags = filter_.program, filter_.flags
    if filter_.listener:
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
        script.call("write", go, b"1", 1)
    value = struct.pack("@HP", len(code) // 8, script.pointer_to(code))  # struct sock_fprog
    script.call("seccomp", SECCOMP_SET_MODE_FILTER, flags, value, what="error loading the seccomp filter")
    if filter_.listener:
        script.call("read", go, script.pointer_to(bytes(1)), 1)
    if not plan.no_new_privileges:
        _add_capset(script, *program.final_capabilities(plan, identity))
