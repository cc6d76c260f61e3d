"""The specification that a new bundle starts from, and what this runtime can do (runtime-spec, features.md). Pure."""

from __future__ import annotations

from typing import Any

from longshore.kernel import capabilities
from longshore.oci.runtime_spec import (
    VERSION,
    Capabilities,
    DeviceRule,
    Linux,
    Mount,
    Namespace,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
)
from longshore.runtime.mount_options import known_words
from longshore.runtime.plan import KINDS

_SAFE = ("nosuid", "noexec", "nodev")
MOUNTS = (
    Mount("/proc", "proc", "proc", _SAFE),
    Mount("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    Mount(
        "/dev/pts",
        "devpts",
        "devpts",
        ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    ),
    Mount("/dev/shm", "tmpfs", "shm", (*_SAFE, "mode=1777", "size=65536k")),
    Mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
    Mount("/sys", "sysfs", "sysfs", (*_SAFE, "ro")),
    Mount("/sys/fs/cgroup", "cgroup", "cgroup", (*_SAFE, "relatime", "ro")),
)
MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats")),
    *(f"/proc/{name}" for name in ("timer_list", "timer_stats", "sched_debug", "scsi")),
    *("/sys/firmware", "/sys/devices/virtual/powercap"),
)
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")  # and cgroup where all is v2
READONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))


def default_spec() -> Spec:
    """A shell as root with few capabilities on a read-only root, as `runc spec` gives."""
    names = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    return Spec(
        process=Process(
            terminal=True,
            args=("sh",),
            env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"),
            capabilities=Capabilities(bounding=names, effective=names, permitted=names),
            rlimits=(Rlimit("RLIMIT_NOFILE", 1024, 1024),),
            no_new_privileges=True,
        ),
        root=Root(readonly=True),
        hostname="longshore",
        mounts=MOUNTS,
        linux=Linux(
            namespaces=tuple(map(Namespace, NAMESPACES)),
            resources=Resources(devices=(DeviceRule(allow=False),)),
            masked_paths=MASKED,
            readonly_paths=READONLY,
        ),
    )


def features() -> dict[str, Any]:
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": VERSION,
        "hooks": [],
        "mountOptions": known_words(),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False},
            "seccomp": {
                "enabled": True,
                "actions": [
                    f"SCMP_ACT_{name}"
                    for name in (
                        "ALLOW",
                        "ERRNO",
                        "KILL",
                        "KILL_PROCESS",
                        "KILL_THREAD",
                        "LOG",
                        "TRACE",
                        "TRAP",
                    )
                ],
                "operators": [
                    f"SCMP_CMP_{name}" for name in ("EQ", "GE", "GT", "LE", "LT", "MASKED_EQ", "NE")
                ],
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
    }
