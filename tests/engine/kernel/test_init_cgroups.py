"""What a container may use: limits, updates, freezing, the end of everything in its cgroup."""

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_lab import (
    Box,
    Running,
    host_state,
    needs_root,
    pytest_box,
)

from longshore.errors import Conflict, Unsupported
from longshore.oci.runtime_spec import (
    Capabilities,
    Cpu,
    DeviceRule,
    Memory,
    Mount,
    Pids,
    Resources,
)
from longshore.runtime import cgroups
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.cgroup_layout import layout

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


def test_devices_are_refused_by_the_device_cgroup(box: Box) -> None:
    rules = (DeviceRule(allow=False), DeviceRule(True, "c", 10, 58, "r"))
    result = box.script(
        "for n in 1:11 10:58; do mknod /n$n c ${n%:*} ${n#*:}; cat /n$n; done; echo x > /dev/null && echo null",
        resources=Resources(devices=rules),
    )
    assert result.out == "null\n"
    assert "/n1:11': Operation not permitted" in result.err  # /dev/kmsg
    assert "/n10:58': No such device" in result.err  # allowed, and nobody there


RESOURCE_CASES = [
    (Resources(memory=Memory(limit=32 << 20)), "memory", "memory.limit_in_bytes", str(32 << 20)),
    (Resources(pids=Pids(17)), "pids", "pids.max", "17"),
    (Resources(cpu=Cpu(shares=512)), "cpu", "cpu.shares", "512"),
    (Resources(cpu=Cpu(quota=50000, period=100000)), "cpu", "cpu.cfs_quota_us", "50000"),
    (Resources(cpu=Cpu(cpus="0")), "cpuset", "cpuset.cpus", "0"),
]


@pytest.mark.skipif(layout().pure_v2, reason="names of v1 files")
@pytest.mark.parametrize(("resources", "controller", "file", "value"), RESOURCE_CASES)
def test_cgroup_limits(box: Box, resources: Resources, controller: str, file: str, value: str) -> None:
    hierarchy = layout().find(controller)
    if hierarchy is None:
        pytest.skip(f"no {controller} controller")

    def look(running: Running) -> str:
        path = Path(hierarchy.path(running.init.cgroup))
        assert str(running.init.pid) in (path / "cgroup.procs").read_text().split()
        return (path / file).read_text().strip()

    assert box.with_running(look, resources=resources) == value


def test_the_container_sees_its_own_cgroup_as_the_root(box: Box) -> None:
    result = box.script(
        "cat /proc/self/cgroup | cut -d: -f3 | sort -u; touch /sys/fs/cgroup/x; ls /sys/fs/cgroup/*/longshore*"
    )
    assert result.out == "/\n"
    assert "Read-only" in result.err


def test_a_privileged_container_writes_its_own_cgroups(box: Box) -> None:
    """What a nested engine needs: groups below its own, in every hierarchy."""
    from longshore.kernel.capabilities import NAMES

    sets = Capabilities(bounding=NAMES, effective=NAMES, permitted=NAMES)
    mounts = (*MOUNTS[:-1], Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("rw",)))
    result = box.script(
        "cd /sys/fs/cgroup; for h in */; do mkdir $h/inner && echo $h; rmdir $h/inner; done; mknod /n b 7 0 && echo node;"
        "mount -t tmpfs t /tmp && echo mounted",
        mounts=mounts,
        capabilities=sets,
        annotations={},
        masked_paths=(),
        readonly_paths=(),
    )
    names = {f"{hierarchy.name}/" for hierarchy in layout().used()} if not layout().pure_v2 else set()
    assert names <= set(result.out.split())
    assert result.out.endswith("node\nmounted\n")


def test_memory_beyond_the_limit_is_noticed(box: Box) -> None:
    def look(running: Running) -> tuple[int, bool]:
        events, killed = cgroups.open_memory_events(running.init.cgroup), False
        if events is not None:
            waiting = select.poll()
            waiting.register(events, select.POLLPRI)
            while not killed and waiting.poll(60_000):
                try:
                    killed = cgroups.tells_oom_kill(os.pread(events, 4096, 0))
                except OSError:  # systemd was faster
                    killed = True
        code = os.waitstatus_to_exitcode(os.waitpid(running.init.pid, 0)[1])
        return code, killed or cgroups.oom_killed(running.init.cgroup)

    code, killed = box.with_running(
        look,
        "sh",
        "-c",
        "x=0123456789abcdef; while :; do x=$x$x; done",
        resources=Resources(memory=Memory(limit=16 << 20, swap=16 << 20)),
    )
    assert killed and code == -signal.SIGKILL


def test_freezing_stops_time(box: Box) -> None:
    def look(running: Running) -> tuple[bool, bool]:
        assert running.init.stdout_fd is not None
        os.set_blocking(running.init.stdout_fd, False)

        def silent() -> bool:
            time.sleep(0.05)
            try:
                os.read(running.init.stdout_fd or -1, 1 << 20)
                time.sleep(0.1)
                os.read(running.init.stdout_fd or -1, 1 << 20)
            except BlockingIOError:
                return True
            return False

        cgroups.freeze(running.init.cgroup)
        frozen = silent()
        cgroups.thaw(running.init.cgroup)
        return frozen, silent()

    assert box.with_running(look, "sh", "-c", "while :; do echo x; done") == (True, False)


def test_kill_all_reaches_a_fork_bomb(box: Box) -> None:
    def look(running: Running) -> set[int]:
        time.sleep(0.1)
        cgroups.kill_all(running.init.cgroup)
        os.waitpid(running.init.pid, 0)
        return cgroups.processes(running.init.cgroup)

    script = "f() { f & f; }; f"
    assert box.with_running(look, "sh", "-c", script, resources=Resources(pids=Pids(60))) == set()


def test_updates_of_a_running_container(box: Box) -> None:
    def look(running: Running) -> tuple[int | None, int | None]:
        for size in (64, 256, 32):
            memory = Memory(limit=size << 20, swap=size << 20)
            cgroups.update(running.init.cgroup, Resources(memory=memory, pids=Pids(size)))
        stats = cgroups.stats(running.init.cgroup)
        return stats.memory_limit, stats.pids_limit

    assert box.with_running(look, resources=Resources(memory=Memory(limit=128 << 20, swap=128 << 20))) == (
        32 << 20,
        32,
    )


def test_a_missing_controller_is_an_error_only_when_its_limit_is_wanted(box: Box) -> None:
    from longshore.oci.runtime_spec import NetworkResources

    if layout().find("net_cls") or layout().pure_v2:
        pytest.skip("this machine has net_cls, or v2, which warns")
    before = host_state()
    with pytest.raises(Unsupported, match="net_cls"):
        box.run("true", resources=Resources(network=NetworkResources(class_id=5)))
    assert host_state() == before


# Terminals


def test_a_cgroup_in_use_is_not_taken_over(box: Box) -> None:
    def look(running: Running) -> None:
        cgroups.create(running.init.cgroup, None)

    with pytest.raises(Conflict, match="in use"):
        box.with_running(look)
