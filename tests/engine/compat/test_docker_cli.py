"""The stock docker CLI against our daemon: what it prints and how it exits."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def test_run_prints_what_the_command_prints_and_exits_as_it_does(daemon: Any) -> None:
    done = daemon.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")
    assert daemon.docker("ps", "-aq").out == ""


def test_run_passes_standard_input_and_its_end_on(daemon: Any) -> None:
    data = os.urandom(300_000).hex().encode()
    done = daemon.docker("run", "--rm", "-i", "busybox", "md5sum", input=data)
    import hashlib

    assert done.out.split()[0] == hashlib.md5(data).hexdigest()


def test_large_output_arrives_whole(daemon: Any) -> None:
    done = daemon.docker("run", "--rm", "busybox", "sh", "-c", "seq 1 200000")
    assert done.out == "".join(f"{n}\n" for n in range(1, 200_001))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("busybox", "/no/such/command"), 127, "no such file or directory"),
        (("busybox", "no-such-command"), 127, "executable file not found in $PATH"),
        (("busybox", "/etc"), 126, ""),
        (("busybox", "/etc/passwd"), 126, "permission denied"),
        (("127.0.0.1:1/none/such:1", "true"), 125, ""),
        (("--name", "bad name!", "busybox", "true"), 125, "Invalid container name"),
        (("-p", "99999:80", "busybox", "true"), 125, "99999"),
        (("-p", "[::1]:9000:80", "busybox", "true"), 125, "IPv6 addresses is not supported yet"),
        (("--memory", "1k", "busybox", "true"), 125, "6MB"),
        (("--network", "nosuch", "busybox", "true"), 125, "nosuch"),
        (("--ulimit", "nosuch=1", "busybox", "true"), 125, "nosuch"),
        (("--device-read-bps", "/dev/null:1mb", "busybox", "true"), 125, "not a block device"),
        (("--storage-opt", "size=1g", "busybox", "true"), 125, "StorageOpt"),
    ],
)
def test_failures_have_dockers_exit_codes_and_leave_nothing(
    daemon: Any, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = daemon.docker("run", "--rm", *arguments, check=False)
    assert done.code == code, done
    assert words in done.err, done
    assert daemon.docker("ps", "-aq").out == "", "the container was left behind"


def test_a_disk_is_throttled(daemon: Any) -> None:
    disks = [path.name for path in Path("/sys/block").iterdir() if Path("/dev", path.name).is_block_device()]
    if not disks:
        pytest.skip("no disk here")
    disk = sorted(disks)[0]
    files = "/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device /sys/fs/cgroup/io.max"
    done = daemon.docker(
        "run", "--rm", "--device-read-bps", f"/dev/{disk}:1mb", "busybox", "sh", "-c", f"cat {files} 2>/dev/null; :"
    )  # fmt: skip
    numbers = Path(f"/sys/block/{disk}/dev").read_text().strip()
    assert re.search(rf"^{numbers} (rbps=)?1048576\b", done.out, re.MULTILINE), done


@pytest.mark.skipif(
    Path("/sys/module/apparmor/parameters/enabled").exists(), reason="this kernel has AppArmor"
)
def test_apparmor_profiles_are_refused_where_nobody_enforces_them(daemon: Any) -> None:
    asked = ("--security-opt", "apparmor=mine", "busybox", "true")
    done = daemon.docker("run", "--rm", *asked, check=False)
    assert done.code == 125
    assert "needs AppArmor" in done.err
    assert daemon.docker("run", "--rm", "--security-opt", "apparmor=unconfined", *asked[2:]).code == 0


def test_every_log_option_has_its_effect(daemon: Any) -> None:
    done = daemon.docker("create", "--log-opt", "tag=x", "--log-opt", "max-size=1m", "busybox")
    assert done.err == ""


def test_networks_have_no_ipv6(daemon: Any) -> None:
    refused = daemon.docker("network", "create", "--ipv6", "six", check=False)
    assert refused.code == 1
    assert "IPv6 networks are not supported yet" in refused.err
    assert "six" not in daemon.docker("network", "ls").out


def test_a_used_name_is_a_conflict_in_dockers_words(daemon: Any) -> None:
    first = daemon.docker("create", "--name", "taken", "busybox").out.strip()
    done = daemon.docker("run", "--name", "taken", "busybox", check=False)
    assert done.code == 125
    assert f'The container name "/taken" is already in use by container "{first}"' in done.err


def test_a_used_port_is_refused_in_dockers_words(daemon: Any) -> None:
    daemon.docker("run", "-d", "-p", "127.0.0.1:28123:80", "busybox", "sleep", "60")
    done = daemon.docker("run", "-d", "-p", "127.0.0.1:28123:80", "busybox", "sleep", "60", check=False)
    assert done.code == 125
    assert "127.0.0.1:28123 failed: port is already allocated" in done.err


def test_ps_shows_dockers_table(daemon: Any) -> None:
    identifier = daemon.docker(
        "run", "-d", "--name", "web", "-p", "127.0.0.1:28124:80", "--label", "a=b", "busybox", "sleep", "60"
    ).out.strip()
    assert re.fullmatch(r"[0-9a-f]{64}", identifier)
    heading, line = daemon.docker("ps").out.splitlines()
    assert heading.split("  ")[0] == "CONTAINER ID"
    assert re.split(r" {2,}", line)[:3] == [identifier[:12], "busybox", '"sleep 60"']
    assert re.search(r"Up (Less than a second|\d+ seconds?)", line)
    assert "127.0.0.1:28124->80/tcp" in line
    assert line.endswith("web")
    assert daemon.docker("ps", "--filter", "label=a=b", "--format", "{{.Names}}").out == "web\n"
    assert daemon.docker("ps", "--filter", "label=a=c", "-q").out == ""


def test_stop_start_restart_kill_wait_and_rm(daemon: Any) -> None:
    daemon.docker(
        "run", "-d", "--name", "c1", "busybox", "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done"
    )
    assert daemon.docker("stop", "c1").out == "c1\n"
    assert daemon.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "c1").out == "exited 5\n"
    assert daemon.docker("start", "c1").out == "c1\n"
    daemon.docker("restart", "c1")
    assert daemon.docker("inspect", "-f", "{{.State.Running}}", "c1").out == "true\n"
    assert "container is running" in daemon.docker("rm", "c1", check=False).err
    daemon.docker("kill", "c1")
    assert daemon.docker("wait", "c1").out == "137\n"
    assert "is not running" in daemon.docker("kill", "c1", check=False).err
    assert daemon.docker("rm", "c1").out == "c1\n"
    done = daemon.docker("inspect", "c1", check=False)
    assert (done.code, done.out.strip()) == (1, "[]")
    assert "no such object: c1" in done.err.lower()


def test_logs_of_both_streams_with_tail_and_timestamps(daemon: Any) -> None:
    daemon.docker(
        "run", "--name", "l1", "busybox", "sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; done"
    )
    done = daemon.docker("logs", "l1")
    assert (done.out, done.err) == ("o1\no2\no3\n", "e1\ne2\ne3\n")
    assert len((daemon.docker("logs", "--tail", "2", "l1")).out.splitlines()) <= 2
    stamped = daemon.docker("logs", "-t", "l1").out.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z o\d$", line) for line in stamped)


def test_logs_follow_until_the_end(daemon: Any) -> None:
    daemon.docker(
        "run", "-d", "--name", "f1", "busybox", "sh", "-c", "for i in 1 2 3 4; do echo $i; sleep 0.2; done"
    )
    begin = time.monotonic()
    assert daemon.docker("logs", "-f", "f1").out == "1\n2\n3\n4\n"
    assert time.monotonic() - begin < 5


def test_exec_runs_beside_the_first_process(daemon: Any) -> None:
    daemon.docker("run", "-d", "--name", "e1", "-e", "A=1", "busybox", "sleep", "60")
    assert daemon.docker("exec", "e1", "sh", "-c", "echo $A $B; pwd", check=True).out == "1\n/\n"
    assert (
        daemon.docker("exec", "-e", "B=2", "-w", "/tmp", "e1", "sh", "-c", "echo $B; pwd").out == "2\n/tmp\n"
    )
    assert daemon.docker("exec", "-u", "nobody", "e1", "id", "-u").out == "65534\n"
    assert daemon.docker("exec", "-i", "e1", "cat", input=b"in").out == "in"
    assert daemon.docker("exec", "e1", "sh", "-c", "exit 9", check=False).code == 9
    assert daemon.docker("exec", "e1", "no-such-command", check=False).code == 126
    assert daemon.docker("exec", "e1", "/etc/passwd", check=False).code == 126
    daemon.docker("exec", "-d", "e1", "sh", "-c", "echo x > /tmp/detached")
    assert "No such container: none" in daemon.docker("exec", "none", "true", check=False).err


def terminal(
    command: list[str], environment: dict[str, str], keys: list[tuple[bytes, bytes]]
) -> tuple[int, bytes]:
    """Run on a pty: wait for each prompt, type the answer; (exit code, everything shown)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, environment)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    shown, deadline = b"", time.monotonic() + 20
    pending = list(keys)
    while time.monotonic() < deadline:
        if pending and pending[0][0] in shown:
            os.write(fd, pending.pop(0)[1])
        if select.select([fd], [], [], 0.2)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:  # EIO: the other side of the pty is closed
                break
            if not data:
                break
            shown += data
    else:
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), shown


@pytest.mark.parametrize("command", ["docker", "longshore"])
def test_a_terminal_session(daemon: Any, command: str) -> None:
    daemon.docker("run", "-d", "--name", "t1", "busybox", "sleep", "60")
    from shutil import which

    environment = {
        **os.environ,
        "DOCKER_HOST": daemon.host,
        "DOCKER_CONFIG": str(daemon.folder),
        "TERM": "xterm",
    }
    program = which("docker") if command == "docker" else daemon_bin("longshore")
    assert program
    keys = [(b"#", b"stty size; tty; echo A$((40+2))\n"), (b"A42", b"exit 3\n")]
    code, shown = terminal([program, "exec", "-it", "t1", "sh"], environment, keys)
    assert code == 3, shown
    assert b"/dev/pts/0" in shown
    assert b"33 77\r\n" in shown
    code, shown = terminal([program, "run", "--rm", "-it", "busybox", "sh"], environment, keys)
    assert code == 3, shown


def daemon_bin(name: str) -> str:
    import sys

    return str(Path(sys.executable).parent / name)


def test_detach_keys_leave_the_container_running(daemon: Any) -> None:
    environment = {
        **os.environ,
        "DOCKER_HOST": daemon.host,
        "DOCKER_CONFIG": str(daemon.folder),
        "TERM": "xterm",
    }
    for program in ("docker", daemon_bin("longshore")):
        terminal([program, "run", "-it", "--name", "d1", "busybox", "sh"], environment, [(b"#", b"\x10\x11")])
        assert daemon.docker("inspect", "-f", "{{.State.Running}}", "d1").out == "true\n"
        daemon.docker("rm", "-f", "d1")


def test_attach_shows_output_and_sends_input(daemon: Any) -> None:
    daemon.docker("run", "-d", "-i", "--name", "a1", "busybox", "sh", "-c", "read x; echo got $x; exit 4")
    done = daemon.docker("attach", "a1", input=b"this\n", check=False)
    assert (done.code, done.out) == (4, "got this\n")


def test_images_table_inspect_history_tag_and_rmi(daemon: Any) -> None:
    heading, *lines = daemon.docker("images").out.splitlines()
    assert re.split(r" {2,}", heading) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    assert any(line.startswith("busybox ") for line in lines)
    view = json.loads(daemon.docker("image", "inspect", "busybox").out)[0]
    assert view["RepoTags"] == ["busybox:latest"]
    assert view["Config"]["Cmd"] == ["sh"]
    assert (view["Os"], view["Architecture"]) == ("linux", "amd64")
    daemon.docker("tag", "busybox", "other/name:v1")
    assert "other/name" in daemon.docker("images", "other/name").out
    assert daemon.docker("rmi", "other/name:v1").out == "Untagged: other/name:v1\n"
    assert "busybox" in daemon.docker("images").out
    assert "IMAGE" in daemon.docker("history", "busybox").out
    done = daemon.docker("image", "inspect", "nosuch:1", check=False)
    assert done.code == 1
    assert "No such image: nosuch:1" in done.err


def test_an_image_in_use_is_not_removed(daemon: Any) -> None:
    daemon.docker("run", "-d", "--name", "user", "busybox", "sleep", "60")
    done = daemon.docker("rmi", "busybox", check=False)
    assert done.code == 1
    assert "conflict: unable to" in done.err
    assert "busybox" in daemon.docker("images").out


def test_save_and_load_give_the_same_image(daemon: Any, tmp_path: Path) -> None:
    daemon.docker("tag", "busybox", "saved:1")
    archive = tmp_path / "saved.tar"
    daemon.docker("save", "-o", str(archive), "saved:1")
    before = daemon.docker("images", "-q", "--no-trunc", "saved").out
    daemon.docker("rmi", "saved:1")
    assert daemon.docker("load", "-i", str(archive)).out == "Loaded image: saved:1\n"
    assert daemon.docker("images", "-q", "--no-trunc", "saved").out == before
    daemon.docker("rmi", "saved:1")
    done = daemon.docker("save", "nosuch", check=False)
    assert done.code == 1
    assert "No such image: nosuch" in done.err
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no archive" * 1000)
    assert daemon.docker("load", "-i", str(bad), check=False).code == 1


def test_build_with_cache(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WORD=hello\nENV WORD=$WORD\nWORKDIR /app\nCOPY data.txt .\n"
        'RUN echo "$WORD" > made && cat data.txt >> made\nLABEL built=yes\nCMD ["cat", "made"]\n'
    )
    (tmp_path / "data.txt").write_text("data\n")
    done = daemon.docker("build", "-t", "built:1", "--build-arg", "WORD=hi", str(tmp_path))
    assert "Step 1/8 : FROM busybox" in done.out
    assert re.search(r"Successfully built [0-9a-f]{12}\nSuccessfully tagged built:1\n$", done.out)
    assert daemon.docker("run", "--rm", "built:1").out == "hi\ndata\n"
    again = daemon.docker("build", "-t", "built:1", "--build-arg", "WORD=hi", str(tmp_path))
    assert again.out.count("Using cache") >= 5
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN exit 3\n")
    failed = daemon.docker("build", str(tmp_path), check=False)
    assert failed.code == 3
    assert "returned a non-zero code: 3" in failed.err
    (tmp_path / "Dockerfile").write_text("FROM busybox\nNONSENSE 1\n")
    failed = daemon.docker("build", str(tmp_path), check=False)
    assert failed.code == 1
    assert "unknown instruction: NONSENSE" in failed.err
    daemon.docker("rmi", "-f", "built:1")


def test_inspect_has_what_scripts_ask_for(daemon: Any) -> None:
    daemon.docker(
        *(
            "run",
            "-d",
            "--name",
            "i1",
            "-p",
            "127.0.0.1:28125:80",
            "-v",
            "/tmp:/mnt:ro",
            "-m",
            "64m",
            "--cpus",
            "0.5",
        ),
        *("--restart", "unless-stopped", "busybox", "sleep", "60"),
    )
    view = json.loads(daemon.docker("inspect", "i1").out)[0]
    assert view["Name"] == "/i1"
    assert view["State"]["Status"] == "running"
    assert view["State"]["Pid"] > 0
    assert (view["HostConfig"]["Memory"], view["HostConfig"]["NanoCpus"]) == (64 << 20, 500_000_000)
    assert view["HostConfig"]["RestartPolicy"] == {"Name": "unless-stopped", "MaximumRetryCount": 0}
    assert view["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "28125"}]}
    assert view["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    assert view["Mounts"][0]["Destination"] == "/mnt"
    assert (view["Path"], view["Args"]) == ("sleep", ["60"])


def test_a_published_port_is_reached(daemon: Any) -> None:
    import urllib.request

    script = "mkdir /www; echo served > /www/index.html; exec httpd -f -p 80 -h /www"
    daemon.docker("run", "-d", "-p", "127.0.0.1:28126:80", "busybox", "sh", "-c", script)
    for _ in range(50):
        try:
            with urllib.request.urlopen("http://127.0.0.1:28126/", timeout=2) as answer:
                assert answer.read() == b"served\n"
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("nobody answers on the published port")


def test_groups_above_a_container_go_with_the_last_one(daemon: Any) -> None:
    """Also when the first one, for which they were made, ends earlier; what was there before stays."""

    def groups() -> set[str]:
        roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
        return {str(path) for root in roots for path in root.glob("lst-test*") if path.is_dir()}

    ours = daemon.bridge.replace("lst", "lst-test")
    other = next(path.parent for path in Path("/sys/fs/cgroup").glob("**/cgroup.procs")) / f"{ours}.other"
    other.mkdir()
    try:
        before = groups()
        for name in ("first", "second"):
            daemon.docker(
                "run",
                "-d",
                "--name",
                name,
                "--cgroup-parent",
                f"{ours}.slice/inner",
                "busybox",
                "sleep",
                "60",
            )
        daemon.docker("run", "--rm", "--cgroup-parent", other.name, "busybox", "true")
        assert groups() > before
        daemon.docker("rm", "-f", "first")
        assert groups() > before
        daemon.docker("rm", "-f", "second")
        assert groups() == before
    finally:
        other.rmdir()


def test_the_storage_driver_has_one_name(daemon: Any) -> None:
    identifier = daemon.docker("create", "busybox").out.strip()
    assert daemon.docker("info", "--format", "{{.Driver}}").out == "overlay2\n"
    for name in (identifier, "busybox"):
        assert daemon.docker("inspect", "--format", "{{.GraphDriver.Name}}", name).out == "overlay2\n"


def test_refused_volume_options_are_named(daemon: Any) -> None:
    refused = daemon.docker("volume", "create", "-o", "type=nfs", "-o", "device=:/x", check=False)
    assert refused.code == 1
    assert "invalid volume options: device, type" in refused.err


def test_volumes_networks_cp_and_events(daemon: Any, tmp_path: Path) -> None:
    daemon.docker("volume", "create", "v1")
    daemon.docker("run", "--rm", "-v", "v1:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert daemon.docker("run", "--rm", "-v", "v1:/data", "busybox", "cat", "/data/file").out == "kept\n"
    assert "v1" in daemon.docker("volume", "ls").out
    daemon.docker("volume", "rm", "v1")
    names = daemon.docker("network", "ls", "--format", "{{.Name}}").out.split()
    assert {"bridge", "host", "none"} <= set(names)
    daemon.docker("create", "--name", "cp", "busybox")
    (tmp_path / "in").write_text("copied")
    daemon.docker("cp", str(tmp_path / "in"), "cp:/tmp/in")
    daemon.docker("cp", "cp:/tmp/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "copied"
    events = daemon.docker(
        "events", "--since", "1", "--until", str(int(time.time()) + 1), "--filter", "type=volume"
    )
    assert "volume create v1" in events.out
    assert "volume destroy v1" in events.out


def test_info_and_version(daemon: Any) -> None:
    info = daemon.docker("info").out
    for words in ("Server:", "Storage Driver:", "Cgroup Version:", "Docker Root Dir: " + str(daemon.data)):
        assert words in info
    assert json.loads(daemon.docker("version", "--format", "{{json .Server}}").out)["ApiVersion"] == "1.47"


def test_two_clients_of_one_follow(daemon: Any) -> None:
    """A log follower that goes away is noticed; the daemon keeps no task for it."""
    daemon.docker("run", "-d", "--name", "q1", "busybox", "sleep", "60")
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_CONFIG": str(daemon.folder)}
    follower = subprocess.Popen(
        ["docker", "logs", "-f", "q1"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.5)
    held = Path(f"/proc/{daemon.process.pid}/fd")
    descriptors = len(list(held.iterdir()))
    follower.kill()
    follower.wait()
    deadline = time.monotonic() + 5
    while len(list(held.iterdir())) >= descriptors:
        assert time.monotonic() < deadline, "the daemon still holds the connection"
        time.sleep(0.05)
