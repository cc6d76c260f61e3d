"""What goes when all logs together are too much."""

import asyncio
import os
from pathlib import Path

import pytest

from longshore.core.log_budget import Log, LogBudget, Piece, parse_budget, plan_removals, survey
from longshore.errors import InvalidArgument
from longshore.runtime import logrotate


def piece(log: str, size: int, written: int, *, current: bool = False) -> Piece:
    return Piece(log, written, size, written, current)


@pytest.mark.parametrize(
    ("text", "bytes"),
    [("0", 0), ("1m", 1 << 20), ("10%", 10_000_000), ("100%", 100_000_000), ("4g", 4 << 30)],
)
def test_budgets(text: str, bytes: int) -> None:
    assert parse_budget(text, 100_000_000) == bytes


def test_a_part_of_a_large_disk_is_bounded() -> None:
    assert parse_budget("10%", 10**15) == 4_000_000_000


@pytest.mark.parametrize("text", ["", "much", "0%", "101%", "10%x", "-1"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid log-budget"):
        parse_budget(text, 1)


def test_the_oldest_rotated_files_go_first_whoever_wrote_them() -> None:
    pieces = [
        piece("a", 10, 50, current=True), piece("a", 10, 40), piece("a", 10, 20),
        piece("b", 10, 60, current=True), piece("b", 10, 30), piece("b", 10, 10),
    ]  # fmt: skip
    assert plan_removals(pieces, 60) == []
    assert [(one.log, one.written) for one in plan_removals(pieces, 35)] == [("b", 10), ("a", 20), ("b", 30)]


def test_the_largest_that_are_written_follow() -> None:
    pieces = [piece("a", 10, 1, current=True), piece("b", 90, 2, current=True), piece("a", 5, 3)]
    assert [(one.log, one.size) for one in plan_removals(pieces, 20)] == [("a", 5), ("b", 90)]


def test_removing_begins_a_new_file_where_somebody_writes(tmp_path: Path) -> None:
    def write(path: Path, size: int) -> str:
        path.write_bytes(b"x" * (size - 1) + b"\n")
        return str(path)

    stopped, written = write(tmp_path / "stopped", 500), write(tmp_path / "written", 400)
    write(tmp_path / "written.1", 300)
    small = write(tmp_path / "small", 50)

    async def begin_anew() -> None:
        logrotate.rotate(written, 5)

    async def never() -> None:
        raise AssertionError

    logs = [Log(stopped, None), Log(written, begin_anew), Log(small, never)]
    asyncio.run(LogBudget(100, lambda: logs).enforce())
    assert sorted((path.name, path.stat().st_size) for path in tmp_path.iterdir()) == [
        ("small", 50), ("stopped", 0), ("written", 0),
    ]  # fmt: skip


def test_a_survey_finds_rotated_and_compressed_files(tmp_path: Path) -> None:
    for name in ("log", "log.1", "log.2.gz"):
        (tmp_path / name).write_bytes(b"12345")
    found = survey([str(tmp_path / "log"), str(tmp_path / "none")])
    assert [(one.size, one.current) for one in found] == [(5, False), (5, False), (5, True)]


def test_files_of_one_log_go_oldest_first_whatever_their_times_say(tmp_path: Path) -> None:
    for number, name in enumerate(("log.3", "log.2", "log.1", "log")):
        (tmp_path / name).write_bytes(b"12345")
        os.utime(tmp_path / name, (100 - number,) * 2)  # the clock was set back
    asyncio.run(LogBudget(10, lambda: [Log(str(tmp_path / "log"), None)]).enforce())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
