"""Unpacked layers by diff id, made and read by confined worker processes."""

from dataclasses import dataclass
from pathlib import Path

from longshore.oci.descriptor import Descriptor
from longshore.oci.digest import Digest
from longshore.storage.content import ContentStore


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may unpack to."""

    entries: int = 1_000_000
    size: int = 64 << 30


class LayerStore:
    """All calls block: run them in a thread."""

    def __init__(self, root: Path, content: ContentStore, limits: Limits | None = None) -> None: ...

    @property
    def directory(self) -> Path:
        """Where the layers are; the names below are relative to it (OverlayRoot.layers_dir)."""
        ...

    def has(self, diff_id: Digest) -> bool: ...

    def name(self, diff_id: Digest) -> str:
        """The layer's directory relative to `directory`: 24 characters, none of them special in mount options."""
        ...

    def unpack(self, blob: Digest, diff_id: Digest) -> None:
        """Make the layer's directory from a blob. Twice is fine. Compression is detected from the bytes.

        Raises InvalidArgument (bad tar, wrong diff id, limits), NotFound, OutOfSpace; nothing is left then.
        """
        ...

    def commit_upper(self, upper: Path) -> tuple[Descriptor, Digest]:
        """Store an overlay's upper directory as a layer, packed and unpacked; `upper` is only read."""
        ...

    def size(self, diff_id: Digest) -> int:
        """Bytes of the unpacked regular files. Raises NotFound."""
        ...

    def delete(self, diff_id: Digest) -> None: ...
