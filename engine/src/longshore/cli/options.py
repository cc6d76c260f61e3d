"""The flags of `run` and `create`, turned into the API's create request. Pure."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from longshore.errors import InvalidArgument
from longshore.oci import units


def usage(flag: str, value: str, why: str) -> click.UsageError:
    return click.UsageError(f"invalid argument {value!r} for {flag}: {why}")


def parse_size(text: str, flag: str) -> int:
    """ "512m" in bytes, units of 1024. Raises UsageError."""
    try:
        return units.parse_size(text)
    except InvalidArgument as cause:
        raise usage(flag, text, cause.hint) from cause


def parse_duration(text: str, flag: str) -> int:
    """ "1m30s" in nanoseconds. Raises UsageError."""
    try:
        return units.parse_duration(text)
    except InvalidArgument as cause:
        raise usage(flag, text, cause.hint or cause.detail) from cause


def parse_port(text: str) -> list[tuple[str, dict[str, str]]]:
    """`[ip:][host:]container[/proto]`, ranges allowed: [("80/tcp", {"HostIp", "HostPort"})]. Raises UsageError."""
    rest, _, proto = text.partition("/")
    proto = proto or "tcp"
    address, host = "", ""
    if rest.startswith("["):
        address, _, rest = rest[1:].partition("]")
        rest = rest.removeprefix(":")
    parts = rest.split(":")
    if len(parts) > 3 or (len(parts) == 3 and address) or proto not in ("tcp", "udp", "sctp"):
        raise usage("--publish", text, "write [ip:][host-port:]container-port[/proto]")
    inside = parts.pop()
    if parts:
        host = parts.pop()
    if parts:
        address = parts.pop()
    inner, outer = _port_range(inside, text), _port_range(host, text) if host else []
    if not outer:
        return [(f"{port}/{proto}", {"HostIp": address, "HostPort": ""}) for port in inner]
    if len(inner) == 1 < len(outer):  # any one port of the range
        return [(f"{inner[0]}/{proto}", {"HostIp": address, "HostPort": host})]
    if len(inner) != len(outer):
        raise usage("--publish", text, "the two ranges differ in length")
    return [
        (f"{a}/{proto}", {"HostIp": address, "HostPort": str(b)}) for a, b in zip(inner, outer, strict=True)
    ]


def _port_range(text: str, whole: str) -> list[int]:
    first, dash, last = text.partition("-")
    try:
        low, high = int(first), int(last if dash else first)
    except ValueError:
        raise usage("--publish", whole, f"{text!r} is no port") from None
    if not 0 < low <= high < 65536:
        raise usage("--publish", whole, f"{text!r} is out of range")
    return list(range(low, high + 1))


def parse_mount(text: str) -> dict[str, Any]:
    """`type=bind,source=/a,target=/b,readonly` as an entry of HostConfig.Mounts. Raises UsageError."""
    mount: dict[str, Any] = {"Type": "volume"}
    options: dict[str, Any] = {}
    for part in text.split(","):
        key, given, value = part.partition("=")
        match key.strip().lower():
            case "type":
                mount["Type"] = value
            case "source" | "src":
                mount["Source"] = str(Path(value).absolute()) if value.startswith(".") else value
            case "target" | "dst" | "destination":
                mount["Target"] = value
            case "readonly" | "ro":
                mount["ReadOnly"] = not given or value.lower() in ("1", "true")
            case "bind-propagation":
                mount["BindOptions"] = {"Propagation": value}
            case "volume-nocopy":
                mount["VolumeOptions"] = {"NoCopy": not given or value.lower() in ("1", "true")}
            case "tmpfs-size":
                options["SizeBytes"] = parse_size(value, "--mount")
            case "tmpfs-mode":
                options["Mode"] = int(value, 8)
            case _:
                raise usage("--mount", text, f"unknown key {key!r}")
    if options:
        mount["TmpfsOptions"] = options
    if "Target" not in mount:
        raise usage("--mount", text, "target is missing")
    return mount


def split_volumes(values: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """-v flags: (binds, anonymous volumes). A relative source becomes absolute."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, Any]] = {}
    for value in values:
        if ":" not in value:
            anonymous[value] = {}
        elif value.startswith("."):
            source, _, rest = value.partition(":")
            binds.append(f"{os.path.normpath(Path(source).absolute())}:{rest}")
        else:
            binds.append(value)
    return binds, anonymous


def environment(values: Sequence[str], files: Sequence[str]) -> list[str]:
    """--env-file and -e; a bare name takes this process's value, and nothing when there is none."""
    lines: list[str] = []
    for file in files:
        try:
            text = Path(file).read_text()
        except OSError as cause:
            raise usage("--env-file", file, cause.strerror or "cannot be read") from cause
        lines += [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    out: list[str] = []
    for text in [*lines, *values]:
        if "=" in text:
            out.append(text)
        elif text in os.environ:
            out.append(f"{text}={os.environ[text]}")
    return out


def labels(values: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (text.partition("=") for text in values)}


def restart_policy(text: str) -> dict[str, Any]:
    name, _, count = text.partition(":")
    if name not in ("", "no", "always", "unless-stopped", "on-failure") or (count and not count.isdigit()):
        raise usage("--restart", text, "one of no, always, unless-stopped, on-failure[:max]")
    return {"Name": name or "no", "MaximumRetryCount": int(count or 0)}


def ulimit(text: str) -> dict[str, Any]:
    name, _, value = text.partition("=")
    soft, _, hard = value.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise usage("--ulimit", text, "write name=soft[:hard]") from None


def device(text: str) -> dict[str, str]:
    parts = text.split(":")
    inside = parts[1] if len(parts) > 1 and parts[1].startswith("/") else parts[0]
    rights = parts[-1] if len(parts) > 1 and not parts[-1].startswith("/") else "rwm"
    return {"PathOnHost": parts[0], "PathInContainer": inside, "CgroupPermissions": rights}


def health(given: Mapping[str, Any]) -> dict[str, Any] | None:
    if given["no_healthcheck"]:
        return {"Test": ["NONE"]}
    out: dict[str, Any] = {}
    if given["health_cmd"]:
        out["Test"] = ["CMD-SHELL", given["health_cmd"]]
    for flag, key in (
        ("health_interval", "Interval"),
        ("health_timeout", "Timeout"),
        ("health_start_period", "StartPeriod"),
    ):
        if given[flag]:
            out[key] = parse_duration(given[flag], f"--{flag.replace('_', '-')}")
    if given["health_retries"] is not None:
        out["Retries"] = given["health_retries"]
    return out or None


def create_request(image: str, command: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The body of POST /containers/create. Raises UsageError."""
    attached = not given["detach"]
    streams = {name.lower() for name in given["attach"]} or {"stdout", "stderr"} | (
        {"stdin"} if given["interactive"] else set[str]()
    )
    ports: dict[str, list[dict[str, str]]] = {}
    for text in given["publish"]:
        for inside, binding in parse_port(text):
            ports.setdefault(inside, []).append(binding)
    exposed = {port if "/" in port else f"{port}/tcp": dict[str, str]() for port in given["expose"]}
    binds, anonymous = split_volumes(given["volume"])
    request: dict[str, Any] = {
        "Image": image,
        "Cmd": list(command) or None,
        "Hostname": given["hostname"],
        "User": given["user"],
        "AttachStdin": attached and "stdin" in streams,
        "AttachStdout": attached and "stdout" in streams,
        "AttachStderr": attached and "stderr" in streams,
        "Tty": given["tty"],
        "OpenStdin": given["interactive"],
        "StdinOnce": given["interactive"] and attached,
        "Env": environment(given["env"], given["env_file"]),
        "WorkingDir": given["workdir"],
        "Labels": labels(given["label"]),
        "ExposedPorts": exposed | {port: dict[str, str]() for port in ports},
        "Volumes": anonymous or None,
        "StopSignal": given["stop_signal"] or None,
        "StopTimeout": given["stop_timeout"],
        "HostConfig": _host_config(given, binds, ports),
        "NetworkingConfig": _networking(given),
    }
    if given["entrypoint"] is not None:
        request["Entrypoint"] = [given["entrypoint"]]  # [""] removes the image's one
    if check := health(given):
        request["Healthcheck"] = check
    return request


def _host_config(
    given: Mapping[str, Any], binds: list[str], ports: dict[str, list[dict[str, str]]]
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Binds": binds or None,
        "Mounts": [parse_mount(text) for text in given["mount"]] or None,
        "PortBindings": ports,
        "PublishAllPorts": given["publish_all"],
        "NetworkMode": given["network"] or "default",
        "AutoRemove": given["rm"],
        "RestartPolicy": restart_policy(given["restart"]),
        "Privileged": given["privileged"],
        "ReadonlyRootfs": given["read_only"],
        "CapAdd": list(given["cap_add"]) or None,
        "CapDrop": list(given["cap_drop"]) or None,
        "SecurityOpt": list(given["security_opt"]) or None,
        "Dns": list(given["dns"]) or None,
        "DnsSearch": list(given["dns_search"]) or None,
        "ExtraHosts": list(given["add_host"]) or None,
        "GroupAdd": list(given["group_add"]) or None,
        "VolumesFrom": list(given["volumes_from"]) or None,
        "Ulimits": [ulimit(text) for text in given["ulimit"]] or None,
        "Devices": [device(text) for text in given["device"]] or None,
        "Tmpfs": {path: rest for path, _, rest in (text.partition(":") for text in given["tmpfs"])} or None,
        "Sysctls": labels(given["sysctl"]) or None,
        "PidMode": given["pid"],
        "IpcMode": given["ipc"],
        "UTSMode": given["uts"],
        "CgroupnsMode": given["cgroupns"],
        "CpusetCpus": given["cpuset_cpus"],
        "CpuShares": given["cpu_shares"],
        "PidsLimit": given["pids_limit"],
        "LogConfig": {"Type": given["log_driver"], "Config": labels(given["log_opt"])},
    }
    if given["init"]:
        config["Init"] = True
    if given["cpus"]:
        config["NanoCpus"] = int(given["cpus"] * 1e9)
    for flag, key in (("memory", "Memory"), ("memory_swap", "MemorySwap"), ("shm_size", "ShmSize")):
        if given[flag]:
            config[key] = (
                -1 if given[flag] == "-1" else parse_size(given[flag], f"--{flag.replace('_', '-')}")
            )
    return config


def _networking(given: Mapping[str, Any]) -> dict[str, Any] | None:
    endpoint: dict[str, Any] = {}
    if given["ip"]:
        endpoint["IPAMConfig"] = {"IPv4Address": given["ip"]}
    if given["network_alias"]:
        endpoint["Aliases"] = list(given["network_alias"])
    if given["mac_address"]:
        endpoint["MacAddress"] = given["mac_address"]
    return {"EndpointsConfig": {given["network"] or "default": endpoint}} if endpoint else None
