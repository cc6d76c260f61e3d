"""Sizes, spans of time and frames: one implementation for the daemon, the builder and the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import InvalidArgument
from longshore.oci.frames import HEADER, Demultiplexer, text_of_frames
from longshore.oci.units import (
    binary_size,
    go_duration,
    human_duration,
    human_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1b", 1), ("2k", 2048), ("1.5g", 3 << 29), ("512M", 512 << 20), ("1gb", 1 << 30), ("0", 0),
     ("1.5GiB", 3 << 29), ("2 kb", 2048), ("3T", 3 << 40), ("1p", 1 << 50)],
)  # fmt: skip
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "1 2", "m", "1.5.5k", "1e3", "99999999p", "1k k"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("1s", 10**9), ("1.5h", 5400 * 10**9), ("2m3ms", 120003 * 10**6), ("0", 0), ("250ms", 250 * 10**6),
     ("1m30s", 90 * 10**9), (".5s", 5 * 10**8), ("1.s", 10**9), ("3us4ns", 3004), ("5µs", 5000), ("+1s", 10**9)],
)  # fmt: skip
def test_durations_are_gos(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "-1s", "1 s", "s", "1x", "1d", "1 fortnight", "1s1", "9999999h"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid duration"):
        parse_duration(text)


def test_days_are_for_those_who_ask() -> None:
    assert parse_duration("1d2h", days=True) == 26 * 3600 * 10**9


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1.5, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7300, "2 hours"),
        (3600 * 47, "47 hours"),
        (3600 * 48, "2 days"),
        (3600 * 24 * 14, "2 weeks"),
        (3600 * 24 * 60, "2 months"),
        (3600 * 24 * 730, "2 years"),
    ],
)
def test_ages_read_as_dockers(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


def test_sizes_read_as_dockers() -> None:
    sizes = (0, 999, 1500, 4_260_000, 117_000_000, 1_234_567_890)
    assert [human_size(size, digits=3) for size in sizes] == [
        "0B",
        "999B",
        "1.5kB",
        "4.26MB",
        "117MB",
        "1.23GB",
    ]
    assert human_size(1_234_567_890) == "1.235GB"
    assert [binary_size(size) for size in (1023, 1536, 5 << 30)] == ["1023B", "1.5KiB", "5GiB"]


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40))), st.integers(1, 50))
def test_frames_come_apart_however_they_are_cut(wanted: list[tuple[int, bytes]], cut: int) -> None:
    raw = b"".join(HEADER.pack(stream, len(data)) + data for stream, data in wanted)
    frames = Demultiplexer()
    got = [frame for at in range(0, len(raw), cut) for frame in frames.feed(raw[at : at + cut])]
    assert got == wanted
    assert text_of_frames(raw) == b"".join(data for _, data in wanted)


def test_an_unfinished_frame_waits() -> None:
    frames = Demultiplexer()
    assert list(frames.feed(b"\1\0\0\0\0\0\0\3ou")) == []
    assert list(frames.feed(b"t")) == [(1, b"out")]


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0s"), (5, "5ns"), (1500, "1.5µs"), (250 * 10**6, "250ms"), (10**9, "1s"), (1_500_000_000, "1.5s"),
     (60 * 10**9, "1m0s"), (90 * 10**9, "1m30s"), (3600 * 10**9, "1h0m0s"), (5400 * 10**9 + 1, "1h30m0.000000001s")],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert go_duration(nanoseconds) == text
    assert parse_duration(text) == nanoseconds
