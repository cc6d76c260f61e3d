"""Our command line beside docker's, without an engine: the same flags, the same requests, the same exit codes."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from longshore.cli.main import cli, main

sys.path.insert(0, str(Path(__file__).parent))
from recorder import Recorder, without_defaults

ROOT = Path(__file__).resolve().parents[3]
UNPACKED = ROOT / "build/docker/usr/bin/docker"
WINDOWS = {"--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops", "--isolation"}
# Of features that neither engine has without a cluster, and of builders and clients that are not docker itself
ELSEWHERE = {
    "volume create": {"--availability", "--group", "--limit-bytes", "--required-bytes", "--scope", "--secret",
                      "--sharing", "--topology-preferred", "--topology-required", "--type"},
    "volume ls": {"--cluster"},
    "image ls": {"--tree"},
    "images": {"--tree"},
    "system df": set[str](),
}  # fmt: skip
CONTAINER = ["attach", "commit", "cp", "create", "diff", "exec", "export", "inspect", "kill", "logs", "ls", "pause", "port", "prune", "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait"]  # fmt: skip
COMMANDS = [
    *(f"container {name}" for name in CONTAINER),
    *(name for name in CONTAINER if name not in ("ls", "prune")),
    *[
        "ps",
        "images",
        "rmi",
        "pull",
        "push",
        "tag",
        "history",
        "load",
        "save",
        "import",
        "login",
        "logout",
        "events",
        "info",
        "version",
    ],
    *(
        f"image {name}"
        for name in [
            "history",
            "import",
            "inspect",
            "load",
            "ls",
            "prune",
            "pull",
            "push",
            "rm",
            "save",
            "tag",
        ]
    ),
    *(f"network {name}" for name in ["connect", "create", "disconnect", "inspect", "ls", "prune", "rm"]),
    *(f"volume {name}" for name in ["create", "inspect", "ls", "prune", "rm"]),
    *(f"system {name}" for name in ["df", "events", "info", "prune"]),
]


@pytest.fixture(scope="module")
def docker() -> str:
    import shutil

    found = shutil.which("docker") or (str(UNPACKED) if UNPACKED.exists() else "")
    if not found:
        pytest.skip("no docker CLI on this machine (make setup unpacks one)")
    return found


def flags_of(help_text: str) -> dict[str, str]:
    """Long flag -> its letter, of a `--help` page."""
    found = re.findall(r"^ {2}(?:(-\w), | {4})?(--[a-z0-9][a-z0-9-]*)", help_text, re.MULTILINE)
    return {long: short for short, long in found if long != "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_docker_is_ours(docker: str, name: str) -> None:
    env = {"PATH": os.environ["PATH"], "DOCKER_CONFIG": "/nonexistent"}
    theirs = subprocess.run(
        [docker, *name.split(), "--help"], capture_output=True, text=True, check=True, env=env
    )
    ours = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="longshore")
    assert ours.exit_code == 0, ours.output
    wanted = {flag: short for flag, short in flags_of(theirs.stdout).items() if flag not in WINDOWS}
    wanted = {flag: short for flag, short in wanted.items() if flag not in ELSEWHERE.get(name, ())}
    got = flags_of(ours.output)
    assert len(got) >= len(wanted)
    assert {flag: got.get(flag) for flag in wanted} == wanted


def test_the_flags_are_read_from_the_page() -> None:
    assert flags_of("  -a, --all string   x\n      --no-trunc    y\n                 --not-a-flag z\n") == {
        "--all": "-a",
        "--no-trunc": "",
    }


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    server = Recorder(tmp_path_factory.mktemp("r") / "s")
    yield server
    server.shutdown()
    server.server_close()


SAME = """
create b
create -it b sh -c 'x y'
create --add-host a:1.2.3.4 --add-host b=::1 --add-host c:[::2] --add-host d:host-gateway b
create --annotation a=b -a stdin -a STDOUT b
create --blkio-weight 100 --blkio-weight-device /dev/sda:200 b
create --cap-add NET_ADMIN --cap-drop all --cgroup-parent /x --cgroupns host b
create --cpu-period 1000 --cpu-quota 2000 --cpu-rt-period 3 --cpu-rt-runtime 4 -c 5 --cpuset-cpus 0 --cpuset-mems 0 b
create --cpus 1.5 b
create --device /dev/null --device /dev/zero:/dev/x --device /dev/fuse:/dev/y:rw --device /dev/tty:r b
create --device vendor.com/class=name b
create --device-cgroup-rule 'c 1:3 rwm' --device-read-bps /dev/sda:1mb --device-read-iops /dev/sda:100 b
create --device-write-bps /dev/sda:2k --device-write-iops /dev/sda:7 b
create --dns 1.1.1.1 --dns-option ndots:1 --dns-search x.y --domainname d b
create --entrypoint '' b
create --entrypoint /bin/sh -e A=1 -e HOME -e NOPE b -c x
create --expose 80 --expose 90-92/udp b
create --gpus all b
create --gpus 2 b
create --gpus '"device=0,1",driver=nvidia,capabilities=compute' b
create --group-add 5 --health-cmd 'x y' --health-interval 5s --health-retries 3 --health-start-period 2m b
create --health-timeout 1m30s b
create --health-start-interval 1s b
create --no-healthcheck b
create -h name --init -i --ip 172.30.0.5 --ip6 ::5 --ipc host b
create --network net1 --ip 172.30.0.5 --network-alias a --network-alias b --link x:y --link-local-ip 169.254.1.1 b
create --network net1 --mac-address 92:d0:c6:0a:29:33 b
create --network name=net1,alias=q,ip=1.2.3.4,driver-opt=a=b --network net2 b
create --network host b
create --network container:x b
create --net host b
create --link c1:al b
create --label a=b --label c b
create --log-driver json-file --log-opt max-size=1m b
create -m 512m --memory-reservation 1g --memory-swap -1 --memory-swappiness 10 b
create -m 1.5g --memory-swap 3g b
create --mount type=bind,source=/a,target=/b,readonly,bind-propagation=rshared b
create --mount type=volume,src=v,dst=/b,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=type=nfs b
create --mount type=volume,src=v,dst=/b,volume-subpath=x b
create --mount type=tmpfs,destination=/b,tmpfs-size=1m,tmpfs-mode=1770 b
create --mount '"type=bind","source=/a,b","target=/c"' b
create --mount type=bind,source=/a,target=/b,bind-recursive=disabled b
create --mount type=bind,source=/a,target=/b,bind-recursive=readonly,readonly,bind-propagation=rprivate b
create --oom-kill-disable --oom-score-adj 100 --pid host --pids-limit 50 --privileged -P b
create -p 80 -p 8080:80 -p 127.0.0.1::81/udp -p [::1]:8080:82 -p 8000-8001:90-91 -p 8100-8110:95 b
create -p published=8080,target=80,protocol=udp b
create --read-only --restart on-failure:3 --rm=false --runtime runc b
create --security-opt no-new-privileges --security-opt label=disable --security-opt apparmor=x b
create --security-opt systempaths=unconfined --security-opt seccomp=unconfined --security-opt label:type:x b
create --shm-size 1g --stop-signal SIGQUIT --stop-timeout 5 --storage-opt size=1g --sysctl net.a=1 b
create --tmpfs /a --tmpfs /b:size=1m,mode=1777 -t b
create --ulimit nofile=10:20 --ulimit nproc=5 --ulimit core=-1 b
create -u 1:2 --userns host --uts host -v /a:/b:ro -v /anon -v name:/c -v ./rel:/d --volume-driver x b
create --volumes-from y:ro -w /w --name n --platform linux/amd64 b
create --use-api-socket b
update -m 10m --memory-swap -1 --restart always --pids-limit 5 --cpu-shares 3 --cpuset-cpus 0-1 x
update --cpus 1.5 --memory-reservation 5m --blkio-weight 20 --cpu-period 1 --cpu-quota 2 x y
network create --subnet 172.30.0.0/16 --gateway 172.30.0.1 --ip-range 172.30.5.0/24 --aux-address a=172.30.0.9 n
network create -o a=b --label l=m --internal --attachable --ipv6 -d x n
network connect --alias a --ip 1.2.3.4 --link a:b --driver-opt x=y n c
network disconnect -f n c
network ls -q --filter driver=bridge
volume create -d local -o type=tmpfs --label a=b v
volume create
volume rm -f a b
volume prune -f
volume prune -af
kill -s INT a
pause a
unpause a
rm -fv a
rm -l a/b
stop -t 3 -s INT a
restart -s INT a
start a b
rename a b
wait a
top a -o pid
container prune -f --filter label=x --filter until=1h
image prune -f
image prune -af --filter until=1h
network prune -f
events --since 2020-01-01 --until 1577923200 --filter type=image --filter Type=network
ps -q -n 3 -f status=running
ps -aqs
images -q -f dangling=true x
"""
REFUSED = """
create -p x:y:z b
create -p 70000 b
create --restart always --rm b
create --memory-swappiness 101 b
create --ulimit nofile=20:10 b
create --ulimit nofile b
create --device /dev/x:y:z:q b
create --cpus x b
create --mount type=bind,src=/a b
create --mount foo=bar b
create --mount type=bind,target=/a,volume-nocopy b
create --sysctl x b
create --label =x b
create -e =x b
create --env-file /nonexistent b
create --health-interval 5 b
create --no-healthcheck --health-cmd x b
create --add-host x b
create --attach foo b
create --gpus x=y b
create --network name=a,foo=b b
create --net host --net-alias x b
create --mac-address xx b
create --pull foo b
create --expose x b
create --security-opt foo b
create --security-opt seccomp=/nonexistent b
create --device-read-bps x b
create --blkio-weight-device /dev/sda:5 b
create --stop-timeout x b
create --bogus b
create
run
run -d -a stdout b
update x
rename a
exec a
ps a
ps --bogus
ps --filter x
logs --tail
stop -t x a
nosuch
container nosuch
network create --gateway 1.2.3.4 n
network create --subnet 10.0.0.0/8 --subnet 10.1.0.0/16 n
volume prune --bogus
system prune --volumes -f --filter until=1h
"""


Asked = tuple[list[Any], int, str]


def asked_by_docker(docker: str, recorder: Recorder, words: list[str]) -> Asked:
    """What docker asks the engine, in a form that does not depend on order and spelling; its exit code and words."""
    recorder.seen.clear()
    done = subprocess.run(
        [docker, *words], capture_output=True, text=True, check=False, env=environment(recorder), timeout=60
    )
    return [normal(*each) for each in recorder.seen], done.returncode, done.stderr


def asked_by_us(recorder: Recorder, words: list[str]) -> Asked:
    """The same of our own; in this process, to be quick."""
    recorder.seen.clear()
    said = io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(io.StringIO()):
        patch.setattr(os, "environ", environment(recorder))
        patch.setattr(sys, "argv", ["longshore", *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return [normal(*each) for each in recorder.seen], code, said.getvalue()


def environment(recorder: Recorder) -> dict[str, str]:
    host = f"unix://{recorder.server_address}"
    return {"PATH": os.environ["PATH"], "HOME": "/root", "DOCKER_HOST": host, "DOCKER_CONFIG": "/nonexistent"}


def normal(method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
    query = {name: values for name, values in query.items() if values not in (["0"], ["false"])}
    if "filters" in query:
        filters = json.loads(query["filters"][0])
        query["filters"] = sorted(f"{name}={value}" for name, values in filters.items() for value in values)
    body = without_defaults(body or {})
    host_config = body.get("HostConfig", {})
    host_config.pop("ConsoleSize", None)
    body.get("Env", []).sort()  # docker loses their order
    for name in ("Binds", "CapAdd", "CapDrop"):
        if name in host_config:
            host_config[name].sort()
    host_config.get("Ulimits", []).sort(key=lambda each: each["Name"])
    for config in (host_config, body):
        if config.get("MemorySwappiness") == -1:  # docker's way to say nothing
            del config["MemorySwappiness"]
    return method, path, query, body


@pytest.fixture(scope="module")
def modern(docker: str) -> str:
    """Docker's command line before 25 speaks an API that puts some things elsewhere."""
    version = subprocess.run([docker, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)", version)
    if not found or int(found[1]) < 25:
        pytest.skip(f"{version.strip()} is too old to compare requests with")
    return docker


@pytest.mark.parametrize("line", SAME.strip().splitlines())
def test_the_same_words_are_the_same_request(modern: str, recorder: Recorder, line: str) -> None:
    theirs, code, told = asked_by_docker(modern, recorder, shlex.split(line))
    if "unknown flag" in told or "unexpected key" in told:
        pytest.skip(f"this docker: {told.splitlines()[0]}")
    ours, our_code, our_words = asked_by_us(recorder, shlex.split(line))
    assert ours == theirs, our_words
    assert our_code == code, our_words


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_the_same_mistakes_are_refused_with_the_same_exit_code(
    modern: str, recorder: Recorder, line: str
) -> None:
    theirs, code, _ = asked_by_docker(modern, recorder, shlex.split(line))
    ours, our_code, told = asked_by_us(recorder, shlex.split(line))
    assert ours == theirs == []
    assert our_code == code != 0, told
    assert told.startswith("Error: ")
    assert told.count("\n") == 1


def test_help_without_a_command(docker: str) -> None:
    for words in ([], ["container"], ["image"], ["network"], ["volume"], ["system"]):
        shown = CliRunner().invoke(cli, words, prog_name="longshore")
        assert (shown.exit_code, "Commands:" in shown.output) == (0, True)
    assert isinstance(cli, click.Group)
