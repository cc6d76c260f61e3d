"""What this machine lacks: found once, told by `info` and `longshore doctor`, never a traceback.

Each check reads a few files and judges them; reading and judging are apart so that the judgement is pure.
"""

import fcntl
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longshore.runtime import apparmor

Status = Literal["ok", "warn", "fail"]

MIN_KERNEL = (5, 15)
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 12, 21, 24
CONTROLLERS = ("memory", "cpu", "pids", "cpuset")
# Overlayfs refuses these as the home of upper directories (Documentation/filesystems/overlayfs.rst).
NO_UPPER = frozenset(
    {"overlay", "nfs", "nfs4", "vfat", "msdos", "exfat", "9p", "cifs", "ecryptfs", "fuseblk"}
)


@dataclass(frozen=True, slots=True)
class Check:
    """`fail`: containers will not run; `warn`: something is missing or weaker."""

    check: str
    status: Status
    detail: str
    hint: str = ""


def judge_kernel(release: str) -> Check:
    found = re.match(r"(\d+)\.(\d+)", release)
    version = tuple(int(part) for part in found.groups()) if found else ()
    if version >= MIN_KERNEL:
        return Check("kernel", "ok", release)
    return Check("kernel", "fail", release, "Linux 5.15 or newer is needed")


def judge_overlay(filesystems: str, kind: str, data_root: str) -> Check:
    if not re.search(r"^nodev\s+overlay$", filesystems, re.MULTILINE):
        return Check("overlay", "fail", "the kernel does not offer overlayfs", "modprobe overlay")
    if kind in NO_UPPER:
        return Check("overlay", "fail", f"{data_root} is on {kind}", "move --data-root to ext4, xfs or btrfs")
    return Check("overlay", "ok", f"{data_root} is on {kind or 'an unknown filesystem'}")


def judge_cgroups(mounts: str, v2_controllers: str) -> Check:
    """`mounts` is /proc/self/mounts, `v2_controllers` the root's cgroup.controllers ("" without cgroup v2)."""
    lines = [line.split() for line in mounts.splitlines()]
    old = {option for fields in lines if fields[2] == "cgroup" for option in fields[3].split(",")}
    new = any(fields[2] == "cgroup2" for fields in lines)
    mode = "hybrid v1+v2" if new and old else "v1" if old else "v2" if new else ""
    if not mode:
        return Check("cgroups", "fail", "no cgroup filesystem is mounted", "mount cgroup2 on /sys/fs/cgroup")
    there = old | set(v2_controllers.split())
    if missing := [name for name in CONTROLLERS if name not in there]:
        hint = "boot with cgroup_enable=memory" if "memory" in missing else "limits of that kind are ignored"
        return Check("cgroups", "warn", f"{mode}, without {', '.join(missing)}", hint)
    return Check("cgroups", "ok", f"{mode}: {', '.join(CONTROLLERS)}")


def judge_capabilities(effective: int) -> Check:
    needed = {"CAP_SYS_ADMIN": CAP_SYS_ADMIN, "CAP_NET_ADMIN": CAP_NET_ADMIN}
    if missing := [name for name, bit in needed.items() if not effective >> bit & 1]:
        return Check("capabilities", "fail", f"without {', '.join(missing)}", "run longshored as root")
    if not effective >> CAP_SYS_RESOURCE & 1:
        return Check(
            "capabilities",
            "warn",
            "without CAP_SYS_RESOURCE",
            "limits (ulimits) cannot be raised, only lowered",
        )
    return Check("capabilities", "ok", "all that is needed")


def judge_apparmor(*, enabled: bool, loaded: bool) -> Check:
    if not enabled:
        return Check(
            "apparmor", "warn", "not available", "containers run without a profile; seccomp still holds"
        )
    if loaded:
        return Check("apparmor", "ok", f"containers run in the profile {apparmor.PROFILE}")
    return Check(
        "apparmor",
        "warn",
        f"enabled, but the profile {apparmor.PROFILE} is not loaded",
        f"install the package apparmor, which has {apparmor.PARSER}, and restart longshored",
    )


def judge_seccomp(actions: str) -> Check:
    if "errno" in actions.split():
        return Check("seccomp", "ok", "filters are available")
    return Check("seccomp", "fail", "the kernel has no seccomp filters", "CONFIG_SECCOMP_FILTER is needed")


def judge_disk(free: int, path: str) -> Check:
    text = f"{free / 1e9:.1f} GB free in {path}"
    if free < 200 << 20:
        return Check("disk", "fail", text, "longshore rmi, docker system prune, or a larger disk")
    return Check(
        "disk", "warn" if free < 2 << 30 else "ok", text, "space for images is short" * (free < 2 << 30)
    )


def judge_memfd(noexec: str, error: str) -> Check:
    if error:
        return Check("sealed memory", "fail", error, "memfd_create and sealing are needed")
    if noexec.strip() == "2":
        return Check("sealed memory", "fail", "vm.memfd_noexec is 2", "sysctl vm.memfd_noexec=1")
    return Check("sealed memory", "ok", "the interpreter is copied and sealed")


def read(path: str) -> str:
    """A file of /proc or /sys, "" where this kernel has none."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the filesystem that holds `path` (proc_pid_mountinfo(5))."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        fields = line.split()
        point = fields[4].replace("\\040", " ")
        inside = point == "/" or path == point or path.startswith(point + "/")
        if inside and len(point) >= best:  # of equal ones the later covers the earlier
            best, kind = len(point), fields[fields.index("-") + 1]
    return kind


def _try_memfd() -> str:
    try:
        fd = os.memfd_create("longshore-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return f"memfd_create: {error.strerror}"
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    except OSError as error:
        return f"sealing: {error.strerror}"
    finally:
        os.close(fd)
    return ""


def effective_capabilities(status: str) -> int:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return int(found[1], 16) if found else 0


class Doctor:
    """`network` gives the checks of the network area; it may ask the kernel, so `examine` belongs in a thread."""

    def __init__(self, data_root: Path, network: Callable[[], Iterable[Check]] = tuple) -> None:
        self._data_root = str(data_root)
        self._network = network
        self._fixed: list[Check] | None = None

    def examine(self) -> list[Check]:
        """All checks, the bad ones included; never raises for what a machine lacks."""
        free = shutil.disk_usage(self._data_root).free
        return [*self._machine(), judge_disk(free, self._data_root), *self._network()]

    def warnings(self) -> list[str]:
        """What `info` shows: only what cannot change while the daemon runs."""
        return [
            f"{check.check}: {check.detail}" + f" ({check.hint})" * bool(check.hint)
            for check in self._machine()
            if check.status != "ok"
        ]

    def _machine(self) -> list[Check]:
        if self._fixed is None:
            controllers = read("/sys/fs/cgroup/cgroup.controllers") or read(
                "/sys/fs/cgroup/unified/cgroup.controllers"
            )
            kind = filesystem_of(self._data_root, read("/proc/self/mountinfo"))
            self._fixed = [
                judge_kernel(platform.release()),
                judge_overlay(read("/proc/filesystems"), kind, self._data_root),
                judge_cgroups(read("/proc/self/mounts"), controllers),
                judge_capabilities(effective_capabilities(read("/proc/self/status"))),
                judge_apparmor(enabled=apparmor.enabled(), loaded=apparmor.loaded(apparmor.PROFILE)),
                judge_seccomp(read("/proc/sys/kernel/seccomp/actions_avail")),
                judge_memfd(read("/proc/sys/vm/memfd_noexec"), _try_memfd()),
            ]
        return self._fixed
