"""Bytes on their way into a socket that must not be waited for."""

import socket
from collections import deque


class Outbox:
    """What a socket did not take yet, in order. `size` is in bytes; false when all is sent."""

    def __init__(self) -> None:
        self._waiting: deque[bytes] = deque()
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, connection: socket.socket, data: bytes) -> None:
        """Send now what a non-blocking socket takes and keep the rest. Raises OSError when the other end is gone."""
        if not self._waiting:
            try:
                data = data[connection.send(data) :]
            except BlockingIOError:
                pass
        if data:
            self._waiting.append(data)
            self.size += len(data)

    def flush(self, connection: socket.socket) -> None:
        """Send of the rest what the socket takes now. Raises OSError when the other end is gone."""
        try:
            while self._waiting:
                first = self._waiting[0]
                sent = connection.send(first)
                self.size -= sent
                if sent < len(first):
                    self._waiting[0] = first[sent:]
                    return
                self._waiting.popleft()
        except BlockingIOError:
            pass

    def clear(self) -> None:
        self._waiting.clear()
        self.size = 0
