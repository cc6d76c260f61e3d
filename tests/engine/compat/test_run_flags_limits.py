"""`docker run`, flag by flag: limits. Each value is read from the cgroup inside the container, and changed by update."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()


@pytest.fixture(autouse=True, scope="module")
def clean(daemon: Any) -> Iterator[None]:
    yield
    daemon.remove_containers()


def limit(flags: str, args: str, v1: tuple[str, str], v2: tuple[str, str] | None) -> Any:
    """`docker run ARGS` makes a file of the container's cgroup match; `v2` None: cgroup v2 has nothing like it."""
    return pytest.param(args.split(), v1, v2, id=args, marks=pytest.mark.flag(*flags.split()))


LIMITS = [
    limit("--memory", "-m 64m", ("memory/memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")),
    limit(
        "--memory --memory-swap",
        "-m 64m --memory-swap 96m",
        ("memory/memory.memsw.limit_in_bytes", "100663296"),
        ("memory.swap.max", "33554432"),
    ),
    limit(
        "--memory-swap",
        "-m 64m --memory-swap -1",
        ("memory/memory.memsw.limit_in_bytes", r"9223372036854771712"),
        ("memory.swap.max", "max"),
    ),
    limit(
        "--memory-reservation",
        "--memory-reservation 32m",
        ("memory/memory.soft_limit_in_bytes", "33554432"),
        ("memory.low", "33554432"),
    ),
    limit("--memory-swappiness", "--memory-swappiness 12", ("memory/memory.swappiness", "12"), None),
    limit(
        "--oom-kill-disable",
        "--oom-kill-disable -m 64m",
        ("memory/memory.oom_control", "oom_kill_disable 1"),
        None,
    ),
    limit("--cpu-shares", "--cpu-shares 512", ("cpu/cpu.shares", "512"), ("cpu.weight", "20")),
    limit("--cpus", "--cpus 0.5", ("cpu/cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000")),
    limit(
        "--cpu-period --cpu-quota",
        "--cpu-period 50000 --cpu-quota 20000",
        ("cpu/cpu.cfs_quota_us", "20000"),
        ("cpu.max", "20000 50000"),
    ),
    limit(
        "--cpu-period",
        "--cpu-period 50000",
        ("cpu/cpu.cfs_period_us", "50000"),
        ("cpu.max", "max 50000"),
    ),
    limit("--cpuset-cpus", "--cpuset-cpus 0", ("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0")),
    limit("--cpuset-mems", "--cpuset-mems 0", ("cpuset/cpuset.mems", "0"), ("cpuset.mems", "0")),
    limit("--pids-limit", "--pids-limit 77", ("pids/pids.max", "77"), ("pids.max", "77")),
    limit("--pids-limit", "--pids-limit -1", ("pids/pids.max", "max"), ("pids.max", "max")),
    limit("--pids-limit", "--init", ("pids/pids.max", "4096"), ("pids.max", "4096")),  # without the flag
]


def read(daemon: Any, container: str, v1: tuple[str, str], v2: tuple[str, str]) -> tuple[str, str]:
    """(what the file says, what it should say)."""
    file, want = v2 if V2 else v1
    return daemon.docker("exec", container, "cat", f"/sys/fs/cgroup/{file}").out, want


@pytest.mark.parametrize(("args", "v1", "v2"), LIMITS)
def test_limit(daemon: Any, args: list[str], v1: tuple[str, str], v2: tuple[str, str] | None) -> None:
    if V2 and v2 is None:
        done = daemon.docker("run", "--rm", *args, "busybox", "true")
        assert "discarded" in done.err
        return
    file, want = v2 if V2 and v2 else v1
    if not V2 and not (ROOT / file.partition("/")[0]).is_dir():
        pytest.skip(f"no {file.partition('/')[0]} controller here")
    done = daemon.docker("run", "--rm", *args, "busybox", "cat", f"/sys/fs/cgroup/{file}")
    assert re.search(rf"^{want}$", done.out, re.MULTILINE), done


@pytest.mark.flag("--cpu-rt-runtime", "--cpu-rt-period")
def test_real_time(daemon: Any) -> None:
    args = ("--cpu-rt-runtime", "2000", "--cpu-rt-period", "500000", "busybox")
    if not (ROOT / "cpu/cpu.rt_runtime_us").exists():
        done = daemon.docker("run", "--rm", *args, "true", check=False)
        assert "does not support CPU real-time" in done.err
        return
    done = daemon.docker(
        "run",
        "--rm",
        *args,
        "sh",
        "-c",
        "cat /sys/fs/cgroup/cpu/cpu.rt_*_us; chrt -f 5 true && echo rt",
        check=False,
    )
    assert done.out.startswith("500000\n2000\n"), done
    name = daemon.docker("run", "-d", "busybox", "sleep", "60").out.strip()
    daemon.docker("update", "--cpu-rt-runtime", "3000", name)
    assert daemon.docker("exec", name, "cat", "/sys/fs/cgroup/cpu/cpu.rt_runtime_us").out == "3000\n"


@pytest.mark.flag("--kernel-memory")
def test_kernel_memory_is_discarded(daemon: Any) -> None:
    """By the API: newer CLIs have no such flag, and no kernel since 5.16 such a limit."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"KernelMemory": 64 << 20}}
    status, made = daemon.request("POST", "/containers/create", body)
    assert status == 201
    assert any("Kernel memory" in warning for warning in made["Warnings"])
    assert daemon.request("POST", f"/containers/{made['Id']}/start")[0] == 204


@pytest.fixture
def bfq_disk(tmp_path: Path) -> Iterator[str]:
    """A disk of our own whose scheduler knows weights."""
    image = tmp_path / "disk"
    image.write_bytes(b"\0" * (1 << 20))
    done = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr}")
    device = done.stdout.strip()
    try:
        scheduler = Path("/sys/block", Path(device).name, "queue/scheduler")
        before = re.search(r"\[(.*)\]", scheduler.read_text())
        try:
            scheduler.write_text("bfq")
        except OSError:
            pytest.skip("this kernel has no bfq")
        yield device
        if before:
            scheduler.write_text(before[1])
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.flag("--blkio-weight", "--blkio-weight-device")
def test_weights_of_disks(daemon: Any, bfq_disk: str) -> None:
    status = Path(bfq_disk).stat()
    numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    script = "cd /sys/fs/cgroup; cat blkio/blkio.bfq.weight blkio/blkio.bfq.weight_device io.bfq.weight io.weight 2>/dev/null"
    done = daemon.docker("run", "--rm", "--blkio-weight", "300", "--blkio-weight-device", f"{bfq_disk}:400",
                         "busybox", "sh", "-c", f"{script}; :")  # fmt: skip
    assert re.search(r"^(default )?(300|2930)$", done.out, re.MULTILINE), done
    assert re.search(rf"^{numbers} (400|3940)$", done.out, re.MULTILINE), done


@pytest.fixture
def disk() -> str:
    disks = sorted(
        path.name for path in Path("/sys/block").iterdir() if Path("/dev", path.name).is_block_device()
    )
    if not disks:
        pytest.skip("no disk here")
    return disks[0]


@pytest.mark.parametrize(
    ("rate", "v1", "v2", "value"),
    [
        pytest.param(flag, v1, v2, value, id=flag, marks=pytest.mark.flag(flag))
        for flag, v1, v2, value in (
            ("--device-read-bps", "read_bps_device", "rbps", 1048576),
            ("--device-write-bps", "write_bps_device", "wbps", 1048576),
            ("--device-read-iops", "read_iops_device", "riops", 90),
            ("--device-write-iops", "write_iops_device", "wiops", 90),
        )
    ],
)
def test_rate_of_a_disk(daemon: Any, disk: str, rate: str, v1: str, v2: str, value: int) -> None:
    files = f"/sys/fs/cgroup/blkio/blkio.throttle.{v1} /sys/fs/cgroup/io.max"
    done = daemon.docker(
        "run", "--rm", rate, f"/dev/{disk}:{value}", "busybox", "sh", "-c", f"cat {files} 2>/dev/null; :"
    )
    numbers = Path(f"/sys/block/{disk}/dev").read_text().strip()
    assert re.search(rf"^{numbers} (.*\b{v2}=)?{value}\b", done.out, re.MULTILINE), done


UPDATES = [
    ("--memory 96m --memory-swap 128m", ("memory/memory.limit_in_bytes", "100663296"), ("memory.max", "100663296")),
    ("--memory 48m --memory-swap 64m", ("memory/memory.memsw.limit_in_bytes", "67108864"), ("memory.swap.max", "16777216")),
    ("--memory-reservation 32m", ("memory/memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432")),
    ("--cpu-shares 256", ("cpu/cpu.shares", "256"), ("cpu.weight", "10")),
    ("--cpu-period 40000 --cpu-quota 10000", ("cpu/cpu.cfs_quota_us", "10000"), ("cpu.max", "10000 40000")),
    ("--cpuset-cpus 0", ("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0")),
    ("--cpuset-mems 0", ("cpuset/cpuset.mems", "0"), ("cpuset.mems", "0")),
    ("--pids-limit 55", ("pids/pids.max", "55"), ("pids.max", "55")),
    ("--pids-limit -1", ("pids/pids.max", "max"), ("pids.max", "max")),
]  # fmt: skip


def test_update_changes_the_limits_of_a_running_container(daemon: Any) -> None:
    name = daemon.docker("run", "-d", "-m", "64m", "busybox", "sleep", "60").out.strip()
    for args, v1, v2 in UPDATES:
        daemon.docker("update", *args.split(), name)
        found, want = read(daemon, name, v1, v2)
        assert found == f"{want}\n", args
    other = daemon.docker("run", "-d", "--cpus", "0.5", "busybox", "sleep", "60").out.strip()
    daemon.docker("update", "--cpus", "0.25", "--restart", "on-failure:3", other)
    found, want = read(daemon, other, ("cpu/cpu.cfs_quota_us", "25000"), ("cpu.max", "25000 100000"))
    assert found == f"{want}\n"
    assert (
        daemon.request("GET", f"/containers/{other}/json")[1]["HostConfig"]["RestartPolicy"]["Name"]
        == "on-failure"
    )
    # What came by update holds at the next start as well
    daemon.docker("restart", "-t", "0", name)
    found, want = read(daemon, name, *UPDATES[3][1:])
    assert found == f"{want}\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"Memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
        ({"CpusetCpus": "99"}, "Requested CPUs are not available"),
        ({"PidsLimit": 1 << 40}, "PidsLimit"),
        ({"Memory": "much"}, "$.Memory"),
        ({"RestartPolicy": {"Name": "sometimes"}}, "sometimes"),
    ],
)
def test_update_refuses_and_changes_nothing(daemon: Any, body: dict[str, Any], words: str) -> None:
    made = daemon.request("POST", "/containers/create", {"Image": "busybox"})[1]["Id"]
    before = daemon.request("GET", f"/containers/{made}/json")[1]["HostConfig"]
    status, reply = daemon.request("POST", f"/containers/{made}/update", body)
    assert (status, words in reply["message"]) == (400, True), reply
    assert daemon.request("GET", f"/containers/{made}/json")[1]["HostConfig"] == before
