"""Attacks 6, 13, 14, 15 and 18 against whole containers of a daemon: what an image brings, and what its processes try."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attack_lab import below, output, run
from runtime_lab import needs_root
from tests.engine.images import busybox_layer, docker_archive

pytestmark = needs_root


@pytest.fixture
def api(daemon: Any) -> Iterator[Any]:
    yield daemon.client.api
    daemon.remove_containers()
    daemon.request("POST", '/volumes/prune?filters={"all":["true"]}')


def load(
    daemon: Any, tag: str, entries: list[tarfile.TarInfo], data: dict[str, bytes] | None = None, **config: Any
) -> None:
    """An image of busybox with more entries on top; `data` has the contents of those that are files."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for entry in entries:
            body = (data or {}).get(entry.name, b"")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    defaults = {"Cmd": ["sh"], "Env": ["PATH=/bin"], **config}
    daemon.load(docker_archive([busybox_layer(), layer.getvalue()], tag, defaults))


def link(name: str, target: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc", "run"])
def test_attack_06_an_image_whose_folder_is_a_link(daemon: Any, api: Any, tmp_path: Path, name: str) -> None:
    """CVE-2026-41579, CVE-2026-47766. Started, entered and copied into: nothing appears where the link points to on
    the host. Fails when nodes, mount points or hosts files are made by path."""
    outside = tmp_path / "outside"
    outside.mkdir()
    before = below(outside)
    load(daemon, "linked:1", [link(name, str(outside))])
    binds = [f"{tmp_path}:/{name}/bound", f"vol:/{name}/deep/er"]
    try:
        id = run(api, "sleep 100", image="linked:1", binds=binds, devices=["/dev/null:/dev/extra"])
        api.exec_start(api.exec_create(id, ["touch", f"/{name}/touched"])["Id"])
        api.stop(id, timeout=0)
        api.get_archive(id, f"/{name}")
    except Exception as error:
        assert getattr(error, "response", None) is not None, error  # refused is as good as inside
    finally:
        daemon.remove_containers()
        daemon.request("DELETE", "/images/linked:1?force=1")
    assert below(outside) == before


AGENTS = """
for way in '-t cgroup -o memory' '-t cgroup -o rdma' '-t cgroup -o pids' '-t cgroup -o none,name=systemd' '-t cgroup2'; do
  mkdir -p /tmp/cg && mount $way cgroup /tmp/cg 2>/dev/null || continue
  for file in /tmp/cg/release_agent /tmp/cg/*/release_agent; do
    [ -e $file ] && echo seen $file && echo /tmp/evil 2>/dev/null > $file && echo written $file
  done
  umount /tmp/cg
done
for file in /sys/fs/cgroup/release_agent /sys/fs/cgroup/*/release_agent; do
  [ -e $file ] && echo /tmp/evil 2>/dev/null > $file && echo written $file
done
echo done
"""


@pytest.mark.parametrize("unconfined", [False, True], ids=["default", "unconfined"])
def test_attack_13_no_release_agent(api: Any, unconfined: bool) -> None:
    """CVE-2022-0492, from nested user and cgroup namespaces too, where the seccomp filter is off. Fails when a
    hierarchy is left in which the container has no group of its own, or with CAP_SYS_ADMIN."""
    agents = {path: path.read_text() for path in Path("/sys/fs/cgroup").glob("*/release_agent")}
    ways = ("", "/usr/bin/unshare -Urm", "/usr/bin/unshare -UrmC", "/usr/bin/unshare -UrmpfC")
    script = f"ln -s usr/lib /lib; ln -s usr/lib64 /lib64; cat >/tmp/agents <<'end'\n{AGENTS}end\n"
    script += "".join(f"echo way; {way} sh /tmp/agents 2>&1; " for way in ways)
    options = {"security_opt": ["seccomp=unconfined"]} if unconfined else {}
    said = output(api, script, binds=["/usr:/usr:ro"], **options).split("way\n")[1:]
    # The default filter does not even let it make the namespaces.
    nested = "done\n" if unconfined else "unshare: unshare failed: Operation not permitted\n"
    assert said == ["done\n", nested, nested, nested]
    assert agents == {path: path.read_text() for path in agents}


HOSTILE_LABELS = {
    "io.longshore.seccomp": "unconfined",
    "longshore.seccomp": "unconfined",
    "longshore.init": "true",
    "io.kubernetes.cri-o.Devices": "/dev/mem:/dev/mem:rwm",
    "org.systemd.property.ExecStart": "/bin/evil",
    "run.oci.hooks.stdout": "/etc/evil",
    "io.containerd.runc.v2.group": "../../evil",
    "nerdctl/extraHosts": '["/bin/evil"]',
    "maintainer": "x\n[Service]\nExecStart=/bin/evil",
}
CLIMBING = ["/../../../../../../tmp/climbed", "/x/../../../../etc/climbed", "//proc/../climbed", "/tmp/./.."]


def test_attack_14_what_an_image_says_configures_nothing(daemon: Any, api: Any) -> None:
    """CVE-2022-0811, CVE-2026-53488, CVE-2022-23648. Labels that look like the runtime's words, and VOLUMEs that climb.
    Fails when labels are passed on as annotations, or when a VOLUME's path is joined to a path of the host."""
    volumes = {path: {} for path in CLIMBING[:3]}
    load(daemon, "labels:1", [], Labels=HOSTILE_LABELS, Volumes=volumes)
    try:
        look = "grep -E '^(Seccomp|CapEff|NoNewPrivs):' /proc/self/status; cat /proc/1/comm; ls /dev"
        plain = output(api, look)
        assert output(api, look, image="labels:1") == plain
        assert "Seccomp:\t2" in plain
        id = run(api, "sleep 100", image="labels:1")
        found = {mount["Destination"]: mount["Source"] for mount in api.inspect_container(id)["Mounts"]}
        assert sorted(found) == ["/climbed", "/etc/climbed", "/tmp/climbed"]
        assert all(source.startswith(f"{daemon.data}/volumes/") for source in found.values())
        assert api.inspect_container(id)["HostConfig"].get("Annotations") is None
        load(daemon, "labels:2", [], Volumes={CLIMBING[3]: {}})
        with pytest.raises(Exception, match="destination can't be '/'"):
            run(api, "true", image="labels:2")
    finally:
        daemon.remove_containers()
        for tag in ("labels:1", "labels:2"):
            daemon.request("DELETE", f"/images/{tag}?force=1")
    assert not list(Path("/").glob("*climbed")) + list(Path("/tmp").glob("climbed*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern = |/bin/evil"),
        ("net.ipv4.ip_forward=1+kernel.core_pattern", "|/bin/evil"),
        ("net/../kernel/core_pattern", "|/bin/evil"),
        ("net.ipv4.conf.all/../../../../kernel.core_pattern", "|/bin/evil"),
        ("kernel.core_pattern", "|/bin/evil"),
        ("kernel.shm_rmid_forced\0", "1"),
    ],
)
def test_attack_14_settings_of_the_host_are_refused_by_the_daemon(api: Any, name: str, value: str) -> None:
    """CVE-2022-0811. Fails when names are not checked as a whole, or values may hold more than one line."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    with pytest.raises(Exception) as caught:
        run(api, "true", sysctls={name: value})
    assert caught.value.response.status_code in (400, 500)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


USERS = {
    "01000": "1000 0 0",
    "1000": "1000 0 0",  # an entry is named 1000 and is root
    "1000:01": "1000 1 1",
    "0x0": None,
    "1000:1000:0": None,
    "-1": None,
    "4294967296": None,
    "1000:-1": None,
}


def test_attack_15_users_are_who_they_say(daemon: Any, api: Any) -> None:
    """CVE-2026-46680, CVE-2024-9676, in a start and in an exec. Fails when a number is looked up as a name, or read in
    another base."""
    text = b"root:x:0:0::/:\n1000:x:0:0::/:\nother:x:0x0:0:::\n"
    load(daemon, "users:1", [tarfile.TarInfo("etc/passwd")], data={"etc/passwd": text})
    words = ["sh", "-c", "echo $(id -u) $(id -g) $(id -G)"]
    refused = ("unable to find user", "unable to find group", "uids and gids must be in range")
    try:
        running = run(api, "sleep 1000", image="users:1")
        for user, ids in USERS.items():
            if ids:
                assert output(api, words, image="users:1", user=user) == f"{ids}\n", user
            else:
                with pytest.raises(Exception, match="|".join(refused)):
                    run(api, words, image="users:1", user=user)
            said = api.exec_start(api.exec_create(running, words, user=user)["Id"]).decode()
            assert said == f"{ids}\n" if ids else not said or any(word in said for word in refused), (
                user,
                said,
            )
    finally:
        daemon.remove_containers()
        daemon.request("DELETE", "/images/users:1?force=1")


def test_attack_15_hostile_user_files_in_a_container(api: Any, tmp_path: Path) -> None:
    """CVE-2026-47262: a FIFO as passwd, a group file of two gigabytes. Fails when the file is opened without
    O_NONBLOCK, or read to its end."""
    fifo, group = tmp_path / "fifo", tmp_path / "group"
    os.mkfifo(fifo)
    with group.open("wb") as file:
        file.truncate(2 << 30)
    said = output(
        api, "grep Uid: /proc/self/status", binds=[f"{fifo}:/etc/passwd", f"{group}:/etc/group"], user="1234"
    )
    assert said.split() == ["Uid:", *["1234"] * 4]
    with pytest.raises(Exception, match="unable to find user web"):
        run(api, "true", binds=[f"{fifo}:/etc/passwd", f"{group}:/etc/group"], user="web", mem_limit="64m")


SOCKETS = """
import ctypes, mmap, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call):
    try:
        call()
        return "open"
    except OSError as error:
        return str(error.errno)
print("alg", attempt(lambda: socket.socket(38, socket.SOCK_SEQPACKET)))
print("vsock", attempt(lambda: socket.socket(40, socket.SOCK_STREAM)))
print("inet", attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)))
libc.syscall.restype = ctypes.c_long
for family in (38, 40):
    print("x32", libc.syscall(ctypes.c_long(0x40000000 + 41), family, 5, 0), ctypes.get_errno())
low = mmap.mmap(-1, 4096, flags=0x62, prot=7)  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT
address = ctypes.addressof(ctypes.c_char.from_buffer(low))
def int80(number, first, second=0, third=0):
    code = b"\\x53\\xb8" + number.to_bytes(4, "little") + b"\\xbb" + first.to_bytes(4, "little")
    code += b"\\xb9" + second.to_bytes(4, "little") + b"\\xba" + third.to_bytes(4, "little")
    code += b"\\xcd\\x80\\x5b\\x48\\x98\\xc3"
    low[: len(code)] = code
    return ctypes.CFUNCTYPE(ctypes.c_long)(address)()
for family in (38, 40):
    low[256:268] = b"".join(value.to_bytes(4, "little") for value in (family, 5, 0))
    print("socketcall", int80(102, 1, address + 256))
    print("i386 socket", int80(359, family, 5))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 and i386 system calls")
@pytest.mark.parametrize("way", ["run", "exec"])
def test_attack_18_socket_families_in_a_container(api: Any, tmp_path: Path, way: str) -> None:
    """CVE-2026-31431. AF_ALG and AF_VSOCK by every door of the kernel: native, x32, and i386 with socketcall(2), whose
    arguments no filter sees. The host's python tries. Fails when a door lacks its rule in the profile."""
    (tmp_path / "try.py").write_text(SOCKETS)
    links = "ln -s usr/lib /lib; ln -s usr/lib64 /lib64; "
    binds = ["/usr:/usr:ro", f"{tmp_path}:/try:ro"]
    command = "/usr/bin/python3 -I -S -B /try/try.py"
    if way == "run":
        said = output(api, f"{links} {command} 2>&1", binds=binds)
    else:
        id = run(api, f"{links} sleep 1000", binds=binds)
        said = api.exec_start(api.exec_create(id, ["sh", "-c", f"sleep 0.2; {command} 2>&1"])["Id"]).decode()
    lines = said.splitlines()
    assert lines.count("inet open") == 1, said
    assert [line for line in lines if line.startswith(("alg", "vsock"))] == ["alg 97", "vsock 97"], said
    assert sum(line.startswith("x32 -1") for line in lines) == 2, said
    doors = [line.split() for line in lines if line.startswith(("socketcall", "i386"))]
    assert len(doors) == 4 and all(int(words[-1]) < 0 for words in doors), said
