"""All points of the suite, in the order of the endpoints."""

from tests.suites.registry import points_lists, points_manifests, points_pull, points_push
from tests.suites.registry.wire import POINTS, Point

assert points_pull and points_push and points_manifests and points_lists  # importing them registers


def all_points() -> list[Point]:
    """Each once; names are unique."""
    names = [each.name for each in POINTS]
    assert len(names) == len(set(names)), "two points of one name"
    return sorted(POINTS, key=lambda each: (each.endpoint == "catalog", _number(each.endpoint)))


def _number(endpoint: str) -> tuple[int, str]:
    digits = "".join(letter for letter in endpoint if letter.isdigit())
    return (int(digits), endpoint) if digits else (99, endpoint)
