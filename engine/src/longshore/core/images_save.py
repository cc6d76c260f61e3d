"""What `docker save` writes: which images under which names, with all their platforms or one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from longshore.core.images_model import Image
from longshore.errors import InvalidArgument
from longshore.oci.descriptor import OCI_CONFIG, Descriptor, Platform
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Content, choose, variants, walk
from longshore.storage.archive import Saved


@dataclass(slots=True)
class Choice:
    """One target with the names that it is saved under."""

    image: Image
    target: Descriptor
    names: dict[Reference, None] = field(default_factory=dict[Reference, None])


def choose_images(
    wanted: Iterable[str],
    images: Sequence[Image],
    get: Callable[[str], Image],
    target: Callable[[str], Descriptor],
) -> list[Choice]:
    """A repository without a tag means all of its tags. Raises what `get` raises."""
    found: dict[str, Choice] = {}
    for name in wanted:
        for image, tags in _named(name, images, get):
            document = target(tags[0].canonical) if tags else image.manifest
            choice = found.setdefault(document.digest, Choice(image, document))
            choice.names.update(dict.fromkeys(tags))
    return list(found.values())


def _named(
    name: str, images: Sequence[Image], get: Callable[[str], Image]
) -> list[tuple[Image, tuple[Reference, ...]]]:
    try:
        reference = parse_reference(name)
    except InvalidArgument:
        return [(get(name), ())]
    if not reference.tag and not reference.digest:
        parsed = [(image, parse_reference(tag)) for image in images for tag in image.tags]
        if found := [(image, (tag,)) for image, tag in parsed if tag.name == reference.name]:
            return found
    image = get(name)
    by_name = reference.canonical in image.references and not reference.digest
    return [(image, (reference.with_default_tag(),) if by_name else ())]


def plan_saved(choice: Choice, content: Content, platform: Platform | None) -> Saved:
    """Everything that is here of a target. Blocks. Raises NotFound for a platform that is not."""
    image, names = choice.image, tuple(choice.names)
    if platform is not None:
        shown = names[0].familiar if names else str(image.id)
        one = choose(variants(choice.target, content), platform, shown)
        return Saved(one.descriptor, one.parts[0], one.parts[1:], names)
    config = Descriptor(OCI_CONFIG, str(image.id), len(image.raw_config))
    layers = tuple(layer.descriptor for layer in image.layers)
    more = tuple(part for part in walk(choice.target, content) if content.has(part.blob))
    return Saved(choice.target, config, layers, names, more)
