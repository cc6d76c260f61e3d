"""Every point of tests/suites/registry against `longshore registry serve`, started as users start it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.suites.registry.points import all_points
from tests.suites.registry.servers import ours
from tests.suites.registry.wire import Point, Registry, Repository


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder: Path = tmp_path_factory.mktemp("registry")
    with ours(folder) as address:
        client = Registry(address)
        yield client
        client.close()
    assert "defect" not in (folder / "log").read_text()


@pytest.mark.parametrize("point", all_points(), ids=lambda point: f"{point.endpoint}-{point.name}")
def test_point(point: Point, registry: Registry) -> None:
    point.check(Repository(registry))
