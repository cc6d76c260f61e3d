"""Choosing a log driver, and what its helper makes of output. Receivers are in tests/engine/kernel/test_log_drivers.py."""

import os
import socket
import struct
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from longshore.core import logs
from longshore.core.containers.record import Record, State
from longshore.core.model import Config, HostConfig, LogConfig, NetworkingConfig
from longshore.errors import InvalidArgument, Unsupported
from longshore.runtime.logdrivers import (
    Message,
    Part,
    Wanted,
    journal_reader,
    journald,
    parse_decimal_size,
    syslog,
)
from longshore.runtime.logdrivers.json_file import limits
from longshore.runtime.loghelper import HEADER, OUTPUT, Lines, take_frames
from longshore.runtime.messages import LogSource

ID = "0123456789abcdef" * 4


def record(type: str = "json-file", **options: str) -> Record:
    config = LogConfig(type=type, config={key.replace("_", "-"): value for key, value in options.items()})
    return Record(
        id=ID,
        name="web",
        created="",
        image_id="sha256:" + "f" * 64,
        config=Config(image="busybox:1", env=["A=1", "B=2", "EMPTY"], labels={"team": "x", "tier": "y"}),
        host_config=HostConfig(log_config=config),
        networking=NetworkingConfig(),
        state=State(),
        path="sh",
        args=["-c", "true"],
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (20_000_000, 5, True)),
        ({"max-size": "-1"}, (0, 1, False)),
        ({"max-size": "1m"}, (1_000_000, 1, False)),  # as Docker: what was rotated is gone
        ({"max-size": "1m", "max-file": "3"}, (1_000_000, 3, True)),
        ({"max-size": "1.5k", "max-file": "3", "compress": "false"}, (1500, 3, False)),
        ({"max-file": "2"}, (20_000_000, 2, True)),
        ({"compress": "0"}, (20_000_000, 5, False)),
    ],
)
def test_json_file_rotates_by_default_and_as_docker_when_told(options: dict[str, str], expected: Any) -> None:
    assert limits(options) == expected


def test_sizes_of_logs_are_decimal() -> None:
    assert [parse_decimal_size(text, "x") for text in ("7", "10k", "10M", "2gb", "1.5 KiB")] == [
        7, 10_000, 10_000_000, 2_000_000_000, 1500,
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match="invalid size: '10x'"):
        parse_decimal_size("10x", "max-size")


def test_the_daemons_options_complete_those_of_its_own_driver_only() -> None:
    default = LogConfig(type="json-file", config={"max-size": "1m", "cache-disabled": "true"})
    assert logs.complete(LogConfig(), default) == default
    mine = LogConfig(config={"max-size": "2m"})
    assert logs.complete(mine, default).config == {"max-size": "2m", "cache-disabled": "true"}
    other = logs.complete(LogConfig(type="syslog", config={"tag": "x"}), default)
    assert (other.type, other.config) == ("syslog", {"tag": "x", "cache-disabled": "true"})


def test_attributes_are_chosen_by_name_and_by_pattern() -> None:
    def chosen(**options: str) -> dict[str, str]:
        return logs.attributes_of(record(), {key.replace("_", "-"): value for key, value in options.items()})

    assert chosen() == {}
    assert chosen(labels="team,none", env="B") == {"team": "x", "B": "2"}
    assert chosen(labels_regex="^t", env_regex="A|EMPTY") == {"team": "x", "tier": "y", "A": "1"}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{.ID}}", ID[:12]),
        ("{{ .Name }}/{{.FullID}}", f"web/{ID}"),
        ("{{.ImageName}}@{{.ImageID}}", "busybox:1@" + "f" * 12),
    ],
)
def test_tags(template: str, expected: str) -> None:
    assert logs.source_of(record("syslog", tag=template)).tag == expected


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{Name}}", "{{.Name", "{{if .Name}}x{{end}}"])
def test_tags_that_cannot_be_are_refused(template: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid log opt tag"):
        logs.check(LogConfig(type="json-file", config={"tag": template}))


def test_targets(tmp_path: Path) -> None:
    target = logs.plan_target(record(max_size="1m", max_file="2", labels="team", tag="{{.Name}}"), tmp_path)
    assert target and target.helper is None
    assert (target.path, target.max_size, target.max_files, target.compress, target.format) == (
        f"{tmp_path}/{ID}-json.log", 1_000_000, 2, True, "json",
    )  # fmt: skip
    assert target.attributes == {"team": "x", "tag": "web"}
    assert logs.plan_target(record("none"), tmp_path) is None
    local = logs.plan_target(record("local"), tmp_path)
    assert local and (local.path, local.format) == (f"{tmp_path}/local-logs/container.log", "cri")


def test_targets_with_a_helper(tmp_path: Path) -> None:
    target = logs.plan_target(record("syslog", syslog_facility="user", cache_max_size="1m"), tmp_path)
    assert target and target.helper
    assert (target.path, target.max_size, target.format) == (
        f"{tmp_path}/container-cached.log",
        1_000_000,
        "cri",
    )
    assert target.helper.driver == "longshore.runtime.logdrivers.syslog"
    assert (target.helper.options, target.helper.buffer) == ({"syslog-facility": "user"}, 0)
    assert target.helper.source.tag == ID[:12]
    bare = logs.plan_target(record("syslog", cache_disabled="true", mode="non-blocking"), tmp_path)
    assert bare and bare.path == "" and bare.helper and bare.helper.buffer == 1 << 20
    journal = logs.plan_target(record("journald"), tmp_path)
    assert journal and journal.path == "" and journal.helper  # read from the journal itself
    file = logs.plan_target(record("json-file", mode="non-blocking", max_buffer_size="4k"), tmp_path)
    assert file and file.path == "" and file.helper and file.helper.file
    assert (file.helper.file.path, file.helper.buffer) == (f"{tmp_path}/{ID}-json.log", 4096)


def test_reading_is_refused_where_nothing_is_kept(tmp_path: Path) -> None:
    for one in (record("none"), record("syslog", cache_disabled="true")):
        with pytest.raises(Unsupported, match="configured logging driver does not support reading"):
            logs.read(one, tmp_path, Wanted())


class Elsewhere:
    """Somebody else's driver."""

    DEFAULT_TAG = "x"

    def check(self, options: dict[str, str]) -> None:
        if options:
            raise InvalidArgument("takes no options")

    def open_sink(self, source: LogSource, options: dict[str, str]) -> None: ...

    def read(self, source: LogSource, wanted: Wanted) -> None: ...


driver = Elsewhere()


def test_a_driver_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "somebodys_driver", __import__("sys").modules[__name__])
    point = EntryPoint("elsewhere", "somebodys_driver:driver", logs.GROUP)
    monkeypatch.setattr(logs, "entry_points", lambda group: [point] if group == logs.GROUP else [])
    logs._installed.cache_clear()
    try:
        assert "elsewhere" in logs.driver_names()
        logs.check(LogConfig(type="elsewhere"))
        with pytest.raises(InvalidArgument, match="takes no options"):
            logs.check(LogConfig(type="elsewhere", config={"a": "b"}))
        target = logs.plan_target(record("elsewhere"), tmp_path)
        assert target and target.helper and target.helper.driver == "somebodys_driver:driver"
        assert target.helper.source.tag == "x"
    finally:
        logs._installed.cache_clear()
        logs._driver.cache_clear()


# The helper


def frame(stream: str, data: bytes, when: int = 7) -> bytes:
    return HEADER.pack(OUTPUT[stream], len(data), when) + data


def test_frames_that_are_whole_are_taken_and_the_rest_waits() -> None:
    whole = frame("stdout", b"a\n") + frame("stderr", b"b")
    buffer = bytearray(whole + frame("stdout", b"cc")[:-1])
    assert take_frames(buffer) == [("stdout", 7, b"a\n"), ("stderr", 7, b"b")]
    assert bytes(buffer) == frame("stdout", b"cc")[:-1]


def test_lines_wait_for_their_end_and_end_with_their_stream() -> None:
    lines = Lines()
    data = frame("stdout", b"one\ntw") + frame("stderr", b"err") + frame("stdout", b"o\n", 8)
    assert lines.take(bytearray(data)) == [Message("stdout", 7, b"one"), Message("stdout", 8, b"two")]
    assert lines.take(bytearray(frame("stderr", b""))) == [Message("stderr", 7, b"err")]
    lines.take(bytearray(frame("stdout", b"rest", 9)))
    assert lines.finish() == [Message("stdout", 9, b"rest")]


def test_long_lines_become_numbered_parts() -> None:
    lines = Lines()
    messages = lines.take(bytearray(frame("stdout", b"x" * 40000)))
    messages += lines.take(bytearray(frame("stdout", b"y\nshort\n")))
    assert b"".join(message.data for message in messages[:-1]) == b"x" * 40000 + b"y"
    parts = [message.part for message in messages if message.part]
    assert [(part.ordinal, part.last) for part in parts] == [(1, False), (2, False), (3, True)]
    assert len({part.id for part in parts}) == 1
    assert messages[-1] == Message("stdout", 7, b"short")


# syslog and journald


def test_addresses() -> None:
    assert syslog.parse_address("udp://logs.example:1514") == ("udp", "logs.example", 1514)
    assert syslog.parse_address("tcp+tls://[::1]") == ("tcp+tls", "::1", 514)
    assert syslog.parse_address("") == ("", "", 0)
    assert (
        syslog.parse_facility("") == 3
        and syslog.parse_facility("local7") == syslog.parse_facility("23") == 23
    )


def test_journal_fields_are_lines_or_carry_their_length() -> None:
    assert journald.field("MESSAGE", b"one line") == b"MESSAGE=one line\n"
    assert journald.field("MESSAGE", b"a\nb") == b"MESSAGE\n" + struct.pack("<Q", 3) + b"a\nb\n"
    assert journald.field_name("com.example/team-1") == "COM_EXAMPLE_TEAM_1"
    assert journald.field_name("__x") == "X"


def test_an_entry_that_fits_no_datagram_comes_as_sealed_memory(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        sink = journald.JournalSink(
            LogSource(id=ID, name="web", attributes={"a": "v"}), str(tmp_path / "socket")
        )
        assert sink.connect()
        sink.write(
            [Message("stderr", 0, b"x" * 1_000_000, Part("p", 2, True)), Message("stdout", 0, b"small")]
        )
        data, (fd,), _, _ = socket.recv_fds(receiver, 100, 1)
        assert data == b""
        text = os.pread(fd, 2_000_000, 0)
        os.close(fd)
        assert text.startswith(b"MESSAGE=" + b"x" * 1_000_000 + b"\nPRIORITY=3\n")
        assert b"\nCONTAINER_PARTIAL_ID=p\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=true\n" in text
        small = receiver.recv(10_000)
        assert b"MESSAGE=small\n" in small and b"\nA=v\n" in small and b"\nCONTAINER_NAME=web\n" in small
        sink.close()


def test_a_journal_that_is_started_anew_gets_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(str(path))
    sink = journald.JournalSink(LogSource(id=ID), str(path))
    assert sink.connect()
    first.close()
    path.unlink()
    sink.write([Message("stdout", 0, b"lost")])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        sink.write([Message("stdout", 0, b"found")])
        assert b"MESSAGE=found\n" in second.recv(10_000)
    sink.close()


def test_journalctl_is_asked_for_what_is_wanted() -> None:
    source = LogSource(id=ID)
    words = journal_reader.command(source, Wanted(since=1_500_000_000, tail=5))
    assert words[0] == "journalctl" and words[-1] == f"CONTAINER_ID_FULL={ID}"
    assert "--since=@1.500000" in words and "--lines=5" in words
    words = journal_reader.command(source, Wanted(tail=5), cursor="c", follow=True)
    assert "--after-cursor=c" in words and "--lines=5" not in words and "--follow" in words


def test_journal_entries_become_lines() -> None:
    text = (
        b'{"MESSAGE":"hi","PRIORITY":"3","SYSLOG_TIMESTAMP":"2026-01-02T03:04:05.000000006Z","__CURSOR":"c",'
        b'"TEAM":"x","CONTAINER_NAME":"web","_PID":"1"}'
    )
    parsed = journal_reader.parse_entry(text)
    assert parsed
    line, cursor = parsed
    assert (line.stream, line.time_text, line.data, line.attributes, cursor) == (
        "stderr", "2026-01-02T03:04:05.000000006Z", b"hi\n", {"TEAM": "x"}, "c",
    )  # fmt: skip
    binary = journal_reader.parse_entry(
        b'{"MESSAGE":[255,10],"PRIORITY":"6","CONTAINER_PARTIAL_MESSAGE":"true","__REALTIME_TIMESTAMP":"1"}'
    )
    assert binary and binary[0].data == b"\xff\n"
    assert binary[0].time_text == "1970-01-01T00:00:00.000001000Z"
    assert journal_reader.parse_entry(b'{"MESSAGE":"not a container\'s"}') is None
