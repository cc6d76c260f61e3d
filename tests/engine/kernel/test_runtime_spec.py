"""What the runtime specification has beyond what Docker asks for: owners, clocks, hooks, priorities, supervisors."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_lab import MOUNTS, NAMESPACES, Box, Running, host_state, needs_root, pytest_box

from longshore.errors import StartFailed
from longshore.oci.runtime_spec import (
    Hook,
    Hooks,
    IdMapping,
    IoPriority,
    Mount,
    Namespace,
    Personality,
    Scheduler,
    Seccomp,
    SyscallRule,
    TimeOffset,
)

pytestmark = needs_root

OWNERS = (IdMapping(0, 100000, 65536),)
WITH_USER = {
    "namespaces": tuple(map(Namespace, (*NAMESPACES, "user"))),
    "uid_mappings": OWNERS,
    "gid_mappings": OWNERS,
}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


def test_a_user_namespace_owns_the_others(box: Box) -> None:
    result = box.script(
        "id -u; cat /proc/self/uid_map; mount -t tmpfs x /mnt 2>&1 || mkdir -p /tmp/x && mount -t tmpfs x /tmp/x; "
        "stat -c %t:%T /dev/null; hostname; echo $$",
        **WITH_USER,
        annotations={},
        capabilities=None,
    )
    assert result.code in (0, 1)
    lines = result.out.splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[-3:] == ["1:3", "box", "1"]


def test_a_program_runs_beside_in_a_user_namespace(box: Box) -> None:
    def work(running: Running) -> tuple[str, str]:
        seen = running.execute("sh", "-c", "id -u; cat /proc/1/comm").out
        return seen, Path(f"/proc/{running.init.pid}/status").read_text()

    seen, status = box.with_running(work, **WITH_USER)
    assert seen == "0\nsleep\n"
    assert "Uid:\t100000\t100000" in status


def test_a_failed_start_with_a_user_namespace_is_undone(box: Box) -> None:
    before = host_state()
    with pytest.raises(StartFailed, match="executable file not found"):
        box.run("no-such-program", **WITH_USER)
    with pytest.raises(StartFailed, match=r"mappings|uid_map"):
        box.run("true", **{**WITH_USER, "uid_mappings": (IdMapping(0, 1, 10), IdMapping(5, 100, 10))})
    assert host_state() == before


def test_the_owners_of_a_mount_are_mapped(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 7, 8)
    mapping = (IdMapping(0, 1000, 100),)
    mount = Mount("/data", "bind", str(tmp_path), ("bind",), mapping, mapping)
    assert box.run("stat", "-c", "%u:%g", "/data/file", mounts=(*MOUNTS, mount)).out == "1007:1008\n"


@pytest.mark.parametrize("user", [False, True])
def test_a_container_has_clocks_of_its_own(box: Box, user: bool) -> None:
    kinds = (*NAMESPACES, "time", *(("user",) if user else ()))
    changes = {**(WITH_USER if user else {}), "namespaces": tuple(map(Namespace, kinds))}
    offsets = {"monotonic": TimeOffset(7881, 2718281), "boottime": TimeOffset(1337)}

    def work(running: Running) -> str:
        return running.execute("cat", "/proc/self/timens_offsets", "/proc/1/timens_offsets").out

    lines = box.with_running(work, **changes, time_offsets=offsets).splitlines()
    wanted = [["monotonic", "7881", "2718281"], ["boottime", "1337", "0"]]
    assert [line.split() for line in lines] == wanted * 2


def test_hooks_are_told_the_state_in_their_order(box: Box, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def note(name: str) -> tuple[Hook, ...]:
        text = f"echo {name} $(readlink /proc/self/ns/mnt) $(cat) $(readlink /proc/self/ns/pid) >>{log}"
        return (Hook("/bin/sh", ("sh", "-c", text), ("PATH=/usr/bin:/bin",)),)

    inside = (Hook("/bin/sh", ("sh", "-c", "cat >/tmp/inside"), ("PATH=/bin",)),)
    hooks = Hooks(
        prestart=note("prestart"),
        create_runtime=note("createRuntime"),
        create_container=note("createContainer"),
        start_container=inside,
    )
    result = box.script("cat /tmp/inside", hooks=hooks)
    texts = [line.rpartition(" ") for line in log.read_text().splitlines()]
    ours = str(Path("/proc/self/ns/pid").readlink())
    assert [pids == ours for _text, _space, pids in texts] == [True, True, False]
    lines = [text.split(" ", 2) for text, _space, _pids in texts]
    assert [name for name, _namespace, _state in lines] == ["prestart", "createRuntime", "createContainer"]
    here = str(Path("/proc/self/ns/mnt").readlink())
    assert [namespace == here for _name, namespace, _state in lines] == [True, True, False]
    states = [json.loads(state) for _name, _namespace, state in lines]
    assert {state["status"] for state in states} == {"creating"}
    assert states[0]["pid"] > 1
    assert states[2]["pid"] == 1
    assert json.loads(result.out)["pid"] == 1


@pytest.mark.parametrize("point", ["create_runtime", "create_container", "start_container"])
def test_a_hook_that_fails_undoes_the_start(box: Box, point: str) -> None:
    before = host_state()
    hook = Hook("/bin/sh", ("sh", "-c", "echo why >&2; exit 3"), ("PATH=/bin",))
    with pytest.raises(StartFailed, match=r"error running \w+ hook #0: .*exit status 3.*: why"):
        box.run("true", hooks=Hooks(**{point: (hook,)}))
    assert host_state() == before


def test_a_hook_has_only_its_time(box: Box) -> None:
    hook = Hook("/bin/sleep", ("sleep", "100"), timeout=1)
    with pytest.raises(StartFailed, match="did not end within 1 s"):
        box.run("true", hooks=Hooks(create_container=(hook,)))


def test_a_program_has_the_wanted_priorities(box: Box) -> None:
    result = box.script(
        "ionice -p $$; cut -d' ' -f19,41 /proc/self/stat; uname -m",
        scheduler=Scheduler("SCHED_BATCH", nice=5),
        io_priority=IoPriority("IOPRIO_CLASS_BE", 3),
        personality=Personality("LINUX32"),
    )
    priority, numbers, machine = result.out.splitlines()
    assert priority == "best-effort: prio 3"
    assert numbers == "5 3"
    if os.uname().machine == "x86_64":
        assert machine == "i686"


def test_a_tmpfs_shows_what_was_below(box: Box) -> None:
    mount = Mount("/etc", "tmpfs", "tmpfs", ("tmpcopyup",))
    result = box.script("stat -f -c %T /etc; grep -c web /etc/passwd", mounts=(*MOUNTS, mount))
    assert result.out == "tmpfs\n1\n"


def test_a_tmpfs_has_the_mode_of_the_directory_below(box: Box) -> None:
    result = box.script("stat -c %a /tmp", mounts=(*MOUNTS, Mount("/tmp", "tmpfs", "tmpfs")))
    assert result.out == "1777\n"


def test_proc_is_not_mounted_over_a_link(box: Box, tmp_path: Path) -> None:
    for root in (tmp_path / "proc", tmp_path / "elsewhere"):
        root.mkdir()
    with pytest.raises(StartFailed, match="must be mounted on ordinary directory"):
        box.run("true", mounts=(*MOUNTS, Mount("/proc/self", "proc", "proc")))


def test_a_supervisor_answers_for_the_kernel(box: Box, tmp_path: Path) -> None:
    """The helper of runc's suite makes mkdir(2) create another folder."""
    helper = Path(__file__).resolve().parents[2] / "suites/runc/helpers/seccompagent.py"
    path = tmp_path / "agent"
    agent = subprocess.Popen([sys.executable, helper, "-socketfile", path])
    try:
        while not path.exists():
            assert agent.poll() is None
        rules = (SyscallRule(("mkdir", "openat", "read", "close", "execve"), "SCMP_ACT_NOTIFY"),)
        profile = Seccomp("SCMP_ACT_ALLOW", listener_path=str(path), listener_metadata="bar", syscalls=rules)

        def work(running: Running) -> str:
            return running.execute("sh", "-c", "mkdir /tmp/one; cd /tmp; ls -d one*").out

        assert box.with_running(work, seccomp=profile) == "one-bar\n"
    finally:
        agent.kill()
        agent.wait()


def test_without_its_supervisor_nothing_starts(box: Box, tmp_path: Path) -> None:
    before = host_state()
    rules = (SyscallRule(("mkdir",), "SCMP_ACT_NOTIFY"),)
    profile = Seccomp("SCMP_ACT_ALLOW", listener_path=str(tmp_path / "nobody"), syscalls=rules)
    with pytest.raises(StartFailed, match="failed to connect with seccomp agent"):
        box.run("true", seccomp=profile)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "deaf"))
    assert host_state() == before
