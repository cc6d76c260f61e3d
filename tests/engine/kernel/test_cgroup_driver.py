"""The cgroup driver on this machine: groups, limits, devices, what systemd knows about them.

With LONGSHORE_TEST_CGROUP_DRIVER=systemd on a machine that runs systemd, else with cgroupfs; on v1, hybrid and v2.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from group_lab import SYSTEMD
from runtime_lab import Box, Running, make_spec, needs_root, pytest_box

from longshore.errors import Conflict, EngineError, InvalidArgument, StartFailed
from longshore.kernel.namespaces import CLONE_NEWPID, setns
from longshore.oci.runtime_spec import Cpu, DeviceRule, Memory, Pids, Resources
from longshore.runtime import cgroups
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.cgroup_names import parse_scope
from longshore.runtime.init import spawn_init

pytestmark = needs_root
MIB = 1 << 20
DENY = DeviceRule(allow=False)
needs_v2 = pytest.mark.skipif(not layout().pure_v2, reason="needs a machine with cgroup v2 only")
needs_systemd = pytest.mark.skipif(not SYSTEMD, reason="the systemd driver is not under test")


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


def limits_of(cgroup: str) -> dict[str, str]:
    """What the kernel has, in v2's words."""
    v2 = layout().pure_v2
    names = {
        "memory": "memory.max" if v2 else "memory.limit_in_bytes",
        "pids": "pids.max",
        "cpu": "cpu.weight" if v2 else "cpu.shares",
        "cpuset": "cpuset.cpus",
    }
    found: dict[str, str] = {}
    for controller, file in names.items():
        hierarchy = layout().find(controller)
        if hierarchy is not None:
            found[controller] = Path(f"{hierarchy.path(cgroup)}/{file}").read_text().strip()
    return found


def systemctl(*words: str) -> str:
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    setns(
        own, CLONE_NEWPID
    )  # a monitor's children are born in the container's, where systemd cannot see them
    os.close(own)
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=True).stdout


LIMITS = Resources(
    memory=Memory(limit=64 * MIB),
    pids=Pids(50),
    cpu=Cpu(shares=512, cpus="0"),
    devices=(DeviceRule(allow=True),),
)


def test_limits_hold_and_change_also_when_systemd_reads_its_units_again(box: Box) -> None:
    weight = "20" if layout().pure_v2 else "512"
    wanted = {"memory": str(64 * MIB), "pids": "50", "cpu": weight, "cpuset": "0"}

    def work(running: Running) -> None:
        cgroup = running.init.cgroup
        expected = {name: value for name, value in wanted.items() if layout().find(name)}
        assert limits_of(cgroup) == expected
        if SYSTEMD:
            systemctl("daemon-reload")
            assert limits_of(cgroup) == expected
        cgroups.update(cgroup, Resources(memory=Memory(limit=32 * MIB, swap=-1), pids=Pids(40)))
        if SYSTEMD:
            systemctl("daemon-reload")
        changed = expected | {"memory": str(32 * MIB), "pids": "40"}
        assert limits_of(cgroup) == {name: value for name, value in changed.items() if name in expected}

    box.with_running(work, resources=LIMITS)


def test_memory_grows_and_shrinks_in_any_order(box: Box) -> None:
    def work(running: Running) -> list[str]:
        found: list[str] = []
        for limit, swap in ((64, 128), (256, 256), (32, 48), (512, -1), (16, 16)):
            memory = Memory(limit=limit * MIB, swap=swap * MIB if swap > 0 else -1)
            cgroups.update(running.init.cgroup, Resources(memory=memory))
            found.append(limits_of(running.init.cgroup)["memory"])
        cgroups.update(running.init.cgroup, Resources(memory=Memory(limit=-1)))
        return found

    expected = [str(limit * MIB) for limit in (64, 256, 32, 512, 16)]
    assert box.with_running(work, resources=LIMITS) == expected


def test_the_group_goes_with_its_container_and_comes_again(box: Box) -> None:
    """The same name at once, as a restart policy does it."""
    launch = box.launch(make_spec("true", resources=LIMITS))
    for _ in range(3):
        pid = os.fork()
        if not pid:
            try:
                init = spawn_init(launch)
                init.proceed()
                os.waitpid(init.pid, 0)
                cgroups.remove(init.cgroup)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    cgroup = cgroups.cgroup_path(launch.spec, launch.id, systemd=launch.systemd_cgroup)
    assert not [each.mount for each in layout().used() if Path(each.path(cgroup)).exists()]
    if SYSTEMD:
        unit = cgroup.rsplit("/", 1)[-1]
        deadline = time.monotonic() + 10
        while unit in systemctl("list-units", "--all", "--plain"):
            assert time.monotonic() < deadline, "systemd keeps the scope"
            time.sleep(0.1)


def test_a_failed_start_leaves_no_group(box: Box) -> None:
    launch = box.launch(make_spec("true", resources=LIMITS, mounts=()))
    broken = box.launch(make_spec("/no/such/program", resources=LIMITS))
    for each in (launch, broken):
        pid = os.fork()
        if not pid:
            try:
                init = spawn_init(each)
                init.proceed()
                os.waitpid(init.pid, 0)
                cgroups.remove(init.cgroup)
            except EngineError:
                pass
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        cgroup = cgroups.cgroup_path(each.spec, each.id, systemd=each.systemd_cgroup)
        assert not [one.mount for one in layout().used() if Path(one.path(cgroup)).exists()]


def test_a_group_in_use_is_not_shared(box: Box) -> None:
    def work(running: Running) -> str:
        scope = None
        if SYSTEMD:
            named = parse_scope(running.launch.spec.linux.cgroups_path, running.launch.id)
            scope = cgroups.NewScope(named, os.getpid())
        with pytest.raises(Conflict) as caught:
            cgroups.create(running.init.cgroup, None, scope=scope)
        return str(caught.value)

    assert "in use" in box.with_running(work)


def test_an_exec_is_in_the_group(box: Box) -> None:
    def work(running: Running) -> tuple[str, str]:
        hierarchy = layout().find("pids")
        assert hierarchy is not None
        before = Path(f"{hierarchy.path(running.init.cgroup)}/pids.current").read_text()
        seen = running.execute("cat", "/proc/self/cgroup").out
        return before, seen

    before, seen = box.with_running(work)
    assert before.strip() == "1"
    ours = [line for line in seen.splitlines() if "pids" in line or layout().pure_v2]
    assert [line.split(":", 2)[2] for line in ours] == ["/"]  # the root of the container's cgroup namespace


def test_devices_are_what_the_rules_say_together(box: Box) -> None:
    script = (
        "mknod /tmp/r c 1 8 && head -c 1 /tmp/r | wc -c; mknod /tmp/m c 1 1 && cat /tmp/m 2>&1 | head -c 60;"
        "mknod /tmp/k c 1 11; (echo hello > /tmp/k) 2>/dev/null && echo written; head -c 1 /tmp/k >/dev/null 2>&1 && echo read"
    )
    write_only = DeviceRule(True, "c", 1, 11, "w")
    done = box.script(script, resources=Resources(devices=(DENY, write_only)))
    assert done.out.splitlines()[0] == "1" and "not permitted" in done.out
    assert "written" in done.out and "read\n" not in done.out.replace("not permitted", "")
    with pytest.raises(InvalidArgument, match="wider rule"):
        loops = DeviceRule(True, "b", 7, None, "rwm")
        box.run("true", resources=Resources(devices=(DENY, loops, DeviceRule(False, "b", 7, 0, "w"))))


def test_an_oom_kill_of_any_process_is_seen(box: Box) -> None:
    """The first process lives on; only its child was too large."""

    def work(running: Running) -> tuple[bool, bool]:
        before = cgroups.oom_killed(running.init.cgroup)
        running.execute("sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; true")
        return before, cgroups.oom_killed(running.init.cgroup)

    memory = Memory(limit=16 * MIB, swap=16 * MIB)
    assert box.with_running(work, resources=Resources(memory=memory, devices=(DeviceRule(allow=True),))) == (
        False,
        True,
    )


@needs_v2
def test_below_a_threaded_group_only_threaded_controllers_work(box: Box) -> None:
    if SYSTEMD:
        pytest.skip("scopes are domains")
    parent = Path(f"/sys/fs/cgroup/longshore-threaded-{os.getpid()}")
    parent.mkdir()
    try:
        (parent / "a").mkdir()
        (parent / "a/cgroup.type").write_text("threaded")
        name = f"/{parent.name}/b"
        with pytest.raises(StartFailed, match="domain controllers"):
            cgroups.create(name, Resources(memory=Memory(limit=64 * MIB)))
        assert not (parent / "b").exists() or (parent / "b").rmdir() is None
        cgroups.create(name, Resources(pids=Pids(10)))
        assert (parent / "b/cgroup.type").read_text().strip() == "threaded"
        assert (parent / "b/pids.max").read_text().strip() == "10"
        cgroups.remove(name)
    finally:
        for path in (parent / "b", parent / "a", parent):
            if path.exists():
                path.rmdir()


@needs_v2
def test_processes_of_groups_below_are_found_frozen_and_killed(box: Box) -> None:
    def work(running: Running) -> tuple[int, int]:
        base = Path(layout().hierarchies[0].path(running.init.cgroup))
        (base / "inner").mkdir()
        (base / "inner/cgroup.procs").write_text(str(running.init.pid))
        count = len(cgroups.processes(running.init.cgroup))
        cgroups.freeze(running.init.cgroup)
        cgroups.thaw(running.init.cgroup)
        assert running.execute("true").code == 0  # beside the first process, where it is now
        cgroups.kill_all(running.init.cgroup)
        os.waitpid(running.init.pid, 0)
        return count, len(cgroups.processes(running.init.cgroup))

    assert box.with_running(work) == (1, 0)


@needs_systemd
def test_systemd_knows_the_container_and_its_properties(box: Box) -> None:
    annotations = {
        "org.systemd.property.TimeoutStopSec": "uint64 7",
        "org.systemd.property.CollectMode": "'inactive'",
    }

    def work(running: Running) -> dict[str, str]:
        unit = running.init.cgroup.rsplit("/", 1)[-1]
        lines = systemctl(
            "show",
            unit,
            "-p",
            "Description,Slice,Delegate,MemoryMax,TasksMax,TimeoutStopUSec,CollectMode,ControlGroup",
        )
        return dict(line.split("=", 1) for line in lines.splitlines())

    shown = box.with_running(work, resources=LIMITS, annotations=annotations)
    assert shown["Slice"] == "system.slice" and shown["Delegate"] == "yes"
    assert shown["MemoryMax"] == str(64 * MIB) and shown["TasksMax"] == "50"
    assert shown["TimeoutStopUSec"] == "7s" and shown["CollectMode"] == "inactive"


@needs_systemd
def test_a_property_that_systemd_does_not_know_is_refused(box: Box) -> None:
    with pytest.raises(EngineError, match="NoSuchThing"):
        box.run("true", annotations={"org.systemd.property.NoSuchThing": "true"})
