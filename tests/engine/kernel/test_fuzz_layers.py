"""The first examples of `make suites-fuzz-images`; ten minutes of it are the suite's."""

from collections import Counter

import pytest
from tests.suites.fuzz_images.__main__ import campaign
from tests.suites.fuzz_images.layers import BASES, check, layers


def test_layers_that_nobody_would_write() -> None:
    count, seen, failure = campaign("layers", layers(), check, 60, 1, 40, rounds=1)
    assert not failure, failure
    assert count >= 40
    assert seen["applied"] and seen.total() > seen["applied"]


@pytest.mark.parametrize("number", range(len(BASES)))
def test_the_seeds(number: int) -> None:
    check(BASES[number], Counter())
