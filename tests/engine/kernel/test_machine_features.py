"""What only some machines have: AppArmor, CAP_SYS_RESOURCE, systemd's journal of a container's scope."""

from pathlib import Path
from typing import Any

import pytest
from group_lab import SYSTEMD

from longshore.runtime import apparmor
from longshore.runtime.cgroup_layout import layout

needs_apparmor = pytest.mark.skipif(not apparmor.enabled(), reason="this kernel does not run AppArmor")
CAP_SYS_RESOURCE = 24


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> number & 1)


def output(daemon: Any, *arguments: str) -> str:
    return daemon.longshore("run", "--rm", *arguments, timeout=300).out.strip()


def test_info_names_the_driver_and_the_version(daemon: Any) -> None:
    info = daemon.request("GET", "/info")[1]
    assert info["CgroupVersion"] == layout().version
    assert info["CgroupDriver"] == ("systemd" if SYSTEMD else "cgroupfs")
    assert ("name=apparmor" in info["SecurityOptions"]) == apparmor.enabled()


def test_a_parent_is_of_the_drivers_kind(daemon: Any) -> None:
    parent = "lstest-parent.slice" if SYSTEMD else "/lstest-parent"
    wanted = {"Image": "busybox", "Cmd": ["sleep", "300"], "HostConfig": {"CgroupParent": parent}}
    id = daemon.request("POST", "/containers/create", wanted)[1]["Id"]
    try:
        assert daemon.request("POST", f"/containers/{id}/start")[0] == 204
        pid = daemon.request("GET", f"/containers/{id}/json")[1]["State"]["Pid"]
        ours = [
            line
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            if "pids" in line or layout().pure_v2
        ]
        end = f"/lstest.slice/lstest-parent.slice/longshore-{id}.scope" if SYSTEMD else f"/lstest-parent/{id}"
        assert all(line.endswith(end) for line in ours) and ours
    finally:
        daemon.request("DELETE", f"/containers/{id}?force=1")
    if SYSTEMD:
        status, answer = daemon.request(
            "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"CgroupParent": "/path"}}
        )
        assert status == 400 and 'named as "xxx.slice"' in answer["message"]


@pytest.mark.skipif(not has_capability(CAP_SYS_RESOURCE), reason="this process lacks CAP_SYS_RESOURCE")
def test_limits_can_be_raised(daemon: Any) -> None:
    hard = int(Path("/proc/self/limits").read_text().split("Max open files")[1].split()[1])
    wanted = min(hard * 2, int(Path("/proc/sys/fs/nr_open").read_text()))
    assert output(
        daemon, "--ulimit", f"nofile={wanted}:{wanted}", "busybox", "sh", "-c", "ulimit -Hn"
    ) == str(wanted)


@needs_apparmor
def test_containers_run_in_the_default_profile(daemon: Any) -> None:
    assert apparmor.loaded(apparmor.PROFILE)
    show = ("busybox", "cat", "/proc/1/attr/current")
    assert output(daemon, *show) == f"{apparmor.PROFILE} (enforce)"
    assert output(daemon, "--security-opt", "apparmor=unconfined", *show) == "unconfined"
    assert output(daemon, "--privileged", *show) == "unconfined"


@needs_apparmor
def test_the_profile_holds_where_capabilities_do_not(daemon: Any) -> None:
    """CAP_SYS_ADMIN without seccomp: mounting is the profile's to refuse. Its own sysctls stay writable."""
    strong = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    mount = ("busybox", "sh", "-c", "mount -t tmpfs none /tmp && echo mounted || echo refused")
    assert output(daemon, *strong, *mount) == "refused"
    assert output(daemon, *strong, "--security-opt", "apparmor=unconfined", *mount) == "mounted"


@needs_apparmor
def test_an_exec_has_the_profile_and_may_be_stopped(daemon: Any) -> None:
    id = daemon.longshore("run", "-d", "busybox", "sleep", "300", timeout=300).out.strip()
    try:
        assert daemon.request("GET", f"/containers/{id}/json")[1]["AppArmorProfile"] == apparmor.PROFILE
        done = daemon.longshore("exec", id, "cat", "/proc/self/attr/current", timeout=300)
        assert done.out.strip() == f"{apparmor.PROFILE} (enforce)"
        assert daemon.longshore("stop", "-t", "1", id, timeout=300).code == 0  # a signal of the host's
    finally:
        daemon.longshore("rm", "-f", id, timeout=300)


@needs_apparmor
def test_a_profile_that_is_not_loaded_is_an_error(daemon: Any) -> None:
    done = daemon.longshore(
        "run",
        "--rm",
        "--security-opt",
        "apparmor=no-such-profile",
        "busybox",
        "true",
        check=False,
        timeout=300,
    )
    assert done.code != 0 and "no-such-profile" in done.err
