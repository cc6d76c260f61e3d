"""kill and delete."""

from __future__ import annotations

import os
import select
import signal

from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound
from longshore.runtime import cgroups
from longshore.runtime.hooks import hooks_of, run_hooks, state
from longshore.runtime.oci_command.context import Context
from longshore.runtime.oci_command.store import State, is_frozen, open_process

_PATIENCE = 10_000  # milliseconds that a killed process may take to end


def parse_signal(text: str) -> int:
    """15, TERM or SIGTERM; 0 asks whether it runs. Raises InvalidArgument."""
    if text.isdecimal() and int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise InvalidArgument(f'unknown signal "{text}"') from None


def kill(context: Context) -> None:
    held = context.load()
    number = parse_signal(context.given.words[1] if len(context.given.words) > 1 else "SIGTERM")
    # Without a pid namespace of its own the others do not end with the first process.
    everybody = context.given.flag("all") or (not held.own_pids and number == signal.SIGKILL)
    if everybody and (context.given.flag("all") or cgroups.processes(held.cgroup)):
        cgroups.kill_all(held.cgroup, number)
        return
    if not _send(held, number):
        raise Conflict(f'container not running: "{held.id}"')


def _send(held: State, number: int) -> bool:
    pidfd = open_process(held)
    if pidfd is None:
        return False
    try:
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def delete(context: Context) -> None:
    """Remove what is left. A running container only with --force, which kills it."""
    force = context.given.flag("force")
    try:
        held = context.load()
    except NotFound:
        if not force:
            raise
        context.store.forget(context.id)
        return
    status = context.store.status(held)
    if status not in ("stopped", "created") and not force:
        raise Conflict(
            f'cannot delete container "{held.id}" that is not stopped: {status}', hint="use --force"
        )
    remove(context, held)


def remove(context: Context, held: State) -> None:
    """Kill what lives, remove groups and state, run the poststop hooks. Twice is fine."""
    pidfd = open_process(held)
    if pidfd is not None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
    if is_frozen(held.cgroup):
        cgroups.kill_all(held.cgroup)
        cgroups.thaw(held.cgroup)  # in v1 a frozen process ends only then
    if pidfd is not None:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(_PATIENCE)
        os.close(pidfd)
    cgroups.kill_all(held.cgroup)
    cgroups.remove(held.cgroup)
    cgroups.remove_parent()
    spec = held.decode_spec()
    context.store.forget(held.id)
    try:
        run_hooks("poststop", hooks_of(spec, "poststop"), state(spec, held.id, held.bundle, "stopped", 0))
    except EngineError as error:
        context.log.warning(str(error))  # it is gone all the same, runtime-spec runtime.md
