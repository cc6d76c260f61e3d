"""The driver `journald`: entries in the host's journal, with the fields that Docker's driver writes.

Written by the native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/), read back through journalctl(1)
(`journal_reader.py`, apart because only the daemon reads).
"""

import array
import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from longshore.errors import Unavailable
from longshore.runtime.logdrivers import ATTRIBUTE_OPTIONS, Message, Sink, Wanted, check_known
from longshore.runtime.logentries import format_time
from longshore.runtime.messages import LogSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from longshore.runtime.logentries import LogLine

DEFAULT_TAG = "{{.ID}}"
OPTIONS = ATTRIBUTE_OPTIONS
SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {"stdout": b"6", "stderr": b"3"}  # info and err, syslog(3)


def check(options: Mapping[str, str]) -> None:
    check_known(options, OPTIONS, "journald")


def field(name: str, value: bytes) -> bytes:
    """One field of an entry: a line, or name and length before a value that has line ends itself."""
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)


def field_name(text: str) -> str:
    """What journald takes for a name: capitals, digits and underscores, no underscore first."""
    return re.sub(r"[^A-Z0-9]", "_", text.upper()).lstrip("_")


def open_sink(source: LogSource, options: Mapping[str, str]) -> Sink:
    """Raises Unavailable when there is no journal here."""
    sink = JournalSink(source, SOCKET)
    if not sink.connect():
        raise Unavailable("journald is not enabled on this host", detail=f"nobody listens on {SOCKET}")
    return sink


class JournalSink:
    def __init__(self, source: LogSource, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        fixed = {
            "CONTAINER_ID": source.id[:12],
            "CONTAINER_ID_FULL": source.id,
            "CONTAINER_NAME": source.name,
            "CONTAINER_TAG": source.tag,
            "IMAGE_NAME": source.image_name,
            "SYSLOG_IDENTIFIER": source.tag,
            "CONTAINER_LOG_EPOCH": secrets.token_hex(16),  # one run of the container
            **{field_name(name): value for name, value in source.attributes.items()},
        }
        self._fixed = b"".join(field(name, value.encode()) for name, value in fixed.items() if name)
        self._ordinal = 0

    def connect(self) -> bool:
        self.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return False
        self._socket = connection
        return True

    def write(self, messages: list[Message]) -> None:
        for message in messages:
            entry = self._entry(message)
            try:
                if self._socket is None and not self.connect():
                    continue  # lost: the journal is gone
                self._send(entry)
            except OSError:  # it was started anew
                if self.connect():
                    with contextlib.suppress(OSError):
                        self._send(entry)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _entry(self, message: Message) -> bytes:
        self._ordinal += 1
        parts = [
            field("MESSAGE", message.data),
            b"PRIORITY=" + _PRIORITIES[message.stream] + b"\n",
            b"SYSLOG_TIMESTAMP=" + format_time(message.time).encode() + b"\n",
            b"CONTAINER_LOG_ORDINAL=%d\n" % self._ordinal,
            self._fixed,
        ]
        if part := message.part:
            if not part.last:
                parts.append(b"CONTAINER_PARTIAL_MESSAGE=true\n")
            last = b"true" if part.last else b"false"
            parts.append(
                b"CONTAINER_PARTIAL_ID=%s\nCONTAINER_PARTIAL_ORDINAL=%d\nCONTAINER_PARTIAL_LAST=%s\n"
                % (part.id.encode(), part.ordinal, last)
            )
        return b"".join(parts)

    def _send(self, entry: bytes) -> None:
        assert self._socket is not None
        try:
            self._socket.send(entry)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_memory(self._socket, entry)

    @staticmethod
    def _send_memory(connection: socket.socket, entry: bytes) -> None:
        """An entry that no datagram holds travels as sealed memory."""
        fd = os.memfd_create("longshore-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(fd, entry)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            connection.sendmsg([b""], rights)
        finally:
            os.close(fd)


def read(source: LogSource, wanted: Wanted) -> "AsyncGenerator[list[LogLine]] | None":
    from longshore.runtime.logdrivers.journal_reader import read_journal

    return read_journal(source, wanted)
