"""From a Launch to a running first process.

Used by the monitor (single-threaded, forked from the warm zygote) and by `longshore-oci`.
SIGCHLD must not be ignored by the caller: children are reaped with waitpid by whoever spawned them.

The forked child works while the network is plugged in: it tells its namespace at once, then mounts, and asks for
permission only right before execve(2).

With a `gate`, a listening socket, the permission comes from whoever connects there later, another process: `start`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from longshore.errors import EngineError, StartFailed
from longshore.kernel import cgroups as files
from longshore.kernel import namespaces as ns
from longshore.kernel import processes
from longshore.kernel.descriptors import close_quietly, receive
from longshore.oci.runtime_spec import SECCOMP_ANNOTATION, Spec
from longshore.runtime import cgroups, child, seccomp_profile, supervisor
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroup_names import parse_scope
from longshore.runtime.hooks import hooks_of, run_hooks, state
from longshore.runtime.messages import Launch, OverlayRoot
from longshore.runtime.plan import (
    KINDS,
    ContainerPlan,
    ProcessPlan,
    plan_container,
)
from longshore.runtime.program import EXECUTING, LISTENER, READY, Filter
from longshore.runtime.steps import words

_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: longshore: "
)


_LAST_WORDS_SECONDS = 0.2
"""For the child's own reason, where making its group failed too."""


@dataclass(slots=True)
class Init:
    """A container's first process, namespaced and waiting.

    `stdin_fd` (writable), `stdout_fd`, `stderr_fd` (readable) are the caller's ends; None with a tty
    (then `console_fd` is the pty master) and for stdin that is not open. All descriptors here belong to the caller.
    `netns_fd` and `netlink_fd` exist when the container has a new network namespace of its own.
    `warnings`: limits that this machine cannot give and that were lowered.
    """

    pid: int
    pidfd: int
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    console_fd: int | None = None
    netns_fd: int | None = None
    netlink_fd: int | None = None
    cgroup: str = ""
    warnings: list[str] = field(default_factory=list[str])
    _channel: socket.socket | None = None
    _reaped: bool = False
    _host_hooks: Callable[[int], None] | None = None
    _cgroup_is_ours: bool = True

    def proceed(self) -> None:
        """Let it execute its program; returns when execve(2) has succeeded.

        Raises StartFailed (errno and Docker's words); then the process is dead and reaped, its cgroups are removed,
        and all descriptors here are closed.
        """
        channel, self._channel = self._channel, None
        if channel is None:
            raise StartFailed(f"{_PREFIX}the process has been started or abandoned already")
        try:
            with channel:
                while self._host_hooks is not None:  # else our permission would be taken for their end
                    self.hear(receive(channel)[0], channel)
                _permit(channel, b"G")
                await_execution(channel, self)
        except BaseException:
            self.abandon()
            raise

    def wait_prepared(self) -> None:
        """Wait until nothing but the program itself can go wrong. Raises like proceed."""
        try:
            while True:
                data, _fds = receive(self._channel) if self._channel else (b"", [])
                if data[:1] == READY:
                    return
                self.hear(data, self._channel)
        except BaseException:
            self.abandon()
            raise

    def hear(self, data: bytes, channel: socket.socket | None) -> None:
        """A message that may come at any time while the child prepares. Raises what it failed with."""
        kind = data[:1]
        if kind == child.WARNING:
            self.warnings.append(data[1:].decode())
        elif kind == child.HOOKS and self._host_hooks is not None and channel is not None:
            self._host_hooks(self.pid)
            self._host_hooks = None
            _permit(channel, b"H")
        else:
            raise _failure(data, _PREFIX)

    def release(self) -> None:
        """Let go of a prepared process that waits at its gate: it lives on without us. All descriptors are closed."""
        self._reaped = True
        self.abandon()

    def abandon(self) -> None:
        """Kill the waiting process, reap it, remove its cgroups, close all descriptors. Twice is fine."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if not self._reaped:
            self._reaped = True
            _kill_and_reap(self.pid, self.pidfd)
            if self.cgroup and self._cgroup_is_ours:
                cgroups.kill_all(self.cgroup)
                cgroups.remove(self.cgroup)
        fds = (self.stdin_fd, self.stdout_fd, self.stderr_fd, self.console_fd, self.netns_fd, self.netlink_fd)
        close_quietly(self.pidfd, *fds)
        self.pidfd = -1
        self.stdin_fd = self.stdout_fd = self.stderr_fd = None
        self.console_fd = self.netns_fd = self.netlink_fd = None


@dataclass(slots=True)
class Stdio:
    """Pipes or /dev/null: the child's ends as 0, 1, 2, and ours."""

    theirs: tuple[int, ...] = ()
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None

    def close_theirs(self) -> None:
        close_quietly(*set(self.theirs))
        self.theirs = ()

    def close(self) -> None:
        self.close_theirs()
        close_quietly(self.stdin_fd, self.stdout_fd, self.stderr_fd)


def open_stdio(*, terminal: bool, stdin: bool, output: bool) -> Stdio:
    """New pipes, /dev/null for what is not wanted, nothing with a terminal. Raises OSError."""
    stdio = Stdio()
    if terminal:
        return stdio
    try:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdio.theirs = (null, null, null)
        if stdin:
            theirs, stdio.stdin_fd = os.pipe()
            stdio.theirs = (theirs, null, null)
        if output:
            stdio.stdout_fd, out = os.pipe()
            stdio.theirs = (stdio.theirs[0], out, null)
            stdio.stderr_fd, err = os.pipe()
            stdio.theirs = (stdio.theirs[0], out, err)
            if stdin:
                os.close(null)
        return stdio
    except OSError:
        stdio.close()
        raise


def duplicate(fd: int) -> int:
    """A copy that is neither 0, 1 nor 2, closed at execve(2)."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def warm_up() -> None:
    """Compute once, before the zygote forks, what every container needs: layout, default filter, tables."""
    from longshore.runtime.warm import prepare

    prepare()


def spawn_init(
    launch: Launch,
    *,
    stdio: tuple[int, int, int] | None = None,
    extra: tuple[int, ...] = (),
    gate: int = -1,
    shared_cgroup: bool = False,
) -> Init:
    """Fork the container's first process into its namespaces and cgroup.

    Returns as soon as the network namespace exists (with a tty: as soon as the console exists), so that the network
    is plugged in while the child still mounts its root; errors of the later steps come out of `Init.proceed`.
    Raises StartFailed, InvalidArgument or Unsupported; then everything made is undone.
    The caller's later children (os.fork) are born in the container's pid and time namespace, unless hooks have run.
    `stdio`: descriptors to use as 0, 1 and 2 instead of new pipes, `extra` those for 3 and up, `gate` a listening
    socket to wait at (see above); all of them stay the caller's. `shared_cgroup`: others are in its cgroup already.
    """
    plan = plan_container(launch)
    spec = launch.spec
    cgroup = cgroups.cgroup_path(spec, launch.id, systemd=launch.systemd_cgroup)
    told = state(spec, launch.id, launch.bundle, "creating", 0)
    filter_ = filter_of(spec, plan.process)
    with ExitStack() as undo:
        if stdio is None:
            pipes = open_stdio(terminal=plan.process.terminal, stdin=launch.stdin_open, output=True)
        else:
            pipes = Stdio(() if plan.process.terminal else tuple(map(duplicate, stdio)))
        undo.callback(pipes.close)
        idmaps = _open_idmaps(plan, undo)
        joins = _open_joins(plan, undo)
        made: list[str] = []
        undo.callback(lambda: [cgroups.remove(each) for each in made])  # when the process in it is dead
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        job = child.InitJob(
            *(plan, cgroup, layout(), tuple(joins), pipes.theirs, theirs, filter_, idmaps, extra, told, gate)
        )
        if plan.other_user:
            processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
            undo.callback(processes.prctl, processes.PR_SET_CHILD_SUBREAPER, 0)
        with theirs:
            pid = _fork(lambda: child.run_init(job))
        pipes.close_theirs()
        init = Init(pid, -1, pipes.stdin_fd, pipes.stdout_fd, pipes.stderr_fd, cgroup=cgroup)
        undo.callback(lambda: close_quietly(init.pidfd))
        undo.callback(lambda: _kill_and_reap(init.pid, init.pidfd))
        init.pidfd = os.pidfd_open(pid)
        # The child makes its namespaces while we make its cgroup.
        resources = spec.linux.resources
        try:
            scope = _scope(launch, pid_of(init.pidfd)) if launch.systemd_cgroup else None
            init.warnings += cgroups.create(cgroup, resources, scope=scope, occupied=shared_cgroup)
        except StartFailed as error:
            raise _earlier_failure(ours) or error from error
        init._cgroup_is_ours = not shared_cgroup  # pyright: ignore[reportPrivateUsage]
        if not shared_cgroup:
            made.append(cgroup)
        _permit(ours, b"C")
        init._channel = ours  # pyright: ignore[reportPrivateUsage]
        if plan.host_hooks:
            init._host_hooks = lambda pid: _run_host_hooks(spec, told, pid)  # pyright: ignore[reportPrivateUsage]
        _receive_descriptors(ours, init, plan, undo)
        if plan.other_user:
            processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 0)
        undo.pop_all()
        return init


def pid_of(pidfd: int) -> int:
    """The number of a living process as /proc and systemd know it, from the pidfd's own record, proc(5).

    Raises StartFailed for one that is dead.
    """
    for line in files.read(f"/proc/self/fdinfo/{pidfd}").splitlines():
        if line.startswith("Pid:") and int(line[4:]) > 0:
            return int(line[4:])
    raise StartFailed("container is not running", errno=errno.ESRCH)


def _earlier_failure(ours: socket.socket) -> EngineError | None:
    """Why the child has died already, if it has: then systemd has taken its empty group away from under us."""
    ours.settimeout(_LAST_WORDS_SECONDS)
    try:
        while True:
            data, fds = receive(ours)
            close_quietly(*fds)
            if not data or data[:1] == child.ERROR:
                return _failure(data, _PREFIX) if data else None
    except OSError:
        pass  # it has nothing to say
    return None


def _scope(launch: Launch, pid: int) -> cgroups.NewScope:
    scope = parse_scope(launch.spec.linux.cgroups_path, launch.id)
    return cgroups.NewScope(scope, pid, f"container {launch.id}", launch.spec.annotations)


def _run_host_hooks(spec: Spec, told: dict[str, Any], pid: int) -> None:
    ns.bear_children_here()  # hooks of these points belong to the host
    for point in ("prestart", "createRuntime"):
        run_hooks(point, hooks_of(spec, point), {**told, "pid": pid})


def _receive_descriptors(ours: socket.socket, init: Init, plan: ContainerPlan, undo: ExitStack) -> None:
    expected = {child.NAMESPACES}
    if plan.process.terminal:
        expected.add(child.CONSOLE)
    if plan.other_user:
        expected.add(child.PROCESS)
    while expected:
        data, fds = receive(ours)
        for fd in fds:
            undo.callback(os.close, fd)
        kind = data[:1]
        if kind == child.NAMESPACES:
            if fds:
                init.netns_fd, init.netlink_fd = fds
        elif kind == child.CONSOLE:
            (init.console_fd,) = fds
        elif kind == child.OWNERS:
            _give_mappings(init.pid, plan)
            _permit(ours, b"U")
        elif kind == child.PROCESS:
            _adopt(init, int(data[1:]))
        else:
            init.hear(data, ours)
        expected.discard(kind)


def _give_mappings(pid: int, plan: ContainerPlan) -> None:
    try:
        ns.write_mappings(pid, *plan.user_maps)
    except OSError as error:
        raise StartFailed(
            f"{_PREFIX}error writing {error.filename}: {words(error)}", errno=error.errno or 0
        ) from error


def _adopt(init: Init, pid: int) -> None:
    """The first process has forked the container's own and ends: that one is our child from then on."""
    pidfd = os.pidfd_open(pid)
    os.close(init.pidfd)
    first, init.pid, init.pidfd = init.pid, pid, pidfd
    os.waitpid(first, 0)


def joined_kinds(spec: Spec) -> int:
    """The namespaces that one more process of the container has to join; its pid namespace it is born in."""
    flags = ns.CLONE_NEWNS
    for namespace in spec.linux.namespaces:
        flags |= KINDS[namespace.type]
    return flags & ~ns.CLONE_NEWPID


def filter_of(spec: Spec, plan: ProcessPlan) -> Filter | None:
    """The seccomp filter that a process of the container gets."""
    profile = spec.linux.seccomp
    if profile is not None:
        listener = seccomp_profile.check_listener(profile)
        flags = seccomp_profile.filter_flags(profile)
        return Filter(seccomp_profile.program_of(profile), flags, listener, profile.listener_metadata)
    if spec.annotations.get(SECCOMP_ANNOTATION) == "default":
        return Filter(seccomp_profile.default_program(plan.bounding))
    return None


def _open_idmaps(plan: ContainerPlan, undo: ExitStack) -> dict[int, int]:
    """User namespaces for the id-mapped mounts; equal mappings share one. Before our children leave our pid
    namespace: the maps are written by number.
    """
    found: dict[tuple[str, str] | str, int] = {}
    wanted = plan.other_user and isinstance(plan.rootfs, OverlayRoot)
    asked = [(mount.idmap, mount.destination) for mount in plan.mounts]
    for owners, destination in [*asked, *([(plan.user_maps, "/")] if wanted else [])]:
        if owners and owners not in found:
            try:
                if isinstance(owners, str):
                    found[owners] = os.open(owners, os.O_RDONLY | os.O_CLOEXEC)
                else:
                    found[owners] = ns.user_namespace(*owners)
            except OSError as error:
                raise StartFailed(
                    f'{_PREFIX}error making the mappings of "{destination}": {words(error)}',
                    errno=error.errno or 0,
                ) from error
            undo.callback(os.close, found[owners])
    idmaps = {index: found[mount.idmap] for index, mount in enumerate(plan.mounts) if mount.idmap}
    if wanted:
        idmaps[child.ROOT] = found[plan.user_maps]
    return idmaps


def _open_joins(plan: ContainerPlan, undo: ExitStack) -> list[tuple[int, int]]:
    """Descriptors of the namespaces to join. Those that take only children, pid and time, are joined and made here,
    unless a user namespace comes before them.
    """
    joins: list[tuple[int, int]] = []
    for join in plan.joins:
        try:
            fd = os.open(join.path, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, fd)
            if join.kind == ns.CLONE_NEWPID and not plan.other_user:
                ns.setns(fd, ns.CLONE_NEWPID)
            else:
                joins.append((fd, join.kind))
        except OSError as error:
            raise StartFailed(
                f"{_PREFIX}error joining namespace {join.path}: {words(error)}", errno=error.errno or 0
            ) from error
    if plan.other_user:
        return joins
    try:
        if plan.unshare & (ns.CLONE_NEWPID | ns.CLONE_NEWTIME):
            ns.unshare(plan.unshare & (ns.CLONE_NEWPID | ns.CLONE_NEWTIME))
        if plan.time_offsets:
            files.write("/proc/self/timens_offsets", plan.time_offsets)
    except OSError as error:
        raise StartFailed(f"{_PREFIX}error creating the pid or time namespace: {words(error)}") from error
    return joins


def _fork(run: Callable[[], None]) -> int:
    try:
        pid = os.fork()
    except OSError as error:
        raise StartFailed(f"{_PREFIX}error forking: {words(error)}", errno=error.errno or 0) from error
    if pid:
        return pid
    try:
        run()  # never returns
    finally:
        os._exit(70)  # EX_SOFTWARE


def _permit(channel: socket.socket, word: bytes) -> None:
    try:
        channel.send(word)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has failed meanwhile and left its reason in the socket


def _kill_and_reap(pid: int, pidfd: int | None) -> None:
    try:
        if pidfd is not None and pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)  # our own child, not reaped: the number is still its own
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def await_execution(channel: socket.socket, process: Init) -> None:
    """Returns when execve(2) has closed the channel after a clean announcement. Raises what it failed with."""
    executing = False
    while True:
        data, _fds = receive(channel)
        kind = data[:1]
        if not data and executing:
            return
        if kind == EXECUTING:
            executing = True
        elif kind == LISTENER:
            _hand_over(data[1:], process)
            _permit(channel, b"S")
        elif kind != READY:
            process.hear(data, channel)


def _hand_over(message: bytes, process: Init) -> None:
    asked = msgspec.json.decode(message)
    try:
        supervisor.hand_over(
            *(asked["path"], asked["metadata"], asked["fd"], asked["told"], process.pid, process.pidfd)
        )
    except StartFailed as error:
        raise StartFailed(_PREFIX + error.what, errno=error.errno, detail=error.detail) from error


def _failure(data: bytes, prefix: str) -> EngineError:
    if data[:1] != child.ERROR:
        return StartFailed(
            f"{prefix}the process died while it was prepared", hint="is the memory limit too small?"
        )
    number, what, detail, hint = data[1:].decode("utf-8", "surrogateescape").split("\0")
    return StartFailed(prefix + what, errno=int(number), detail=detail, hint=hint)
