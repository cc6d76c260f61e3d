"""What a push sends: which blobs and manifests, in which order, and where a registry may take them from instead."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import msgspec

from longshore.errors import InvalidArgument, NotFound
from longshore.oci.descriptor import INDEX_TYPES, Descriptor
from longshore.oci.digest import Digest
from longshore.oci.reference import Reference, parse_reference
from longshore.oci.variants import Variant
from longshore.registry.cargo import Blob, Cargo


@dataclass(frozen=True, slots=True)
class Shipment:
    """One name to push. `instead_of`: the index of which only one platform can be sent."""

    target: Descriptor
    cargo: Cargo
    instead_of: Descriptor | None = None


def names_to_push(name: str, tag: str, references: Iterable[str]) -> list[Reference]:
    """The tags that `docker push` means: one, or all of a repository for an empty `tag`. Pure.

    Raises InvalidArgument for a digest, NotFound when the repository has none of it here.
    """
    wanted = parse_reference(name)
    if wanted.digest:
        raise InvalidArgument("cannot push a digest reference", detail=name)
    if tag:
        wanted = parse_reference(f"{wanted.name}:{tag}")
    known = [parse_reference(text) for text in references]
    found = [one for one in known if one.name == wanted.name and one.tag and wanted.tag in (None, one.tag)]
    if not found:
        raise NotFound(
            f"An image does not exist locally with the tag: {wanted.familiar}",
            hint="docker tag gives an image another name",
        )
    return sorted(found, key=str)


def plan_shipment(
    target: Descriptor,
    variants: Sequence[Variant],
    fallback: Variant,
    elsewhere: Collection[str],
    sources: Callable[[Digest], tuple[str, ...]],
) -> Shipment:
    """What to send for a target. Pure.

    `fallback`: the one manifest to send when an index is not here as a whole; `elsewhere`: digests of manifests
    that the repository has already, so that their content is not needed here.
    """
    if target.media_type not in INDEX_TYPES:
        # The name's own manifest, which need not be the one that the image came with last
        own = next((variant for variant in variants if variant.available), fallback)
        return Shipment(own.descriptor, _cargo([own], None, sources))
    here = [variant for variant in variants if variant.available]
    lacking = [v for v in variants if not v.available and v.descriptor.digest not in elsewhere]
    if lacking:
        return Shipment(fallback.descriptor, _cargo([fallback], None, sources), target)
    return Shipment(target, _cargo(here, target, sources))


def _cargo(
    variants: Sequence[Variant], index: Descriptor | None, sources: Callable[[Digest], tuple[str, ...]]
) -> Cargo:
    blobs: dict[str, Blob] = {}
    for variant in variants:
        for place, part in enumerate(variant.parts):
            blobs.setdefault(part.digest, Blob(part, sources(part.blob), shown=place > 0))
    manifests = [variant.descriptor for variant in variants]
    return Cargo(tuple(blobs.values()), (*manifests, *([index] if index else [])))


def sources_for(
    target: Reference, references: Iterable[str], parts: Callable[[str], Collection[Digest]]
) -> Callable[[Digest], tuple[str, ...]]:
    """Which repositories of the target's registry should have a blob. Pure but for `parts`.

    A name with a digest tells that the image was pulled from there or pushed to there. The nearest come first: who
    may write to a/b may most likely read a/c.
    """
    found: dict[Digest, set[str]] = {}
    for text in references:
        reference = parse_reference(text)
        if reference.digest and reference.domain == target.domain and reference.path != target.path:
            for digest in parts(text):
                found.setdefault(digest, set()).add(reference.path)

    def nearness(path: str) -> tuple[int, str]:
        pairs = zip(path.split("/"), target.path.split("/"), strict=False)
        return -len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))), path

    return lambda digest: tuple(sorted(found.get(digest, ()), key=nearness))


def pushed_messages(tag: str, shipment: Shipment) -> list[dict[str, object]]:
    """The last messages of a push, for people and for programs. Pure."""
    target, messages = shipment.target, list[dict[str, object]]()
    if shipment.instead_of:
        note = (
            "Not all multiplatform-content is present and only the available single-platform image was pushed"
        )
        messages.append({"status": note})
        told = {
            "manifestPushedInsteadOfIndex": True,
            "originalIndex": msgspec.to_builtins(shipment.instead_of),
            "selectedManifest": msgspec.to_builtins(target),
        }
        messages.append({"progressDetail": {}, "aux": told})
    messages.append({"status": f"{tag}: digest: {target.digest} size: {target.size}"})
    aux = {"Tag": tag, "Digest": target.digest, "Size": target.size}
    return [*messages, {"progressDetail": {}, "aux": aux}]
