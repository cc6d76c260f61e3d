"""Our own command line against our daemon."""

import functools
import io
import json
import os
import re
import shlex
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longshore.cli.main import main


@pytest.fixture(autouse=True)
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def test_run_and_its_exit_codes(daemon: Any) -> None:
    done = daemon.longshore(
        "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo e >&2; exit 9", input=b"in\n", check=False
    )
    assert (done.code, done.out, done.err) == (9, "in\n", "e\n")
    assert daemon.longshore("run", "--rm", "busybox", "nosuch", check=False).code == 127
    assert daemon.longshore("run", "--rm", "busybox", "/etc/passwd", check=False).code == 126
    assert daemon.longshore("run", "--nonsense", "busybox", check=False).code == 125
    assert daemon.longshore("run", "127.0.0.1:1/none", check=False).code == 125
    assert daemon.longshore("ps", "-aq").out == ""


def test_input_from_a_file_that_epoll_does_not_take(daemon: Any, tmp_path: Path) -> None:
    import os
    import subprocess

    (tmp_path / "in").write_bytes(os.urandom(200_000))
    command = [
        daemon.command[0].replace("longshored", "longshore"),
        "run",
        "--rm",
        "-i",
        "busybox",
        "wc",
        "-c",
    ]
    with open(tmp_path / "in", "rb") as file:
        done = subprocess.run(
            command,
            stdin=file,
            capture_output=True,
            env={**os.environ, "LONGSHORE_HOST": daemon.host},
            timeout=30,
        )
    assert done.stdout.strip() == b"200000", done


def test_lists_logs_exec_and_the_rest(daemon: Any) -> None:
    identifier = daemon.longshore(
        "run", "-d", "--name", "web", "busybox", "sh", "-c", "echo up; sleep 60"
    ).out.strip()
    line = daemon.longshore("ps").out.splitlines()[1]
    assert line.startswith(identifier[:12])
    assert daemon.longshore("ps", "--format", "{{.Names}} {{.State}}").out == "web running\n"
    assert json.loads(daemon.longshore("ps", "--format", "json").out)["Image"] == "busybox"
    assert daemon.longshore("logs", "web").out == "up\n"
    assert daemon.longshore("exec", "web", "sh", "-c", "exit 6", check=False).code == 6
    assert daemon.longshore("exec", "-e", "A=1", "web", "sh", "-c", "echo $A").out == "1\n"
    assert daemon.longshore("inspect", "--format", "{{.State.Status}}", "web").out == "running\n"
    assert daemon.longshore("stop", "-t", "0", "web").out == "web\n"
    assert daemon.longshore("wait", "web").out == "137\n"
    assert daemon.longshore("start", "web").out == "web\n"
    assert daemon.longshore("rename", "web", "web2").out == ""
    assert daemon.longshore("rm", "-f", "web2", "nosuch", check=False).out == "web2\nnosuch\n"
    done = daemon.longshore("stop", "nosuch", check=False)
    assert (done.code, done.err) == (1, "Error: No such container: nosuch\n")


def test_images_build_save_load_tag_and_rmi(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCOPY . /ctx\nCMD ["ls", "/ctx"]\n')
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "public").write_text("x")
    daemon.longshore("build", "-t", "own:1", str(tmp_path))
    assert "secret" not in daemon.longshore("run", "--rm", "own:1").out
    daemon.longshore("tag", "own:1", "own:2")
    assert daemon.longshore("images", "--format", "{{.Repository}}:{{.Tag}}", "own").out.split() == [
        "own:1",
        "own:2",
    ]
    daemon.longshore("save", "-o", str(tmp_path / "own.tar"), "own:1", "own:2")
    daemon.longshore("rmi", "own:1", "own:2")
    assert (
        "Loaded image: own:1\nLoaded image: own:2\n"
        in daemon.longshore("load", "-i", str(tmp_path / "own.tar")).out
    )
    assert daemon.longshore("rmi", "own:1", "own:2", "nosuch", check=False).code == 1
    assert "IMAGE" in daemon.longshore("history", "busybox").out
    failed = daemon.longshore("build", "-f", str(tmp_path / "public"), str(tmp_path), check=False)
    assert failed.code == 1


def test_info_version_doctor_and_events(daemon: Any) -> None:
    assert str(daemon.data) in daemon.longshore("info").out
    assert daemon.longshore("version", "--format", "{{.Server.ApiVersion}}").out == "1.47\n"
    assert "kernel" in daemon.longshore("doctor", check=False).out
    assert {each["check"] for each in daemon.request("GET", "/longshore/v1/doctor")[1]} >= {
        "kernel",
        "disk",
        "cgroups",
    }
    now = str(int(time.time()) + 1)
    daemon.longshore("run", "--rm", "--name", "evented", "busybox", "true")
    assert "container start" in daemon.longshore("events", "--since", "1", "--until", now).out


def test_no_daemon_is_told_with_what_to_do(daemon: Any) -> None:
    done = daemon.longshore("-H", "unix:///nonexistent.sock", "ps", check=False)
    assert done.code == 1
    assert "cannot connect to the daemon at unix:///nonexistent.sock" in done.err
    assert "is longshored running?" in done.err


def test_dial_stdio_carries_a_request(daemon: Any) -> None:
    request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert daemon.longshore("system", "dial-stdio", input=request).out.endswith("OK")


def test_apply_changes_once_and_then_nothing(daemon: Any) -> None:
    wanted = json.dumps(
        {"containers": [{"name": "applied", "image": "busybox", "command": ["sleep", "60"]}]}
    ).encode()
    planned = daemon.longshore("apply", "-f", "-", "--dry-run", input=wanted)
    assert "create container applied" in planned.out
    assert daemon.longshore("ps", "-aq").out == ""
    done = daemon.longshore("apply", "-f", "-", input=wanted)
    assert done.out.endswith("changed\n")
    assert daemon.longshore("ps", "--format", "{{.Names}}").out == "applied\n"
    assert daemon.longshore("apply", "-f", "-", input=wanted).out == "nothing to change\n"
    broken = json.dumps(
        {"containers": [{"name": "broken", "image": "busybox", "command": ["sh", "-c", "exit 3"]}]}
    ).encode()
    failed = daemon.longshore("apply", "-f", "-", input=broken, check=False)
    assert failed.code == 1
    assert failed.out.endswith("nothing has changed\n")  # the new container was removed again
    assert daemon.longshore("ps", "-a", "--format", "{{.Names}}").out == "applied\n"
    # the one that works counts, although the other one fails
    both = json.loads(broken)["containers"] + [{"name": "applied", "memory": "64m"}]
    failed = daemon.longshore(
        "apply", "-f", "-", input=json.dumps({"containers": both}).encode(), check=False
    )
    assert failed.code == 1
    assert failed.out.endswith("\nchanged\n")
    refused = daemon.longshore("apply", "-f", "-", input=b'{"containers": [{"name": "x y"}]}', check=False)
    assert refused.code == 1
    assert refused.err.startswith("Error: ")


# Beside docker's own command line


@pytest.fixture
def web(daemon: Any) -> Iterator[str]:
    """A container with something in every column."""
    daemon.longshore("volume", "create", "--label", "a=b", "cli-volume")
    words = [
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1::80",
        "-p",
        "127.0.0.1::53/udp",
        "-l",
        "com.example.role=front",
    ]
    words += [
        "-v",
        "cli-volume:/v",
        "-v",
        "/etc/apt:/t:ro",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; exec sleep 1000",
    ]
    yield daemon.longshore(*words).out.strip()
    daemon.remove_containers()
    daemon.longshore("volume", "rm", "-f", "cli-volume")


SAME = """
ps
ps -a --no-trunc
ps -s
ps -q
ps -a --format 'table {{.ID}}\\t{{.Names}}\\t{{.Label "com.example.role"}}\\t{{.Size}}'
ps --format '{{.Names}}: {{.Image}} {{.Command}} {{.CreatedAt}} {{.Ports}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.State}}'
ps --filter label=com.example.role=front --filter status=running --format '{{upper .Names}}'
container ls -a -q --no-trunc
images
images --digests --no-trunc
image ls -q
images --format '{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.CreatedAt}}'
history busybox
history --no-trunc --human=false busybox
history -q --no-trunc busybox
volume ls
volume ls -q
volume ls --format '{{json .}}'
volume inspect cli-volume
network ls --no-trunc
network ls --filter driver=bridge -q
network ls --format 'table {{.Name}}\\t{{.Driver}}\\t{{.Internal}}'
network inspect bridge --format '{{.Name}} {{range .IPAM.Config}}{{.Subnet}}{{end}}'
port web
port web 80
port web 53/udp
top web -o pid,args
diff web
inspect web --format '{{.State.Status}} {{.State.Pid}} {{json .Config.Labels}} {{.HostConfig.RestartPolicy.Name}}'
inspect web --format '{{range $p, $c := .NetworkSettings.Ports}}{{$p}}={{range $c}}{{.HostIp}}:{{.HostPort}}{{end}} {{end}}'
inspect web --format '{{range .Mounts}}{{.Source}}->{{.Destination}} {{if .RW}}rw{{else}}ro{{end}};{{end}}'
inspect web --format '{{with .NetworkSettings.Networks.bridge}}{{.IPAddress}}{{end}} {{len .Mounts}} {{index .Config.Cmd 0}}'
inspect web --format '{{join .Config.Cmd " "}} {{(index .Mounts 0).Type}} {{.Name | printf "%.4s|%s" "abcdef"}}'
inspect web --format '{{if eq .State.Running true}}yes{{end}} {{index .Config.Labels "com.example.role"}} {{.Config.Labels.nokey}}'
inspect web busybox --format '{{.Id}}'
inspect -s web --format '{{.SizeRw}}'
image inspect busybox
system df
system df -v
system df --format json
events --since 1 --until 0s --filter container=web --filter event=create
events --since 1 --until 0s --filter container=web --filter event=create --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.ID}} {{.Scope}}'
events --since 1 --until 0s --filter container=web --filter event=create --format json
version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Os}}'
info --format '{{.Name}} {{.Driver}} {{.ServerVersion}} {{.CgroupVersion}} {{.NCPU}}'
"""
BEYOND = "\nEvery byte on the disk:\n"  # what `system df -v` adds to docker's tables


def in_process(daemon: Any, words: list[str]) -> Any:
    """Our command line without starting a process for it: what many lines would spend most of their time with."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(daemon.folder), "DOCKER_HOST": daemon.host}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(os, "environ", environment | {"DOCKER_CONFIG": str(daemon.folder)})
        patch.setattr(sys, "argv", ["longshore", *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return SimpleNamespace(out=out.getvalue(), err=err.getvalue(), code=code)


def timeless(text: str) -> str:
    """Three seconds may become four between two commands."""
    text = re.sub(r"(Less than a|About a|\d+) (second|minute)s?( ago)?", "<age>", text)
    return re.sub(" +", " ", text) if "<age>" in text else text  # columns are as wide as their ages


def test_the_same_words_print_the_same(daemon: Any, web: str) -> None:
    """One test for all: they share the container, and a difference shows the line."""
    daemon.docker("builder", "prune", "-af")  # 20.10 counts what steps share as reclaimable, we do not
    different: dict[str, tuple[str, str]] = {}
    for line in SAME.strip().splitlines():
        theirs, ours = daemon.docker(*shlex.split(line)), in_process(daemon, shlex.split(line))
        common = ours.out.partition(BEYOND)[0]
        if (timeless(theirs.out), theirs.err) != (timeless(common), ours.err) or ours.code:
            different[line] = (theirs.out + theirs.err, ours.out + ours.err)
    assert not different


def test_the_same_values_as_json(daemon: Any, web: str) -> None:
    """Newer clients know fields more than older ones; what both print is the same."""
    for line in (
        "ps -a --format json",
        "images --format json",
        "network ls --format json",
        "ps --format '{{json .}}'",
    ):
        theirs, ours = ((json.loads(each) for each in run(*shlex.split(line)).out.splitlines())
                        for run in (daemon.docker, daemon.longshore))  # fmt: skip
        for a, b in zip(theirs, ours, strict=True):
            assert {key: a[key] for key in b.keys() & a.keys() - {"RunningFor", "Status", "Size"}} == {
                key: b[key] for key in b.keys() & a.keys() - {"RunningFor", "Status", "Size"}
            }
            assert {key for key in a.keys() - b.keys() if a[key]} == set()


WRONG = """
ps --filter status=nonsense
inspect nosuch
container inspect nosuch
logs nosuch
rm web
port web 99
wait nosuch
volume rm cli-volume
network rm bridge
exec nosuch true
start nosuch
rename web web
tag nosuch x
rmi nosuch
cp nosuch:/a /tmp
cp web:/nosuch /tmp
cp /nosuch web:/tmp
cp web:/etc/passwd /nosuch/folder/x
cp a b
top nosuch
ps --format '{{.Nothing}}'
ps --format '{{.Names'
inspect --format '{{.Nothing.X}}' web
attach nosuch
update -m 1 web
kill -s NONSENSE web
"""


def test_the_same_mistakes_end_the_same(daemon: Any, web: str) -> None:
    for line in WRONG.strip().splitlines():
        words = shlex.split(line)
        theirs, ours = daemon.docker(*words, check=False), in_process(daemon, words)
        assert ours.code == theirs.code != 0, (line, theirs, ours)
        assert ours.err.startswith("Error: "), (line, ours)
        assert ours.err.count("\n") == 1, (line, ours)
        assert "Traceback" not in ours.err


# What lists do not show


def test_the_life_of_a_container_command_by_command(daemon: Any, web: str, tmp_path: Path) -> None:
    run = daemon.longshore
    assert run("pause", "web").out == "web\n"
    assert "(Paused)" in run("ps").out
    assert run("container", "unpause", "web").out == "web\n"
    assert run("update", "-m", "64m", "--memory-swap", "-1", "--restart", "no", "web").out == "web\n"
    assert run("inspect", "-f", "{{.HostConfig.Memory}}", "web").out == f"{64 << 20}\n"
    run("exec", "web", "sh", "-c", "echo new > /root-file")
    assert "A /root-file" in run("diff", "web").out.splitlines()
    identifier = run("commit", "-c", "CMD cat /root-file", "-m", "why", "web", "committed:1").out.strip()
    assert identifier.startswith("sha256:")
    assert run("run", "--rm", "committed:1").out == "new\n"
    run("export", "-o", str(tmp_path / "files.tar"), "web")
    with tarfile.open(tmp_path / "files.tar") as tar:
        assert "root-file" in tar.getnames()
    assert run("import", "-c", "CMD x", str(tmp_path / "files.tar"), "imported:1").out.startswith("sha256:")
    header, line = run("stats", "--no-stream", "web").out.splitlines()
    assert header.split()[:2] == ["CONTAINER", "ID"]
    assert line.startswith(web[:12])
    assert run("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}").out == "web 1\n"
    assert run("restart", "-t", "0", "web").out == "web\n"
    assert run("kill", "web").out == "web\n"
    assert run("wait", "web").out == "137\n"
    assert "Total reclaimed space" in run("container", "prune", "-f", "--filter", "label=nosuch").out
    assert run("ps", "-aq").out.strip() == web[:12]
    pruned = run("container", "prune", "-f").out
    assert pruned.splitlines()[:2] == ["Deleted Containers:", web]
    assert run("rmi", "committed:1", "imported:1").code == 0


def test_prune_asks_first(daemon: Any, web: str) -> None:
    daemon.longshore("kill", "web")
    asked = daemon.longshore("container", "prune", input=b"n\n")
    assert asked.out.startswith("WARNING! This will remove all stopped containers.\n")
    assert daemon.longshore("ps", "-aq").out
    daemon.longshore("container", "prune", input=b"y\n")
    assert not daemon.longshore("ps", "-aq").out
    daemon.docker("builder", "prune", "-af")  # what other tests have built: the filter does not concern it
    everything = daemon.longshore("system", "prune", "-f", "--volumes", "--filter", "label=nosuch")
    assert everything.out.endswith("Total reclaimed space: 0B\n")


def test_networks_and_volumes(daemon: Any, web: str) -> None:
    run = daemon.longshore
    words = ["--subnet", "10.213.7.0/24", "--gateway", "10.213.7.1", "--label", "x=y", "cli-net"]
    try:
        created = run("network", "create", *words).out.strip()
        assert (
            run("network", "inspect", "-f", "{{.Id}} {{(index .IPAM.Config 0).Subnet}}", "cli-net").out
            == f"{created} 10.213.7.0/24\n"
        )
        run("network", "connect", "--ip", "10.213.7.9", "cli-net", "web")
        shown = run("inspect", "-f", '{{(index .NetworkSettings.Networks "cli-net").IPAddress}}', "web")
        assert shown.out == "10.213.7.9\n"
        run("network", "disconnect", "cli-net", "web")
        assert "cli-net" in run("network", "prune", "-f", "--filter", "label=x=y").out
        assert run("network", "rm", "-f", "cli-net").out == "cli-net\n"  # not being there is no failure
    finally:
        run("network", "rm", "-f", "cli-net")
    assert run("volume", "inspect", "-f", "{{.Labels}}", "cli-volume").out == "map[a:b]\n"
    assert len(run("volume", "create").out.strip()) == 64
    assert "Deleted Volumes:" in run("volume", "prune", "-f").out
    assert "cli-volume" in run("volume", "ls", "-q").out


def test_run_detached_with_a_file_for_the_id(daemon: Any, tmp_path: Path) -> None:
    file = tmp_path / "id"
    (tmp_path / "env").write_text("FROM_FILE=1\n")
    words = [
        "-d",
        "--cidfile",
        str(file),
        "--env-file",
        str(tmp_path / "env"),
        "busybox",
        "sh",
        "-c",
        "echo $FROM_FILE",
    ]
    identifier = daemon.longshore("run", *words).out.strip()
    assert file.read_text() == identifier
    daemon.longshore("wait", identifier)
    assert daemon.longshore("logs", identifier).out == "1\n"
    again = daemon.longshore("run", *words, check=False)
    assert (again.code, again.out) == (125, "")
    assert "remove it" in again.err
    file.unlink()
    assert daemon.longshore("run", "--cidfile", str(file), "nosuch:image", check=False).code == 125
    assert not file.exists()
    assert daemon.longshore("run", "--pull", "never", "nosuch:image", check=False).code == 125
    assert len(daemon.longshore("ps", "-aq").out.split()) == 1


@pytest.mark.parametrize("program", ["docker", "longshore"])
def test_cp_follows_dockers_rules(daemon: Any, web: str, tmp_path: Path, program: str) -> None:
    """Run with both: the rules themselves are tested, not only our reading of them."""
    cp = functools.partial(getattr(daemon, program), "cp")
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/file").write_text("one")
    (tmp_path / "dir/sub/deep").write_text("two")
    (tmp_path / "dir/link").symlink_to("file")

    def inside(command: str) -> str:
        return daemon.longshore("exec", "web", "sh", "-c", command).out

    cp(f"{tmp_path}/dir/file", "web:/renamed")
    assert inside("cat /renamed; stat -c %u /renamed") == "one0\n"
    inside("mkdir /there")
    cp(f"{tmp_path}/dir/file", "web:/there")
    cp(f"{tmp_path}/dir", "web:/there")
    cp(f"{tmp_path}/dir", "web:/new")
    cp(f"{tmp_path}/dir/.", "web:/there")
    assert inside("cd /there && find . | sort").split() == [
        ".", "./dir", "./dir/file", "./dir/link", "./dir/sub", "./dir/sub/deep", "./file", "./link", "./sub", "./sub/deep",
    ]  # fmt: skip
    assert inside("cat /new/sub/deep; readlink /new/link") == "twofile\n"
    cp(f"{tmp_path}/dir/link", "web:/as-link")
    cp("-L", f"{tmp_path}/dir/link", "web:/as-file")
    assert inside("readlink /as-link; cat /as-file") == "file\none"

    out = tmp_path / "out"
    out.mkdir()
    cp("web:/there/dir", str(out))
    cp("web:/there/dir", str(out / "renamed"))
    cp("web:/there/dir/.", str(out / "contents"))
    cp("web:/there/file", str(out / "copy"))
    cp("web:/there/dir/link", str(out / "l"))
    cp("-L", "web:/there/dir/link", str(out / "f"))
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == sorted(
        [
            f"{top}{each}"
            for top in ("dir", "renamed", "contents")
            for each in ("", "/file", "/link", "/sub", "/sub/deep")
        ]
        + ["copy", "l", "f"]
    )
    assert (out / "l").is_symlink()
    assert (out / "f").read_text() == "one"
    for wrong in (("web:/there/dir", str(out / "copy")), (f"{tmp_path}/dir/file", "web:/no/such/"),
                  ("web:/there/file", f"{out}/none/")):  # fmt: skip
        assert cp(*wrong, check=False).code == 1
    inside("rm -rf /there /new /renamed /as-link /as-file")


def test_cp_streams_archives(daemon: Any, web: str, tmp_path: Path) -> None:
    import subprocess

    done = subprocess.run(
        [*longshore_command(daemon), "cp", "web:/etc/passwd", "-"],
        capture_output=True,
        env=client_environment(daemon),
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["passwd"]
    subprocess.run(
        [*longshore_command(daemon), "cp", "-", "web:/tmp"],
        input=done.stdout,
        env=client_environment(daemon),
        check=True,
    )
    assert daemon.longshore("exec", "web", "cat", "/tmp/passwd").out.startswith("root:")


def longshore_command(daemon: Any) -> list[str]:
    return [str(Path(sys.executable).parent / "longshore"), "-H", daemon.host]


def client_environment(daemon: Any) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(daemon.folder), "TERM": "xterm"}


def typed(command: list[str], env: dict[str, str], script: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Run on a terminal: for each pair wait for the first, type the second. (exit code, everything shown)."""
    import pty
    import select
    import subprocess

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 60
    queue = list(script)
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                data = os.read(ours, 4096)
            except OSError:
                break
            shown += data
        if queue and queue[0][0] in shown:
            os.write(ours, queue.pop(0)[1])
        if process.poll() is not None and not select.select([ours], [], [], 0)[0]:
            break
    os.close(ours)
    return process.wait(30), shown


def test_detaching_with_own_keys_and_attaching_again(daemon: Any) -> None:
    base, env = longshore_command(daemon), client_environment(daemon)
    run = [*base, "run", "-it", "--name", "shell", "--detach-keys", "ctrl-a,d", "busybox", "sh"]
    code, shown = typed(run, env, [(b"# ", b"x=kept; echo re''ady\n"), (b"\nready", b"\x01d")])
    assert code == 0, shown
    assert daemon.longshore("inspect", "-f", "{{.State.Running}}", "shell").out == "true\n"
    attach = [*base, "attach", "--detach-keys", "ctrl-b", "shell"]
    code, shown = typed(attach, env, [(b"", b"echo $x; echo do''ne\n"), (b"done", b"exit 4\n")])
    assert (code, b"kept" in shown) == (4, True), shown
    code, shown = typed([*base, "start", "-ai", "shell"], env, [(b"# ", b"exit 5\n")])
    assert code == 5, shown


def test_signals_are_the_containers_unless_told_otherwise(daemon: Any) -> None:
    import signal
    import subprocess

    for flags, expected in (([], 7), (["--sig-proxy=false"], None)):
        script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"
        process = subprocess.Popen(
            [*longshore_command(daemon), "run", "--name", "signalled", *flags, "busybox", "sh", "-c", script],
            stdout=subprocess.PIPE, env=client_environment(daemon),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        process.stdout.close()
        running = daemon.longshore("inspect", "-f", "{{.State.Running}}", "signalled").out.strip()
        assert (code, running) == ((7, "false") if expected else (-signal.SIGTERM, "true"))
        daemon.longshore("rm", "-f", "signalled")


def test_the_shell_is_offered_names(daemon: Any, web: str) -> None:
    """As the bash script asks."""
    import subprocess

    def offered(*words: str) -> set[str]:
        env = client_environment(daemon) | {
            "LONGSHORE_HOST": daemon.host, "_LONGSHORE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["longshore", *words]), "COMP_CWORD": str(len(words)),
        }  # fmt: skip
        command = [str(Path(sys.executable).parent / "longshore")]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        return {line.partition(",")[2] for line in done.stdout.splitlines() if line}

    assert offered("stop", "w") == {"web"}
    assert offered("start", "w") == set()
    assert "busybox:latest" in offered("run", "busy")
    assert offered("volume", "rm", "cli") == {"cli-volume"}
    assert "bridge" in offered("network", "inspect", "b")
    assert "web:" in offered("cp", "we")


def test_an_ssh_host_is_the_engine_there(daemon: Any, web: str, tmp_path: Path) -> None:
    """ssh is a script that runs what it is told here, as sshd would there."""
    import subprocess

    ssh = tmp_path / "ssh"
    ssh.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\necho "$1" >>"$0.hosts"\nshift\nexec "$@"\n'
    )
    ssh.chmod(0o755)
    (tmp_path / "longshore").symlink_to(Path(sys.executable).parent / "longshore")
    env = client_environment(daemon) | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    base = ["longshore", "-H", f"ssh://me@far.example/{daemon.socket}".replace("example//", "example/")]
    done = subprocess.run(
        [*base, "ps", "--format", "{{.Names}}"], capture_output=True, text=True, env=env, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("web\n", "", 0)
    done = subprocess.run(
        [*base, "exec", "-i", "web", "cat"], input=b"through", capture_output=True, env=env, check=False
    )
    assert done.stdout == b"through"
    assert (tmp_path / "ssh.hosts").read_text().split()[0] == "far.example"
    ssh.write_text("#!/bin/sh\necho no route >&2\nexit 255\n")
    done = subprocess.run([*base, "ps"], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("no route\nError: ")


def test_events_come_as_they_happen(daemon: Any) -> None:
    import subprocess

    process = subprocess.Popen(
        [*longshore_command(daemon), "events", "--filter", "type=volume", "--format", "{{.Action}} {{.Actor.ID}}"],
        stdout=subprocess.PIPE, text=True, env=client_environment(daemon),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines: list[str] = []
        for number in range(50):  # until it listens
            daemon.longshore("volume", "create", f"told{number}")
            daemon.longshore("volume", "rm", f"told{number}")
            if select_readable(process.stdout):
                lines.append(process.stdout.readline())
                break
        assert lines
        assert lines[0].split()[0] in ("create", "destroy")
    finally:
        process.terminate()
        process.communicate()


def select_readable(stream: Any) -> bool:
    import select

    return bool(select.select([stream], [], [], 0.2)[0])


def test_a_container_that_speaks_to_its_engine(daemon: Any, tmp_path: Path) -> None:
    daemon.longshore("run", "-d", "--name", "inner", "--use-api-socket", "busybox", "sleep", "1000")
    shown = daemon.longshore("exec", "inner", "sh", "-c", "test -S /var/run/docker.sock && echo there")
    assert shown.out == "there\n"
