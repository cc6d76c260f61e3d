"""Images as values, and what `Images` needs from a registry client."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest
from longshore.oci.image_config import ImageConfig
from longshore.oci.reference import Reference

if TYPE_CHECKING:
    from longshore.core.images.intake import Intake
    from longshore.registry.auth import Credentials
    from longshore.registry.cargo import Cargo
    from longshore.registry.client import Described, Pulled
    from longshore.registry.listing import SearchResult
    from longshore.storage.content import ContentStore

Progress = Callable[[dict[str, object]], None]
"""Gets Docker's progress messages, in the thread of the event loop."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the packed blob and the digest of the tar inside it."""

    descriptor: Descriptor
    diff_id: Digest
    size: int = 0  # unpacked bytes


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it was at one moment; ask `Images` again rather than keep it."""

    id: Digest  # digest of the config, as in classic Docker
    config: ImageConfig
    raw_config: bytes
    layers: tuple[Layer, ...]  # oldest first
    manifest: Descriptor
    size: int  # unpacked bytes of all layers
    created: str  # RFC 3339; "" when the config does not say
    parent: Digest | None = None  # only of images committed or built here
    references: tuple[str, ...] = ()  # canonical: "docker.io/library/busybox:latest", "…@sha256:…"
    tags: tuple[str, ...] = ()  # familiar: "busybox:latest" (RepoTags)
    digests: tuple[str, ...] = ()  # familiar: "busybox@sha256:…" (RepoDigests)
    hidden: bool = False  # removed by force while containers used it; goes with the last of them
    config_blob: Digest | None = None  # what the manifest calls the config, where that is not its sha256
    tagged: str = ""  # RFC 3339: when it was named here the last time; "" when it never was


class Puller(Protocol):
    """A registry client.

    `progress` of `pull` gets Docker's messages up to "Download complete", Images adds the rest. Every blob that the
    result names is in the sink then, and verified; see registry.client.Sink.
    """

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str = "",
        auth: "Credentials | None" = None,
        sink: "Intake",
        progress: "Callable[[Mapping[str, object]], None]",
    ) -> "Pulled": ...

    async def push(
        self,
        reference: Reference,
        cargo: "Cargo",
        *,
        auth: "Credentials | None" = None,
        content: "ContentStore",
        progress: "Callable[[Mapping[str, object]], None]",
    ) -> None: ...

    async def lacks(
        self, reference: Reference, manifests: Sequence[Descriptor], *, auth: "Credentials | None" = None
    ) -> list[Descriptor]: ...

    async def tags(self, reference: Reference, *, auth: "Credentials | None" = None) -> list[str]: ...

    async def search(
        self, term: str, *, limit: int, auth: "Credentials | None" = None
    ) -> "Sequence[SearchResult]": ...

    def download(self, url: str) -> AsyncGenerator[bytes]: ...

    async def describe(self, reference: Reference, *, auth: "Credentials | None" = None) -> "Described": ...

    async def login(self, credentials: "Credentials") -> None: ...


class Holder(Protocol):
    """Somebody besides the catalogue who needs blobs and layers. May be asked from any thread."""

    def uses_blob(self, digest: Digest) -> bool: ...

    def uses_layer(self, diff_id: Digest) -> bool: ...


class Publisher(Protocol):
    """The part of the event bus that images use."""

    def publish(
        self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None
    ) -> object: ...
