"""Machine drivers, found by the entry point group `pymachine.drivers`."""

from importlib.metadata import EntryPoint, entry_points

from pymachine.drivers.base import Driver
from pymachine.errors import InvalidInput, Unsupported

GROUP = "pymachine.drivers"

# Ours are known without their metadata too, so that a source tree works before it is installed.
_BUILT_IN = {
    "generic": "pymachine.drivers.generic:GenericDriver",
    "local": "pymachine.drivers.local:LocalDriver",
    "none": "pymachine.drivers.none:NoneDriver",
}


def names() -> list[str]:
    """All drivers that can be asked for."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> type[Driver]:
    """The driver's class. InvalidInput when there is none of that name."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    point = points.get(name)
    if point is None:
        if name not in _BUILT_IN:
            raise InvalidInput(f"there is no driver {name!r}", hint=f"known are {', '.join(names())}")
        point = EntryPoint(name, _BUILT_IN[name], GROUP)
    try:
        found = point.load()
    except (ImportError, AttributeError) as cause:
        raise Unsupported(
            f"the driver {name!r} cannot be loaded from {point.value}", detail=str(cause)
        ) from cause
    if not (isinstance(found, type) and issubclass(found, Driver)):
        raise Unsupported(f"the driver {name!r} ({point.value}) is not a pymachine driver")
    return found
