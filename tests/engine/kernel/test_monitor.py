"""The zygote and the monitors with real containers: streams, execs, ends, and who may die when."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.engine.kernel.run_lab import Lab, demultiplex, process, wait_until
from tests.engine.log_lines import read_log

from longshore.errors import Conflict, EngineError, StartFailed, Unavailable
from longshore.oci.runtime_spec import Memory, Resources
from longshore.runtime import records
from longshore.runtime.client import Monitor, Zygote, reconnect
from longshore.runtime.messages import Exec, LogTarget

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path, "monitor")
    yield lab
    left = lab.cgroups()
    lab.close()
    assert left == []


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    zygote = await Zygote.start()
    yield zygote
    await zygote.close()


async def kill(*monitors: Monitor) -> None:
    for monitor in monitors:
        await monitor.signal(signal.SIGKILL)
        await monitor.wait()
        await monitor.close()


# Ends


async def test_a_run_leaves_its_log_and_its_exit_record_and_nothing_else(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", "echo out; echo err >&2; exit 3"))
    record = await monitor.wait()
    assert (record.code, record.oom_killed, record.error) == (3, False, "")
    assert lab.exit("c") == record
    assert sorted(lab.log("c")) == [("stderr", "err\n"), ("stdout", "out\n")]
    assert not Path(lab.state_dir("c")).exists()
    assert lab.cgroups() == []
    assert monitor.started_at < record.finished_at
    await monitor.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 7)])
async def test_signals_reach_the_first_process(lab: Lab, zygote: Zygote, number: int, code: int) -> None:
    script = "trap 'exit 7' TERM; echo ready; while true; do sleep 0.05; done"
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", script))
    assert await asyncio.to_thread(wait_until, lambda: bool(lab.log("c")))
    await monitor.signal(12345)  # no such signal: harmless
    await monitor.signal(number)
    assert (await monitor.wait()).code == code
    await monitor.signal(number)  # it has ended: harmless
    await monitor.close()


async def test_an_oom_kill_is_told(lab: Lab, zygote: Zygote) -> None:
    limit = Resources(memory=Memory(limit=16 << 20, swap=16 << 20))
    monitor = await lab.run(
        zygote, lab.launch("c", "sh", "-c", "head -c 100m /dev/zero | tail", resources=limit)
    )
    record = await monitor.wait()
    assert record.oom_killed
    await monitor.close()


async def test_output_of_the_last_moment_and_without_line_end_is_logged(lab: Lab, zygote: Zygote) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; printf end"
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", script))
    await monitor.wait()
    assert [text for _, text in lab.log("c")] == [f"line {n}\n" for n in range(2000)] + ["end"]
    await monitor.close()


async def test_without_a_pid_namespace_the_rest_of_the_container_dies_too(lab: Lab, zygote: Zygote) -> None:
    launch = lab.launch(
        "c", "sh", "-c", "sleep 987654 & echo $!", namespaces=("mount", "ipc", "uts", "network")
    )
    monitor = await lab.run(zygote, launch)
    assert (await asyncio.wait_for(monitor.wait(), 10)).code == 0
    pid = int(lab.log("c")[0][1])
    assert await asyncio.to_thread(wait_until, lambda: records.start_time(pid) is None)
    await monitor.close()


async def test_many_wait_and_late_ones_too(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sh", "-c", "exit 5"))
    assert {record.code for record in await asyncio.gather(*(monitor.wait() for _ in range(5)))} == {5}
    assert monitor.exited is not None and (await monitor.wait()).code == 5
    await monitor.close()


# Failing


async def assert_fails(lab: Lab, zygote: Zygote, launch: object, words: str) -> None:
    before = sorted(lab.folder.rglob("*"))
    with pytest.raises(EngineError, match=words):
        await lab.run(zygote, launch)  # type: ignore[arg-type]
    made = {path.name for path in set(lab.folder.rglob("*")) - set(before) if path.parent.name != "work"}
    assert made <= {"log"}
    assert lab.cgroups() == []


async def test_a_failed_start_says_why_and_leaves_nothing(lab: Lab, zygote: Zygote) -> None:
    await assert_fails(lab, zygote, lab.launch("a", "nonesuch"), "executable file not found in \\$PATH")
    await assert_fails(lab, zygote, lab.launch("b", "/etc/passwd"), "permission denied")
    launch = lab.launch("c", "true")
    await assert_fails(
        lab, zygote, msgspec.structs.replace(launch, log=LogTarget("/proc/nonesuch/log")), "nonesuch"
    )
    root = msgspec.structs.replace(launch.rootfs, lowers=("missing",))
    await assert_fails(lab, zygote, msgspec.structs.replace(launch, rootfs=root), "missing|no such file")
    (lab.folder / "file").touch()
    await assert_fails(
        lab, zygote, msgspec.structs.replace(launch, state_dir=str(lab.folder / "file" / "x")), "file"
    )
    assert zygote.pid and (await (await lab.run(zygote, launch)).wait()).code == 0


async def test_abandoned_and_forgotten_containers_are_undone(lab: Lab, zygote: Zygote) -> None:
    monitor = await zygote.launch(lab.launch("a", "true"))
    await monitor.abandon()
    assert lab.cgroups() == [] and not Path(lab.state_dir("a")).exists()
    forgotten = await zygote.launch(lab.launch("b", "true"))
    pid = forgotten.pid
    await forgotten.close()  # as if the daemon had died before start
    assert await asyncio.to_thread(
        wait_until, lambda: lab.cgroups() == [] and records.start_time(pid) is None
    )
    assert await reconnect("b", lab.state_dir("b"), lab.exit_path("b")) is None


async def test_a_daemon_that_dies_right_after_the_go_ahead_leaves_a_running_container(
    lab: Lab, zygote: Zygote
) -> None:
    """The monitor cannot tell it any more that the program runs; the next daemon finds it."""
    monitor = await zygote.launch(lab.launch("d", "sleep", "1000"))
    pid = monitor.pid
    starting = asyncio.create_task(monitor.start())
    await asyncio.sleep(0)  # the request is sent, the answer cannot be here
    assert not starting.done()
    await monitor.close()
    starting.cancel()
    comm = Path(f"/proc/{pid}/comm")
    assert await asyncio.to_thread(wait_until, lambda: comm.read_text() == "sleep\n")
    await asyncio.sleep(0.3)
    found = await reconnect("d", lab.state_dir("d"), lab.exit_path("d"))
    assert found is not None and found.pid == pid
    assert lab.exit("d") is None
    await found.signal(signal.SIGKILL)
    assert (await found.wait()).code == 137


async def test_a_cancelled_launch_is_undone(lab: Lab, zygote: Zygote) -> None:
    for delay in (0, 0.002, 0.005, 0.01, 0.02):
        task = asyncio.create_task(zygote.launch(lab.launch("c", "true")))
        await asyncio.sleep(delay)
        task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(result, Monitor):
            await result.abandon()
        assert await asyncio.to_thread(wait_until, lambda: lab.cgroups() == [])
        assert await asyncio.to_thread(wait_until, lambda: not Path(lab.state_dir("c")).exists())
    assert (await (await lab.run(zygote, lab.launch("c", "true"))).wait()).code == 0


# Streams


async def test_attached_before_start_nothing_is_missed(lab: Lab, zygote: Zygote) -> None:
    monitor = await zygote.launch(lab.launch("c", "sh", "-c", "echo out; echo err >&2"))
    both = await monitor.attach(stdin=False, stdout=True, stderr=True)
    errors = await monitor.attach(stdin=False, stdout=False, stderr=True)
    await monitor.start()
    assert demultiplex(await both[0].read()) == {"stdout": b"out\n", "stderr": b"err\n"}
    assert demultiplex(await errors[0].read()) == {"stdout": b"", "stderr": b"err\n"}
    await monitor.wait()
    with pytest.raises(Conflict, match="not running"):
        await monitor.attach(stdin=False, stdout=True, stderr=True)
    for _, writer in (both, errors):
        writer.close()
    await monitor.close()


async def test_half_closed_input_ends_cat_and_all_of_it_comes_back(lab: Lab, zygote: Zygote) -> None:
    monitor = await zygote.launch(lab.launch("c", "cat", stdin_open=True, stdin_once=True))
    reader, writer = await monitor.attach(stdin=True, stdout=True, stderr=True)
    await monitor.start()
    data = os.urandom(3_000_000)

    async def feed() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    feeding = asyncio.create_task(feed())
    assert demultiplex(await reader.read())["stdout"] == data
    await feeding
    assert (await monitor.wait()).code == 0
    writer.close()
    await monitor.close()


async def test_input_that_is_open_for_ever_outlives_its_clients(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "cat", stdin_open=True))
    for word in (b"one\n", b"two\n"):
        reader, writer = await monitor.attach(stdin=True, stdout=True, stderr=True)
        writer.write(word)
        assert demultiplex(await reader.readexactly(8 + len(word)))["stdout"] == word
        writer.close()
    assert monitor.exited is None
    await kill(monitor)
    assert [text for _, text in lab.log("c")] == ["one\n", "two\n"]


async def test_input_that_is_not_open_is_at_its_end(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "cat"))
    assert (await asyncio.wait_for(monitor.wait(), 10)).code == 0
    await monitor.close()


async def test_a_tty_is_raw_resizable_and_logged(lab: Lab, zygote: Zygote) -> None:
    script = "stty size; read x; stty size; echo got $x; exit 4"
    monitor = await zygote.launch(lab.launch("c", "sh", "-c", script, tty=True, stdin_open=True))
    reader, writer = await monitor.attach(stdin=True, stdout=True, stderr=True)
    await monitor.resize(33, 77)
    await monitor.start()
    assert await reader.readline() == b"33 77\r\n"
    await monitor.resize(44, 88)
    writer.write(b"abc\n")
    assert await reader.read() == b"abc\r\n44 88\r\ngot abc\r\n"
    assert (await monitor.wait()).code == 4
    assert "".join(text for _, text in lab.log("c")) == "33 77\r\nabc\r\n44 88\r\ngot abc\r\n"
    writer.close()
    await monitor.close()


async def test_a_client_that_does_not_read_holds_the_container_up_until_it_leaves(
    lab: Lab, zygote: Zygote
) -> None:
    monitor = await zygote.launch(lab.launch("c", "sh", "-c", "yes 0123456789 | head -n 1000000; echo done"))
    _, writer = await monitor.attach(stdin=False, stdout=True, stderr=True)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await monitor.start()
    await asyncio.sleep(0.7)
    assert monitor.exited is None  # as with Docker
    writer.transport.abort()
    assert (await asyncio.wait_for(monitor.wait(), 30)).code == 0
    log = lab.log("c")
    assert len(log) == 1_000_001 and log[-1] == ("stdout", "done\n")
    await monitor.close()


async def test_following_the_log_ends_with_the_container(lab: Lab, zygote: Zygote) -> None:
    ended = asyncio.Event()
    monitor = await zygote.launch(lab.launch("c", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.05; done"))

    async def follow() -> list[bytes]:
        return [line.data async for line in read_log(str(lab.folder / "c/log"), follow=ended)]

    following = asyncio.create_task(follow())
    await monitor.start()
    await monitor.wait()
    ended.set()
    assert await asyncio.wait_for(following, 5) == [b"1\n", b"2\n", b"3\n"]
    await monitor.close()


# Execs


async def test_execs_with_streams_codes_and_errors(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    cat = await monitor.exec(Exec("a", process("sh", "-c", "cat; echo err >&2; exit 5"), stdin=True))
    assert cat.reader is not None and cat.writer is not None
    cat.writer.write(b"input")
    cat.writer.write_eof()
    assert demultiplex(await cat.reader.read()) == {"stdout": b"input", "stderr": b"err\n"}
    assert await cat.wait() == 5
    cat.writer.close()

    tty = await monitor.exec(
        Exec("b", process("sh", "-c", "tty; read x; stty size; echo $x", tty=True), stdin=True)
    )
    assert tty.reader is not None and tty.writer is not None
    assert re.fullmatch(rb"/dev/pts/\d+\r\n", await tty.reader.readline())
    await monitor.resize(20, 30, "b")
    tty.writer.write(b"hi\n")
    assert await tty.reader.read() == b"hi\r\n20 30\r\nhi\r\n"
    assert await tty.wait() == 0
    tty.writer.close()

    detached = await monitor.exec(Exec("d", process("sh", "-c", "echo dropped; exit 6"), attach=False))
    assert detached.reader is None and await detached.wait() == 6
    with pytest.raises(StartFailed, match="executable file not found"):
        await monitor.exec(Exec("e", process("nonesuch")))
    killed = await monitor.exec(Exec("f", process("sleep", "1000"), attach=False))
    await kill(monitor)
    assert await killed.wait() == 137
    assert lab.log("c") == []  # execs are not logged
    with pytest.raises(Conflict):
        await monitor.exec(Exec("g", process("true")))


async def test_a_grandchild_keeps_neither_the_exec_nor_dies_of_it(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    script = "(sleep 0.3; echo late; touch /alive) & echo now"
    execution = await monitor.exec(Exec("a", process("sh", "-c", script)))
    assert execution.reader is not None and execution.writer is not None
    assert demultiplex(await asyncio.wait_for(execution.reader.read(), 0.25))["stdout"] == b"now\n"
    execution.writer.close()
    assert await asyncio.to_thread(wait_until, (lab.folder / "c/upper/alive").exists)
    await kill(monitor)


async def test_children_of_the_monitor_are_born_outside_after_an_exec(lab: Lab, zygote: Zygote) -> None:
    """It forks for rotated logs and log helpers, with the host's rights: no container may see those."""
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    await (await monitor.exec(Exec("e", process("true"), attach=False))).wait()
    own = Path(f"/proc/{lab.monitor_pid('c')}/ns")
    assert (own / "pid_for_children").readlink() == (own / "pid").readlink()
    await kill(monitor)


async def test_execs_leave_no_descriptors_and_no_zombies(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    pid = lab.monitor_pid("c")

    def look() -> tuple[int, str]:
        fds = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return fds, Path(f"/proc/{pid}/task/{pid}/children").read_text()

    # Init is the monitor's own child, as soon as the launcher that forked it has ended
    assert await asyncio.to_thread(wait_until, lambda: look()[1].split() == [str(monitor.pid)])
    # The first exec ends its quiet life: from then on it has a loop
    await (await monitor.exec(Exec("first", process("true"), attach=False))).wait()
    assert await asyncio.to_thread(wait_until, lambda: look()[1].split() == [str(monitor.pid)])
    before = look()
    for n in range(10):
        attached = await monitor.exec(Exec(f"a{n}", process("true"), stdin=True))
        detached = await monitor.exec(Exec(f"d{n}", process("true"), attach=False))
        await asyncio.gather(attached.wait(), detached.wait())
        assert attached.writer is not None
        attached.writer.close()
    # Not more: the connection of the first may still have been open when it was counted
    assert await asyncio.to_thread(wait_until, lambda: look() <= before and look()[1] == before[1])
    await kill(monitor)


# Deaths


async def test_monitors_survive_the_zygote_and_a_new_one_is_started(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("a", "sleep", "1000"))
    old = zygote.pid
    os.kill(old, signal.SIGKILL)
    again = await lab.run(zygote, lab.launch("b", "true"))
    assert zygote.pid not in (0, old)
    assert (await again.wait()).code == 0
    assert monitor.exited is None
    await kill(monitor)
    await zygote.close()
    assert zygote.pid == 0


async def test_signals_to_a_monitor_are_ignored(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    pid = lab.monitor_pid("c")
    assert os.getsid(pid) == pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
        os.kill(pid, number)
    execution = await monitor.exec(Exec("a", process("grep", "-E", "SigIgn|SigBlk", "/proc/self/status")))
    assert execution.reader is not None and execution.writer is not None
    output = demultiplex(await execution.reader.read())["stdout"].decode()
    execution.writer.close()
    assert re.findall(r":\s*(\w+)", output) == ["0" * 16] * 2  # and the container inherits none of that
    await kill(monitor)


async def test_a_killed_monitor_ends_its_container_with_a_record(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    os.kill(lab.monitor_pid("c"), signal.SIGKILL)
    record = await asyncio.wait_for(monitor.wait(), 10)
    assert record.code == 137 and "monitor" in record.error
    assert lab.exit("c") == record
    assert (
        records.start_time(monitor.pid) is None
        or Path(f"/proc/{monitor.pid}/stat").read_text().split()[2] == "Z"
    )
    assert lab.cgroups() == [] and not Path(lab.state_dir("c")).exists()
    await monitor.close()


async def test_a_monitor_killed_while_no_daemon_was_there_is_cleaned_up_by_the_next(
    lab: Lab, zygote: Zygote
) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    pid = lab.monitor_pid("c")
    await monitor.close()
    os.kill(pid, signal.SIGKILL)
    assert await asyncio.to_thread(wait_until, lambda: records.start_time(pid) is None)
    assert await reconnect("c", lab.state_dir("c"), lab.exit_path("c")) is None
    record = lab.exit("c")
    assert record is not None and record.code == 137
    assert lab.cgroups() == [] and not Path(lab.state_dir("c")).exists()


async def test_a_recycled_pid_is_never_killed(lab: Lab) -> None:
    """A state file of a former boot names our own pid: nothing happens to us."""
    folder = Path(lab.state_dir("c"))
    folder.mkdir(parents=True)
    start = records.start_time(os.getpid())
    assert start is not None
    state = records.RunState("c", os.getpid(), start - 1, os.getpid(), start - 1, lab.groups.path("c"), "now")
    records.write_state(str(folder), state)
    assert await reconnect("c", str(folder), lab.exit_path("c")) is None
    assert not folder.exists()


async def test_a_reconnected_daemon_knows_execs_and_hears_of_those_that_ended_meanwhile(
    lab: Lab, zygote: Zygote
) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    await monitor.exec(Exec("long", process("sh", "-c", "sleep 0.5; exit 9"), attach=False))
    await monitor.exec(Exec("short", process("sh", "-c", "sleep 0.1; exit 8"), attach=False))
    started = monitor.started_at
    await monitor.close()
    await asyncio.sleep(0.25)
    again = await reconnect("c", lab.state_dir("c"), lab.exit_path("c"))
    assert again is not None
    assert (again.pid, again.started_at, again.execs) == (monitor.pid, started, ("long",))
    assert await asyncio.wait_for(again.execution("short").wait(), 5) == 8
    assert await asyncio.wait_for(again.execution("long").wait(), 5) == 9
    await kill(again)


async def test_a_stopped_monitor_is_reported_not_waited_for(
    lab: Lab, zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    await monitor.close()
    monkeypatch.setattr("longshore.runtime.monitor_client.ANSWER_SECONDS", 0.2)
    pid = lab.monitor_pid("c")
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            await reconnect("c", lab.state_dir("c"), lab.exit_path("c"))
    finally:
        os.kill(pid, signal.SIGCONT)
    again = await reconnect("c", lab.state_dir("c"), lab.exit_path("c"))
    assert again is not None
    await kill(again)


async def test_rubbish_on_the_control_socket_hurts_nobody(lab: Lab, zygote: Zygote) -> None:
    monitor = await lab.run(zygote, lab.launch("c", "sleep", "1000"))
    for rubbish in (b"\xff" * 100, b"\0\0\0\2{}", b"GET / HTTP/1.1\r\n\r\n", b"\0"):
        reader, writer = await asyncio.open_unix_connection(f"{lab.state_dir('c')}/control.sock")
        writer.write(rubbish)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    assert monitor.exited is None
    await kill(monitor)
