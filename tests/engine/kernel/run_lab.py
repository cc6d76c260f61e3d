"""A place to run containers with a real zygote and nothing else of the engine: no daemon, no network, no database."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
from group_lab import SYSTEMD, Groups
from tests.engine.images import busybox_rootfs

from longshore.oci.runtime_spec import Linux, Mount, Namespace, Process, Resources, Root, Spec
from longshore.runtime import records
from longshore.runtime.client import Monitor, Zygote, read_exit
from longshore.runtime.messages import Exited, Launch, LogTarget, OverlayRoot

MOUNTS = (
    Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
)
NAMESPACES = ("pid", "mount", "ipc", "uts", "network", "cgroup")
ENVIRONMENT = ("PATH=/bin:/usr/bin",)


def process(*args: str, tty: bool = False) -> Process:
    return Process(args=args, env=ENVIRONMENT, terminal=tty)


class Lab:
    """Launches containers below one folder and one cgroup parent; `close()` leaves nothing."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.groups = Groups(f"test{os.getpid()}{name}")
        self.layers = folder / "layers"
        busybox_rootfs(self.layers / "busybox")

    def launch(
        self,
        container_id: str,
        *args: str,
        tty: bool = False,
        stdin_open: bool = False,
        stdin_once: bool = False,
        namespaces: tuple[str, ...] = NAMESPACES,
        resources: Resources | None = None,
    ) -> Launch:
        folder = self.folder / container_id
        for name in ("upper", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        spec = Spec(
            process=process(*args, tty=tty),
            root=Root("rootfs"),
            hostname=container_id if "uts" in namespaces else "",
            mounts=MOUNTS,
            linux=Linux(
                namespaces=tuple(Namespace(kind) for kind in namespaces),
                cgroups_path=self.groups.spec_path(container_id),
                resources=resources,
            ),
        )
        root = OverlayRoot(str(self.layers), ("busybox",), str(folder / "upper"), str(folder / "work"))
        return Launch(
            container_id,
            spec,
            root,
            self.state_dir(container_id),
            self.exit_path(container_id),
            LogTarget(str(folder / "log")),
            stdin_open,
            stdin_once,
            systemd_cgroup=SYSTEMD,
        )

    def state_dir(self, container_id: str) -> str:
        return str(self.folder / container_id / "state")

    def exit_path(self, container_id: str) -> str:
        return str(self.folder / container_id / "exit")

    def exit(self, container_id: str) -> Exited | None:
        return read_exit(self.exit_path(container_id))

    def monitor_pid(self, container_id: str) -> int:
        state = records.read_state(self.state_dir(container_id))
        assert state is not None
        return state.pid

    def log(self, container_id: str) -> list[tuple[str, str]]:
        lines = (self.folder / container_id / "log").read_bytes().splitlines()
        return [(entry["stream"], entry["log"]) for entry in map(msgspec.json.decode, lines)]

    async def run(self, zygote: Zygote, launch: Launch) -> Monitor:
        monitor = await zygote.launch(launch)
        await monitor.start()
        return monitor

    def cgroups(self) -> list[str]:
        """Names of the containers that still have a cgroup somewhere."""
        return self.groups.containers()

    def close(self) -> None:
        self.groups.clean()
        shutil.rmtree(self.folder, ignore_errors=True)


def demultiplex(data: bytes) -> dict[str, bytes]:
    """What came on each stream of Docker's multiplexed format. Fails on a torn frame."""
    streams = {1: b"", 2: b""}
    while data:
        size = int.from_bytes(data[4:8], "big")
        assert data[1:4] == b"\0\0\0" and len(data) >= 8 + size
        streams[data[0]] += data[8 : 8 + size]
        data = data[8 + size :]
    return {"stdout": streams[1], "stderr": streams[2]}


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Look again and again; for things that the kernel does a moment later."""
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
