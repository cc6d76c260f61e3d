import os
import subprocess
from pathlib import Path

import pytest

from longshore.runtime import records
from longshore.runtime.messages import Exited
from longshore.runtime.records import RunState


def test_an_exit_record_comes_back(tmp_path: Path) -> None:
    path = str(tmp_path / "exit")
    record = Exited(137, "2026-01-02T03:04:05.000000006Z", oom_killed=True, error="x")
    assert records.read_exit(path) is None
    records.write_exit(path, record)
    records.write_exit(path, record)
    assert records.read_exit(path) == record
    assert [p.name for p in tmp_path.iterdir()] == ["exit"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"type":"exited"}', b"\0\0\0"])
def test_a_torn_exit_record_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "exit").write_bytes(content)
    assert records.read_exit(str(tmp_path / "exit")) is None


def test_state_is_replaced_and_cleaned(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    for started in ("", "now"):
        state = RunState("id", 1, 2, 3, 4, "/longshore/x", started_at=started)
        records.write_state(str(folder), state)
        assert records.read_state(str(folder)) == state
    records.clean_state(str(folder))
    records.clean_state(str(folder))
    assert not folder.exists()
    assert records.read_state(str(folder)) is None


def test_a_foreign_file_in_the_state_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    records.clean_state(str(tmp_path))
    assert (tmp_path / "other").exists()


def test_a_process_is_found_by_pid_and_start_time_only() -> None:
    process = subprocess.Popen(["sleep", "100"])
    try:
        start = records.start_time(process.pid)
        assert start is not None
        pidfd = records.open_process(process.pid, start)
        assert pidfd is not None
        os.close(pidfd)
        assert records.open_process(process.pid, start + 1) is None
    finally:
        process.kill()
        process.wait()
    assert records.start_time(process.pid) is None
    assert records.open_process(process.pid, start) is None
