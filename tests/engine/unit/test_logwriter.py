import contextlib
import gzip
import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.runtime import logrotate
from longshore.runtime.logentries import PARTIAL, JsonFormat, format_time
from longshore.runtime.logentries import plan_entries as plan
from longshore.runtime.logwriter import LogWriter
from longshore.runtime.messages import LogTarget

STAMP = "2026-01-02T03:04:05.000000006Z"


def plan_entries(data: bytes, stream: str, stamp: str) -> tuple[bytes, bytes]:
    return plan(JsonFormat(), data, stream, stamp)


def go_text(data: bytes) -> str:
    """What Go's encoding/json makes of bytes: every byte that is no UTF-8 becomes one U+FFFD."""
    text, position = "", 0
    while position < len(data):
        for size in (1, 2, 3, 4):
            try:
                text += data[position : position + size].decode()
                break
            except UnicodeDecodeError:
                continue
        else:
            text, size = text + "\ufffd", 1
        position += size
    return text


def test_an_entry_is_byte_for_byte_dockers() -> None:
    entries, rest = plan_entries(b"hello\n", "stdout", STAMP)
    assert entries == b'{"log":"hello\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}\n'
    assert rest == b""


@pytest.mark.parametrize(
    ("line", "encoded"),
    [
        (b"", b""),
        (b'a","b', b'a\\",\\"b'),
        (b"back\\", b"back\\\\"),
        (b"\\n", b"\\\\n"),
        (b"<a> & b", b"\\u003ca\\u003e \\u0026 b"),
        (b"cr\r", b"cr\\r"),
        (b"nul\0", b"nul\\u0000"),
        ("ü€😀".encode(), "ü€😀".encode()),
        ("\u2028\u2029".encode(), b"\\u2028\\u2029"),
        (b"\xff\xe2\x82x", "\ufffd\ufffd\ufffdx".encode()),
    ],
)
def test_escapes(line: bytes, encoded: bytes) -> None:
    entries, _ = plan_entries(line + b"\n" + b"next\n", "stderr", STAMP)
    first, second = entries.splitlines()
    assert first == b'{"log":"' + encoded + b'\\n","stream":"stderr","time":"' + STAMP.encode() + b'"}'
    assert json.loads(second)["log"] == "next\n"


@given(
    st.lists(st.binary(max_size=60) | st.just(b"\n") | st.just(b'","') | st.just(b"\xe2\x82\n"), max_size=20)
)
def test_any_output_comes_back_line_by_line(chunks: list[bytes]) -> None:
    output, rest = b"", b""
    for chunk in chunks:
        entries, rest = plan_entries(rest + chunk, "stdout", STAMP)
        output += entries
    data = b"".join(chunks)
    lines = [line + b"\n" for line in data.split(b"\n")[:-1]]
    assert [json.loads(line)["log"] for line in output.split(b"\n")[:-1]] == [go_text(line) for line in lines]
    assert rest == data.split(b"\n")[-1]


@pytest.mark.parametrize("length", [PARTIAL - 1, PARTIAL, PARTIAL + 1, 3 * PARTIAL, 3 * PARTIAL + 5])
@pytest.mark.parametrize("ended", [True, False])
def test_long_lines_are_cut_into_partial_entries(length: int, ended: bool) -> None:
    data = b"x" * length + (b"\n" if ended else b"")
    entries, rest = plan_entries(data, "stdout", STAMP)
    logs = [json.loads(line)["log"] for line in entries.splitlines()]
    assert "".join(logs).encode() + rest == data
    assert all(len(log.rstrip("\n")) <= PARTIAL for log in logs)
    assert [log.endswith("\n") for log in logs] == [False] * (len(logs) - ended) + [True] * ended
    assert len(rest) < PARTIAL


def test_a_cut_spares_utf8_sequences() -> None:
    data = b"x" + "€".encode() * PARTIAL + b"\n"
    entries, _ = plan_entries(data, "stdout", STAMP)
    assert "\ufffd" not in entries.decode()
    assert "".join(json.loads(line)["log"] for line in entries.splitlines()).encode() == data


def test_times_have_a_fixed_width_and_sort_like_texts() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000000Z"
    assert format_time(1_767_323_045_000_000_006) == STAMP
    assert format_time(999_999_999) < format_time(1_000_000_000)


def logs_of(path: Path) -> list[str]:
    return [json.loads(line)["log"] for line in path.read_text().splitlines()]


def test_streams_keep_their_own_unfinished_lines(tmp_path: Path) -> None:
    writer = LogWriter(LogTarget(str(tmp_path / "log")))
    writer.write("stdout", b"out")
    writer.write("stderr", b"err\nmore")
    writer.write("stdout", b"put\n")
    assert logs_of(tmp_path / "log") == ["err\n", "output\n"]
    writer.finish("stderr")
    writer.finish("stderr")
    writer.close()
    assert logs_of(tmp_path / "log") == ["err\n", "output\n", "more"]


def test_a_log_goes_on_where_the_last_run_ended_and_mends_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"one\\n","stream":"stdout","time":"' + STAMP.encode() + b'"}\n{"log":"tor')
    writer = LogWriter(LogTarget(str(path)))
    writer.write("stdout", b"two\n")
    writer.close()
    lines = path.read_bytes().splitlines()
    assert lines[1] == b'{"log":"tor'
    assert json.loads(lines[2])["log"] == "two\n"


@pytest.mark.parametrize("max_files", [1, 2, 4])
def test_rotation_keeps_the_newest_lines_within_the_limits(tmp_path: Path, max_files: int) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogTarget(str(path), max_size=1000, max_files=max_files))
    for block in range(20):
        writer.write("stdout", b"".join(b"line %d\n" % (block * 10 + n) for n in range(10)))
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", *(f"log.{n}" for n in range(1, max_files))]
    assert all(p.stat().st_size <= 1000 for p in tmp_path.iterdir())
    files = [path.with_name(f"log.{n}") for n in range(max_files - 1, 0, -1)] + [path]
    numbers = [int(log.split()[1]) for file in files for log in logs_of(file)]
    assert numbers == list(range(200 - len(numbers), 200))


def test_a_full_disk_loses_lines_but_leaves_no_half_entry(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogTarget(str(path)))
    writer.write("stdout", b"before\n")
    real = os.dup(writer._fd)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, writer._fd)
    writer.write("stdout", b"lost 1\nlost 2\n")
    os.dup2(real, writer._fd)
    writer.write("stdout", b"after\n")
    writer.close()
    os.close(real)
    os.close(full)
    assert writer.lost == 2
    assert logs_of(path) == ["before\n", "after\n"]


def test_every_time_is_rfc3339_with_nanoseconds(tmp_path: Path) -> None:
    writer = LogWriter(LogTarget(str(tmp_path / "log")))
    writer.write("stdout", b"a\nb\n")
    writer.close()
    for line in (tmp_path / "log").read_text().splitlines():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", json.loads(line)["time"])


def test_rotated_files_are_compressed_beside_the_output(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogTarget(str(path), max_size=3000, max_files=4, compress=True))
    for number in range(200):
        writer.write("stdout", b"line %d\n" % number)
        if number % 30 == 29:
            os.waitid(os.P_PID, writer._compressor, os.WEXITED | os.WNOWAIT) if writer._compressor else None
    writer.close()
    with contextlib.suppress(ChildProcessError):  # reaped by a writer that has started another
        os.waitpid(writer._compressor, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz", "log.3.gz"]
    texts = [gzip.decompress(path.with_name(f"log.{n}.gz").read_bytes()).decode() for n in (3, 2, 1)] + [
        path.read_text()
    ]
    numbers = [int(json.loads(line)["log"].split()[1]) for text in texts for line in text.splitlines()]
    assert numbers == list(range(200 - len(numbers), 200))


def test_a_compressor_that_is_about_to_end_is_followed_by_another(tmp_path: Path) -> None:
    """It has seen that nothing is left, but still exists when the last file of all is rotated."""
    writer = LogWriter(LogTarget(str(tmp_path / "log"), max_size=3000, max_files=3, compress=True))
    writer._compressor = os.fork() or os._exit(time.sleep(0.2) or 0)
    logrotate.compress_rotated(str(tmp_path / "log"), writer._done)  # in its place
    writer.write("stdout", b"line\n" * 60)
    writer.close()
    os.waitpid(writer._compressor, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1.gz"]


def test_what_a_killed_compressor_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for name in ("log", "log.1", "log.2", "log.3", "log.gz.77.new", "log.new"):
        (tmp_path / name).write_bytes(b"{}\n")
    LogWriter(LogTarget(str(path), max_size=3000, max_files=3, compress=True)).close()
    while any(not p.name.endswith(".gz") for p in tmp_path.iterdir() if p.name != "log"):
        time.sleep(0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz"]


def test_a_file_that_is_dropped_while_it_is_compressed_stays_dropped(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    for name in ("log", "log.1"):
        (tmp_path / name).write_bytes(b"{}\n")
    inode = (tmp_path / "log.1").stat().st_ino
    logrotate.rotate(path, 2)
    (tmp_path / "log.gz.new").write_bytes(b"")
    logrotate._replace(path, inode, f"{path}.gz.new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1"]


def test_a_stopped_holder_of_the_lock_does_not_stop_the_container(tmp_path: Path) -> None:
    held = logrotate.lock(str(tmp_path / "log"))
    writer = LogWriter(LogTarget(str(tmp_path / "log"), max_size=100, max_files=2))
    writer.write("stdout", b"one\n" * 3)
    writer.close()
    os.close(held)
    assert (tmp_path / "log.1").exists()
