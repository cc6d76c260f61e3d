"""The first examples of `make suites-fuzz-images`; ten minutes of each are the suite's."""

import pytest
from tests.suites.fuzz_images.__main__ import run


@pytest.mark.parametrize(("kind", "examples"), [("references", 150), ("registries", 10)])
def test_the_first_examples(kind: str, examples: int) -> None:
    count, seen, failure = run(kind, 60, 1, examples, rounds=1)
    assert not failure, failure
    assert count >= examples
    assert len(seen) > 1
