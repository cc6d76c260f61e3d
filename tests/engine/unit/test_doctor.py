"""What the doctor concludes from what the kernel shows."""

from pathlib import Path

import pytest

from longshore.core import doctor
from longshore.core.doctor import Check, Doctor

V1 = "cgroup /c/memory cgroup rw,memory 0 0\ncgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\n"
V1_ALL = V1 + "cgroup /c/pids cgroup rw,pids 0 0\ncgroup /c/cpuset cgroup rw,cpuset 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"


@pytest.mark.parametrize(
    ("release", "status"),
    [("6.1.0-18-amd64", "ok"), ("5.15.0", "ok"), ("5.10.0-1", "fail"), ("4.19", "fail"), ("rubbish", "fail")],
)
def test_kernel(release: str, status: str) -> None:
    assert doctor.judge_kernel(release).status == status


@pytest.mark.parametrize(
    ("filesystems", "kind", "status"),
    [
        ("nodev\toverlay\n\text4\n", "ext4", "ok"),
        ("\text4\n", "ext4", "fail"),
        ("nodev\toverlay\n", "overlay", "fail"),
        ("nodev\toverlay\n", "nfs", "fail"),
    ],
)
def test_overlay(filesystems: str, kind: str, status: str) -> None:
    assert doctor.judge_overlay(filesystems, kind, "/data").status == status


@pytest.mark.parametrize(
    ("mounts", "controllers", "status", "words"),
    [
        (V2, "cpuset cpu io memory pids", "ok", "v2: "),
        (V1_ALL, "", "ok", "v1: "),
        (V1_ALL + V2, "", "ok", "hybrid"),
        (V2, "cpu pids cpuset", "warn", "without memory"),
        (V1, "", "warn", "without pids, cpuset"),
        ("", "", "fail", "no cgroup"),
    ],
)
def test_cgroups(mounts: str, controllers: str, status: str, words: str) -> None:
    check = doctor.judge_cgroups(mounts, controllers)
    assert check.status == status
    assert words in check.detail


@pytest.mark.parametrize(
    ("bits", "status"),
    [((1 << 41) - 1, "ok"), ((1 << 41) - 1 - (1 << 24), "warn"), (0, "fail"), (1 << 21, "fail")],
)
def test_capabilities(bits: int, status: str) -> None:
    assert doctor.judge_capabilities(bits).status == status
    assert doctor.effective_capabilities(f"Name:\tx\nCapEff:\t{bits:016x}\n") == bits


@pytest.mark.parametrize(("free", "status"), [(100 << 20, "fail"), (1 << 30, "warn"), (50 << 30, "ok")])
def test_disk(free: int, status: str) -> None:
    assert doctor.judge_disk(free, "/data").status == status


def test_the_rest() -> None:
    assert doctor.judge_apparmor(enabled=True, loaded=True).status == "ok"
    assert "apparmor_parser" in doctor.judge_apparmor(enabled=True, loaded=False).hint
    assert doctor.judge_apparmor(enabled=False, loaded=False).detail == "not available"
    assert doctor.judge_seccomp("kill_process trap errno allow").status == "ok"
    assert doctor.judge_seccomp("").status == "fail"
    assert doctor.judge_memfd("0", "").status == "ok"
    assert doctor.judge_memfd("2", "").status == "fail"
    assert doctor.judge_memfd("", "memfd_create: Function not implemented").status == "fail"


def test_the_filesystem_of_a_path_is_that_of_the_deepest_mount() -> None:
    mountinfo = (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /var/lib rw shared:1 - xfs /dev/sdb rw\n"
        "3 1 0:6 / /var/lib\\040x rw - tmpfs t rw\n"
    )
    assert doctor.filesystem_of("/var/lib/longshore", mountinfo) == "xfs"
    assert doctor.filesystem_of("/var/library", mountinfo) == "ext4"
    assert doctor.filesystem_of("/var/lib x/a", mountinfo) == "tmpfs"


def test_every_bad_check_says_what_to_do_and_info_shows_it(tmp_path: Path) -> None:
    patient = Doctor(tmp_path, lambda: [Check("forwarding", "fail", "off", "turn it on")])
    checks = patient.examine()
    assert {check.check for check in checks} >= {"kernel", "cgroups", "disk", "forwarding"}
    assert all(check.hint for check in checks if check.status != "ok")
    bad = [check for check in checks if check.status != "ok" and check.check not in ("disk", "forwarding")]
    assert len(patient.warnings()) == len(bad)
