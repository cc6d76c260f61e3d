"""What a push carries, as values. Needs no HTTP client, whose import costs the daemon's start 150 ms. Pure."""

from dataclasses import dataclass

from longshore.oci.descriptor import Descriptor
from longshore.oci.reference import Reference

MAX_MOUNTS = 3  # repositories that are tried for one blob


@dataclass(frozen=True, slots=True)
class Blob:
    descriptor: Descriptor
    sources: tuple[str, ...] = ()  # paths of repositories of the same registry that should have it
    shown: bool = True  # configs travel silently


@dataclass(frozen=True, slots=True)
class Cargo:
    """All of one image. `manifests`: what is named before what names it; the last one gets the tag."""

    blobs: tuple[Blob, ...]
    manifests: tuple[Descriptor, ...]


def scopes(reference: Reference, cargo: Cargo) -> list[str]:
    """What a token has to allow: to write here, and to read where blobs are mounted from. Pure."""
    sources = sorted({source for blob in cargo.blobs for source in blob.sources[:MAX_MOUNTS]})
    return [
        f"repository:{reference.path}:pull,push",
        *(f"repository:{source}:pull" for source in sources if source != reference.path),
    ]
