"""The door of create and update: sizes, names, numbers and words are judged here, with Docker's texts. Pure."""

import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from longshore.core.model import Config, CreateRequest, HealthConfig, HostConfig, LogConfig, Resources
from longshore.core.ports import expand_bindings, expand_exposed
from longshore.core.restart import check_policy
from longshore.errors import InvalidArgument, Unsupported
from longshore.oci import units

MIB = 1 << 20
SMALLEST_MEMORY = 6 * MIB  # Docker's floor: less does not start anything
SHORTEST_PROBE = 1_000_000  # 1 ms

CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]  # capabilities(7), in the order of their numbers
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_ULIMITS = frozenset(
    [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ]
)
_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?\.?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_CPUSET = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*")


def parse_signal(text: str) -> int:
    """ "KILL", "SIGKILL", "9", "RTMIN+3". Raises InvalidArgument("Invalid signal: x")."""
    word = text.strip().upper()
    if word.isdigit() and 1 <= int(word) <= 64:
        return int(word)
    word = word.removeprefix("SIG")
    match = re.fullmatch(r"RT(MIN|MAX)(?:([+-])(\d{1,2}))?", word)
    if match:
        base = int(signal.SIGRTMIN if match[1] == "MIN" else signal.SIGRTMAX)
        number = base + int(f"{match[2] or '+'}{match[3] or 0}")
        if int(signal.SIGRTMIN) <= number <= int(signal.SIGRTMAX):
            return number
    elif f"SIG{word}" in signal.Signals.__members__:
        return int(signal.Signals[f"SIG{word}"])
    raise InvalidArgument(f"Invalid signal: {text}")


def parse_capability(text: str) -> str:
    """ "net_admin" or "CAP_NET_ADMIN" as "CAP_NET_ADMIN"; "ALL" stays. Raises InvalidArgument."""
    word = text.upper().removeprefix("CAP_")
    if word != "ALL" and word not in CAPABILITIES:
        raise InvalidArgument(f'invalid capability: "{text}"')
    return word if word == "ALL" else f"CAP_{word}"


def check_create(request: CreateRequest, *, cpus: int) -> None:
    """Everything that can be judged without looking at other objects. Raises InvalidArgument naming the field."""
    check_config(request)
    check_host(request.host_config, cpus=cpus)
    for settings in (request.networking_config.endpoints_config or {}).values():
        check_mac(settings.mac_address)


def check_config(config: Config) -> None:
    if len(config.hostname) > 64 or (config.hostname and not _HOSTNAME.fullmatch(config.hostname)):
        raise InvalidArgument(f"invalid hostname format: {config.hostname}")
    if len(config.domainname) > 64 or (config.domainname and not _HOSTNAME.fullmatch(config.domainname)):
        raise InvalidArgument(f"invalid domainname format: {config.domainname}")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.stop_timeout is not None and config.stop_timeout < -1:
        raise InvalidArgument(f"invalid StopTimeout: {config.stop_timeout}")
    check_mac(config.mac_address or "")
    check_env(config.env or ())
    for field, words in (("Cmd", config.cmd), ("Entrypoint", config.entrypoint)):
        if any("\0" in word for word in words or ()):
            raise InvalidArgument(f"invalid {field}: a NUL character")
    if "\0" in config.user or "\n" in config.user or len(config.user) > 512:
        raise InvalidArgument(f"invalid User: {config.user!r}")
    expand_exposed(config.exposed_ports)
    if config.healthcheck:
        check_health(config.healthcheck)


def check_env(env: Iterable[str]) -> None:
    for entry in env:
        if not entry or entry.startswith("=") or "\0" in entry:
            raise InvalidArgument(f"invalid environment variable: {entry!r}")


def check_health(health: HealthConfig) -> None:
    kind = health.test[0] if health.test else ""
    if kind not in ("", "NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f'Unknown healthcheck type "{kind}" (expected CMD, CMD-SHELL or NONE)')
    durations = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, value in durations.items():
        if value < 0 or 0 < value < SHORTEST_PROBE:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def check_host(host: HostConfig, *, cpus: int) -> None:
    check_resources(host, cpus=cpus)
    check_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    for name in (*(host.cap_add or ()), *(host.cap_drop or ())):
        parse_capability(name)
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    expand_bindings(host.port_bindings)
    _check_modes(host)
    _check_sysctls(host)
    _check_log(host)
    for text in host.extra_hosts or ():
        name, _, address = text.replace("=", ":", 1).partition(":")
        if not name or not address:
            raise InvalidArgument(f"bad format for add-host: {text!r}")
    for server in host.dns or ():
        _check_address(server, "nameserver")
    for name in host.group_add or ():
        if not name or "\0" in name or len(name) > 256:
            raise InvalidArgument(f"invalid GroupAdd: {name!r}")
    for text in host.security_opt or ():
        parse_security_option(text)
    if host.runtime not in ("", "longshore", "runc", "io.containerd.runc.v2"):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    if host.device_requests:
        raise InvalidArgument(
            "could not select a device driver: DeviceRequests are not supported", hint="use --device"
        )
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"Invalid isolation: {host.isolation!r} - linux only supports 'default'")
    if host.storage_opt:
        raise InvalidArgument(
            "HostConfig.StorageOpt is not supported",
            hint="limit what a container writes with a --tmpfs of a size",
        )
    if host.links:
        raise InvalidArgument("HostConfig.Links is not supported", hint="use a network and container names")
    for name in (host.readonly_paths or []) + (host.masked_paths or []):
        if not name.startswith("/"):
            raise InvalidArgument(f"invalid masked or read-only path {name!r}: not absolute")


def _check_address(text: str, what: str) -> None:
    try:
        ip_address(text)
    except ValueError as cause:
        raise InvalidArgument(f"invalid {what} address: {text!r}") from cause


def check_mac(text: str) -> None:
    """Raises InvalidArgument unless it is empty or six bytes with ":" between them."""
    if text and not _MAC.fullmatch(text):
        raise InvalidArgument(f"invalid MAC address: {text!r}", hint="write it like 02:42:ac:11:00:02")


def parse_security_option(text: str) -> tuple[str, str]:
    """ "seccomp=unconfined" as ("seccomp", "unconfined"); old clients write a colon. Raises InvalidArgument."""
    name, found, value = text.partition("=")
    if not found:
        name, _, value = text.partition(":")
    if name == "no-new-privileges" and value in ("", "true", "false"):
        return name, value or "true"
    if name in ("seccomp", "apparmor", "label", "systempaths", "writable-cgroups") and (
        value or name == "label"
    ):
        return name, value
    raise InvalidArgument(f"invalid --security-opt 2: {text!r}")


def check_apparmor(host: HostConfig, *, enabled: bool) -> None:
    """Raises Unsupported when a profile is asked for that nobody would enforce."""
    for name, value in (parse_security_option(text) for text in host.security_opt or ()):
        if name == "apparmor" and value != "unconfined" and not enabled:
            raise Unsupported(
                f"--security-opt apparmor={value} needs AppArmor, which this kernel does not run",
                hint="leave the option out, or say apparmor=unconfined",
            )


def _check_modes(host: HostConfig) -> None:
    allowed: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("IpcMode", host.ipc_mode, ("", "private", "shareable", "host", "none")),
        ("PidMode", host.pid_mode, ("", "host", "private")),
        ("UTSMode", host.uts_mode, ("", "host", "private")),
        ("CgroupnsMode", host.cgroupns_mode, ("", "private", "host")),
        ("UsernsMode", host.userns_mode, ("", "host")),
    )
    for field, value, words in allowed:
        joins = field in ("IpcMode", "PidMode") and value.startswith("container:") and len(value) > 10
        if value not in words and not joins:
            raise InvalidArgument(f"invalid {field}: {value!r}")
    if host.network_mode == "container:":
        raise InvalidArgument("invalid container format container:<name|id> in NetworkMode")
    # With host networking Docker discards published ports; with another container's network it refuses them.
    if (host.publish_all_ports or host.port_bindings) and host.network_mode.startswith("container:"):
        raise InvalidArgument("conflicting options: port publishing and the container type network mode")


def _check_sysctls(host: HostConfig) -> None:
    for key, value in (host.sysctls or {}).items():
        if not re.fullmatch(r"[a-zA-Z0-9_.\-/]+", key) or ".." in key or re.search(r"[\0\n\r]", value):
            raise InvalidArgument(f"invalid sysctl {key!r}")
        name = key.replace("/", ".")
        if name.startswith("net."):
            if host.network_mode == "host":
                raise InvalidArgument(f"sysctl '{key}' not allowed in host network namespace")
        elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            if host.ipc_mode == "host":
                raise InvalidArgument(f"sysctl '{key}' not allowed in host ipc namespace")
        elif name == "kernel.domainname":
            if host.uts_mode == "host":
                raise InvalidArgument(f"sysctl '{key}' not allowed in host uts namespace")
        else:
            raise InvalidArgument(f"sysctl '{key}' is not allowed: it is not in a separate kernel namespace")


def _check_log(host: HostConfig) -> None:
    config = host.log_config
    if config.type not in ("", "json-file", "local", "none"):
        raise InvalidArgument(f"logger: no log driver named '{config.type}' is registered")
    options = config.config or {}
    if config.type == "none" and options:
        raise InvalidArgument(f"unknown log opt '{min(options)}' for none log driver")
    for name in options:
        if name not in (
            "max-size",
            "max-file",
            "labels",
            "labels-regex",
            "env",
            "env-regex",
            "tag",
            "compress",
        ):
            raise InvalidArgument(f"unknown log opt '{name}' for json-file log driver")
    log_limits(options)


def idle_log_options(config: LogConfig) -> list[str]:
    """Options that Docker's driver knows and that change nothing here."""
    return sorted({*(config.config or {})} - {"max-size", "max-file"})


def log_limits(options: Mapping[str, str]) -> tuple[int, int]:
    """(max_size, max_files) of a json-file log; 0 never rotates. Raises InvalidArgument."""
    size = parse_size(options.get("max-size", ""), "max-size")
    files = options.get("max-file", "1")
    if not files.isdigit() or not 1 <= int(files) <= 1000:
        raise InvalidArgument(f"invalid log opt max-file: {files!r}")
    return size, int(files)


def parse_size(text: str, field: str) -> int:
    """ "10m", "1g", "-1" or "" as bytes (0 for none). Raises InvalidArgument."""
    if text in ("", "-1"):
        return 0
    try:
        return units.parse_size(text)
    except InvalidArgument as cause:
        raise InvalidArgument(f"{cause.what} of {field}", hint=cause.hint) from cause


def check_resources(limits: Resources, *, cpus: int) -> None:
    """Raises InvalidArgument."""
    _check_memory(limits)
    if limits.nano_cpus < 0 or limits.nano_cpus > cpus * 10**9:
        raise InvalidArgument(
            f"Range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    if limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
        other = "Period" if limits.cpu_period else "Quota"
        raise InvalidArgument(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set.")
    if limits.cpu_period and not 1000 <= limits.cpu_period <= 1_000_000:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if limits.cpu_quota > 0 and limits.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if limits.cpu_shares < 0:
        raise InvalidArgument(f"invalid CpuShares: {limits.cpu_shares}")
    _check_cpuset(limits.cpuset_cpus, "CpusetCpus", cpus)
    _check_cpuset(limits.cpuset_mems, "CpusetMems", 1024)
    if limits.pids_limit is not None and limits.pids_limit < -1:
        raise InvalidArgument(f"invalid PidsLimit: {limits.pids_limit}")
    for ulimit in limits.ulimits or ():
        if ulimit.name not in _ULIMITS:
            raise InvalidArgument(f"invalid ulimit type: {ulimit.name}")
        if ulimit.hard != -1 and (ulimit.soft > ulimit.hard or ulimit.soft == -1):
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {ulimit.soft} > {ulimit.hard}"
            )
    for device in limits.devices or ():
        if not device.path_on_host.startswith("/"):
            raise InvalidArgument(f"invalid device path {device.path_on_host!r}")
        if not set(device.cgroup_permissions) <= set("rwm"):
            raise InvalidArgument(f"invalid device permissions {device.cgroup_permissions!r}")
    _check_disks(limits)
    parent = limits.cgroup_parent
    if ".." in parent.split("/") or "\0" in parent:
        raise InvalidArgument(f"invalid CgroupParent {parent!r}")


def _check_disks(limits: Resources) -> None:
    if limits.blkio_weight and not 10 <= limits.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weight in limits.blkio_weight_device or ():
        if not weight.path.startswith("/") or not 10 <= weight.weight <= 1000:
            raise InvalidArgument(f"invalid weight for device: {weight.path}:{weight.weight}")
    for field, throttles in (
        ("BlkioDeviceReadBps", limits.blkio_device_read_bps),
        ("BlkioDeviceWriteBps", limits.blkio_device_write_bps),
        ("BlkioDeviceReadIOps", limits.blkio_device_read_iops),
        ("BlkioDeviceWriteIOps", limits.blkio_device_write_iops),
    ):
        for throttle in throttles or ():
            if not throttle.path.startswith("/") or throttle.rate <= 0:
                raise InvalidArgument(f"invalid rate for device in {field}: {throttle.path}:{throttle.rate}")


def _check_memory(limits: Resources) -> None:
    memory, swap, reservation = limits.memory, limits.memory_swap, limits.memory_reservation
    if memory and memory < SMALLEST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if swap < -1:
        raise InvalidArgument(f"invalid MemorySwap: {swap}")
    if swap > 0 and not memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if swap > 0 and swap < memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if reservation and reservation < SMALLEST_MEMORY:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if reservation and memory and memory < reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    swappiness = limits.memory_swappiness
    if swappiness is not None and not -1 <= swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")


def _check_cpuset(text: str, field: str, count: int) -> None:
    if not text:
        return
    if not _CPUSET.fullmatch(text):
        raise InvalidArgument(f"Invalid value {text} for cpuset {field}")
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if field == "CpusetCpus" and max(numbers) >= count:
        raise InvalidArgument(
            f"Requested CPUs are not available - requested {text}, available: 0-{count - 1}"
        )


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))
