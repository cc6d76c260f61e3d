"""One container takes the host ports of another one while both run."""

from longshore.core.containers.container import Container
from longshore.core.containers.parts import Parts
from longshore.errors import Conflict


def succeed(parts: Parts, new: Container, old: Container) -> None:
    """Before `new` starts: host ports that `old` holds wait for `hand_over` instead of being refused."""
    if new.running:
        raise Conflict(f"container {new.name} runs already and cannot become a successor")
    new.record.successor_of = old.id
    parts.store.save(new)


async def hand_over(parts: Parts, old: Container, new: Container) -> None:
    """New connections to the ports that `new` waits for go to it from one instant on; open ones stay with `old`.

    All ports or none. Twice is fine, and so is a pair without ports. Raises Conflict when `new` does not run.
    """
    first, second = sorted((old, new), key=lambda container: container.id)  # one order everywhere
    async with first.lock, second.lock:
        for name, mine in new.record.endpoints.items():
            theirs = old.record.endpoints.get(name)
            if theirs is None or not mine.waiting:
                continue
            moved = await parts.network.hand_over(theirs, mine, *mine.waiting)
            old.record.endpoints[name], new.record.endpoints[name] = moved
        new.record.successor_of = ""
        parts.store.save(old, new)  # both or neither: a port has one owner
