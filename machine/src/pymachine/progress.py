"""Telling the user what goes on: one line for each step, and on a terminal what the step is doing right now."""

import contextlib
import sys
import threading
from collections.abc import Generator
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status


class Progress:
    """Lines go to standard error: standard output is for answers. Safe to use from several threads."""

    def __init__(self, *, prefix: str = "", quiet: bool = False, stream: IO[str] | None = None) -> None:
        self._prefix = f"({prefix}) " if prefix else ""
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._status: Status | None = None
        self._lock = threading.Lock()

    def named(self, name: str) -> "Progress":
        """The same, with every line led by a machine's name."""
        return Progress(prefix=name, quiet=self._quiet, stream=self._stream)

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._quiet:
            return
        with self._lock:
            if self._status is not None:
                self._status.console.print(
                    f"{self._prefix}{text}", markup=False, highlight=False, soft_wrap=True
                )
            else:
                print(f"{self._prefix}{text}", file=self._stream, flush=True)

    def detail(self, text: str) -> None:
        """What is going on now; only a terminal inside `live` shows it."""
        if self._status is not None:
            from rich.markup import escape

            self._status.update(escape(f"{self._prefix}{text.strip()[:100]}"))

    @contextlib.contextmanager
    def live(self) -> Generator[None]:
        """Show details while the body runs."""
        if self._quiet or not self._stream.isatty():
            yield
            return
        from rich.console import Console

        with Console(file=self._stream).status(f"{self._prefix}…") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None
