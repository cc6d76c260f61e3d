"""Where a stage of a build stands: layers, configuration and history so far. Values only.

Nothing of it is registered as an image before the end. `shape` names everything but the times, so that a build whose
steps were all there before gives the very same image again.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from longshore.core.images.model import Image, Layer
from longshore.oci.descriptor import OCI_MANIFEST, Descriptor, Platform
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import ContainerDefaults, History, ImageConfig, RootFS


@dataclass(frozen=True, slots=True)
class Snapshot:
    """After one step. Equal steps on an equal base give an equal `shape`."""

    platform: Platform
    config: ContainerDefaults = ContainerDefaults()
    layers: tuple[Layer, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""  # RFC 3339, of the last step
    author: str = ""
    shape: str = "scratch"
    base: Digest | None = None  # the image at the bottom
    raw_config: bytes = b""  # of an image that nothing was added to

    @property
    def empty(self) -> bool:
        """FROM scratch, and no step yet."""
        return not self.history and self.base is None

    def image_config(self) -> ImageConfig:
        return ImageConfig(
            architecture=self.platform.architecture,
            os=self.platform.os,
            variant=self.platform.variant,
            os_version=self.platform.os_version,
            author=self.author,
            created=self.created,
            rootfs=RootFS(diff_ids=[str(layer.diff_id) for layer in self.layers]),
            config=self.config,
            history=list(self.history),
        )

    @property
    def id(self) -> str:
        """The id of the image that this would be; "" of an empty one."""
        return "" if self.empty else str(sha256_of(self.encoded()))

    def encoded(self) -> bytes:
        """The configuration as it will be stored."""
        return self.raw_config or self.image_config().encode()

    def root(self) -> str:
        """Names the files: equal for equal layers."""
        return hashlib.sha256(" ".join(str(layer.diff_id) for layer in self.layers).encode()).hexdigest()

    def image(self) -> Image:
        """As an image in no catalogue, to make a container of."""
        config = self.image_config()
        raw = self.encoded()
        return Image(
            id=sha256_of(raw),
            config=config,
            raw_config=raw,
            layers=self.layers,
            manifest=Descriptor(OCI_MANIFEST, str(sha256_of(b"")), 0),
            size=sum(layer.size for layer in self.layers),
            created=self.created,
        )

    def after(
        self, config: ContainerDefaults, created_by: str, layer: Layer | None, created: str, *, author: str = ""
    ) -> "Snapshot":
        """One step further; without a layer only the configuration has changed."""
        step = History(
            created=created, created_by=created_by, author=author or self.author, empty_layer=layer is None
        )
        return replace(
            self,
            config=config,
            layers=(*self.layers, layer) if layer else self.layers,
            history=(*self.history, step),
            created=created,
            author=author or self.author,
            raw_config=b"",
            shape=self.next_shape(config, created_by, layer),
        )

    def next_shape(self, config: ContainerDefaults, created_by: str, layer: Layer | None) -> str:
        parts = (self.shape, msgspec.json.encode(config), created_by, str(layer.diff_id) if layer else "")
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def of_image(image: Image) -> Snapshot:
    """What FROM gives."""
    config = image.config
    platform = Platform(config.architecture, config.os, config.variant, config.os_version)
    return Snapshot(
        platform,
        config.defaults,
        image.layers,
        tuple(config.history or ()),
        config.created,
        config.author,
        shape=str(image.id),
        base=image.id,
        raw_config=image.raw_config,
    )


def squashed(snapshot: Snapshot, base: Sequence[Layer], layer: Layer | None) -> Snapshot:
    """The same with one layer for everything above `base`, as `docker build --squash` has it."""
    history: list[History] = []
    kept = 0
    for step in snapshot.history:
        over = not step.empty_layer and kept >= len(base)
        kept += not step.empty_layer
        history.append(
            msgspec.structs.replace(step, empty_layer=True, comment=step.comment or "") if over else step
        )
    comment = "merge all layers above the base into one"
    step = History(created=snapshot.created, comment=comment, empty_layer=layer is None)
    return replace(
        snapshot, layers=(*base, layer) if layer else tuple(base), history=(*history, step), shape=""
    )
