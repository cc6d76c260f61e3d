"""Children made of system calls: the same with the machine's loop and with the forked one."""

import os
import signal
from pathlib import Path

import pytest

from longshore.kernel import script
from longshore.kernel.script import Failure, Script

BOTH = pytest.mark.parametrize("shared", (True, False), ids=("loop", "fork"))
TRUE = b"/bin/true"


def execute(plan: Script, *words: bytes, **changes: object) -> None:
    plan.call("execve", words[0], list(words), [b"NAME=value"], **changes)  # type: ignore[arg-type]


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_this_machine_needs_no_fork() -> None:
    assert script.is_native() == (os.uname().machine in ("x86_64", "aarch64"))


@BOTH
def test_the_child_is_made_by_its_calls_and_the_parent_unchanged(shared: bool, tmp_path: Path) -> None:
    folder, out = os.open(tmp_path, os.O_PATH), os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    mask, here, handler = signal.pthread_sigmask(signal.SIG_BLOCK, ()), Path.cwd(), signal.getsignal(2)
    plan = Script()
    plan.call("setsid")
    plan.call("umask", 0o027)
    plan.call("rt_sigaction", signal.SIGINT, bytes(32), 0, 8)
    plan.call("fchdir", folder)
    plan.call("dup3", out, 1, 0)
    plan.call("close_range", 3, 0xFFFFFFFF, 0)
    plan.call("rt_sigprocmask", signal.SIG_SETMASK, bytes(8), 0, 8)
    text = b"pwd; umask; echo $NAME; ls /proc/self/fd | wc -l; grep SigBlk: /proc/self/status"
    execute(plan, b"/bin/sh", b"-c", text)
    assert status(plan.run(shared=shared)) == 0
    told = (tmp_path / "out").read_text().split()
    assert told == [str(tmp_path), "0027", "value", "4", "SigBlk:", "0" * 16]  # of ls: 0, 1, 2 and the folder
    assert (signal.pthread_sigmask(signal.SIG_BLOCK, ()), Path.cwd(), signal.getsignal(2)) == (
        mask,
        here,
        handler,
    )
    os.close(folder)
    os.close(out)


@BOTH
def test_a_failed_call_is_named_and_leaves_no_child(shared: bool) -> None:
    plan = Script()
    plan.call("setsid")
    plan.call("fchdir", 9999, what="going home")
    execute(plan, TRUE)
    before = children()
    with pytest.raises(Failure, match="going home") as failure:
        plan.run(shared=shared)
    assert (failure.value.errno, failure.value.what) == (9, "going home")
    assert children() <= before


@BOTH
def test_what_may_fail_is_passed_over(shared: bool) -> None:
    plan = Script()
    plan.call("fchdir", 9999, may_fail=True)
    execute(plan, b"/does/not/exist", may_fail=True)
    execute(plan, TRUE, what="the program")
    assert status(plan.run(shared=shared)) == 0


@BOTH
def test_the_childs_first_open_gets_the_lowest_free_number(shared: bool, tmp_path: Path) -> None:
    free = os.dup(0)
    os.close(free)
    plan = Script()
    plan.call("openat", -100, os.fsencode(tmp_path / "new"), os.O_WRONLY | os.O_CREAT, 0o600)
    plan.call("write", free, b"text", 4)
    execute(plan, TRUE)
    assert status(plan.run(shared=shared)) == 0
    assert (tmp_path / "new").read_text() == "text"


@BOTH
def test_a_program_that_is_none(shared: bool, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program\n")
    plan = Script()
    plan.call("close_range", 3, 0xFFFFFFFF, 0)
    execute(plan, os.fsencode(tmp_path / "text"), what="the program")
    with pytest.raises(Failure, match="the program") as failure:
        plan.run(shared=shared)
    assert failure.value.errno == 13


def test_without_a_known_loop_it_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_native_loop", lambda: None)
    plan = Script()
    execute(plan, TRUE)
    assert status(plan.run()) == 0
    assert not script.is_native()


def test_an_unknown_call_is_refused_while_planning() -> None:
    with pytest.raises(OSError, match="not known"):
        Script().call("no_such_call")


@pytest.mark.parametrize("native", (True, False), ids=("loop", "python"))
def test_processes_come_back_where_their_calls_end(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(script, "_native_loop", lambda: None)
    reader, writer = os.pipe()
    plan = Script()
    failing = plan.call("fchdir", 9999)
    plan.back(1)
    clone = plan.call("clone", signal.SIGCHLD | 0x100000)  # CLONE_PARENT_SETTID
    waiting = plan.call("wait4", 0, 0, 0, 0)
    plan.back(2)
    plan.when_failed(failing, clone)
    plan.when_zero(clone, plan.back(3))
    plan.set_argument(clone, 2, plan.argument(waiting, 0))
    me = os.getpid()
    for _ in range(2):  # as often as wanted
        value = plan.enter()
        if os.getpid() != me:
            os.write(writer, b"%d %d" % (value, os.getppid()))
            os._exit(0)
        assert os.read(reader, 64) == b"3 %d" % me
        assert value == 2
        assert plan.result(failing) == -9
        child = plan.result(clone)
        assert child is not None and child > 0 and plan.result(waiting) == child
    os.close(reader)
    os.close(writer)
