"""What the engine says about itself and its machine: info, version, df."""

import asyncio
import os
import platform
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import longshore
from longshore.core.clock import now
from longshore.core.containers.inspect import DRIVER
from longshore.core.containers.parts import Parts
from longshore.core.limits import available_cpus
from longshore.core.logs import DEFAULT, driver_names
from longshore.core.validate import RUNTIMES
from longshore.errors import EngineError
from longshore.runtime import apparmor
from longshore.runtime.cgroup_layout import layout

API_VERSION, OLDEST_API = "1.47", "1.24"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """What the daemon knows and core does not."""

    data_root: Path
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    debug: bool = False
    experimental: bool = False
    warnings: tuple[str, ...] = ()


def parse_os_release(text: str) -> dict[str, str]:
    """os-release(5). Pure."""
    pairs = re.findall(r"""^([A-Z_0-9]+)=(?:"([^"]*)"|'([^']*)'|(.*))$""", text, re.MULTILINE)
    return {name: double or single or bare.strip() for name, double, single, bare in pairs}


@cache
def _os_release() -> Mapping[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return parse_os_release(Path(path).read_text(errors="replace"))
        except OSError:
            continue
    return {}


def _flag(path: str) -> bool:
    """Whether a file of /proc/sys says 1; false where it does not exist."""
    try:
        return Path(path).read_text().strip() == "1"
    except OSError:
        return False


def _security_options(userns: str) -> list[str]:
    return [
        *(["name=apparmor"] if apparmor.enabled() else []),
        "name=seccomp,profile=builtin",
        "name=cgroupns",
        *(["name=userns"] if userns != "host" else []),
    ]


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class System:
    """`facts` may be replaced when settings are reloaded."""

    def __init__(self, parts: Parts, facts: SystemFacts) -> None:
        self._parts = parts
        self.facts = facts
        self._started = now()

    def info(self) -> dict[str, Any]:
        """GET /info."""
        parts, facts, release = self._parts, self.facts, _os_release()
        controllers = layout().controllers
        statuses = [container.state.status for container in parts.store]
        warnings = [*facts.warnings, *(f"WARNING: No {name} limit support" for name in _missing(controllers))]
        running = sum(status in ("running", "restarting") for status in statuses)
        paused = statuses.count("paused")
        return {
            "ID": self.identity(),
            "Containers": len(statuses),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(statuses) - running - paused,
            "Images": len(parts.images.list()),
            "Driver": DRIVER,
            "DriverStatus": [["Backing Filesystem", filesystem_of(facts.data_root)]],
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "null"],
                "Authorization": None,
                "Log": driver_names(),
            },
            "MemoryLimit": "memory" in controllers,
            "SwapLimit": "memory" in controllers,
            "CpuCfsPeriod": "cpu" in controllers,
            "CpuCfsQuota": "cpu" in controllers,
            "CPUShares": "cpu" in controllers,
            "CPUSet": "cpuset" in controllers,
            "PidsLimit": "pids" in controllers,
            "IPv4Forwarding": _flag("/proc/sys/net/ipv4/ip_forward"),
            "BridgeNfIptables": _flag("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            "BridgeNfIp6tables": _flag("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            "Debug": facts.debug,
            "NFd": _descriptors(),
            "OomKillDisable": "memory" in controllers and layout().version == "1",
            "NGoroutines": len(asyncio.all_tasks()),
            "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "LoggingDriver": parts.defaults.log.type or DEFAULT,
            "CgroupDriver": "systemd" if parts.defaults.systemd_cgroup else "cgroupfs",
            "CgroupVersion": layout().version,
            "NEventsListener": parts.events.listeners,
            "KernelVersion": platform.release(),
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": _registries(facts.insecure_registries, facts.registry_mirrors),
            "NCPU": available_cpus(),
            "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "GenericResources": None,
            "DockerRootDir": str(facts.data_root),
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": socket.gethostname(),
            "Labels": list(facts.labels),
            "ExperimentalBuild": facts.experimental,
            "ServerVersion": longshore.__version__,
            "Runtimes": {name: {"path": "longshore-oci"} for name in sorted(RUNTIMES - {""})},
            "DefaultRuntime": "longshore",
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False}
            | {"Error": "", "RemoteManagers": None},
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": "longshore",
            "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": longshore.__version__, "Expected": longshore.__version__},
            "InitCommit": {"ID": longshore.__version__, "Expected": longshore.__version__},
            "CDISpecDirs": list(parts.defaults.cdi_spec_dirs),
            "SecurityOptions": _security_options(parts.defaults.userns.mode),
            "Warnings": warnings or None,
        }

    def identity(self) -> str:
        """The daemon's own id: that of its bridge network, which lives as long as the data root."""
        try:
            return self._parts.networks.get("bridge").id
        except EngineError:
            return ""

    def version(self) -> dict[str, Any]:
        """GET /version."""
        architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
        about = {
            "ApiVersion": API_VERSION,
            "MinAPIVersion": OLDEST_API,
            "Os": "linux",
            "Arch": architecture,
            "KernelVersion": platform.release(),
            "GitCommit": "",
            "GoVersion": "none",
            "BuildTime": "",
            "Experimental": "true" if self.facts.experimental else "false",
        }
        python = {"Name": "python", "Version": platform.python_version(), "Details": {"GitCommit": ""}}
        engine = {"Name": "Engine", "Version": longshore.__version__, "Details": about}
        plain = {name: value for name, value in about.items() if name != "Experimental"}
        return {
            "Platform": {"Name": "Longshore"},
            "Components": [engine, python],
            "Version": longshore.__version__,
            **plain,
            **({"Experimental": True} if self.facts.experimental else {}),  # never false, as in Docker
        }


def _missing(controllers: frozenset[str]) -> list[str]:
    return [name for name in ("memory", "cpu", "cpuset", "pids") if name not in controllers]


def _registries(insecure: tuple[str, ...], mirrors: tuple[str, ...]) -> dict[str, Any]:
    own: dict[str, Any] = {"Name": "docker.io", "Mirrors": list(mirrors), "Secure": True, "Official": True}
    plain: dict[str, Any] = {
        name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in insecure
    }
    return {
        "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
        "IndexConfigs": {"docker.io": own, **plain},
        "Mirrors": list(mirrors) or None,
    }


def filesystem_of(path: Path) -> str:
    """Name of the filesystem that holds the path, from /proc/self/mountinfo; "unknown" when it cannot be told."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == number:
            return rest.split()[0]
    return "unknown"
