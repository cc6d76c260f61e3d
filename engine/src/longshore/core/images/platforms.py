"""The other platforms of an image: shown, and given up one by one. Pure."""

from collections.abc import Sequence

from longshore.core.images.model import Image, Layer
from longshore.errors import Conflict
from longshore.oci.descriptor import Platform
from longshore.oci.digest import Digest, parse_digest
from longshore.oci.image_config import ImageConfig, RootFS
from longshore.oci.variants import Variant, choose


def foreign_image(one: Variant, shown: Image) -> Image:
    """An image that was never unpacked here, with the names of the one that was."""
    config = one.config or ImageConfig(one.platform.architecture, one.platform.os, RootFS())
    layers = tuple(
        Layer(descriptor, parse_digest(diff_id), descriptor.size)
        for descriptor, diff_id in zip(one.parts[1:], config.rootfs.diff_ids, strict=False)
    )
    return Image(
        id=one.image_id,
        config=config,
        raw_config=one.raw_config,
        layers=layers,
        manifest=one.descriptor,
        size=sum(layer.size for layer in layers),
        created=config.created,
        references=shown.references,
        tags=shown.tags,
        digests=shown.digests,
    )


def plan_drop(found: Sequence[Variant], platforms: Sequence[Platform], name: str, id: Digest) -> list[str]:
    """Digests of the manifests to give up, with what attests them. Raises NotFound, Conflict for the one in use."""
    gone: list[str] = []
    for platform in platforms:
        one = choose(found, platform, name)
        if one.image_id == id:
            raise Conflict(
                f"conflict: unable to delete {id.short} (cannot be forced) - {platform} is the platform that {name} runs on",
                hint="remove the image as a whole",
            )
        gone.append(one.descriptor.digest)
    return [*gone, *(one.descriptor.digest for one in found if one.attests in gone)]
