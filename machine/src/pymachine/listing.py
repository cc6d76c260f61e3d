"""What `ls` and `active` show: all machines asked at once, none waited for longer than the timeout."""

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pymachine.drivers.base import State
from pymachine.errors import InvalidInput, MachineError
from pymachine.machine import load
from pymachine.progress import Progress
from pymachine.store import Store

_FILTERS = ("driver", "label", "name", "state")


@dataclass(frozen=True, slots=True)
class Row:
    """One machine as `ls` shows it."""

    name: str
    driver: str = ""
    state: State = State.NONE
    url: str = ""
    docker: str = ""
    error: str = ""
    active: bool = False
    seconds: float = 0.0

    def values(self) -> dict[str, str]:
        """The names that docker-machine's templates use."""
        return {
            "Name": self.name,
            "Active": "*" if self.active else "-",
            "ActiveHost": str(self.active).lower(),
            "DriverName": self.driver,
            "State": self.state.value,
            "URL": self.url,
            "DockerVersion": self.docker,
            "Error": self.error,
            "ResponseTime": f"{self.seconds * 1000:.0f}ms",
        }


def survey(store: Store, names: Sequence[str], *, timeout: float, ask_engine: bool = True) -> list[Row]:
    """Ask all machines in parallel. Rows are in the order of `names`; late ones have the state Timeout."""
    answers: queue.SimpleQueue[Row] = queue.SimpleQueue()
    deadline = time.monotonic() + timeout

    def ask(name: str) -> None:
        answers.put(look(store, name, timeout=timeout, ask_engine=ask_engine))

    for name in names:
        # Daemon threads: one that hangs in a connect does not keep the program alive.
        threading.Thread(target=ask, args=(name,), daemon=True).start()
    rows: dict[str, Row] = {}
    while len(rows) < len(names):
        try:
            row = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        rows[row.name] = row
    return [rows.get(name) or _late(store, name) for name in names]


def look(store: Store, name: str, *, timeout: float, ask_engine: bool) -> Row:
    """Ask one machine. Never raises: what is wrong stands in the row."""
    started = time.monotonic()
    driver = ""
    state, url, docker, errors = State.ERROR, "", "", list[str]()
    try:
        machine = load(store, name, Progress(quiet=True))
        driver = machine.record.driver_name
        if unfinished := machine.half_made():
            errors.append(unfinished)
        state = machine.driver.state(timeout=timeout)
        if state is State.RUNNING:
            url = machine.url()
            if url and ask_engine and not unfinished:
                docker = "Unknown"
                docker = f"v{machine.engine_version(timeout=timeout)}"
    except (MachineError, OSError) as error:
        errors.append(str(error))
    return Row(
        name=name,
        driver=driver,
        state=state,
        url=url,
        docker=docker,
        error="; ".join(errors),
        active=bool(url) and url == os.environ.get("DOCKER_HOST"),
        seconds=time.monotonic() - started,
    )


def _late(store: Store, name: str) -> Row:
    try:
        driver = store.load(name).driver_name
    except MachineError:
        driver = ""
    return Row(name, driver, State.TIMEOUT)


def parse_filters(filters: Sequence[str]) -> dict[str, list[str]]:
    """KEY=VALUE pairs; the same key several times means one of them. Raises InvalidInput."""
    wanted: dict[str, list[str]] = {}
    for item in filters:
        key, separator, value = item.partition("=")
        if not separator or key.lower() not in _FILTERS:
            raise InvalidInput(
                f"--filter {item!r} is not understood", hint=f"KEY=VALUE with {', '.join(_FILTERS)}"
            )
        wanted.setdefault(key.lower(), []).append(value)
    for pattern in wanted.get("name", []):
        try:
            re.compile(pattern)
        except re.error as cause:
            raise InvalidInput(f"--filter name={pattern} is not a pattern", detail=str(cause)) from cause
    return wanted


def filter_names(store: Store, names: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Leave out what the store alone can tell."""
    kept = [
        name for name in names if _any(wanted, "name", lambda pattern, name=name: re.search(pattern, name))
    ]
    if "driver" not in wanted and "label" not in wanted:
        return kept

    def fits(name: str) -> bool:
        try:
            record = store.load(name)
        except MachineError:
            return False
        return _any(wanted, "driver", lambda value: value.lower() == record.driver_name.lower()) and _any(
            wanted, "label", lambda value: value in record.engine.labels
        )

    return [name for name in kept if fits(name)]


def matches(row: Row, wanted: Mapping[str, Sequence[str]]) -> bool:
    """Leave out what only the machine itself can tell."""
    return _any(wanted, "state", lambda value: value.lower() == row.state.value.lower())


def _any(wanted: Mapping[str, Sequence[str]], key: str, test: Callable[[str], object]) -> bool:
    values = wanted.get(key)
    return values is None or any(test(value) for value in values)


def columns(lines: Sequence[str]) -> list[str]:
    """Align tab-separated cells, three blanks between columns, as docker-machine's tables are."""
    rows = [line.split("\t") for line in lines]
    widths = [
        max(len(row[index]) for row in rows if index < len(row)) for index in range(max(map(len, rows)))
    ]
    return ["   ".join(cell.ljust(widths[index]) for index, cell in enumerate(row)).rstrip() for row in rows]
