"""The two small files that tell about a run: `state.json` while it lasts, the exit record afterwards.

Written by the monitor, read by the daemon. Both appear complete or not at all.

Plain os calls instead of pathlib here, in the monitor and in the log writer: every Python object that a
monitor uses costs it a private copy of a page of the zygote, and pathlib alone costs 0.3 MB.
"""
# ruff: noqa: PTH104, PTH106, PTH108

import os

import msgspec

from longshore.runtime.messages import Exited

STATE_NAME = "state.json"
SOCKET_NAME = "control.sock"
_NEW_STATE_NAME = "state.new"


class RunState(msgspec.Struct, frozen=True):
    """Who is who in a run. A pid counts only together with its start time, so a recycled one is never mistaken."""

    id: str
    pid: int  # of the monitor
    pid_start: int
    init_pid: int
    init_start: int
    cgroup: str  # below each hierarchy
    started_at: str = ""


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat, in clock ticks since boot (proc(5)); None when there is no such process."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may itself hold spaces and parentheses
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def open_process(pid: int, start: int) -> int | None:
    """A pidfd of the process that has this pid and start time, or None when it is gone. The caller closes it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    # Compared after opening: from here on the descriptor cannot change its process
    if start_time(pid) == start:
        return pidfd
    os.close(pidfd)
    return None


def open_proc(pid: int, start: int) -> int | None:
    """/proc/<pid> of the process with this start time, None when it is gone. The caller closes it.

    The descriptor stays that process's: once it has ended, every look-up below says ESRCH, whoever has its number.
    """
    try:
        folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if start_time(pid) == start:
        return folder
    os.close(folder)
    return None


def write_state(state_dir: str, state: RunState) -> None:
    """Replace state.json. Not synced: the folder lives on tmpfs and is meaningless after a reboot."""
    fresh = f"{state_dir}/{_NEW_STATE_NAME}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(state))
    finally:
        os.close(fd)
    os.rename(fresh, f"{state_dir}/{STATE_NAME}")


def read_state(state_dir: str) -> RunState | None:
    """The state of the run, None when there is none."""
    try:
        return msgspec.json.decode(_read(f"{state_dir}/{STATE_NAME}"), type=RunState)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None


def clean_state(state_dir: str) -> None:
    """Remove what a monitor made in its state folder, and the folder when nothing else is in it."""
    for name in (SOCKET_NAME, STATE_NAME, _NEW_STATE_NAME):
        remove_file(f"{state_dir}/{name}")
    try:
        os.rmdir(state_dir)
    except OSError:  # somebody else keeps files here, or it is gone
        pass


def remove_file(path: str) -> None:
    """Unlink; a missing file is fine."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _read(path: str) -> bytes:
    """A small file, whole."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def write_exit(exit_path: str, record: Exited) -> None:
    """Write the exit record; on return it survives a power cut. Raises OSError.

    One fsync after the rename: on the journaling file systems it commits the file's contents, its creation
    and its new name together. Cut off before, the record may be empty, which readers take for absent.
    """
    fresh = f"{exit_path}.new"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record))
        os.rename(fresh, exit_path)
        os.fsync(fd)
    finally:
        os.close(fd)


def read_exit(exit_path: str) -> Exited | None:
    """The record of how the last run ended; None when there is none (or the machine lost power while writing)."""
    try:
        return msgspec.json.decode(_read(exit_path), type=Exited)
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None
