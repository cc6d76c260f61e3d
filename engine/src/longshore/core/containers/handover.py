"""Published ports that pass from a container to its successor without a refused connection."""

from longshore.core.containers.container import Container
from longshore.core.containers.parts import Parts
from longshore.errors import Conflict


async def hand_over(parts: Parts, old: Container, new: Container) -> None:
    """Move all ports that `new` waits for, or none. Twice is fine. Raises Conflict when one of them does not run."""
    first, second = sorted((old, new), key=lambda container: container.id)
    async with first.lock, second.lock:
        if new.record.successor_of != old.id:
            return  # done already
        target = next((one for one in new.record.endpoints.values() if one.waiting), None)
        if target is not None:
            source = old.record.endpoints.get(target.network)
            if source is None or not new.running:
                raise Conflict(f"container {old.id if source is None else new.id} is not running")
            source, target = await parts.network.hand_over(source, target, *target.waiting)
            old.record.endpoints[source.network] = source
            new.record.endpoints[target.network] = target
        new.record.successor_of = ""
        parts.store.save(old, new)
