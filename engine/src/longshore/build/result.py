"""What a build gives: images whose layers are in the store, not yet named, perhaps not even registered."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from longshore.build.events import Warned
from longshore.core.images.model import Layer
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import ImageConfig


@dataclass(frozen=True, slots=True)
class Built:
    """The image of one platform. Its layers are kept while the build is open; `store` keeps them for good."""

    platform: str  # "linux/amd64"
    raw_config: bytes  # the image's configuration, encoded; its digest is the image's id
    config: ImageConfig  # the same, decoded: rootfs and history complete
    layers: tuple[Layer, ...]  # oldest first
    parent: Digest | None = None  # the base image
    cache: bytes = b""  # what `--cache-to type=inline` adds to the configuration; in raw_config already

    @property
    def id(self) -> Digest:
        return sha256_of(self.raw_config)


@dataclass(frozen=True, slots=True)
class Result:
    """`built` has one image per platform of the options, in their order; never empty."""

    built: tuple[Built, ...]
    warnings: tuple[Warned, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    epoch: int | None = None  # SOURCE_DATE_EPOCH, for the times of exported files

    @property
    def only(self) -> Built:
        """The image of a build for one platform; of several the first."""
        return self.built[0]
