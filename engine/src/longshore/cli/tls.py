"""TLS for the command line, with half-close: `longshore -H tcp://… run -i` ends its input and reads on.

The standard library's socket wrapper waits for the peer's close_notify when it says its own, which a container
that still has output does not send; so the records are moved here. Imported for TCP hosts only: 15 ms.
"""

import io
import socket
import ssl
from typing import Any

from longshore.cli.client import Tls

_PIECE = 1 << 16


class TlsSocket:
    """The part of a socket that the client uses."""

    def __init__(self, sock: socket.socket, tls: Tls, name: str) -> None:
        """Shakes hands. Raises ssl.SSLError and OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if tls.verify:
            context.load_verify_locations(tls.ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._ended = False
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
        self._flush()

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def settimeout(self, seconds: float | None) -> None:
        self._socket.settimeout(seconds)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view[:_PIECE]) :]
            self._flush()

    def recv(self, limit: int) -> bytes:
        """At least one byte unless at the end. May be more than `limit`: select(2) cannot see what we hold."""
        while not self._ended:
            data = b""
            try:
                while piece := self._tls.read(_PIECE):
                    data += piece
                self._ended = True
            except ssl.SSLZeroReturnError:
                self._ended = True
            except ssl.SSLWantReadError:
                if not data:
                    self._fill()
                    continue
            return data
        return b""

    def shutdown(self, _how: int) -> None:
        """End our direction only."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # ours is written; theirs comes with the end of the output
        self._flush()

    def close(self) -> None:
        self._socket.close()

    def makefile(self, _mode: str, size: int) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self), size)

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._socket.sendall(data)

    def _fill(self) -> None:
        data = self._socket.recv(_PIECE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


class _Raw(io.RawIOBase):
    def __init__(self, sock: TlsSocket) -> None:
        super().__init__()
        self._socket = sock
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            data = self.rest or self._socket.recv(_PIECE)
        except BlockingIOError:
            return None
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self.rest = data[size:]
        return size
