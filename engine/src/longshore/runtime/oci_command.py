"""`longshore-oci`: the runtime as a command with the interface of runc, for bundles on disk.

`create` leaves a keeper behind, a process that holds the waiting init and listens on start.sock; `start` talks to
it, it lets the init go and ends, so that the init's next parent is the caller's subreaper (conmon, containerd-shim).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import select
import shutil
import signal
import socket
import sys
import termios
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from longshore.errors import Conflict, EngineError, InvalidArgument, NotFound, StartFailed
from longshore.oci.runtime_spec import Process, Spec, User, decode_spec, encode_spec
from longshore.runtime import cgroups
from longshore.runtime.bundle import default_spec, features
from longshore.runtime.execution import Execution, spawn_exec
from longshore.runtime.init import Init, spawn_init
from longshore.runtime.messages import Launch, PlainRoot

_DEFAULT_ROOT = "/run/longshore-oci"
_INTERNAL = 1


class State(msgspec.Struct, rename="camel"):
    """What is remembered between two commands; `started` is the start time of the pid, which tells it from a later
    process of the same number.
    """

    id: str
    bundle: str
    pid: int
    started: int
    created: str
    spec: Spec


@dataclass(slots=True)
class Store:
    root: Path

    def folder(self, container_id: str) -> Path:
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise InvalidArgument(f'invalid container id "{container_id}"')
        return self.root / container_id

    def load(self, container_id: str) -> State:
        try:
            data = (self.folder(container_id) / "state.json").read_bytes()
        except FileNotFoundError:
            raise NotFound(f'container "{container_id}" does not exist') from None
        return msgspec.json.decode(data, type=State)

    def save(self, state: State) -> None:
        path = self.folder(state.id) / "state.json"
        temporary = path.with_suffix(".new")
        temporary.write_bytes(msgspec.json.encode(state))
        temporary.rename(path)

    def all(self) -> list[State]:
        return [self.load(path.parent.name) for path in sorted(self.root.glob("*/state.json"))]

    def socket(self, container_id: str) -> Path:
        return self.folder(container_id) / "start.sock"

    def status(self, state: State) -> str:
        if start_time(state.pid) != state.started:
            return "stopped"
        return "created" if self.socket(state.id).exists() else "running"


def start_time(pid: int) -> int:
    """Field 22 of /proc/pid/stat; 0 for a process that is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point. Errors go to standard error as one line, code 1; `run` and `exec` give the program's code."""
    arguments = _parser().parse_args(argv)
    store = Store(Path(arguments.root))
    try:
        return arguments.run(store, arguments) or 0
    except EngineError as error:
        print(f"longshore-oci: {error}", file=sys.stderr)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"longshore-oci: {str(error)[:1].lower()}{str(error)[1:]}", file=sys.stderr)
    return _INTERNAL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("longshore-oci", description="run OCI bundles")
    parser.add_argument("--root", default=_DEFAULT_ROOT, help="where states are kept")
    # Callers written for runc pass these; the log goes to standard error here.
    parser.add_argument("--log", help=argparse.SUPPRESS)
    parser.add_argument("--log-format", help=argparse.SUPPRESS)
    parser.add_argument("--systemd-cgroup", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Any, text: str, *, container: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text)
        sub.set_defaults(run=run)
        if container:
            sub.add_argument("id")
        return sub

    for name, run, text in (("create", create, "make a container"), ("run", run_, "make, start and wait")):
        sub = command(name, run, text)
        sub.add_argument("--bundle", "-b", default=".")
        sub.add_argument("--pid-file")
        sub.add_argument("--console-socket")
        sub.add_argument("--no-pivot", "--no-new-keyring", action="store_true", help=argparse.SUPPRESS)
        if name == "run":
            sub.add_argument("--detach", "-d", action="store_true")
    command("start", start, "start a created container")
    command("state", show_state, "print the state")
    sub = command("kill", kill, "send a signal")
    sub.add_argument("signal", nargs="?", default="TERM")
    sub.add_argument("--all", "-a", action="store_true")
    command("delete", delete, "remove a stopped container").add_argument("--force", "-f", action="store_true")
    command("pause", pause, "stop all processes")
    command("resume", resume, "let them run on")
    sub = command("list", list_, "list containers", container=False)
    sub.add_argument("--format", "-f", choices=("table", "json"), default="table")
    sub.add_argument("--quiet", "-q", action="store_true")
    sub = command("exec", execute, "run one more process")
    sub.add_argument("--cwd", default="")
    sub.add_argument("--env", "-e", action="append", default=[])
    sub.add_argument("--user", "-u", default="")
    sub.add_argument("--tty", "-t", action="store_true")
    sub.add_argument("--detach", "-d", action="store_true")
    sub.add_argument("--process", "-p")
    sub.add_argument("--pid-file")
    sub.add_argument("--console-socket")
    sub.add_argument("args", nargs=argparse.REMAINDER)
    command("features", show_features, "what is supported", container=False)
    sub = command("spec", write_spec, "write a config.json to start from", container=False)
    sub.add_argument("--bundle", "-b", default=".")
    return parser


# Making and starting


def create(store: Store, arguments: argparse.Namespace) -> None:
    """Fork the keeper and wait for its word."""
    bundle = Path(arguments.bundle).absolute()
    try:
        spec = decode_spec((bundle / "config.json").read_bytes())
    except FileNotFoundError:
        raise NotFound(f'"{bundle}" has no config.json') from None
    folder = store.folder(arguments.id)
    folder.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o711)
    except FileExistsError:
        raise Conflict(f'container "{arguments.id}" exists already') from None
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        _keep(store, arguments, spec, bundle, theirs)
    theirs.close()
    answer = ours.makefile("rb").read()
    if answer != b"ok":
        shutil.rmtree(folder, ignore_errors=True)
        raise StartFailed(answer.decode() or "the keeper died")


def _keep(
    store: Store, arguments: argparse.Namespace, spec: Spec, bundle: Path, parent: socket.socket
) -> NoReturn:
    code = 1
    try:
        root = bundle / (spec.root.path if spec.root else "rootfs")
        launch = Launch(arguments.id, spec, PlainRoot(str(root)), "", "")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(store.socket(arguments.id)))
        listener.listen()
        init = spawn_init(launch, stdio=(0, 1, 2))
        try:
            init.wait_prepared()
            _hand_over_console(init, arguments.console_socket)
            created = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
            store.save(State(arguments.id, str(bundle), init.pid, start_time(init.pid), created, spec))
            if arguments.pid_file:
                Path(arguments.pid_file).write_text(str(init.pid))
        except BaseException:
            init.abandon()
            raise
        parent.send(b"ok")
        parent.close()
        code = _serve_start(listener, init, store.socket(arguments.id))
    except EngineError as error:
        parent.send(str(error).encode())
    except (OSError, ValueError) as error:
        parent.send(f"{type(error).__name__}: {error}".encode())
    finally:
        os._exit(code)


def _hand_over_console(init: Init | Execution, path: str | None) -> None:
    if init.console_fd is None:
        return
    if not path:
        raise InvalidArgument("a terminal needs --console-socket here")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        socket.send_fds(peer, [b"/dev/ptmx"], [init.console_fd])


def _serve_start(listener: socket.socket, init: Init, path: Path) -> int:
    """Wait for `start`, or for the death of the init."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)  # whoever reads our output must see its end
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(init.pidfd, select.POLLIN)
    ready = [fd for fd, _event in poll.poll()]
    if listener.fileno() not in ready:
        path.unlink(missing_ok=True)
        return 0
    peer, _address = listener.accept()
    path.unlink(missing_ok=True)
    try:
        init.proceed()
        peer.send(b"ok")
        return 0
    except EngineError as error:
        peer.send(str(error).encode())
        return 1


def start(store: Store, arguments: argparse.Namespace) -> None:
    state = store.load(arguments.id)
    if store.status(state) != "created":
        raise Conflict(f'container "{state.id}" is not in the state created')
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(store.socket(state.id)))
        answer = peer.makefile("rb").read()
    if answer != b"ok":
        raise StartFailed(answer.decode() or "the keeper died")


def run_(store: Store, arguments: argparse.Namespace) -> int:
    """Make, start, wait, delete; the code is the program's. With --detach it stays."""
    if arguments.detach:
        create(store, arguments)
        start(store, arguments)
        return 0
    bundle = Path(arguments.bundle).absolute()
    spec = decode_spec((bundle / "config.json").read_bytes())
    folder = store.folder(arguments.id)
    folder.mkdir(mode=0o711, parents=True)
    try:
        root = bundle / (spec.root.path if spec.root else "rootfs")
        init = spawn_init(Launch(arguments.id, spec, PlainRoot(str(root)), "", ""), stdio=(0, 1, 2))
        created = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        store.save(State(arguments.id, str(bundle), init.pid, start_time(init.pid), created, spec))
        if arguments.pid_file:
            Path(arguments.pid_file).write_text(str(init.pid))
        init.proceed()
        code = _accompany(init)
        cgroups.kill_all(init.cgroup)
        cgroups.remove(init.cgroup)
        return code
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _accompany(process: Init | Execution) -> int:
    """Pass signals and terminal bytes until the process ends; its exit code, 128+n after a signal."""

    def forward(number: int, _frame: object) -> None:
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass

    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    ):
        signal.signal(number, forward)
    if process.console_fd is not None:
        _relay(process.console_fd, process.pidfd)
    _pid, status = os.waitpid(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _relay(console: int, pidfd: int) -> None:
    """Copy between our terminal and the container's."""
    raw = os.isatty(0)
    before = termios.tcgetattr(0) if raw else []
    poll = select.poll()
    for fd in (0, console, pidfd):
        poll.register(fd, select.POLLIN)
    try:
        if raw:
            tty.setraw(0)
            termios.tcsetwinsize(console, termios.tcgetwinsize(0))
        while True:
            ready = {fd for fd, _events in poll.poll()}
            if console in ready:
                try:
                    data = os.read(console, 65536)
                except OSError:
                    return  # EIO: nobody has the other end open
                while data:
                    data = data[os.write(1, data) :]
            elif pidfd in ready:
                return
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    poll.unregister(0)
                    data = b"\x04"
                os.write(console, data)
    finally:
        if raw:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def execute(store: Store, arguments: argparse.Namespace) -> int:
    state = store.load(arguments.id)
    if store.status(state) != "running":
        raise Conflict(f'container "{state.id}" is not running')
    base = state.spec.process or Process()
    if arguments.process:
        process = msgspec.json.decode(Path(arguments.process).read_bytes(), type=Process)
    else:
        args = arguments.args[1:] if arguments.args[:1] == ["--"] else arguments.args
        process = msgspec.structs.replace(
            base,
            args=tuple(args),
            env=(*base.env, *arguments.env),
            cwd=arguments.cwd or base.cwd,
            terminal=arguments.tty,
            user=User(username=arguments.user) if arguments.user else base.user,
        )
    pidfd = os.pidfd_open(state.pid)
    if start_time(state.pid) != state.started:
        raise Conflict(f'container "{state.id}" is not running')
    execution = spawn_exec(pidfd, state.spec, process, container_id=state.id, stdio=(0, 1, 2))
    if arguments.pid_file:
        Path(arguments.pid_file).write_text(str(execution.pid))
    if arguments.console_socket:
        _hand_over_console(execution, arguments.console_socket)
        os.close(execution.console_fd or -1)
        execution.console_fd = None
    if arguments.detach:
        return 0
    return _accompany(execution)


# Looking and ending


def _public(store: Store, state: State) -> dict[str, Any]:
    status = store.status(state)
    public: dict[str, Any] = {
        "ociVersion": state.spec.oci_version,
        "id": state.id,
        "status": status,
        "pid": 0 if status == "stopped" else state.pid,
        "bundle": state.bundle,
        "created": state.created,
    }
    if state.spec.annotations:
        public["annotations"] = state.spec.annotations
    return public


def show_state(store: Store, arguments: argparse.Namespace) -> None:
    print(json.dumps(_public(store, store.load(arguments.id)), indent=2))


def list_(store: Store, arguments: argparse.Namespace) -> None:
    states = [_public(store, state) for state in store.all()]
    if arguments.quiet:
        print("\n".join(state["id"] for state in states))
    elif arguments.format == "json":
        print(json.dumps(states))
    else:
        print(f"{'ID':20} {'PID':8} {'STATUS':10} {'BUNDLE':40} CREATED")
        for state in states:
            print("{id:20} {pid:<8} {status:10} {bundle:40} {created}".format(**state))


def parse_signal(text: str) -> int:
    """15, TERM or SIGTERM. Raises InvalidArgument."""
    if text.isdigit() and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise InvalidArgument(f'unknown signal "{text}"') from None


def kill(store: Store, arguments: argparse.Namespace) -> None:
    state = store.load(arguments.id)
    number = parse_signal(arguments.signal)
    if arguments.all:
        cgroups.kill_all(cgroups.cgroup_path(state.spec, state.id), number)
        return
    if not _send(state, number):
        raise Conflict(f'container "{state.id}" is not running')


def _send(state: State, number: int) -> bool:
    try:
        pidfd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return False
    try:
        if start_time(state.pid) != state.started:
            return False
        signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def delete(store: Store, arguments: argparse.Namespace) -> None:
    """Remove what is left. A running container only with --force, which kills it."""
    try:
        state = store.load(arguments.id)
    except NotFound:
        if arguments.force:
            shutil.rmtree(store.folder(arguments.id), ignore_errors=True)
            return
        raise
    status = store.status(state)
    if status not in ("stopped", "created") and not arguments.force:
        raise Conflict(f'container "{state.id}" is not stopped', hint="use --force")
    _send(state, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while start_time(state.pid) == state.started and time.monotonic() < deadline:
        time.sleep(0.002)
    path = cgroups.cgroup_path(state.spec, state.id)
    cgroups.kill_all(path)
    cgroups.remove(path)
    shutil.rmtree(store.folder(state.id), ignore_errors=True)


def pause(store: Store, arguments: argparse.Namespace) -> None:
    state = store.load(arguments.id)
    cgroups.freeze(cgroups.cgroup_path(state.spec, state.id))


def resume(store: Store, arguments: argparse.Namespace) -> None:
    state = store.load(arguments.id)
    cgroups.thaw(cgroups.cgroup_path(state.spec, state.id))


def show_features(_store: Store, _arguments: argparse.Namespace) -> None:
    print(json.dumps(features(), indent=2))


def write_spec(_store: Store, arguments: argparse.Namespace) -> None:
    path = Path(arguments.bundle) / "config.json"
    if path.exists():
        raise Conflict(f'"{path}" exists already')
    path.write_bytes(msgspec.json.format(encode_spec(default_spec()), indent=2) + b"\n")


if __name__ == "__main__":
    from longshore.runtime import sealed

    sys.exit(sealed.main())
