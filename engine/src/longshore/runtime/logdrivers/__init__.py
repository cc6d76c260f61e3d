"""What a log driver is.

Drivers are found by the entry point group `longshore.log_drivers`: the name is what `--log-driver` takes, the value a
module or an object with the attributes of `FileDriver` or `SinkDriver`. The daemon asks it about options; a container's
output reaches a sink in a helper process (`runtime/loghelper.py`), where the driver is imported by the same words, so it
may import what it likes without any container paying for it that does not use it. It may also say which tag it wants where
the user gives none, as a template named `DEFAULT_TAG`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from longshore.errors import InvalidArgument
from longshore.runtime.messages import LogSource

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

    from longshore.runtime.logentries import LogLine

ATTRIBUTE_OPTIONS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
"""What the daemon works out for every driver that lists it: `LogSource.tag` and `LogSource.attributes`."""


class Part(NamedTuple):
    """Which piece of a long line. `ordinal` counts from 1."""

    id: str
    ordinal: int
    last: bool


class Message(NamedTuple):
    """A line without its end. `time`: nanoseconds since the epoch, when it was read from the container."""

    stream: str
    time: int
    data: bytes
    part: Part | None = None


class Sink(Protocol):
    """Where one run of one container logs to."""

    def write(self, messages: list[Message]) -> None:
        """Pass them on. May wait. A target that is gone is not an error: messages get lost, and that is told."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A file that the monitor writes itself. `name` is below the container's folder; sizes in bytes, 0 unlimited."""

    name: str
    format: str
    max_size: int
    max_files: int
    compress: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log is to be read; see `logfile.read_batches`."""

    follow: "asyncio.Event | None" = None
    since: int = 0
    until: int = 0
    tail: int | None = None
    stdout: bool = True
    stderr: bool = True


@runtime_checkable
class FileDriver(Protocol):
    """Writes files, which the monitor does itself: no process in between, nothing to wait for."""

    def check(self, options: Mapping[str, str]) -> None:
        """At create, without `mode` and the like: raises InvalidArgument for what the driver will not take."""
        ...

    def plan_file(self, options: Mapping[str, str], name: str) -> FilePlan:
        """`name`: the container's id. Raises InvalidArgument."""
        ...


@runtime_checkable
class SinkDriver(Protocol):
    """Passes messages on to somebody else."""

    def check(self, options: Mapping[str, str]) -> None:
        """As above."""
        ...

    def open_sink(self, source: LogSource, options: Mapping[str, str]) -> Sink:
        """In the helper process, before the container starts. Raises EngineError or OSError: then it does not."""
        ...

    def read(self, source: LogSource, wanted: "Wanted") -> "AsyncGenerator[list[LogLine]] | None":
        """In the daemon: what was logged, from the target itself. None: that cannot be, the daemon keeps a copy.

        The generator raises Unsupported when this machine lacks what reading needs.
        """
        ...


Driver = FileDriver | SinkDriver


def check_known(options: Mapping[str, str], known: frozenset[str], driver: str) -> None:
    """Raises InvalidArgument in Docker's words."""
    for name in sorted(options):
        if name not in known:
            raise InvalidArgument(f"unknown log opt '{name}' for {driver} log driver")


def parse_bool(text: str) -> bool:
    """As Go's strconv.ParseBool. Raises InvalidArgument."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise InvalidArgument(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_decimal_size(text: str, option: str) -> int:
    """ "10m" as 10,000,000: the sizes of log files are the only ones that Docker counts by thousands.

    Raises InvalidArgument.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?", text.strip().lower())
    if not match:
        raise InvalidArgument(f"invalid size: '{text}'", detail=f"log opt {option}")
    return int(float(match[1]) * 1000 ** " kmgtp".index(match[2] or " "))
