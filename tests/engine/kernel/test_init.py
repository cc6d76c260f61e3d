"""A container from its specification: what is inside, what its program may do, and what the host sees."""

import errno
import os
import select
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
    bind,
    host_state,
    in_monitor,
    make_spec,
    namespace,
    needs_root,
    open_descriptors,
    pytest_box,
)

from longshore.errors import Conflict, EngineError, InvalidArgument, StartFailed, Unsupported
from longshore.oci.runtime_spec import (
    INIT_ANNOTATION,
    Capabilities,
    Cpu,
    Device,
    DeviceRule,
    Memory,
    Mount,
    Namespace,
    Pids,
    Resources,
    Rlimit,
    User,
)
from longshore.oci.runtime_spec import (
    Box as Size,
)
from longshore.runtime import cgroups
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.cgroup_layout import layout
from longshore.runtime.init import spawn_init
from longshore.runtime.messages import OverlayRoot, PlainRoot

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


def test_the_root_is_an_overlay_that_nobody_else_sees(box: Box) -> None:
    root = box.overlay()
    before = Path("/proc/self/mountinfo").read_text()
    result = box.script("echo new > /tmp/file; rm /etc/group; grep ' / / ' /proc/self/mountinfo", root=root)
    assert " overlay " in result.out
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (Path(root.upper) / "tmp/file").read_text() == "new\n"
    assert (box.rootfs / "etc/group").exists()


def test_a_hundred_and_twenty_layers_fit(box: Box, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    names: list[str] = []
    for number in range(120):
        name = f"{number:012x}"
        (layers / name).mkdir(parents=True)
        (layers / name / f"file{number}").write_text(str(number))
        names.append(name)
    (layers / "base").symlink_to(box.rootfs)
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    root = OverlayRoot(
        str(layers), (*reversed(names), "base"), str(tmp_path / "upper"), str(tmp_path / "work")
    )
    assert box.script("ls / | grep -c ^file", root=root).out == "120\n"


def test_paths_with_the_characters_of_overlay_options(box: Box, tmp_path: Path) -> None:
    here = tmp_path / "a,b:c\\d"
    (here / "upper").mkdir(parents=True)
    (here / "work").mkdir()
    root = OverlayRoot(str(box.path / "layers"), ("top", "base"), str(here / "upper"), str(here / "work"))
    assert box.script("touch /made", root=root).code == 0
    assert (here / "upper/made").exists()


def test_an_upper_directory_on_an_overlay_is_explained(box: Box) -> None:
    def nested() -> str:
        return box.script(
            "mkdir -p /o/l /o/u /o/w /o/m && mount -t overlay o -o lowerdir=/o/l,upperdir=/o/u,workdir=/o/w /o/m 2>&1"
        ).out

    inner = box.overlay()
    outer = box.path / "outer"
    for name in ("upper", "work", "merged"):
        (outer / name).mkdir(parents=True)

    def monitor() -> None:
        from longshore.kernel import mounts, namespaces

        namespaces.unshare(namespaces.CLONE_NEWNS)
        mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
        options = f"lowerdir={box.path}/layers/top,upperdir={outer}/upper,workdir={outer}/work"
        mounts.mount("overlay", str(outer / "merged"), "overlay", 0, options)
        (outer / "merged/upper").mkdir()
        (outer / "merged/work").mkdir()
        root = OverlayRoot(
            inner.layers_dir, inner.lowers, str(outer / "merged/upper"), str(outer / "merged/work")
        )
        launch = box.launch(make_spec("true"), root)
        spawn_init(launch).proceed()

    with pytest.raises(StartFailed, match="put it on a volume"):
        in_monitor(monitor)


def test_a_plain_folder_can_be_the_root(box: Box) -> None:
    result = box.script(
        "touch /etc/new; awk '$5 == \"/\"' /proc/self/mountinfo | wc -l", root=PlainRoot(str(box.rootfs))
    )
    (box.rootfs / "etc/new").unlink()
    assert (result.code, result.out) == (0, "1\n")


def test_the_old_root_is_gone(box: Box) -> None:
    lines = box.script("cat /proc/1/mountinfo; ls /..").out
    assert str(box.path) not in lines.replace("lowerdir", "").split(" - overlay")[0]
    assert "home" in lines and "boot" not in lines.split()


def test_a_readonly_root_still_has_writable_mounts(box: Box) -> None:
    result = box.script("touch /x; touch /dev/shm/y && echo shm; touch /tmp/z && echo tmp", readonly=True, mounts=(
        *MOUNTS, Mount("/tmp", "tmpfs", "tmpfs", ("size=1m",)), Mount("/deep/ro", "tmpfs", "tmpfs", ("ro",))
    ))  # fmt: skip
    assert result.out == "shm\ntmp\n"
    assert "Read-only file system" in result.err


def test_masked_and_readonly_paths(box: Box) -> None:
    result = box.script(
        "wc -c < /proc/keys; wc -c < /proc/timer_list; ls /proc/acpi /sys/firmware | grep -v :; "
        "echo 1 > /proc/sys/kernel/msgmax; echo b > /proc/irq/default_smp_affinity; echo x > /sys/kernel/profiling"
    )
    assert result.out.split() == ["0", "0"]
    assert result.err.count("Read-only file system") == 3


BIND_CASES = [
    (("rbind", "rprivate"), "touch /data/new && echo ok", "ok\n"),
    (("rbind", "ro"), "touch /data/new || echo refused", "refused\n"),
    (("rbind", "rro"), "touch /data/sub/new || echo refused", "refused\n"),
    (("rbind", "noexec"), "/data/program || echo refused", "refused\n"),
    (("bind", "nosuid", "nodev"), "grep ' /data ' /proc/self/mountinfo | grep -c nosuid,nodev", "1\n"),
    (("bind", "noatime"), "grep ' /data ' /proc/self/mountinfo | grep -c noatime", "1\n"),
    (("bind",), "cat /data/file", "text\n"),
]


@pytest.mark.parametrize(("options", "script", "expected"), BIND_CASES)
def test_bind_mounts(box: Box, tmp_path: Path, options: tuple[str, ...], script: str, expected: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("text\n")
    (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "program").chmod(0o755)
    result = box.script(script, mounts=(*MOUNTS, bind(tmp_path, "/data", *options)))
    assert result.out == expected


def test_missing_mount_points_are_made_for_files_and_folders(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from host\n")
    (box.rootfs / "lock").symlink_to("/run/lock") if not (box.rootfs / "lock").is_symlink() else None
    mounts = (
        *MOUNTS,
        bind(tmp_path / "file", "/a/b/file"),
        bind(tmp_path, "/lock/deep"),
        Mount("/t/m/p", "tmpfs", "tmpfs", ("mode=1777",)),
    )
    result = box.script("cat /a/b/file /run/lock/deep/file; stat -c %a /t/m/p", mounts=mounts)
    assert result.out == "from host\nfrom host\n1777\n"


def test_a_shared_bind_shows_later_mounts_of_the_host(box: Box, tmp_path: Path) -> None:
    """Slave propagation survives the cut that makes everything else private."""
    from longshore.kernel import mounts as kernel
    from longshore.kernel import namespaces

    (tmp_path / "shared/later").mkdir(parents=True)
    launch = box.launch(
        make_spec(
            "sh",
            "-c",
            "sleep 0.3; ls /data/later",
            mounts=(*MOUNTS, bind(tmp_path / "shared", "/data", "rbind", "rslave")),
        )
    )

    def monitor() -> str:
        namespaces.unshare(namespaces.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(str(tmp_path / "shared"), str(tmp_path / "shared"), None, kernel.MS_BIND)
        kernel.mount(None, str(tmp_path / "shared"), None, kernel.MS_SHARED)
        init = spawn_init(launch)
        init.proceed()
        kernel.mount("tmpfs", str(tmp_path / "shared/later"), "tmpfs")
        (tmp_path / "shared/later/seen").touch()
        assert init.stdout_fd is not None
        data = os.read(init.stdout_fd, 1000).decode()
        init.abandon()
        return data

    assert in_monitor(monitor) == "seen\n"


def test_device_nodes_and_links(box: Box) -> None:
    extra = Device("/dev/more/extra", "c", 1, 5, 0o640, 33, 44)
    result = box.script(
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done;"
        "stat -c '%n %t:%T %a %u %g' /dev/more/extra; for l in fd stdout ptmx; do readlink /dev/$l; done; head -c3 /dev/zero | wc -c",
        devices=(extra,),
    )
    assert result.out.splitlines() == [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
        "/dev/more/extra 1:5 640 33 44",
        "/proc/self/fd",
        "/proc/self/fd/1",
        "pts/ptmx",
        "3",
    ]


def test_devices_are_refused_by_the_device_cgroup(box: Box) -> None:
    rules = (DeviceRule(allow=False), DeviceRule(True, "c", 10, 58, "r"))
    result = box.script(
        "for n in 1:11 10:58; do mknod /n$n c ${n%:*} ${n#*:}; cat /n$n; done; echo x > /dev/null && echo null",
        resources=Resources(devices=rules),
    )
    assert result.out == "null\n"
    assert "/n1:11': Operation not permitted" in result.err  # /dev/kmsg
    assert "/n10:58': No such device" in result.err  # allowed, and nobody there


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


def test_a_cgroup_in_use_is_not_taken_over(box: Box) -> None:
    def look(running: Running) -> None:
        cgroups.create(running.init.cgroup, None)

    with pytest.raises(Conflict, match="in use"):
        box.with_running(look)


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
