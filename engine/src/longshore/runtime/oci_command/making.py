"""create, start, run."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable
from pathlib import Path

from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound, StartFailed
from longshore.kernel.namespaces import bear_children_here
from longshore.oci.runtime_spec import Spec, decode_spec
from longshore.runtime import cgroups
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroup_plan import plan_v1, plan_v2
from longshore.runtime.hooks import hooks_of, run_hooks, state
from longshore.runtime.init import Init, await_execution, spawn_init
from longshore.runtime.messages import Launch, PlainRoot
from longshore.runtime.oci_command.console import (
    accompany,
    check_terminal,
    hand_over_console,
    keep_line_ends,
    send_descriptor,
)
from longshore.runtime.oci_command.context import Context
from longshore.runtime.oci_command.ending import remove
from longshore.runtime.oci_command.passing import descriptors_to_pass, write_pid
from longshore.runtime.oci_command.store import State, is_frozen, open_process, start_time
from longshore.runtime.plan import plan_container


def create(context: Context) -> None:
    """Make the container; its first process waits at the gate for `start`."""
    launch = _read(context, detached=True)
    with _NewFolder(context), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gate:
        _at_gate(context, gate.bind)
        gate.listen(1)
        init = _make(context, launch, gate.fileno())
        init.release()


def start(context: Context) -> None:
    held = context.load()
    status = context.store.status(held)
    pidfd = open_process(held)
    if status != "created" or pidfd is None:
        raise Conflict(f'cannot start a container in the {status} state: "{held.id}"')
    init = Init(held.pid, pidfd)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        _at_gate(context, channel.connect)
        context.store.gate(held.id).unlink(missing_ok=True)
        try:
            channel.send(b"G")
            await_execution(channel, init)
        except BrokenPipeError:
            raise StartFailed(f'the process of container "{held.id}" has ended') from None
        finally:
            init.release()
    _after_start(context, held, held.decode_spec())


def run(context: Context) -> int:
    """Make, start, wait, delete; the code is the program's. With --detach it stays."""
    detached = context.given.flag("detach")
    launch = _read(context, detached=detached)
    with _NewFolder(context):
        init = _make(context, launch, -1)
        held = context.load()
        keep_line_ends(init)
        init.proceed()
        context.warn(init.warnings)
        try:
            _after_start(context, held, launch.spec)
        except BaseException:
            remove(context, held)
            raise
    if detached:
        init.release()
        return 0
    code = accompany(init)
    if not context.given.flag("keep"):
        remove(context, held)
    return code


def _read(context: Context, *, detached: bool) -> Launch:
    """Read the bundle and judge all of it; nothing is made before."""
    bundle = os.path.abspath(context.given.text("bundle"))  # noqa: PTH100 (links stay)
    try:
        spec = decode_spec((Path(bundle) / "config.json").read_bytes())
    except FileNotFoundError:
        raise NotFound(f'JSON specification file config.json not found in "{bundle}"') from None
    if not spec.oci_version.startswith("1."):
        raise InvalidArgument(f'ociVersion: "{spec.oci_version}" is not a version 1 of the specification')
    if spec.root is None or not spec.root.path:
        raise InvalidArgument("root.path: the specification has no root")
    if spec.process is None:
        raise InvalidArgument("process: the specification has no process")
    terminal, root = spec.process.terminal, os.path.join(bundle, spec.root.path)  # noqa: PTH118 (links stay)
    descriptors_to_pass(context.given.number("preserve-fds"))  # judged before anything is made
    if listening := os.environ.get("LISTEN_FDS", ""):
        # Socket activation, sd_listen_fds(3): the program is process 1
        environment = (*spec.process.env, f"LISTEN_FDS={listening}", "LISTEN_PID=1")
        spec = _with_environment(spec, environment)
    launch = Launch(
        context.id,
        spec,
        PlainRoot(root),
        "",
        "",
        bundle=bundle,
        systemd_cgroup=context.store.systemd,
    )
    check_terminal(terminal, context.given.text("console-socket"), detached=detached)
    try:
        plan_container(launch)
        if spec.linux.resources is not None:
            (plan_v2 if layout().pure_v2 else plan_v1)(spec.linux.resources)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"invalid configuration: {error.what}", detail=error.detail, hint=error.hint
        ) from error
    return launch


def _with_environment(spec: Spec, environment: tuple[str, ...]) -> Spec:
    from msgspec.structs import replace

    assert spec.process is not None
    return replace(spec, process=replace(spec.process, env=environment))


class _NewFolder:
    """The container's folder below --root; gone again when its block fails."""

    def __init__(self, context: Context) -> None:
        self._store, self._id = context.store, context.id

    def __enter__(self) -> None:
        folder = self._store.folder(self._id)
        folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o711)
        except FileExistsError:
            raise Conflict(f'container with given ID "{self._id}" already exists') from None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self._store.forget(self._id)


def _at_gate(context: Context, act: Callable[[str], None]) -> None:
    """Bind or connect through the folder's descriptor: sun_path holds only 107 bytes (unix(7))."""
    folder = os.open(context.store.folder(context.id), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        act(f"/proc/self/fd/{folder}/{context.store.gate(context.id).name}")
    finally:
        os.close(folder)


def _make(context: Context, launch: Launch, gate: int) -> Init:
    """A prepared first process, told to everybody who wanted to know."""
    given = context.given
    context.log.debug("nsexec container setup")
    extra = descriptors_to_pass(given.number("preserve-fds"))
    shared = _shares_cgroup(context, launch)
    init = spawn_init(launch, stdio=(0, 1, 2), extra=extra, gate=gate, shared_cgroup=shared)
    try:
        context.log.debug(f"child process in init(): pid {init.pid}")
        init.wait_prepared()
        context.log.debug("init: closing the pipe to signal completion")
        if path := given.text("console-socket"):
            hand_over_console(init, path)
        if path := given.text("pidfd-socket"):
            send_descriptor(path, init.pidfd, b"pidfd")
        _save(context, launch, init)
        if path := given.text("pid-file"):
            write_pid(path, init.pid)
        if gate >= 0:
            context.warn(init.warnings)
        return init
    except BaseException:
        init.abandon()
        raise


def _shares_cgroup(context: Context, launch: Launch) -> bool:
    """Whether others are in the container's cgroup already. Raises Conflict for a frozen one: nothing could start."""
    cgroup = cgroups.cgroup_path(launch.spec, launch.id, systemd=launch.systemd_cgroup)
    if is_frozen(cgroup):
        raise Conflict("container's cgroup unexpectedly frozen", detail=cgroup)
    count = len(cgroups.processes(cgroup))
    if count:
        text = f"container's cgroup is not empty: {count} process(es) found"
        if launch.systemd_cgroup:
            raise Conflict(text, detail=cgroup)  # systemd puts no process into a scope that it has started
        context.log.warning(text)
    return bool(count)


def _save(context: Context, launch: Launch, init: Init) -> None:
    import msgspec

    from longshore.oci.runtime_spec import encode_spec

    spec = launch.spec
    assert isinstance(launch.rootfs, PlainRoot)
    created = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
    context.store.save(
        State(
            id=launch.id,
            bundle=launch.bundle,
            rootfs=launch.rootfs.path,
            pid=init.pid,
            started=start_time(init.pid),
            created=created,
            cgroup=init.cgroup,
            oci_version=spec.oci_version,
            annotations=spec.annotations,
            spec=msgspec.Raw(encode_spec(spec)),
            own_pids=any(each.type == "pid" and not each.path for each in spec.linux.namespaces),
        )
    )


def _after_start(context: Context, held: State, spec: Spec) -> None:
    """The poststart hooks; the container ends with one that fails, as runc does it."""
    hooks = hooks_of(spec, "poststart")
    if not hooks:
        return
    bear_children_here()  # the container, which they would be born into, may have ended
    try:
        run_hooks("poststart", hooks, state(spec, held.id, held.bundle, "running", held.pid))
    except EngineError:
        remove(context, held)
        raise
