"""What may be pushed as a manifest, and what a registry has to know of it. Pure.

Wider than `oci.manifest`, which judges images that are to run here: a registry takes any artifact whose envelope is
one of the four media types.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from longshore.errors import InvalidArgument
from longshore.oci.descriptor import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
)
from longshore.oci.digest import Digest, parse_digest
from longshore.registry.server.refusals import Code, Refused

MAX_MANIFEST = 4 << 20  # bytes; spec.md, Pushing Manifests: at least 4 megabytes have to be taken
_MAX_ENTRIES = 50_000

ACCEPTED = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_MANIFEST_LIST)
# Layers that may stay where their `urls` say (image-spec layer.md, Non-Distributable Layers)
_FOREIGN = (
    "application/vnd.oci.image.layer.nondistributable.",
    "application/vnd.docker.image.rootfs.foreign.",
)


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    media_type: str = ""
    urls: list[str] | None = None


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: _Descriptor | None = None
    layers: Annotated[list[_Descriptor], msgspec.Meta(max_length=_MAX_ENTRIES)] | None = None
    manifests: Annotated[list[_Descriptor], msgspec.Meta(max_length=_MAX_ENTRIES)] | None = None
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Target:
    """Something a manifest names and that has to be in the repository."""

    digest: Digest
    size: int
    is_manifest: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A manifest that may be stored. `subject` is "" when there is none; it need not exist."""

    media_type: str
    targets: tuple[Target, ...]
    subject: str = ""
    artifact_type: str = ""
    annotations: dict[str, str] | None = None


def judge(data: bytes, content_type: str) -> Judged:
    """Decode and judge what a client pushes. Raises Refused MANIFEST_INVALID."""
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise _invalid(str(cause)) from cause
    kind = _kind_of(document, content_type.partition(";")[0].strip().lower())
    targets = tuple(_targets(document, kind))
    subject = _digest(document.subject, "subject") if document.subject else None
    return Judged(
        media_type=kind,
        targets=targets,
        subject=str(subject or ""),
        artifact_type=_artifact_type(document),
        annotations=document.annotations,
    )


def _kind_of(document: _Document, announced: str) -> str:
    """The media type that header and document agree on: a document read in two ways is CVE-2021-41190."""
    if document.schema_version == 1 or document.fs_layers is not msgspec.UNSET:
        raise _invalid("schema 1 is not taken any more; push the image again with a newer tool")
    if document.schema_version != 2:
        raise _invalid(f"schemaVersion {document.schema_version} is not 2")
    if document.manifests is not None and (document.layers is not None or document.config is not None):
        raise _invalid("it has both manifests and layers")
    if announced and announced not in ACCEPTED:
        raise _invalid(f"Content-Type {announced[:100]!r} is none of {', '.join(ACCEPTED)}")
    if announced and document.media_type and document.media_type != announced:
        raise _invalid(f"announced as {announced}, but its mediaType is {document.media_type[:100]!r}")
    kind = announced or document.media_type or (OCI_INDEX if document.manifests is not None else OCI_MANIFEST)
    if kind in INDEX_TYPES and document.manifests is None:
        raise _invalid("an index without a list of manifests")
    if kind in MANIFEST_TYPES and (document.config is None or document.layers is None):
        raise _invalid("a manifest without config or layers")
    if kind not in ACCEPTED:
        raise _invalid(f"mediaType {kind[:100]!r} is none of {', '.join(ACCEPTED)}")
    return kind


def _targets(document: _Document, kind: str) -> Iterator[Target]:
    if kind in INDEX_TYPES:
        for entry in document.manifests or ():
            yield Target(_digest(entry, "manifests"), entry.size, is_manifest=True)
        return
    if document.config is not None:
        yield Target(_digest(document.config, "config"), document.config.size, is_manifest=False)
    for layer in document.layers or ():
        digest = _digest(layer, "layers")
        if not (layer.urls and layer.media_type.startswith(_FOREIGN)):
            yield Target(digest, layer.size, is_manifest=False)


def _digest(descriptor: _Descriptor, field: str) -> Digest:
    try:
        return parse_digest(descriptor.digest)
    except InvalidArgument as cause:
        raise _invalid(f"field {field}: {cause.detail or cause.what}") from cause


def _artifact_type(document: _Document) -> str:
    """Its own, else the config's media type; an index without one has none (spec.md, Listing Referrers)."""
    if document.artifact_type or document.config is None:
        return document.artifact_type
    return document.config.media_type


def _invalid(why: str) -> Refused:
    return Refused(Code.MANIFEST_INVALID, why)


def referrer_entry(
    judged_type: str, digest: str, size: int, artifact_type: str, annotations: Any
) -> dict[str, Any]:
    """The descriptor of a referrer, as the referrers API lists it."""
    entry: dict[str, Any] = {"mediaType": judged_type, "digest": digest, "size": size}
    if artifact_type:
        entry["artifactType"] = artifact_type
    if annotations:
        entry["annotations"] = annotations
    return entry
