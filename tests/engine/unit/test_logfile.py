import asyncio
import contextlib
import errno
import gzip
import json
import os
import time
from pathlib import Path

import pytest
from tests.engine.log_lines import read_log

from longshore.kernel import inotify
from longshore.runtime import logrotate
from longshore.runtime.logfile import LogLine, LogWriter, format_time
from longshore.runtime.messages import LogTarget


def write_lines(path: Path, numbers: range, *, stream: str = "stdout", step: int = 1_000_000_000) -> None:
    with path.open("a") as file:
        for n in numbers:
            file.write(json.dumps({"log": f"{n}\n", "stream": stream, "time": format_time(n * step)}) + "\n")


async def collect(path: Path, **options: object) -> list[int]:
    return [int(line.data) async for line in read_log(str(path), **options)]  # type: ignore[arg-type]


async def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert await collect(tmp_path / "none") == []
    assert await collect(tmp_path / "no" / "folder") == []


async def test_a_line_has_its_stream_time_and_bytes(tmp_path: Path) -> None:
    writer = LogWriter(LogTarget(str(tmp_path / "log")))
    writer.write("stderr", "ü <x>\n".encode())
    writer.close()
    (line,) = [line async for line in read_log(str(tmp_path / "log"))]
    assert line == LogLine("stderr", line.time_text, "ü <x>\n".encode())


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(0, []), (1, [29]), (9, range(21, 30)), (10, range(20, 30)), (11, range(19, 30)), (99, range(30))],
)
async def test_tail_counts_across_rotated_files(tmp_path: Path, tail: int, expected: range) -> None:
    write_lines(tmp_path / "log.2", range(10))
    write_lines(tmp_path / "log.1", range(10, 20))
    write_lines(tmp_path / "log", range(20, 30))
    assert await collect(tmp_path / "log", tail=tail) == list(expected)


async def test_tail_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", range(20_000))
    for tail in (1, 2500, 7000, 19_999):
        assert await collect(tmp_path / "log", tail=tail) == list(range(20_000 - tail, 20_000))


async def test_since_and_until_are_inclusive(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", range(100))
    assert await collect(tmp_path / "log", since=10 * 10**9, until=20 * 10**9) == list(range(10, 21))
    assert await collect(tmp_path / "log", since=20 * 10**9 + 1, until=22 * 10**9 - 1) == [21]


async def test_streams_are_chosen_after_tail_as_docker_does(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", range(5), stream="stderr")
    write_lines(tmp_path / "log", range(5, 8), stream="stdout")
    assert await collect(tmp_path / "log", stdout=False) == [0, 1, 2, 3, 4]
    assert await collect(tmp_path / "log", stdout=False, tail=4) == [4]


async def test_broken_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_lines(path, range(2))
    with path.open("a") as file:
        file.write('{"log":"to\n\n')
    write_lines(path, range(2, 4))
    assert await collect(path) == [0, 1, 2, 3]


async def test_an_entry_without_its_end_waits_for_it(tmp_path: Path) -> None:
    path, end = tmp_path / "log", asyncio.Event()
    write_lines(path, range(1))
    entry = json.dumps({"log": "1\n", "stream": "stdout", "time": format_time(1)}) + "\n"
    path.open("a").write(entry[:10])
    task = asyncio.create_task(collect(path, follow=end))
    await asyncio.sleep(0.05)
    path.open("a").write(entry[10:])
    end.set()
    assert await task == [0, 1]


async def test_following_sees_lines_when_they_come_and_ends_with_the_container(tmp_path: Path) -> None:
    path, end = tmp_path / "log", asyncio.Event()
    write_lines(path, range(3))
    reader = read_log(str(path), follow=end, tail=1)
    assert (await anext(reader)).data == b"2\n"
    waiting = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    write_lines(path, range(3, 5))
    started = time.monotonic()
    assert (await waiting).data == b"3\n"
    assert time.monotonic() - started < 0.1
    write_lines(path, range(5, 6))
    end.set()
    assert [line.data async for line in reader] == [b"4\n", b"5\n"]


async def test_following_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    end = asyncio.Event()
    task = asyncio.create_task(collect(tmp_path / "log", follow=end))
    await asyncio.sleep(0.02)
    write_lines(tmp_path / "log", range(2))
    await asyncio.sleep(0.05)
    end.set()
    assert await task == [0, 1]


async def test_following_ends_at_until_without_any_output(tmp_path: Path) -> None:
    write_lines(tmp_path / "log", range(2))
    soon = time.time_ns() + 100_000_000
    assert await asyncio.wait_for(collect(tmp_path / "log", follow=asyncio.Event(), until=soon), 5) == [0, 1]


@pytest.mark.parametrize("max_files", [2, 5])
async def test_following_across_rotation_loses_and_doubles_nothing(tmp_path: Path, max_files: int) -> None:
    path, end = tmp_path / "log", asyncio.Event()
    writer = LogWriter(LogTarget(str(path), max_size=2000, max_files=max_files))
    tasks = [asyncio.create_task(collect(path, follow=end)) for _ in range(3)]
    await asyncio.sleep(0)
    number = 0
    for _ in range(60):
        for _ in range(10):
            writer.write("stdout", b"%d\n" % number)
            number += 1
        await asyncio.sleep(0.002)  # the readers are never more than one file behind
    writer.close()
    end.set()
    for task in tasks:
        assert await task == list(range(number))


def open_descriptors(*parts: str) -> list[str]:
    """What of this kind this process has open. Not a count of all: other tests' leftovers close when they like."""
    targets: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(entry.readlink()))
    return [target for target in targets if any(part in target for part in parts)]


async def test_many_followers_share_one_inotify_instance(tmp_path: Path) -> None:
    end, tasks = asyncio.Event(), []
    for n in range(200):  # more than fs.inotify.max_user_instances allows
        write_lines(tmp_path / f"log{n}", range(2))
        tasks.append(asyncio.create_task(collect(tmp_path / f"log{n}", follow=end)))
    while len(open_descriptors(str(tmp_path))) < 200:  # noqa: ASYNC110 (/proc tells nobody)
        await asyncio.sleep(0.01)
    assert open_descriptors("inotify") == ["anon_inode:inotify"]
    end.set()
    assert await asyncio.gather(*tasks) == [[0, 1]] * 200
    assert open_descriptors("inotify", str(tmp_path)) == []


async def test_following_goes_on_by_looking_where_inotify_has_no_more_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> int:
        raise OSError(errno.EMFILE, "too many inotify instances")

    monkeypatch.setattr(inotify, "inotify_init", none_left)
    path, end = tmp_path / "log", asyncio.Event()
    write_lines(path, range(1))
    reader = read_log(str(path), follow=end)
    assert (await anext(reader)).data == b"0\n"
    write_lines(path, range(1, 2))
    assert (await anext(reader)).data == b"1\n"
    end.set()
    assert [line async for line in reader] == []


def fill(writer: LogWriter, numbers: range) -> None:
    for number in numbers:
        writer.write("stdout", b"%d\n" % number)


@pytest.mark.parametrize("tail", [None, 0, 5, 70, 150, 1000])
async def test_compressed_files_are_read_like_plain_ones(tmp_path: Path, tail: int | None) -> None:
    path = tmp_path / "log"
    writer = LogWriter(LogTarget(str(path), max_size=5000, max_files=10))
    fill(writer, range(300))
    writer.close()
    assert (
        await collect(path, tail=tail)
        == list(range(300))[-tail if tail else None :][: tail if tail == 0 else 300]
    )
    sizes = sum(file.stat().st_size for file in tmp_path.iterdir())
    logrotate.compress_rotated(str(path))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names[0] == "log" and len(names) > 3 and all(name.endswith(".gz") for name in names[1:])
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < sizes / 2
    assert (
        await collect(path, tail=tail)
        == list(range(300))[-tail if tail else None :][: tail if tail == 0 else 300]
    )


async def test_since_skips_whole_files_and_finds_the_same(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.1", range(10, 20))
    write_lines(tmp_path / "log.2", range(10))
    write_lines(tmp_path / "log", range(20, 30))
    for n, name in enumerate(("log.2", "log.1", "log")):
        os.utime(tmp_path / name, ns=((10 * n + 9) * 10**9,) * 2)
    logrotate.compress_rotated(str(tmp_path / "log"))
    for since in (0, 9, 10, 15, 25):
        assert await collect(tmp_path / "log", since=since * 10**9) == list(range(since, 30))


async def test_a_file_that_somebody_else_compressed_is_read_too(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.1", range(3))
    write_lines(tmp_path / "log", range(3, 5))
    (tmp_path / "log.1.gz").write_bytes(gzip.compress((tmp_path / "log.1").read_bytes()))
    (tmp_path / "log.1").unlink()
    assert await collect(tmp_path / "log") == [0, 1, 2, 3, 4]


async def test_following_across_rotation_and_compression_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path, end = tmp_path / "log", asyncio.Event()
    writer = LogWriter(LogTarget(str(path), max_size=4000, max_files=100, compress=True))
    readers = [asyncio.create_task(collect(path, follow=end)) for _ in range(3)]
    for block in range(60):
        fill(writer, range(block * 20, block * 20 + 20))
        await asyncio.sleep(0.002)
    writer.close()
    end.set()
    for reader in readers:
        assert await reader == list(range(1200))
    logrotate.compress_rotated(str(path))
    assert await collect(path) == list(range(1200))


async def test_a_follower_that_falls_behind_goes_on_in_the_compressed_file(tmp_path: Path) -> None:
    """It holds the first file, which meanwhile has got a successor, and both have been compressed."""
    path, end = tmp_path / "log", asyncio.Event()
    writer = LogWriter(LogTarget(str(path), max_size=2000, max_files=10))
    fill(writer, range(3))
    reader = read_log(str(path), follow=end)
    assert (await anext(reader)).data == b"0\n"
    fill(writer, range(3, 100))
    writer.close()
    logrotate.compress_rotated(str(path))
    end.set()
    assert [int(line.data) async for line in reader] == list(range(1, 100))


@pytest.mark.parametrize("format", ["json", "cri"])
async def test_both_formats_keep_lines_parts_and_streams(tmp_path: Path, format: str) -> None:
    path = str(tmp_path / "log")
    writer = LogWriter(LogTarget(path, format=format))
    writer.write("stdout", b"one\n\n two  \n" + b"x" * 20000 + b"\nunfinished")
    writer.write("stderr", "ü\x7f<\n".encode())
    writer.close()
    lines = [line async for line in read_log(path, format=format)]
    assert b"".join(line.data for line in lines if line.stream == "stdout") == (
        b"one\n\n two  \n" + b"x" * 20000 + b"\nunfinished"
    )
    assert [len(line.data) for line in lines if line.stream == "stdout"] == [4, 1, 7, 16384, 3617, 10]
    assert [line.data for line in lines if line.stream == "stderr"] == ["ü\x7f<\n".encode()]


async def test_the_cri_format_keeps_every_byte(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = LogWriter(LogTarget(path, format="cri"))
    data = bytes(range(256)) * 3 + b"\n"
    writer.write("stdout", data)
    writer.close()
    assert b"".join([line.data async for line in read_log(path, format="cri")]) == data


async def test_attributes_are_in_each_entry(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    writer = LogWriter(LogTarget(path, attributes={"tag": 'a","b', "k": "v"}))
    writer.write("stdout", b"1\n2\n")
    writer.close()
    assert [line.attributes async for line in read_log(path)] == [{"tag": 'a","b', "k": "v"}] * 2
