"""Talking to the daemon: does it answer, and in which version."""

import http.client
import json
import socket
import time
from typing import Any, cast

from . import places
from .outcome import SetupError
from .services import Systemd, SysV

READY_SECONDS = 180  # a virtual machine without KVM is 12 times slower


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def daemon_socket() -> str:
    """The first unix socket of the settings, else the default."""
    try:
        settings = cast(dict[str, Any], json.loads((places.ETC / "daemon.json").read_text()))
    except (OSError, ValueError):
        return places.DEFAULT_SOCKET
    unix = [host for host in settings.get("hosts", []) if host.startswith("unix://")]
    return unix[0].removeprefix("unix://") if unix else places.DEFAULT_SOCKET


def ask(method: str, path: str) -> Any:
    """One request to the daemon; raises OSError when it does not answer."""
    connection = _UnixConnection(daemon_socket())
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status >= 400:
            raise SetupError(f"the daemon answers {answer.status} to {method} {path}: {body.decode()}")
        return json.loads(body) if body and body[:1] in b"[{" else body.decode()
    finally:
        connection.close()


def answers(version: str) -> bool:
    """True once the daemon of that version serves its socket."""
    try:
        return bool(ask("GET", "/version")["Version"] == version)
    except (OSError, SetupError, http.client.HTTPException):
        return False


def await_daemon(version: str, manager: Systemd | SysV) -> None:
    """Wait until that version answers; gives up early when the process has ended."""
    deadline = time.monotonic() + READY_SECONDS
    grace = time.monotonic() + 10  # the pid file appears only once Python has started
    while not answers(version):
        ended = time.monotonic() > grace and not manager.running()
        if ended or time.monotonic() > deadline:
            raise SetupError(f"longshored {version} does not answer on {daemon_socket()}")
        time.sleep(0.05)
