"""`longshore build --progress`: the events of a build as text for people."""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from typing import Any

from longshore.errors import EngineError


class PlainProgress:
    """One line per happening, numbered by step, as BuildKit's plain output. Goes to standard error."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._numbers: dict[str, int] = {}
        self._begun: dict[str, float] = {}
        self._rows: dict[tuple[str, str], str] = {}
        self._partial: dict[tuple[str, int], bytes] = {}
        self.warnings: list[Mapping[str, Any]] = []
        self.containers: dict[str, str] = {}

    def feed(self, event: Mapping[str, Any]) -> None:
        """Show one event. Raises EngineError for the one that ends a build with an error."""
        kind = event.get("event", "")
        if "error" in event and not kind:
            raise EngineError(str(event["error"]))
        handler = getattr(self, f"_{kind}", None)
        if handler is not None:
            handler(event)
            self._stream.flush()

    def _say(self, step: str, text: str) -> None:
        self._stream.write(f"#{self._numbers.get(step, 0)} {text}\n")

    def _started(self, event: Mapping[str, Any]) -> None:
        step = event["step"]
        if not step["files"]:
            return
        self._numbers[step["id"]] = len(self._numbers) + 1
        self._begun[step["id"]] = float(event["at"])
        self._say(step["id"], step["name"])

    def _cached(self, event: Mapping[str, Any]) -> None:
        if event["step"] in self._numbers:
            self._say(event["step"], "CACHED\n")

    def _done(self, event: Mapping[str, Any]) -> None:
        step = event["step"]
        if step in self._numbers:
            self._rest(step)
            self._say(step, f"DONE {float(event['at']) - self._begun[step]:.1f}s\n")

    def _failed(self, event: Mapping[str, Any]) -> None:
        step = event["step"]
        if step not in self._numbers:
            self._numbers[step] = len(self._numbers) + 1
        self._rest(step)
        self._say(step, f"ERROR: {event['error']}")
        if event["excerpt"]:
            self._stream.write(f"{event['excerpt']}\n")

    def _output(self, event: Mapping[str, Any]) -> None:
        step, key = event["step"], (event["step"], int(event["stream"]))
        data = self._partial.pop(key, b"") + base64.b64decode(event["data"])
        *lines, rest = data.split(b"\n")
        for line in lines:
            passed = float(event["at"]) - self._begun.get(step, float(event["at"]))
            self._say(step, f"{passed:.3f} {line.decode(errors='replace')}")
        if rest:
            self._partial[key] = rest

    def _rest(self, step: str) -> None:
        for key in [key for key in self._partial if key[0] == step]:
            self._say(step, self._partial.pop(key).decode(errors="replace"))

    def _transfer(self, event: Mapping[str, Any]) -> None:
        key = event["step"], event["name"]
        if event["action"] and self._rows.get(key) != event["action"]:
            self._rows[key] = event["action"]
            self._say(event["step"], f"{event['name']} {event['action']}".strip())

    def _warned(self, event: Mapping[str, Any]) -> None:
        self.warnings.append(event)

    def _note(self, event: Mapping[str, Any]) -> None:
        self._stream.write(f"{event['text']}\n")


def shown_warnings(warnings: list[Mapping[str, Any]]) -> str:
    """The findings of the linter for the end of a build, "" without any."""
    if not warnings:
        return ""
    count = f"{len(warnings)} warning{'s' * (len(warnings) > 1)} found"
    lines = [f" - {item['rule']}: {item['message']} (line {item['start']})" for item in warnings]
    return "\n".join([f"\n {count}:", *lines]) + "\n"


def shown_checks(warnings: list[Mapping[str, Any]], name: str) -> str:
    """What `--check` prints."""
    if not warnings:
        return "Check complete, no warnings found.\n"
    lines = [
        f"Check complete, {len(warnings)} warning{'s have' if len(warnings) > 1 else ' has'} been found!"
    ]
    for item in warnings:
        lines += [
            "",
            f"WARNING: {item['rule']} - {item['url']}",
            item["description"],
            f"{name}:{item['start']}: {item['message']}",
        ]
    return "\n".join(lines) + "\n"
