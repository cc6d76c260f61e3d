"""What takes long: Docker's progress stream, and bytes that flow through our own hands."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from longshore.errors import EngineError
from longshore.oci.units import human_size

_EVERY = 0.1  # seconds between two looks at a moving number


class Progress:
    """Shows Docker's progress stream: lines move in place on a terminal, are told once elsewhere."""

    def __init__(self, *, quiet: bool = False, stream: Any = None) -> None:
        self._stream = stream or sys.stdout
        self._rows: list[str] = []
        self._texts: dict[str, str] = {}
        self._quiet = quiet
        self._tty = self._stream.isatty()

    def feed(self, message: Mapping[str, Any]) -> None:
        """Show one message. Raises EngineError when it tells of an error."""
        if "error" in message:
            raise EngineError(str(message["error"]))
        if self._quiet:
            return
        if "stream" in message:
            self._stream.write(message["stream"])
        elif identifier := message.get("id"):
            self._row(str(identifier), str(message.get("status", "")), str(message.get("progress", "")))
        elif "status" in message:
            self._stream.write(f"{message['status']}\n")
        self._stream.flush()

    def _row(self, identifier: str, status: str, bar: str) -> None:
        if not self._tty:
            if not bar and self._texts.get(identifier) != status:
                self._stream.write(f"{identifier}: {status}\n")
            self._texts[identifier] = status
            return
        if identifier not in self._rows:
            self._rows.append(identifier)
            self._stream.write("\n")
        up = len(self._rows) - self._rows.index(identifier)
        self._stream.write(f"\x1b[{up}A\x1b[2K\r{identifier}: {status} {bar}\x1b[{up}B\r")


def counted(pieces: Iterable[bytes], what: str, *, quiet: bool = False) -> Iterator[bytes]:
    """The same pieces; on a terminal standard error shows how many bytes have passed."""
    if quiet or not sys.stderr.isatty():
        yield from pieces
        return
    total, shown = 0, time.monotonic()
    for piece in pieces:
        total += len(piece)
        yield piece
        now = time.monotonic()
        if now - shown > _EVERY:
            shown = now
            sys.stderr.write(f"\r\x1b[K{what}: {human_size(total)}")
            sys.stderr.flush()
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
