"""What `POST /longshore/v1/apply` takes: the wanted images, volumes, networks and containers of a host.

The option names of a container are those of Ansible's community.docker.docker_container, so that playbooks,
files for `longshore apply -f` and the modules of the collection read alike. None means "no opinion". Unknown
names are refused: a misspelt option must not silently do nothing.
"""

from typing import Any, Literal

import msgspec

from longshore.errors import InvalidArgument

Scalar = str | int | float | bool
Pull = Literal["always", "missing", "never"]
State = Literal["absent", "present", "stopped", "started"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all values here."""


class WantedImage(_Strict, frozen=True, kw_only=True):
    """An image that must be on this host. `id`: what the name has to stand for."""

    name: str
    pull: Pull = "missing"
    platform: str = ""
    id: str = ""


class WantedVolume(_Strict, frozen=True, kw_only=True):
    name: str
    state: Literal["absent", "present"] = "present"
    driver: str = "local"
    labels: dict[str, Scalar] | None = None


class WantedNetwork(_Strict, frozen=True, kw_only=True):
    """A user-defined bridge network. One that exists is kept as it is."""

    name: str
    state: Literal["absent", "present"] = "present"
    driver: str = "bridge"
    internal: bool = False
    labels: dict[str, Scalar] | None = None


class Healthcheck(_Strict, frozen=True, kw_only=True):
    """Durations like "1m30s" or seconds as a number. test: a shell command, a list for exec, or "NONE"."""

    test: str | list[str] | None = None
    interval: str | float | None = None
    timeout: str | float | None = None
    start_period: str | float | None = None
    start_interval: str | float | None = None
    retries: int | None = None


class WantedContainer(_Strict, frozen=True, kw_only=True):
    name: str
    state: State = "started"
    image: str | None = None
    image_id: str = ""  # what `image` has to stand for; a dry run believes it before the image has arrived
    pull: Pull = "missing"
    recreate: Literal["auto", "always", "never"] = "auto"
    order: Literal["auto", "start-first", "stop-first"] = "auto"  # how a replacement takes place
    wait: bool = True  # until healthy (running for a moment without a health check)
    wait_timeout: float = 60
    drain_timeout: float = 30  # for connections still open to a replaced container
    command: str | list[str] | None = None
    entrypoint: str | list[str] | None = None
    env: dict[str, Scalar] | list[str] | None = None
    labels: dict[str, Scalar] | None = None
    ports: list[str | int] | None = None
    exposed_ports: list[str | int] | None = None
    volumes: list[str] | None = None
    tmpfs: list[str] | None = None
    mounts: list[dict[str, Any]] | None = None  # Docker's HostConfig.Mounts entries
    network_mode: str | None = None
    hostname: str | None = None
    domainname: str | None = None
    user: str | None = None
    working_dir: str | None = None
    memory: str | int | None = None
    memory_reservation: str | int | None = None
    memory_swap: str | int | None = None
    cpus: float | str | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids_limit: int | None = None
    shm_size: str | int | None = None
    restart_policy: Literal["no", "on-failure", "always", "unless-stopped"] | None = None
    restart_retries: int | None = None
    healthcheck: Healthcheck | None = None
    privileged: bool | None = None
    read_only: bool | None = None
    init: bool | None = None
    tty: bool | None = None
    interactive: bool | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    security_opts: list[str] | None = None
    groups: list[str] | None = None
    devices: list[str] | None = None
    sysctls: dict[str, Scalar] | None = None
    dns_servers: list[str] | None = None
    dns_search_domains: list[str] | None = None
    etc_hosts: dict[str, str] | None = None
    stop_signal: str | None = None
    stop_timeout: int | None = None
    log_driver: str | None = None
    log_options: dict[str, Scalar] | None = None
    auto_remove: bool | None = None
    config: dict[str, Any] | None = None  # Docker's create body; options above win over it


class Scope(_Strict, frozen=True, kw_only=True):
    """The part of the host that this request speaks for: containers with the label `key` or `key=value`."""

    label: str
    prune: bool = False


class ApplyRequest(_Strict, frozen=True, kw_only=True):
    dry_run: bool = False
    images: list[WantedImage] = []
    volumes: list[WantedVolume] = []
    networks: list[WantedNetwork] = []
    containers: list[WantedContainer] = []
    scope: Scope | None = None


def parse_request(data: bytes) -> ApplyRequest:
    """Raises InvalidArgument naming the field; also for a container that is named twice."""
    try:
        request = msgspec.json.decode(data or b"{}", type=ApplyRequest)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise InvalidArgument("invalid apply request", detail=str(cause)) from cause
    for kind in (request.images, request.volumes, request.networks, request.containers):
        seen: set[str] = set()
        for wanted in kind:
            if not wanted.name:
                raise InvalidArgument("invalid apply request", detail="an object without a name")
            if wanted.name in seen:
                raise InvalidArgument("invalid apply request", detail=f"{wanted.name} is wanted twice")
            seen.add(wanted.name)
    if request.scope and not request.scope.label:
        raise InvalidArgument("invalid apply request", detail="a scope needs a label")
    return request
