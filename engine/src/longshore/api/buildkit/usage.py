"""`buildx du` and `buildx prune`: what builds keep on the disk, and removing it."""

from collections.abc import Sequence

from longshore.api.buildkit.contexts import LOCAL
from longshore.api.buildkit.messages_control import PruneRequest, UsageRecord
from longshore.api.buildkit.solving import Kit
from longshore.api.buildkit.wire import Timestamp
from longshore.build import usage
from longshore.build.workshop import workshop_of
from longshore.errors import InvalidArgument


async def records(kit: Kit, filters: Sequence[str]) -> list[UsageRecord]:
    """Steps, cache mounts and contexts of clients. Raises InvalidArgument for a filter that is not known."""
    entries = [*await usage.usage(workshop_of(kit.engine)), *kit.contexts.usage()]
    found = (
        UsageRecord(
            id=entry.id,
            in_use=entry.in_use,
            size=entry.size,
            parents=[entry.parent] if entry.parent else [],
            created_at=_time(entry.created),
            last_used_at=_time(entry.used),
            usage_count=entry.uses,
            description=entry.description,
            record_type=entry.type,
            shared=entry.shared,
            mutable=entry.type in (LOCAL, "exec.cachemount"),
        )
        for entry in entries
    )
    return [record for record in found if _matches(record, filters)]


async def prune(kit: Kit, request: PruneRequest) -> list[UsageRecord]:
    """Remove what no build uses now, and return it.

    Without `all` only what no image has. With a limit or a duration the last used stay. Raises InvalidArgument.
    """
    before = await records(kit, [])
    chosen = [record for record in before if not record.in_use and _matches(record, request.filter)]
    if request.keep_duration:
        newest = max((_seconds(record) for record in before), default=0)
        chosen = [record for record in chosen if newest - _seconds(record) > request.keep_duration / 1e9]
    contexts = [] if request.reserved_space else [each for each in chosen if each.record_type == LOCAL]
    kit.contexts.forget(record.id for record in contexts)
    ids = [record.id for record in chosen if record.record_type != LOCAL]
    if not ids:
        return contexts
    gone, _ = await usage.prune(
        workshop_of(kit.engine), {"id": ids}, every=request.all, keep=request.reserved_space
    )
    return [*contexts, *(record for record in chosen if record.id in gone)]


def _seconds(record: UsageRecord) -> int:
    return record.last_used_at.seconds if record.last_used_at else 0


def _time(seconds: float) -> Timestamp:
    return Timestamp.of(int(seconds * 1_000_000_000))


def _matches(record: UsageRecord, filters: Sequence[str]) -> bool:
    """All filters hold: containerd's `field==value`, `field!=value`, `field~=value`, several joined by commas."""
    return all(_holds(record, part) for filter in filters for part in filter.split(",") if part)


def _holds(record: UsageRecord, text: str) -> bool:
    for operator in ("==", "!=", "~="):
        name, found, wanted = text.partition(operator)
        if found:
            value = _field(record, name.strip())
            wanted = wanted.strip().strip('"')
            if operator == "~=":
                return wanted in value
            return (value == wanted) is (operator == "==")
    return _field(record, text.strip()) == "true"


def _field(record: UsageRecord, name: str) -> str:
    fields = {
        "id": record.id,
        "type": record.record_type,
        "description": record.description,
        "mutable": str(record.mutable).lower(),
        "immutable": str(not record.mutable).lower(),
        "inuse": str(record.in_use).lower(),
        "shared": str(record.shared).lower(),
        "private": str(not record.shared).lower(),
    }
    if name not in fields:
        raise InvalidArgument(f"unknown filter {name!r}", hint=f"known are {', '.join(fields)}")
    return fields[name]
