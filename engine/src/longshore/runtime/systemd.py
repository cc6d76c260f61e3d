"""Talking to systemd over its private socket: scopes for containers, their properties.

The socket is the one that systemctl uses as root: no bus daemon is needed, and signals come without a subscription.
Each call opens a connection of its own and closes it: the callers are processes that live for milliseconds, and the
daemon at an update. Imported late by everybody (see cgroups), because a machine without systemd needs none of it.
"""

# pyright: basic
# (jeepney has no types)

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from jeepney.auth import BEGIN, Authenticator
from jeepney.low_level import HeaderFields, Message, MessageType, Parser
from jeepney.wrappers import DBusAddress, new_method_call

from longshore.errors import InvalidArgument, StartFailed, Unavailable
from longshore.runtime.cgroup_units import Property

SOCKET = "/run/systemd/private"
_SECONDS = 30.0
"""For one answer and for one job, as in runc."""
_OLD_UNIT_SECONDS = 1.0
"""For the scope of the last run, which ends as soon as systemd has seen that it is empty. Then it is stopped."""

_MANAGER = DBusAddress(
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
)
_ERROR = "org.freedesktop.systemd1."
_INVALID = ("org.freedesktop.DBus.Error.InvalidArgs", "org.freedesktop.DBus.Error.PropertyReadOnly")


class CallFailed(Exception):
    """systemd refused; `name` is the D-Bus error's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class Connection:
    """Use as a context manager. Raises Unavailable when systemd does not answer."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SECONDS)
        self._parser = Parser()
        self._serial = 0
        self._finished: dict[str, str] = {}  # path of a job -> its result
        try:
            self._socket.connect(SOCKET)
            greeting = Authenticator()
            for words in greeting:
                self._socket.sendall(words)
                greeting.feed(self._read())
            self._socket.sendall(BEGIN)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise Unavailable(
                f"cannot reach systemd at {SOCKET}: {error}", hint="--exec-opt native.cgroupdriver=cgroupfs"
            ) from error

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, method: str, signature: str, *body: Any) -> tuple[Any, ...]:
        """The answer's values. Raises CallFailed."""
        self._serial += 1
        message = new_method_call(_MANAGER, method, signature, body)
        self._socket.sendall(message.serialise(serial=self._serial))
        while True:
            answer = self._receive()
            fields = answer.header.fields
            if fields.get(HeaderFields.reply_serial) != self._serial:
                continue
            if answer.header.message_type is MessageType.error:
                text = str(answer.body[0]) if answer.body else ""
                raise CallFailed(str(fields.get(HeaderFields.error_name)), text)
            return answer.body

    def wait(self, job: str) -> str:
        """The result of a job: done, failed, canceled, timeout …"""
        while job not in self._finished:
            self._receive()
        return self._finished.pop(job)

    def _receive(self) -> Message:
        while (message := self._parser.get_next_message()) is None:
            try:
                self._parser.add_data(self._read())
            except OSError as error:
                raise Unavailable(f"systemd does not answer: {error}") from error
        if message.header.fields.get(HeaderFields.member) == "JobRemoved":
            _number, path, _unit, result = message.body
            self._finished[path] = result
        return message

    def _read(self) -> bytes:
        data = self._socket.recv(4096)
        if not data:
            raise ConnectionResetError("the connection was closed")
        return data


def start_scope(unit: str, properties: list[Property]) -> None:
    """Make a scope that holds the processes of the property PIDs; returns when they are in it.

    A scope of that name is an old one: the caller has looked that nobody is in it. It is waited for, then stopped.
    Raises StartFailed, InvalidArgument for a property that systemd does not take, Unavailable.
    """
    deadline, stopped = time.monotonic() + _OLD_UNIT_SECONDS, False
    with Connection() as systemd:
        while True:
            try:
                (job,) = systemd.call(
                    "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "replace", properties, []
                )
            except CallFailed as error:
                if error.name != f"{_ERROR}UnitExists" or stopped:
                    raise _translated(f"cannot create unit {unit}", error) from error
                _reset(systemd, unit)
                if time.monotonic() > deadline:
                    _stop(systemd, unit)
                    stopped = True
                else:
                    time.sleep(0.01)
                continue
            if (result := systemd.wait(job)) != "done":
                _reset(systemd, unit)
                raise StartFailed(f"error creating systemd unit {unit}: got {result}")
            return


def set_properties(unit: str, properties: Iterable[Property]) -> None:
    """Change a running unit until it ends. Unknown to systemd: nothing to tell. Raises InvalidArgument, Unavailable."""
    with Connection() as systemd:
        try:
            systemd.call("SetUnitProperties", "sba(sv)", unit, True, list(properties))
        except CallFailed as error:
            if error.name != f"{_ERROR}NoSuchUnit":
                raise _translated(f"cannot set properties of unit {unit}", error) from error


def _stop(systemd: Connection, unit: str) -> None:
    try:
        (job,) = systemd.call("StopUnit", "ss", unit, "replace")
        systemd.wait(job)
    except CallFailed:
        pass  # gone meanwhile


def _reset(systemd: Connection, unit: str) -> None:
    """Let a unit that failed be forgotten."""
    try:
        systemd.call("ResetFailedUnit", "s", unit)
    except CallFailed:
        pass  # gone, or not failed


def _translated(what: str, error: CallFailed) -> InvalidArgument | StartFailed:
    if error.name in _INVALID or "unknown property" in str(error):
        return InvalidArgument(f"{what}: {error}")
    return StartFailed(f"{what}: {error}", detail=error.name)
