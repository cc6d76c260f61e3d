"""Attacks on the start of a container (the numbers of the project's list of attacks). Each test fails without its defence."""

import ctypes
import errno
import mmap
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_lab import (
    Box,
    Running,
    bind,
    host_state,
    in_monitor,
    make_rootfs,
    make_spec,
    needs_root,
    open_descriptors,
    pytest_box,
)

from longshore.errors import EngineError, InvalidArgument, StartFailed
from longshore.kernel import capabilities, processes
from longshore.kernel.libc import MACHINE
from longshore.kernel.seccomp import load_filter
from longshore.oci.runtime_spec import Mount, User
from longshore.runtime.bundle import MOUNTS
from longshore.runtime.init import spawn_init
from longshore.runtime.messages import PlainRoot
from longshore.runtime.seccomp_profile import default_program
from longshore.runtime.users import resolve_user
from longshore.runtime.warm import DEFAULT_CAPABILITIES

pytestmark = needs_root

WITHOUT_DEV = tuple(mount for mount in MOUNTS if not mount.destination.startswith("/dev"))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    yield from pytest_box(tmp_path_factory)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A root of its own that a test may poison."""
    return make_rootfs(tmp_path / "evil")


def tree(path: Path) -> list[tuple[str, int, int]]:
    return sorted((str(each), each.lstat().st_mode, each.lstat().st_size) for each in path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("/proc/self/exe", "too many levels of symbolic links"),
        ("/entry", "too many levels of symbolic links"),
        ("self-exe", "executable file not found"),
    ],
)
def test_attack_01_the_interpreter_is_not_started_through_its_exe_link(
    box: Box, evil: Path, name: str, text: str
) -> None:
    """Fails when the program is opened without RESOLVE_NO_MAGICLINKS before it is executed."""
    (evil / "entry").symlink_to("/proc/self/exe")
    (evil / "bin/self-exe").symlink_to("/proc/self/exe")
    with pytest.raises(StartFailed, match=text):
        box.run(name, "-c", "print('the interpreter of the host')", root=PlainRoot(str(evil)))


def test_attack_01_the_waiting_process_cannot_be_opened_by_its_own_user(box: Box) -> None:
    """A neighbour in a shared pid namespace has the same user and capabilities. Not dumpable: its exe, memory
    and descriptors belong to nobody without CAP_SYS_PTRACE over it. Fails when the waiting process stays
    dumpable."""
    launch = box.launch(make_spec("true", annotations={}))

    def look() -> int:
        init = spawn_init(launch)
        try:
            init.wait_prepared()
            child = os.fork()
            if not child:
                same = capabilities.mask(DEFAULT_CAPABILITIES)
                capabilities.capset(same, same, 0)
                try:
                    Path(f"/proc/{init.pid}/exe").readlink()
                    os._exit(0)
                except OSError as error:
                    os._exit(error.errno or 1)
            _pid, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status)
        finally:
            init.abandon()

    assert in_monitor(look) == errno.EACCES


def test_attack_02_the_waiting_process_holds_nothing_of_the_host(box: Box) -> None:
    """Not only close-on-exec: the program's own path is opened before execve(2) closes anything. Fails when
    the forked child does not close what it inherits."""
    root = os.open("/", os.O_PATH)
    os.set_inheritable(root, True)
    launch = box.launch(make_spec("true"))

    def look() -> list[str]:
        init = spawn_init(launch)
        try:
            init.wait_prepared()
            return [str(each.readlink()) for each in sorted(Path(f"/proc/{init.pid}/fd").iterdir())]
        finally:
            init.abandon()

    kinds = [link.split(":")[0] for link in in_monitor(look)]
    os.close(root)
    assert sorted(kinds) == ["/dev/null", "pipe", "pipe", "socket"]


def test_attack_02_no_descriptor_leads_outside(box: Box) -> None:
    """Fails when the forked child keeps descriptors, and the working directory is entered by name."""
    root = os.open("/", os.O_PATH)
    os.set_inheritable(root, True)
    try:
        assert box.run("ls", "/proc/self/fd").out.split() == ["0", "1", "2", "3"]  # 3 is the listing itself
        for number in range(3, 24):
            for path in (f"/proc/self/fd/{number}", f"/proc/1/fd/{number}"):
                with pytest.raises(StartFailed):
                    box.run("ls", cwd=path)
            # Dot-dot is taken literally before anything is opened, and so ends below the container's root.
            assert "boot" not in box.run("ls", cwd=f"/proc/self/fd/{number}/../../../..").out.split()
        for number in range(3, 24):
            with pytest.raises(StartFailed):
                box.run(f"/proc/self/fd/{number}/bin/ls", "/boot")
    finally:
        os.close(root)


def test_attack_02_exec_does_not_leak_either(box: Box) -> None:
    """Fails when the child of an exec keeps descriptors, and the working directory is entered by name."""
    root = os.open("/", os.O_PATH)
    os.set_inheritable(root, True)

    def look(running: Running) -> list[str]:
        refused: list[str] = []
        for number in range(3, 24):
            try:
                running.execute("ls", cwd=f"/proc/self/fd/{number}")
            except StartFailed as error:
                refused.append(str(error))
        return [str(len(refused)), *running.execute("ls", "/proc/self/fd").out.split()]

    try:
        assert box.with_running(look) == ["21", "0", "1", "2", "3"]
    finally:
        os.close(root)


def test_attack_03_a_swapped_null_device_is_not_bound_over_masked_paths(box: Box, evil: Path) -> None:
    """Fails when /dev/null is bound without a look at its numbers."""
    target = evil / "etc/target"
    target.write_text("core_pattern\n")
    (evil / "dev/null").symlink_to("/etc/target")
    options = {"root": PlainRoot(str(evil)), "mounts": WITHOUT_DEV, "masked_paths": ("/proc/keys",)}
    with pytest.raises(StartFailed):
        box.run("cat", "/proc/keys", **options)
    (evil / "dev/null").unlink()
    (evil / "dev/null").write_text("a plain file\n")
    with pytest.raises(StartFailed, match="not the null device"):
        box.run("cat", "/proc/keys", **options)
    (evil / "dev/null").unlink()
    os.mknod(evil / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with pytest.raises(StartFailed, match="not the null device"):
        box.run("cat", "/proc/keys", **options)
    (evil / "dev/null").unlink()
    os.mknod(evil / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert box.run("cat", "/proc/keys", **options).out == ""


def test_attack_04_the_console_is_bound_by_descriptor_only(box: Box, evil: Path) -> None:
    """Fails when /dev/console is followed, or /dev/pts is believed to be a devpts."""
    pts = MOUNTS[2]
    assert pts.destination == "/dev/pts"
    (evil / "dev/console").symlink_to("/etc/target")
    (evil / "etc/target").write_text("untouched\n")
    with pytest.raises(StartFailed, match="console"):
        box.run("true", terminal=True, root=PlainRoot(str(evil)), mounts=(*WITHOUT_DEV, pts))
    assert (evil / "etc/target").read_text() == "untouched\n"
    # A folder in the place of the devpts, with a link as ptmx.
    (evil / "dev/console").unlink()
    (evil / "dev/pts").mkdir(exist_ok=True)
    (evil / "dev/pts/ptmx").symlink_to("/etc/target")
    with pytest.raises(StartFailed, match="not a devpts"):
        box.run("true", terminal=True, root=PlainRoot(str(evil)), mounts=WITHOUT_DEV)


def test_attack_05_settings_are_written_into_a_private_procfs_only(box: Box, evil: Path) -> None:
    """The image's /proc is a folder full of files, and no procfs is mounted over it. Fails when settings are
    written below the container's own /proc."""
    fake = evil / "proc/sys/net/ipv4"
    fake.mkdir(parents=True)
    (fake / "ip_forward").write_text("fake\n")
    mounts = tuple(mount for mount in MOUNTS if mount.destination != "/proc")
    result = box.run(
        "cat",
        "/proc/sys/net/ipv4/ip_forward",
        root=PlainRoot(str(evil)),
        mounts=mounts,
        sysctl={"net.ipv4.ip_forward": "1"},
        masked_paths=(),
        readonly_paths=(),
    )
    assert result.out == "fake\n"


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "tmp"])
@pytest.mark.parametrize("up", ["", "/../../../../../../../.."])
def test_attack_06_a_link_in_the_image_makes_nothing_outside(
    box: Box, tmp_path: Path, name: str, up: str
) -> None:
    """Fails when mount points are made without RESOLVE_IN_ROOT."""
    evil = make_rootfs(tmp_path / "evil")
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = evil / name
    for each in sorted(folder.rglob("*"), reverse=True):
        each.unlink() if not each.is_dir() or each.is_symlink() else each.rmdir()
    folder.rmdir()
    folder.symlink_to(f"{up}{outside}")
    before, state = tree(outside), host_state()
    source = tmp_path / "source"
    source.write_text("bound\n")
    mounts = (*MOUNTS, bind(source, "/etc/hosts"), bind(tmp_path, "/tmp/deep/er"))
    try:
        box.run("true", root=PlainRoot(str(evil)), mounts=mounts, cwd=f"/{name}/made")
    except EngineError:
        pass  # refusing is as good as staying inside
    assert tree(outside) == before
    assert host_state() == state


def test_attack_06_mount_destinations_do_not_climb_out(box: Box, tmp_path: Path, evil: Path) -> None:
    """Fails when destinations are resolved without RESOLVE_IN_ROOT."""
    (evil / "climb").symlink_to("../../../../../../../../../.." + str(tmp_path))
    source = tmp_path / "source"
    source.write_text("bound\n")
    mounts = (
        *MOUNTS,
        bind(source, "/../../../../../escaped-one"),
        bind(source, "/climb/escaped-two"),
        bind(source, "/proc/self/cwd/escaped-three"),
    )
    for count in range(1, 4):
        try:
            box.run("true", root=PlainRoot(str(evil)), mounts=(*MOUNTS, mounts[len(MOUNTS) + count - 1]))
        except EngineError:
            pass
    assert not list(tmp_path.glob("escaped*"))
    assert not list(Path("/").glob("escaped*"))


def test_attack_09_nothing_is_imported_after_the_fork(box: Box, evil: Path) -> None:
    """An image full of Python modules and codecs with our names: none is read. `-X importtime` cannot see the
    child, so the files are FIFOs: whoever opens one stands still, and the start runs into the test's timeout.
    Fails when an import after the fork can still find a file."""
    for folder in ("usr/lib/python3.11/encodings", "usr/lib/python3/dist-packages", "lib/x86_64-linux-gnu"):
        (evil / folder).mkdir(parents=True)
    for name in ("encodings/idna.py", "encodings/ascii.py", "linecache.py", "traceback.py", "pwd.py"):
        os.mkfifo(evil / "usr/lib/python3.11" / name)
    for name in ("libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1"):
        os.mkfifo(evil / "lib/x86_64-linux-gnu" / name)
    started = time.monotonic()
    result = box.run("id", "-u", root=PlainRoot(str(evil)), user=User(username="web"))
    assert result.out == "33\n"
    with pytest.raises(StartFailed):
        box.run("nothing", root=PlainRoot(str(evil)), user=User(username="w\u00ebb"))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "script",
    [
        "mkdir /tmp/cg && mount -t cgroup -o memory cgroup /tmp/cg",
        "mkdir /tmp/cg && mount -t cgroup2 none /tmp/cg",
        "unshare -Urm sh -c 'mkdir /tmp/cg && mount -t cgroup -o rdma cgroup /tmp/cg'",
        "unshare -Ur true",
        "mount -o remount,rw /sys/fs/cgroup/memory",
        "umount /proc/sys",
    ],
)
def test_attack_13_a_default_container_mounts_no_cgroup(box: Box, script: str) -> None:
    """Fails with CAP_SYS_ADMIN, or without the seccomp filter."""
    result = box.script(script)
    assert result.code != 0
    assert "not permitted" in result.err or "denied" in result.err
    agents = box.script("for f in /sys/fs/cgroup/*/release_agent; do echo x > $f && echo written; done")
    assert "written" not in agents.out


BAD_SYSCTLS = [
    ("kernel.core_pattern", "|/bin/evil"),
    ("kernel.modprobe", "/bin/evil"),
    ("vm.overcommit_memory", "1"),
    ("kernel.shm_rmid_forced+kernel.core_pattern", "1"),
    ("net.ipv4.ip_forward=1+kernel.core_pattern", "|/bin/evil"),
    ("net.ipv4.ip_forward", "1\nkernel.core_pattern = |/bin/evil"),
    ("net/../kernel/core_pattern", "|/bin/evil"),
    ("net.ipv4/../../kernel/core_pattern", "|/bin/evil"),
    ("net.../kernel.core_pattern", "x"),
]


@pytest.mark.parametrize(("name", "value"), BAD_SYSCTLS)
def test_attack_14_settings_of_the_host_are_refused(box: Box, name: str, value: str) -> None:
    """Fails when names are not checked as a whole."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    with pytest.raises((InvalidArgument, StartFailed)):
        box.run("true", sysctl={name: value})
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


USER_TEXTS = [
    ("0x0", None),
    ("01000", (1000, 0)),
    ("1000:1000:0", None),
    ("1000", (1000, 0)),  # an entry is named 1000 and is root
    ("-1", None),
    ("+0", None),
    ("4294967296", None),
    ("2147483648", None),
    ("0:4294967295", None),
    ("\u0660", None),  # a digit that is not ASCII
    ("overflow", None),
    ("web:", (33, 33)),
]


@pytest.mark.parametrize(("text", "expected"), USER_TEXTS)
def test_attack_15_numbers_are_numbers(evil: Path, text: str, expected: tuple[int, int] | None) -> None:
    """Fails when a number is looked up as a name, or read in another base."""
    with (evil / "etc/passwd").open("a") as file:
        file.write("1000:x:0:0:::\n0x0:x:0x0:0:::\noverflow:x:4294967296:0:::\n")
    root = os.open(evil, os.O_PATH)
    try:
        if expected is None:
            with pytest.raises(StartFailed):
                resolve_user(root, text)
        else:
            identity = resolve_user(root, text)
            assert (identity.uid, identity.gid) == expected
    finally:
        os.close(root)


def test_attack_15_hostile_user_files_cost_little(evil: Path, tmp_path: Path) -> None:
    """Fails when the files are read whole, opened without O_NONBLOCK, or followed out of the root."""
    root = os.open(evil, os.O_PATH)
    passwd, group = evil / "etc/passwd", evil / "etc/group"
    secret = tmp_path / "secret"
    secret.write_text("web:x:0:0::/:\n")
    try:
        with group.open("ab") as file:
            file.truncate(2 << 30)  # two gigabytes without a line end
        before, descriptors = time.monotonic(), open_descriptors()
        assert resolve_user(root, "web").groups == (33, 44)
        assert time.monotonic() - before < 2
        for make in (
            lambda: os.mkfifo(passwd),
            lambda: passwd.mkdir(),
            lambda: passwd.symlink_to("/etc/passwd"),
            lambda: passwd.symlink_to(secret),
            lambda: passwd.symlink_to("/proc/self/fd/0"),
            lambda: os.mknod(passwd, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
        ):
            passwd.unlink() if not passwd.is_dir() else passwd.rmdir()
            make()
            before = time.monotonic()
            with pytest.raises(StartFailed, match="unable to find user web"):
                resolve_user(root, "web")
            assert time.monotonic() - before < 1
            assert resolve_user(root, "55").uid == 55
        assert open_descriptors() == descriptors
    finally:
        os.close(root)


def _under_filter(work: "object") -> list[int]:
    """Call each attempt under the default filter; its errno, 0 for success."""

    def monitor() -> list[int]:
        libc = ctypes.CDLL(None, use_errno=True)
        program = default_program(capabilities.mask(DEFAULT_CAPABILITIES))
        processes.prctl(processes.PR_SET_NO_NEW_PRIVS, 1)
        attempts = work(libc)  # pyright: ignore[reportCallIssue]
        load_filter(program)
        return [attempt() for attempt in attempts]

    return in_monitor(monitor)


def test_attack_18_kernel_surface_behind_socket_families() -> None:
    """Fails without the rules on socket families in the default profile."""
    number = {"x86_64": 41, "aarch64": 198}[MACHINE]

    def attempts(libc: ctypes.CDLL) -> list[object]:
        def attempt(family: int) -> int:
            result = libc.syscall(
                ctypes.c_long(number),
                ctypes.c_long(family),
                ctypes.c_long(socket.SOCK_STREAM),
                ctypes.c_long(0),
            )
            return ctypes.get_errno() if result < 0 else 0

        high = 1 << 32
        families = (38, 40, 38 | high, 40 | high, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
        return [lambda family=family: attempt(family) for family in families]

    refused = errno.EAFNOSUPPORT
    assert _under_filter(attempts) == [refused, refused, refused, refused, 0, 0, 0]


@pytest.mark.skipif(MACHINE != "x86_64", reason="i386 system calls")
def test_attack_18_i386_socketcall_is_refused() -> None:
    """socketcall(SYS_SOCKET, {AF_ALG, SOCK_SEQPACKET, 0}) by int 0x80: its arguments are invisible to a
    filter. Fails when the filter lets i386's socketcall(2) pass."""

    def attempts(_libc: ctypes.CDLL) -> list[object]:
        low = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40,  # MAP_32BIT
                        prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)  # fmt: skip
        address = ctypes.addressof(ctypes.c_char.from_buffer(low))
        assert address < 1 << 32
        low[256:268] = b"".join(value.to_bytes(4, "little") for value in (38, 5, 0))
        code = b"\x53\xb8" + (102).to_bytes(4, "little")  # push rbx; mov eax, socketcall
        code += b"\xbb" + (1).to_bytes(4, "little") + b"\xb9" + (address + 256).to_bytes(4, "little")
        code += b"\xcd\x80\x5b\x48\x98\xc3"  # int 0x80; pop rbx; cdqe; ret
        low[: len(code)] = code
        call = ctypes.CFUNCTYPE(ctypes.c_long)(address)
        return [lambda keep=low: -call()]

    (result,) = _under_filter(attempts)
    assert result in (errno.EPERM, errno.ENOSYS)


def test_attack_18_unknown_calls_look_like_an_old_kernel() -> None:
    """Fails when the filter allows, or refuses with another error than ENOSYS, what it does not know."""

    def attempts(libc: ctypes.CDLL) -> list[object]:
        def attempt(number: int) -> int:
            return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), -1, -1, -1) < 0 else 0

        calls = (900, 435, 425, 248 if MACHINE == "x86_64" else 217)  # none, clone3, io_uring_setup, add_key
        return [lambda number=number: attempt(number) for number in calls]

    assert _under_filter(attempts) == [errno.ENOSYS, errno.ENOSYS, errno.EPERM, errno.EPERM]


def test_a_mount_over_the_root_is_refused(box: Box) -> None:
    for destination in ("/", "/.", "//", "/a/..", ""):
        with pytest.raises(InvalidArgument):
            box.run("true", mounts=(*MOUNTS, Mount(destination, "tmpfs", "tmpfs")))
