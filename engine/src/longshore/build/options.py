"""What a client asks of one build: every value, whichever door it came through."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.core.model import Ulimit


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One --cache-from or --cache-to: `type` is registry, local or inline, `attributes` are as the flag has them."""

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])  # ref, src, dest, mode …


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Names and meanings of POST /build and of `docker buildx build`.

    A build argument that is None takes the Dockerfile's default. Sizes are bytes.
    """

    dockerfile: str = "Dockerfile"
    tags: tuple[str, ...] = ()
    build_args: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    target: str = ""
    platforms: tuple[str, ...] = ()  # of the image; none: this machine's
    contexts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Named contexts: name -> "local:<name for Door.context>", "docker-image://<reference>", a git or HTTP URL."""
    remote: str = ""  # the main context is a git repository or a URL, with the Dockerfile unless the door has one
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()  # --no-cache-filter: names of stages
    cache_from: tuple[str, ...] = ()  # where given, only steps of these images are taken from the cache
    cache_imports: tuple[CacheEntry, ...] = ()
    cache_exports: tuple[CacheEntry, ...] = ()
    pull: bool = False
    check: bool = False  # only judge the Dockerfile: build.warnings is all there is
    squash: bool = False  # one layer of all that the Dockerfile adds to its base
    rewrite_timestamp: bool = False  # no file of a new layer is newer than SOURCE_DATE_EPOCH
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    entitlements: frozenset[str] = frozenset()  # "network.host": what RUN --network=host needs
    # of the containers that RUN uses
    network_mode: str = ""
    extra_hosts: tuple[str, ...] = ()  # "name:address"
    hostname: str = ""
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0  # microseconds, as cpu_quota
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    cgroup_parent: str = ""
    ulimits: tuple[Ulimit, ...] = ()
    security_options: tuple[str, ...] = ()
    @property
    def platform(self) -> str:
        """The first of `platforms`, "" for this machine's."""
        return self.platforms[0] if self.platforms else ""
