"""exec: one more process in a container."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import msgspec

from longshore.errors import Conflict, InvalidArgument, StartFailed, Unsupported
from longshore.oci.runtime_spec import Capabilities, Process, Spec, User
from longshore.runtime.cgroup_layout import Hierarchy, layout
from longshore.runtime.cgroups import open_to_join
from longshore.runtime.execution import Execution, spawn_exec
from longshore.runtime.oci_command.arguments import Given
from longshore.runtime.oci_command.console import (
    accompany,
    check_terminal,
    hand_over_console,
    keep_line_ends,
    send_descriptor,
)
from longshore.runtime.oci_command.context import Context
from longshore.runtime.oci_command.passing import descriptors_to_pass, write_pid
from longshore.runtime.oci_command.store import is_alive, is_frozen, open_process
from longshore.runtime.plan import plan_process
from longshore.runtime.steps import words


def execute(context: Context) -> int:
    given, held = context.given, context.load()
    if not is_alive(held):
        raise Conflict(f'cannot exec in a stopped container: "{held.id}"')
    if is_frozen(held.cgroup) and not given.flag("ignore-paused"):
        raise Conflict(
            f'cannot exec in a paused container: "{held.id}"', hint="use --ignore-paused to override"
        )
    spec = held.decode_spec()
    process = build_process(spec, given)
    check_terminal(process.terminal, given.text("console-socket"), detached=given.flag("detach"))
    pidfd = open_process(held)
    if pidfd is None:
        raise Conflict(f'cannot exec in a stopped container: "{held.id}"')
    extra = descriptors_to_pass(given.number("preserve-fds"))
    _tell_plan(context, process)
    execution = spawn_exec(
        pidfd,
        spec,
        process,
        container_id=held.id,
        cgroup=held.cgroup,
        stdio=(0, 1, 2),
        extra=extra,
        bundle=held.bundle,
        open_groups=_Groups(given.list("cgroup")) or open_to_join,
    )
    context.warn(execution.warnings)
    keep_line_ends(execution)
    try:
        if path := given.text("console-socket"):
            hand_over_console(execution, path)
        if path := given.text("pidfd-socket"):
            send_descriptor(path, execution.pidfd, b"pidfd")
        if path := given.text("pid-file"):
            write_pid(path, execution.pid)
    except BaseException:
        _end(execution)
        raise
    return 0 if given.flag("detach") else accompany(execution)


def _tell_plan(context: Context, process: Process) -> None:
    log = context.log
    log.debug("nsexec container setup")
    plan = plan_process(process)
    if initial := plan.affinity[0]:
        log.debug(f"nsexec: affinity: {sum(1 << number for number in initial):#x}")
    log.debug("child process in init()")
    log.debug(f"setns_init: about to exec {process.args[0]}")


def _end(execution: Execution) -> None:
    signal.pidfd_send_signal(execution.pidfd, signal.SIGKILL)
    os.waitpid(execution.pid, 0)


def build_process(spec: Spec, given: Given) -> Process:
    """The container's own process with the command's options over it, or the file of --process."""
    if path := given.text("process"):
        process = msgspec.json.decode(Path(path).read_bytes(), type=Process)
        if given.flag("tty"):
            process = msgspec.structs.replace(process, terminal=True)
    else:
        if len(given.words) < 2:
            raise InvalidArgument("process args cannot be empty")
        process = _from_options(spec.process or Process(), given)
    if given.text("process-label") or process.selinux_label:
        raise Unsupported("SELinux labels are not supported")
    return process


def _from_options(base: Process, given: Given) -> Process:
    sets = base.capabilities
    if caps := tuple(given.list("cap")):
        sets = sets or Capabilities()
        sets = Capabilities(
            bounding=sets.bounding + caps,
            effective=sets.effective + caps,
            permitted=sets.permitted + caps,
            inheritable=sets.inheritable,
            # what is not inheritable cannot be ambient, capabilities(7)
            ambient=sets.ambient + (caps if sets.inheritable else ()),
        )
    return msgspec.structs.replace(
        base,
        args=tuple(given.words[1:]),
        env=(*base.env, *given.list("env")),
        cwd=given.text("cwd") or base.cwd,
        terminal=given.flag("tty"),
        console_size=None,
        user=_user(base.user, given),
        capabilities=sets,
        no_new_privileges=given.flag("no-new-privs") or base.no_new_privileges,
        apparmor_profile=given.text("apparmor") or base.apparmor_profile,
    )


def _user(base: User, given: Given) -> User:
    user, _colon, group = given.text("user").partition(":")
    more = given.list("additional-gids")
    if not all(each.isdecimal() for each in more):
        raise InvalidArgument(f"--additional-gids: not a number in {', '.join(more)}")
    gids = (*base.additional_gids, *map(int, more))
    base = msgspec.structs.replace(base, additional_gids=gids)
    if not user:
        return base
    if not user.isdecimal() or (group and not group.isdecimal()):
        return msgspec.structs.replace(base, username=given.text("user"))  # our own extension: names
    return msgspec.structs.replace(base, uid=int(user), gid=int(group) if group else base.gid, username="")


class _Groups:
    """--cgroup: opens groups below the container's, for all hierarchies or for those of some controllers."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self._everywhere = ""
        self._by_controller: dict[str, str] = {}
        for text in wanted:
            controllers, colon, path = text.rpartition(":")
            path = os.path.normpath(path.strip("/") or ".")
            if path == ".." or path.startswith("../"):
                raise InvalidArgument(f"--cgroup: {text} is not a sub cgroup path")
            if not colon:
                self._everywhere = path
            for controller in filter(None, controllers.split(",")):
                if layout().find(controller) is None:
                    raise InvalidArgument(f"unknown controller {controller} in --cgroup {text}")
                self._by_controller[controller] = path

    def __bool__(self) -> bool:
        return bool(self._everywhere or self._by_controller)

    def __call__(self, cgroup: str, _init: int) -> list[int]:
        return [self._open(hierarchy, cgroup) for hierarchy in layout().used()]

    def _open(self, hierarchy: Hierarchy, cgroup: str) -> int:
        below = self._everywhere or "."
        for controller in hierarchy.controllers:
            below = self._by_controller.get(controller, below)
        path = os.path.normpath(f"{hierarchy.path(cgroup)}/{below}/cgroup.procs")
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            # 0 is what a process writes to join by itself, cgroups(7)
            raise StartFailed(
                f"error adding pid 0 to cgroups {path}: {words(error)}", errno=error.errno or 0
            ) from error
