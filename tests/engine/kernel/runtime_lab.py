"""Containers without a daemon: every test forks a monitor of its own, and looks at what the container says.

The monitor is a fork of pytest, because spawn_init changes the pid namespace of its caller's later children.
"""

import os
import pickle
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from group_lab import SYSTEMD, Groups

from longshore.oci.runtime_spec import (
    SECCOMP_ANNOTATION,
    Capabilities,
    DeviceRule,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Root,
    Spec,
)
from longshore.runtime import cgroups
from longshore.runtime.bundle import MASKED, MOUNTS, READONLY
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.execution import Execution, spawn_exec
from longshore.runtime.init import Init, spawn_init, warm_up
from longshore.runtime.messages import Launch, OverlayRoot, PlainRoot
from longshore.runtime.warm import DEFAULT_CAPABILITIES

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

BUSYBOX = Path("/bin/busybox")
NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "cgroup")
GROUPS = Groups(f"testruntime{os.getpid()}")  # others may run these tests at the same time
PARENT = f"/longshore/{GROUPS.name}"
Value = TypeVar("Value")


def make_rootfs(path: Path) -> Path:
    """busybox with links for its programs, a few users, and empty folders."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/web"):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (path / "bin/busybox").chmod(0o755)
    for name in subprocess.run(
        [BUSYBOX, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if name != "busybox":
            (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\nodd:x:bad:1::/:/bin/sh\n"
    )
    (path / "etc/group").write_text("root:x:0:\nweb:x:33:\nextra:x:44:other,web\nstaff:x:50:\n")
    (path / "tmp").chmod(0o1777)
    return path


@dataclass
class Result:
    code: int
    out: str
    err: str = ""
    warnings: list[str] = field(default_factory=list)


def make_spec(*args: str, **changes: Any) -> Spec:
    """A container as the daemon would ask for it. `changes` go to the part that has a field of that name."""
    process = Process(
        args=args,
        env=("PATH=/bin",),
        capabilities=Capabilities(
            bounding=DEFAULT_CAPABILITIES, effective=DEFAULT_CAPABILITIES, permitted=DEFAULT_CAPABILITIES
        ),
    )
    linux = Linux(
        namespaces=tuple(map(Namespace, NAMESPACES)),
        resources=Resources(devices=(DeviceRule(allow=True),)),
        masked_paths=MASKED,
        readonly_paths=READONLY,
    )
    spec = Spec(
        process=process,
        root=Root(),
        hostname="box",
        mounts=MOUNTS,
        annotations={SECCOMP_ANNOTATION: "default"},
    )
    for name, value in changes.items():
        if name in Process.__struct_fields__:
            process = msgspec.structs.replace(process, **{name: value})
        elif name in Linux.__struct_fields__:
            linux = msgspec.structs.replace(linux, **{name: value})
        elif name == "readonly":
            spec = msgspec.structs.replace(spec, root=Root(readonly=value))
        else:
            spec = msgspec.structs.replace(spec, **{name: value})
    return msgspec.structs.replace(spec, process=process, linux=linux)


def in_monitor(work: Callable[[], Value]) -> Value:
    """Run it in a fork; its value or exception comes back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            try:
                answer: tuple[bool, Any] = (True, work())
            except BaseException as error:  # carried to the test
                answer = (False, error)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    assert data, "the monitor died"
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


class Box:
    """One root on disk; containers of it one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = make_rootfs(path / "layers/base")
        (path / "layers/top").mkdir()
        self.writable = 0

    def overlay(self) -> OverlayRoot:
        self.writable += 1
        here = Path(tempfile.mkdtemp(dir=self.path))
        (here / "upper").mkdir(parents=True)
        (here / "work").mkdir()
        return OverlayRoot(
            str(self.path / "layers"), ("top", "base"), str(here / "upper"), str(here / "work")
        )

    def launch(self, spec: Spec, root: OverlayRoot | PlainRoot | None = None) -> Launch:
        identity = f"{os.getpid()}-{self.writable}"
        if not spec.linux.cgroups_path:
            linux = msgspec.structs.replace(spec.linux, cgroups_path=GROUPS.spec_path(identity))
            spec = msgspec.structs.replace(spec, linux=linux)
        return Launch(identity, spec, root or self.overlay(), "", "", systemd_cgroup=SYSTEMD)

    def run(self, *args: str, root: OverlayRoot | PlainRoot | None = None, **changes: Any) -> Result:
        """Start, read everything, wait."""
        launch = self.launch(make_spec(*args, **changes), root)

        def work() -> Result:
            init = spawn_init(launch)
            init.proceed()
            try:
                return collect(init, init.warnings)
            finally:
                cgroups.kill_all(init.cgroup)
                cgroups.remove(init.cgroup)

        return in_monitor(work)

    def script(self, text: str, **changes: Any) -> Result:
        return self.run("/bin/sh", "-c", text, **changes)

    def with_running(self, work: Callable[["Running"], Value], *args: str, **changes: Any) -> Value:
        """Call work with a running container, inside its monitor; its value comes back."""
        launch = self.launch(make_spec(*(args or ("sleep", "60")), **changes))

        def monitor() -> Value:
            init = spawn_init(launch)
            init.proceed()
            try:
                return work(Running(init, launch))
            finally:
                init.abandon()

        return in_monitor(monitor)


def collect(process: Init | Execution, warnings: list[str] | None = None) -> Result:
    out = _drain(process.console_fd if process.console_fd is not None else process.stdout_fd)
    err = _drain(process.stderr_fd)
    _pid, status = os.waitpid(process.pid, 0)
    return Result(os.waitstatus_to_exitcode(status), out, err, warnings or [])


def _drain(fd: int | None) -> str:
    data = b""
    while fd is not None:
        try:
            part = os.read(fd, 65536)
        except OSError:
            break  # EIO: the other end of the terminal is closed
        if not part:
            break
        data += part
    return data.decode(errors="replace")


@dataclass
class Running:
    init: Init
    launch: Launch

    def execute(self, *args: str, **changes: Any) -> Result:
        stdin = changes.pop("stdin", None)
        process = make_spec(*args, **changes).process
        assert process is not None
        execution = spawn_exec(
            self.init.pidfd,
            self.launch.spec,
            process,
            container_id=self.launch.id,
            cgroup=self.init.cgroup,
            stdin=stdin is not None,
        )
        if execution.stdin_fd is not None:
            os.write(execution.stdin_fd, stdin or b"")
            os.close(execution.stdin_fd)
        return collect(execution)

    def kill(self, number: int = signal.SIGKILL) -> int:
        signal.pidfd_send_signal(self.init.pidfd, number)
        return os.waitstatus_to_exitcode(os.waitpid(self.init.pid, 0)[1])


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def namespace(name: str, pid: int | str = "self") -> str:
    return str(Path(f"/proc/{pid}/ns/{name}").readlink())


def host_state() -> dict[str, Any]:
    """Everything a failed start could leave behind on the host."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "cgroups": GROUPS.folders(),
        "descriptors": open_descriptors(),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


@contextmanager
def cgroup_parent() -> Iterator[None]:
    """Remove what the containers of these tests share."""
    try:
        yield
    finally:
        GROUPS.clean()
        # longshore-oci makes groups in hierarchies too that we do not use
        cgroups.remove_empty(hierarchy.path(PARENT) for hierarchy in layout().hierarchies)


def pytest_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Body of the fixture `box` that each test file declares."""
    warm_up()
    with cgroup_parent():
        yield Box(tmp_path_factory.mktemp("box"))


def bind(source: Path, destination: str, *options: str) -> Mount:
    return Mount(destination, "bind", str(source), options or ("rbind", "rprivate"))
