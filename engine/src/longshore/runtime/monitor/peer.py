"""A connection that carries messages: the launch connection, or one accepted from control.sock."""

import os
import socket
from collections.abc import Callable, Sequence

import msgspec

from longshore.errors import Internal
from longshore.runtime import wire
from longshore.runtime.messages import FromMonitor, ToMonitor
from longshore.runtime.monitor.loop import HUP, IN, OUT, Loop

BACKLOG = 1 << 20
"""Bytes that wait for a daemon that does not read; then it is dropped and may reconnect."""


class Peer:
    """Calls `handle(peer, message)` per message and `left(peer)` once when the connection ends.

    When `left` returns true the socket stays open, unread, until the process ends.

    Never waits for the other side and never raises for its faults: a broken peer is closed.
    """

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        *,
        handle: Callable[["Peer", ToMonitor], None],
        left: Callable[["Peer"], bool],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._fd = connection.fileno()
        self._handle = handle
        self._left = left
        self._splitter = wire.Splitter()
        self._outgoing = bytearray()
        self.open = True
        connection.setblocking(False)
        loop.add(self._fd, IN, self._on_event)

    def send(self, message: FromMonitor, descriptors: Sequence[int] = ()) -> None:
        """Send or queue; descriptors only while nothing is queued (the first message)."""
        if not self.open:
            return
        data = wire.encode(message)
        if not self._outgoing:
            try:
                data = data[wire.send(self._connection, data, descriptors) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if data:
            self._outgoing += data
            if len(self._outgoing) > BACKLOG:
                self.close()
            else:
                self._loop.change(self._fd, IN | OUT)

    def detach(self) -> tuple[socket.socket, bytes]:
        """Give the connection away: it carries a stream from here on. Also returns the first bytes of that."""
        self.open = False
        self._loop.remove(self._fd)
        if self._outgoing:  # an answer of some bytes on a fresh connection always fits
            raise Internal("the answer before a stream does not fit into the socket")
        return self._connection, self._splitter.rest()

    def close(self) -> None:
        """Twice is fine."""
        if self.open:
            self.open = False
            self._loop.remove(self._fd)
            if not self._left(self):
                self._connection.close()

    def _on_event(self, events: int) -> None:
        if events & OUT:
            self._flush()
        if events & (IN | HUP) and self.open:
            self._receive()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._connection.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._loop.change(self._fd, IN)

    def _receive(self) -> None:
        try:
            data, descriptors = wire.receive(self._connection)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        for descriptor in descriptors:  # no request carries any
            os.close(descriptor)
        if not data:
            self.close()
            return
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Handle what was read from the connection."""
        self._splitter.feed(data)
        try:
            while self.open and (body := self._splitter.next()) is not None:
                self._handle(self, wire.request_decoder.decode(body))
        except (msgspec.MsgspecError, Internal):
            self.close()
