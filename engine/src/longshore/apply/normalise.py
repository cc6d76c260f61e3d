"""A wanted container in normal form: a flat mapping from option to value, fit to be stored and compared.

Keys are the fields of Docker's create body, those of HostConfig with their prefix ("HostConfig.Memory");
Env and Labels are mappings. Empty values are left out: they mean the same as "not given". Two requests that
mean the same have the same normal form, however they were spelt.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from longshore.apply.request import Healthcheck, WantedContainer
from longshore.apply.values import (
    parse_duration,
    parse_exposed,
    parse_ports,
    parse_size,
    parse_volume,
    text_of,
)
from longshore.errors import InvalidArgument

Options = dict[str, Any]

_NESTED = ("HostConfig", "NetworkingConfig")
_NOT_COMPARED = {
    "HostConfig.ContainerIDFile",
    "HostConfig.ConsoleSize",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
}
_ZERO_SPEAKS = {"StopTimeout", "HostConfig.MemorySwappiness"}
# Go's map[string]struct{} and variables with empty values carry their meaning in the keys
_NAMES_SPEAK = {"Env", "ExposedPorts", "HostConfig.Sysctls", "HostConfig.Tmpfs", "Labels", "Volumes"}


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table: the wanted container's attribute, the field it sets, how the value is read."""

    name: str
    key: str
    read: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _words(value: str | list[str]) -> list[str]:
    try:
        return shlex.split(value) if isinstance(value, str) else list(value)
    except ValueError as cause:
        raise InvalidArgument(f"invalid command {value!r}", detail=str(cause)) from cause


def _texts(value: Mapping[str, Any]) -> dict[str, str]:
    return {key: text_of(item) for key, item in value.items()}


def _env(value: Mapping[str, Any] | list[str]) -> dict[str, str]:
    if isinstance(value, Mapping):
        return _texts(value)
    pairs: dict[str, str] = {}
    for entry in value:
        name, sign, text = entry.partition("=")
        if not sign or not name:
            raise InvalidArgument(f"invalid environment variable {entry!r}", hint="write NAME=value")
        pairs[name] = text
    return pairs


def _nano_cpus(value: float | str) -> int:
    try:
        cpus = float(value)
    except ValueError as cause:
        raise InvalidArgument(f"invalid value of cpus {value!r}", detail="not a number") from cause
    if cpus < 0:
        raise InvalidArgument(f"invalid value of cpus {value!r}", detail="negative")
    return round(cpus * 1e9)


def _tmpfs(value: list[str]) -> dict[str, str]:
    return {path: options for path, _, options in (entry.partition(":") for entry in value)}


def _devices(value: list[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for entry in value:
        parts = entry.split(":")
        found.append(
            {
                "PathOnHost": parts[0],
                "PathInContainer": parts[1] if len(parts) > 1 else parts[0],
                "CgroupPermissions": parts[2] if len(parts) > 2 else "rwm",
            }
        )
    return found


def _healthcheck(value: Healthcheck) -> dict[str, Any]:
    test = value.test
    if isinstance(test, str):
        words = ["NONE"] if test.upper() == "NONE" else ["CMD-SHELL", test]
    elif test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        words = ["CMD", *test]
    else:
        words = test
    times = {
        "Interval": value.interval,
        "Timeout": value.timeout,
        "StartPeriod": value.start_period,
        "StartInterval": value.start_interval,
    }
    found: dict[str, Any] = {
        name: parse_duration(given) for name, given in times.items() if given is not None
    }
    if words:
        found["Test"] = words
    if value.retries is not None:
        found["Retries"] = value.retries
    return found


_OPTIONS = (
    Option("image", "Image", _same),
    Option("command", "Cmd", _words),
    Option("entrypoint", "Entrypoint", _words),
    Option("env", "Env", _env),
    Option("labels", "Labels", _texts),
    Option("hostname", "Hostname", _same),
    Option("domainname", "Domainname", _same),
    Option("user", "User", _same),
    Option("working_dir", "WorkingDir", _same),
    Option("tty", "Tty", _same),
    Option("interactive", "OpenStdin", _same),
    Option("stop_signal", "StopSignal", _same),
    Option("stop_timeout", "StopTimeout", _same),
    Option("healthcheck", "Healthcheck", _healthcheck),
    Option("network_mode", "HostConfig.NetworkMode", _same),
    Option("memory", "HostConfig.Memory", parse_size),
    Option("memory_reservation", "HostConfig.MemoryReservation", parse_size),
    Option("memory_swap", "HostConfig.MemorySwap", parse_size),
    Option("cpus", "HostConfig.NanoCpus", _nano_cpus),
    Option("cpu_shares", "HostConfig.CpuShares", _same),
    Option("cpuset_cpus", "HostConfig.CpusetCpus", _same),
    Option("pids_limit", "HostConfig.PidsLimit", _same),
    Option("shm_size", "HostConfig.ShmSize", parse_size),
    Option("privileged", "HostConfig.Privileged", _same),
    Option("read_only", "HostConfig.ReadonlyRootfs", _same),
    Option("init", "HostConfig.Init", _same),
    Option("auto_remove", "HostConfig.AutoRemove", _same),
    Option("cap_add", "HostConfig.CapAdd", sorted),
    Option("cap_drop", "HostConfig.CapDrop", sorted),
    Option("security_opts", "HostConfig.SecurityOpt", sorted),
    Option("groups", "HostConfig.GroupAdd", sorted),
    Option("devices", "HostConfig.Devices", _devices),
    Option("tmpfs", "HostConfig.Tmpfs", _tmpfs),
    Option("mounts", "HostConfig.Mounts", _same),
    Option("sysctls", "HostConfig.Sysctls", _texts),
    Option("dns_servers", "HostConfig.Dns", _same),
    Option("dns_search_domains", "HostConfig.DnsSearch", _same),
    Option("etc_hosts", "HostConfig.ExtraHosts", lambda hosts: sorted(f"{n}:{a}" for n, a in hosts.items())),
)


def normalise(wanted: WantedContainer) -> Options:
    """The normal form. Raises InvalidArgument for a value that cannot be read."""
    options = flatten(wanted.config or {})
    for option in _OPTIONS:
        value = getattr(wanted, option.name)
        if value is not None:
            options[option.key] = option.read(value)
    options.update(_ports(wanted))
    options.update(_volumes(wanted))
    if wanted.restart_policy is not None:
        options["HostConfig.RestartPolicy"] = {
            "Name": wanted.restart_policy,
            "MaximumRetryCount": wanted.restart_retries or 0,
        }
    if wanted.log_driver is not None or wanted.log_options is not None:
        options["HostConfig.LogConfig"] = {
            "Type": wanted.log_driver or "",
            "Config": _texts(wanted.log_options or {}),
        }
    return _compact(options)


def _ports(wanted: WantedContainer) -> Options:
    found: Options = {}
    exposed: set[str] = set()
    if wanted.ports is not None:
        bindings = parse_ports(wanted.ports)
        found["HostConfig.PortBindings"] = bindings
        exposed.update(bindings)
    if wanted.exposed_ports is not None:
        exposed.update(port for entry in wanted.exposed_ports for port in parse_exposed(entry))
    if exposed:
        found["ExposedPorts"] = {port: dict[str, Any]() for port in sorted(exposed)}
    return found


def _volumes(wanted: WantedContainer) -> Options:
    if wanted.volumes is None:
        return {}
    read = [parse_volume(entry) for entry in wanted.volumes]
    return {
        "HostConfig.Binds": sorted(bind for bind, _ in read if bind),
        "Volumes": {path: dict[str, Any]() for bind, path in read if not bind},
    }


def flatten(body: Mapping[str, Any]) -> Options:
    """The normal form of a Docker create body, also of one that a container was made from."""
    options: Options = {}
    for name, value in body.items():
        if name in _NESTED and isinstance(value, Mapping):
            for inner, item in cast("Mapping[str, Any]", value).items():
                options[f"{name}.{inner}"] = item
        else:
            options[name] = value
    env = options.get("Env")
    if isinstance(env, list):
        options["Env"] = _env([entry if "=" in entry else f"{entry}=" for entry in cast("list[str]", env)])
    for key in ("HostConfig.CapAdd", "HostConfig.CapDrop", "HostConfig.SecurityOpt", "HostConfig.Binds"):
        if isinstance(options.get(key), list):
            options[key] = sorted(options[key])
    return _compact(options)


def _compact(options: Options) -> Options:
    """Without empty values and without what is no property of the container, keys sorted."""
    return {key: options[key] for key in sorted(options) if not _says_nothing(key, options[key])}


def _says_nothing(key: str, value: Any) -> bool:
    if key in _NOT_COMPARED or value is None:
        return True
    if key in _ZERO_SPEAKS:
        return False
    if key in _NAMES_SPEAK:
        return not value
    if key == "HostConfig.RestartPolicy":
        return value.get("Name") in ("", "no", None)  # what everybody has
    if key == "HostConfig.NetworkMode":
        return value in ("", "default", "bridge")
    return _empty(value)


def _empty(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_empty(item) for item in cast("Mapping[str, object]", value).values())
    return not value  # None, False, 0, "" and []


def create_body(options: Mapping[str, Any]) -> dict[str, Any]:
    """The Docker create body of a normal form."""
    body: dict[str, Any] = {name: {} for name in _NESTED}
    for key, value in options.items():
        outer, dot, inner = key.partition(".")
        if dot:
            body[outer][inner] = value
        elif key == "Env":
            body[key] = [f"{name}={text}" for name, text in value.items()]
        else:
            body[key] = value
    return body
