"""Request and image become a record: defaults merged in Docker's way, nothing made yet. Pure."""

from msgspec.structs import replace

from longshore.core.containers.record import MountPoint, Record, State
from longshore.core.model import (
    Config,
    CreateRequest,
    Empty,
    EndpointSettings,
    HealthConfig,
    HostConfig,
    LogConfig,
    NetworkingConfig,
    RestartPolicy,
)
from longshore.core.ports import expand_bindings, expand_exposed
from longshore.errors import InvalidArgument
from longshore.oci.image_config import ContainerDefaults, Healthcheck

DEFAULT_SHM = 64 << 20
DEFAULT_PIDS = 4096  # a fork bomb in one container must not take the host; Docker has no limit by default

# What Docker hides and protects (https://docs.docker.com/engine/security/ and the OCI specification's example).
MASKED_PATHS = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READONLY_PATHS = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def merge_config(request: CreateRequest, image: ContainerDefaults) -> Config:
    """The container's Config: what the client gave, completed by the image.

    A given entrypoint also drops the image's command; `[""]` as entrypoint removes the image's one.
    Raises InvalidArgument when nothing is left to run.
    """
    config = Config(**{name: getattr(request, name) for name in Config.__struct_fields__})
    given = {entry.partition("=")[0] for entry in config.env or ()}
    inherited = [entry for entry in image.env or () if entry.partition("=")[0] not in given]
    entrypoint, cmd = config.entrypoint, config.cmd
    if not entrypoint:
        cmd = cmd or image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    if entrypoint in ([], [""]):
        entrypoint = None
    if not entrypoint and not cmd:
        raise InvalidArgument("no command specified")
    exposed = {**(image.exposed_ports or {}), **(config.exposed_ports or {})}
    for port in expand_bindings(request.host_config.port_bindings):
        exposed.setdefault(port, {})  # a published port is an exposed one
    return replace(
        config,
        user=config.user or image.user,
        exposed_ports={port: Empty() for port in expand_exposed(exposed)} or None,
        env=[*(config.env or ()), *inherited],
        entrypoint=entrypoint,
        cmd=cmd,
        healthcheck=_merge_health(config.healthcheck, image.healthcheck),
        working_dir=config.working_dir or image.working_dir,
        volumes={path: Empty() for path in (*(config.volumes or ()), *(image.volumes or ()))} or None,
        labels={**(image.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or image.stop_signal or None,
        stop_timeout=image.stop_timeout if config.stop_timeout is None else config.stop_timeout,
        shell=config.shell or image.shell,
        on_build=None,
    )


def _merge_health(own: HealthConfig | None, image: Healthcheck | None) -> HealthConfig | None:
    """Zero durations and an empty test inherit one by one."""
    if image is None:
        return own
    mine = own or HealthConfig()
    return HealthConfig(
        test=mine.test or image.test,
        interval=mine.interval or image.interval,
        timeout=mine.timeout or image.timeout,
        start_period=mine.start_period or image.start_period,
        start_interval=mine.start_interval or image.start_interval,
        retries=mine.retries or image.retries,
        on_failure=mine.on_failure,
    )


def complete_host(host: HostConfig) -> HostConfig:
    """The HostConfig with every default visible, as inspect shows it."""
    pids = host.pids_limit
    if not pids:  # the docker CLI sends 0 where the flag was not given
        pids = None if host.privileged else DEFAULT_PIDS
    elif pids < 0:
        pids = None
    return replace(
        host,
        network_mode={"": "bridge", "default": "bridge"}.get(host.network_mode, host.network_mode),
        ipc_mode=host.ipc_mode or "private",
        pid_mode="" if host.pid_mode == "private" else host.pid_mode,
        uts_mode="" if host.uts_mode == "private" else host.uts_mode,
        cgroupns_mode=host.cgroupns_mode or "private",
        shm_size=host.shm_size or DEFAULT_SHM,
        log_config=LogConfig(
            type=host.log_config.type or "json-file",
            config=host.log_config.config or {},
        ),
        restart_policy=RestartPolicy(
            name=host.restart_policy.name or "no", maximum_retry_count=host.restart_policy.maximum_retry_count
        ),
        port_bindings=expand_bindings(host.port_bindings),
        masked_paths=_paths(host.masked_paths, MASKED_PATHS, host),
        readonly_paths=_paths(host.readonly_paths, READONLY_PATHS, host),
        pids_limit=pids,
        memory_swap=host.memory * 2 if host.memory and not host.memory_swap else host.memory_swap,
        runtime=host.runtime or "longshore",
        kernel_memory=0,  # no kernel since 5.16 takes it; create warns
        kernel_memory_tcp=0,
    )


def _paths(given: list[str] | None, default: list[str], host: HostConfig) -> list[str] | None:
    if given is not None:
        return given
    return None if host.privileged or "systempaths=unconfined" in (host.security_opt or ()) else list(default)


def plan_networks(request: CreateRequest, host: HostConfig) -> NetworkingConfig:
    """The networks by name that the container joins; modes host, none and container join nothing."""
    mode = host.network_mode
    if mode in ("host", "none") or mode.startswith("container:"):
        return NetworkingConfig(endpoints_config={})
    asked = dict(request.networking_config.endpoints_config or {})
    if mode == "bridge" and "default" in asked:
        asked.setdefault("bridge", asked.pop("default"))
    first = asked.pop(mode, None) or EndpointSettings()
    if request.mac_address and not first.mac_address:
        first = replace(first, mac_address=request.mac_address)
    return NetworkingConfig(endpoints_config={mode: first, **asked})


def plan_record(
    id: str,
    name: str,
    created: str,
    request: CreateRequest,
    image_id: str,
    image: ContainerDefaults,
    mounts: list[MountPoint],
    *,
    host_name: str,
) -> Record:
    """The whole record of a new container. Raises InvalidArgument."""
    config = merge_config(request, image)
    host = complete_host(request.host_config)
    if not config.hostname and not host.network_mode.startswith("container:"):
        shares = host.network_mode == "host" or host.uts_mode == "host"
        config = replace(config, hostname=host_name if shares else id[:12])
    command = [*(config.entrypoint or ()), *(config.cmd or ())]
    return Record(
        id=id,
        name=name,
        created=created,
        image_id=image_id,
        config=config,
        host_config=host,
        networking=plan_networks(request, host),
        state=State(),
        mounts=mounts,
        path=command[0],
        args=command[1:],
    )
