"""What a client asks of one build."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.registry.auth import Credentials


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Names and meanings of POST /build. A build argument that is None takes the Dockerfile's default."""

    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str = ""
    no_cache: bool = False
    cache_from: tuple[str, ...] = ()  # where given, only steps of these images are taken from the cache
    pull: bool = False
    remove: bool = True
    force_remove: bool = False
    quiet: bool = False
    platform: str = ""
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    credentials: Mapping[str, Credentials] = field(default_factory=dict[str, Credentials])  # by registry host
