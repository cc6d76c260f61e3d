"""The monitor's end of a log helper (`runtime/loghelper.py`): never waits, whatever the log's target does."""

import socket
import time
from collections.abc import Callable

from longshore.runtime.loghelper import HEADER, OUTPUT, start_helper
from longshore.runtime.messages import LogHelper
from longshore.runtime.monitor.loop import OUT, Loop
from longshore.runtime.monitor.outbox import Outbox

QUEUE = 1 << 20
"""Bytes that wait for a slow helper before the container has to wait too (mode blocking)."""

RESTART_SECONDS = 10.0
"""Between two starts of a helper that dies."""


class RemoteLog:
    """Frames output for the helper and keeps what its socket does not take yet.

    `full` asks for a pause (mode blocking); with a buffer, what does not fit is dropped instead, whole reads at a time.
    """

    def __init__(self, loop: Loop, helper: LogHelper, fd: int, moved: Callable[[], None]) -> None:
        """`moved` is called when `full` may have changed. Takes the descriptor over."""
        self._loop = loop
        self._helper = helper
        self._moved = moved
        self._outbox = Outbox()
        self._listening = False
        self._closing = False
        self._gap: set[str] = set()  # streams of which something was dropped since
        self._started = time.monotonic()
        self._socket: socket.socket | None = self._take(fd)

    @property
    def queued(self) -> int:
        """Bytes."""
        return self._outbox.size

    @property
    def full(self) -> bool:
        return not self._helper.buffer and self.queued >= QUEUE

    @property
    def open(self) -> bool:
        """Whether something still waits to be passed on."""
        return self._socket is not None

    def write(self, stream: str, data: bytes) -> None:
        room = self._helper.buffer
        if room and self.queued and self.queued + len(data) > room:
            self._gap.add(stream)
            return
        if stream in self._gap:
            # The end of the line before is lost, and so is the first one here, whose beginning is
            data = data[data.find(b"\n") + 1 :] if b"\n" in data else b""
            if not data:
                return
            self._gap.discard(stream)
            self._send(HEADER.pack(OUTPUT[stream], 0, 0))
        self._send(HEADER.pack(OUTPUT[stream], len(data), time.time_ns()) + data)

    def finish(self, stream: str) -> None:
        """The stream ended. Twice is fine."""
        self._send(HEADER.pack(OUTPUT[stream], 0, 0))

    def close(self) -> None:
        """Close when the helper has got everything; `open` tells."""
        self._closing = True
        if not self._outbox:
            self.drop()

    def drop(self) -> None:
        """Close now. Twice is fine."""
        if self._socket is not None:
            self._listen(on=False)
            self._socket.close()
            self._socket = None
        self._outbox.clear()

    def _take(self, fd: int) -> socket.socket:
        connection = socket.socket(fileno=fd)
        connection.setblocking(False)
        return connection

    def _send(self, data: bytes) -> None:
        if self._socket is None and not self._restart():
            return
        assert self._socket is not None
        try:
            self._outbox.send(self._socket, data)
        except OSError:
            self._lost()
            return
        if self._outbox:
            self._listen(on=True)

    def _on_event(self, _events: int) -> None:
        if self._socket is not None:
            try:
                self._outbox.flush(self._socket)
            except OSError:
                self._lost()
        self._moved()
        if self._outbox:
            return
        self._listen(on=False)
        if self._closing:
            self.drop()

    def _lost(self) -> None:
        """The helper has died: with it what it had, and what waited. The next output starts another."""
        self.drop()

    def _restart(self) -> bool:
        if self._closing or time.monotonic() - self._started < RESTART_SECONDS:
            return False
        self._started = time.monotonic()
        try:
            self._socket = self._take(start_helper(self._helper, wait=False))
        except OSError:
            return False
        return True

    def _listen(self, *, on: bool) -> None:
        if on == self._listening or self._socket is None:
            return
        self._listening = on
        if on:
            self._loop.add(self._socket.fileno(), OUT, self._on_event)
        else:
            self._loop.remove(self._socket.fileno())
