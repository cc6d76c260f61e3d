"""What stands behind a name that serves several platforms: the index, its manifests, and what of them is here.

Docker's words for it are those of the API's `Manifests` (https://docs.docker.com/reference/api/engine/, ImageInspect).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec

from longshore.errors import InvalidArgument, NotFound, Unsupported
from longshore.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor, Platform
from longshore.oci.digest import Digest, sha256_of
from longshore.oci.image_config import ImageConfig, parse_image_config
from longshore.oci.manifest import MAX_MANIFEST, Index, Manifest, parse_manifest, parts_of

_ATTESTED = "vnd.docker.reference.digest"
_PREDICATE = "in-toto.io/predicate-type"


class Content(Protocol):
    """The part of the content store that is asked here."""

    def has(self, digest: Digest) -> bool: ...
    def read(self, digest: Digest, limit: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Variant:
    """One manifest of a target. `manifest` and `config` are None for what is not here or is no image."""

    descriptor: Descriptor
    kind: str  # "image", "attestation" or "unknown"
    platform: Platform
    parts: tuple[Descriptor, ...] = ()  # config and layers
    missing: tuple[Descriptor, ...] = ()  # of the parts, and the manifest itself when that is not here
    manifest: Manifest | None = None
    config: ImageConfig | None = None
    raw_config: bytes = b""

    @property
    def available(self) -> bool:
        return not self.missing

    @property
    def image_id(self) -> Digest:
        """What the engine calls the image, whatever algorithm the manifest names its config by."""
        return sha256_of(self.raw_config)

    @property
    def attests(self) -> str:
        """The digest of the manifest that an attestation speaks of."""
        return (self.descriptor.annotations or {}).get(_ATTESTED, "")


def read_document(content: Content, digest: Digest) -> bytes | None:
    """None for what is not here, or is no document at all."""
    try:
        return content.read(digest, MAX_MANIFEST)
    except (NotFound, InvalidArgument, Unsupported):
        return None


def closure(target: Descriptor, content: Content, dropped: Collection[str] = ()) -> frozenset[Digest]:
    """All that a target is made of, itself included, as far as its documents are here."""
    return frozenset(part.blob for part in walk(target, content, dropped))


def walk(target: Descriptor, content: Content, dropped: Collection[str] = ()) -> Iterator[Descriptor]:
    """A target and its parts, each once, documents before what they name. `dropped`: manifests that were given up."""
    seen: set[str] = set()  # an index may name another one ten thousand times
    pending = [target]
    while pending:
        part = pending.pop()
        if part.digest in seen or part.digest in dropped:
            continue
        seen.add(part.digest)
        yield part
        if part.media_type in MANIFEST_TYPES | INDEX_TYPES:
            pending += reversed(parts_of(read_document(content, part.blob) or b""))


def variants(target: Descriptor, content: Content) -> list[Variant]:
    """The manifests behind a target, in the order of their index."""
    found: list[Variant] = []
    seen: set[str] = set()
    pending = [target]
    while pending:
        part = pending.pop()
        if part.digest in seen:
            continue
        seen.add(part.digest)
        if part.media_type in INDEX_TYPES:
            pending += reversed(parts_of(read_document(content, part.blob) or b""))
        elif part.media_type in MANIFEST_TYPES:
            found.append(_variant(part, content))
    return found


def _variant(descriptor: Descriptor, content: Content) -> Variant:
    platform = descriptor.platform or Platform()
    data = read_document(content, descriptor.blob)
    if platform.os == "unknown" or _ATTESTED in (descriptor.annotations or {}):
        kind = "attestation" if _ATTESTED in (descriptor.annotations or {}) else "unknown"
        return _judged(Variant(descriptor, kind, platform), data, content)
    try:
        manifest = parse_manifest(data, descriptor.media_type) if data else None
    except (InvalidArgument, Unsupported):
        return _judged(Variant(descriptor, "unknown", platform), data, content)
    if not isinstance(manifest, Manifest):
        return Variant(descriptor, "image", platform, missing=(descriptor,))
    raw = read_document(content, manifest.config.blob) or b""
    try:
        config = parse_image_config(raw) if raw else None
    except InvalidArgument:
        return _judged(Variant(descriptor, "unknown", platform), data, content)
    if config and not platform.os:
        platform = Platform(config.architecture, config.os, config.variant)
    image = Variant(descriptor, "image", platform, manifest=manifest, config=config, raw_config=raw)
    return _judged(image, data, content)


def _judged(variant: Variant, data: bytes | None, content: Content) -> Variant:
    """With its parts, and what of them is missing."""
    if data is None:
        return replace(variant, missing=(variant.descriptor,))
    parts = tuple(parts_of(data))
    return replace(variant, parts=parts, missing=tuple(part for part in parts if not _has(content, part)))


def _has(content: Content, part: Descriptor) -> bool:
    try:
        return content.has(part.blob)
    except Unsupported:
        return False


def choose(found: Sequence[Variant], wanted: Platform, name: str) -> Variant:
    """The image for a platform, which has to be here as a whole. Raises NotFound in Docker's words."""
    images = [variant for variant in found if variant.kind == "image" and variant.available]
    entries = [msgspec.structs.replace(v.descriptor, platform=v.platform) for v in images]
    try:
        digest = Index(2, entries).choose(wanted).digest
    except NotFound as cause:
        raise NotFound(
            f"image with reference {name} was found but does not provide the specified platform ({wanted})"
        ) from cause
    return next(variant for variant in images if variant.descriptor.digest == digest)


def attestations_of(found: Sequence[Variant], image: Variant) -> list[tuple[str, Descriptor]]:
    """(predicate type, descriptor) of the in-toto statements about an image that are here. Pure."""
    speaking = [one for one in found if one.attests == image.descriptor.digest and one.available]
    named = [((part.annotations or {}).get(_PREDICATE, ""), part) for one in speaking for part in one.parts]
    return [(kind, part) for kind, part in named if kind]
