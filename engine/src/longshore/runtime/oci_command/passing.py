"""What `create`, `run` and `exec` share: descriptors that are passed on, and the file of the process id."""

from __future__ import annotations

import os
from pathlib import Path

from longshore.errors import InvalidArgument


def descriptors_to_pass(preserved: int) -> tuple[int, ...]:
    """From 3 on: those of socket activation, sd_listen_fds(3), and those of --preserve-fds. Raises InvalidArgument."""
    listening = os.environ.get("LISTEN_FDS", "0")
    count = (int(listening) if listening.isdecimal() else 0) + preserved
    numbers = tuple(range(3, 3 + count))
    for number in numbers:
        try:
            os.fstat(number)
        except OSError:
            raise InvalidArgument(
                f"descriptor {number} is not open", hint="check that preserved-fds are valid"
            ) from None
    return numbers


def write_pid(path: str, pid: int) -> None:
    """Whole or not at all: callers read it as soon as it is there."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(str(pid))
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)
