"""Progress lines of a pull, in the words that the docker CLI draws its bars from. Pure."""

from collections.abc import Callable, Mapping

from longshore.oci.units import human_size

Progress = Callable[[Mapping[str, object]], None]


def bar(current: int, total: int) -> str:
    """`[====>    ]  12MB/34MB`, for clients that print the text as it comes."""
    if total <= 0:
        return human_size(current)
    filled = min(50, current * 50 // total)
    arrow = "=" * filled + (">" if filled < 50 else "")
    return f"[{arrow:<50}]  {human_size(current)}/{human_size(total)}"


def moving(status: str, identity: str, current: int, total: int) -> dict[str, object]:
    return {
        "status": status,
        "progressDetail": {"current": current, "total": total},
        "progress": bar(current, total),
        "id": identity,
    }


def standing(status: str, identity: str) -> dict[str, object]:
    return {"status": status, "progressDetail": {}, "id": identity}
