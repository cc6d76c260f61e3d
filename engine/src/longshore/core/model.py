"""The Docker Engine API's request values for containers, as clients send them.

Field names are the API's own, made from snake case by msgspec (`memory_swap` is ``MemorySwap``); the few that do not
follow the rule name theirs. Go clients send ``null`` for every empty list, map or pointer, which means "not given"
everywhere: `without_nulls` drops them before decoding, and lists and maps stay None so that inspect echoes ``null`` again.
Unknown keys are ignored, wrong types are an InvalidArgument that names the field.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args

import msgspec

from longshore.errors import InvalidArgument

T = TypeVar("T", bound=msgspec.Struct)

_MAPS_OF_OBJECTS = frozenset(
    {"EndpointsConfig", "ExposedPorts", "Volumes"}
)  # {"name": null} means {"name": {}}
_MAPS_OF_STRUCTS = frozenset({*_MAPS_OF_OBJECTS, "PortBindings"})  # their keys are the user's


class Wire(msgspec.Struct, rename="pascal", kw_only=True):
    """Base of everything that crosses the API."""


class Empty(msgspec.Struct):
    """Go's struct{}: the values of ExposedPorts and Volumes."""


class HealthConfig(Wire, omit_defaults=True):
    """Durations in nanoseconds; 0 inherits from the image or takes the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
    on_failure: str = ""  # beyond Docker: what to do when it becomes unhealthy, see core.health


class Config(Wire):
    """What runs: the part of a container that an image may set as well."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Empty] | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool | None = None
    image: str = ""
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool | None = None
    mac_address: str | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(Wire):
    type: str = ""
    config: dict[str, str] | None = None


class PortBinding(Wire):
    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Wire):
    name: str = ""
    maximum_retry_count: int = 0


class DeviceMapping(Wire):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(Wire):
    name: str
    hard: int = 0
    soft: int = 0


class WeightDevice(Wire):
    """One entry of HostConfig.BlkioWeightDevice."""

    path: str = ""
    weight: int = 0


class ThrottleDevice(Wire):
    """One entry of HostConfig.BlkioDeviceReadBps and its like (`docker run --device-read-bps /dev/sda:1mb`)."""

    path: str = ""
    rate: int = 0


class DeviceRequest(Wire):
    """`docker run --gpus` (a driver's name or none, capabilities [["gpu"]]) and `--device vendor/class=name` ("cdi").

    `count` -1 means all.
    """

    driver: str = ""
    count: int = 0
    device_ids: list[str] | None = msgspec.field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class BindOptions(Wire, omit_defaults=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriverConfig(Wire, omit_defaults=True):
    name: str = ""
    options: dict[str, str] | None = None


class VolumeOptions(Wire, omit_defaults=True):
    no_copy: bool = False
    labels: dict[str, str] | None = None
    subpath: str = ""
    driver_config: VolumeDriverConfig | None = None


class TmpfsOptions(Wire, omit_defaults=True):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] | None = None


class ImageOptions(Wire, omit_defaults=True):
    subpath: str = ""


class MountRequest(Wire, omit_defaults=True):
    """One entry of HostConfig.Mounts (`docker run --mount`)."""

    type: str = "volume"
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None


class Resources(Wire):
    """Limits; the part of HostConfig that `update` may change."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(
        default=None, name="BlkioDeviceReadIOps"
    )
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(
        default=None, name="BlkioDeviceWriteIOps"
    )
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = msgspec.field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = msgspec.field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = msgspec.field(default=0, name="IOMaximumBandwidth")


class UpdateRequest(Resources):
    """Body of POST /containers/{id}/update: only what is given changes (zero is "not given", as in Docker)."""

    restart_policy: RestartPolicy | None = None


class HostConfig(Resources):
    """How it runs here: the part that belongs to the machine."""

    binds: list[str] | None = None
    container_id_file: str = msgspec.field(default="", name="ContainerIDFile")
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding]] | None = None
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: tuple[int, int] = (0, 0)
    annotations: dict[str, str] | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = msgspec.field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    mounts: list[MountRequest] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIPAMConfig(Wire, omit_defaults=True):
    ipv4_address: str = msgspec.field(default="", name="IPv4Address")
    ipv6_address: str = msgspec.field(default="", name="IPv6Address")
    link_local_ips: list[str] | None = msgspec.field(default=None, name="LinkLocalIPs")


class EndpointSettings(Wire):
    """What a client asks of one network; the answers (addresses) are in the container's record."""

    ipam_config: EndpointIPAMConfig | None = msgspec.field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    network_id: str = msgspec.field(default="", name="NetworkID")
    gw_priority: int = 0


class NetworkingConfig(Wire):
    endpoints_config: dict[str, EndpointSettings] | None = None


class CreateRequest(Config):
    """Body of POST /containers/create: Config at the top, the other two beside it."""

    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)
    runtime: str = ""  # docker-py writes HostConfig.Runtime here


class ExecRequest(Wire):
    """Body of POST /containers/{id}/exec."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class ExecStartRequest(Wire):
    detach: bool = False
    tty: bool = False
    console_size: tuple[int, int] | None = None


class VolumeRequest(Wire):
    """Body of POST /volumes/create."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


WaitCondition = Literal["not-running", "next-exit", "removed", "over"]
""" "over" is not the API's: it does not run and its restart policy will not start it again."""


def without_nulls(value: object, *, keep_keys: bool = False) -> object:
    """Drop every key whose value is null, at any depth; `keep_keys` turns them into {} instead.

    InvalidArgument for a number beyond the API's integers: the kernel's files would not take it either.
    """
    if isinstance(value, dict):
        cleaned: dict[str, object] = {}
        for key, item in cast("dict[str, object]", value).items():
            if item is not None:
                cleaned[key] = without_nulls(item, keep_keys=key in _MAPS_OF_OBJECTS)
            elif keep_keys:
                cleaned[key] = dict[str, object]()
        return cleaned
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidArgument("invalid request", detail=f"the number {value} does not fit into 64 bits")
    if isinstance(value, list):
        return [without_nulls(item) for item in cast("list[object]", value) if item is not None]
    return value


@cache
def _spellings(kind: type[msgspec.Struct]) -> dict[str, tuple[str, type[msgspec.Struct] | None]]:
    """By lower-case name: the API's spelling of each field, and the struct inside of it."""
    known: dict[str, tuple[str, type[msgspec.Struct] | None]] = {}
    for field in msgspec.structs.fields(kind):
        inside = next(filter(_is_struct, _parts_of(field.type)), None)
        known[field.encode_name.lower()] = (field.encode_name, cast("type[msgspec.Struct] | None", inside))
    return known


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _parts_of(kind: object) -> Iterator[object]:
    """A type and, of a list, map or union, the types inside."""
    yield kind
    for part in get_args(kind):
        yield from _parts_of(part)


def spelled(value: object, kind: type[msgspec.Struct]) -> object:
    """Keys as the API spells them, at any depth: Go's JSON takes them in any case, and so clients write them.

    Of two keys that differ in case only the later one counts. Keys of maps are left alone.
    """
    if isinstance(value, list):
        return [spelled(item, kind) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    known, result = _spellings(kind), dict[str, object]()
    for key, item in cast("dict[str, object]", value).items():
        name, inside = known.get(key.lower(), (key, None))
        if inside is None:
            result[name] = item
        else:
            result[name] = _each(item, inside) if name in _MAPS_OF_STRUCTS else spelled(item, inside)
    return result


def _each(value: object, kind: type[msgspec.Struct]) -> object:
    """The same for a map whose keys are the user's."""
    if not isinstance(value, dict):
        return value
    return {key: spelled(item, kind) for key, item in cast("dict[str, object]", value).items()}


def decode(data: bytes, kind: type[T]) -> T:
    """A request body as a value; an empty body is `{}`.

    Raises InvalidArgument that names the field (``$.HostConfig.Memory``) and the type it should have.
    """
    try:
        value: Any = spelled(msgspec.json.decode(data or b"{}", type=dict[str, Any]), kind)
        return from_mapping(value, kind)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("invalid JSON in request body", detail=str(cause)) from cause


def from_mapping(value: Mapping[str, Any], kind: type[T]) -> T:
    """The same for a value that is decoded already (`apply` holds parts of larger documents)."""
    cleaned = without_nulls(dict(value))
    if isinstance(cleaned, dict):
        for name in ("Cmd", "Entrypoint", "Shell"):  # Docker's strslice: one string means a list of one
            if isinstance(text := cast("dict[str, object]", cleaned).get(name), str):
                cleaned[name] = [text]
    try:
        return msgspec.convert(cleaned, kind)
    except msgspec.ValidationError as cause:
        raise InvalidArgument("invalid request", detail=str(cause)) from cause
