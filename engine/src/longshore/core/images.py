"""Images as users know them."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from longshore.core.database import Database
from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest
from longshore.oci.image_config import ImageConfig
from longshore.oci.reference import Reference
from longshore.storage.content import ContentStore
from longshore.storage.layers import LayerStore

Progress = Callable[[dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the packed blob and the digest of the tar inside it."""

    descriptor: Descriptor
    diff_id: Digest


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
    hidden: bool = field(default=False)  # removed by force while containers use it


@dataclass(frozen=True, slots=True)
class RegistryAuth:
    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""
    server_address: str = ""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a registry gave; every blob it names is in the content store and verified."""

    manifest: bytes
    descriptor: Descriptor  # of `manifest`
    config: bytes
    layers: tuple[Descriptor, ...]
    digest: Digest | None = None  # what the reference resolved to (the index's digest where there is one)


class Puller(Protocol):
    """A registry client. `progress` gets Docker's dicts up to "Download complete"; Images adds the rest."""

    async def pull(
        self,
        reference: Reference,
        *,
        platform: str,
        auth: RegistryAuth | None,
        sink: ContentStore,
        progress: Progress,
    ) -> Pulled: ...


class Images:
    in_use: Callable[[Digest], list[str]]  # ids of the containers of an image; set by core.containers
    running: Callable[[Digest], list[str]]  # of those, the running ones

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        layers: LayerStore,
        events: object,
        registry: Puller | None = None,
    ) -> None: ...

    def get(self, name: str) -> Image:
        """By reference, id or unique id prefix. Raises NotFound("No such image: …")."""
        ...

    def list(
        self, filters: Mapping[str, Sequence[str]] | None = None, *, all: bool = True
    ) -> list[Image]: ...

    def rootfs(self, image: Image) -> tuple[str, ...]:
        """Names of the unpacked layers for OverlayRoot.lowers, newest first. Never empty."""
        ...

    async def ensure_unpacked(self, image: Image) -> None: ...

    async def pull(
        self,
        reference: str,
        *,
        platform: str = "",
        auth: RegistryAuth | None = None,
        progress: Progress,
    ) -> Image: ...

    async def load(self, chunks: AsyncIterable[bytes], progress: Progress) -> list[Image]: ...

    def save(self, names: Sequence[str]) -> AsyncIterator[bytes]: ...

    async def import_(
        self,
        chunks: AsyncIterable[bytes],
        reference: str = "",
        changes: Sequence[str] = (),
        message: str = "",
    ) -> Image: ...

    async def add(
        self,
        config: bytes,
        layers: Sequence[Descriptor],
        manifest: bytes | None = None,
        *,
        references: Sequence[str] = (),
    ) -> Image:
        """Register an image whose blobs are in the store. Raises NotFound naming missing blobs."""
        ...

    async def commit(
        self,
        parent: Image | None,
        upper: Path | None,
        config: ImageConfig,
        *,
        created_by: str = "",
        comment: str = "",
        author: str = "",
    ) -> Image:
        """A new image: the parent's layers and history, plus one layer (none when `upper` is None or empty).

        Of `config` counts everything but `rootfs` and `history`, which are computed here.
        """
        ...

    def tag(self, name: str, reference: str) -> None: ...

    async def remove(self, name: str, *, force: bool = False, prune: bool = True) -> list[dict[str, str]]: ...

    def history(self, name: str) -> list[dict[str, object]]: ...

    async def prune(
        self, filters: Mapping[str, Sequence[str]] | None = None
    ) -> tuple[list[dict[str, str]], int]: ...

    async def collect(self) -> int:
        """Remove blobs and layers that no image, lease or hold needs; returns the bytes freed."""
        ...
