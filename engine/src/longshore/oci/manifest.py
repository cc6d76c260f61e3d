"""Image manifests and indexes, OCI and Docker v2 schema 2 (which have the same shape).

What cannot be an image is refused here: a manifest is never larger than 4 MiB (what registries
accept too) and has at most 125 layers, Docker's limit, which also keeps the overlay mount inside the one
page that mount(2) takes.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from longshore.errors import InvalidArgument, NotFound, Unsupported
from longshore.oci.descriptor import (
    INDEX_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Platform,
)

MAX_MANIFEST = 4 << 20
MAX_LAYERS = 125


class Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One image: its config and its layers, oldest first."""

    schema_version: int
    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""
    annotations: dict[str, str] | None = None
    artifact_type: str = ""
    subject: Descriptor | None = None


class Index(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Several manifests, usually one per platform."""

    schema_version: int
    manifests: Annotated[list[Descriptor], msgspec.Meta(max_length=10_000)]
    media_type: str = ""
    annotations: dict[str, str] | None = None

    def choose(self, wanted: Platform) -> Descriptor:
        """The manifest for a platform; an entry without a platform fits when it is the only one.

        Raises NotFound naming what there is instead.
        """
        candidates = [m for m in self.manifests if m.media_type in MANIFEST_TYPES | INDEX_TYPES]
        fitting = [m for m in candidates if m.platform and _fits(m.platform, wanted)]
        if fitting:
            return max(fitting, key=lambda m: _variant(m.platform or wanted))  # the first of equal ones
        if len(candidates) == 1 and (candidates[0].platform is None or not candidates[0].platform.os):
            return candidates[0]
        offered = sorted({str(m.platform) for m in candidates if m.platform and m.platform.os != "unknown"})
        raise NotFound(
            f"no matching manifest for {wanted} in the manifest list entries",
            detail=f"it offers {', '.join(offered) or 'nothing that runs'}",
        )


# What an architecture without a variant means (containerd's platforms package, "Normalization")
_USUAL = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


def _variant(platform: Platform) -> tuple[str, bool]:
    """To compare: v8.1 is more than v8; of two that mean the same, the one that says so."""
    return platform.variant or _USUAL.get(platform.architecture, ""), bool(platform.variant)


def _fits(offered: Platform, wanted: Platform) -> bool:
    """A machine runs what was made for its own variant and for older ones, never the other way round."""
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    return _variant(offered)[0] <= _variant(wanted)[0]


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Decode and judge a manifest or an index.

    `media_type` is what the transport said; the document's own mediaType, where given, has to agree
    (a document that is both, read one way by us and another way by a peer, is the attack of
    CVE-2021-41190). Raises InvalidArgument or Unsupported.
    """
    if len(data) > MAX_MANIFEST:
        raise InvalidArgument("manifest too large", detail=f"{len(data)} bytes, the limit is {MAX_MANIFEST}")
    try:
        probe = msgspec.json.decode(data, type=_Probe)
        kind = _kind_of(probe, media_type.partition(";")[0].strip())
        if kind in INDEX_TYPES:
            return msgspec.json.decode(data, type=Index)
        return _judged(msgspec.json.decode(data, type=Manifest))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidArgument("invalid manifest", detail=str(cause)) from cause


class _Probe(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def _kind_of(probe: _Probe, media_type: str) -> str:
    if probe.schema_version == 1 or probe.fs_layers is not msgspec.UNSET:
        raise Unsupported(
            "unsupported manifest", detail="schema 1", hint="push the image again with a newer tool"
        )
    if probe.manifests is not msgspec.UNSET and probe.layers is not msgspec.UNSET:
        raise InvalidArgument("invalid manifest", detail="it has both manifests and layers")
    kind = media_type if media_type in MANIFEST_TYPES | INDEX_TYPES else ""
    if kind and probe.media_type and probe.media_type != kind:
        raise InvalidArgument(
            "invalid manifest", detail=f"announced as {kind}, but its mediaType is {probe.media_type[:100]}"
        )
    kind = kind or probe.media_type or (OCI_INDEX if probe.manifests is not msgspec.UNSET else OCI_MANIFEST)
    if kind not in MANIFEST_TYPES | INDEX_TYPES:
        raise Unsupported("unsupported manifest media type", detail=kind[:200])
    return kind


def _judged(manifest: Manifest) -> Manifest:
    if manifest.schema_version != 2:
        raise InvalidArgument("invalid manifest", detail=f"schemaVersion {manifest.schema_version}")
    if len(manifest.layers) > MAX_LAYERS:
        raise InvalidArgument(
            "max depth exceeded", detail=f"{len(manifest.layers)} layers, the limit is {MAX_LAYERS}"
        )
    for layer in manifest.layers:
        if layer.media_type not in LAYER_TYPES:
            raise Unsupported("unsupported layer media type", detail=layer.media_type[:200])
    return manifest


class _Parts(msgspec.Struct, rename="camel"):
    config: Descriptor | None = None
    layers: list[Descriptor] = []
    manifests: list[Descriptor] = []


def parts_of(data: bytes) -> list[Descriptor]:
    """Everything that a manifest or index is made of; nothing where it cannot be read.

    More patient than `parse_manifest`: attestations and other artifacts, which no container runs from, have parts too.
    """
    try:
        parts = msgspec.json.decode(data, type=_Parts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    return [*([parts.config] if parts.config else []), *parts.layers, *parts.manifests]


def build_manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """The OCI manifest of an image made here. Equal input gives equal bytes."""
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=msgspec.structs.replace(config, media_type=OCI_CONFIG),
        layers=list(layers),
    )
    return msgspec.json.encode(manifest)
