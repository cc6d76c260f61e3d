"""What one daemon has for itself."""

import logging
import os
import socket
from pathlib import Path

import pytest

from longshore.daemon import claims, logs
from longshore.errors import Conflict, InvalidArgument, Unavailable


def test_a_data_root_has_one_owner(tmp_path: Path) -> None:
    first = claims.RootLock(tmp_path / "data")
    with pytest.raises(Conflict, match=f"another longshored uses .*process {os.getpid()}"):
        claims.RootLock(tmp_path / "data")
    first.release()
    claims.RootLock(tmp_path / "data").release()


@pytest.mark.parametrize("content", ["", "rubbish", "999999999", str(os.getpid()), str(os.getppid())])
def test_a_stale_pidfile_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run/pid"
    path.parent.mkdir()
    path.write_text(content)
    claims.write_pidfile(path)
    assert path.read_text() == f"{os.getpid()}\n"


def test_only_the_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    identity = (path.stat().st_dev, path.stat().st_ino)
    path.rename(tmp_path / "moved")
    path.touch()
    claims.remove_own(path, identity)
    assert path.exists()
    claims.remove_own(path, (path.stat().st_dev, path.stat().st_ino))
    assert not path.exists()
    claims.remove_own(path, None)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        host = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"cannot listen on .*another program has this port"):
            claims.open_tcp(host)
    with pytest.raises(Unavailable, match="cannot listen on unix:///proc/none/x"):
        claims.open_unix("/proc/none/x", "")
    with pytest.raises(InvalidArgument, match="no-such-group"):
        claims.open_unix(str(tmp_path / "s"), "no-such-group")


def test_sockets_of_systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="fd://"):
        claims.passed_sockets()
    ours = socket.socket(socket.AF_UNIX)
    ours.bind(str(tmp_path / "s"))
    monkeypatch.setattr(claims, "FIRST_PASSED_FD", ours.fileno())
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    (passed,) = claims.passed_sockets()
    assert passed.getsockname() == str(tmp_path / "s")
    assert not os.get_inheritable(passed.fileno())
    ours.detach()
    passed.close()


def test_a_record_is_one_line() -> None:
    formatter = logs.OneLine()
    record = logging.LogRecord("longshore.api", logging.WARNING, "", 0, "a %s", ("b\nc",), None)
    line = formatter.format(record)
    assert "\n" not in line
    assert line.endswith("Z warn longshore.api: a b | c")
    try:
        raise ValueError("inside")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    line = formatter.format(record)
    assert "\n" not in line
    assert line.endswith("ValueError: inside")
