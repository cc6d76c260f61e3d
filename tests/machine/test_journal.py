"""A create goes on where it stopped."""

from pathlib import Path

import pytest

from pymachine.errors import DriverError
from pymachine.journal import Journal, Step, run_steps


def _run(journal: Journal, ran: list[str], *, fail: str = "") -> None:
    def step(name: str) -> Step:
        def run() -> None:
            ran.append(name)
            if name == fail:
                raise DriverError("no")

        return Step(name, name, run)

    run_steps(
        [step("a"), step("b"), step("c")],
        journal,
        before=lambda _: None,
        after=lambda s: ran.append(f"save {s.name}"),
    )


def test_only_what_is_not_done_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    assert not journal.exists
    journal.begin({"driver": "x"})
    first: list[str] = []
    with pytest.raises(DriverError):
        _run(journal, first, fail="b")
    assert first == ["a", "save a", "b"]

    again = Journal(path)  # another process
    assert again.exists
    assert again.request == {"driver": "x"}
    assert again.completed == ("a",)
    second: list[str] = []
    _run(again, second)
    assert second == ["b", "save b", "c", "save c"]
    again.finish()
    assert not path.exists()


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_torn_line_counts_as_not_done_and_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.begin({})
    journal.record("a")
    journal.record("b")
    path.write_bytes(path.read_bytes()[:-cut])
    torn = Journal(path)
    assert torn.completed == ("a",)
    torn.record("c")
    assert Journal(path).completed == ("a", "c")
