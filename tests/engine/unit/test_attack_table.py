"""The page of attacks tells of the tests that there are."""

import pytest
from tests.engine.attack_table import PAGE, ROWS, WITHOUT, attacks, page

EVERY = list(attacks())


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test_or_a_reason(row: int) -> None:
    assert any(attack.row == row for attack in EVERY) != (row in WITHOUT)


@pytest.mark.parametrize("attack", EVERY, ids=[attack.name for attack in EVERY])
def test_every_attack_says_which_engine_it_fails_on(attack: object) -> None:
    assert attack.row in ROWS  # type: ignore[attr-defined]
    assert attack.reason, "its docstring lacks a sentence that begins with: Fails when, with or without"  # type: ignore[attr-defined]


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.engine.attack_table --write"
