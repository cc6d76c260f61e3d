"""What builds keep on the disk, for `system df`, and its pruning: `docker builder prune`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from longshore.build.cache import Record
from longshore.build.mount_store import CacheFolder
from longshore.build.workshop import Workshop
from longshore.core.clock import parse_moment
from longshore.core.filters import boolean, check_filters

FILTERS = frozenset(
    {"description", "id", "inuse", "parent", "parents", "private", "shared", "type", "unused-for", "until"}
)


@dataclass(frozen=True, slots=True)
class Usage:
    """One entry of the cache. `id` is stable; `shared`: an image has the files, too, so removing it frees nothing."""

    id: str
    parent: str
    type: str  # regular, exec.cachemount
    description: str
    in_use: bool
    shared: bool
    size: int  # bytes
    created: float  # seconds since 1970, as `used`
    used: float
    uses: int

    def view(self) -> dict[str, object]:
        """As GET /system/df has it."""
        return {
            "ID": self.id,
            "Parent": self.parent,
            "Parents": [self.parent] if self.parent else None,
            "Type": self.type,
            "Description": self.description,
            "InUse": self.in_use,
            "Shared": self.shared,
            "Size": self.size,
            "CreatedAt": _rfc3339(self.created),
            "LastUsedAt": _rfc3339(self.used),
            "UsageCount": self.uses,
        }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


async def usage(workshop: Workshop) -> list[Usage]:
    """Everything the cache has, newest first. A layer that several entries share counts with the newest."""
    seen: set[str] = set()
    found = [_of_record(workshop, record, seen) for record in workshop.cache.records()]
    for folder in workshop.mounts.folders():
        found.append(await _of_folder(workshop, folder))
    return sorted(found, key=lambda entry: entry.created, reverse=True)


def _of_record(workshop: Workshop, record: Record, seen: set[str]) -> Usage:
    layer = record.layer
    fresh = layer is not None and str(layer.diff_id) not in seen
    if layer is not None:
        seen.add(str(layer.diff_id))
    return Usage(
        record.key[:25],
        record.parent[:25],
        record.kind,
        record.description,
        workshop.cache.in_use(record),
        workshop.cache.shared(record),
        layer.size if layer and fresh else 0,
        record.created,
        record.used,
        record.uses,
    )


async def _of_folder(workshop: Workshop, folder: CacheFolder) -> Usage:
    size = await workshop.mounts.size(folder.name)
    in_use = workshop.mounts.in_use(folder.name)
    return Usage(
        folder.name[:25], "", "exec.cachemount", folder.description, in_use, False, size, folder.created,
        folder.used, folder.uses,
    )  # fmt: skip


async def prune(
    workshop: Workshop, filters: Mapping[str, Sequence[str]], *, every: bool, keep: int = 0
) -> tuple[list[str], int]:
    """Remove what is not in use: (ids, bytes freed). Not `every`: only what no image has, too.

    `keep`: leave this many bytes, of what was used last. Raises InvalidArgument for an unknown filter.
    """
    given = check_filters(filters, FILTERS)
    entries = sorted(await usage(workshop), key=lambda entry: entry.used)
    chosen = [entry for entry in entries if not entry.in_use and (every or not entry.shared) and _fits(entry, given)]
    total = sum(entry.size for entry in entries if not entry.shared)
    removed: list[Usage] = []
    for entry in chosen:
        if keep and total <= keep:
            break
        removed.append(entry)
        total -= 0 if entry.shared else entry.size
    ids = {entry.id for entry in removed}
    records = [record for record in workshop.cache.records() if record.key[:25] in ids]
    workshop.cache.forget(records)
    if every and not given and not keep:
        workshop.cache.forget_moments()
    freed = 0
    for folder in workshop.mounts.folders():
        if folder.name[:25] in ids:
            freed += await workshop.mounts.remove(folder.name)
    freed += await workshop.engine.images.shelf.collect()
    return [entry.id for entry in removed], freed


def _fits(entry: Usage, given: Mapping[str, Sequence[str]]) -> bool:
    def texts(name: str, value: str) -> bool:
        return not given.get(name) or any(wanted in value for wanted in given[name])

    until = [*given.get("until", ()), *given.get("unused-for", ())]
    if until and entry.used * 1e9 > min(parse_moment(value, "until") for value in until):
        return False
    states = {"inuse": entry.in_use, "shared": entry.shared, "private": not entry.shared}
    for name, value in states.items():
        wanted = boolean(given.get(name, ()), name)
        if wanted is not None and wanted != value:
            return False
    return (
        texts("id", entry.id)
        and texts("parent", entry.parent)
        and texts("parents", entry.parent)
        and texts("type", entry.type)
        and texts("description", entry.description)
    )
