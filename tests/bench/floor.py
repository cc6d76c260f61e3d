"""The least that a start is in plain Python: the throw-away prototype of the design, nothing checked, nothing kept.

`python -m tests.bench.floor FOLDER` starts one container per line of its standard input and answers with milliseconds:
fork, cgroups, namespaces, a veth pair on a bridge, overlay, proc, pivot_root, execve.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from ipaddress import IPv4Interface
from pathlib import Path

from tests.bench import rows
from tests.bench.peers import Engine

from longshore.kernel import mounts, netlink
from longshore.kernel import namespaces as ns

KINDS = (
    ns.CLONE_NEWNS
    | ns.CLONE_NEWPID
    | ns.CLONE_NEWNET
    | ns.CLONE_NEWIPC
    | ns.CLONE_NEWUTS
    | ns.CLONE_NEWCGROUP
)
BRIDGE, GATEWAY, MAC = "floor0", "10.99.0.1", "02:00:00:00:00:01"


class Prototype:
    def __init__(self, folder: Path) -> None:
        """`folder` has a `root` with a `bin/sleep`."""
        self._folder = folder
        self._number = 1
        ns.unshare(ns.CLONE_NEWNS | ns.CLONE_NEWNET)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        self._route = netlink.NetlinkSocket()
        self._route.perform(netlink.new_bridge(BRIDGE, MAC, 1500))
        self._bridge = netlink.link_index(self._route, BRIDGE)
        self._route.perform(netlink.new_address(self._bridge, IPv4Interface(f"{GATEWAY}/16")))
        self._hierarchies = [path.parent for path in Path("/sys/fs/cgroup").glob("*/cgroup.procs")] or [
            Path("/sys/fs/cgroup")
        ]

    def start(self) -> float:
        """Seconds from nothing to execve(2) of one more container, which is gone on return."""
        self._number += 1
        work = self._folder / str(self._number)
        for name in ("upper", "work", "merged"):
            (work / name).mkdir(parents=True)
        groups = [path / f"longshore-floor-{os.getpid()}" for path in self._hierarchies]
        started = time.perf_counter()
        for group in groups:
            group.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):  # v1 takes no process without
                if (group / name).exists():
                    (group / name).write_text((group.parent / name).read_text())
        ours, theirs = os.pipe()  # close on exec: the end of file says that the program runs
        ready, told = os.pipe()
        go, allow = os.pipe()
        child = os.fork()
        if not child:
            self._become(work, told, go)
        os.close(theirs)
        for group in groups:
            (group / "cgroup.procs").write_text(str(child))
        os.read(ready, 1)
        self._plug(child)
        os.write(allow, b"1")
        os.read(ours, 1)
        seconds = time.perf_counter() - started
        for fd in (ours, ready, told, go, allow):
            os.close(fd)
        for group in groups:
            self._remove(group)
        os.waitpid(child, 0)
        return seconds

    def _become(self, work: Path, told: int, go: int) -> None:
        """The child: enter namespaces; its own child, process one in there, goes on to the program."""
        try:
            ns.unshare(KINDS)
            init = os.fork()
            if init:
                os.closerange(3, 64)  # the end of file must not wait for us
                os.waitpid(init, 0)
                os._exit(0)
            os.write(told, b"1")
            os.read(go, 1)
            mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
            data = f"lowerdir={self._folder}/root,upperdir={work}/upper,workdir={work}/work"
            mounts.mount("overlay", f"{work}/merged", "overlay", 0, data)
            os.chdir(work / "merged")
            Path("proc").mkdir(exist_ok=True)
            mounts.mount("proc", "proc", "proc", 0)
            mounts.pivot_root(".", ".")
            mounts.umount(".", mounts.MNT_DETACH)
            os.execv("/bin/sleep", ["sleep", "1000"])
        finally:
            os._exit(127)

    def _plug(self, child: int) -> None:
        namespace = os.open(f"/proc/{child}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            name = f"floor{self._number}"
            mac = f"02:42:0a:63:{self._number >> 8:02x}:{self._number & 255:02x}"
            self._route.perform(
                netlink.new_veth(
                    name, master=self._bridge, mtu=1500, peer="eth0", peer_mac=mac, netns_fd=namespace
                )
            )
            address = IPv4Interface(f"10.99.{self._number >> 8}.{self._number & 255}/16")
            with netlink.socket_inside(namespace) as inside:
                netlink.configure_inside(inside, "eth0", address, GATEWAY)
        finally:
            os.close(namespace)

    @staticmethod
    def _remove(group: Path) -> None:
        while True:  # until the last process has left
            for pid in (group / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            try:
                group.rmdir()
            except OSError:
                time.sleep(0.005)
            else:
                return


def beside(engine: Engine, rounds: int) -> list[float]:
    """Milliseconds of a start by the engine and by the prototype, in turn; medians."""
    with tempfile.TemporaryDirectory(prefix="floor", dir="/var/tmp") as folder:
        (Path(folder) / "root/bin").mkdir(parents=True)
        for name in ("busybox", "sleep"):
            shutil.copy("/bin/busybox", f"{folder}/root/bin/{name}")
        argv = [
            sys.executable,
            "-m",
            "tests.bench.floor",
            folder,
        ]  # small and with one thread, as the zygote is
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def start(peer: Engine | None) -> float:
                return rows.api_start(peer) if peer else _ask(process)

            return rows.alternately((engine, None), rounds, start)


def _ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    work = Prototype(Path(sys.argv[1]))
    for _line in sys.stdin:
        print(work.start() * 1000, flush=True)


if __name__ == "__main__":
    main()
