"""From a Launch to a running first process, and one more process in a running container.

Used by the monitor (single-threaded, forked from the warm zygote) and by `longshore-oci`.
SIGCHLD must not be ignored by the caller: children are reaped with waitpid by whoever spawned them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from longshore.oci.runtime_spec import Process, Spec
from longshore.runtime.messages import Launch


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

    def proceed(self) -> None:
        """Let it execute its program; returns when execve(2) has succeeded.

        Raises StartFailed (errno and Docker's words); then the process is dead and reaped, its cgroups are removed,
        and all descriptors here are closed.
        """
        raise NotImplementedError

    def abandon(self) -> None:
        """Kill the waiting process, reap it, remove its cgroups, close all descriptors. Twice is fine."""
        raise NotImplementedError


@dataclass(slots=True)
class Execution:
    """One more process inside a container; it runs already. Descriptors as in Init; the caller reaps it."""

    pid: int
    pidfd: int
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    stderr_fd: int | None = None
    console_fd: int | None = None


def spawn_init(launch: Launch) -> Init:
    """Fork the container's first process into its namespaces and cgroup.

    Returns as soon as the network namespace exists (with a tty: as soon as the console exists), so that the network
    is plugged in while the child still mounts its root; errors of the later steps come out of `Init.proceed`.
    Raises StartFailed, InvalidArgument or Unsupported; then everything made is undone.
    The caller's later children (os.fork) are born in the container's pid namespace.
    """
    raise NotImplementedError


def spawn_exec(
    init_pidfd: int,
    spec: Spec,
    process: Process,
    *,
    container_id: str,
    stdin: bool = False,
    output: bool = True,
) -> Execution:
    """Run one more process in the namespaces and cgroup of a running container; returns after its execve(2).

    `stdin` false gives /dev/null, `output` false drops stdout and stderr (no descriptors).
    Raises StartFailed; then nothing is left behind.
    """
    raise NotImplementedError


def remove_cgroups(spec: Spec, container_id: str) -> None:
    """Kill what is left in the container's cgroups and remove them. Twice is fine."""
    raise NotImplementedError
