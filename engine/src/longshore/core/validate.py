"""The door of create and update: sizes, names, numbers and words are judged here, with Docker's texts. Pure."""

import re
import signal
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from longshore.core.fields import about
from longshore.core.limits import check_resources
from longshore.core.model import (
    Config,
    CreateRequest,
    EndpointSettings,
    HealthConfig,
    HostConfig,
)
from longshore.core.ports import expand_bindings, expand_exposed
from longshore.core.restart import check_policy
from longshore.core.userns import parse_mode
from longshore.errors import InvalidArgument, Unsupported
from longshore.network.files import parse_extra_host
from longshore.oci import units

ACTION_LABEL = "longshore.health.on-failure"  # for clients that cannot send Healthcheck.OnFailure
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
# No setting of a namespace has more; newline, plus and equals would begin another one in other engines (CVE-2022-0811).
_SYSCTL_VALUE = re.compile(r"[A-Za-z0-9_.,:/ \t-]{0,1024}")
RUNTIMES = frozenset({"", "longshore", "runc", "io.containerd.runc.v2"})
_LONGEST_STOP = 10**9  # seconds; a timer further away is none
_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?\.?")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


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
    for name, settings in (request.networking_config.endpoints_config or {}).items():
        with about(f"NetworkingConfig.EndpointsConfig[{name!r}]"):
            check_endpoint(settings)


def check_endpoint(settings: EndpointSettings) -> None:
    """What one network is asked for. Raises InvalidArgument."""
    check_mac(settings.mac_address)
    wanted = settings.ipam_config
    if wanted is not None:
        if wanted.ipv4_address:
            _check_ip(wanted.ipv4_address, "IPv4Address", 4)
        if wanted.ipv6_address:
            _check_ip(wanted.ipv6_address, "IPv6Address", 6)
            raise InvalidArgument(
                "IPv6 addresses are not supported yet", detail=f"IPv6Address {wanted.ipv6_address}"
            )
        for text in wanted.link_local_ips or ():
            address = _check_ip(text, "LinkLocalIPs", 4)
            if not address.is_link_local:
                raise InvalidArgument(f"invalid LinkLocalIPs: {text!r} is not in 169.254.0.0/16")
    for name in settings.aliases or ():
        if not _HOSTNAME.fullmatch(name) or len(name) > 255:
            raise InvalidArgument(f"invalid network alias: {name!r}", detail="Aliases")


def _check_ip(text: str, field: str, version: int) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(text)
    except ValueError as cause:
        raise InvalidArgument(f"invalid {field}: {text!r}") from cause
    if address.version != version:
        raise InvalidArgument(f"invalid {field}: {text!r} is not of IPv{version}")
    return address


def check_config(config: Config) -> None:
    if len(config.hostname) > 64 or (config.hostname and not _HOSTNAME.fullmatch(config.hostname)):
        raise InvalidArgument(f"invalid hostname format: {config.hostname}")
    if len(config.domainname) > 64 or (config.domainname and not _HOSTNAME.fullmatch(config.domainname)):
        raise InvalidArgument(f"invalid domainname format: {config.domainname}")
    with about("WorkingDir"):
        if config.working_dir and not config.working_dir.startswith("/"):
            raise InvalidArgument(
                f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
            )
        if "\0" in config.working_dir or len(config.working_dir) > 4095:
            raise InvalidArgument("the working directory is invalid: a NUL character or too long")
    if config.stop_signal:
        with about("StopSignal"):
            parse_signal(config.stop_signal)
    if config.stop_timeout is not None and not -1 <= config.stop_timeout <= _LONGEST_STOP:
        raise InvalidArgument(f"invalid StopTimeout: {config.stop_timeout}")
    check_mac(config.mac_address or "")
    with about("Env"):
        check_env(config.env or ())
    for field, words in (("Cmd", config.cmd), ("Entrypoint", config.entrypoint), ("Shell", config.shell)):
        if any("\0" in word for word in words or ()):
            raise InvalidArgument(f"invalid {field}: a NUL character")
    if re.search(r"[\0\n\r]", config.user) or len(config.user) > 512:
        raise InvalidArgument(f"invalid User: {config.user!r}")
    if "" in (config.labels or {}):
        raise InvalidArgument("invalid Labels: an empty name")
    with about("ExposedPorts"):
        expand_exposed(config.exposed_ports)
    if config.healthcheck:
        with about("Healthcheck"):
            check_health(config.healthcheck)
    with about(f"label {ACTION_LABEL}"):
        check_failure_action((config.labels or {}).get(ACTION_LABEL, ""))


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
    check_failure_action(health.on_failure)


def check_failure_action(text: str) -> None:
    """What becomes of an unhealthy container. Raises InvalidArgument."""
    if text not in ("", "none", "kill", "restart", "stop"):
        raise InvalidArgument(
            f"invalid action on an unhealthy container: {text!r}", hint="none, kill, restart or stop"
        )


def check_host(host: HostConfig, *, cpus: int) -> None:
    check_resources(host, cpus=cpus)
    with about("HostConfig.RestartPolicy"):
        check_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    for field, names in (("CapAdd", host.cap_add), ("CapDrop", host.cap_drop)):
        with about(f"HostConfig.{field}"):
            for name in names or ():
                parse_capability(name)
    with about("HostConfig.ShmSize"):
        if host.shm_size < 0:
            raise InvalidArgument("SHM size can not be less than 0")
    with about("HostConfig.OomScoreAdj"):
        if not -1000 <= host.oom_score_adj <= 1000:
            raise InvalidArgument(
                f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
            )
    with about("HostConfig.PortBindings"):
        expand_bindings(host.port_bindings)
    _check_modes(host)
    with about("HostConfig.Sysctls"):
        _check_sysctls(host)
    _check_names(host)
    for name in host.group_add or ():
        if not name or re.search(r"[\0\n\r:,]", name) or len(name) > 256:
            raise InvalidArgument(f"invalid GroupAdd: {name!r}")
    with about("HostConfig.SecurityOpt"):
        for text in host.security_opt or ():
            parse_security_option(text)
    with about("HostConfig.Runtime"):
        if host.runtime not in RUNTIMES:
            raise InvalidArgument(
                f"unknown or invalid runtime name: {host.runtime}",
                hint="the engine runs every container itself; leave the name out",
            )
    with about("HostConfig.Isolation"):
        if host.isolation not in ("", "default"):
            raise InvalidArgument(f"Invalid isolation: {host.isolation!r} - linux only supports 'default'")
    if host.storage_opt:
        raise InvalidArgument(
            "HostConfig.StorageOpt is not supported: a size needs project quotas below the layers",
            hint="limit what a container writes with a --tmpfs of a size",
        )
    if host.cgroup:
        raise InvalidArgument(f"invalid Cgroup: {host.cgroup!r}", hint="use CgroupParent or CgroupnsMode")
    if any(not 0 <= number <= 0xFFFF for number in host.console_size):
        raise InvalidArgument(f"invalid ConsoleSize: {list(host.console_size)}")
    if any(not name or "\0" in name + value for name, value in (host.annotations or {}).items()):
        raise InvalidArgument("invalid Annotations: an empty name or a NUL character")
    for name in (host.readonly_paths or []) + (host.masked_paths or []):
        if not name.startswith("/") or "\0" in name or len(name) > 4095:
            raise InvalidArgument(
                f"invalid masked or read-only path {name[:80]!r}: not absolute",
                detail="HostConfig.MaskedPaths and ReadonlyPaths",
            )


def check_volume_driver(name: str) -> None:
    """Raises InvalidArgument in dockerd's words for any driver but "local"."""
    if name not in ("", "local"):
        raise InvalidArgument(
            f'error looking up volume plugin {name}: plugin "{name}" not found', hint="the driver is local"
        )


def _check_names(host: HostConfig) -> None:
    """What ends up in the container's hosts and resolv.conf: one line each, and nothing else."""
    with about("HostConfig.ExtraHosts"):
        for text in host.extra_hosts or ():
            parse_extra_host(text, "host-gateway")
    with about("HostConfig.Dns"):
        for server in host.dns or ():
            _check_address(server, "nameserver")
    for field, words in (("DnsSearch", host.dns_search), ("DnsOptions", host.dns_options)):
        for word in words or ():
            if not re.fullmatch(r"[!-~]{1,255}", word):
                raise InvalidArgument(f"invalid {field}: {word!r} is not one word")
    with about("HostConfig.Links"):
        for text in host.links or ():
            parse_link(text)
    if host.links and host.network_mode == "host":
        raise InvalidArgument("conflicting options: host type networking can't be used with links")
    if host.links and host.network_mode.startswith("container:"):
        raise InvalidArgument(
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior"
        )


def parse_link(text: str) -> tuple[str, str]:
    """ "db:database" or "db" as (container, alias); inspect's "/db:/web/database" is read too.

    Raises InvalidArgument in docker's words.
    """
    name, colon, alias = text.partition(":")
    alias = alias.rpartition("/")[2] if colon else name.rpartition("/")[2]
    if not name or not _HOSTNAME.fullmatch(alias) or ":" in alias or re.search(r"\s", name):
        raise InvalidArgument(f"bad format for links: {text}", hint="write CONTAINER:ALIAS")
    return name, alias


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
    if name == "systempaths" and value != "unconfined":
        raise InvalidArgument(f"invalid --security-opt 2: {text!r}")
    if name == "writable-cgroups" and value not in ("", "true", "false"):
        raise InvalidArgument(f"invalid --security-opt 2: {text!r}")
    if name in ("seccomp", "apparmor", "label", "systempaths", "writable-cgroups") and (
        value or name in ("label", "writable-cgroups")
    ):
        return name, value
    raise InvalidArgument(f"invalid --security-opt 2: {text!r}")


def check_labels(host: HostConfig, *, apparmor: bool) -> None:
    """Raises Unsupported when a profile or label is asked for that nobody would enforce."""
    for name, value in (parse_security_option(text) for text in host.security_opt or ()):
        if name == "label" and value not in ("", "disable"):
            raise Unsupported(
                f"--security-opt label={value} needs SELinux, which this engine does not drive",
                hint="leave the option out, or say label=disable",
            )
        if name == "apparmor" and value != "unconfined" and not apparmor:
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
    )
    for field, value, words in allowed:
        joins = field in ("IpcMode", "PidMode") and value.startswith("container:") and len(value) > 10
        if value not in words and not joins:
            raise InvalidArgument(f"invalid {field}: {value!r}")
    parse_mode(host.userns_mode)
    if host.network_mode == "container:":
        raise InvalidArgument("invalid container format container:<name|id> in NetworkMode")
    # With host networking Docker discards published ports; with another container's network it refuses them.
    if (host.publish_all_ports or host.port_bindings) and host.network_mode.startswith("container:"):
        raise InvalidArgument("conflicting options: port publishing and the container type network mode")


def _check_sysctls(host: HostConfig) -> None:
    for key, value in (host.sysctls or {}).items():
        if not re.fullmatch(r"[a-zA-Z0-9_.\-/]+", key) or ".." in key:
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
        if not _SYSCTL_VALUE.fullmatch(value):
            raise InvalidArgument(f"invalid sysctl {key!r}", detail=f"value {value[:80]!r}")


def parse_size(text: str, field: str) -> int:
    """ "10m", "1g", "-1" or "" as bytes (0 for none). Raises InvalidArgument."""
    if text in ("", "-1"):
        return 0
    try:
        return units.parse_size(text)
    except InvalidArgument as cause:
        raise InvalidArgument(f"{cause.what} of {field}", hint=cause.hint) from cause
