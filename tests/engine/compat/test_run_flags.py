"""`docker run`, flag by flag: what each one does is seen inside the container.

The marker `flag` names the flags that a case covers; docs/reference/run-flags.md is made of it (tools/run_flags.py).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def case(flags: str, args: str, script: str, want: str, image: str = "busybox") -> Any:
    """`docker run --rm ARGS busybox sh -c SCRIPT` prints what matches the regular expression `want`."""
    return pytest.param(args.split(), image, script, want, id=args, marks=pytest.mark.flag(*flags.split()))


ID = r"[0-9a-f]{12}"
CAPS = "grep -E 'Cap(Bnd|Eff)' /proc/self/status"
MOUNTS = "cat /proc/self/mountinfo"

INSIDE = [
    case("--add-host", "--add-host db:10.9.8.7", "cat /etc/hosts", r"^10\.9\.8\.7\tdb$"),
    case(
        "--add-host",
        "--add-host up:host-gateway",
        "ip route | grep default; grep up /etc/hosts",
        r"^default via (\S+) [^\n]*\n\1\tup$",
    ),
    case("--cap-add", "--cap-add NET_ADMIN", CAPS, r"CapBnd:\s+00000000a80435fb(?s:.*)CapEff:\s+00000000a80435fb|CapEff:\s+00000000a80435fb"),
    case("--cap-add", "--cap-add NET_ADMIN", "ip link set lo down && echo set", "^set$"),
    case("--cap-drop", "--cap-drop ALL", CAPS, r"CapEff:\s+0000000000000000(?s:.*)CapBnd:\s+0000000000000000"),
    case("--cap-drop --cap-add", "--cap-drop ALL --cap-add cap_kill", CAPS, r"CapEff:\s+0000000000000020$"),
    case("--cap-drop", "--cap-drop chown", "chown 1 /tmp 2>&1 || true", "not permitted"),
    case("--cgroupns", "--cgroupns host", "cat /proc/self/cgroup", r":/longshore/[0-9a-f]{64}$"),
    case("--cgroupns", "--cgroupns private", "cat /proc/self/cgroup", r"(memory|^0:):?:?.*:?/$"),
    case("--device", "--device /dev/loop-control:/dev/mine:r", "stat -c %t:%T /dev/mine", "^a:ed$"),
    case("--device", "--device /dev/zero:/dev/mine:r", "head -c3 /dev/mine | od -An -tx1", "^ 00 00 00$"),
    case(
        "--device-cgroup-rule",
        "--device-cgroup-rule c_10:237_r",
        "mknod /tmp/x c 10 237; : </tmp/x && echo opened",
        "^opened$",
    ),
    case("--dns", "--dns 10.1.2.3", "cat /etc/resolv.conf", r"^nameserver 10\.1\.2\.3$"),
    case("--dns-option", "--dns-option ndots:7", "cat /etc/resolv.conf", "^options ndots:7$"),
    case("--dns-search", "--dns-search a.test --dns-search b.test", "cat /etc/resolv.conf", r"^search a\.test b\.test$"),
    case("--domainname", "--domainname a.test", "cat /proc/sys/kernel/domainname", r"^a\.test$"),
    case("--domainname --hostname", "-h web --domainname a.test", "hostname -f", r"^web\.a\.test$"),
    case("--env", "-e A=1 -e B=", 'echo "$A:$B:"', "^1::$"),
    case("--group-add", "--group-add 44 --group-add nogroup", "id -G", r"\b44\b.*\b65534\b|\b65534\b.*\b44\b"),
    case("--hostname", "--hostname web", "hostname; cat /etc/hostname; grep web /etc/hosts", r"^web\nweb\n\S+\tweb$"),
    case("--init", "--init", "cat /proc/1/comm; readlink /proc/1/exe; echo me $$", r"init(?s:.*)me ([2-9]|\d\d)"),
    case("--ipc", "--ipc private", "ls /dev/shm | wc -l; readlink /proc/self/ns/ipc", r"^0\nipc:\[(?!{host_ipc})\d+\]"),
    case("--ipc", "--ipc host", "readlink /proc/self/ns/ipc", r"^ipc:\[{host_ipc}\]"),
    case("--ipc", "--ipc none", "grep -c ' /dev/shm ' /proc/self/mountinfo; :", "^0$"),
    case("--mac-address", "--mac-address 02:aa:bb:cc:dd:ee", "cat /sys/class/net/eth0/address", "^02:aa:bb:cc:dd:ee$"),
    case("--network", "--network none", "ls /sys/class/net", r"\A(lo)\n?\Z"),
    case("--network --net", "--network host", "readlink /proc/self/ns/net", r"^net:\[{host_net}\]"),
    case("--oom-score-adj", "--oom-score-adj 123", "cat /proc/self/oom_score_adj", "^123$"),
    case("--pid", "--pid host", "readlink /proc/self/ns/pid", r"^pid:\[{host_pid}\]"),
    case("--platform", "--platform linux/amd64", "uname -m", "^x86_64$"),
    case("--privileged", "--privileged", "mount -t tmpfs x /mnt 2>/dev/null || mkdir /m && mount -t tmpfs x /m && echo mounted", "^mounted$"),
    case("--privileged", "--privileged", "ls /dev/loop-control; cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness && echo wrote", "^/dev/loop-control\nwrote$"),
    case("--read-only", "--read-only --tmpfs /run", "touch /x 2>&1 || true; touch /run/x && echo wrote", r"Read-only(?s:.*)wrote"),
    case("--security-opt", "--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", r"\t1$"),
    case("--security-opt", "--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", r"\t0$"),
    case("--security-opt", "--security-opt systempaths=unconfined", "grep -c ' /proc/' /proc/self/mountinfo; :", "^0$"),
    case("--security-opt", "--security-opt label=disable --security-opt apparmor=unconfined", "echo ran", "^ran$"),
    case("--shm-size", "--shm-size 3m", "df -k /dev/shm | tail -1", r"^shm\s+3072\b"),
    case("--sysctl", "--sysctl net.core.somaxconn=77", "cat /proc/sys/net/core/somaxconn", "^77$"),
    case("--sysctl", "--sysctl kernel.msgmax=8000", "cat /proc/sys/kernel/msgmax", "^8000$"),
    case("--tmpfs", "--tmpfs /t:size=1m,mode=1770,exec", MOUNTS, r" /t rw,nosuid,nodev,relatime .* tmpfs .*size=1024k,mode=1770"),
    case("--ulimit", "--ulimit nofile=77:99 --ulimit core=0", "ulimit -n; ulimit -Hn; ulimit -c", r"^77\n99\n0$"),
    case("--user", "-u 1234:567", "id", r"uid=1234\S* gid=567"),
    case("--user", "--user nobody", "id -un; cat /proc/self/status | grep CapEff", r"^nobody\nCapEff:\s+0000000000000000$"),
    case("--userns", "--userns host", "cat /proc/self/uid_map", r"^\s+0\s+0\s+4294967295$"),
    case("--uts", "--uts host", "readlink /proc/self/ns/uts", r"^uts:\[{host_uts}\]"),
    case("--workdir", "-w /srv/app", "pwd", "^/srv/app$"),
    case("--runtime", "--runtime runc", "echo ran", "^ran$"),
    case("--runtime", "--runtime longshore", "echo ran", "^ran$"),
    case("--isolation", "--isolation default", "echo ran", "^ran$"),
    case("--volume-driver", "--volume-driver local -v flagdriver:/v", MOUNTS, r"/volumes/flagdriver/_data /v rw"),
    case("--disable-content-trust", "--disable-content-trust", "echo ran", "^ran$"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "image", "script", "want"), INSIDE)
def test_inside(daemon: Any, args: list[str], image: str, script: str, want: str) -> None:
    for kind in ("ipc", "net", "pid", "uts"):
        number = re.search(r"\d+", str(Path(f"/proc/self/ns/{kind}").readlink()))
        assert number
        want = want.replace(f"{{host_{kind}}}", number[0])
    words = [word.replace("_", " ") if word.startswith("c_") else word for word in args]
    done = daemon.docker("run", "--rm", *words, image, "sh", "-c", script)
    if "flagdriver:/v" in words:  # a volume with a name stays
        daemon.docker("volume", "rm", "flagdriver")
    assert re.search(want, done.out, re.MULTILINE), done


REFUSED = [
    ("--ip6", "--network bridge --ip6 2001:db8::33", "IPv6"),
    ("--userns", "--userns container:x", "USER mode"),
    ("--runtime", "--runtime kata", "unknown or invalid runtime name: kata"),
    ("--isolation", "--isolation hyperv", "linux only supports 'default'"),
    ("--storage-opt", "--storage-opt size=1g", "HostConfig.StorageOpt is not supported"),
    ("--volume-driver", "--volume-driver nfs -v vol:/y", 'plugin "nfs" not found'),
    ("--platform", "--platform linux/arm64", "does not match the specified platform"),
    ("--security-opt", "--security-opt label=type:x", "needs SELinux"),
    ("--gpus", "--gpus all", 'could not select device driver "" with capabilities: [[gpu]]'),
    ("--cap-add", "--cap-add FLY", 'FLY" in HostConfig.CapAdd'),
    ("--sysctl", "--sysctl kernel.shm_rmid_forced=1+kernel.core_pattern=x", "invalid sysctl"),
    ("--sysctl", "--sysctl kernel.core_pattern=x", "not allowed"),
]


@pytest.mark.parametrize(
    ("args", "words"),
    [pytest.param(args, words, id=args, marks=pytest.mark.flag(flag)) for flag, args, words in REFUSED],
)
def test_refused(daemon: Any, args: str, words: str) -> None:
    done = daemon.docker("run", "--rm", "--pull", "never", *args.split(), "busybox", "true", check=False)
    assert done.code == 125, done
    assert words in done.err, done


@pytest.mark.flag("--security-opt")
def test_a_seccomp_profile_of_ones_own(daemon: Any, tmp_path: Path) -> None:
    """Docker's schema: architectures, conditions, comparisons of arguments, numbers of errors."""

    def refuse(names: str, number: int, **more: Any) -> dict[str, Any]:
        return {"names": names.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": number, **more}

    def mode_at(index: int) -> dict[str, Any]:
        return {"index": index, "value": 0o7777, "valueTwo": 0o777, "op": "SCMP_CMP_MASKED_EQ"}

    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            refuse("mkdir mkdirat", 28),
            refuse("chmod", 71, args=[mode_at(1)]),
            refuse("fchmodat fchmodat2", 71, args=[mode_at(2)]),
            refuse("symlink symlinkat", 28, includes={"caps": ["CAP_SYS_ADMIN"]}),
            refuse("link linkat", 28, excludes={"minKernel": "3.0"}),
        ],
    }
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile))
    script = "mkdir /x 2>&1; chmod 777 /tmp 2>&1; chmod 700 /tmp && echo chmod; ln -s a /a && ln /etc/passwd /p && echo linked"
    done = daemon.docker("run", "--rm", "--security-opt", f"seccomp={file}", "busybox", "sh", "-c", script)
    assert "No space left on device" in done.out
    assert "Protocol error" in done.out
    assert done.out.endswith("chmod\nlinked\n"), done
    file.write_text(json.dumps({**profile, "defaultAction": "SCMP_ACT_DANCE"}))
    refused = daemon.docker(
        "run", "--rm", "--security-opt", f"seccomp={file}", "busybox", "true", check=False
    )
    assert "invalid seccomp profile: defaultAction 'SCMP_ACT_DANCE'" in refused.err


@pytest.mark.flag("--annotation")
def test_annotation(daemon: Any) -> None:
    """By the API: older CLIs have no such flag."""
    body = {"Image": "busybox", "HostConfig": {"Annotations": {"a.b": "c", "longshore.seccomp": "x"}}}
    status, made = daemon.request("POST", "/containers/create", body)
    assert status == 201, made
    shown = daemon.request("GET", f"/containers/{made['Id']}/json")[1]
    assert shown["HostConfig"]["Annotations"]["a.b"] == "c"
    assert daemon.request("POST", f"/containers/{made['Id']}/start")[0] == 204


@pytest.mark.flag("--entrypoint")
def test_entrypoint(daemon: Any) -> None:
    assert daemon.docker("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b").out == "a b\n"


@pytest.mark.flag("--env-file", "--label-file", "--label")
def test_files_of_variables_and_labels(daemon: Any, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\nONE=1 and more\nTWO=\n")
    (tmp_path / "labels").write_text("one=1\ntwo=\n")
    files = ("--env-file", str(tmp_path / "env"), "--label-file", str(tmp_path / "labels"))
    name = daemon.docker("run", "-d", *files, "-l", "three=3", "busybox", "env").out.strip()
    daemon.docker("wait", name)
    assert {"ONE=1 and more", "TWO="} <= set(daemon.docker("logs", name).out.splitlines())
    labels = daemon.request("GET", f"/containers/{name}/json")[1]["Config"]["Labels"]
    assert labels == {"one": "1", "two": "", "three": "3"}


@pytest.mark.flag("--cidfile", "--name", "--detach", "--rm")
def test_cidfile_and_name(daemon: Any, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    out = daemon.docker(
        "run", "-d", "--rm", "--cidfile", str(file), "--name", "named", "busybox", "sleep", "60"
    ).out
    assert file.read_text() == out.strip()
    assert daemon.docker("ps", "-q", "--no-trunc", "--filter", "name=named").out == out
    daemon.docker("kill", "named")
    while daemon.docker("ps", "-aq", "--filter", "name=named").out:
        pass  # removed by --rm as soon as its end is settled


@pytest.mark.flag("--cgroup-parent")
def test_cgroup_parent(daemon: Any) -> None:
    done = daemon.docker("run", "--rm", "--cgroupns", "host", "--cgroup-parent", "/flagsparent", "busybox",
                         "cat", "/proc/self/cgroup")  # fmt: skip
    assert re.search(r":/flagsparent/[0-9a-f]{64}$", done.out, re.MULTILINE), done


@pytest.mark.flag("--ip", "--link-local-ip", "--network", "--network-alias")
def test_addresses_on_a_network(daemon: Any) -> None:
    daemon.docker("network", "create", "--subnet", "10.77.3.0/24", "flagnet")
    try:
        flags = (
            "--network",
            "flagnet",
            "--ip",
            "10.77.3.9",
            "--link-local-ip",
            "169.254.3.4",
            "--network-alias",
            "al",
        )
        name = daemon.docker("run", "-d", *flags, "busybox", "ip", "-4", "addr").out.strip()
        daemon.docker("wait", name)
        out = daemon.docker("logs", name).out
        assert "inet 10.77.3.9/24" in out
        assert "inet 169.254.3.4/16" in out
        network = daemon.request("GET", f"/containers/{name}/json")[1]["NetworkSettings"]["Networks"][
            "flagnet"
        ]
        assert "al" in network["Aliases"]
    finally:
        daemon.remove_containers()
        daemon.docker("network", "rm", "flagnet")


@pytest.mark.flag("--link")
def test_link(daemon: Any) -> None:
    daemon.docker("run", "-d", "--name", "db", "--expose", "5432", "-e", "PW=x", "busybox", "sleep", "60")
    client = daemon.docker(
        "run", "-d", "--name", "web", "--link", "db:data-base", "busybox", "sleep", "60"
    ).out.strip()
    env = daemon.docker("exec", "web", "env").out.splitlines()
    address = daemon.request("GET", "/containers/db/json")[1]["NetworkSettings"]["IPAddress"]
    assert {
        f"DATA_BASE_PORT=tcp://{address}:5432",
        "DATA_BASE_ENV_PW=x",
        "DATA_BASE_NAME=/web/data-base",
    } <= set(env)
    assert daemon.docker("exec", "web", "ping", "-c1", "-W2", "data-base").code == 0
    assert daemon.request("GET", f"/containers/{client}/json")[1]["HostConfig"]["Links"] == [
        "/db:/web/data-base"
    ]
    # The other one gets another address: the link follows.
    daemon.docker("kill", "db")
    daemon.docker("run", "-d", "--name", "squatter", "busybox", "sleep", "60")
    daemon.docker("start", "db")
    address = daemon.request("GET", "/containers/db/json")[1]["NetworkSettings"]["IPAddress"]
    assert f"{address}\tdata-base" in daemon.docker("exec", "web", "cat", "/etc/hosts").out
    daemon.docker("kill", "db")
    refused = daemon.docker("run", "--rm", "--link", "db", "busybox", "true", check=False)
    assert "Cannot link to a non running container: /db AS" in refused.err
    assert "No such container" in daemon.docker("run", "--link", "nobody", "busybox", check=False).err


@pytest.mark.flag("--pid", "--ipc", "--network")
def test_namespaces_of_another_container(daemon: Any) -> None:
    daemon.docker(
        "run",
        "-d",
        "--name",
        "first",
        "--ipc",
        "shareable",
        "busybox",
        "sh",
        "-c",
        "echo x >/dev/shm/x; sleep 60",
    )
    flags = ("--pid", "container:first", "--ipc", "container:first", "--network", "container:first")
    script = "for i in pid ipc net; do readlink /proc/self/ns/$i; done; cat /dev/shm/x; cat /proc/1/cmdline"
    done = daemon.docker("run", "--rm", *flags, "busybox", "sh", "-c", script)
    theirs = daemon.docker("exec", "first", "sh", "-c", script)
    assert done.out == theirs.out
    assert "sleep\x0060" in done.out


@pytest.mark.flag("--expose", "--publish", "--publish-all")
def test_ports(daemon: Any) -> None:
    flags = ("-p", "127.0.0.1:23510-23511:80-81", "-p", "81/udp", "--expose", "90-91/tcp", "-P")
    name = daemon.docker("run", "-d", *flags, "busybox", "sh", "-c", "echo hello | nc -l -p 80").out.strip()
    ports = daemon.request("GET", f"/containers/{name}/json")[1]["NetworkSettings"]["Ports"]
    assert set(ports) == {"80/tcp", "81/tcp", "81/udp", "90/tcp", "91/tcp"}
    assert ports["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "23510"}]
    assert all(int(ports[port][0]["HostPort"]) > 1024 for port in ports)
    done = daemon.docker("run", "--rm", "--network", "host", "busybox", "nc", "-w", "5", "127.0.0.1", "23510")
    assert done.out == "hello\n"


@pytest.mark.flag("--restart")
def test_restart(daemon: Any) -> None:
    name = daemon.docker("run", "-d", "--restart", "on-failure:2", "busybox", "false").out.strip()
    while (state := daemon.request("GET", f"/containers/{name}/json")[1])["RestartCount"] < 2:
        assert state["State"]["Status"] in ("running", "restarting")
    assert state["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}


@pytest.mark.flag("--stop-signal", "--stop-timeout")
def test_stop_signal_and_timeout(daemon: Any) -> None:
    script = "trap 'echo got usr1; exit 3' USR1; echo ready; while :; do sleep 0.1; done"
    name = daemon.docker(
        "run", "-d", "--stop-signal", "USR1", "--stop-timeout", "50", "busybox", "sh", "-c", script
    ).out.strip()
    while "ready" not in daemon.docker("logs", name).out:
        pass
    daemon.docker("stop", name)
    shown = daemon.request("GET", f"/containers/{name}/json")[1]
    assert (shown["State"]["ExitCode"], shown["Config"]["StopTimeout"]) == (3, 50)
    stubborn = daemon.docker(
        "run", "-d", "--stop-timeout", "0", "busybox", "sh", "-c", "trap '' TERM; sleep 600"
    ).out.strip()
    daemon.docker("stop", stubborn, timeout=9)  # sooner than the ten seconds of a container without the flag
    assert daemon.request("GET", f"/containers/{stubborn}/json")[1]["State"]["ExitCode"] == 137


@pytest.mark.flag(
    "--health-cmd",
    "--health-interval",
    "--health-retries",
    "--health-start-period",
    "--health-start-interval",
    "--health-timeout",
    "--no-healthcheck",
)
def test_health(daemon: Any) -> None:
    flags = ("--health-cmd", "test -e /sick", "--health-interval", "100ms", "--health-retries", "2",
             "--health-timeout", "5s", "--health-start-period", "1ms")  # fmt: skip
    name = daemon.docker("run", "-d", *flags, "busybox", "sleep", "60").out.strip()
    while (health := daemon.request("GET", f"/containers/{name}/json")[1]["State"]["Health"])[
        "Status"
    ] != "unhealthy":
        assert health["FailingStreak"] < 2
    daemon.docker("exec", name, "touch", "/sick")
    while daemon.request("GET", f"/containers/{name}/json")[1]["State"]["Health"]["Status"] != "healthy":
        pass
    # --health-start-interval is newer than some CLIs; the interval alone would take an hour
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "Healthcheck": {
            "Test": ["CMD", "true"],
            "Interval": 3600 * 10**9,
            "StartPeriod": 60 * 10**9,
            "StartInterval": 10**8,
        },
    }
    early = daemon.request("POST", "/containers/create", body)[1]["Id"]
    daemon.request("POST", f"/containers/{early}/start")
    while daemon.request("GET", f"/containers/{early}/json")[1]["State"]["Health"]["Status"] != "healthy":
        pass
    none = daemon.docker("run", "-d", "--no-healthcheck", "busybox", "sleep", "60").out.strip()
    shown = daemon.request("GET", f"/containers/{none}/json")[1]
    assert shown["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in shown["State"]


@pytest.mark.flag("--log-driver", "--log-opt")
def test_logs(daemon: Any) -> None:
    silent = daemon.docker("run", "-d", "--log-driver", "none", "busybox", "echo", "x").out.strip()
    daemon.docker("wait", silent)
    assert daemon.docker("logs", silent, check=False).code != 0
    flags = ("--log-driver", "json-file", "--log-opt", "max-size=4k", "--log-opt", "max-file=2")
    rotated = daemon.docker("run", "-d", *flags, "busybox", "seq", "2000").out.strip()
    daemon.docker("wait", rotated)
    kept = daemon.docker("logs", rotated).out.splitlines()
    assert kept[-1] == "2000"
    assert len(kept) < 1000


@pytest.mark.flag("--pull")
def test_pull(daemon: Any) -> None:
    assert daemon.docker("run", "--rm", "--pull", "never", "busybox", "true").code == 0
    done = daemon.docker("run", "--rm", "--pull", "never", "absent:1", check=False)
    assert (done.code, "No such image: absent:1" in done.err) == (125, True)


@pytest.mark.flag("--quiet")
def test_quiet(daemon: Any) -> None:
    if "--quiet" not in daemon.docker("run", "--help").out:
        pytest.skip("this docker CLI has no --quiet")
    assert daemon.docker("run", "-q", "--rm", "busybox", "echo", "x").out == "x\n"


@pytest.mark.flag("--help")
def test_help(daemon: Any) -> None:
    assert "Usage:" in daemon.docker("run", "--help").out
