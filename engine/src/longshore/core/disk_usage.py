"""Where every byte of the data root is: allocated blocks by what they are for; the lines add up to what du(1) says."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from longshore.core.storage_check import Stores
from longshore.errors import InvalidArgument
from longshore.oci.digest import parse_digest
from longshore.storage.leases import digest_of

_BLOCK = 512  # st_blocks of stat(2)
_PRUNE = "longshore image prune"
_BUILDER = "longshore system prune"


@dataclass(frozen=True, slots=True)
class Share:
    """`size`: bytes on the disk. `free_by`: the command that gives them back, "" when they are needed."""

    what: str
    path: str  # relative to the data root
    size: int
    count: int
    free_by: str = ""


_TOP: dict[str, tuple[str, str, str]] = {
    "content/ingest": ("being written now", "content/ingest", ""),
    "content/holds": ("notes on held blobs", "content/holds", ""),
    "layers/meta": ("notes on layers", "layers/meta", ""),
    "snapshots": ("files that containers have written", "snapshots", "longshore container prune"),
    "containers": ("logs and state of containers", "containers", "longshore container prune"),
    "build": ("cache mounts and work of builds", "build", _BUILDER),
    "registries": ("registries inside the daemon", "registries", ""),
    "volumes": ("volumes", "volumes", "longshore volume prune"),
}


def usage(root: Path, stores: Stores) -> list[Share]:
    """All of it, the largest first, and the sum as the last line. Blocks; what vanishes meanwhile does not count."""
    sizes: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[tuple[str, str, str]] = Counter()
    seen: set[tuple[int, int]] = set()
    judge = _judge(stores)
    layers: dict[str, tuple[str, str, str]] = {}
    for path, size, depth_name in _walk(root, seen):
        key = judge(path, layers)
        sizes[key] += size
        counts[key] += depth_name
    shares = [Share(*key[:2], size, counts[key], key[2]) for key, size in sizes.most_common()]
    total = Share("all of it", ".", sum(share.size for share in shares), sum(s.count for s in shares))
    return [*shares, total]


def _walk(root: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """(parts of the path, allocated bytes, 1 for a file): hard links once, no other file systems (overlays)."""
    top = root.stat()
    yield (), top.st_blocks * _BLOCK, 0
    pending: list[tuple[str, tuple[str, ...]]] = [(str(root), ())]
    while pending:
        folder, parts = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != top.st_dev:
                        continue
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    is_folder = stat.S_ISDIR(status.st_mode)
                    yield (*parts, entry.name), status.st_blocks * _BLOCK, 0 if is_folder else 1
                    if is_folder:
                        pending.append((entry.path, (*parts, entry.name)))
        except OSError:  # gone meanwhile, or nested deeper than a path name can tell
            continue


def _judge(
    stores: Stores,
) -> "Callable[[tuple[str, ...], dict[str, tuple[str, str, str]]], tuple[str, str, str]]":
    """Which line a path belongs to."""
    names = {stores.layers.name(diff_id): diff_id for diff_id in stores.layers.list()}

    def blob(parts: tuple[str, ...]) -> tuple[str, str, str]:
        try:
            digest = parse_digest(f"{parts[2]}:{parts[3]}")
        except (InvalidArgument, IndexError):
            return ("folders of the content store", "content/blobs", "")
        if stores.catalog.uses_blob(digest):
            return ("images as they came and are sent on", "content/blobs", "")
        if stores.users.uses_blob(digest):
            return ("build cache, packed", "content/blobs", _BUILDER)
        if stores.content.keeps(digest):
            return ("blobs that are kept for an operation or a while", "content/blobs", _PRUNE)
        return ("blobs that nothing needs", "content/blobs", "longshore doctor --repair")

    def layer(name: str) -> tuple[str, str, str]:
        diff_id = names.get(name)
        if diff_id is None:
            return ("layers being unpacked or deleted", "layers/unpacked", "")
        if stores.catalog.uses_layer(diff_id) or stores.layers.keeps(diff_id):
            return ("images unpacked", "layers/unpacked", "")
        if stores.users.uses_layer(diff_id):
            return ("build cache, unpacked", "layers/unpacked", _BUILDER)
        return ("layers that nothing needs", "layers/unpacked", "longshore doctor --repair")

    def partial(parts: tuple[str, ...]) -> tuple[str, str, str]:
        try:
            digest_of(parts[2])
        except (InvalidArgument, IndexError):
            return ("folders of the content store", "content/partial", "")
        return ("halves of interrupted pulls", "content/partial", _PRUNE)

    def judge(parts: tuple[str, ...], layers: dict[str, tuple[str, str, str]]) -> tuple[str, str, str]:
        top = "/".join(parts[:2])
        if top == "content/blobs":
            return blob(parts)
        if top == "content/partial":
            return partial(parts)
        if top == "layers/unpacked" and len(parts) > 2:
            if parts[2] not in layers:
                layers[parts[2]] = layer(parts[2])
            return layers[parts[2]]
        if parts and parts[0].startswith("longshore.db"):
            if parts[0].endswith(".reserve"):
                return ("space kept free for the state database", parts[0], "")
            return ("state database", "longshore.db", "")
        return _TOP.get(top) or _TOP.get(parts[0] if parts else "") or ("folders and other files", ".", "")

    return judge
