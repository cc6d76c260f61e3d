"""The daemon's own life: start, second start, kill -9, reload, TLS; what it says when it cannot."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any


def test_containers_survive_a_killed_daemon(own_daemon: Any) -> None:
    own_daemon.start()
    own_daemon.load()
    script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 3"
    own_daemon.docker("run", "-d", "--name", "ends", "busybox", "sh", "-c", script)
    own_daemon.docker("run", "-d", "--name", "stays", "-p", "127.0.0.1:28130:80", "busybox", "sleep", "1000")
    pid = own_daemon.docker("inspect", "-f", "{{.State.Pid}}", "stays").out
    own_daemon.stop(signal.SIGKILL)
    time.sleep(1)
    own_daemon.start()
    assert own_daemon.docker("inspect", "-f", "{{.State.Pid}}", "stays").out == pid
    assert own_daemon.docker("exec", "stays", "echo", "hi").out == "hi\n"
    assert own_daemon.docker("wait", "ends").out == "3\n"
    assert own_daemon.docker("logs", "ends").out == "".join(f"{n}\n" for n in range(1, 301))


def test_an_end_while_the_daemon_was_away_is_known_afterwards(own_daemon: Any) -> None:
    own_daemon.start()
    own_daemon.load()
    own_daemon.docker("run", "-d", "--name", "away", "busybox", "sh", "-c", "sleep 0.5; exit 44")
    own_daemon.stop(signal.SIGKILL)
    time.sleep(1.5)
    own_daemon.start()
    assert own_daemon.docker("wait", "away").out == "44\n"
    assert own_daemon.docker("ps", "-a", "--format", "{{.Status}}").out.startswith("Exited (44)")


def test_sigterm_ends_at_once_and_leaves_containers_running(own_daemon: Any) -> None:
    own_daemon.start()
    own_daemon.load()
    own_daemon.docker("run", "-d", "--name", "stays", "busybox", "sleep", "1000")
    follower = subprocess.Popen(
        [
            own_daemon.command[0].replace("longshored", "longshore"),
            "-H",
            own_daemon.host,
            "logs",
            "-f",
            "stays",
        ]
    )
    time.sleep(0.5)
    begin = time.monotonic()
    assert own_daemon.stop() == 0
    assert time.monotonic() - begin < 3
    follower.wait(5)
    assert not Path(own_daemon.socket).exists()
    assert not (own_daemon.folder / "pid").exists()
    own_daemon.start()
    assert own_daemon.docker("inspect", "-f", "{{.State.Running}}", "stays").out == "true\n"


def test_a_second_daemon_on_the_same_root_refuses(own_daemon: Any) -> None:
    own_daemon.start()
    done = subprocess.run(own_daemon.command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "another longshored uses" in done.stderr
    assert str(own_daemon.process.pid) in done.stderr
    assert "Traceback" not in done.stderr
    assert own_daemon.answers()


def test_attack_11_tcp_without_client_certificates_is_refused(own_daemon: Any) -> None:
    """Fails when the daemon only warns."""
    own_daemon.folder.joinpath("daemon.json").write_text("{}")
    done = subprocess.run(
        [*own_daemon.command, "-H", "tcp://127.0.0.1:0"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "refusing to listen on TCP without client certificates" in done.stderr


def test_sighup_reloads_labels(own_daemon: Any) -> None:
    own_daemon.start()
    (own_daemon.folder / "daemon.json").write_text(json.dumps({"labels": ["site=here"]}))
    own_daemon.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 5
    while own_daemon.request("GET", "/info")[1]["Labels"] != ["site=here"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (own_daemon.folder / "daemon.json").write_text("{broken")
    own_daemon.process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert own_daemon.request("GET", "/info")[1]["Labels"] == ["site=here"]


def test_systemd_is_told_when_the_socket_is_there(own_daemon: Any) -> None:
    notify = own_daemon.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(notify))
        sock.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = str(notify)
        try:
            own_daemon.start()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        message = sock.recv(4096).decode()
    assert message.startswith("READY=1\n")
    assert f"MAINPID={own_daemon.process.pid}" in message


def test_a_start_takes_less_than_a_second(own_daemon: Any) -> None:
    own_daemon.start()
    own_daemon.stop()
    begin = time.monotonic()
    own_daemon.start()
    assert time.monotonic() - begin < 1.0
