"""The image configuration (OCI image spec: config.md) with Docker's additional fields.

Go writes null for an empty list or map, so those are `| None` here. Stored configs stay the bytes they
are; only configs of images made here are encoded, and those hold no field we do not know.
"""

import msgspec

from longshore.errors import InvalidArgument
from longshore.oci.manifest import MAX_MANIFEST


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Durations in nanoseconds; 0 means inherit or default. `test` starts with NONE, CMD or CMD-SHELL."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerDefaults(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """What a container gets unless the user says otherwise: the object "config" of an image."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    exposed_ports: dict[str, dict[str, object]] | None = None  # "80/tcp" -> {}
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, dict[str, object]] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class RootFS(msgspec.Struct, frozen=True):
    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """`created` is RFC 3339 in UTC. `config` is never None after `parse_image_config`."""

    architecture: str
    os: str
    rootfs: RootFS
    created: str = ""
    author: str = ""
    variant: str = ""
    config: ContainerDefaults | None = None
    history: list[History] | None = None
    docker_version: str = ""
    parent: str = ""
    os_version: str = msgspec.field(default="", name="os.version")

    @property
    def defaults(self) -> ContainerDefaults:
        return self.config or ContainerDefaults()

    def encode(self) -> bytes:
        """The bytes of a config made here; equal values give equal bytes."""
        return msgspec.json.encode(self)


def parse_image_config(data: bytes) -> ImageConfig:
    """Decode and judge. Unknown fields are ignored. Raises InvalidArgument."""
    if len(data) > MAX_MANIFEST:
        raise InvalidArgument(
            "image config too large", detail=f"{len(data)} bytes, the limit is {MAX_MANIFEST}"
        )
    try:
        config = msgspec.json.decode(data, type=ImageConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidArgument("invalid image config", detail=str(cause)) from cause
    if config.rootfs.type != "layers":
        raise InvalidArgument("invalid image config", detail=f"rootfs type {config.rootfs.type[:50]!r}")
    return config if config.config else msgspec.structs.replace(config, config=ContainerDefaults())
