"""Small pure parts of core and the API: times, ports, events, health, streams, updates, ps tables."""

import asyncio
import time

import pytest

from longshore.api.events import matches
from longshore.api.hijack import DetachFilter, copy_streams, parse_detach_keys
from longshore.core.clock import parse_moment, parse_rfc3339, rfc3339
from longshore.core.containers.files import go_mode
from longshore.core.containers.lifecycle import failure_code
from longshore.core.containers.measure import filter_table, network_counters
from longshore.core.containers.record import Health, HealthResult
from longshore.core.containers.streams import LogOptions, frame, render
from longshore.core.events import Event, EventBus
from longshore.core.health import judge, output_of, probe_command
from longshore.core.model import Empty, HealthConfig, HostConfig, PortBinding, RestartPolicy, UpdateRequest
from longshore.core.ports import expand_bindings, expand_exposed, parse_port, plan_mappings
from longshore.core.system import parse_os_release
from longshore.core.update import merge_update
from longshore.errors import InvalidArgument, NotFound, StartFailed
from longshore.network.model import PortMapping
from longshore.runtime.logfile import LogLine


def test_times_go_both_ways() -> None:
    assert rfc3339(1_767_225_600_000_000_007) == "2026-01-01T00:00:00.000000007Z"
    for text, nanoseconds in (
        ("2026-01-01T00:00:00.000000007Z", 1_767_225_600_000_000_007),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600_000_000_000),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
    ):
        assert parse_rfc3339(text) == nanoseconds


def test_moments() -> None:
    assert parse_moment("", "since") == parse_moment("0", "since") == 0
    assert parse_moment("1767225600.5", "since") == 1_767_225_600_500_000_000
    assert parse_moment("2026-01-01", "since") == 1_767_225_600_000_000_000
    assert abs(time.time_ns() - 90 * 10**9 - parse_moment("1m30s", "since")) < 10**9
    with pytest.raises(InvalidArgument, match="since"):
        parse_moment("yesterday", "since")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("80", (80, 80, "tcp")), ("53/UDP", (53, 53, "udp")), ("1-65535/sctp", (1, 65535, "sctp"))],
)
def test_ports(text: str, expected: tuple[int, int, str]) -> None:
    assert parse_port(text) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "9-8", "80/", "80/xyz", "a", "80-"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_port(text)


def test_published_ports() -> None:
    exposed = {"80/tcp": Empty(), "81/tcp": Empty()}
    bindings = {
        "80": [PortBinding(host_port="8080"), PortBinding(host_ip="127.0.0.1", host_port="9000-9010")],
        "7000-7001/udp": [PortBinding(host_port="17000-17001")],
    }
    assert plan_mappings(bindings, exposed, publish_all=True) == (
        PortMapping(80, "tcp", "", 8080),
        PortMapping(80, "tcp", "127.0.0.1", 0, (9000, 9010)),
        PortMapping(7000, "udp", "", 17000),
        PortMapping(7001, "udp", "", 17001),
        PortMapping(81, "tcp", "", 0),
    )
    assert len(plan_mappings(bindings, exposed, publish_all=False)) == 4
    assert expand_exposed({"2/tcp": 1, "1/udp": 1}) == ["1/udp", "2/tcp"]
    assert expand_bindings({"80/tcp": []}) == {"80/tcp": [PortBinding()]}


def test_ranges_of_different_length_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid ranges"):
        expand_bindings({"80-82/tcp": [PortBinding(host_port="8080-8081")]})


async def test_events_are_kept_and_followed() -> None:
    bus = EventBus()
    first = bus.publish("container", "start", "c1", {"name": "a"})
    bus.publish("image", "pull", "i1")
    seen = [event.action async for event in bus.subscribe(since=first.nanoseconds, until=time.time_ns() + 1)]
    assert seen == ["start", "pull"]
    stream = bus.subscribe(matches=lambda event: event.type == "volume")
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    bus.publish("container", "die", "c1")
    bus.publish("volume", "create", "v")
    assert (await waiting).id == "v"
    await stream.aclose()
    assert bus.listeners == 0


async def test_events_since_now_end_at_until() -> None:
    bus = EventBus()
    bus.publish("container", "start", "c1")
    begin = time.monotonic()
    assert [event async for event in bus.subscribe(until=time.time_ns() + 50_000_000)] == []
    assert 0.03 < time.monotonic() - begin < 5


def test_event_times_rise() -> None:
    bus = EventBus(clock=lambda: 5)
    assert [bus.publish("a", "b", "c").nanoseconds for _ in range(3)] == [5, 6, 7]


def test_event_wire_has_old_and_new_names() -> None:
    view = Event("container", "start", "c1", {"image": "x", "name": "n"}, nanoseconds=1_500_000_000).wire()
    assert view == {
        "status": "start",
        "id": "c1",
        "from": "x",
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "c1", "Attributes": {"image": "x", "name": "n"}},
        "scope": "local",
        "time": 1,
        "timeNano": 1_500_000_000,
    }
    assert "status" not in Event("volume", "create", "v").wire()


@pytest.mark.parametrize(
    ("given", "hit"),
    [
        ({}, True),
        ({"event": ["exec_start"]}, True),
        ({"event": ["exec_start: ls"]}, True),
        ({"event": ["die"]}, False),
        ({"type": ["container", "image"]}, True),
        ({"type": ["image"]}, False),
        ({"container": ["web"]}, True),
        ({"container": ["c1"]}, True),
        ({"container": ["other"]}, False),
        ({"volume": ["web"]}, False),
        ({"image": ["busybox"]}, True),
        ({"image": ["busybox:1"]}, True),
        ({"image": ["alpine"]}, False),
        ({"label": ["app=shop"]}, True),
        ({"label": ["app=other"]}, False),
    ],
)
def test_event_filters(given: dict[str, list[str]], hit: bool) -> None:
    attributes = {"image": "busybox:1", "name": "web", "app": "shop"}
    assert matches(Event("container", "exec_start: ls", "c12345", attributes), given) == hit


def test_health_commands() -> None:
    assert probe_command(None, None) is None
    assert probe_command(HealthConfig(test=["NONE"]), None) is None
    assert probe_command(HealthConfig(test=["CMD", "a", "b"]), None) == ["a", "b"]
    assert probe_command(HealthConfig(test=["CMD-SHELL", "a b"]), None) == ["/bin/sh", "-c", "a b"]
    assert probe_command(HealthConfig(test=["CMD-SHELL", "a"]), ["/bin/bash", "-lc"]) == [
        "/bin/bash",
        "-lc",
        "a",
    ]


def test_health_is_judged() -> None:
    good, bad = HealthResult("", "", 0, ""), HealthResult("", "", 1, "")
    health = judge(Health(), bad, retries=2, in_start_period=True)
    assert (health.status, health.failing_streak) == ("starting", 0)
    health = judge(health, bad, retries=2, in_start_period=False)
    assert (health.status, health.failing_streak) == ("starting", 1)
    health = judge(health, bad, retries=2, in_start_period=False)
    assert (health.status, health.failing_streak) == ("unhealthy", 2)
    health = judge(health, good, retries=2, in_start_period=False)
    assert (health.status, health.failing_streak) == ("healthy", 0)
    health = judge(health, bad, retries=2, in_start_period=True)
    assert (health.status, health.failing_streak) == ("healthy", 1)
    for _ in range(9):
        health = judge(health, good, retries=2, in_start_period=False)
    assert len(health.log) == 5


def test_probe_output_is_cut() -> None:
    assert output_of(frame("stdout", b"a") + frame("stderr", b"b") + b"\1\0") == "ab"
    assert len(output_of(frame("stdout", b"x" * 9000))) == 4096


def test_log_lines() -> None:
    line = LogLine("stderr", "2026-01-01T00:00:00.1Z", b"x\n")
    assert render(line, LogOptions(), tty=False) == b"\2\0\0\0\0\0\0\2x\n"
    assert render(line, LogOptions(timestamps=True), tty=True) == b"2026-01-01T00:00:00.1Z x\n"
    assert render(line, LogOptions(details=True), tty=True) == b" x\n"


@pytest.mark.parametrize(
    ("text", "keys"), [("", b"\x10\x11"), ("ctrl-a,b", b"\x01b"), ("ctrl-@,ctrl-[", b"\x00\x1b")]
)
def test_detach_keys(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ab", "ctrl-aa", "a,,b", "ctrl-1"])
def test_bad_detach_keys(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_detach_keys(text)


def test_detach_sequences_may_be_split() -> None:
    filter = DetachFilter(b"\x10\x11")
    assert filter.feed(b"ab\x10") == b"ab"
    assert filter.feed(b"c") == b"\x10c"
    assert filter.feed(b"\x10") == b""
    assert filter.feed(b"\x11rest") == b""
    assert filter.detached
    assert filter.feed(b"more") == b""


class Client:
    """A client that sends what it was given, then the end."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.got = bytearray()

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.got += data

    async def write_eof(self) -> None: ...


async def _echo_server() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Server]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.write(b"!")
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    return *await asyncio.open_connection("127.0.0.1", port), server


async def test_half_close_is_passed_on_and_the_output_read_to_its_end() -> None:
    reader, writer, server = await _echo_server()
    client = Client(b"abc")
    assert await copy_streams(client, reader, writer, stdin=True)
    assert client.got == b"ABC!"
    server.close()


async def test_detaching_leaves_the_process_alone() -> None:
    reader, writer, server = await _echo_server()
    told: list[bool] = []
    client = Client(b"\x10\x11")
    ended = await copy_streams(
        client, reader, writer, stdin=True, detach_keys=b"\x10\x11", detached=lambda: told.append(True)
    )
    assert (ended, told) == (False, [True])
    server.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StartFailed('exec: "x": executable file not found in $PATH'), 127),
        (StartFailed('exec: "x": permission denied'), 126),
        (StartFailed("no such file or directory"), 127),
        (StartFailed("cgroup is busy"), 128),
        (NotFound("network x not found"), 128),
    ],
)
def test_exit_codes_of_failed_starts(error: Exception, code: int) -> None:
    assert failure_code(error) == code


def test_updates() -> None:
    host = HostConfig(memory=64 << 20, memory_swap=128 << 20, cpu_shares=5)
    after = merge_update(
        host, UpdateRequest(cpu_shares=7, restart_policy=RestartPolicy(name="always"), pids_limit=0)
    )
    assert (after.memory, after.cpu_shares, after.restart_policy.name, after.pids_limit) == (
        64 << 20,
        7,
        "always",
        None,
    )
    with pytest.raises(InvalidArgument, match="memoryswap"):
        merge_update(host, UpdateRequest(memory=256 << 20))
    with pytest.raises(InvalidArgument, match="NanoCPUs"):
        merge_update(HostConfig(nano_cpus=1), UpdateRequest(cpu_quota=5000))


def test_ps_tables_are_filtered_by_pid() -> None:
    text = "UID PID CMD\nroot 1 init\nweb 22 httpd -f  -p 80\nroot 3 x\n"
    assert filter_table(text, frozenset({22})) == (["UID", "PID", "CMD"], [["web", "22", "httpd -f  -p 80"]])
    with pytest.raises(InvalidArgument, match="PID"):
        filter_table("CMD\nx\n", frozenset())


def test_network_counters() -> None:
    text = "Inter-|\n face |\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12\n"
    assert network_counters(text)["eth0"]["tx_bytes"] == 9
    assert "lo" not in network_counters(text)


def test_go_modes() -> None:
    assert go_mode(0o100644) == 0o644
    assert go_mode(0o040755) == (1 << 31) | 0o755
    assert go_mode(0o120777) == (1 << 27) | 0o777
    assert go_mode(0o104755) == (1 << 23) | 0o755
    assert go_mode(0o041777) == (1 << 31) | (1 << 20) | 0o777


def test_os_release() -> None:
    assert parse_os_release("PRETTY_NAME=\"A B\"\nID=x\n# c\nVERSION_ID='12'\n") == {
        "PRETTY_NAME": "A B",
        "ID": "x",
        "VERSION_ID": "12",
    }
