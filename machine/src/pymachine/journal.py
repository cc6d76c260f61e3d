"""The journal of a create: which steps are done, so that the same create goes on where it stopped.

A file of JSON lines: first the request, then one line for each completed step. The file exists exactly while
the machine is half made; finishing removes it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pymachine.errors import StoreError
from pymachine.files import sync_folder


@dataclass(frozen=True, slots=True)
class Step:
    """One resumable piece of a create. `run` may be called again after it failed or was interrupted."""

    name: str
    title: str
    run: Callable[[], None]


class Journal:
    """Belongs to one machine; its lock must be held."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._request: dict[str, Any] = {}
        self._done: list[str] = []
        self._load()

    def _load(self) -> None:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as cause:
            raise StoreError(f"cannot read {self._path}", detail=cause.strerror or "") from cause
        for line in lines[:-1]:  # what follows the last newline was torn by a crash, so it was not done
            try:
                entry = cast(dict[str, Any], json.loads(line))
            except ValueError:
                break
            if "request" in entry:
                self._request = entry["request"]
            else:
                self._done.append(str(entry["step"]))

    @property
    def exists(self) -> bool:
        """Is a create unfinished?"""
        return self._path.exists()

    @property
    def request(self) -> Mapping[str, Any]:
        """What the unfinished create was asked for; empty when there is none."""
        return self._request

    @property
    def completed(self) -> Sequence[str]:
        """Names of the steps done, in order."""
        return tuple(self._done)

    def begin(self, request: Mapping[str, Any]) -> None:
        """Start a new journal. The request is what a later create must repeat to go on."""
        self._path.unlink(missing_ok=True)
        self._request, self._done = dict(request), []
        self._append({"request": self._request})

    def record(self, step: str) -> None:
        """Note durably that `step` is done."""
        self._append({"step": step})
        self._done.append(step)

    def finish(self) -> None:
        """The machine is whole."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _append(self, entry: Mapping[str, Any]) -> None:
        """One write(2) and fsync for each line; a torn line before it is cut off first."""
        line = json.dumps(entry, sort_keys=True).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "r+b") as stream:
                stream.truncate(stream.read().rfind(b"\n") + 1)
                stream.seek(0, os.SEEK_END)
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            sync_folder(self._path.parent)
        except OSError as cause:
            raise StoreError(f"cannot write {self._path}", detail=cause.strerror or "") from cause


def run_steps(
    steps: Sequence[Step], journal: Journal, *, before: Callable[[Step], None], after: Callable[[Step], None]
) -> None:
    """Run what the journal does not know yet, in order. `after` makes a step's results durable before its record."""
    for step in steps:
        if step.name in journal.completed:
            continue
        before(step)
        step.run()
        after(step)
        journal.record(step.name)
