"""A container from its specification: what is inside, what its program may do, and what the host sees."""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_lab import (
    NAMESPACES,
    Box,
    Running,
    host_state,
    in_monitor,
    make_spec,
    namespace,
    needs_root,
    open_descriptors,
    pytest_box,
)

from longshore.errors import EngineError, InvalidArgument, StartFailed
from longshore.oci.runtime_spec import (
    INIT_ANNOTATION,
    Capabilities,
    Cpu,
    Mount,
    Namespace,
    Resources,
    Rlimit,
    User,
)
from longshore.oci.runtime_spec import (
    Box as Size,
)
from longshore.runtime import cgroups
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.init import spawn_init
from longshore.runtime.messages import PlainRoot

pytestmark = needs_root


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


def test_the_program_is_process_one_in_namespaces_of_its_own(box: Box) -> None:
    names = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
    result = box.script(f"echo $$; hostname; for n in {' '.join(names)}; do readlink /proc/self/ns/$n; done")
    pid, hostname, *namespaces = result.out.split()
    assert (result.code, pid, hostname) == (0, "1", "box")
    for name, inside in zip(names, namespaces, strict=True):
        assert inside != namespace(name), name


def test_the_exit_code_and_both_streams_arrive(box: Box) -> None:
    result = box.script("echo to-out; echo to-err >&2; exit 42")
    assert (result.code, result.out, result.err) == (42, "to-out\n", "to-err\n")


def test_a_signal_kills_it(box: Box) -> None:
    assert box.with_running(lambda running: running.kill()) == -signal.SIGKILL


def test_namespaces_of_another_process_are_joined(box: Box) -> None:
    def look(running: Running) -> tuple[str, str, str]:
        pid = running.init.pid
        namespaces = (
            *(Namespace(kind) for kind in ("pid", "mount", "uts", "cgroup")),
            Namespace("network", f"/proc/{pid}/ns/net"),
            Namespace("ipc", f"/proc/{pid}/ns/ipc"),
        )
        wanted = " ".join(namespace(name, pid) for name in ("net", "ipc"))
        uts = namespace("uts", pid)
        other = box.script(
            "echo $(readlink /proc/self/ns/net) $(readlink /proc/self/ns/ipc)", namespaces=namespaces
        )
        return wanted, other.out.strip(), uts

    wanted, found, _uts = box.with_running(look)
    assert wanted == found


def test_the_network_namespace_is_handed_over_before_the_program_runs(box: Box) -> None:
    launch = box.launch(make_spec("true"))

    def look() -> tuple[str, str, str]:
        init = spawn_init(launch)
        try:
            assert init.netns_fd is not None and init.netlink_fd is not None
            theirs = str(Path(f"/proc/self/fd/{init.netns_fd}").readlink())
            return theirs, namespace("net", init.pid), namespace("net")
        finally:
            init.abandon()

    handed, inside, ours = in_monitor(look)
    assert handed == inside != ours


def test_capabilities_and_filter_are_what_was_asked(box: Box) -> None:
    names = ("CAP_CHOWN", "CAP_NET_BIND_SERVICE")
    sets = Capabilities(
        bounding=names, effective=names, permitted=names, inheritable=names[:1], ambient=names[:1]
    )
    status = box.script("cat /proc/self/status", capabilities=sets, no_new_privileges=True).out
    values = dict(line.split(":", 1) for line in status.splitlines())
    bits = {name: int(values[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert bits == {
        "CapInh": 1,
        "CapPrm": 1 | 1 << 10,
        "CapEff": 1 | 1 << 10,
        "CapBnd": 1 | 1 << 10,
        "CapAmb": 1,
    }
    assert (values["Seccomp"].strip(), values["NoNewPrivs"].strip()) == ("2", "1")


USERS = [
    (User(username="web"), "33:33:33 44 /home/web 0000000000000000"),
    (User(username="web:staff"), "33:50:50 /home/web 0000000000000000"),
    (User(username="1234"), "1234:0:0 / 0000000000000000"),
    (User(username="0"), "0:0:0 /root 00000000a80425fb"),
    (User(username="web", additional_groups=("staff", "77")), "33:33:33 44 50 77 /home/web 0000000000000000"),
    (User(uid=5, gid=6, additional_gids=(7, 8)), "5:6:6 7 8 / 0000000000000000"),
]


@pytest.mark.parametrize(("user", "expected"), USERS, ids=[f"{u.username or u.uid}" for u, _e in USERS])
def test_users_are_resolved_inside(box: Box, user: User, expected: str) -> None:
    text = "echo $(id -u):$(id -g):$(id -G) $HOME $(grep CapEff /proc/self/status | cut -f2)"
    assert box.script(text, user=user).out.strip() == expected


def test_a_user_can_open_its_standard_output(box: Box) -> None:
    assert box.script("echo again > /dev/stdout", user=User(username="web")).out == "again\n"


def test_limits_and_umask(box: Box) -> None:
    limits = (Rlimit("RLIMIT_NOFILE", 100, 200), Rlimit("RLIMIT_CORE", 0, 0))
    result = box.script(
        "ulimit -n; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj",
        rlimits=limits,
        user=User(umask=0o027),
        oom_score_adj=500,
    )
    assert result.out.split() == ["100", "200", "0", "0027", "500"]


def test_a_limit_above_what_this_process_may_give_is_lowered_with_a_warning(box: Box) -> None:
    import resource

    launch = box.launch(
        make_spec("sh", "-c", "ulimit -Hn", rlimits=(Rlimit("RLIMIT_NOFILE", 1 << 20, 1 << 20),))
    )

    def monitor() -> tuple[bytes, list[str]]:
        from longshore.kernel import capabilities

        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
        effective, permitted, inheritable = capabilities.capget()
        without = ~(1 << capabilities.NUMBERS["CAP_SYS_RESOURCE"])
        capabilities.capset(effective & without, permitted & without, inheritable)
        init = spawn_init(launch)
        init.proceed()
        assert init.stdout_fd is not None
        data = os.read(init.stdout_fd, 100)
        warnings = init.warnings
        init.abandon()
        return data, warnings

    data, warnings = in_monitor(monitor)
    assert data == b"512\n"
    assert len(warnings) == 1 and "lowered to 512:512" in warnings[0]


def test_ignored_signals_and_masks_are_not_inherited(box: Box) -> None:
    status = box.run("grep", "-E", "Sig(Ign|Blk)", "/proc/self/status").out.split()
    assert status == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_sysctls_of_the_containers_namespaces(box: Box) -> None:
    result = box.script(
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax /proc/sys/net/ipv4/conf/lo/forwarding",
        sysctl={
            "net.ipv4.ip_unprivileged_port_start": "77",
            "kernel.shmmax": "123456",
            "net.ipv4.conf.lo.forwarding": "1",
        },
    )
    assert result.out.split() == ["77", "123456", "1"]


def test_a_sysctl_that_does_not_exist_names_itself(box: Box) -> None:
    with pytest.raises(StartFailed, match=r'setting sysctl "net\.no\.such"'):
        box.run("true", sysctl={"net.no.such": "1"})


NESTED = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from runtime_lab import Box, cgroup_parent
from longshore.oci.runtime_spec import DeviceRule, Pids, Resources
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder, cgroup_parent():
    resources = Resources(pids=Pids(9), devices=(DeviceRule(False), DeviceRule(True, "c", 1, 3)))
    result = Box(Path(folder)).script("echo $$ in $(hostname); mknod /k c 1 11; cat /k", resources=resources)
    print(result.code, result.out, result.err)
"""


def test_an_engine_runs_inside_a_privileged_container(box: Box, tmp_path: Path) -> None:
    from longshore.kernel.capabilities import NAMES

    sets = Capabilities(bounding=NAMES, effective=NAMES, permitted=NAMES)
    mounts = (*MOUNTS[:-1], Mount("/sys/fs/cgroup", "cgroup", "cgroup", ("rw",)))
    result = box.run(
        sys.executable,
        "-c",
        NESTED,
        str(Path(__file__).parent),
        str(tmp_path),
        root=PlainRoot("/"),
        mounts=mounts,
        capabilities=sets,
        annotations={},
        masked_paths=(),
        readonly_paths=(),
    )
    assert "1 in box" in result.out, result.err
    assert "/k': Operation not permitted" in result.out


def test_the_tiny_init_shares_the_terminal(box: Box) -> None:
    def look(running: Running) -> tuple[int, bytes]:
        assert running.init.console_fd is not None
        ready = os.read(running.init.console_fd, 100)
        os.write(running.init.console_fd, b"\x03")
        code = os.waitstatus_to_exitcode(os.waitpid(running.init.pid, 0)[1])
        return code, ready + os.read(running.init.console_fd, 1000)

    script = (
        "trap 'echo once; n=1$n' INT; echo ready; while test -z $n; do sleep 0.05; done; sleep 0.1; exit $n"
    )
    code, out = box.with_running(
        look, "sh", "-c", script, terminal=True, annotations={INIT_ANNOTATION: "true"}
    )
    assert (code, out.count(b"once")) == (1, 1)


def test_a_terminal(box: Box) -> None:
    result = box.run(
        "sh", "-c", "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; stat -c %t /dev/console; ps -o tty,pid | tail -1 | cut -c1-6",
        terminal=True,
        console_size=Size(24, 81),
    )  # fmt: skip
    assert result.out.replace("\r", "").splitlines()[:4] == ["/dev/pts/0", "24 81", "all", "88"]


def test_the_terminal_signals_the_foreground(box: Box) -> None:
    def look(running: Running) -> int:
        assert running.init.console_fd is not None
        os.read(running.init.console_fd, 100)
        os.write(running.init.console_fd, b"\x03")
        return os.waitstatus_to_exitcode(os.waitpid(running.init.pid, 0)[1])

    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.05; done"
    assert box.with_running(look, "sh", "-c", script, terminal=True) == 9


# More processes


def test_exec_joins_everything(box: Box) -> None:
    def look(running: Running) -> tuple[str, str]:
        names = ("pid", "net", "mnt", "ipc", "uts", "cgroup")
        text = " ".join(f"/proc/self/ns/{name}" for name in names)
        inside = running.execute(
            "sh", "-c", f"for n in {text}; do readlink $n; done; cut -d: -f3 /proc/self/cgroup | sort -u"
        ).out
        return inside, "\n".join(namespace(name, running.init.pid) for name in names) + "\n/\n"

    inside, wanted = box.with_running(look)
    assert inside == wanted


def test_exec_with_input_user_directory_and_terminal(box: Box) -> None:
    def look(running: Running) -> list[str]:
        return [
            running.execute("cat", stdin=b"through\n").out,
            running.execute("sh", "-c", "id -un; pwd; umask", user=User(username="web"), cwd="/home/web").out,
            running.execute("sh", "-c", "tty; id -u", user=User(username="web"), terminal=True).out,
            str(running.execute("sh", "-c", "exit 3").code),
        ]

    assert box.with_running(look) == ["through\n", "web\n/home/web\n0022\n", "/dev/pts/0\r\n33\r\n", "3"]


def test_exec_after_the_end_is_an_error(box: Box) -> None:
    def look(running: Running) -> None:
        running.kill()
        running.execute("true")

    with pytest.raises(StartFailed, match="container is not running"):
        box.with_running(look)


def test_an_exec_that_nobody_could_watch_is_ended(box: Box) -> None:
    def look(running: Running) -> str:
        def refuse(pid: int, flags: int = 0) -> int:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        given, os.pidfd_open = os.pidfd_open, refuse  # in the forked monitor alone
        with pytest.raises(StartFailed, match="too many open files"):
            running.execute("sleep", "1000")
        os.pidfd_open = given
        return running.execute("ps", "-o", "args").out

    assert "sleep 1000" not in box.with_running(look)


WORDS = [
    (("nothing",), errno.ENOENT, 'exec: "nothing": executable file not found in $PATH'),
    (("/bin/nothing",), errno.ENOENT, 'exec: "/bin/nothing": stat /bin/nothing: no such file or directory'),
    (("/etc/passwd",), errno.EACCES, 'exec: "/etc/passwd": permission denied'),
    (("/etc",), errno.EISDIR, 'exec: "/etc": is a directory'),
    (("/tmp/bad",), errno.ENOEXEC, 'exec: "/tmp/bad": exec format error'),
    (("/tmp/lost",), errno.ENOENT, 'exec: "/tmp/lost": no such file or directory'),
]


@pytest.mark.parametrize(("args", "number", "text"), WORDS)
def test_the_words_for_programs_that_cannot_start(
    box: Box, args: tuple[str, ...], number: int, text: str
) -> None:
    (box.rootfs / "tmp/bad").write_bytes(b"\x7fELFnonsense")
    (box.rootfs / "tmp/bad").chmod(0o755)
    (box.rootfs / "tmp/lost").write_text("#!/no/interpreter\n")
    (box.rootfs / "tmp/lost").chmod(0o755)
    before = host_state()
    with pytest.raises(StartFailed) as caught:
        box.run(*args)
    assert caught.value.errno == number
    assert str(caught.value).endswith(text)
    assert host_state() == before
    with pytest.raises(StartFailed) as caught:
        box.with_running(lambda running: running.execute(*args))
    assert str(caught.value).endswith(text)


def test_the_search_path_is_the_containers(box: Box) -> None:
    assert box.run("busybox", "echo", "found", env=("PATH=/nowhere:/bin",)).out == "found\n"
    with pytest.raises(StartFailed, match="executable file not found"):
        box.run("busybox", env=("PATH=/nowhere",))


FAILURES = [
    ({"mounts": (*MOUNTS, Mount("/data", "bind", "/no/such/source", ("rbind",)))}, StartFailed, 'mounting "/no/such/source"'),
    ({"mounts": (*MOUNTS, Mount("/data", "nofs", "nofs"))}, StartFailed, 'mounting "nofs"'),
    ({"mounts": (*MOUNTS, Mount("/etc/passwd", "tmpfs", "tmpfs"))}, StartFailed, "not a directory"),
    ({"mounts": (*MOUNTS, Mount("/", "tmpfs", "tmpfs"))}, InvalidArgument, "destination"),
    ({"user": User(username="nobody-here")}, StartFailed, "unable to find user nobody-here"),
    ({"user": User(username="web:nogroup")}, StartFailed, "unable to find group nogroup"),
    ({"cwd": "/etc/passwd"}, StartFailed, "not a directory"),
    ({"namespaces": tuple(map(Namespace, (*NAMESPACES, "user")))}, InvalidArgument, "linux.uidMappings"),
    ({"namespaces": (*map(Namespace, NAMESPACES[1:]), Namespace("pid", "/proc/nope"))}, StartFailed, "joining"),
    ({"resources": Resources(cpu=Cpu(cpus="4096"))}, StartFailed, "cpuset.cpus"),
    ({"rootfs_propagation": "nonsense"}, InvalidArgument, "propagation"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "text"), FAILURES, ids=[text for _c, _k, text in FAILURES])
def test_a_failed_start_is_undone(
    box: Box, changes: dict[str, object], kind: type[EngineError], text: str
) -> None:
    before = host_state()
    with pytest.raises(kind, match=text):
        box.run("true", **changes)
    assert host_state() == before


def test_abandoning_a_waiting_container_undoes_it(box: Box) -> None:
    before = host_state()
    launch = box.launch(make_spec("true"))

    def monitor() -> int:
        descriptors = open_descriptors()
        init = spawn_init(launch)
        init.abandon()
        init.abandon()
        return open_descriptors() - descriptors

    assert in_monitor(monitor) == 0
    assert host_state() == before


def test_the_waiting_process_ends_with_its_monitor(box: Box) -> None:
    launch = box.launch(make_spec("sleep", "60"))

    def monitor() -> tuple[int, str]:
        init = spawn_init(launch)
        return init.pid, init.cgroup  # and dies without abandoning

    pid, cgroup = in_monitor(monitor)
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}/stat").exists()
    cgroups.remove(cgroup)


def test_the_tiny_init_reaps_forwards_and_passes_the_code_on(box: Box) -> None:
    changes = {"annotations": {INIT_ANNOTATION: "true"}}

    def orphans(running: Running) -> str:
        time.sleep(0.2)
        return running.execute("sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z '; cat /proc/1/comm").out

    assert box.script("exit 5", **changes).code == 5
    assert box.script("kill -9 $$", **changes).code == 137
    found = box.with_running(orphans, "sh", "-c", "(sleep 0.05 &); (true &); exec sleep 60", **changes)
    assert found == "0\nlongshore-init\n"

    def forward(running: Running) -> int:
        assert running.init.stdout_fd is not None
        os.read(running.init.stdout_fd, 10)
        return running.kill(signal.SIGTERM)

    script = "trap 'exit 8' TERM; echo ready; while :; do sleep 0.05; done"
    assert box.with_running(forward, "sh", "-c", script, **changes) == 8
    with pytest.raises(StartFailed, match="exec format error"):
        (box.rootfs / "tmp/bad").write_bytes(b"\x7fELFnonsense")
        (box.rootfs / "tmp/bad").chmod(0o755)
        box.run("/tmp/bad", **changes)
