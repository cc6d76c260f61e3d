"""Descriptors, platforms and media types (OCI image spec: descriptor.md, media-types.md)."""

import platform
from typing import Annotated

import msgspec

from longshore.errors import InvalidArgument
from longshore.oci.digest import Digest, parse_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
LAYER_TYPES = frozenset(
    {OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, DOCKER_LAYER, DOCKER_LAYER_GZIP, f"{DOCKER_LAYER}.zstd"}
)

DigestText = Annotated[str, msgspec.Meta(pattern=r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$")]


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a piece of content is, how long it is and its digest. Decoding checks digest and size."""

    media_type: str
    digest: DigestText
    size: Annotated[int, msgspec.Meta(ge=0)]
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str = ""

    @property
    def blob(self) -> Digest:
        """The digest as a value, the key in the content store."""
        return parse_digest(self.digest)


_SYSTEMS = ("aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd", "openbsd",
            "plan9", "solaris", "wasip1", "windows")  # fmt: skip
_ARCHITECTURES = ("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
                  "riscv64", "s390x", "sparc64", "wasm")  # fmt: skip
_ALIASES = {"i386": "386", "x86-64": "amd64", "armhf": "arm", "armel": "arm"}
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
}


def host_platform() -> Platform:
    """The platform of this machine in Go's names (linux/amd64)."""
    machine = platform.machine()
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(architecture=architecture, os="linux", variant=variant)


def decode_platform(text: str) -> Platform | None:
    """A platform as the API takes it since 1.46, `{"os": …, "architecture": …}`, or as people write it; None for "".

    Raises InvalidArgument.
    """
    if not text.startswith("{"):
        return parse_platform(text) if text else None
    try:
        platform = msgspec.json.decode(text, type=Platform)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidArgument("failed to parse platform", detail=str(cause)) from cause
    if not platform.os or not platform.architecture:
        raise InvalidArgument("failed to parse platform", detail="both os and architecture must be provided")
    return platform


def parse_platform(text: str) -> Platform:
    """`os/arch[/variant]`, `arch` or `os` alone; "" is this machine. Raises InvalidArgument."""
    host = host_platform()
    if not text:
        return host
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument("invalid platform", detail=f"{text!r} is not os/arch[/variant]")
    aliases = _ALIASES | {name: architecture for name, (architecture, _) in _MACHINES.items()}
    if len(parts) == 1:
        if parts[0] == host.os:
            return host
        if parts[0] in _SYSTEMS:
            return Platform(architecture=host.architecture, os=parts[0], variant=host.variant)
        if aliases.get(parts[0], parts[0]) not in _ARCHITECTURES:
            raise InvalidArgument(f"invalid platform: {text!r}: unknown operating system or architecture")
        parts = [host.os, parts[0]]
    architecture = aliases.get(parts[1], parts[1])
    variant = parts[2] if len(parts) == 3 else ""
    return Platform(architecture=architecture, os=parts[0], variant=variant)
