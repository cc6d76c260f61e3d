"""The flags of `run` and `create`, turned into the body of POST /containers/create."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import click

from longshore.cli.environment import environment, labels, pairs
from longshore.cli.flags import FlagError, invalid
from longshore.cli.mounts import fields, parse_mount, split_volumes, tmpfs_mounts
from longshore.cli.publish import port_bindings
from longshore.errors import InvalidArgument
from longshore.oci.units import parse_duration, parse_size

Given = Mapping[str, Any]
_MAC = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}", re.IGNORECASE)
_OWN_MODES = ("", "default", "bridge", "host", "none")  # networks that take no settings of the endpoint


def create_request(image: str, command: Sequence[str], given: Given) -> dict[str, Any]:
    """Raises FlagError."""
    streams = attached_streams(given)
    if given["rm"] and given["restart"] not in ("", "no"):
        raise FlagError("conflicting options: cannot specify both --restart and --rm")
    bindings, exposed = port_bindings(given["publish"], given["expose"])
    binds, anonymous = split_volumes(given["volume"])
    networks = [parse_network(text) for text in given["network"]]
    request: dict[str, Any] = {
        "Image": image,
        "Cmd": list(command) or None,
        "Hostname": given["hostname"],
        "Domainname": given["domainname"],
        "User": given["user"],
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Tty": given["tty"],
        "OpenStdin": given["interactive"],
        "StdinOnce": given["interactive"] and "stdin" in streams,
        "Env": environment(given["env"], given["env_file"]),
        "WorkingDir": given["workdir"],
        "Labels": labels(given["label"], given["label_file"]),
        "ExposedPorts": exposed,
        "Volumes": anonymous or None,
        "StopSignal": given["stop_signal"] or None,
        "StopTimeout": given["stop_timeout"],
        "HostConfig": _host_config(given, binds, bindings, networks),
        "NetworkingConfig": {"EndpointsConfig": _endpoints(given, networks)},
    }
    if given["entrypoint"] is not None:
        request["Entrypoint"] = [given["entrypoint"]]  # [""] removes the image's one
    if check := health(given):
        request["Healthcheck"] = check
    return request


def attached_streams(given: Given) -> set[str]:
    """Which of stdin, stdout and stderr the caller is joined with. Raises FlagError."""
    named = {name.lower() for name in given["attach"]}
    for name in named - {"stdin", "stdout", "stderr"}:
        raise invalid("--attach", name, "valid streams are STDIN, STDOUT and STDERR")
    if given.get("detach"):
        if named:
            raise click.UsageError("conflicting options: cannot specify both --attach and --detach")
        return set()
    return named or {"stdout", "stderr"} | ({"stdin"} if given["interactive"] else set[str]())


def _sized(given: Given, name: str) -> int:
    return _parsed(parse_size, given[name], name) if given[name] else 0


def _parsed(parse: Callable[[str], int], text: str, name: str) -> int:
    try:
        return parse(text)
    except InvalidArgument as cause:
        raise invalid(f"--{name.replace('_', '-')}", text, cause.hint or cause.detail) from cause


def nano_cpus(text: str) -> int:
    """ "1.5" as billionths of a CPU. Raises FlagError."""
    if not text:
        return 0
    try:
        value = Fraction(text) * 10**9
    except (ValueError, ZeroDivisionError):
        raise invalid("--cpus", text, "write a number such as 1.5") from None
    if value.denominator != 1 or value < 0:
        raise invalid("--cpus", text, "it is negative or too precise")
    return int(value)


def restart_policy(text: str) -> dict[str, Any]:
    """`on-failure:3` and its like. Raises FlagError."""
    name, colon, count = text.partition(":")
    known = name in ("", "no", "always", "unless-stopped", "on-failure")
    if not known or (colon and not count.isdigit()):
        raise invalid("--restart", text, "one of no, always, unless-stopped, on-failure[:max-retries]")
    if count and name != "on-failure":
        raise invalid("--restart", text, "maximum retry count cannot be used with this policy")
    return {"Name": name or "no", "MaximumRetryCount": int(count or 0)}


def ulimit(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    soft, _, hard = value.partition(":")
    try:
        limit: dict[str, Any] = {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise invalid("--ulimit", text, "write name=soft[:hard]") from None
    if not name or not equals:
        raise invalid("--ulimit", text, "write name=soft[:hard]")
    if limit["Hard"] != -1 and (limit["Soft"] == -1 or limit["Soft"] > limit["Hard"]):
        raise invalid("--ulimit", text, "the soft limit is above the hard one")
    return limit


def is_cdi(text: str) -> bool:
    """Whether a --device is a CDI name, vendor.com/class=device (Container Device Interface, "qualified name")."""
    kind, equals, name = text.partition("=")
    return bool(equals and name) and not text.startswith("/") and kind.count("/") == 1


def device(text: str) -> dict[str, str]:
    """`path[:path inside][:rwm]`. Raises FlagError."""
    parts = text.split(":")
    rights = parts.pop() if len(parts) > 1 and not parts[-1].startswith("/") else "rwm"
    if len(parts) > 2 or not parts[0] or not rights or set(rights) - set("rwm"):
        raise invalid("--device", text, "write path[:path inside the container][:rwm]")
    return {"PathOnHost": parts[0], "PathInContainer": parts[-1], "CgroupPermissions": rights}


def gpu_request(text: str) -> dict[str, Any]:
    """`all`, a number, or `device=0,driver=…` as a DeviceRequest. Raises FlagError."""
    found: dict[str, Any] = {
        "Driver": "",
        "Count": 0,
        "DeviceIDs": None,
        "Capabilities": [["gpu"]],
        "Options": {},
    }
    for key, value, given in fields(text, "--gpus"):
        match key if given else "count":
            case "driver":
                found["Driver"] = value
            case "device":
                found["DeviceIDs"] = value.split(",")
            case "capabilities":
                found["Capabilities"] = [sorted({"gpu", *value.split(",")})]
            case "options":
                found["Options"] = pairs(value.split(","), "--gpus")
            case "count":
                count = value if given else key
                if count != "all" and not count.isdigit():
                    raise invalid("--gpus", text, "the count is a number or all")
                found["Count"] = -1 if count == "all" else int(count)
            case _:
                raise invalid("--gpus", text, f"unexpected key {key!r}")
    if found["DeviceIDs"] is None and not found["Count"]:
        found["Count"] = 1
    if found["DeviceIDs"] is not None and found["Count"]:
        raise invalid("--gpus", text, "cannot set both count and device")
    return found


def _device_rates(
    values: Sequence[str], flag: str, key: str, read: Callable[[str], int]
) -> list[dict[str, Any]] | None:
    """`path:rate` as the entries that BlkioDeviceReadBps and its like want."""
    out: list[dict[str, Any]] = []
    for text in values:
        path, colon, rate = text.rpartition(":")
        if not colon or not path.startswith("/"):
            raise invalid(flag, text, f"write /device-path:{key.lower()}")
        try:
            out.append({"Path": path, key: read(rate)})
        except (ValueError, InvalidArgument):
            raise invalid(flag, text, f"{rate!r} is no {key.lower()}") from None
    return out or None


def _weight(text: str) -> int:
    weight = int(text)
    if weight and not 10 <= weight <= 1000:
        raise ValueError(text)
    return weight


def capabilities(values: Sequence[str]) -> list[str]:
    """In the kernel's spelling, each once. Pure."""
    names = (text.upper() for text in values)
    return list(
        dict.fromkeys(name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in names)
    )


def extra_host(text: str) -> str:
    """name:ip; docker takes name=ip and brackets round the address too. Raises FlagError."""
    name, separator, address = text.partition("=") if "=" in text.partition(":")[0] else text.partition(":")
    if not name or not separator or not address:
        raise invalid("--add-host", text, "write name:ip")
    return f"{name}:{address.removeprefix('[').removesuffix(']')}"


def security_options(values: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """(SecurityOpt, MaskedPaths and ReadonlyPaths where all paths are to be seen); profiles are read here.

    Raises FlagError.
    """
    options: list[str] = []
    paths: dict[str, list[str]] = {}
    for text in values:
        if text == "systempaths=unconfined":
            paths = {"MaskedPaths": [], "ReadonlyPaths": []}
            continue
        name, separator, value = text.partition("=") if "=" in text else text.partition(":")
        if not separator and name != "no-new-privileges":
            raise invalid("--security-opt", text, "write name=value")
        if name == "seccomp" and value not in ("unconfined", "builtin"):
            try:
                with open(value, "rb") as stream:
                    profile = json.dumps(json.load(stream), separators=(",", ":"))
            except (OSError, ValueError) as cause:
                raise invalid("--security-opt", text, f"opening seccomp profile failed: {cause}") from cause
            text = f"seccomp={profile}"
        options.append(text)
    return options, paths


def health(given: Given) -> dict[str, Any] | None:
    """The health check that the flags ask for, None for the image's."""
    times = ("health_interval", "health_timeout", "health_start_period", "health_start_interval")
    if given["no_healthcheck"]:
        if given["health_cmd"] or given["health_retries"] or any(given[name] for name in times):
            raise FlagError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    out: dict[str, Any] = {}
    if given["health_cmd"]:
        out["Test"] = ["CMD-SHELL", given["health_cmd"]]
    for name, key in zip(times, ("Interval", "Timeout", "StartPeriod", "StartInterval"), strict=True):
        if given[name]:
            out[key] = _parsed(parse_duration, given[name], name)
    if given["health_retries"] < 0:
        raise invalid("--health-retries", str(given["health_retries"]), "cannot be negative")
    if given["health_retries"]:
        out["Retries"] = given["health_retries"]
    return out or None


def parse_network(text: str) -> dict[str, Any]:
    """`net`, or `name=net,alias=a,ip=…` as {"name", "endpoint"}. Raises FlagError."""
    if "=" not in text:
        return {"name": text, "endpoint": {}}
    name = ""
    endpoint: dict[str, Any] = {}
    address: dict[str, Any] = {}
    for key, value, _ in fields(text, "--network"):
        match key:
            case "name":
                name = value
            case "alias":
                endpoint.setdefault("Aliases", []).append(value)
            case "ip":
                address["IPv4Address"] = value
            case "ip6":
                address["IPv6Address"] = value
            case "link-local-ip":
                address.setdefault("LinkLocalIPs", []).append(value)
            case "mac-address":
                endpoint["MacAddress"] = value
            case "driver-opt":
                endpoint.setdefault("DriverOpts", {}).update(pairs([value], "--network"))
            case "gw-priority":
                endpoint["GwPriority"] = int(value) if value.lstrip("-").isdigit() else 0
            case _:
                raise invalid("--network", text, f"invalid field key {key!r}")
    if not name:
        raise invalid("--network", text, "the name is missing")
    if address:
        endpoint["IPAMConfig"] = address
    return {"name": name, "endpoint": endpoint}


def _endpoints(given: Given, networks: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings of every network; --ip, --network-alias and their like belong to the first."""
    out = {network["name"]: dict(network["endpoint"]) for network in networks}
    endpoint: dict[str, Any] = {}
    address = {
        "IPv4Address": given["ip"],
        "IPv6Address": given["ip6"],
        "LinkLocalIPs": list(given["link_local_ip"]),
    }
    if any(address.values()):
        endpoint["IPAMConfig"] = {name: value for name, value in address.items() if value}
    for name, key in (("network_alias", "Aliases"), ("link", "Links")):
        if given[name]:
            endpoint[key] = list(given[name])
    if given["mac_address"]:
        if not _MAC.fullmatch(given["mac_address"]):
            raise invalid("--mac-address", given["mac_address"], "write six bytes such as 92:d0:c6:0a:29:33")
        endpoint["MacAddress"] = given["mac_address"]
    first = networks[0]["name"] if networks else "default"
    own = first not in _OWN_MODES and not first.startswith("container:")
    if endpoint.get("Aliases") and not own:
        raise FlagError("network-scoped aliases are only supported for user-defined networks")
    if not own:
        endpoint.pop("Links", None)  # on the default network they are HostConfig.Links
    merged = {**out.get(first, {}), **endpoint}
    if len(networks) > 1 or merged or own:
        out[first] = merged
    elif not merged:
        out.pop(first, None)
    return out


def _host_config(
    given: Given, binds: list[str], bindings: dict[str, Any], networks: list[dict[str, Any]]
) -> dict[str, Any]:
    security, paths = security_options(given["security_opt"])
    devices = [text for text in given["device"] if not is_cdi(text)]
    cdi = [text for text in given["device"] if is_cdi(text)]
    requests = [{"Driver": "cdi", "DeviceIDs": cdi}] if cdi else []
    requests += [gpu_request(given["gpus"])] if given["gpus"] else []
    config: dict[str, Any] = {
        **_resources(given),
        **paths,
        "Binds": binds or None,
        "Mounts": [parse_mount(text) for text in given["mount"]] or None,
        "ContainerIDFile": given["cidfile"],
        "PortBindings": bindings,
        "PublishAllPorts": given["publish_all"],
        "NetworkMode": networks[0]["name"] if networks else "default",
        "AutoRemove": given["rm"],
        "RestartPolicy": restart_policy(given["restart"]),
        "Privileged": given["privileged"],
        "ReadonlyRootfs": given["read_only"],
        "CapAdd": capabilities(given["cap_add"]) or None,
        "CapDrop": capabilities(given["cap_drop"]) or None,
        "SecurityOpt": security or None,
        "Dns": list(given["dns"]) or None,
        "DnsOptions": list(given["dns_option"]) or None,
        "DnsSearch": list(given["dns_search"]) or None,
        "ExtraHosts": [extra_host(text) for text in given["add_host"]] or None,
        "GroupAdd": list(given["group_add"]) or None,
        "VolumesFrom": list(given["volumes_from"]) or None,
        "VolumeDriver": given["volume_driver"],
        "Links": list(given["link"]) or None,
        "Devices": [device(text) for text in devices] or None,
        "DeviceRequests": requests or None,
        "DeviceCgroupRules": list(given["device_cgroup_rule"]) or None,
        "Tmpfs": tmpfs_mounts(given["tmpfs"]) or None,
        "Sysctls": pairs(given["sysctl"], "--sysctl") or None,
        "StorageOpt": pairs(given["storage_opt"], "--storage-opt") or None,
        "Annotations": pairs(given["annotation"], "--annotation") or None,
        "PidMode": given["pid"],
        "IpcMode": given["ipc"],
        "UTSMode": given["uts"],
        "UsernsMode": given["userns"],
        "CgroupnsMode": given["cgroupns"],
        "Runtime": given["runtime"] or None,
        "OomScoreAdj": given["oom_score_adj"],
        "ShmSize": _sized(given, "shm_size"),
        "LogConfig": {"Type": given["log_driver"], "Config": pairs(given["log_opt"], "--log-opt", bare=True)},
    }
    if given["init"]:
        config["Init"] = True
    return config


def _resources(given: Given) -> dict[str, Any]:
    swap, swappiness = given["memory_swap"], given["memory_swappiness"]
    if not -1 <= swappiness <= 100:
        raise invalid("--memory-swappiness", str(swappiness), "valid memory swappiness range is 0-100")
    return {
        "Memory": _sized(given, "memory"),
        "MemoryReservation": _sized(given, "memory_reservation"),
        "MemorySwap": -1 if swap == "-1" else _sized(given, "memory_swap"),
        "MemorySwappiness": None if swappiness == -1 else swappiness,
        "OomKillDisable": given["oom_kill_disable"] or None,
        "NanoCpus": nano_cpus(given["cpus"]),
        "CpuShares": given["cpu_shares"],
        "CpuPeriod": given["cpu_period"],
        "CpuQuota": given["cpu_quota"],
        "CpuRealtimePeriod": given["cpu_rt_period"],
        "CpuRealtimeRuntime": given["cpu_rt_runtime"],
        "CpusetCpus": given["cpuset_cpus"],
        "CpusetMems": given["cpuset_mems"],
        "PidsLimit": given["pids_limit"] or None,
        "CgroupParent": given["cgroup_parent"],
        "Ulimits": [ulimit(text) for text in given["ulimit"]] or None,
        "BlkioWeight": given["blkio_weight"],
        "BlkioWeightDevice": _device_rates(
            given["blkio_weight_device"], "--blkio-weight-device", "Weight", _weight
        ),
        "BlkioDeviceReadBps": _device_rates(
            given["device_read_bps"], "--device-read-bps", "Rate", parse_size
        ),
        "BlkioDeviceWriteBps": _device_rates(
            given["device_write_bps"], "--device-write-bps", "Rate", parse_size
        ),
        "BlkioDeviceReadIOps": _device_rates(given["device_read_iops"], "--device-read-iops", "Rate", int),
        "BlkioDeviceWriteIOps": _device_rates(given["device_write_iops"], "--device-write-iops", "Rate", int),
    }
